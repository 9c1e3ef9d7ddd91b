//! A snapshot of the heap: frozen pages, and the tables that another thread makes of them.
//!
//! Law: whatever costs time per key happens in the iterators.

use std::sync::{Arc, OnceLock};

use arrow::array::RecordBatch;
use tidemill_model::Fault;
use tidemill_model::component::StateDescriptor;
use tidemill_model::snapshot::{ByGroup, CHUNK_BYTES_MAX, CHUNK_ROWS_MAX, Table};
use tidemill_model::state::{table_name, table_schema};

use super::column::Column;
use super::entries::{EntryRows, FrozenEntries};
use super::keys::FrozenKeys;
use super::ttl::FrozenTimes;
use crate::tables;

/// What the tables of a snapshot share.
pub(super) struct FrozenHeap {
    keys: FrozenKeys,
    /// Slots by key group, made by whoever needs it first.
    order: OnceLock<ByGroup>,
}

impl FrozenHeap {
    pub fn new(keys: FrozenKeys) -> Self {
        Self { keys, order: OnceLock::new() }
    }

    /// The table of a state with these values.
    pub fn values(self: &Arc<Self>, state: &StateDescriptor, values: Column, times: Option<FrozenTimes>) -> Table {
        let chunks = StateRows { heap: self.clone(), state: state.clone(), values, times, next: 0 };
        Table { name: table_name(state), schema: table_schema(state), chunks: Box::new(chunks) }
    }

    /// The table of a state with these entries.
    pub fn entries(self: &Arc<Self>, state: &StateDescriptor, entries: FrozenEntries) -> Table {
        let chunks = StateEntries { heap: self.clone(), state: state.clone(), entries, next: 0, after: None };
        Table { name: table_name(state), schema: table_schema(state), chunks: Box::new(chunks) }
    }

    fn order(&self) -> &ByGroup {
        self.order.get_or_init(|| ByGroup::sort(|| self.keys.slots(), |slot| self.keys.group(slot)))
    }
}

/// The rows of one state.
struct StateRows {
    heap: Arc<FrozenHeap>,
    state: StateDescriptor,
    values: Column,
    times: Option<FrozenTimes>,
    /// Place in the order.
    next: usize,
}

impl Iterator for StateRows {
    type Item = Result<RecordBatch, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        let order = self.heap.order();
        let (mut slots, mut places, mut bytes) = (Vec::new(), Vec::new(), 0);
        while slots.len() < CHUNK_ROWS_MAX && bytes < CHUNK_BYTES_MAX {
            let Some(&slot) = order.items.get(self.next) else { break };
            let gone = self.times.as_ref().is_some_and(|times| times.is_expired(slot));
            if self.values.is_present(slot) && !gone {
                bytes += self.heap.keys.bytes_of(slot) + self.values.bytes_of(slot);
                slots.push(slot);
                places.push(self.next);
            }
            self.next += 1;
        }
        (!slots.is_empty()).then(|| {
            let written = self.times.as_ref().map(|times| slots.iter().map(|&slot| times.written(slot)).collect());
            let (keys, values) = (self.heap.keys.gather(&slots), self.values.gather(&slots, true)?);
            tables::chunk(&self.state, order.groups(places), keys, values, written)
        })
    }
}

/// The entries of one state.
struct StateEntries {
    heap: Arc<FrozenHeap>,
    state: StateDescriptor,
    entries: FrozenEntries,
    /// Place in the order, ...
    next: usize,
    /// ... and the entry of that slot that was the last one of a chunk.
    after: Option<Box<[u8]>>,
}

impl Iterator for StateEntries {
    type Item = Result<RecordBatch, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        let chunk = self.chunk();
        chunk.map(|rows| (rows.num_rows() > 0).then_some(rows)).transpose()
    }
}

impl StateEntries {
    fn chunk(&mut self) -> Result<RecordBatch, Fault> {
        let order = self.heap.order();
        let mut rows = self.entries.rows();
        let has_room = |rows: &EntryRows| rows.slots.len() < CHUNK_ROWS_MAX && rows.bytes < CHUNK_BYTES_MAX;
        while let Some(&slot) = order.items.get(self.next).filter(|_| has_room(&rows)) {
            rows.bytes += self.heap.keys.bytes_of(slot);
            self.after = self.entries.collect(slot, self.after.as_deref(), has_room, &mut rows)?;
            if self.after.is_none() {
                self.next += 1;
            }
        }
        let keys = self.heap.keys.gather(&rows.slots);
        let written = rows.written.map(|times| times.into_iter().collect());
        tables::entries(&self.state, keys, rows.entries.finish(), rows.values.finish()?, written)
    }
}
