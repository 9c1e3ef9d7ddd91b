//! Calls that are searched for poison: of rows, and of timers.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::buffer::ScalarBuffer;
use arrow::compute::take;
use arrow::datatypes::Schema;
use arrow::util::display::array_value_to_string;
use tidemill_model::logic::{Effects, KeyedIn, LogicError, RowsIn, TimeDomain, TimersIn};
use tidemill_model::state::Slot;
use tidemill_model::{Batch, Collector, Fault};

use super::super::outputs::Parents;
use super::Keyed;
use crate::poison::Attempt;

pub(super) struct RowTask<'a> {
    pub op: &'a mut Keyed,
    pub input: usize,
    pub batch: &'a Batch,
    pub crossing: RecordBatch,
    pub slots: &'a [Slot],
    pub out: &'a mut dyn Collector,
}

impl RowTask<'_> {
    fn key_columns(&self, part: &Batch, first_rows: &[u32]) -> Result<Option<RecordBatch>, Fault> {
        if !self.op.common.descriptor.reads_keys {
            return Ok(None);
        }
        let Some(encoder) = &self.op.encoders[self.input] else {
            return Ok(Some(RecordBatch::new_empty(self.op.key_schema.clone())));
        };
        let rows = UInt32Array::from(first_rows.to_vec());
        let columns = encoder.key_columns(part);
        let columns: Result<Vec<ArrayRef>, _> = columns.iter().map(|c| take(c, &rows, None)).collect();
        Ok(Some(RecordBatch::try_new(self.op.key_schema.clone(), columns?)?))
    }

    fn apply(&mut self, part: &Batch, offset: usize, slots: &[Slot], effects: Effects) -> Result<(), Fault> {
        let broadcast = self.op.common.descriptor.inputs[self.input].broadcast;
        self.op.store(&effects, slots, broadcast)?;
        for error in effects.errors {
            let row = error.row as usize;
            if row >= part.num_rows() {
                let what = format!("an error for row {row}, but {} rows came in", part.num_rows());
                return Err(self.op.common.malformed(what));
            }
            self.out.count("row_errors", 1);
            self.reject(offset + row, error.message)?;
        }
        let times = part.times.as_ref();
        let parents = Parents { rows: part.num_rows(), batch: Some(part), carried: !broadcast, times };
        for rows in effects.outputs {
            let added = self.op.common.outputs.add(rows, &parents);
            added.map_err(|e| self.op.common.malformed(e))?;
        }
        Ok(())
    }

    fn reject(&mut self, row: usize, error: String) -> Result<(), Fault> {
        let columns = self.op.encoders[self.input].as_ref().map(|encoder| encoder.key_columns(self.batch));
        let key = columns.map(|columns| key_text(&self.op.key_schema, &columns, row));
        let time = self.batch.times.as_ref().map(|t| t[row]);
        self.op.common.rejects.reject(self.out, self.batch.rows(), row, time, key, error)
    }
}

impl Attempt for RowTask<'_> {
    fn attempt(&mut self, rows: Range<usize>) -> Result<Result<(), LogicError>, Fault> {
        let whole = rows.len() == self.batch.num_rows();
        let part = if whole { self.batch.clone() } else { self.batch.slice(rows.start, rows.len()) };
        let crossing = if whole { self.crossing.clone() } else { self.crossing.slice(rows.start, rows.len()) };
        // Rows without a key have no slots.
        let keys = self.op.distinct.index(self.slots.get(rows.clone()).unwrap_or_default());
        let input = KeyedIn {
            rows: RowsIn {
                input: self.input,
                rows: crossing,
                times: part.times.clone().filter(|_| self.op.common.descriptor.reads_time),
                kinds: part.kinds.clone(),
                now: self.op.now,
            },
            key_index: keys.index.into(),
            key_count: keys.slots.len(),
            keys: self.key_columns(&part, &keys.first_rows)?,
            states: self.op.gather(&keys.slots)?,
        };
        let called = self.op.call(&keys.slots, |logic, reads| logic.process_keyed(&input, reads))?;
        let result = match called {
            Ok(effects) => Ok(self.apply(&part, rows.start, &keys.slots, effects)?),
            Err(error) => Err(error),
        };
        self.op.distinct.recycle(keys.slots, keys.first_rows);
        if let Err(LogicError::Trap(_)) = &result {
            self.out.count("traps", 1);
        }
        Ok(result)
    }

    fn condemn(&mut self, row: usize, error: String) -> Result<(), Fault> {
        self.out.count("poison_rows", 1);
        self.reject(row, error)
    }
}

/// Timers taken out of the set; their keys are still pinned, and different.
pub(super) struct Due {
    pub domain: TimeDomain,
    pub times: ScalarBuffer<i64>,
    pub slots: Vec<Slot>,
}

pub(super) struct TimerTask<'a> {
    pub op: &'a mut Keyed,
    pub due: &'a Due,
    pub out: &'a mut dyn Collector,
}

impl TimerTask<'_> {
    fn apply(&mut self, timers: Range<usize>, times: &ScalarBuffer<i64>, effects: Effects) -> Result<(), Fault> {
        self.op.store(&effects, &self.due.slots[timers.clone()], false)?;
        for error in effects.errors {
            let timer = error.row as usize;
            if timer >= timers.len() {
                let what = format!("an error for timer {timer}, but {} were due", timers.len());
                return Err(self.op.common.malformed(what));
            }
            self.out.count("row_errors", 1);
            self.reject(timers.start + timer, error.message)?;
        }
        // As in Flink, what a processing-time timer emits has no event time of its own.
        let times = Some(times).filter(|_| self.due.domain == TimeDomain::Event);
        let parents = Parents { rows: timers.len(), batch: None, carried: false, times };
        for rows in effects.outputs {
            let added = self.op.common.outputs.add(rows, &parents);
            added.map_err(|e| self.op.common.malformed(e))?;
        }
        Ok(())
    }

    fn reject(&mut self, timer: usize, error: String) -> Result<(), Fault> {
        let keys = self.op.decode(&self.due.slots[timer..=timer])?;
        let key = key_text(&self.op.key_schema, keys.columns(), 0);
        let (domain, event_time) = match self.due.domain {
            TimeDomain::Event => ("event", Some(self.due.times[timer])),
            TimeDomain::Processing => ("processing", None),
        };
        let row = format!(r#"{{"timer":{},"domain":"{domain}"}}"#, self.due.times[timer]);
        self.op.common.rejects.reject_text(self.out, row, event_time, Some(key), error)
    }
}

impl Attempt for TimerTask<'_> {
    fn attempt(&mut self, timers: Range<usize>) -> Result<Result<(), LogicError>, Fault> {
        let slots = &self.due.slots[timers.clone()];
        let times = self.due.times.slice(timers.start, timers.len());
        let reads_keys = self.op.common.descriptor.reads_keys;
        let due = TimersIn {
            key_index: (0..slots.len() as u32).collect(),
            times: times.clone(),
            domain: self.due.domain,
            key_count: slots.len(),
            keys: reads_keys.then(|| self.op.decode(slots)).transpose()?,
            states: self.op.gather(slots)?,
            now: self.op.now,
        };
        let called = self.op.call(slots, |logic, reads| logic.on_timers(&due, reads))?;
        let result = match called {
            Ok(effects) => Ok(self.apply(timers, &times, effects)?),
            Err(error) => Err(error),
        };
        if let Err(LogicError::Trap(_)) = &result {
            self.out.count("traps", 1);
        }
        Ok(result)
    }

    fn condemn(&mut self, timer: usize, error: String) -> Result<(), Fault> {
        self.out.count("poison_rows", 1);
        self.reject(timer, error)
    }
}

/// A key for people: the value, or `name=value` for several columns.
fn key_text(schema: &Arc<Schema>, columns: &[ArrayRef], row: usize) -> String {
    let value = |c: &ArrayRef| {
        if c.is_null(row) { "null".to_owned() } else { array_value_to_string(c, row).unwrap_or_else(|e| e.to_string()) }
    };
    match columns {
        [one] => value(one),
        many => {
            let named = schema.fields().iter().zip(many).map(|(f, c)| format!("{}={}", f.name(), value(c)));
            named.collect::<Vec<_>>().join(", ")
        }
    }
}
