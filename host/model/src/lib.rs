//! The vocabulary of Tidemill and the ports between its crates.
//!
//! Everything here is data or a trait: no I/O, no clock, no randomness, no threads. `model` knows no
//! other crate of the workspace; all others know it.

pub mod batch;
pub mod checkpoint;
pub mod component;
pub mod config;
pub mod dead;
pub mod entries;
pub mod event_time;
pub mod fault;
pub mod format;
pub mod int_table;
pub mod join;
pub mod key;
pub mod limits;
pub mod logic;
pub mod operator;
pub mod panics;
pub mod plan;
pub mod remote;
pub mod schema;
pub mod sink;
pub mod snapshot;
pub mod source;
pub mod state;
pub mod time;
pub mod window;
mod zeroed;

pub use batch::Batch;
pub use config::ConfigError;
pub use dead::DeadRow;
pub use fault::{Fault, FaultKind};
pub use operator::{Collector, Operator, OperatorContext, OperatorFactory, Progress};
pub use plan::Plan;
