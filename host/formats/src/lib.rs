//! File formats: CSV, NDJSON and Parquet, from bytes to Arrow columns and back.
//!
//! Nothing here opens a file or knows a path: bytes come in as a [`Section`] and leave through a
//! `Write`. Law: a row that cannot be decoded is handed out with its line and its text; the rows around
//! it are not touched, and nothing panics or is lost, whatever the bytes are.
//!
//! [`Section`]: tidemill_model::format::Section

mod column;
mod compress;
mod csv;
mod lines;
mod ndjson;
mod parquet;
mod reject;
mod text;
mod writing;

use serde_json::Value;
use tidemill_model::ConfigError;
use tidemill_model::config::Formats;
use tidemill_model::format::FormatRef;

pub use csv::{Csv, CsvOptions};
pub use ndjson::{Ndjson, NdjsonOptions};
pub use parquet::{Parquet, ParquetCompression, ParquetOptions};
pub use writing::TextCompression;

/// One format by its name in the pipeline file.
pub struct FormatKind {
    pub name: &'static str,
    pub build: fn(&Value) -> Result<FormatRef, ConfigError>,
}

/// All formats. A new one is a folder here and a line in this list.
pub const FORMATS: &[FormatKind] = &[
    FormatKind { name: "csv", build: csv::build },
    FormatKind { name: "ndjson", build: ndjson::build },
    FormatKind { name: "parquet", build: parquet::build },
];

/// The formats of [`FORMATS`].
pub struct BuiltIn;

impl Formats for BuiltIn {
    fn names(&self) -> Vec<&'static str> {
        FORMATS.iter().map(|f| f.name).collect()
    }

    fn make(&self, name: &str, options: &Value) -> Result<FormatRef, ConfigError> {
        match FORMATS.iter().find(|f| f.name == name) {
            Some(format) => (format.build)(options),
            None => Err(ConfigError::unknown(&["format"], "format", name, self.names())),
        }
    }
}
