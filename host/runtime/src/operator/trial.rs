//! New logic on trial, and a shadow beside the logic that runs: where an operator's calls are kept or told.

use std::sync::Arc;

use tidemill_model::snapshot::Form;
use tidemill_model::time::Now;
use tidemill_model::{Batch, Fault};
use timely::dataflow::operators::Capability;

use super::sender::Buffer;
use super::{OperatorState, Turn};
use crate::shadow::Told;
use crate::swap::{Swap, Verdict};

/// One call of the operator, and the time at which it may send.
#[derive(Clone)]
pub(super) struct Call {
    pub(super) what: What,
    pub(super) caps: Vec<Capability<u64>>,
}

#[derive(Clone)]
pub(super) enum What {
    Batch(usize, Batch),
    Time(Now),
}

/// The first calls of new logic.
pub(super) struct Trial {
    pub(super) swap: Arc<Swap>,
    pub(super) calls: Vec<Call>,
    /// What they emitted, held back.
    pub(super) emitted: Vec<(Vec<Capability<u64>>, Buffer)>,
    /// One has failed: no more are made.
    pub(super) has_failed: bool,
}

/// Calls after which a trial waits for the verdict.
pub(super) const TRIAL_CALLS_MAX: usize = 64;

impl OperatorState {
    /// Begins to tell a shadow, when it is time.
    pub(super) fn shadow(&mut self) -> Result<(), Fault> {
        let Some(shadow) = self.context.shared.shadow_of(self.sender.node) else { return Ok(()) };
        let Some(tell) = shadow.take(self.context.worker) else { return Ok(()) };
        let snapshot = self.operator.snapshot(Form::Portable)?;
        let now = self.clock.as_ref().map_or(Now::START, |clock| clock.now);
        self.shadow = Some((shadow, tell));
        self.tell(|| Told::Begin(Box::new(snapshot), now));
        Ok(())
    }

    pub(super) fn tell(&mut self, message: impl FnOnce() -> Told) {
        if self.shadow.as_ref().is_some_and(|(_, tell)| !tell.tell(message())) {
            self.shadow = None;
        }
    }

    /// Begins a trial or ends it, when it is time.
    pub(super) fn swap(&mut self) -> Result<Option<Turn>, Fault> {
        let Some(trial) = &self.trial else {
            let Some(swap) = self.context.shared.swap_of(self.sender.node) else { return Ok(None) };
            let Some(logic) = swap.take(self.context.worker) else { return Ok(None) };
            let begun = self.operator.swap(logic);
            let has_failed = begun.is_err();
            if let Err(fault) = begun {
                swap.failed(fault);
            }
            self.trial = Some(Trial { swap, calls: Vec::new(), emitted: Vec::new(), has_failed });
            return Ok(Some(Turn::Worked));
        };
        let keep = match trial.swap.verdict() {
            Verdict::Open | Verdict::Sealed => return Ok(None),
            Verdict::Keep => true,
            Verdict::GoBack => false,
        };
        let Some(trial) = self.trial.take() else { return Ok(None) };
        self.operator.settle(keep)?;
        if keep {
            for (caps, buffer) in trial.emitted {
                self.sender.buffer = buffer;
                self.sender.send(&caps)?;
            }
        } else {
            self.unfinished = None;
            self.sender.buffer = Buffer::default();
            self.repeat = trial.calls.into();
        }
        self.release_closed();
        trial.swap.settled(self.context.worker);
        Ok(Some(Turn::Worked))
    }

    /// A fault of logic on trial is the end of the trial, not of the job.
    pub(super) fn on_trial(&mut self, turn: Result<Turn, Fault>) -> Result<Turn, Fault> {
        let Some(trial) = &mut self.trial else { return turn };
        let Err(fault) = &turn else {
            // A tick that fires nothing says nothing about the logic.
            let called = trial.calls.iter().any(|call| matches!(call.what, What::Batch(..)));
            let has_emitted = trial.emitted.iter().any(|(_, buffer)| !buffer.rows.is_empty());
            trial.swap.end_call(self.context.worker, called || has_emitted);
            return turn;
        };
        let name = &self.context.shared.plan.nodes[self.sender.node].name;
        trial.swap.failed(fault.clone().at(name).on_worker(self.context.worker));
        trial.has_failed = true;
        Ok(Turn::Worked)
    }
}
