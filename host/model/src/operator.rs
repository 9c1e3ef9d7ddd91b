//! An operator as the engine sees it: a synchronous state machine without clock, thread or socket.
//!
//! Laws: rows may come in any order across inputs; time advances only through `on_time` and never
//! goes back; what is emitted in `on_time(now)` belongs to the tick that closes with `now`; after
//! `Progress::More` the caller calls `resume` until `Done` before anything else.

use std::any::Any;
use std::sync::Arc;

use crate::batch::Batch;
use crate::checkpoint::NodeManifest;
use crate::dead::DeadRow;
use crate::fault::Fault;
use crate::logic::LogicFactory;
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
    /// Goes on with other logic, opened by [`Successor::open`], on trial: until [`Operator::settle`] it can go back. At a boundary, as
    /// `snapshot`. From now on a call that traps or can't migrate a value is an error, and has done nothing that `settle` does
    /// not undo.
    fn swap(&mut self, _next: OpenedLogic) -> Result<(), Fault> {
        Err(Fault::internal("this operator has no logic to swap"))
    }
    /// Ends a trial. `keep`: the new logic stays. Else the operator is as it was when it was swapped; whoever drives it
    /// repeats the calls since then.
    fn settle(&mut self, _keep: bool) -> Result<(), Fault> {
        Ok(())
    }
}

/// Logic that was opened on behalf of one worker; only the operator that it is for knows what is inside.
pub type OpenedLogic = Box<dyn Any + Send>;

/// Another version of a node's logic, checked against what the node is connected to and against the state that it holds.
pub trait Successor: Send + Sync {
    /// What will become of each state, for people.
    fn changes(&self) -> &[StateChange];
    /// Opens it for a worker. Takes its time, so it is done on another thread while the node still runs.
    fn open(&self, context: &OperatorContext) -> Result<OpenedLogic, Fault>;
    /// What builds the node from now on.
    fn factory(&self) -> Arc<dyn OperatorFactory>;
}

/// What becomes of one state when the logic is replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateChange {
    pub state: String,
    pub fate: StateFate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateFate {
    Kept,
    /// It starts empty.
    New,
    /// The values are migrated as they are used, and the rest little by little.
    Migrated {
        from: u32,
        to: u32,
    },
    /// Given up, as the user said.
    Dropped,
}

impl std::fmt::Display for StateChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = &self.state;
        match self.fate {
            StateFate::Kept => write!(f, "state {state}: kept"),
            StateFate::New => write!(f, "state {state}: new, starts empty"),
            StateFate::Migrated { from, to } => write!(f, "state {state}: migrated from version {from} to {to}"),
            StateFate::Dropped => write!(f, "state {state}: dropped"),
        }
    }
}

/// Where an operator runs.
#[derive(Clone, Debug)]
pub struct OperatorContext {
    /// Name of the node in the pipeline.
    pub node: String,
    pub worker: usize,
    pub workers: usize,
    /// The wall clock, ms since the epoch: it goes on from there. Virtual time in tests.
    pub processing_ms: i64,
}

impl OperatorContext {
    /// Both clocks before the first row.
    pub fn start(&self) -> Now {
        Now { processing_ms: self.processing_ms, ..Now::START }
    }
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
    /// The same node with other logic: refused, with the reason, if it does not fit the edges or the state. `dropped`: names of states that
    /// the user gives up.
    fn successor(&self, _logic: Arc<dyn LogicFactory>, _dropped: &[String]) -> Result<Arc<dyn Successor>, Fault> {
        Err(Fault::config("its logic comes from no component")
            .with_help("stop the job at a savepoint, change the pipeline, and start it with `--from`"))
    }
}
