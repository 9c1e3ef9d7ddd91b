//! `file`: files of the formats that are built in, on the local file system or in buckets on S3.

mod bucket;
mod disk;
mod identity;
mod listing;
mod part;
mod remote;
mod run;
mod settings;
mod sink;
mod source;
mod time_pattern;
mod writer;

pub use settings::{FileSinkSettings, FileSourceSettings};
pub use sink::sink;
pub use source::source;
