//! The search for poison rows: rows that make a whole call fail.
//!
//! Law: every row is either in exactly one successful attempt or condemned; attempts and sentences come in row
//! order, so the effects of good rows are applied in order.

use std::ops::Range;

use arrow::array::RecordBatch;
use tidemill_model::dead::{DeadRow, row_json};
use tidemill_model::fault::OnError;
use tidemill_model::logic::LogicError;
use tidemill_model::{Batch, Collector, Fault, FaultKind};

/// Something that can be tried on a range of rows.
pub(crate) trait Attempt {
    /// Does the rows and applies what came of it, or fails without any effect.
    fn attempt(&mut self, rows: Range<usize>) -> Result<Result<(), LogicError>, Fault>;
    /// This row fails on its own.
    fn condemn(&mut self, row: usize, error: String) -> Result<(), Fault>;
}

/// Attempts all rows; on a trap `retries` times more, then by halves down to single rows. `node` is blamed for
/// errors that no row can explain.
pub(crate) fn search(task: &mut impl Attempt, rows: Range<usize>, retries: usize, node: &str) -> Result<(), Fault> {
    for _ in 0..retries {
        match task.attempt(rows.clone())? {
            Ok(()) => return Ok(()),
            Err(LogicError::Trap(_)) => {}
            Err(LogicError::Fatal(message)) => return Err(Fault::component(message).at(node)),
        }
    }
    halve(task, rows, node)
}

/// Attempts all rows once, without mercy: whatever goes wrong is a fault.
pub(crate) fn once(task: &mut impl Attempt, rows: Range<usize>, node: &str) -> Result<(), Fault> {
    task.attempt(rows)?.map_err(|(LogicError::Trap(text) | LogicError::Fatal(text))| Fault::component(text).at(node))
}

fn halve(task: &mut impl Attempt, rows: Range<usize>, node: &str) -> Result<(), Fault> {
    match task.attempt(rows.clone())? {
        Ok(()) => Ok(()),
        Err(LogicError::Fatal(message)) => Err(Fault::component(message).at(node)),
        Err(LogicError::Trap(error)) if rows.len() <= 1 => task.condemn(rows.start, error),
        Err(LogicError::Trap(_)) => {
            let middle = rows.start + rows.len() / 2;
            halve(task, rows.start..middle, node)?;
            halve(task, middle..rows.end, node)
        }
    }
}

/// The rows that `read` can do with; the others are rejected.
pub(crate) fn sieve(
    batch: &Batch,
    rejects: &Rejects,
    out: &mut dyn Collector,
    read: impl Fn(&Batch) -> Result<(), String>,
) -> Result<Vec<u32>, Fault> {
    let mut sieve = Sieve { batch, rejects, out, read, good: Vec::new() };
    // Expressions are deterministic: no use in trying twice.
    search(&mut sieve, 0..batch.num_rows(), 0, &rejects.node)?;
    Ok(sieve.good)
}

struct Sieve<'a, R> {
    batch: &'a Batch,
    rejects: &'a Rejects,
    out: &'a mut dyn Collector,
    read: R,
    good: Vec<u32>,
}

impl<R: Fn(&Batch) -> Result<(), String>> Attempt for Sieve<'_, R> {
    fn attempt(&mut self, rows: Range<usize>) -> Result<Result<(), LogicError>, Fault> {
        let read = (self.read)(&self.batch.slice(rows.start, rows.len()));
        if read.is_ok() {
            self.good.extend(rows.map(|row| row as u32));
        }
        Ok(read.map_err(LogicError::Trap))
    }

    fn condemn(&mut self, row: usize, error: String) -> Result<(), Fault> {
        self.rejects.reject_row(self.out, self.batch, row, error)
    }
}

/// Where rejected rows of one operator go.
#[derive(Clone, Debug)]
pub(crate) struct Rejects {
    pub node: String,
    pub worker: usize,
    pub on_error: OnError,
    /// Whose fault a rejected row is.
    pub kind: FaultKind,
}

impl Rejects {
    /// Sends a row to the dead-letter output, or fails the job with it.
    pub fn reject(
        &self,
        out: &mut dyn Collector,
        rows: &RecordBatch,
        index: usize,
        event_time: Option<i64>,
        key: Option<String>,
        error: String,
    ) -> Result<(), Fault> {
        self.reject_text(out, row_json(rows, index), event_time, key, error)
    }

    /// The same for a row for which an expression fails.
    pub fn reject_row(&self, out: &mut dyn Collector, batch: &Batch, row: usize, error: String) -> Result<(), Fault> {
        out.count("row_errors", 1);
        let time = batch.times.as_ref().map(|times| times[row]);
        self.reject(out, batch.rows(), row, time, None, error)
    }

    /// The same for what is not a row of a batch.
    pub fn reject_text(
        &self,
        out: &mut dyn Collector,
        row: String,
        event_time: Option<i64>,
        key: Option<String>,
        error: String,
    ) -> Result<(), Fault> {
        if self.on_error == OnError::DeadLetter {
            let (file, line) = (None, None);
            out.dead(DeadRow { operator: self.node.clone(), error, key, row, event_time, file, line });
            return Ok(());
        }
        let fault = Fault::new(self.kind, error).at(&self.node).on_worker(self.worker).with_row(row);
        let fault = match key {
            Some(key) => fault.with_key(key),
            None => fault,
        };
        Err(fault.with_help("set `on_error: dead_letter` to put such rows aside and go on"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Traps whenever a poison row is among the rows; `flaky` calls trap for no reason at first.
    struct Fake {
        poison: Vec<bool>,
        flaky: usize,
        done: Vec<usize>,
        dead: Vec<usize>,
    }

    impl Attempt for Fake {
        fn attempt(&mut self, rows: Range<usize>) -> Result<Result<(), LogicError>, Fault> {
            if self.flaky > 0 {
                self.flaky -= 1;
                return Ok(Err(LogicError::Trap("flaky".into())));
            }
            if rows.clone().any(|r| self.poison[r]) {
                return Ok(Err(LogicError::Trap("poison".into())));
            }
            self.done.extend(rows);
            Ok(Ok(()))
        }
        fn condemn(&mut self, row: usize, error: String) -> Result<(), Fault> {
            assert_eq!(error, "poison");
            self.dead.push(row);
            Ok(())
        }
    }

    proptest! {
        #[test]
        fn exactly_the_poison_rows_are_condemned(poison in prop::collection::vec(prop::bool::weighted(0.1), 1..200)) {
            let mut task = Fake { poison: poison.clone(), flaky: 0, done: vec![], dead: vec![] };
            search(&mut task, 0..poison.len(), 1, "node").unwrap();
            let (bad, good): (Vec<usize>, Vec<usize>) = (0..poison.len()).partition(|&r| poison[r]);
            prop_assert_eq!((task.dead, task.done), (bad, good));
        }
    }

    #[test]
    fn one_retry_saves_a_batch_from_a_passing_fault() {
        let mut task = Fake { poison: vec![false; 8], flaky: 1, done: vec![], dead: vec![] };
        search(&mut task, 0..8, 1, "node").unwrap();
        assert_eq!((task.done.len(), task.dead.len()), (8, 0));
    }
}
