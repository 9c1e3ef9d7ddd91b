//! Panes as the table `panes` of a snapshot: one row per key and window, with the state of each aggregate.
//!
//! Laws: the key group of a row is the one that the exchange uses, so that a row comes back to where the rows of its key
//! go; panes of several earlier workers become one. Sorting and encoding happen in the iterator.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Int64Array, RecordBatch, UInt16Array, UInt32Array,
};
use arrow::compute::{interleave, take};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use arrow::error::ArrowError;
use tidemill_model::Fault;
use tidemill_model::schema::type_name;
use tidemill_model::snapshot::{ByGroup, CHUNK_BYTES_MAX, CHUNK_ROWS_MAX, Restore, Table, key_group_field};

use super::aggregate::{Aggregates, Result as Aggregated};
use super::aligned::AlignedSpec;
use super::groups::FrozenGroups;
use super::pane::Pane;

pub(super) const TABLE: &str = "panes";
/// Columns in front of those of the aggregates: key group, key, window start, fired.
const OWN_COLUMNS: usize = 4;

/// Columns of the table. `settings` say what windows these are: panes of others are of no use.
pub(super) fn schema(aggregates: &Aggregates, settings: BTreeMap<String, String>) -> Aggregated<SchemaRef> {
    let mut fields = vec![
        key_group_field(),
        Field::new("key", DataType::Binary, false),
        Field::new("window_start", DataType::Int64, false),
        Field::new("fired", DataType::Boolean, false),
    ];
    fields.extend(aggregates.state_fields()?.into_iter().flatten());
    Ok(Arc::new(Schema::new_with_metadata(fields, settings.into_iter().collect())))
}

/// What the settings of [`schema`] say of a window.
pub(super) fn settings(spec: &AlignedSpec, key: impl Iterator<Item = DataType>) -> BTreeMap<String, String> {
    let key: Vec<String> = key.map(|data_type| type_name(&data_type)).collect();
    let times = [("size_ms", spec.size_ms), ("offset_ms", spec.offset_ms)];
    // Tumbling windows have no slide of their own.
    let slide = (spec.slide_ms != spec.size_ms).then_some(("slide_ms", spec.slide_ms));
    let times = times.into_iter().chain(slide).map(|(name, ms)| (name.to_owned(), ms.to_string()));
    times.chain([("key".to_owned(), key.join(", "))]).chain(calls(&spec.aggregates)).collect()
}

/// The calls of the aggregates as settings.
pub(super) fn calls(aggregates: &[(String, String)]) -> impl Iterator<Item = (String, String)> {
    aggregates.iter().map(|(name, call)| (format!("aggregates.{name}"), call.clone()))
}

/// A pane, frozen.
pub(super) struct FrozenPane {
    start: i64,
    fired: bool,
    keys: FrozenGroups,
    groups: usize,
    state: Vec<ArrayRef>,
}

impl FrozenPane {
    pub fn new(start: i64, fired: bool, pane: &mut Pane, aggregates: &Aggregates) -> Aggregated<Self> {
        let (keys, groups) = (pane.groups.freeze(), pane.groups.len());
        Ok(Self { start, fired, keys, groups, state: pane.state(aggregates)? })
    }
}

/// The table of these panes.
pub(super) fn table(schema: SchemaRef, panes: Vec<FrozenPane>) -> Table {
    let bytes: usize = panes.iter().flat_map(|p| &p.state).map(|column| column.get_array_memory_size()).sum();
    let mut rows = 0;
    let firsts = panes.iter().map(|pane| {
        rows += pane.groups;
        rows - pane.groups
    });
    let firsts = firsts.collect();
    let chunk_rows = (CHUNK_BYTES_MAX / (bytes / rows.max(1)).max(1)).clamp(1, CHUNK_ROWS_MAX);
    let chunks = PaneRows { schema: schema.clone(), panes, firsts, rows, chunk_rows, order: None, next: 0 };
    Table { name: TABLE.to_owned(), schema, chunks: Box::new(chunks) }
}

struct PaneRows {
    schema: SchemaRef,
    panes: Vec<FrozenPane>,
    /// The number of each pane's first row, if rows are counted through all panes.
    firsts: Vec<usize>,
    rows: usize,
    chunk_rows: usize,
    /// Rows by key group, made by whoever reads.
    order: Option<ByGroup>,
    next: usize,
}

impl PaneRows {
    /// Pane and group of a row.
    fn place(&self, row: u32) -> (usize, usize) {
        let pane = self.firsts.partition_point(|&first| first <= row as usize) - 1;
        (pane, row as usize - self.firsts[pane])
    }

    fn sorted(&self) -> ByGroup {
        let group = |row| {
            let (pane, group) = self.place(row);
            self.panes[pane].keys.key_group(group)
        };
        ByGroup::sort(|| 0..self.rows as u32, group)
    }

    fn chunk(&self, groups: UInt16Array, rows: &[u32]) -> Result<RecordBatch, ArrowError> {
        let places: Vec<(usize, usize)> = rows.iter().map(|&row| self.place(row)).collect();
        let keys = places.iter().map(|&(pane, group)| self.panes[pane].keys.bytes(group));
        let starts = places.iter().map(|&(pane, _)| self.panes[pane].start);
        let fired = places.iter().map(|&(pane, _)| Some(self.panes[pane].fired));
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(groups),
            Arc::new(BinaryArray::from_iter_values(keys)),
            Arc::new(Int64Array::from_iter_values(starts)),
            Arc::new(fired.collect::<BooleanArray>()),
        ];
        for column in 0..self.schema.fields().len() - OWN_COLUMNS {
            let parts: Vec<&dyn Array> = self.panes.iter().map(|pane| pane.state[column].as_ref()).collect();
            columns.push(interleave(&parts, &places)?);
        }
        RecordBatch::try_new(self.schema.clone(), columns)
    }
}

impl Iterator for PaneRows {
    type Item = Result<RecordBatch, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        let order = self.order.take().unwrap_or_else(|| self.sorted());
        let first = self.next;
        self.next = self.rows.min(first + self.chunk_rows);
        let (groups, rows) = (order.groups(first..self.next), &order.items[first..self.next]);
        let chunk = (first < self.next).then(|| Ok(self.chunk(groups, rows)?));
        self.order = Some(order);
        chunk
    }
}

/// Rows of the table for one window.
pub(super) struct StoredPane {
    pub start: i64,
    pub fired: bool,
    pub keys: BinaryArray,
    pub state: Vec<ArrayRef>,
}

/// Hands the rows of the table to `add`, window by window. `schema`: the table as this operator would write it.
pub(super) fn restore(
    schema: &SchemaRef,
    from: &dyn Restore,
    mut add: impl FnMut(StoredPane) -> Result<(), Fault>,
) -> Result<(), Fault> {
    for (table, stored) in from.tables() {
        if table != TABLE {
            return Err(Fault::config(format!("the snapshot holds `{table}`, which a window has no place for")));
        }
        check(&stored, schema)?;
        for chunk in from.chunks(TABLE)? {
            divide(&chunk?, &mut add)?;
        }
    }
    Ok(())
}

/// Compares the windows of a snapshot with those of the pipeline.
pub(super) fn check(stored: &Schema, own: &Schema) -> Result<(), Fault> {
    let settings = |schema: &Schema| schema.metadata().clone().into_iter().collect::<BTreeMap<_, _>>();
    let (then, now) = (settings(stored), settings(own));
    let help = "give the node another name, so that it starts empty";
    for name in then.keys().chain(now.keys()) {
        if then.get(name) != now.get(name) {
            let value = |of: &BTreeMap<String, String>| of.get(name).map_or("nothing".into(), |v| format!("`{v}`"));
            let message =
                format!("the snapshot holds windows whose `{name}` is {}, but now it is {}", value(&then), value(&now));
            return Err(Fault::config(message).with_help(help));
        }
    }
    match stored.fields() == own.fields() {
        true => Ok(()),
        false => {
            Err(Fault::config("the windows of the snapshot keep their aggregates in another form").with_help(help))
        }
    }
}

fn divide(chunk: &RecordBatch, add: &mut impl FnMut(StoredPane) -> Result<(), Fault>) -> Result<(), Fault> {
    let (starts, fired) = (chunk.column(2).as_primitive::<Int64Type>(), chunk.column(3).as_boolean());
    let mut windows = BTreeMap::<(i64, bool), Vec<u32>>::new();
    for row in 0..chunk.num_rows() {
        windows.entry((starts.value(row), fired.value(row))).or_default().push(row as u32);
    }
    for ((start, fired), rows) in windows {
        let rows = UInt32Array::from(rows);
        let keys = take(chunk.column(1), &rows, None)?.as_binary().clone();
        let state = chunk.columns()[OWN_COLUMNS..].iter().map(|column| take(column, &rows, None));
        add(StoredPane { start, fired, keys, state: state.collect::<Result<_, _>>()? })?;
    }
    Ok(())
}
