//! The heap backend: one hash table of keys, and per state a dense array indexed by slot.
//!
//! Laws: a slot is live while its key has a value or a pin, or a call holds it; slots of forgotten keys are
//! reused; nothing is allocated per row for fixed-width values. A snapshot shares the pages of keys and values and costs
//! nothing per key; whoever writes to one of them later makes a copy.

mod column;
mod entries;
mod frozen;
pub(crate) mod keys;
mod pages;
mod refs;
mod sorted;
mod ttl;

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray};
use arrow::row::Rows;
use tidemill_model::Fault;
use tidemill_model::component::{StateDescriptor, StateKind};
use tidemill_model::entries::{EntryStore, Most, Scanned};
use tidemill_model::key::{decode_i64, hash_key};
use tidemill_model::snapshot::{Form, Restore, Snapshot};
use tidemill_model::state::{Slot, StateBackend, StateBackendFactory, StateContext, table_name};

use crate::clock::{Clock, UNKNOWN};
use crate::pace::Pace;
use crate::tables::{self, Restorable, wrong_kind};

use column::Column;
use entries::Entries;
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
        let kept = states.iter().map(Kept::new).collect::<Result<_, _>>()?;
        let (keys, refs, clock) = Default::default();
        let pace = Pace::new(WORK_PER_MS, REMOVAL);
        Ok(Box::new(Heap { states, keys, kept, refs, clock, pace, hand: 0, come: 0 }))
    }
}

struct Heap {
    states: Vec<StateDescriptor>,
    keys: KeyTable,
    /// By state.
    kept: Vec<Kept>,
    refs: Refs,
    clock: Clock,
    pace: Pace,
    /// The slot that the sweep looks at next.
    hand: Slot,
    /// Keys that are new since the last sweep.
    come: u64,
}

/// What is kept for one state.
enum Kept {
    /// `times`: if it has a time to live.
    Values {
        column: Column,
        times: Option<Times>,
    },
    Entries(Entries),
}

impl Kept {
    fn new(state: &StateDescriptor) -> Result<Self, Fault> {
        // Entries have the types that values can have.
        let column = Column::new(state)?;
        Ok(match state.kind {
            StateKind::Value => Kept::Values { column, times: state.ttl.map(Times::new) },
            StateKind::List | StateKind::Map(_) => Kept::Entries(Entries::new(state)),
        })
    }

    fn grow(&mut self, slots: usize) {
        match self {
            Kept::Values { column, times } => {
                column.grow(slots);
                times.iter_mut().for_each(|times| times.grow(slots));
            }
            Kept::Entries(entries) => entries.grow(slots),
        }
    }

    /// The same as a new version of the logic describes it.
    fn renewed(self, state: &StateDescriptor, slots: usize, clock: &Clock) -> Self {
        match self {
            Kept::Values { column, times } => {
                let times = state.ttl.map(|ttl| Times::renewed(ttl, times, &column, slots, clock));
                Kept::Values { column, times }
            }
            Kept::Entries(entries) => Kept::Entries(entries.renewed(state.ttl, slots, clock)),
        }
    }

    /// Some slots from one on that have a value, or entries.
    fn present_slots(&self, from: Slot, count: usize) -> Vec<Slot> {
        match self {
            Kept::Values { column, .. } => column.present_slots(from).take(count).collect(),
            Kept::Entries(entries) => entries.present_slots(from).take(count).collect(),
        }
    }
}
/// Keys for which room is made because a snapshot says that they come.
const EXPECTED_MAX: u64 = 1 << 28;

/// What sweeps may do: a look at a value or an entry takes 5 ns, so this is a tenth of a core.
const WORK_PER_MS: u64 = 20_000;
/// Looks that take as long as forgetting a key.
const REMOVAL: u64 = 20;

impl Heap {
    /// Makes room for what `resolve` has added to the `before` keys.
    fn grow(&mut self, before: usize) {
        let new = self.keys.len() - before;
        self.refs.born(new);
        self.come += new as u64;
        let slots = self.keys.capacity();
        if slots > self.refs.slots() {
            self.refs.grow(slots);
            self.kept.iter_mut().for_each(|kept| kept.grow(slots));
        }
    }

    /// Removes what has expired and nobody has asked for.
    fn sweep(&mut self, now: i64) {
        let Some(ttl) = self.states.iter().filter_map(|state| state.ttl).min_by_key(|ttl| ttl.ms) else { return };
        let (slots, come) = (self.refs.slots() as Slot, std::mem::take(&mut self.come));
        self.pace.start(now, u64::from(slots), ttl.ms, come);
        while let step @ 1.. = self.pace.step() as Slot {
            if self.hand >= slots {
                self.hand = 0;
            }
            let (first, before) = (self.hand, self.keys.len());
            let (looks, swept) = self.expire(first..slots.min(first.saturating_add(step)));
            self.release(&swept);
            let gone = before - self.keys.len();
            self.hand += swept.len() as Slot;
            self.pace.done(swept.len(), looks + gone as u64 * REMOVAL);
        }
    }

    /// Removes what has expired in these slots, or in the first of them, if there is much in them. How many values and entries were
    /// looked at, and in which slots.
    fn expire(&mut self, slots: std::ops::Range<Slot>) -> (u64, Vec<Slot>) {
        let (mut looks, mut swept) = (0, Vec::with_capacity(slots.len()));
        for slot in slots {
            for kept in &mut self.kept {
                looks += match kept {
                    Kept::Values { column, times: Some(times) } => {
                        times.expire(&[slot], column, &mut self.refs, &self.clock);
                        1
                    }
                    Kept::Values { times: None, .. } => 0,
                    Kept::Entries(entries) => 1 + entries.expire(slot, &mut self.refs, &self.clock) as u64,
                };
            }
            swept.push(slot);
            if looks >= WORK_PER_MS {
                break;
            }
        }
        (looks, swept)
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
        let (column, times) = match &mut self.kept[state] {
            Kept::Values { column, times } => (column, times),
            Kept::Entries(entries) => return Ok(entries.presence(slots, &self.clock)),
        };
        if let Some(times) = times {
            times.read(slots, column, &mut self.refs, &self.clock);
        }
        column.gather(slots, column.is_full(self.keys.len()))
    }

    fn scatter(&mut self, state: usize, slots: &[Slot], values: &ArrayRef) -> Result<(), Fault> {
        let Kept::Values { column, times } = &mut self.kept[state] else { return Err(wrong_kind(&self.states[state])) };
        let full = column.is_full(self.keys.len());
        column.scatter(slots, values, &mut self.refs, full)?;
        if let Some(times) = times {
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
        self.sweep(processing_ms);
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
        let mut before: Vec<Option<Kept>> = std::mem::take(&mut self.kept).into_iter().map(Some).collect();
        let slots = self.refs.slots();
        for state in states {
            let same = self.states.iter().position(|s| s.name == state.name && s.version == state.version);
            let kept = match same.and_then(|index| before[index].take()) {
                Some(kept) => kept.renewed(state, slots, &self.clock),
                None => {
                    let mut kept = Kept::new(state)?;
                    kept.grow(slots);
                    kept
                }
            };
            self.kept.push(kept);
        }
        self.states = states.to_vec();
        for kept in before.into_iter().flatten() {
            let slots = kept.present_slots(0, usize::MAX);
            slots.iter().for_each(|&slot| self.refs.down(slot));
            self.release(&slots);
        }
        Ok(())
    }

    fn walk(&mut self, state: usize, place: &mut Vec<u8>, count: usize, slots: &mut Vec<Slot>) -> Result<bool, Fault> {
        let from = place.as_slice().try_into().map_or(0, Slot::from_le_bytes);
        *slots = self.kept[state].present_slots(from, count);
        let Some(last) = slots.last() else { return Ok(false) };
        *place = (last + 1).to_le_bytes().to_vec();
        Ok(true)
    }

    fn snapshot(&mut self, _form: Form) -> Result<Snapshot, Fault> {
        let keys = Arc::new(FrozenHeap::new(self.keys.freeze()));
        let clock = &self.clock;
        let table = |(state, kept): (&StateDescriptor, &mut Kept)| match kept {
            Kept::Values { column, times } => {
                keys.values(state, column.freeze(), times.as_mut().map(|times| times.freeze(clock)))
            }
            Kept::Entries(entries) => keys.entries(state, entries.freeze(clock)),
        };
        let tables = self.states.iter().zip(&mut self.kept).map(table).collect();
        Ok(Snapshot { states: self.states.clone(), tables, files: None })
    }

    fn restore(&mut self, from: &dyn Restore) -> Result<(), Fault> {
        // It writes none: what is in files would be missing without a word.
        if let Some((name, _)) = from.files()?.iter().flat_map(|set| &set.files).next() {
            return Err(tables::foreign(&format!("a checkpoint has a file `{name}`"), "heap"));
        }
        let states = self.states.clone();
        let rows = states.iter().map(|state| from.rows(&table_name(state))).max().unwrap_or(0);
        // Some more, since groups are not all alike; and not more than memory for a promise.
        let expected = (rows + rows / 16).min(EXPECTED_MAX) as usize;
        self.keys.expect(expected);
        self.refs.expect(expected);
        self.clock.resume(from.now().processing_ms);
        tables::restore(self, &states, from)
    }
}

impl EntryStore for Heap {
    fn get_entries(&mut self, state: usize, slots: &[Slot], keys: &BinaryArray) -> Result<ArrayRef, Fault> {
        let Kept::Entries(entries) = &mut self.kept[state] else { return Err(wrong_kind(&self.states[state])) };
        entries.get(slots, keys, &self.clock)
    }

    fn put_entries(
        &mut self,
        state: usize,
        slots: &[Slot],
        keys: &BinaryArray,
        values: &ArrayRef,
    ) -> Result<(), Fault> {
        let Kept::Entries(entries) = &mut self.kept[state] else { return Err(wrong_kind(&self.states[state])) };
        let stamp = self.clock.stamp();
        entries.put(slots, keys, values, |_| stamp, &mut self.refs)
    }

    fn append_entries(&mut self, state: usize, slots: &[Slot], values: &ArrayRef) -> Result<(), Fault> {
        let Kept::Entries(entries) = &mut self.kept[state] else { return Err(wrong_kind(&self.states[state])) };
        entries.append(slots, values, &mut self.refs, &self.clock)
    }

    fn truncate_entries(&mut self, state: usize, slots: &[Slot], counts: &[u64]) -> Result<(), Fault> {
        let Kept::Entries(entries) = &mut self.kept[state] else { return Err(wrong_kind(&self.states[state])) };
        entries.truncate(slots, counts, &mut self.refs);
        Ok(())
    }

    fn clear_entries(&mut self, state: usize, slots: &[Slot]) -> Result<(), Fault> {
        let Kept::Entries(entries) = &mut self.kept[state] else { return Err(wrong_kind(&self.states[state])) };
        entries.clear(slots, &mut self.refs);
        Ok(())
    }

    fn scan_entries(&mut self, state: usize, slot: Slot, after: Option<&[u8]>, most: Most) -> Result<Scanned, Fault> {
        let Kept::Entries(entries) = &mut self.kept[state] else { return Err(wrong_kind(&self.states[state])) };
        entries.scan(slot, after, most, &self.clock)
    }
}

impl Restorable for Heap {
    fn set_written(&mut self, state: usize, slots: &[Slot], written: &[Option<i64>]) -> Result<(), Fault> {
        if let Kept::Values { times: Some(times), .. } = &mut self.kept[state] {
            slots.iter().zip(written).for_each(|(&slot, time)| times.set(slot, time.unwrap_or(UNKNOWN)));
        }
        Ok(())
    }

    fn put_written(
        &mut self,
        state: usize,
        slots: &[Slot],
        keys: &BinaryArray,
        values: &ArrayRef,
        written: &[Option<i64>],
    ) -> Result<(), Fault> {
        let Kept::Entries(entries) = &mut self.kept[state] else { return Err(wrong_kind(&self.states[state])) };
        entries.put(slots, keys, values, |i| written[i].unwrap_or(UNKNOWN), &mut self.refs)
    }
}
