//! Formats of files: rows in, bytes out, and back.

use std::io::{Read, Seek, Write};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use crate::dead::DeadRow;
use crate::fault::Fault;

/// Bytes that can be read from any place.
pub trait ReadSeek: Read + Seek + Send {}
impl<T: Read + Seek + Send> ReadSeek for T {}

/// What a reader starts from: a file, or a byte range of it that begins and ends anywhere.
pub struct Section {
    /// Shown in errors and dead letters.
    pub name: String,
    /// Stands at byte 0.
    pub input: Box<dyn ReadSeek>,
    /// Rows that begin in `start..end` belong to this section.
    pub start: u64,
    pub end: u64,
    /// Whether the bytes are compressed (by the name's ending): then `start` is 0 and `end` the length.
    pub compression: Compression,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Compression {
    #[default]
    None,
    Gzip,
    Zstd,
}

impl Compression {
    /// By the ending of a file name: `.gz` and `.zst`.
    pub fn of(name: &str) -> Self {
        let ends = |ending: &str| name.len() > ending.len() && name.to_ascii_lowercase().ends_with(ending);
        match () {
            () if ends(".gz") => Self::Gzip,
            () if ends(".zst") => Self::Zstd,
            () => Self::None,
        }
    }

    /// What is appended to the ending of a file: empty, `.gz` or `.zst`.
    pub fn ending(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Gzip => ".gz",
            Self::Zstd => ".zst",
        }
    }
}

/// Rows of one read, and those that could not be decoded (with file and line).
#[derive(Debug)]
pub struct Decoded {
    pub rows: RecordBatch,
    pub rejected: Vec<DeadRow>,
}

pub trait RowReader: Send {
    /// Up to `rows` rows, good and rejected ones together; fewer if they are large, perhaps none; `None` at the end.
    fn read(&mut self, rows: usize) -> Result<Option<Decoded>, Fault>;
    /// Behind the last row returned: an offset that `FileFormat::reader` takes back as `skip`.
    fn position(&self) -> u64;
}

pub trait RowWriter: Send {
    fn write(&mut self, rows: &RecordBatch) -> Result<(), Fault>;
    /// Pushes buffered rows to the file where the format allows it.
    fn flush(&mut self) -> Result<(), Fault>;
    fn finish(&mut self) -> Result<(), Fault>;
}

/// A configured format.
pub trait FileFormat: Send + Sync {
    /// "csv", "ndjson", "parquet".
    fn name(&self) -> &'static str;
    /// Ending of files written, without the leading dot: the name, and that of the compression.
    fn ending(&self) -> String {
        self.name().to_owned()
    }
    /// Whether a file can be cut into byte ranges that are read independently.
    fn splittable(&self) -> bool;
    /// Schema as the file shows it, for pipelines that name none.
    fn infer(&self, section: Section) -> Result<SchemaRef, Fault>;
    /// Reads rows with `schema`; `skip` is a position from an earlier reader of the same section, 0 = from the start.
    fn reader(&self, section: Section, schema: SchemaRef, skip: u64) -> Result<Box<dyn RowReader>, Fault>;
    fn writer(&self, output: Box<dyn Write + Send>, schema: SchemaRef) -> Result<Box<dyn RowWriter>, Fault>;
}

/// Shared because sources open one reader per split.
pub type FormatRef = Arc<dyn FileFormat>;
