//! An operator as the engine sees it: a synchronous state machine without clock, thread or socket.
//!
//! Laws: rows may come in any order across inputs; time advances only through `on_time` and never
//! goes back; what is emitted in `on_time(now)` belongs to the tick that closes with `now`; after
//! `Progress::More` the caller calls `resume` until `Done` before anything else.

use crate::batch::Batch;
use crate::checkpoint::NodeManifest;
use crate::dead::DeadRow;
use crate::fault::Fault;
use crate::snapshot::{Form, Restore, Snapshot};
use crate::time::Now;

/// Whether an operator has finished what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Progress {
    Done,
    /// Output is still to come: call `resume` when there is room for it.
    More,
}

/// Takes what an operator emits.
pub trait Collector {
    /// Rows for an output port.
    fn emit(&mut self, port: usize, batch: Batch);
    /// A row for the dead-letter output.
    fn dead(&mut self, row: DeadRow);
    /// Adds to a counter of this operator ("late_rows", "traps", ...).
    fn count(&mut self, counter: &'static str, n: u64);
}

pub trait Operator {
    /// Rows on one input. May return `More` after emitting about a batch.
    fn on_batch(&mut self, input: usize, batch: Batch, out: &mut dyn Collector) -> Result<Progress, Fault>;
    /// Both clocks stand at `now`. Called at each tick for operators that use time.
    fn on_time(&mut self, _now: Now, _out: &mut dyn Collector) -> Result<Progress, Fault> {
        Ok(Progress::Done)
    }
    /// Goes on after `More`.
    fn resume(&mut self, _out: &mut dyn Collector) -> Result<Progress, Fault> {
        Ok(Progress::Done)
    }
    /// Freezes what it holds, at a boundary: after `Done`, with all rows and time up to the boundary taken.
    fn snapshot(&mut self, _form: Form) -> Result<Snapshot, Fault> {
        Ok(Snapshot::default())
    }
    /// Takes in what operators of this node held on all workers, as far as this worker owns it. Called once, before
    /// anything else. A fault names what has no place here.
    fn restore(&mut self, from: &dyn Restore) -> Result<(), Fault> {
        match from.tables().first() {
            None => Ok(()),
            Some((table, _)) => {
                Err(Fault::config(format!("the snapshot holds `{table}`, but this operator keeps no state")))
            }
        }
    }
    /// Rows, groups or keys held in state, for progress and metrics.
    fn held(&self) -> u64 {
        0
    }
}

/// Where an operator runs.
#[derive(Clone, Debug)]
pub struct OperatorContext {
    /// Name of the node in the pipeline.
    pub node: String,
    pub worker: usize,
    pub workers: usize,
}

/// Builds an operator on each worker. One factory per node of the plan.
pub trait OperatorFactory: Send + Sync {
    fn build(&self, context: &OperatorContext) -> Result<Box<dyn Operator>, Fault>;
    /// Whether `on_time` does anything: others run without waiting for ticks to close.
    fn uses_time(&self) -> bool;
    /// What a manifest says of the node: operator, component, states. Name and kind are filled in by others.
    fn about(&self) -> NodeManifest {
        NodeManifest::default()
    }
}
