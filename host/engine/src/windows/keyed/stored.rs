//! Windows of keys as the table `windows` of a snapshot: one row per window, with the state of each aggregate.
//!
//! Laws: the key group of a row is the one that the exchange uses; what is due follows from the clocks and is not stored. Sorting and
//! encoding happen in the iterator.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Float64Array, Int64Array, RecordBatch, UInt32Array,
    UInt64Array,
};
use arrow::compute::take;
use arrow::datatypes::{DataType, Float64Type, Int64Type, SchemaRef, UInt64Type};
use tidemill_model::Fault;
use tidemill_model::schema::type_name;
use tidemill_model::snapshot::{ByGroup, CHUNK_BYTES_MAX, CHUNK_ROWS_MAX, Restore, Table, key_group_field};
use tidemill_model::window::{Gap, WindowSpec, Windows};

use super::super::aggregate::{Aggregates, Result as Aggregated};
use super::super::stored::{calls, check};
use super::contents::Contents;
use super::keys::Keys;
use super::store::{Firing, NEVER, Store, Window};
use super::{field, with_settings};

const TABLE: &str = "windows";
/// Columns in front of those of the aggregates: key group, key, and those of a window.
const OWN_COLUMNS: usize = 9;

/// Columns of the table. `settings` say what windows these are: others are of no use.
pub(super) fn schema(
    aggregates: &Aggregates,
    settings: BTreeMap<String, String>,
) -> Aggregated<arrow::datatypes::Schema> {
    let mut fields = vec![
        key_group_field(),
        field("key", DataType::Binary, false),
        field("start", DataType::Int64, false),
        field("end", DataType::Int64, false),
        field("max_time", DataType::Int64, false),
        field("fire_at", DataType::Int64, false),
        field("rows", DataType::UInt64, false),
        field("last", DataType::Float64, true),
        field("filled", DataType::Boolean, false),
    ];
    fields.extend(aggregates.state_fields()?.into_iter().flatten());
    Ok(with_settings(fields, settings))
}

/// What the settings of [`schema`] say of a window.
pub(super) fn settings(spec: &WindowSpec, key: &[DataType]) -> BTreeMap<String, String> {
    let windows = match &spec.windows {
        Windows::Tumbling { size_ms } => format!("tumbling {size_ms} ms"),
        Windows::Sliding { size_ms, slide_ms } => format!("sliding {size_ms} ms each {slide_ms} ms"),
        Windows::Cumulate { size_ms, step_ms } => format!("cumulate {size_ms} ms each {step_ms} ms"),
        // Sessions that are there keep their ends when the gap changes.
        Windows::Session(Gap::Ms(_) | Gap::Of(_)) => "session".to_owned(),
        Windows::Global => "global".to_owned(),
    };
    let key: Vec<String> = key.iter().map(type_name).collect();
    let own = [
        ("windows", windows),
        ("time", format!("{:?}", spec.time).to_lowercase()),
        ("offset_ms", spec.offset_ms.to_string()),
        ("key", key.join(", ")),
    ];
    own.into_iter().map(|(name, value)| (name.to_owned(), value)).chain(calls(&spec.aggregates)).collect()
}

/// The windows as they are now.
pub(super) fn table(schema: SchemaRef, store: &Store, keys: &Keys, contents: &Contents) -> Aggregated<Table> {
    let slots: Vec<u32> = store.live().collect();
    let windows = || slots.iter().map(|&slot| &store[slot]);
    let firing = || slots.iter().map(|&slot| &store.firing[slot as usize]);
    let numbers = |of: fn(&Window) -> i64| Arc::new(Int64Array::from_iter_values(windows().map(of))) as ArrayRef;
    let of_firing = |of: fn(&Firing) -> i64| Arc::new(Int64Array::from_iter_values(firing().map(of))) as ArrayRef;
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(BinaryArray::from_iter_values(windows().map(|window| keys.bytes(window.key)))),
        numbers(|window| window.start),
        numbers(|window| window.end),
        of_firing(|firing| firing.max_time),
        of_firing(|firing| firing.fire_at.min(firing.fired_at)),
        Arc::new(UInt64Array::from_iter_values(firing().map(|firing| firing.rows))),
        Arc::new(firing().map(|firing| firing.last).collect::<Float64Array>()),
        Arc::new(windows().map(|window| Some(window.filled)).collect::<BooleanArray>()),
    ];
    columns.extend(contents.take(&slots)?);
    let groups: Vec<u16> = windows().map(|window| keys.key_group(window.key) as u16).collect();
    let bytes: usize = columns.iter().map(|column| column.get_array_memory_size()).sum();
    let chunk_rows = (CHUNK_BYTES_MAX / (bytes / slots.len().max(1)).max(1)).clamp(1, CHUNK_ROWS_MAX);
    let chunks = Rows { schema: schema.clone(), groups, columns, chunk_rows, order: None, next: 0 };
    Ok(Table { name: TABLE.to_owned(), schema, chunks: Box::new(chunks) })
}

struct Rows {
    schema: SchemaRef,
    groups: Vec<u16>,
    /// Without the key group.
    columns: Vec<ArrayRef>,
    chunk_rows: usize,
    /// Rows by key group, made by whoever reads.
    order: Option<ByGroup>,
    next: usize,
}

impl Iterator for Rows {
    type Item = Result<RecordBatch, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        let sort = || ByGroup::sort(|| 0..self.groups.len() as u32, |row| u32::from(self.groups[row as usize]));
        let order = self.order.take().unwrap_or_else(sort);
        let first = self.next;
        self.next = self.groups.len().min(first + self.chunk_rows);
        let chunk = || {
            let rows = UInt32Array::from(order.items[first..self.next].to_vec());
            let mut columns: Vec<ArrayRef> = vec![Arc::new(order.groups(first..self.next))];
            for column in &self.columns {
                columns.push(take(column, &rows, None)?);
            }
            Ok(RecordBatch::try_new(self.schema.clone(), columns)?)
        };
        let chunk = (first < self.next).then(chunk);
        self.order = Some(order);
        chunk
    }
}

/// Rows of the table.
pub(super) struct StoredWindows(RecordBatch);

impl StoredWindows {
    pub fn keys(&self) -> &BinaryArray {
        self.0.column(1).as_binary()
    }

    /// The windows, with the numbers of their keys; `clock` ends windows.
    pub fn windows(&self, keys: &[u32], clock: i64) -> impl Iterator<Item = (Window, Firing)> {
        let number = |column: usize| self.0.column(column).as_primitive::<Int64Type>();
        let (starts, ends, max_times, fire_ats) = (number(2), number(3), number(4), number(5));
        let rows = self.0.column(6).as_primitive::<UInt64Type>();
        let last = self.0.column(7).as_primitive::<Float64Type>();
        let filled = self.0.column(8).as_boolean();
        keys.iter().enumerate().map(move |(row, &key)| {
            let window = Window { filled: filled.value(row), ..Window::new(key, starts.value(row), ends.value(row)) };
            // What is due at the end of a window that is over has fired.
            let (fire_at, last_time) = (fire_ats.value(row), window.last_time());
            let fired = fire_at == last_time && last_time <= clock;
            let firing = Firing {
                max_time: max_times.value(row),
                fire_at: if fired { NEVER } else { fire_at },
                fired_at: if fired { fire_at } else { NEVER },
                rows: rows.value(row),
                last: last.is_valid(row).then(|| last.value(row)),
                ..Firing::default()
            };
            (window, firing)
        })
    }

    /// The states of some.
    pub fn states(&self, rows: &UInt32Array) -> Result<Vec<ArrayRef>, Fault> {
        let states = self.0.columns()[OWN_COLUMNS..].iter().map(|column| take(column, rows, None));
        Ok(states.collect::<Result<_, _>>()?)
    }
}

/// Hands the rows of the table to `add`. `schema`: the table as this operator would write it.
pub(super) fn restore(
    schema: &SchemaRef,
    from: &dyn Restore,
    mut add: impl FnMut(StoredWindows) -> Result<(), Fault>,
) -> Result<(), Fault> {
    for (table, stored) in from.tables() {
        if table != TABLE {
            return Err(Fault::config(format!("the snapshot holds `{table}`, which such a window has no place for"))
                .with_help("give the node another name, so that it starts empty"));
        }
        check(&stored, schema)?;
        for chunk in from.chunks(TABLE)? {
            add(StoredWindows(chunk?))?;
        }
    }
    Ok(())
}
