//! Rows from literals, and rows as text.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::util::display::array_value_to_string;
use tidemill_engine::driver::{Driver, Input, one_operator};
use tidemill_model::plan::{Built, EventTimeSpec};
use tidemill_model::time::WatermarkStrategy;
use tidemill_model::{Batch, ConfigError};

pub fn ints(values: impl IntoIterator<Item = impl Into<Option<i64>>>) -> ArrayRef {
    Arc::new(values.into_iter().map(Into::into).collect::<Int64Array>())
}

pub fn floats(values: impl IntoIterator<Item = impl Into<Option<f64>>>) -> ArrayRef {
    Arc::new(values.into_iter().map(Into::into).collect::<Float64Array>())
}

pub fn texts<'a>(values: impl IntoIterator<Item = impl Into<Option<&'a str>>>) -> ArrayRef {
    Arc::new(values.into_iter().map(Into::into).collect::<StringArray>())
}

/// Columns of the same length; all nullable.
pub fn rows(columns: &[(&str, ArrayRef)]) -> RecordBatch {
    let fields: Vec<Field> = columns.iter().map(|(n, c)| Field::new(*n, c.data_type().clone(), true)).collect();
    let columns = columns.iter().map(|(_, c)| c.clone()).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

pub fn schema(fields: &[(&str, DataType)]) -> SchemaRef {
    Arc::new(Schema::new(fields.iter().map(|(n, t)| Field::new(*n, t.clone(), true)).collect::<Vec<_>>()))
}

/// Each row as `a|b|c`, nulls as `-`.
pub fn lines(batches: &[Batch]) -> Vec<String> {
    let line = |batch: &Batch, row: usize| {
        let value = |c: &ArrayRef| {
            if c.is_null(row) { "-".to_owned() } else { array_value_to_string(c, row).unwrap() }
        };
        batch.rows().columns().iter().map(value).collect::<Vec<_>>().join("|")
    };
    batches.iter().flat_map(|b| (0..b.num_rows()).map(move |r| line(b, r))).collect()
}

pub fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort();
    lines
}

/// Event times of all rows.
pub fn times(batches: &[Batch]) -> Vec<i64> {
    batches.iter().flat_map(|b| b.times.as_ref().expect("event times").to_vec()).collect()
}

/// One input `in` with an event-time column and a key.
pub fn driver(built: &Built, schema: &SchemaRef, key: &[usize], time: Option<usize>, workers: usize) -> Driver {
    let strategy = WatermarkStrategy { delay_ms: i64::MAX / 4, idle_after_ms: None };
    let event_time = time.map(|column| EventTimeSpec { column, strategy });
    let input = Input { key: key.to_vec(), event_time, ..Input::new("in", schema) };
    Driver::by_hand(&one_operator("op", built, &[input]), workers, 1).unwrap()
}

/// `path: message; candidates?; help?` for comparison.
pub fn explain(error: &ConfigError) -> String {
    let mut text = format!("{}: {}", error.path.join("."), error.message);
    if let Some(help) = &error.help {
        text += &format!(" [{help}]");
    }
    text
}
