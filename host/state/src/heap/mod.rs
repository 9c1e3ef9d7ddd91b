//! The heap backend: one hash table of keys, and per state a dense array indexed by slot.
//!
//! Laws: a slot is live while its key has a value or a pin, or a call holds it; slots of forgotten keys are
//! reused; nothing is allocated per row for fixed-width values. A snapshot shares the pages of keys and values and costs
//! nothing per key; whoever writes to one of them later makes a copy.

mod column;
mod frozen;
pub(crate) mod keys;
mod pages;
mod refs;

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray};
use arrow::row::Rows;
use tidemill_model::Fault;
use tidemill_model::component::StateDescriptor;
use tidemill_model::key::{decode_i64, hash_key};
use tidemill_model::snapshot::{Form, Restore, Snapshot};
use tidemill_model::state::{Slot, StateBackend, StateBackendFactory, StateContext};

use crate::tables;

use column::Column;
use frozen::FrozenHeap;
use keys::KeyTable;
use refs::Refs;

/// State in hash maps, lost when the process ends.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeapFactory;

impl StateBackendFactory for HeapFactory {
    fn open(&self, context: &StateContext) -> Result<Box<dyn StateBackend>, Fault> {
        let states = context.states.to_vec();
        let columns: Result<Vec<Column>, Fault> = states.iter().map(Column::new).collect();
        Ok(Box::new(Heap { states, keys: KeyTable::default(), columns: columns?, refs: Refs::default() }))
    }
}

struct Heap {
    states: Vec<StateDescriptor>,
    keys: KeyTable,
    columns: Vec<Column>,
    refs: Refs,
}

impl Heap {
    /// Makes room for what `resolve` has added to the `before` keys.
    fn grow(&mut self, before: usize) {
        self.refs.born(self.keys.len() - before);
        let slots = self.keys.capacity();
        if slots > self.refs.slots() {
            self.refs.grow(slots);
            self.columns.iter_mut().for_each(|c| c.grow(slots));
        }
    }
}

impl StateBackend for Heap {
    fn resolve(&mut self, keys: &Rows, hashes: &[u64], slots: &mut Vec<Slot>) -> Result<(), Fault> {
        slots.clear();
        slots.reserve(hashes.len());
        let before = self.keys.len();
        let added = keys.iter().zip(hashes).try_for_each(|(key, &hash)| {
            slots.push(self.keys.slot(key.data(), hash)?);
            Ok(())
        });
        self.grow(before);
        added
    }

    fn resolve_i64(&mut self, keys: &[i64], _hashes: &[u64], slots: &mut Vec<Slot>) -> Result<(), Fault> {
        slots.clear();
        slots.reserve(keys.len());
        let before = self.keys.len();
        let added = self.keys.slots_of_i64(keys, slots);
        self.grow(before);
        added
    }

    fn key(&self, slot: Slot) -> &[u8] {
        self.keys.key(slot)
    }

    fn gather(&mut self, state: usize, slots: &[Slot]) -> Result<ArrayRef, Fault> {
        let column = &self.columns[state];
        column.gather(slots, column.is_full(self.keys.len()))
    }

    fn scatter(&mut self, state: usize, slots: &[Slot], values: &ArrayRef) -> Result<(), Fault> {
        let column = &mut self.columns[state];
        let full = column.is_full(self.keys.len());
        column.scatter(slots, values, &mut self.refs, full)
    }

    fn pin(&mut self, slot: Slot) {
        self.refs.up(slot);
    }

    fn unpin(&mut self, slot: Slot) {
        self.refs.down(slot);
    }

    fn release(&mut self, slots: &[Slot]) {
        if !self.refs.any_idle() {
            return;
        }
        for &slot in slots {
            if self.refs.is_idle(slot) && self.keys.forget(slot) {
                self.refs.died();
            }
        }
    }

    fn keys(&self) -> usize {
        self.keys.len()
    }

    fn resolve_bytes(&mut self, keys: &BinaryArray, slots: &mut Vec<Slot>) -> Result<(), Fault> {
        slots.clear();
        let before = self.keys.len();
        let integers: Option<Vec<i64>> = keys.iter().map(|key| decode_i64(key?)).collect();
        let added = match integers {
            // Together they are looked up several times as fast.
            Some(integers) => self.keys.slots_of_i64(&integers, slots),
            None => keys.iter().map(Option::unwrap_or_default).try_for_each(|key| {
                slots.push(self.keys.slot(key, hash_key(key))?);
                Ok(())
            }),
        };
        self.grow(before);
        added
    }

    fn redescribe(&mut self, states: &[StateDescriptor]) -> Result<(), Fault> {
        let mut before: Vec<Option<Column>> = std::mem::take(&mut self.columns).into_iter().map(Some).collect();
        let mut column = |state: &StateDescriptor| {
            let same = self.states.iter().position(|s| s.name == state.name && s.version == state.version);
            if let Some(column) = same.and_then(|index| before[index].take()) {
                return Ok(column);
            }
            let mut column = Column::new(state)?;
            column.grow(self.refs.slots());
            Ok(column)
        };
        self.columns = states.iter().map(&mut column).collect::<Result<_, Fault>>()?;
        self.states = states.to_vec();
        for column in before.into_iter().flatten() {
            let slots: Vec<Slot> = column.present_slots(0).collect();
            slots.iter().for_each(|&slot| self.refs.down(slot));
            self.release(&slots);
        }
        Ok(())
    }

    fn walk(&mut self, state: usize, place: &mut Vec<u8>, count: usize, slots: &mut Vec<Slot>) -> Result<bool, Fault> {
        slots.clear();
        let from = place.as_slice().try_into().map_or(0, Slot::from_le_bytes);
        slots.extend(self.columns[state].present_slots(from).take(count));
        let Some(last) = slots.last() else { return Ok(false) };
        *place = (last + 1).to_le_bytes().to_vec();
        Ok(true)
    }

    fn snapshot(&mut self, _form: Form) -> Result<Snapshot, Fault> {
        let keys = Arc::new(FrozenHeap::new(self.keys.freeze()));
        let columns = self.states.iter().zip(&mut self.columns);
        let tables = columns.map(|(state, column)| keys.table(state, column.freeze())).collect();
        Ok(Snapshot { states: self.states.clone(), tables, files: None })
    }

    fn restore(&mut self, from: &dyn Restore) -> Result<(), Fault> {
        let states = self.states.clone();
        tables::restore(self, &states, from)
    }
}
