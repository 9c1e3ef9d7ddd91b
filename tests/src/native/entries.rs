//! Lists and maps between the host and an operator that runs natively.

use arrow::array::ArrayRef;
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::DataType;
use tidemill_model::component::{StateDescriptor, StateKind};
use tidemill_model::entries::{EntryReads, EntryUpdate};
use tidemill_model::logic::LogicError;
use tidemill_sdk::native as sdk;

use super::columns::{Columns, lift, owned};

/// What the host lets a call read, for the SDK.
pub(super) struct SdkReads<'a> {
    pub reads: &'a mut dyn EntryReads,
    pub states: &'a [StateDescriptor],
}

fn numbers(bytes: &[u8]) -> ScalarBuffer<u32> {
    bytes.as_chunks().0.iter().map(|number| u32::from_le_bytes(*number)).collect()
}

fn entry_type(state: &StateDescriptor) -> &DataType {
    match &state.kind {
        StateKind::Map(entry) => entry.data_type(),
        StateKind::List | StateKind::Value => &DataType::UInt64,
    }
}

fn array(data_type: &DataType, rows: usize, column: &sdk::Column) -> Result<ArrayRef, String> {
    lift(data_type, rows, &mut Columns::from([column.clone()])).map_err(|e| e.to_string())
}

impl sdk::EntryReads for SdkReads<'_> {
    fn get_many(&mut self, state: u16, keys: &[u8], entries: &sdk::Column) -> Result<sdk::Column, String> {
        let (keys, state) = (numbers(keys), usize::from(state));
        let entries = array(entry_type(&self.states[state]), keys.len(), entries)?;
        Ok(owned(&self.reads.get_many(state, &keys, &entries)?))
    }

    fn scan(
        &mut self,
        state: u16,
        keys: &[u8],
        after: Option<&sdk::Column>,
        limit: u32,
    ) -> Result<sdk::Entries, String> {
        let (keys, state) = (numbers(keys), usize::from(state));
        let after = after.map(|after| array(entry_type(&self.states[state]), keys.len(), after)).transpose()?;
        let found = self.reads.scan(state, &keys, after.as_ref(), limit as usize)?;
        let (entry_keys, values) = (owned(&found.entries), owned(&found.values));
        Ok(sdk::Entries { index: found.index.inner().as_slice().to_vec(), entry_keys, values, more: found.more })
    }
}

/// What a call has changed.
pub(super) fn update(state: &StateDescriptor, update: sdk::EntryUpdate) -> Result<EntryUpdate, LogicError> {
    let keys = numbers(&update.key_index);
    let column = |data_type, column| lift(data_type, keys.len(), &mut Columns::from([column]));
    let entries = update.entry_keys.into_iter().next().map(|keys| column(entry_type(state), keys)).transpose()?;
    let values = column(state.field.data_type(), update.values)?;
    Ok(EntryUpdate { state: usize::from(update.state), clears: numbers(&update.clears), keys, entries, values })
}
