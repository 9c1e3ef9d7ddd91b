//! The composition root: the only crate that knows all others. It turns a pipeline file into a
//! running job and is the binary `tidemill`.

pub mod build_cmd;
pub mod catalog;
pub mod check;
pub mod cluster;
pub mod control_socket;
pub mod durable;
pub mod guest_metrics;
pub mod inspect;
pub mod jobs;
pub mod new;
pub mod progress;
pub mod restarts;
pub mod run;
pub mod summary;
pub mod terminal;
pub mod upgrade;
pub mod worker;
