//! Event times out of a source's rows.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::buffer::ScalarBuffer;
use arrow::compute::{filter_record_batch, is_not_null};
use arrow::datatypes::{
    DataType, Int64Type, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType,
};

use crate::dead::{DeadRow, row_json};
use crate::fault::Fault;

/// Whether a column of this type can be an event time.
pub fn is_event_time(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Int64 | DataType::Timestamp(_, _))
}

/// Event time of each row in ms. Rows without one are taken out and come back as dead rows.
pub fn extract(
    rows: RecordBatch,
    column: usize,
    source: &str,
) -> Result<(RecordBatch, ScalarBuffer<i64>, Vec<DeadRow>), Fault> {
    let array = rows.column(column);
    if array.null_count() == 0 {
        let times = millis(array.as_ref())?;
        return Ok((rows, times, Vec::new()));
    }
    let schema = rows.schema();
    let name = schema.field(column).name();
    let dead = (0..rows.num_rows()).filter(|&i| array.is_null(i)).map(|i| DeadRow {
        operator: source.to_owned(),
        error: format!("the event time `{name}` is null"),
        row: row_json(&rows, i),
        ..DeadRow::default()
    });
    let dead: Vec<DeadRow> = dead.collect();
    let rows = filter_record_batch(&rows, &is_not_null(array)?)?;
    let times = millis(rows.column(column).as_ref())?;
    Ok((rows, times, dead))
}

fn millis(array: &dyn Array) -> Result<ScalarBuffer<i64>, Fault> {
    Ok(match array.data_type() {
        DataType::Int64 => array.as_primitive::<Int64Type>().values().clone(),
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            array.as_primitive::<TimestampMillisecondType>().values().clone()
        }
        DataType::Timestamp(TimeUnit::Second, _) => {
            array.as_primitive::<TimestampSecondType>().values().iter().map(|s| s.saturating_mul(1000)).collect()
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            array.as_primitive::<TimestampMicrosecondType>().values().iter().map(|us| us.div_euclid(1000)).collect()
        }
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            array.as_primitive::<TimestampNanosecondType>().values().iter().map(|ns| ns.div_euclid(1_000_000)).collect()
        }
        other => return Err(Fault::internal(format!("{other} is no event time; the check should have said so"))),
    })
}
