//! Rows that could not be processed, on their way to the dead-letter output.

use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use crate::fault::Fault;

/// One row that failed, with everything that is known about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadRow {
    /// The node where it failed.
    pub operator: String,
    pub error: String,
    /// The key in a readable form, for keyed operators.
    pub key: Option<String>,
    /// The row itself: JSON, or the raw text where it could not be decoded.
    pub row: String,
    /// Event time in ms since the epoch.
    pub event_time: Option<i64>,
    /// Where it was read, for rows that a source rejects: file or split.
    pub file: Option<String>,
    /// 1-based line (text formats) or row (binary formats) in `file`.
    pub line: Option<i64>,
}

impl DeadRow {
    /// The row as the error of a job that has no dead letters.
    pub fn fault(&self) -> Fault {
        let place = match (&self.file, self.line) {
            (Some(file), Some(line)) => format!("{file}:{line}: "),
            (Some(file), None) => format!("{file}: "),
            _ => String::new(),
        };
        Fault::data(format!("{place}{}", self.error))
            .with_row(self.row.clone())
            .with_help("set `on_error: dead_letter` and a `dead_letter:` sink to go on without such rows")
    }
}

/// Columns of the dead-letter output: operator, error, key, row, event_time (ms), file, line.
pub static DEAD_SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let text = |name: &str, nullable| Field::new(name, DataType::Utf8, nullable);
    Arc::new(Schema::new(vec![
        text("operator", false),
        text("error", false),
        text("key", true),
        text("row", false),
        Field::new("event_time", DataType::Int64, true),
        text("file", true),
        Field::new("line", DataType::Int64, true),
    ]))
});

/// The rows as one batch with [`DEAD_SCHEMA`].
pub fn to_rows(dead: &[DeadRow]) -> RecordBatch {
    let text = |get: fn(&DeadRow) -> Option<&str>| Arc::new(dead.iter().map(get).collect::<StringArray>()) as ArrayRef;
    let columns = vec![
        text(|d| Some(&d.operator)),
        text(|d| Some(&d.error)),
        text(|d| d.key.as_deref()),
        text(|d| Some(&d.row)),
        Arc::new(dead.iter().map(|d| d.event_time).collect::<Int64Array>()) as ArrayRef,
        text(|d| d.file.as_deref()),
        Arc::new(dead.iter().map(|d| d.line).collect::<Int64Array>()) as ArrayRef,
    ];
    RecordBatch::try_new(DEAD_SCHEMA.clone(), columns).expect("columns follow DEAD_SCHEMA")
}

/// One row of a batch as a JSON object, for messages and dead letters. Never fails: what JSON cannot
/// hold is shown as text.
pub fn row_json(rows: &RecordBatch, index: usize) -> String {
    let mut writer = arrow::json::LineDelimitedWriter::new(Vec::new());
    let one = rows.slice(index, 1);
    match writer.write(&one).and_then(|()| writer.finish()) {
        Ok(()) => String::from_utf8_lossy(&writer.into_inner()).trim_end().to_owned(),
        Err(_) => format!("{one:?}"),
    }
}
