//! NDJSON (also called JSON Lines): one JSON object per line.

mod cursor;
mod decode;
mod infer;
mod writer;

use std::io::Write;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use serde::Deserialize;
use serde_json::Value;
use tidemill_model::format::{FileFormat, FormatRef, RowReader, RowWriter, Section};
use tidemill_model::{ConfigError, Fault};

use crate::column::Record;
use crate::lines::Lines;
use crate::reject::Flaw;
use crate::text::{Found, RowDecoder, Step, TextReader};
use crate::writing::TextCompression;

/// Settings of `format: ndjson`.
///
/// Reading: columns are found by key, in any order; other keys are passed over; of a key that stands
/// twice the last value counts; a missing key is null. Numbers must fit their column exactly (`1.0`
/// and `1e3` are integers, `1.5` is none); times are ISO 8601 text in UTC or whole units of the column
/// since 1970; `binary` is text of hexadecimal digits; decimals are numbers or text. Blank lines are passed
/// over. A line that does not fit is rejected as a whole.
///
/// Writing: one object per row, without the keys of null values. NaN and infinity, which JSON lacks, are
/// written as null.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NdjsonOptions {
    /// Compression of files written: `none`, `gzip` or `zstd`. Files read are told by their ending.
    pub compression: TextCompression,
}

pub(crate) fn build(options: &Value) -> Result<FormatRef, ConfigError> {
    Ok(Arc::new(Ndjson::new(tidemill_model::config::read(options)?)))
}

/// NDJSON with its settings.
pub struct Ndjson {
    options: NdjsonOptions,
}

impl Ndjson {
    pub fn new(options: NdjsonOptions) -> Self {
        Self { options }
    }
}

impl FileFormat for Ndjson {
    fn name(&self) -> &'static str {
        "ndjson"
    }

    fn ending(&self) -> String {
        format!("ndjson{}", self.options.compression.of().ending())
    }

    fn splittable(&self) -> bool {
        true
    }

    fn infer(&self, section: Section) -> Result<SchemaRef, Fault> {
        infer::schema(Lines::open(section)?)
    }

    fn reader(&self, section: Section, schema: SchemaRef, skip: u64) -> Result<Box<dyn RowReader>, Fault> {
        let record = Record::new(schema.fields()).map_err(|e| Fault::config(format!("`{}`: {e}", section.name)))?;
        let start = section.start;
        let mut lines = Lines::open(section)?;
        lines.start_at(start, skip)?;
        Ok(Box::new(TextReader { lines, schema, record, decoder: JsonRows }))
    }

    fn writer(&self, output: Box<dyn Write + Send>, schema: SchemaRef) -> Result<Box<dyn RowWriter>, Fault> {
        writer::open(output, &schema, self.options.compression.of())
    }
}

struct JsonRows;

impl RowDecoder for JsonRows {
    fn row(&mut self, region: &[u8], utf8: bool, _all: bool, record: &mut Record) -> Step {
        let bytes = memchr::memchr(b'\n', region).map_or(region.len(), |i| i + 1);
        let line = &region[..bytes];
        let found = if line.trim_ascii().is_empty() {
            Found::Blank
        } else if !utf8 && let Err(error) = std::str::from_utf8(line) {
            Found::Flaw(Flaw::new(format!("invalid UTF-8 at byte {} of the line", error.valid_up_to() + 1)))
        } else {
            match decode::row(line, record) {
                Ok(()) => Found::Row,
                Err(flaw) => Found::Flaw(flaw),
            }
        };
        Step { bytes, lines: 1, found }
    }
}
