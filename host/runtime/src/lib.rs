//! Runs a plan on timely dataflow: workers, ticks, the control stream, exchange and flow control.
//!
//! The only crate that knows timely. Operators, sources and sinks come behind the traits of
//! `tidemill-model`; this crate never looks inside a row. Faults travel as values to the job, which
//! stops all workers; nothing here panics on the user's account.

mod barrier;
mod checkpoint;
pub mod cluster;
mod control;
mod exchange;
mod flow;
mod frame;
mod job;
mod job_control;
mod keeper;
pub mod metrics;
mod operator;
mod priority;
mod restore;
mod shadow;
mod sink;
mod source;
mod stepped;
mod swap;
mod upgrade;
mod worker;

pub use checkpoint::{CheckpointStats, Durability, LastCheckpoint, Phase, Taken};
pub use job::{Ending, JobHandle, JobSummary, PhaseHook, StartOptions, start, start_with};
pub use job_control::{Halting, JobControl};
pub use metrics::{JobMetrics, NodeMetrics};
pub use restore::{DEAD_LETTER, StartFrom};
pub use shadow::ShadowReport;
pub use stepped::Stepped;
pub use upgrade::{Loader, NewComponent, Upgrade};
