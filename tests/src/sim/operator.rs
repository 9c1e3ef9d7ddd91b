//! Operators of a life: the real ones, watched, and slower than they would be.
//!
//! Law: what an operator answers does not depend on who watches; one that takes a batch in pieces says `More` between them, and one that is on
//! trial says so until there is a verdict.

use std::collections::VecDeque;
use std::sync::Arc;

use tidemill_model::checkpoint::NodeManifest;
use tidemill_model::logic::LogicFactory;
use tidemill_model::operator::{OpenedLogic, Successor};
use tidemill_model::snapshot::{Form, Restore, Snapshot};
use tidemill_model::time::Now;
use tidemill_model::{Batch, Collector, Fault, Operator, OperatorContext, OperatorFactory, Progress};

use super::trial::{Call, Held, Trial};
use super::wire::Wire;

pub struct Watched {
    pub inner: Arc<dyn OperatorFactory>,
    pub wire: Arc<Wire>,
    /// Rows that it takes at once.
    pub piece: usize,
}

impl OperatorFactory for Watched {
    fn build(&self, context: &OperatorContext) -> Result<Box<dyn Operator>, Fault> {
        let inner = self.inner.build(context)?;
        let (wire, name) = (self.wire.clone(), format!("{} (worker {})", context.node, context.worker));
        Ok(Box::new(Watch {
            inner,
            wire,
            name,
            piece: self.piece,
            rest: VecDeque::new(),
            more: false,
            last: Now::START,
            trial: None,
        }))
    }

    fn uses_time(&self) -> bool {
        self.inner.uses_time()
    }

    fn about(&self) -> NodeManifest {
        self.inner.about()
    }

    fn successor(&self, logic: Arc<dyn LogicFactory>, dropped: &[String]) -> Result<Arc<dyn Successor>, Fault> {
        self.inner.successor(logic, dropped)
    }
}

struct Watch {
    inner: Box<dyn Operator>,
    wire: Arc<Wire>,
    name: String,
    piece: usize,
    rest: VecDeque<(usize, Batch)>,
    /// The operator itself is not done.
    more: bool,
    last: Now,
    /// The operator has other logic, which may have to go.
    trial: Option<Trial>,
}

impl Watch {
    fn violation(&self, what: impl std::fmt::Display) {
        self.wire.world.violation(format!("{}{what}", self.name));
    }

    fn pieces(&self, batch: &Batch) -> VecDeque<Batch> {
        let pieces = (0..batch.num_rows()).step_by(self.piece);
        pieces.map(|at| batch.slice(at, self.piece.min(batch.num_rows() - at))).collect()
    }

    fn rows(&mut self, input: usize, batch: &Batch, out: &mut dyn Collector) -> Result<Progress, Fault> {
        let mut pieces = self.pieces(batch);
        let first = pieces.pop_front().unwrap_or_else(|| batch.clone());
        self.rest.extend(pieces.into_iter().map(|piece| (input, piece)));
        let progress = self.inner.on_batch(input, first, out)?;
        Ok(self.said(progress))
    }

    fn time(&mut self, now: Now, out: &mut dyn Collector) -> Result<Progress, Fault> {
        let progress = self.inner.on_time(now, out)?;
        Ok(self.said(progress))
    }

    /// A whole call with the logic on trial.
    fn tried(&mut self, call: Call) -> Result<Progress, Fault> {
        let mut held = Held::default();
        let made = self.make(&call, &mut held);
        self.wire.tried(made);
        self.trial = Some(Trial::Called(call, held));
        Ok(Progress::More)
    }

    fn make(&mut self, call: &Call, out: &mut Held) -> Result<(), Fault> {
        let calls: VecDeque<Call> = match call {
            Call::Rows(input, batch) => self.pieces(batch).into_iter().map(|piece| Call::Rows(*input, piece)).collect(),
            time => [time.clone()].into(),
        };
        for call in calls {
            let mut progress = match call {
                Call::Rows(input, piece) => self.inner.on_batch(input, piece, out)?,
                Call::Time(now) => self.inner.on_time(now, out)?,
            };
            while progress == Progress::More {
                progress = self.inner.resume(out)?;
            }
        }
        Ok(())
    }

    fn said(&mut self, progress: Progress) -> Progress {
        self.more = progress == Progress::More;
        if self.rest.is_empty() { progress } else { Progress::More }
    }
}

impl Operator for Watch {
    fn on_batch(&mut self, input: usize, batch: Batch, out: &mut dyn Collector) -> Result<Progress, Fault> {
        if self.more || !self.rest.is_empty() || matches!(self.trial, Some(Trial::Called(..) | Trial::Decided(..))) {
            self.violation(" gets rows before it is done with others");
        }
        match self.trial {
            Some(_) => self.tried(Call::Rows(input, batch)),
            None => self.rows(input, &batch, out),
        }
    }

    fn on_time(&mut self, now: Now, out: &mut dyn Collector) -> Result<Progress, Fault> {
        let Now { watermark, processing_ms } = self.last;
        if now.watermark < watermark {
            self.violation(format_args!(": the watermark goes back from {watermark} to {}", now.watermark));
        }
        if now.processing_ms < processing_ms {
            self.violation(format_args!(": the clock goes back from {processing_ms}"));
        }
        self.last = now;
        match self.trial {
            Some(_) => self.tried(Call::Time(now)),
            None => self.time(now, out),
        }
    }

    fn resume(&mut self, out: &mut dyn Collector) -> Result<Progress, Fault> {
        match self.trial.take() {
            None => {}
            Some(Trial::Decided(true, _, held)) => {
                self.inner.settle(true)?;
                held.release(out);
                return Ok(Progress::Done);
            }
            Some(Trial::Decided(false, call, _)) => {
                self.inner.settle(false)?;
                return match call {
                    Call::Rows(input, batch) => self.rows(input, &batch, out),
                    Call::Time(now) => self.time(now, out),
                };
            }
            waits => {
                self.trial = waits;
                return Ok(Progress::More);
            }
        }
        let next = if self.more { None } else { self.rest.pop_front() };
        let progress = match next {
            None if self.more => self.inner.resume(out)?,
            Some((input, piece)) => self.inner.on_batch(input, piece, out)?,
            None => Progress::Done,
        };
        Ok(self.said(progress))
    }

    fn snapshot(&mut self, form: Form) -> Result<Snapshot, Fault> {
        if self.more || !self.rest.is_empty() || self.trial.is_some() {
            self.violation(" is frozen before it is done");
        }
        self.inner.snapshot(form)
    }

    fn restore(&mut self, from: &dyn Restore) -> Result<(), Fault> {
        self.last = from.now();
        self.inner.restore(from)
    }

    fn held(&self) -> u64 {
        self.inner.held()
    }

    fn swap(&mut self, next: OpenedLogic) -> Result<(), Fault> {
        self.inner.swap(next)?;
        self.trial = Some(Trial::Begun);
        Ok(())
    }

    fn settle(&mut self, keep: bool) -> Result<(), Fault> {
        match self.trial.take() {
            Some(Trial::Called(call, held)) => {
                self.trial = Some(Trial::Decided(keep, call, held));
                Ok(())
            }
            _ => self.inner.settle(keep),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::world::World;
    use super::*;

    /// Emits nothing and never has enough.
    struct Greedy;

    impl Operator for Greedy {
        fn on_batch(&mut self, _input: usize, _batch: Batch, _out: &mut dyn Collector) -> Result<Progress, Fault> {
            Ok(Progress::More)
        }
    }

    struct Nobody;

    impl Collector for Nobody {
        fn emit(&mut self, _port: usize, _batch: Batch) {}
        fn dead(&mut self, _row: tidemill_model::dead::DeadRow) {}
        fn count(&mut self, _counter: &'static str, _n: u64) {}
    }

    fn watch() -> (Arc<World>, Watch) {
        let world = World::new(false);
        let wire = Wire::new(1, &world);
        let (rest, last) = (VecDeque::new(), Now::START);
        let watch =
            Watch { inner: Box::new(Greedy), wire, name: "n".into(), piece: 2, rest, more: false, last, trial: None };
        (world, watch)
    }

    fn rows() -> Batch {
        let column: arrow::array::ArrayRef = Arc::new(arrow::array::Int64Array::from(vec![1, 2, 3]));
        Batch::new(arrow::array::RecordBatch::try_from_iter([("n", column)]).expect("one column"))
    }

    #[test]
    fn time_that_goes_back_is_seen() {
        let now = |watermark, processing_ms| Now { watermark, processing_ms };
        for (later, fine) in [(now(5, 1), true), (now(6, 2), true), (now(4, 2), false), (now(6, 0), false)] {
            let (world, mut watch) = watch();
            for now in [now(5, 1), later] {
                assert_eq!(watch.on_time(now, &mut Nobody).expect("no fault"), Progress::Done);
            }
            assert_eq!(world.check().is_ok(), fine, "{later:?}");
        }
    }

    #[test]
    fn a_call_before_the_last_one_is_done_is_seen() {
        let (world, mut watch) = watch();
        assert_eq!(watch.on_batch(0, rows(), &mut Nobody).expect("no fault"), Progress::More);
        assert_eq!(watch.resume(&mut Nobody).expect("no fault"), Progress::More);
        assert!(world.check().is_ok());
        assert_eq!(watch.on_batch(0, rows(), &mut Nobody).expect("no fault"), Progress::More);
        assert!(world.check().is_err());
    }
}
