//! The portable form of keyed state, the same for all backends: one table per state, see [`table_schema`].

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BinaryArray, RecordBatch, UInt16Array};
use tidemill_model::Fault;
use tidemill_model::component::StateDescriptor;
use tidemill_model::key::{hash_key, key_group};
use tidemill_model::schema::type_name;
use tidemill_model::snapshot::Restore;
use tidemill_model::state::{StateBackend, table_name, table_schema};

/// Stores what the tables of `states` hold for this worker.
pub(crate) fn restore(
    backend: &mut dyn StateBackend,
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
            backend.release(&slots);
        }
    }
    Ok(())
}

/// A chunk of a state's table: rows in the order of key groups, none without a value.
pub(crate) fn chunk(state: &StateDescriptor, keys: BinaryArray, values: ArrayRef) -> Result<RecordBatch, Fault> {
    let groups = keys.iter().map(|key| key_group(hash_key(key.unwrap_or_default())) as u16);
    let groups = UInt16Array::from_iter_values(groups);
    Ok(RecordBatch::try_new(table_schema(state), vec![Arc::new(groups), Arc::new(keys), values])?)
}
