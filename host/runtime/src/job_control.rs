//! What can be asked of a running job, from any thread.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crossbeam_channel::{Receiver, bounded};
use tidemill_model::checkpoint::Purpose;
use tidemill_model::plan::{JobOptions, TickMode};
use tidemill_model::{Fault, limits};

use crate::checkpoint::{CheckpointStats, Command, Taken, ended};
use crate::cluster::Order;
use crate::job::Shared;
use crate::metrics::JobMetrics;

/// What can be seen and asked of a job by anyone, also after its end.
#[derive(Clone)]
pub struct JobControl(pub(crate) Arc<Shared>);

impl JobControl {
    pub fn metrics(&self) -> &JobMetrics {
        &self.0.metrics
    }

    pub fn options(&self) -> &JobOptions {
        &self.0.plan.options
    }

    /// Whether it takes checkpoints.
    pub fn is_durable(&self) -> bool {
        self.0.checkpoints.is_some()
    }

    pub fn checkpoint_stats(&self) -> Option<CheckpointStats> {
        let checkpoints = self.0.checkpoints.as_ref()?;
        Some(checkpoints.stats.lock().expect("no panic while held").clone())
    }

    /// Takes a savepoint; waits until it is stored. With `stop` the job ends at it: nothing fires, and what was
    /// written up to there is committed.
    pub fn savepoint(&self, name: &str, stop: bool) -> Result<Taken, Fault> {
        self.take(Purpose::Savepoint { name: name.to_owned() }, stop)
    }

    /// Takes a checkpoint now. With `stop` the job ends at it, to go on another time.
    pub fn checkpoint(&self, stop: bool) -> Result<Taken, Fault> {
        self.take(Purpose::Checkpoint, stop)
    }

    fn take(&self, purpose: Purpose, stop: bool) -> Result<Taken, Fault> {
        let Some(checkpoints) = &self.0.checkpoints else {
            let help = "give the pipeline `checkpoints:` with a `store`";
            return Err(Fault::config("the job takes no checkpoints").with_help(help));
        };
        let (reply, answer) = bounded(1);
        checkpoints.commands.send(Command::Take { purpose, stop, reply }).map_err(|_| ended())?;
        answer.recv().map_err(|_| ended())?
    }

    /// Asks for a checkpoint at which the job ends; does not wait.
    pub fn halt(&self) -> Halting {
        let (reply, answer) = bounded(1);
        if let Some(checkpoints) = &self.0.checkpoints {
            let _ = checkpoints.commands.send(Command::Take { purpose: Purpose::Checkpoint, stop: true, reply });
        }
        Halting(answer)
    }

    /// Asks all sources to end at the next boundary. What they have read is processed, timers and
    /// windows fire as at the end of input, sinks are flushed. Does not wait.
    pub fn stop(&self) {
        let options = self.options();
        let tick = match options.ticks {
            TickMode::Wall => {
                let now = self.0.start.elapsed().as_millis() as u64 / options.tick_ms;
                (now / limits::BOUNDARY_TICKS + 1) * limits::BOUNDARY_TICKS
            }
            TickMode::Batch => 0,
        };
        self.0.stop_at.fetch_min(tick, Ordering::SeqCst);
        if let Some(leader) = self.0.leader() {
            leader.order(&Order::Stop { tick });
        }
    }

    /// It has failed, or ended at a checkpoint: its input was not processed to an end.
    pub fn is_cut_short(&self) -> bool {
        self.0.is_aborted()
    }
}

/// A job that was asked to end at a checkpoint.
pub struct Halting(Receiver<Result<Taken, Fault>>);

impl Halting {
    /// Why the checkpoint failed, so that the job goes on: whoever still wants it to end asks again. Said once.
    pub fn failure(&self) -> Option<Fault> {
        self.0.try_recv().ok()?.err()
    }
}
