//! CSV (RFC 4180, with the freedoms that files in the wild take).

mod fields;
mod infer;
mod reader;
mod writer;

use std::io::Write;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use serde::Deserialize;
use serde_json::Value;
use tidemill_model::format::{FileFormat, FormatRef, RowReader, RowWriter, Section};
use tidemill_model::{ConfigError, Fault};

pub(crate) use reader::no_column;

use crate::writing::TextCompression;

/// Settings of `format: csv`.
///
/// Reading: columns are found by the names in the header, in any order, and other columns of the file are passed over.
/// A row with more or fewer fields than the header, or with a value that does not fit its column, is rejected as a
/// whole. A field may stand in quotes; a quote inside is doubled. Lines end with LF or CRLF; blank lines are passed
/// over, unless the file has one column only. Numbers must fit their column exactly; times are ISO 8601 in UTC or
/// whole units of the column since 1970; bool is `true` or `false`; `binary` is hexadecimal digits. Spaces around a
/// value are ignored except in text columns.
///
/// An empty field without quotes is null (see `nulls`); in a `utf8` column that is not nullable it is empty text.
///
/// If a row breaks off inside quotes, its first line is rejected and reading goes on with the next line.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CsvOptions {
    /// Whether the first line holds the names of the columns. Without it the columns are those of the pipeline,
    /// in their order.
    pub header: bool,
    /// What stands between two fields: one ASCII character, `\t` for tab.
    pub delimiter: String,
    /// What a field may be wrapped in: one ASCII character.
    pub quote: String,
    /// Fields without quotes that mean null, such as `NA`. The empty field by default.
    pub nulls: Vec<String>,
    /// Whether a field in quotes may contain line feeds. If not, a file can be cut into ranges that are read in
    /// parallel, and a forgotten quote costs its own line only.
    pub multiline: bool,
    /// Compression of files written: `none`, `gzip` or `zstd`. Files read are told by their ending.
    pub compression: TextCompression,
}

impl Default for CsvOptions {
    fn default() -> Self {
        Self {
            header: true,
            delimiter: ",".to_owned(),
            quote: "\"".to_owned(),
            nulls: vec![String::new()],
            multiline: true,
            compression: TextCompression::None,
        }
    }
}

/// The characters that give CSV its structure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dialect {
    delimiter: u8,
    quote: u8,
    multiline: bool,
}

pub(crate) fn build(options: &Value) -> Result<FormatRef, ConfigError> {
    Ok(Arc::new(Csv::new(tidemill_model::config::read(options)?)?))
}

/// CSV with its settings.
#[derive(Clone, Debug)]
pub struct Csv {
    options: CsvOptions,
    dialect: Dialect,
}

impl Csv {
    pub fn new(options: CsvOptions) -> Result<Self, ConfigError> {
        let delimiter = ascii("delimiter", &options.delimiter)?;
        let quote = ascii("quote", &options.quote)?;
        if delimiter == quote {
            return Err(ConfigError::new(&["quote"], "`delimiter` and `quote` are the same character"));
        }
        let dialect = Dialect { delimiter, quote, multiline: options.multiline };
        Ok(Self { options, dialect })
    }
}

fn ascii(key: &str, text: &str) -> Result<u8, ConfigError> {
    match text.as_bytes() {
        b"\\t" => Ok(b'\t'),
        [byte] if byte.is_ascii() && !matches!(byte, b'\n' | b'\r') => Ok(*byte),
        _ => Err(ConfigError::new(&[key], format!("`{text}` is not one ASCII character (`\\t` for tab)"))),
    }
}

impl FileFormat for Csv {
    fn name(&self) -> &'static str {
        "csv"
    }

    fn ending(&self) -> String {
        format!("csv{}", self.options.compression.of().ending())
    }

    fn splittable(&self) -> bool {
        !self.options.multiline
    }

    fn infer(&self, section: Section) -> Result<SchemaRef, Fault> {
        infer::schema(self, section)
    }

    fn reader(&self, section: Section, schema: SchemaRef, skip: u64) -> Result<Box<dyn RowReader>, Fault> {
        reader::open(self, section, schema, skip)
    }

    fn writer(&self, output: Box<dyn Write + Send>, schema: SchemaRef) -> Result<Box<dyn RowWriter>, Fault> {
        writer::open(self, output, &schema)
    }
}
