//! Parquet: columns in row groups, with the schema in the file.
//!
//! Positions and line numbers are rows. A row group belongs to the section in which it begins.

mod chunks;
mod fit;
mod reader;
mod writer;

use std::io::Write;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use serde::Deserialize;
use serde_json::Value;
use tidemill_model::format::{FileFormat, FormatRef, RowReader, RowWriter, Section};
use tidemill_model::{ConfigError, Fault};

/// Settings of `format: parquet`.
///
/// Reading: columns are found by name, and only those are read. A column of another type is converted
/// if every value fits; rows whose values do not fit, or are null where that is not allowed, are rejected. Text, binary
/// and dictionary variants are read as `utf8` and `binary`, times with a zone as times in UTC.
///
/// Writing: a row group is written when it has reached 64 MiB in memory, the rest when the file is closed.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ParquetOptions {
    /// Compression of the pages written: `zstd`, `snappy` or `none`.
    pub compression: ParquetCompression,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ParquetCompression {
    #[default]
    Zstd,
    Snappy,
    None,
}

pub(crate) fn build(options: &Value) -> Result<FormatRef, ConfigError> {
    Ok(Arc::new(Parquet::new(tidemill_model::config::read(options)?)))
}

/// Parquet with its settings.
pub struct Parquet {
    options: ParquetOptions,
}

impl Parquet {
    pub fn new(options: ParquetOptions) -> Self {
        Self { options }
    }
}

impl FileFormat for Parquet {
    fn name(&self) -> &'static str {
        "parquet"
    }

    fn splittable(&self) -> bool {
        true
    }

    fn infer(&self, section: Section) -> Result<SchemaRef, Fault> {
        reader::infer(section)
    }

    fn reader(&self, section: Section, schema: SchemaRef, skip: u64) -> Result<Box<dyn RowReader>, Fault> {
        reader::open(section, schema, skip)
    }

    fn writer(&self, output: Box<dyn Write + Send>, schema: SchemaRef) -> Result<Box<dyn RowWriter>, Fault> {
        writer::open(self.options.compression, output, schema)
    }
}
