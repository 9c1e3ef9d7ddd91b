//! Rows that are given in the pipeline file.

use std::io::Cursor;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::json::ReaderBuilder;
use arrow::json::reader::infer_json_schema_from_iterator;
use serde_json::{Map, Value};
use tidemill_model::ConfigError;

/// The rows as one batch. Without a schema, columns are told from the values; all of them may be null then.
pub(super) fn rows(elements: &[Map<String, Value>], schema: Option<SchemaRef>) -> Result<RecordBatch, ConfigError> {
    let wrong = |message: String| ConfigError::new(&["elements"], message);
    let objects = || elements.iter().cloned().map(Value::Object);
    let schema = match schema {
        Some(schema) => schema,
        None => {
            let found = infer_json_schema_from_iterator(objects().map(Ok)).map_err(|e| wrong(e.to_string()))?;
            // Columns in the order of the first row.
            let mut fields: Vec<_> = found.fields().iter().cloned().collect();
            let first: Vec<&String> = elements.first().map(|row| row.keys().collect()).unwrap_or_default();
            fields.sort_by_key(|f| first.iter().position(|&name| name == f.name()).unwrap_or(usize::MAX));
            Arc::new(Schema::new(fields))
        }
    };
    if schema.fields().is_empty() {
        return Err(wrong("there are no columns: give at least one row that is not empty".to_owned()));
    }
    let mut builder = ReaderBuilder::new(schema.clone()).with_strict_mode(true);
    builder = builder.with_batch_size(elements.len().max(1));
    let text: String = objects().map(|row| format!("{row}\n")).collect();
    let reader = builder.build(Cursor::new(text.as_bytes())).map_err(|e| wrong(e.to_string()))?;
    let batches =
        reader.collect::<Result<Vec<_>, _>>().map_err(|e| wrong(explain(elements, &schema, &e.to_string())))?;
    arrow::compute::concat_batches(&schema, &batches).map_err(|e| wrong(e.to_string()))
}

/// Which row is to blame: the first that cannot be read alone.
fn explain(elements: &[Map<String, Value>], schema: &SchemaRef, all: &str) -> String {
    for (i, row) in elements.iter().enumerate() {
        let text = format!("{}\n", Value::Object(row.clone()));
        let reader = ReaderBuilder::new(schema.clone()).with_strict_mode(true).build(Cursor::new(text.as_bytes()));
        if let Some(error) = reader.ok().and_then(|mut reader| reader.next()?.err()) {
            return format!("row {}: {error}", i + 1);
        }
    }
    all.to_owned()
}
