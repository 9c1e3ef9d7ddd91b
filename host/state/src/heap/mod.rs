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
mod ttl;

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray};
use arrow::row::Rows;
use tidemill_model::Fault;
use tidemill_model::component::StateDescriptor;
use tidemill_model::key::{decode_i64, hash_key};
use tidemill_model::snapshot::{Form, Restore, Snapshot};
use tidemill_model::state::{Slot, StateBackend, StateBackendFactory, StateContext, table_name};

use crate::clock::{Clock, UNKNOWN};
use crate::tables::{self, Restorable};

use column::Column;
use frozen::FrozenHeap;
use keys::KeyTable;
use refs::Refs;
use ttl::Times;

/// State in hash maps, lost when the process ends.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeapFactory;

impl StateBackendFactory for HeapFactory {
    fn open(&self, context: &StateContext) -> Result<Box<dyn StateBackend>, Fault> {
        let states = context.states.to_vec();
        let columns = states.iter().map(Column::new).collect::<Result<_, _>>()?;
        let times = states.iter().map(|state| state.ttl.map(Times::new)).collect();
        let (keys, refs, clock) = Default::default();
        Ok(Box::new(Heap { states, keys, columns, times, refs, clock, hand: 0 }))
    }
}

struct Heap {
    states: Vec<StateDescriptor>,
    keys: KeyTable,
    columns: Vec<Column>,
    /// By state; none: its values stay.
    times: Vec<Option<Times>>,
    refs: Refs,
    clock: Clock,
    /// The slot that the sweep looks at next.
    hand: Slot,
}

/// Keys for which room is made because a snapshot says that they come.
const EXPECTED_MAX: u64 = 1 << 28;

/// Slots that one sweep looks at: with a sweep per tick a million keys take 10 s, and a sweep some microseconds.
const SWEEP_SLOTS: u32 = 1024;

impl Heap {
    /// Makes room for what `resolve` has added to the `before` keys.
    fn grow(&mut self, before: usize) {
        self.refs.born(self.keys.len() - before);
        let slots = self.keys.capacity();
        if slots > self.refs.slots() {
            self.refs.grow(slots);
            self.columns.iter_mut().for_each(|c| c.grow(slots));
            self.times.iter_mut().flatten().for_each(|t| t.grow(slots));
        }
    }

    /// Removes what has expired and nobody has asked for.
    fn sweep(&mut self) {
        let slots = self.refs.slots() as Slot;
        if self.hand >= slots {
            self.hand = 0;
        }
        let swept = self.hand..slots.min(self.hand.saturating_add(SWEEP_SLOTS));
        self.hand = swept.end;
        for (column, times) in self.columns.iter_mut().zip(&mut self.times) {
            if let Some(times) = times {
                times.expire(swept.clone(), column, &mut self.refs, &self.clock);
            }
        }
        self.release(&swept.collect::<Vec<_>>());
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
        let column = &mut self.columns[state];
        if let Some(times) = &mut self.times[state] {
            times.read(slots, column, &mut self.refs, &self.clock);
        }
        column.gather(slots, column.is_full(self.keys.len()))
    }

    fn scatter(&mut self, state: usize, slots: &[Slot], values: &ArrayRef) -> Result<(), Fault> {
        let column = &mut self.columns[state];
        let full = column.is_full(self.keys.len());
        column.scatter(slots, values, &mut self.refs, full)?;
        if let Some(times) = &mut self.times[state] {
            times.write(slots, &self.clock);
        }
        Ok(())
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

    fn set_now(&mut self, processing_ms: i64) -> Result<(), Fault> {
        self.clock.set(processing_ms);
        if self.times.iter().any(Option::is_some) {
            self.sweep();
        }
        Ok(())
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
        let before = std::mem::take(&mut self.columns).into_iter().zip(std::mem::take(&mut self.times));
        let mut before: Vec<Option<(Column, Option<Times>)>> = before.map(Some).collect();
        let slots = self.refs.slots();
        for state in states {
            let same = self.states.iter().position(|s| s.name == state.name && s.version == state.version);
            let (column, times) = match same.and_then(|index| before[index].take()) {
                Some(kept) => kept,
                None => {
                    let mut column = Column::new(state)?;
                    column.grow(slots);
                    (column, None)
                }
            };
            let times = state.ttl.map(|ttl| Times::renewed(ttl, times, &column, slots, &self.clock));
            self.columns.push(column);
            self.times.push(times);
        }
        self.states = states.to_vec();
        for (column, _) in before.into_iter().flatten() {
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
        let clock = &self.clock;
        let columns = self.states.iter().zip(&mut self.columns).zip(&mut self.times);
        let table = |((state, column), times): ((&StateDescriptor, &mut Column), &mut Option<Times>)| {
            keys.table(state, column.freeze(), times.as_mut().map(|times| times.freeze(clock)))
        };
        let tables = columns.map(table).collect();
        Ok(Snapshot { states: self.states.clone(), tables, files: None })
    }

    fn restore(&mut self, from: &dyn Restore) -> Result<(), Fault> {
        let states = self.states.clone();
        let rows = states.iter().map(|state| from.rows(&table_name(state))).max().unwrap_or(0);
        // Some more, since groups are not all alike; and not more than memory for a promise.
        self.keys.expect((rows + rows / 16).min(EXPECTED_MAX) as usize);
        self.clock.resume(from.now().processing_ms);
        tables::restore(self, &states, from)
    }
}

impl Restorable for Heap {
    fn set_written(&mut self, state: usize, slots: &[Slot], written: &[Option<i64>]) -> Result<(), Fault> {
        if let Some(times) = &mut self.times[state] {
            slots.iter().zip(written).for_each(|(&slot, time)| times.set(slot, time.unwrap_or(UNKNOWN)));
        }
        Ok(())
    }
}
