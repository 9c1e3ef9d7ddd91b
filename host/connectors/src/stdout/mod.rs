//! `stdout`: rows on the standard output, as they come.

mod sink;
mod table;

pub use sink::{StdoutSettings, sink};
