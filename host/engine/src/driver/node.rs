//! One operator or sink on one worker of the driver.

use tidemill_model::dead::DeadRow;
use tidemill_model::sink::SinkWriter;
use tidemill_model::time::WatermarkTracker;
use tidemill_model::{Batch, Collector, Operator, Progress};

pub(super) enum Work {
    /// With whether it uses time.
    Operator(Box<dyn Operator>, bool),
    Sink(Box<dyn SinkWriter>),
}

pub(super) struct Instance {
    pub work: Work,
    /// Ticks below this have closed.
    pub closed: usize,
    pub tracker: WatermarkTracker,
    pub processing_ms: i64,
    /// It has said `More`: nothing else may be asked of it.
    pub unfinished: Option<Unfinished>,
}

/// A call that has not come to its end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unfinished {
    pub tick: usize,
    /// The tick closes with it.
    pub closes: bool,
}

impl Instance {
    /// `parts`: sources above it on all workers.
    pub fn new(work: Work, parts: usize) -> Self {
        Self { work, closed: 0, tracker: WatermarkTracker::new(parts), processing_ms: 0, unfinished: None }
    }

    /// What a call has said.
    pub fn goes_on(&mut self, progress: Progress, call: Unfinished) {
        self.unfinished = (progress == Progress::More).then_some(call);
        if progress == Progress::Done && call.closes {
            self.closed = call.tick + 1;
        }
    }

    pub fn uses_time(&self) -> bool {
        matches!(self.work, Work::Operator(_, true))
    }

    pub fn held(&self) -> u64 {
        match &self.work {
            Work::Operator(operator, _) => operator.held(),
            Work::Sink(_) => 0,
        }
    }
}

/// What came out of one call.
#[derive(Default)]
pub(super) struct Emitted {
    pub batches: Vec<(usize, Batch)>,
    pub dead: Vec<DeadRow>,
    pub counts: Vec<(&'static str, u64)>,
}

impl Collector for Emitted {
    fn emit(&mut self, port: usize, batch: Batch) {
        self.batches.push((port, batch));
    }
    fn dead(&mut self, row: DeadRow) {
        self.dead.push(row);
    }
    fn count(&mut self, counter: &'static str, n: u64) {
        self.counts.push((counter, n));
    }
}
