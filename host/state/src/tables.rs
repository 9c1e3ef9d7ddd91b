//! The portable form of keyed state, the same for all backends: one table per state, see [`table_schema`].

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BinaryArray, RecordBatch, TimestampMillisecondArray, UInt16Array};
use arrow::datatypes::TimestampMillisecondType;
use tidemill_model::Fault;
use tidemill_model::component::{StateDescriptor, StateKind};
use tidemill_model::key::{hash_key, key_group};
use tidemill_model::schema::type_name;
use tidemill_model::snapshot::Restore;
use tidemill_model::state::{ENTRY, Slot, StateBackend, WRITTEN, table_name, table_schema};

/// What taking in tables needs beside the port.
pub(crate) trait Restorable: StateBackend {
    /// The values of these slots, just stored, were written then; none: nobody knows.
    fn set_written(&mut self, state: usize, slots: &[Slot], written: &[Option<i64>]) -> Result<(), Fault>;
    /// Stores entries with their times.
    fn put_written(
        &mut self,
        state: usize,
        slots: &[Slot],
        keys: &BinaryArray,
        values: &ArrayRef,
        written: &[Option<i64>],
    ) -> Result<(), Fault>;
}

/// The engine took a state for one of another kind.
pub(crate) fn wrong_kind(state: &StateDescriptor) -> Fault {
    Fault::internal(format!("state `{}` is a {}, and was used as something else", state.name, state.type_text()))
}

/// A checkpoint has something that another backend understands.
pub(crate) fn foreign(what: &str, backend: &str) -> Fault {
    Fault::config(format!("{what}, which the state backend `{backend}` did not write"))
        .with_help("restore with the backend that wrote the checkpoint, or from a savepoint")
}

/// Stores what the tables of `states` hold for this worker.
pub(crate) fn restore(
    backend: &mut dyn Restorable,
    states: &[StateDescriptor],
    from: &dyn Restore,
) -> Result<(), Fault> {
    let tables = from.tables();
    let mut slots = Vec::new();
    for (index, state) in states.iter().enumerate() {
        let name = table_name(state);
        let Some((_, schema)) = tables.iter().find(|(table, _)| *table == name) else { continue };
        let stored = schema.field_with_name("value").map_err(|e| Fault::data(format!("table `{name}`: {e}")))?;
        let has_entries = schema.field_with_name(ENTRY).is_ok();
        if stored.data_type() != state.field.data_type() || has_entries != (state.kind != StateKind::Value) {
            let of = if has_entries { "entries of " } else { "" };
            let (stored, wanted) = (format!("{of}{}", type_name(stored.data_type())), state.type_text());
            let message = format!("state `{}` was stored as {stored}, but the operator declares {wanted}", state.name);
            return Err(Fault::config(message).with_help("raise the version of the state and migrate its values"));
        }
        for chunk in from.chunks(&name)? {
            let chunk = chunk?;
            let binary = |name: &str| {
                let column = chunk.column_by_name(name).and_then(|column| column.as_binary_opt::<i32>());
                column
                    .ok_or_else(|| Fault::data(format!("the column `{name}` of table `{}` is not binary", state.name)))
            };
            backend.resolve_bytes(binary("key")?, &mut slots)?;
            let values = chunk.column_by_name("value").unwrap_or_else(|| chunk.column(2));
            match state.kind {
                StateKind::Value => {
                    backend.scatter(index, &slots, values)?;
                    if state.ttl.is_some() {
                        backend.set_written(index, &slots, &written(&chunk)?)?;
                    }
                }
                StateKind::List | StateKind::Map(_) => {
                    backend.put_written(index, &slots, binary(ENTRY)?, values, &written(&chunk)?)?;
                }
            }
            backend.release(&slots);
        }
    }
    Ok(())
}

/// When the values of a chunk were written.
fn written(chunk: &RecordBatch) -> Result<Vec<Option<i64>>, Fault> {
    let Some(column) = chunk.column_by_name(WRITTEN) else { return Ok(vec![None; chunk.num_rows()]) };
    let times = column.as_primitive_opt::<TimestampMillisecondType>();
    Ok(times.ok_or_else(|| Fault::data(format!("`{WRITTEN}` of a state is no timestamp(ms)")))?.iter().collect())
}

/// A chunk of a state's table: rows in the order of key groups, none without a value. `written`: for a state with a time to live.
pub(crate) fn chunk(
    state: &StateDescriptor,
    groups: UInt16Array,
    keys: BinaryArray,
    values: ArrayRef,
    written: Option<TimestampMillisecondArray>,
) -> Result<RecordBatch, Fault> {
    let mut columns: Vec<ArrayRef> = vec![Arc::new(groups), Arc::new(keys), values];
    columns.extend(written.map(|times| Arc::new(times) as ArrayRef));
    Ok(RecordBatch::try_new(table_schema(state), columns)?)
}

/// The same of a list or map.
pub(crate) fn entries(
    state: &StateDescriptor,
    keys: BinaryArray,
    entries: BinaryArray,
    values: ArrayRef,
    written: Option<TimestampMillisecondArray>,
) -> Result<RecordBatch, Fault> {
    let mut columns: Vec<ArrayRef> = vec![groups(&keys), Arc::new(keys), Arc::new(entries), values];
    columns.extend(written.map(|times| Arc::new(times) as ArrayRef));
    Ok(RecordBatch::try_new(table_schema(state), columns)?)
}

fn groups(keys: &BinaryArray) -> ArrayRef {
    let groups = keys.iter().map(|key| key_group(hash_key(key.unwrap_or_default())) as u16);
    Arc::new(UInt16Array::from_iter_values(groups))
}
