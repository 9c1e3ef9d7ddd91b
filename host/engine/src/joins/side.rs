//! One side of a join: its rows by spans of event time, and what is done with each batch before it is joined.
//!
//! Laws (Flink's, and SQL's): late rows leave through `late_left` or `late_right` as they came; a key with a null equals no other.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array};
use arrow::buffer::{NullBuffer, ScalarBuffer};
use arrow::compute::take;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use tidemill_model::join::{JoinKind, JoinSpec, SIDES};
use tidemill_model::limits::BATCH_ROWS_MAX;
use tidemill_model::{Batch, Collector, Fault};

use super::output::Output;
use super::pane::{Arrivals, Pane};
use super::rows::Choice;
use crate::windows::groups::{BatchKeys, Groups, KeyReader};

/// Empty panes kept for the next spans.
const SPARE_PANES_MAX: usize = 4;

pub(super) struct Side {
    number: usize,
    reader: KeyReader,
    /// Indices of the columns that are kept: those that the output reads, then the rest of the key.
    columns: Vec<usize>,
    /// The columns that are kept; from here on they are the columns of a row.
    pub schema: SchemaRef,
    /// Indices of the key columns among them.
    pub key: Vec<usize>,
    /// So many of them the output reads.
    pub read: usize,
    /// Rows come out without a partner, too.
    pub outer: bool,
    /// Each row of it comes out when its time has come, and no other row looks for it.
    waits: bool,
    /// By the beginning of the span.
    pub panes: BTreeMap<i64, Pane>,
    spare: Vec<Pane>,
}

/// A batch without late rows.
pub(super) struct Ready {
    pub batch: Batch,
    pub times: ScalarBuffer<i64>,
    pub keys: BatchKeys,
    /// Which keys have no null; none: all.
    pub valid: Option<NullBuffer>,
}

impl Side {
    pub fn new(number: usize, spec: &JoinSpec, input: &SchemaRef, output: &Output) -> Result<Self, ArrowError> {
        let (read, key) = (&output.read[number], &spec.keys[number]);
        let rest = key.iter().filter(|column| !read.contains(column));
        let columns: Vec<usize> = read.iter().chain(rest).copied().collect();
        let schema: SchemaRef = Arc::new(input.project(&columns)?);
        let key: Vec<usize> = key.iter().filter_map(|key| columns.iter().position(|column| column == key)).collect();
        Ok(Self {
            number,
            reader: KeyReader::new(&schema, &key)?,
            columns,
            schema,
            key,
            read: read.len(),
            outer: spec.join_type.keeps(number),
            waits: spec.kind == JoinKind::Temporal && number == 0,
            panes: BTreeMap::new(),
            spare: Vec::new(),
        })
    }

    /// Sorts out what can't be joined. None: nothing is left.
    pub fn ready(
        &self,
        batch: Batch,
        is_late: impl Fn(i64) -> bool,
        node: &str,
        out: &mut dyn Collector,
    ) -> Result<Option<Ready>, Fault> {
        let Some(times) = batch.times.clone() else {
            let fault = Fault::config(format!("rows without event time reach the join on its {} side", self.name()));
            return Err(fault.at(node).with_help("give the source an `event_time:`"));
        };
        if batch.kinds.is_some() {
            let message = "a stream with updates and deletes reaches a join by time, which takes inserts only";
            return Err(Fault::config(message).at(node));
        }
        let late = times.iter().filter(|&&time| is_late(time)).count();
        let batch = match late {
            0 => batch,
            _ => self.split_late(batch, &times, late, is_late, out),
        };
        let mut kept = batch.derive(batch.project(&self.columns, self.schema.clone())?);
        (kept.times, kept.hashes) = (batch.times, batch.hashes);
        self.with_keys(kept).map(|ready| ready.filter(|ready| !ready.batch.is_empty()))
    }

    /// The same for rows that were kept before: `rows` has the columns of [`Side::schema`].
    pub fn restored(&self, rows: RecordBatch, times: ScalarBuffer<i64>) -> Result<Option<Ready>, Fault> {
        self.with_keys(Batch::new(rows).with_times(Some(times)))
    }

    fn split_late(
        &self,
        batch: Batch,
        times: &[i64],
        late: usize,
        is_late: impl Fn(i64) -> bool,
        out: &mut dyn Collector,
    ) -> Batch {
        out.count("late_rows", late as u64);
        let (past, rest): (Vec<u32>, Vec<u32>) = (0..times.len() as u32).partition(|&row| is_late(times[row as usize]));
        let rest = batch.select(rest);
        let mut past = if rest.is_empty() { batch } else { batch.select(past) };
        past.hashes = None;
        out.emit(1 + self.number, past);
        rest
    }

    fn with_keys(&self, mut batch: Batch) -> Result<Option<Ready>, Fault> {
        let mut valid = self.valid(&batch);
        if let (false, Some(nulls)) = (self.outer, &valid) {
            // Nobody will ever ask for them.
            batch = batch.select(nulls.valid_indices().map(|row| row as u32).collect());
            valid = None;
        }
        let Some(times) = batch.times.clone() else { return Ok(None) };
        let keys = self.reader.read(&batch)?;
        Ok(Some(Ready { batch, times, keys, valid }))
    }

    fn valid(&self, batch: &Batch) -> Option<NullBuffer> {
        let nulls = self.key.iter().map(|&column| batch.column(column).logical_nulls());
        let valid = nulls.fold(None, |all, own| NullBuffer::union(all.as_ref(), own.as_ref()));
        valid.filter(|valid| valid.null_count() > 0)
    }

    pub fn name(&self) -> &'static str {
        SIDES[self.number]
    }

    /// Adds rows of a batch to the pane that begins there. The number of the first one in it.
    pub fn add(&mut self, start: i64, ready: &Ready, rows: &[u32], matched: Option<&[bool]>) -> Result<usize, Fault> {
        let columns = self.chosen(&ready.batch, rows)?;
        let pane = match self.panes.entry(start) {
            Entry::Occupied(pane) => pane.into_mut(),
            Entry::Vacant(place) => {
                let made = self.spare.pop().unwrap_or_else(|| Pane::new(self.reader.table(), self.outer || self.waits));
                place.insert(made)
            }
        };
        let first = pane.len();
        let arrivals =
            Arrivals { keys: (!self.waits).then_some(&ready.keys), valid: ready.valid.as_ref(), rows, columns };
        pane.add(arrivals, rows.iter().map(|&row| ready.times[row as usize]), matched)?;
        Ok(first)
    }

    fn chosen(&self, batch: &Batch, rows: &[u32]) -> Result<Vec<ArrayRef>, ArrowError> {
        let all = (0..self.columns.len()).map(|column| batch.column(column));
        if rows.len() == batch.num_rows() {
            return Ok(all.cloned().collect());
        }
        let rows = UInt32Array::from(rows.to_vec());
        all.map(|column| take(column, &rows, None)).collect()
    }

    /// The columns that the output reads, of rows by pane and number.
    pub fn gather(&self, places: &[(i64, u32)]) -> Result<Vec<ArrayRef>, ArrowError> {
        self.choice(places).columns(self.read)
    }

    /// All columns of these rows.
    pub fn gather_all(&self, places: &[(i64, u32)]) -> Result<Vec<ArrayRef>, ArrowError> {
        self.choice(places).columns(self.columns.len())
    }

    fn choice(&self, places: &[(i64, u32)]) -> Choice<'_> {
        let first = places.iter().map(|place| place.0).min().unwrap_or_default();
        let last = places.iter().map(|place| place.0).max().unwrap_or_default();
        let starts: Vec<i64> = self.panes.range(first..=last).map(|(&start, _)| start).collect();
        let mut choice = Choice::of(self.panes.range(first..=last).map(|(_, pane)| &pane.rows));
        let (mut start, mut which) = (None, 0);
        for &(pane, row) in places {
            if start != Some(pane) {
                (start, which) = (Some(pane), starts.partition_point(|&start| start < pane));
            }
            choice.push(which, row as usize);
        }
        choice
    }

    /// Up to a batch of rows without a partner, up to a time: time, pane, number. Each is given out once.
    pub fn pop_unmatched(&mut self, until: i64) -> Vec<(i64, i64, u32)> {
        let mut gone = Vec::new();
        for (&start, pane) in self.panes.range_mut(..=until) {
            while gone.len() < BATCH_ROWS_MAX
                && let Some((time, row)) = pane.pop_unmatched(until)
            {
                gone.push((time, start, row));
            }
        }
        gone
    }

    /// The watermark moves.
    pub fn settle(&mut self) {
        self.panes.values_mut().for_each(|pane| pane.settled = pane.len());
    }

    /// A table for keys of this side.
    pub fn table(&self) -> Groups {
        self.reader.table()
    }

    /// Forgets the panes that `is_gone` says so of, the first ones by time.
    pub fn drop_first(&mut self, is_gone: impl Fn(i64) -> bool) {
        while let Some(first) = self.panes.first_entry().filter(|pane| is_gone(*pane.key())) {
            let mut pane = first.remove();
            if self.spare.len() < SPARE_PANES_MAX {
                pane.clear();
                self.spare.push(pane);
            }
        }
    }

    pub fn held(&self) -> u64 {
        self.panes.values().map(|pane| pane.len() as u64).sum()
    }
}

/// The rows of a batch by the span that they fall into, in the order of spans.
pub(super) fn spread(times: &[i64], start_of: impl Fn(i64) -> i64, width: i64) -> Vec<(i64, Vec<u32>)> {
    let (mut parts, mut current) = (BTreeMap::<i64, Vec<u32>>::new(), Vec::new());
    let mut start = None;
    for (row, &time) in times.iter().enumerate() {
        let within = |start: i64| time >= start && time.wrapping_sub(start) as u64 <= (width - 1) as u64;
        if !start.is_some_and(within)
            && let Some(start) = start.replace(start_of(time))
        {
            parts.entry(start).or_default().append(&mut current);
        }
        current.push(row as u32);
    }
    if let Some(start) = start {
        parts.entry(start).or_default().append(&mut current);
    }
    parts.into_iter().collect()
}
