//! The heap backend: one hash table of keys, and per state a dense array indexed by slot.
//!
//! Laws: a slot is live while its key has a value or a pin, or a call holds it; slots of forgotten keys are
//! reused; nothing is allocated per row for fixed-width values. A snapshot shares the pages of keys and values and costs
//! nothing per key; whoever writes to one of them later makes a copy.

mod column;
mod frozen;
pub(crate) mod keys;
mod pages;

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray};
use arrow::row::Rows;
use tidemill_model::Fault;
use tidemill_model::component::StateDescriptor;
use tidemill_model::key::hash_key;
use tidemill_model::snapshot::{Form, Restore, Snapshot};
use tidemill_model::state::{Slot, StateBackend, StateBackendFactory, StateContext};

use crate::tables;

use column::Column;
use frozen::FrozenHeap;
use keys::KeyTable;

/// State in hash maps, lost when the process ends.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeapFactory;

impl StateBackendFactory for HeapFactory {
    fn open(&self, context: &StateContext) -> Result<Box<dyn StateBackend>, Fault> {
        let states = context.states.to_vec();
        let columns: Result<Vec<Column>, Fault> = states.iter().map(Column::new).collect();
        Ok(Box::new(Heap { states, keys: KeyTable::default(), columns: columns?, refs: Vec::new() }))
    }
}

struct Heap {
    states: Vec<StateDescriptor>,
    keys: KeyTable,
    columns: Vec<Column>,
    /// Values plus pins per slot: at 0 nobody needs the key.
    refs: Vec<u32>,
}

impl Heap {
    /// Makes room for the slots that `resolve` has added.
    fn grow(&mut self) {
        let slots = self.keys.capacity();
        if slots > self.refs.len() {
            self.refs.resize(slots, 0);
            self.columns.iter_mut().for_each(|c| c.grow(slots));
        }
    }
}

impl StateBackend for Heap {
    fn resolve(&mut self, keys: &Rows, hashes: &[u64], slots: &mut Vec<Slot>) -> Result<(), Fault> {
        slots.clear();
        slots.reserve(hashes.len());
        for (key, &hash) in keys.iter().zip(hashes) {
            slots.push(self.keys.slot(key.data(), hash)?);
        }
        self.grow();
        Ok(())
    }

    fn resolve_i64(&mut self, keys: &[i64], _hashes: &[u64], slots: &mut Vec<Slot>) -> Result<(), Fault> {
        slots.clear();
        slots.reserve(keys.len());
        self.keys.slots_of_i64(keys, slots)?;
        self.grow();
        Ok(())
    }

    fn key(&self, slot: Slot) -> &[u8] {
        self.keys.key(slot)
    }

    fn gather(&mut self, state: usize, slots: &[Slot]) -> Result<ArrayRef, Fault> {
        self.columns[state].gather(slots)
    }

    fn scatter(&mut self, state: usize, slots: &[Slot], values: &ArrayRef) -> Result<(), Fault> {
        self.columns[state].scatter(slots, values, &mut self.refs)
    }

    fn pin(&mut self, slot: Slot) {
        self.refs[slot as usize] += 1;
    }

    fn unpin(&mut self, slot: Slot) {
        self.refs[slot as usize] -= 1;
    }

    fn release(&mut self, slots: &[Slot]) {
        for &slot in slots {
            if self.refs[slot as usize] == 0 {
                self.keys.forget(slot);
            }
        }
    }

    fn keys(&self) -> usize {
        self.keys.len()
    }

    fn resolve_bytes(&mut self, keys: &BinaryArray, slots: &mut Vec<Slot>) -> Result<(), Fault> {
        slots.clear();
        for key in keys {
            let key = key.unwrap_or_default();
            slots.push(self.keys.slot(key, hash_key(key))?);
        }
        self.grow();
        Ok(())
    }

    fn snapshot(&mut self, _form: Form) -> Result<Snapshot, Fault> {
        let keys = Arc::new(FrozenHeap::new(self.keys.freeze()));
        let columns = self.states.iter().zip(&mut self.columns);
        let tables = columns.map(|(state, column)| keys.table(state, column.freeze())).collect();
        Ok(Snapshot { tables, files: None })
    }

    fn restore(&mut self, from: &dyn Restore) -> Result<(), Fault> {
        let states = self.states.clone();
        tables::restore(self, &states, from)
    }
}
