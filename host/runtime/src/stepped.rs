//! A job whose operators somebody else runs, for simulations: how it starts, its checkpoints and its end are those of any other job, but
//! there are no workers, threads or ticks.
//!
//! Law: all that is stored and committed goes the way that it goes in a job.

use std::sync::Arc;

use tidemill_model::checkpoint::{Part, Purpose, SplitState};
use tidemill_model::snapshot::Restore;
use tidemill_model::{Fault, Plan};

use crate::checkpoint::{Checkpointer, Phase, Taken, ended};
use crate::cluster::Leader;
use crate::job::{Shared, StartOptions, set_up};
use crate::keeper::Keeper;

pub struct Stepped {
    shared: Arc<Shared>,
    checkpointer: Checkpointer,
}

/// A job that has begun, but for its threads.
pub(crate) struct SetUp {
    pub shared: Arc<Shared>,
    pub keeper: Arc<Keeper>,
    pub checkpointer: Option<Checkpointer>,
    pub leader: Option<Arc<Leader>>,
}

impl Stepped {
    /// Everything that a start does before it makes workers. It needs `durability`.
    pub fn begin(plan: Plan, options: StartOptions) -> Result<Self, Fault> {
        let SetUp { shared, checkpointer, .. } = set_up(plan, options)?;
        // Parts are handed over when all are there: nobody is waited for.
        (0..=shared.plan.nodes.len()).for_each(|node| {
            (0..shared.workers).for_each(|worker| shared.barriers.leave(node, worker, None));
        });
        let checkpointer = checkpointer.ok_or_else(|| Fault::internal("a job that is stepped takes checkpoints"))?;
        Ok(Self { shared, checkpointer })
    }

    /// What there is to read, by node.
    pub fn splits(&self) -> &[Vec<SplitState>] {
        &self.shared.splits
    }

    /// What an operator on a worker goes on with.
    pub fn state(&self, node: &str, worker: usize) -> Result<Option<Box<dyn Restore + '_>>, Fault> {
        let Some(from) = &self.shared.from else { return Ok(None) };
        let Some(state) = from.operator(node, worker, self.shared.workers)? else { return Ok(None) };
        self.shared.reach(Phase::Restore);
        Ok(Some(Box::new(state)))
    }

    /// Stores what all parts held at one boundary, publishes it, and commits.
    pub fn checkpoint(&self, purpose: &Purpose, stop: bool, parts: Vec<Part>) -> Result<Taken, Fault> {
        self.hand_over(parts);
        let mut why = None;
        let taken = self.checkpointer.take(purpose, stop, &mut |fault| why = Some(fault));
        taken.ok_or_else(|| why.unwrap_or_else(ended))
    }

    /// All input was read, and sinks have prepared the rest.
    pub fn end(&self, parts: Vec<Part>) -> Result<(), Fault> {
        self.hand_over(parts);
        self.checkpointer.end(false)
    }

    fn hand_over(&self, parts: Vec<Part>) {
        parts.into_iter().for_each(|part| self.shared.barriers.leave(part.node, part.worker, Some(part)));
    }
}
