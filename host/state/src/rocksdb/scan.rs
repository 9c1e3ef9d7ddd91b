//! The portable form: one state's values out of frozen files, in the order of key groups, a chunk at a time.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BinaryArray, RecordBatch, TimestampMillisecondArray, UInt16Array};
use tidemill_model::Fault;
use tidemill_model::component::StateDescriptor;
use tidemill_model::snapshot::{CHUNK_ROWS_MAX, Table};
use tidemill_model::state::{Slot, table_name, table_schema};

use super::cut::{Cut, Parts};
use super::layout::Reader;
use super::memory::Memory;
use super::rows::Rows;
use super::shard::Database;
use super::ttl::Life;
use crate::clock::{Clock, UNKNOWN};

/// Bytes of stored rows in a chunk: large values make it short.
const CHUNK_BYTES: usize = 16 << 20;

/// The table of a state.
pub(super) fn table(
    columns: &Arc<[StateDescriptor]>,
    (state, life): (usize, Option<(Life, Clock)>),
    cut: &Arc<Cut>,
    memory: &Arc<Memory>,
) -> Table {
    let (name, schema) = (table_name(&columns[state]), table_schema(&columns[state]));
    let scan = Scan {
        columns: columns.clone(),
        state,
        life,
        cut: cut.clone(),
        memory: memory.clone(),
        part: 0,
        next: Some(Vec::new()),
        open: None,
    };
    Table { name, schema, chunks: Box::new(scan) }
}

/// Whether a stored row has a value of a state. A broken one has: whoever loads it says so.
pub(super) fn has(readers: &[Reader], stored: &[u8], state: usize) -> bool {
    let mut found = false;
    let read = stored.split_first().and_then(|(&id, row)| {
        let reader = readers.get(id as usize)?;
        reader.values(row, |index, _| found |= index == state)
    });
    found || read.is_none()
}

struct Scan {
    /// Of the rows: the states and what is hidden behind them.
    columns: Arc<[StateDescriptor]>,
    state: usize,
    /// If it has a time to live: with the clock of the snapshot.
    life: Option<(Life, Clock)>,
    cut: Arc<Cut>,
    memory: Arc<Memory>,
    /// Which of the databases.
    part: usize,
    /// The first key of the next chunk; none: this database is through.
    next: Option<Vec<u8>>,
    open: Option<(Database, Vec<Reader>)>,
}

impl Iterator for Scan {
    type Item = Result<RecordBatch, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        let parts = match self.cut.wait() {
            Ok(parts) => parts,
            Err(fault) => return self.end(fault),
        };
        while self.part < parts.len() {
            match self.chunk(&parts) {
                Ok(chunk) if chunk.num_rows() > 0 => return Some(Ok(chunk)),
                Ok(_) => {}
                Err(fault) => return self.end(fault),
            }
        }
        None
    }
}

impl Scan {
    /// A fault is the last that comes.
    fn end(&mut self, fault: Fault) -> Option<Result<RecordBatch, Fault>> {
        let first = self.part < usize::MAX;
        self.part = usize::MAX;
        first.then_some(Err(fault))
    }

    /// The next rows of the database at hand; none if it has no more.
    fn chunk(&mut self, parts: &Parts) -> Result<RecordBatch, Fault> {
        let part = &parts[self.part];
        let (database, readers) = match &self.open {
            Some(open) => open,
            None => {
                let database = Database::open_frozen(part.path.clone(), parts.clone(), &self.memory)?;
                self.open.insert((database, part.metadata.layouts.readers()))
            }
        };
        let mut rows = Collected::new(&self.columns, self.state, self.life)?;
        let start = self.next.take().unwrap_or_default();
        self.next = database.scan(&start, |key, row| rows.add(key, row, readers))?;
        if self.next.is_none() {
            (self.part, self.next, self.open) = (self.part + 1, Some(Vec::new()), None);
        }
        rows.finish(&self.columns[self.state])
    }
}

/// Rows of a chunk.
struct Collected {
    state: usize,
    life: Option<(Life, Clock)>,
    groups: Vec<u16>,
    keys: Vec<u8>,
    ends: Vec<usize>,
    rows: Rows,
    bytes: usize,
}

impl Collected {
    fn new(columns: &[StateDescriptor], state: usize, life: Option<(Life, Clock)>) -> Result<Self, Fault> {
        let rows = Rows::new(columns)?;
        Ok(Self { state, life, groups: Vec::new(), keys: Vec::new(), ends: Vec::new(), rows, bytes: 0 })
    }

    /// Whether there was room.
    fn add(&mut self, key: &[u8], row: &[u8], readers: &[Reader]) -> Result<bool, Fault> {
        let slot = self.groups.len();
        if slot == CHUNK_ROWS_MAX || self.bytes > CHUNK_BYTES {
            return Ok(false);
        }
        self.rows.grow(slot + 1);
        let broken = || Fault::data("a checkpoint of the state has a broken row");
        self.rows.decode(slot as Slot, readers, row).ok_or_else(broken)?;
        let (group, key) = key.split_first_chunk().ok_or_else(broken)?;
        if !self.has(slot as Slot) {
            self.rows.clear(slot as Slot);
            return Ok(true);
        }
        self.groups.push(u16::from_be_bytes(*group));
        self.keys.extend_from_slice(key);
        self.ends.push(self.keys.len());
        self.bytes += key.len() + row.len();
        Ok(true)
    }

    fn has(&self, slot: Slot) -> bool {
        let written = self.life.and_then(|(life, clock)| Some((life, clock, self.rows.word(life.times, slot)?)));
        let expired = written.is_some_and(|(life, clock, written)| clock.is_expired(written, life.ttl));
        self.rows.has(self.state, slot) && !expired
    }

    fn finish(self, state: &StateDescriptor) -> Result<RecordBatch, Fault> {
        let slots: Vec<Slot> = (0..self.groups.len() as Slot).collect();
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        let keys = starts.zip(&self.ends).map(|(start, &end)| &self.keys[start..end]);
        let keys: ArrayRef = Arc::new(BinaryArray::from_iter_values(keys));
        let values = self.rows.gather(self.state, &slots)?;
        debug_assert_eq!(values.null_count(), 0);
        let groups: ArrayRef = Arc::new(UInt16Array::from(self.groups));
        let mut columns = vec![groups, keys, values];
        if let Some((life, clock)) = self.life {
            let written = |&slot: &Slot| clock.written(self.rows.word(life.times, slot).unwrap_or(UNKNOWN));
            columns.push(Arc::new(slots.iter().map(written).collect::<TimestampMillisecondArray>()));
        }
        Ok(RecordBatch::try_new(table_schema(state), columns)?)
    }
}
