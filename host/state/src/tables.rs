//! The portable form of keyed state, the same for all backends: one table per state, see [`table_schema`].

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BinaryArray, RecordBatch, TimestampMillisecondArray, UInt16Array};
use arrow::datatypes::TimestampMillisecondType;
use tidemill_model::Fault;
use tidemill_model::component::StateDescriptor;
use tidemill_model::key::{hash_key, key_group};
use tidemill_model::schema::type_name;
use tidemill_model::snapshot::Restore;
use tidemill_model::state::{Slot, StateBackend, WRITTEN, table_name, table_schema};

/// What taking in tables needs beside the port.
pub(crate) trait Restorable: StateBackend {
    /// The values of these slots, just stored, were written then; none: nobody knows.
    fn set_written(&mut self, state: usize, slots: &[Slot], written: &[Option<i64>]) -> Result<(), Fault>;
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
        let stored =
            schema.field_with_name("value").map_err(|e| Fault::data(format!("table `{name}`: {e}")))?.data_type();
        if stored != state.field.data_type() {
            let (stored, wanted) = (type_name(stored), type_name(state.field.data_type()));
            let message = format!("state `{}` was stored as {stored}, but the operator declares {wanted}", state.name);
            return Err(Fault::config(message).with_help("raise the version of the state and migrate its values"));
        }
        for chunk in from.chunks(&name)? {
            let chunk = chunk?;
            let keys = chunk.column(1).as_binary_opt::<i32>();
            let keys = keys.ok_or_else(|| Fault::data(format!("table `{name}` has no binary keys")))?;
            backend.resolve_bytes(keys, &mut slots)?;
            backend.scatter(index, &slots, chunk.column(2))?;
            if state.ttl.is_some() {
                backend.set_written(index, &slots, &written(&chunk)?)?;
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
    keys: BinaryArray,
    values: ArrayRef,
    written: Option<TimestampMillisecondArray>,
) -> Result<RecordBatch, Fault> {
    let groups = keys.iter().map(|key| key_group(hash_key(key.unwrap_or_default())) as u16);
    let groups = UInt16Array::from_iter_values(groups);
    let mut columns: Vec<ArrayRef> = vec![Arc::new(groups), Arc::new(keys), values];
    columns.extend(written.map(|times| Arc::new(times) as ArrayRef));
    Ok(RecordBatch::try_new(table_schema(state), columns)?)
}
