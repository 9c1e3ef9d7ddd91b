//! Logic without state: map (any rows out) and filter (a bitmap).

use std::ops::Range;

use arrow::array::{Array, BooleanArray, RecordBatch};
use arrow::compute::kernels::boolean::{and, not};
use tidemill_model::component::LogicKind;
use tidemill_model::logic::{Effects, Logic, LogicError, RowError, RowsIn};
use tidemill_model::operator::OpenedLogic;
use tidemill_model::time::Now;
use tidemill_model::{Batch, Collector, Fault, Operator, Progress};

use super::outputs::Parents;
use super::swap::Next;
use super::{Amplification, Common, Work};
use crate::poison::{Attempt, once, search};

pub(super) struct Stateless {
    common: Common,
    logic: Box<dyn Logic>,
    now: Now,
    work: Option<Work>,
    amplification: Amplification,
    /// What to go back to, while the logic is on trial.
    before: Option<(Common, Box<dyn Logic>, Now)>,
}

impl Stateless {
    pub fn new(common: Common, logic: Box<dyn Logic>, now: Now) -> Self {
        Self { common, logic, now, work: None, amplification: Amplification::default(), before: None }
    }

    /// Calls the logic on the rest of the batch, piece by piece, until a batch's worth has come out.
    fn go(&mut self, out: &mut dyn Collector) -> Result<Progress, Fault> {
        self.common.outputs.refuel();
        loop {
            if !self.common.outputs.flush(out)? {
                return Ok(Progress::More);
            }
            let Some(mut work) = self.work.take() else { return Ok(Progress::Done) };
            if self.common.outputs.exhausted() {
                self.work = Some(work);
                return Ok(Progress::More);
            }
            let rows = self.amplification.rows_per_call().min(work.batch.num_rows() - work.done);
            self.piece(work.input, work.batch.slice(work.done, rows), out)?;
            work.done += rows;
            if work.done < work.batch.num_rows() {
                self.work = Some(work);
            }
        }
    }

    fn piece(&mut self, input: usize, batch: Batch, out: &mut dyn Collector) -> Result<(), Fault> {
        let rows = batch.num_rows();
        let crossing = self.common.inputs[input].project(&batch)?;
        let node = self.common.rejects.node.clone();
        let on_trial = self.before.is_some();
        let mut task = Task { op: self, input, batch: &batch, crossing, out };
        match on_trial {
            false => search(&mut task, 0..rows, 1, &node)?,
            true => once(&mut task, 0..rows, &node)?,
        }
        if self.common.descriptor.kind == LogicKind::Map {
            let made = self.common.outputs.take_made();
            self.amplification.observe(rows, made);
        }
        Ok(())
    }
}

impl Operator for Stateless {
    fn on_batch(&mut self, input: usize, batch: Batch, out: &mut dyn Collector) -> Result<Progress, Fault> {
        self.common.admit(&batch)?;
        if self.common.descriptor.kind == LogicKind::Filter {
            self.amplification = Amplification { rows_out_per_in: Some(1.0) };
        }
        if !batch.is_empty() {
            self.work = Some(Work { input, batch, done: 0 });
        }
        self.go(out)
    }

    fn on_time(&mut self, now: Now, _out: &mut dyn Collector) -> Result<Progress, Fault> {
        self.now = now;
        Ok(Progress::Done)
    }

    fn resume(&mut self, out: &mut dyn Collector) -> Result<Progress, Fault> {
        self.go(out)
    }

    fn swap(&mut self, next: OpenedLogic) -> Result<(), Fault> {
        let next = next.downcast::<Next>().map_err(|_| Fault::internal("this logic was opened for another node"))?;
        let common = std::mem::replace(&mut self.common, next.common);
        let logic = std::mem::replace(&mut self.logic, next.logic);
        self.before = Some((common, logic, self.now));
        self.amplification = Amplification::default();
        Ok(())
    }

    fn settle(&mut self, keep: bool) -> Result<(), Fault> {
        if let Some((common, logic, now)) = self.before.take().filter(|_| !keep) {
            (self.common, self.logic, self.now) = (common, logic, now);
            self.work = None;
        }
        Ok(())
    }
}

struct Task<'a> {
    op: &'a mut Stateless,
    input: usize,
    batch: &'a Batch,
    crossing: RecordBatch,
    out: &'a mut dyn Collector,
}

impl Task<'_> {
    fn apply(&mut self, part: &Batch, offset: usize, effects: Effects) -> Result<(), Fault> {
        self.row_errors(part.num_rows(), offset, effects.errors)?;
        let times = part.times.as_ref();
        let parents = Parents { rows: part.num_rows(), batch: Some(part), carried: true, times };
        for rows in effects.outputs {
            let added = self.op.common.outputs.add(rows, &parents);
            added.map_err(|e| self.op.common.malformed(e))?;
        }
        Ok(())
    }

    fn keep(&mut self, part: &Batch, offset: usize, mask: BooleanArray, errors: Vec<RowError>) -> Result<(), Fault> {
        if mask.len() != part.num_rows() {
            let what = format!("{} verdicts for {} rows", mask.len(), part.num_rows());
            return Err(self.op.common.malformed(what));
        }
        let mask = match errors.is_empty() {
            true => mask,
            false => and(&mask, &not(&marked(part.num_rows(), &errors))?)?,
        };
        self.row_errors(part.num_rows(), offset, errors)?;
        let all = mask.null_count() == 0 && !mask.has_false();
        let mut kept = if all { part.clone() } else { part.filter(&mask)? };
        // Hashes belong to the exchange in front of this node.
        kept.hashes = None;
        self.op.common.outputs.push(kept);
        Ok(())
    }

    fn row_errors(&mut self, rows: usize, offset: usize, errors: Vec<RowError>) -> Result<(), Fault> {
        for error in errors {
            let row = error.row as usize;
            if row >= rows {
                return Err(self.op.common.malformed(format!("an error for row {row}, but {rows} rows came in")));
            }
            self.out.count("row_errors", 1);
            self.reject(offset + row, error.message)?;
        }
        Ok(())
    }

    fn reject(&mut self, row: usize, error: String) -> Result<(), Fault> {
        let time = self.batch.times.as_ref().map(|t| t[row]);
        self.op.common.rejects.reject(self.out, self.batch.rows(), row, time, None, error)
    }
}

impl Attempt for Task<'_> {
    fn attempt(&mut self, rows: Range<usize>) -> Result<Result<(), LogicError>, Fault> {
        let part = self.batch.slice(rows.start, rows.len());
        let common = &self.op.common;
        let input = RowsIn {
            input: self.input,
            rows: self.crossing.slice(rows.start, rows.len()),
            times: part.times.clone().filter(|_| common.descriptor.reads_time),
            kinds: part.kinds.clone(),
            now: self.op.now,
        };
        let result = match common.descriptor.kind {
            LogicKind::Filter => match self.op.logic.keep(&input) {
                Ok((mask, errors)) => Ok(self.keep(&part, rows.start, mask, errors)?),
                Err(error) => Err(error),
            },
            _ => match self.op.logic.process(&input) {
                Ok(effects) => Ok(self.apply(&part, rows.start, effects)?),
                Err(error) => Err(error),
            },
        };
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

fn marked(rows: usize, errors: &[RowError]) -> BooleanArray {
    let mut bits = vec![false; rows];
    for error in errors {
        if let Some(bit) = bits.get_mut(error.row as usize) {
            *bit = true;
        }
    }
    BooleanArray::from(bits)
}
