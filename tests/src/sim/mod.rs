//! Simulation: a job lives, fails and lives again in one thread, by a seed.
//!
//! The driver of the engine runs real operators, windows and state backends in virtual time; what it holds at a boundary goes through the
//! runtime's checkpointer into the real store and into real file sinks, and comes back through the runtime's start. What fails is chosen by the
//! seed: crashes at any request to the store and at any commit, requests that fail, get lost or come late, half of the bytes
//! of an object, traps, sources and sinks that fail, slow operators, a run that was taken for dead and goes on. Operators get other versions, which
//! stay or have to go.
//!
//! Laws that it checks: what sinks show is a part of what the undisturbed run shows at any time, and the same at the end; each
//! checkpoint that was published restores with other workers and on another backend, and gives the rest; the watermark and the clock of no
//! operator go back; queues and open ticks are bounded; an older generation publishes and commits nothing. And the same seed
//! gives the same trace.

mod catalog;
mod check;
mod input;
mod life;
mod logic;
mod operator;
mod shape;
mod sink;
mod store;
mod story;
mod trial;
mod version;
mod wire;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Lets the story of a seed happen: its trace, or what went wrong, with the trace.
pub fn run(seed: u64) -> Result<Vec<String>, String> {
    tell(seed, false)
}

/// The same with a store that keeps half of an object and says that all is there: where that happens, something goes wrong.
pub fn run_with_a_broken_store(seed: u64) -> Result<Vec<String>, String> {
    tell(seed, true)
}

fn tell(seed: u64, accepts_torn: bool) -> Result<Vec<String>, String> {
    let mut story = story::Story::new(seed, accepts_torn)?;
    let outcome = catch_unwind(AssertUnwindSafe(|| story.run()))
        .unwrap_or_else(|panic| Err(format!("a panic: {}", tidemill_model::panics::text(&*panic))));
    let trace = story.trace();
    match outcome {
        Ok(()) => Ok(trace),
        Err(what) => Err(format!("{}\n{what}", trace.join("\n"))),
    }
}
