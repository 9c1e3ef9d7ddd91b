//! Temporal join: each row on the left with the version of its key on the right that was valid at its time.
//!
//! Flink's rules (`TemporalRowTimeJoinOperator`): a row on the right is a version from its time on, until the next one of its key; of several
//! with one time the last one to come counts. A row on the left waits until the watermark reaches its time, when no version can come any
//! more that it would have to know. Versions that were replaced before the watermark are forgotten.
//!
//! One difference: a row on the left is late when the watermark has reached its time. Flink joins it with what has not been forgotten yet.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::buffer::ScalarBuffer;
use arrow::compute::take;
use tidemill_model::snapshot::{Form, Restore, Snapshot};
use tidemill_model::time::{Now, WATERMARK_MIN};
use tidemill_model::{Batch, Collector, Fault, Operator, Progress};

use super::output::Output;
use super::pane::NONE;
use super::side::{Side, spread};
use super::stored::Stored;
use super::versions::Versions;
use crate::poison::Rejects;
use crate::windows::start::window_start;

/// Length of a pane of rows that wait.
const PANE_MS: i64 = 1000;

pub(super) struct Temporal {
    rejects: Rejects,
    output: Arc<Output>,
    stored: [Stored; 2],
    /// Only rows on the left are in panes.
    sides: [Side; 2],
    versions: Versions,
    watermark: i64,
}

impl Temporal {
    pub fn new(rejects: Rejects, output: Arc<Output>, stored: [Stored; 2], sides: [Side; 2]) -> Self {
        let versions = Versions::new(sides[1].table());
        Self { rejects, output, stored, sides, versions, watermark: WATERMARK_MIN }
    }

    /// Emits about a batch of the rows whose time has come.
    fn fire(&mut self, out: &mut dyn Collector) -> Result<Progress, Fault> {
        let due = self.sides[0].pop_unmatched(self.watermark);
        if due.is_empty() {
            let watermark = self.watermark;
            self.sides[0].drop_first(|start| start.saturating_add(PANE_MS - 1) <= watermark);
            return Ok(Progress::Done);
        }
        let places: Vec<(i64, u32)> = due.iter().map(|&(_, start, row)| (start, row)).collect();
        let times: ScalarBuffer<i64> = due.iter().map(|&(time, ..)| time).collect();
        let rows = RecordBatch::try_new(self.sides[0].schema.clone(), self.sides[0].gather_all(&places)?)?;
        let Some(ready) = self.sides[0].restored(rows, times)? else { return Ok(Progress::More) };
        let mut found = vec![NONE; ready.times.len()];
        let has_key = |row: &u32| ready.valid.as_ref().is_none_or(|valid| valid.is_valid(*row as usize));
        let asked: Vec<u32> = (0..found.len() as u32).filter(has_key).collect();
        self.versions.find(&ready.keys, &asked, |place, versions| {
            let row = asked[place] as usize;
            found[row] = versions.at(ready.times[row]);
        });
        let alone = self.emit_pairs(&ready.batch, &ready.times, &found, out)?;
        if self.sides[0].outer && !alone.is_empty() {
            let (columns, times) = self.chosen(&ready.batch, &ready.times, &alone)?;
            let columns = [columns, self.output.nulls(1, alone.len())].concat();
            let joined = self.output.join(columns, alone.len())?;
            self.output.emit_unmatched(&joined, &times, &self.rejects, out)?;
        }
        Ok(Progress::More)
    }

    /// Emits each row with its version. The rows that have none, or whose version does not meet the condition.
    fn emit_pairs(
        &self,
        batch: &Batch,
        times: &ScalarBuffer<i64>,
        found: &[u32],
        out: &mut dyn Collector,
    ) -> Result<Vec<u32>, Fault> {
        let (with, mut alone): (Vec<u32>, Vec<u32>) =
            (0..found.len() as u32).partition(|&row| found[row as usize] != NONE);
        if with.is_empty() {
            return Ok(alone);
        }
        let (left, times) = self.chosen(batch, times, &with)?;
        let versions = with.iter().map(|&row| found[row as usize]);
        let right = self.versions.gather(versions, self.sides[1].read)?;
        let joined = self.output.join([left, right].concat(), with.len())?;
        if let Some(passed) = self.output.emit_pairs(&joined, &times, 0, &self.rejects, out)? {
            alone.extend(with.into_iter().zip(passed).filter(|(_, passed)| !passed).map(|(row, _)| row));
            alone.sort_unstable();
        }
        Ok(alone)
    }

    /// What the output reads of some rows on the left, and their times.
    fn chosen(&self, batch: &Batch, times: &[i64], rows: &[u32]) -> Result<(Vec<ArrayRef>, ScalarBuffer<i64>), Fault> {
        let times = rows.iter().map(|&row| times[row as usize]).collect();
        let rows = UInt32Array::from(rows.to_vec());
        let columns = (0..self.sides[0].read).map(|column| take(batch.column(column), &rows, None));
        Ok((columns.collect::<Result<_, _>>()?, times))
    }
}

impl Operator for Temporal {
    fn on_batch(&mut self, input: usize, batch: Batch, out: &mut dyn Collector) -> Result<Progress, Fault> {
        let watermark = self.watermark;
        // A version is never too late for the rows that are still to come.
        let is_late = |time| input == 0 && time <= watermark;
        let Some(ready) = self.sides[input].ready(batch, is_late, &self.rejects.node, out)? else {
            return Ok(Progress::Done);
        };
        if input == 0 {
            for (start, rows) in spread(&ready.times, |time| window_start(time, 0, PANE_MS), PANE_MS) {
                self.sides[0].add(start, &ready, &rows, None)?;
            }
        } else {
            self.versions.add(&ready, watermark)?;
        }
        Ok(Progress::Done)
    }

    fn on_time(&mut self, now: Now, out: &mut dyn Collector) -> Result<Progress, Fault> {
        if now.watermark <= self.watermark {
            return Ok(Progress::Done);
        }
        self.watermark = now.watermark;
        self.sides[0].settle();
        self.fire(out)
    }

    fn resume(&mut self, out: &mut dyn Collector) -> Result<Progress, Fault> {
        self.fire(out)
    }

    fn snapshot(&mut self, _form: Form) -> Result<Snapshot, Fault> {
        let watermark = self.watermark;
        let left = self.stored[0].table_of(&self.sides[0], move |time| time > watermark)?;
        let right = self.stored[1].table(vec![self.versions.freeze()]);
        Ok(Snapshot { tables: vec![left, right], ..Snapshot::default() })
    }

    fn restore(&mut self, from: &dyn Restore) -> Result<(), Fault> {
        self.watermark = from.now().watermark;
        Stored::check_tables(&self.stored, from)?;
        let start_of = |time| window_start(time, 0, PANE_MS);
        self.stored[0].restore(from, &mut self.sides[0], start_of, PANE_MS)?;
        for part in self.stored[1].parts(from)? {
            let (rows, times, _) = part?;
            if let Some(ready) = self.sides[1].restored(rows, times)? {
                self.versions.add(&ready, self.watermark)?;
            }
        }
        Ok(())
    }

    fn held(&self) -> u64 {
        self.sides[0].held() + self.versions.len() as u64
    }
}
