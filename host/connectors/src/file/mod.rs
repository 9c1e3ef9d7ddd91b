//! `file`: files of the formats that are built in, on the local file system.

mod disk;
mod listing;
mod settings;
mod sink;
mod source;

pub use settings::{FileSinkSettings, FileSourceSettings};
pub use sink::sink;
pub use source::source;
