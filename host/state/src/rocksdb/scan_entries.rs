//! The portable form of lists and maps: one state's entries out of frozen files, in the order of key groups, a chunk at a time.

use std::sync::Arc;

use arrow::array::{BinaryBuilder, RecordBatch};
use tidemill_model::Fault;
use tidemill_model::component::StateDescriptor;
use tidemill_model::snapshot::{CHUNK_BYTES_MAX, CHUNK_ROWS_MAX, Table};
use tidemill_model::state::{table_name, table_schema};

use super::cut::{Cut, Parts};
use super::memory::Memory;
use super::overlay::{decode, parts};
use super::shard::Database;
use super::ttl::Life;
use crate::clock::{Clock, UNKNOWN};
use crate::tables;
use crate::values::Builder;

/// The table of a state.
pub(super) fn table(
    descriptor: &StateDescriptor,
    (state, life): (usize, Option<(Life, Clock)>),
    cut: &Arc<Cut>,
    memory: &Arc<Memory>,
) -> Table {
    let (cut, memory, descriptor) = (cut.clone(), memory.clone(), descriptor.clone());
    let (name, schema) = (table_name(&descriptor), table_schema(&descriptor));
    let scan = Scan { descriptor, state, life, cut, memory, part: 0, next: Some(Vec::new()), open: None };
    Table { name, schema, chunks: Box::new(scan) }
}

struct Scan {
    descriptor: StateDescriptor,
    state: usize,
    /// If it has a time to live: with the clock of the snapshot.
    life: Option<(Life, Clock)>,
    cut: Arc<Cut>,
    memory: Arc<Memory>,
    /// Which of the databases.
    part: usize,
    /// The first entry of the next chunk; none: this database is through.
    next: Option<Vec<u8>>,
    open: Option<Database>,
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

    /// The next entries of the database at hand; none if it has no more.
    fn chunk(&mut self, frozen: &Parts) -> Result<RecordBatch, Fault> {
        let part = &frozen[self.part];
        let database = match &self.open {
            Some(open) => open,
            None => self.open.insert(Database::open_frozen(part.path.clone(), frozen.clone(), &self.memory)?),
        };
        let id = part.metadata.layouts.id(self.state);
        let since = |life: Life| part.metadata.layouts.readers().first().and_then(|reader| reader.since(life.times));
        let life = self.life.map(|(life, clock)| (life, clock, since(life)));
        let (mut keys, mut entries) = (BinaryBuilder::new(), BinaryBuilder::new());
        let (mut values, mut times) = (Builder::new(self.descriptor.field.data_type()), Vec::new());
        let (mut count, mut bytes) = (0, 0);
        let start = self.next.take().unwrap_or_default();
        self.next = database.scan_entries(&start, |key, stored| {
            let broken = || Fault::data("a checkpoint of the state has a broken entry");
            let (parts, (written, value)) = (parts(key).ok_or_else(broken)?, decode(stored).ok_or_else(broken)?);
            if parts.state != id {
                return Ok(true);
            }
            if let Some((life, clock, since)) = &life {
                let written = written.or(*since).unwrap_or(UNKNOWN);
                if clock.is_expired(written, life.ttl) {
                    return Ok(true);
                }
                if count < CHUNK_ROWS_MAX && bytes < CHUNK_BYTES_MAX {
                    times.push(clock.written(written));
                }
            }
            if count == CHUNK_ROWS_MAX || bytes >= CHUNK_BYTES_MAX {
                return Ok(false);
            }
            keys.append_value(parts.key);
            entries.append_value(parts.entry);
            values.push(Some(value))?;
            (count, bytes) = (count + 1, bytes + key.len() + value.len());
            Ok(true)
        })?;
        if self.next.is_none() {
            (self.part, self.next, self.open) = (self.part + 1, Some(Vec::new()), None);
        }
        let written = self.life.map(|_| times.into_iter().collect());
        tables::entries(&self.descriptor, keys.finish(), entries.finish(), values.finish()?, written)
    }
}
