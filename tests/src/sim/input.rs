//! Sources of the simulation: splits whose rows are out of order, and that pause.
//!
//! Law: rows are never so late that it depends on the speed of other splits whether they are late: within a split they are out of
//! order by less than the delay, and a split that pauses, so that others go on without it, has only later rows than they
//! afterwards. In a source with late rows there is one split, and its chunks are the same in each run.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use tidemill_model::Fault;
use tidemill_model::source::{Polled, Position, ReadBudget, Source, Split, SplitReader};

use super::wire::Wire;
use crate::chance::Chance;

/// How far rows may be out of order, ms of event time; and after how much of the wall clock a split is idle.
pub const DELAY_MS: i64 = 2000;
pub const IDLE_MS: i64 = 600_000;
/// Longer than it takes to be idle.
const PAUSE_MS: i64 = 3_600_000;
/// Behind all times of rows that come without a pause.
const LATER_MS: i64 = 10_000_000;

/// A key, a number as a key, a value, an event time.
#[derive(Clone, Debug)]
pub struct Row {
    pub k: String,
    pub g: i64,
    pub n: i64,
    pub t: i64,
}

#[derive(Clone, Debug, Default)]
pub struct SplitScript {
    pub rows: Vec<Row>,
    /// In front of a row, ms of processing time.
    pub pauses: BTreeMap<usize, i64>,
}

/// What a source has, split by split.
#[derive(Clone, Debug)]
pub struct Script(pub Vec<SplitScript>);

impl Script {
    /// Rows of `keys` keys in some splits, one of which may be idle for a while.
    pub fn draw(chance: &mut Chance, rows: usize, keys: usize) -> Self {
        let splits = 1 + chance.below(4);
        let mut script: Vec<SplitScript> = (0..splits).map(|_| split(chance, rows / splits, keys)).collect();
        if splits > 1 && chance.one_in(2) {
            let idle = &mut script[0];
            let from = chance.below(idle.rows.len() + 1);
            idle.pauses.insert(from, PAUSE_MS);
            idle.rows[from..].iter_mut().for_each(|row| row.t += LATER_MS);
        }
        Self(script)
    }

    /// One split with rows that are late, whatever comes between.
    pub fn late(chance: &mut Chance, rows: usize, keys: usize) -> Self {
        let mut script = split(chance, rows, keys);
        for row in script.rows.iter_mut().filter(|_| chance.one_in(8)) {
            row.t = (row.t - 30_000).max(0);
        }
        Self(vec![script])
    }

    /// A key of its own for each row: `PREFIX0`, `PREFIX1`, ...
    pub fn number_keys(&mut self, prefix: &str) {
        for (i, row) in self.0.iter_mut().flat_map(|split| &mut split.rows).enumerate() {
            row.k = format!("{prefix}{i}");
        }
    }
}

fn split(chance: &mut Chance, rows: usize, keys: usize) -> SplitScript {
    let step = 1 + chance.below(300) as i64;
    let row = |i: usize| {
        let key = chance.below(keys);
        let n = chance.below(300) as i64 - 50;
        let late = if chance.one_in(3) { chance.below(DELAY_MS as usize) as i64 } else { 0 };
        Row { k: format!("k{key}"), g: key as i64, n, t: (i as i64 * step + DELAY_MS - late).max(0) }
    };
    SplitScript { rows: (0..rows).map(row).collect(), pauses: BTreeMap::new() }
}

/// k, g, n, t.
pub fn schema() -> SchemaRef {
    let number = |name: &str| Field::new(name, DataType::Int64, false);
    Arc::new(Schema::new(vec![Field::new("k", DataType::Utf8, false), number("g"), number("n"), number("t")]))
}

pub struct Scripted {
    pub script: Arc<Script>,
    pub wire: Arc<Wire>,
}

impl Source for Scripted {
    fn schema(&self) -> SchemaRef {
        schema()
    }

    fn splits(&self, _workers: usize) -> Result<Vec<Split>, Fault> {
        let split = |(i, _)| Split { id: format!("split-{i}"), spec: vec![i as u8], size: None };
        Ok(self.script.0.iter().enumerate().map(split).collect())
    }

    fn open(&self, split: &Split, position: &Position) -> Result<Box<dyn SplitReader>, Fault> {
        let number = split.spec.first().copied().unwrap_or_default();
        let next = <[u8; 8]>::try_from(&position.0[..]).map_or(0, u64::from_le_bytes) as usize;
        let (script, wire) = (self.script.clone(), self.wire.clone());
        Ok(Box::new(Reader { script, wire, split: number.into(), next, until: None }))
    }

    /// So that all its splits are read side by side.
    fn bounded(&self) -> bool {
        false
    }
}

struct Reader {
    script: Arc<Script>,
    wire: Arc<Wire>,
    split: usize,
    next: usize,
    /// The pause that it is in, or was in last.
    until: Option<(usize, i64)>,
}

impl SplitReader for Reader {
    fn poll(&mut self, budget: ReadBudget) -> Result<Polled, Fault> {
        self.wire.read()?;
        let SplitScript { rows, pauses } = &self.script.0[self.split];
        if let Some(pause) = pauses.get(&self.next) {
            let next = self.next;
            let begun = self.until.filter(|(at, _)| *at == next).map(|(_, until)| until);
            let until_ms = begun.unwrap_or(budget.now_ms + pause);
            self.until = Some((next, until_ms));
            if budget.now_ms < until_ms {
                return Ok(Polled::Pending { until_ms });
            }
        }
        if self.next == rows.len() {
            return Ok(Polled::End);
        }
        let pause = pauses.range(self.next + 1..).next().map_or(rows.len(), |(at, _)| *at);
        // The same chunks from wherever it goes on.
        let end = ((self.next / budget.rows + 1) * budget.rows).min(pause).min(rows.len());
        let chunk = &rows[self.next..end];
        self.next = end;
        Ok(Polled::Rows { rows: batch(chunk)?, rejected: Vec::new() })
    }

    fn position(&self) -> Position {
        Position((self.next as u64).to_le_bytes().to_vec())
    }
}

fn batch(rows: &[Row]) -> Result<RecordBatch, Fault> {
    let number = |get: fn(&Row) -> i64| Arc::new(rows.iter().map(get).collect::<Int64Array>());
    let keys: StringArray = rows.iter().map(|row| Some(row.k.as_str())).collect();
    let columns: Vec<arrow::array::ArrayRef> =
        vec![Arc::new(keys), number(|row| row.g), number(|row| row.n), number(|row| row.t)];
    Ok(RecordBatch::try_new(schema(), columns)?)
}
