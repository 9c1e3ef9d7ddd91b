//! Sources and sinks: one folder per connector, and the list of all of them in [`registry`].
//!
//! A connector reads its settings into a struct whose doc comments are its manual, and builds itself
//! from it. Laws: a source's splits and positions mean the same after a restart; a sink shows nothing
//! before `commit`, except where it says so; what the world outside does wrong is an error that names
//! the file.

pub mod blackhole;
pub mod columns;
pub mod datagen;
pub mod file;
pub mod nexmark;
pub mod registry;
pub mod stdout;

mod random;
mod rate;
mod share;
mod texts;

pub use registry::{SINKS, SOURCES, SinkKind, SourceKind, sink, source};
