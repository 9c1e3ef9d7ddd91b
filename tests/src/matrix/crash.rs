//! Runs of the driver that are killed again and again, and go on from their last checkpoint.
//!
//! Law: a seed decides everything, so that a run that fails can be repeated.

use tidemill_engine::driver::{Checkpoint, Driver};
use tidemill_model::Fault;
use tidemill_model::plan::Plan;

use super::written::Written;
use crate::chance::Chance;

/// Lives that end in a crash; the one after them runs to the end.
const CRASHES_MAX: usize = 4;
/// Checkpoints in one life.
const CHECKPOINTS_MAX: usize = 3;
/// Events of the driver between two checkpoints: 1, 2, 4, ... Short runs have a dozen, long ones thousands.
const DOUBLINGS_MAX: usize = 9;

/// Runs a plan with the two numbers of workers in turn.
pub(super) fn run(plan: &Plan, workers: [usize; 2], seed: u64, written: &mut Written) -> Result<(), Fault> {
    let mut chance = Chance::new(seed ^ (workers[0] as u64) << 32);
    let mut last: Option<Checkpoint> = None;
    for life in 0..=1 + chance.below(CRASHES_MAX) {
        let mut driver = match &last {
            None => Driver::new(plan, workers[0], seed)?,
            Some(checkpoint) => Driver::restore(plan, workers[life % 2], seed + life as u64, checkpoint)?,
        };
        note(written)?;
        for _ in 0..chance.below(CHECKPOINTS_MAX + 1) {
            driver.run_steps(1 << chance.below(DOUBLINGS_MAX))?;
            let checkpoint = driver.checkpoint()?;
            // The crash may come before the sinks have committed: then the next life does.
            let committed = chance.below(4) > 0;
            if committed {
                driver.commit_checkpoint(&checkpoint)?;
                note(written)?;
            }
            last = Some(checkpoint);
            if !committed {
                break;
            }
        }
        driver.run_steps(chance.below(2) << chance.below(DOUBLINGS_MAX))?;
        driver.abort();
    }
    let mut driver = match &last {
        None => Driver::new(plan, workers[1], seed)?,
        Some(checkpoint) => Driver::restore(plan, workers[1], seed, checkpoint)?,
    };
    note(written)?;
    driver.run()
}

fn note(written: &mut Written) -> Result<(), Fault> {
    written.note().map_err(Fault::internal)
}
