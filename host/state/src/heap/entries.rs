//! Lists or maps of one state, by slot.
//!
//! Laws: a slot with entries counts once in `refs`; what has expired is not seen, and goes with a sweep; freezing copies a list of
//! pages, see [`Pages`] and [`Sorted`].

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, BinaryBuilder, BooleanArray};
use arrow::buffer::BooleanBuffer;
use arrow::datatypes::DataType;
use tidemill_model::Fault;
use tidemill_model::component::{StateDescriptor, StateKind, Ttl};
use tidemill_model::entries::{Most, Scanned, list_entry, list_place};
use tidemill_model::state::Slot;

use super::pages::Pages;
use super::refs::Refs;
use super::sorted::{Entry, Sorted};
use crate::clock::Clock;
use crate::values::{Builder, Bytes};

/// Slots in a page: it is copied when one of them is written to after a snapshot.
const PAGE: usize = 128;

pub(super) struct Entries {
    data_type: DataType,
    ttl: Option<Ttl>,
    is_list: bool,
    slots: Pages<Option<Arc<Sorted>>, PAGE>,
    /// Slots that there is room for.
    count: usize,
}

impl Entries {
    pub fn new(state: &StateDescriptor) -> Self {
        let (data_type, is_list) = (state.field.data_type().clone(), state.kind == StateKind::List);
        Self { data_type, ttl: state.ttl, is_list, slots: Pages::default(), count: 0 }
    }

    pub fn grow(&mut self, slots: usize) {
        self.slots.grow(slots);
        self.count = slots;
    }

    /// With another time to live. Entries that had none count as written now.
    pub fn renewed(mut self, ttl: Option<Ttl>, slots: usize, clock: &Clock) -> Self {
        if self.ttl.is_none() && ttl.is_some() {
            for slot in 0..slots as Slot {
                if let Some(sorted) = self.slots.get(slot) {
                    let mut sorted = sorted.as_ref().clone();
                    sorted.set_times(clock.stamp());
                    *self.slots.get_mut(slot) = Some(Arc::new(sorted));
                }
            }
        }
        Self { ttl, ..self }
    }

    /// Slots from one on that have entries.
    pub fn present_slots(&self, from: Slot) -> impl Iterator<Item = Slot> {
        (from..self.count as Slot).filter(|&slot| self.slots.get(slot).is_some())
    }

    /// Whether slots have entries.
    pub fn presence(&self, slots: &[Slot], clock: &Clock) -> ArrayRef {
        let is_alive = |entry: &Entry| !is_expired(entry, self.ttl, clock);
        let some = |slot: Slot| self.slots.get(slot).as_ref().is_some_and(|sorted| sorted.behind(None).any(is_alive));
        Arc::new(BooleanArray::new(BooleanBuffer::collect_bool(slots.len(), |i| some(slots[i])), None))
    }

    pub fn get(&mut self, slots: &[Slot], entries: &BinaryArray, clock: &Clock) -> Result<ArrayRef, Fault> {
        let mut values = Builder::new(&self.data_type);
        let on_read = self.ttl.is_some_and(|ttl| ttl.on_read);
        for (&slot, key) in slots.iter().zip(entries) {
            let key = key.unwrap_or_default();
            let found = self.slots.get(slot).as_ref().and_then(|sorted| sorted.get(key));
            let found = found.filter(|entry| !is_expired(entry, self.ttl, clock));
            values.push(found.map(|entry| &*entry.value))?;
            if on_read && found.is_some() {
                self.touch(slot, key, clock);
            }
        }
        values.finish()
    }

    /// The entry was read.
    fn touch(&mut self, slot: Slot, key: &[u8], clock: &Clock) {
        let sorted = self.slots.get_mut(slot).as_mut().map(Arc::make_mut);
        if let Some(entry) = sorted.and_then(|sorted| sorted.get_mut(key)) {
            entry.written = clock.stamp();
        }
    }

    /// `written`: when each value was written.
    pub fn put(
        &mut self,
        slots: &[Slot],
        entries: &BinaryArray,
        values: &ArrayRef,
        written: impl Fn(usize) -> i64,
        refs: &mut Refs,
    ) -> Result<(), Fault> {
        let (values, is_list) = (Bytes::of(values, &self.data_type, slots.len())?, self.is_list);
        for (i, (&slot, key)) in slots.iter().zip(entries).enumerate() {
            let key = key.unwrap_or_default();
            match values.get(i) {
                Some(value) => {
                    let sorted = self.some(slot, refs);
                    sorted.put(key, value, written(i));
                    if let Some(place) = list_place(key).filter(|_| is_list) {
                        sorted.next = sorted.next.max(place.saturating_add(1));
                    }
                }
                None => self.change(slot, refs, |sorted| sorted.remove(key)),
            }
        }
        Ok(())
    }

    pub fn append(&mut self, slots: &[Slot], values: &ArrayRef, refs: &mut Refs, clock: &Clock) -> Result<(), Fault> {
        let values = Bytes::of(values, &self.data_type, slots.len())?;
        for (i, &slot) in slots.iter().enumerate() {
            let sorted = self.some(slot, refs);
            let value = values.get(i).unwrap_or_default();
            sorted.put(&list_entry(sorted.next), value, clock.stamp());
            sorted.next += 1;
        }
        Ok(())
    }

    /// Takes the last values off lists.
    pub fn truncate(&mut self, slots: &[Slot], counts: &[u64], refs: &mut Refs) {
        for (&slot, &count) in slots.iter().zip(counts) {
            self.change(slot, refs, |sorted| {
                let end = sorted.next.saturating_sub(count);
                (end..sorted.next).for_each(|place| sorted.remove(&list_entry(place)));
                sorted.next = end;
            });
        }
    }

    pub fn clear(&mut self, slots: &[Slot], refs: &mut Refs) {
        for &slot in slots {
            if self.slots.get(slot).is_some() {
                *self.slots.get_mut(slot) = None;
                refs.down(slot);
            }
        }
    }

    pub fn scan(&mut self, slot: Slot, after: Option<&[u8]>, most: Most, clock: &Clock) -> Result<Scanned, Fault> {
        let (mut keys, mut values) = (BinaryBuilder::new(), Builder::new(&self.data_type));
        let (mut count, mut bytes, mut more) = (0, 0, false);
        if let Some(sorted) = self.slots.get(slot) {
            for entry in sorted.behind(after).filter(|entry| !is_expired(entry, self.ttl, clock)) {
                if count >= most.entries || bytes >= most.bytes {
                    more = true;
                    break;
                }
                keys.append_value(&entry.key);
                values.push(Some(&entry.value))?;
                (count, bytes) = (count + 1, bytes + entry.key.len() + entry.value.len());
            }
        }
        let entries = keys.finish();
        if self.ttl.is_some_and(|ttl| ttl.on_read) {
            entries.iter().flatten().for_each(|key| self.touch(slot, key, clock));
        }
        Ok(Scanned { entries, values: values.finish()?, more })
    }

    /// Removes what has expired in a slot. How many entries were looked at.
    pub fn expire(&mut self, slot: Slot, refs: &mut Refs, clock: &Clock) -> usize {
        let (Some(ttl), Some(sorted)) = (self.ttl, self.slots.get(slot)) else { return 0 };
        let seen = sorted.len();
        if sorted.behind(None).any(|entry| is_expired(entry, Some(ttl), clock)) {
            self.change(slot, refs, |sorted| sorted.retain(|entry| !is_expired(entry, Some(ttl), clock)));
        }
        seen
    }

    pub fn freeze(&mut self, clock: &Clock) -> FrozenEntries {
        FrozenEntries { data_type: self.data_type.clone(), ttl: self.ttl, slots: self.slots.freeze(), clock: *clock }
    }

    /// The entries of a slot, which is about to have some.
    fn some(&mut self, slot: Slot, refs: &mut Refs) -> &mut Sorted {
        let sorted = self.slots.get_mut(slot);
        if sorted.is_none() {
            refs.up(slot);
        }
        Arc::make_mut(sorted.get_or_insert_default())
    }

    /// Changes the entries of a slot, of which none may be left then.
    fn change(&mut self, slot: Slot, refs: &mut Refs, change: impl FnOnce(&mut Sorted)) {
        if self.slots.get(slot).is_none() {
            return;
        }
        let place = self.slots.get_mut(slot);
        if let Some(sorted) = place {
            change(Arc::make_mut(sorted));
            if sorted.is_empty() {
                *place = None;
                refs.down(slot);
            }
        }
    }
}

fn is_expired(entry: &Entry, ttl: Option<Ttl>, clock: &Clock) -> bool {
    ttl.is_some_and(|ttl| clock.is_expired(entry.written, ttl))
}

/// The entries as they were.
pub(super) struct FrozenEntries {
    data_type: DataType,
    ttl: Option<Ttl>,
    slots: Pages<Option<Arc<Sorted>>, PAGE>,
    clock: Clock,
}

/// Rows of a table, as they are collected.
pub(super) struct EntryRows {
    pub slots: Vec<Slot>,
    pub entries: BinaryBuilder,
    pub values: Builder,
    /// If the state has a time to live.
    pub written: Option<Vec<Option<i64>>>,
    pub bytes: usize,
}

impl FrozenEntries {
    pub fn rows(&self) -> EntryRows {
        let written = self.ttl.map(|_| Vec::new());
        let (slots, entries, values) = (Vec::new(), BinaryBuilder::new(), Builder::new(&self.data_type));
        EntryRows { slots, entries, values, written, bytes: 0 }
    }

    /// Appends entries of a slot behind a key, as long as there is room. The last one, if there are more.
    pub fn collect(
        &self,
        slot: Slot,
        after: Option<&[u8]>,
        has_room: impl Fn(&EntryRows) -> bool,
        rows: &mut EntryRows,
    ) -> Result<Option<Box<[u8]>>, Fault> {
        let Some(sorted) = self.slots.get(slot) else { return Ok(None) };
        let mut last = None;
        for entry in sorted.behind(after).filter(|entry| !is_expired(entry, self.ttl, &self.clock)) {
            if !has_room(rows) {
                return Ok(last.or_else(|| after.map(Into::into)));
            }
            rows.slots.push(slot);
            rows.entries.append_value(&entry.key);
            rows.values.push(Some(&entry.value))?;
            rows.bytes += entry.key.len() + entry.value.len();
            if let Some(written) = &mut rows.written {
                written.push(self.clock.written(entry.written));
            }
            last = Some(entry.key.clone());
        }
        Ok(None)
    }
}
