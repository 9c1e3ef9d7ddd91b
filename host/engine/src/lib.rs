//! The operators of Tidemill as synchronous state machines, and a deterministic driver that runs them.
//!
//! No clock, no randomness, no thread, no I/O: time comes in through `Operator::on_time`, everything else as
//! batches. Each constructor returns `model::plan::Built`, or says with a path what is wrong in the settings.
//!
//! - [`expr`]: `where:` and `select:`
//! - [`joins`]: one module per kind of join of two streams
//! - [`process`]: the user's logic: map, filter, keyed
//! - [`windows`]: one module per kind of window
//! - [`cep`]: patterns of events
//! - [`driver`]: runs a plan with virtual workers and virtual time

pub mod cep;
pub mod driver;
pub mod expr;
pub mod joins;
mod key_list;
mod poison;
pub mod process;
mod sql;
mod timers;
pub mod windows;
