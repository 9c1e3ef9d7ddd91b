//! The driver's stand-in for the host's lists and maps.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::cell::Cell;
use super::columns;
use super::keys::{Key, owners};
use crate::native::{Column, Entries, EntryReads, EntryUpdate, Field, OpError, StateDescriptor};

/// Entries of all keys, by state and key. Of a list the entry keys are its places.
#[derive(Default)]
pub struct EntryStore {
    all: BTreeMap<(usize, Key), BTreeMap<Cell, Stored>>,
}

struct Stored {
    value: Cell,
    /// When it was written, ms.
    written: i64,
}

/// The entry keys of a state.
fn entry_field(state: &StateDescriptor) -> Field {
    let place = || Field { name: "place".into(), type_name: "uint64".into(), nullable: false, children: 0 };
    state.entry_key.first().cloned().unwrap_or_else(place)
}

fn cells(field: &Field, column: &Column, rows: usize) -> Result<Vec<Cell>, OpError> {
    let decoded = columns::decode(std::slice::from_ref(field), &[column.borrow()], rows)?;
    Ok(decoded.into_iter().flatten().collect())
}

fn indices(bytes: &[u8]) -> impl Iterator<Item = usize> {
    bytes.as_chunks::<4>().0.iter().map(|index| u32::from_le_bytes(*index) as usize)
}

impl EntryStore {
    pub fn has(&self, state: usize, key: &Key) -> bool {
        self.all.contains_key(&(state, key.clone()))
    }

    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.all.keys().map(|(_, key)| key)
    }

    /// Entry keys and values of one key as columns, and how many there are.
    pub fn columns(&self, state: usize, descriptor: &StateDescriptor, key: &Key) -> (Column, Column, usize) {
        let own = self.all.get(&(state, key.clone()));
        let entries: Vec<(&Cell, &Cell)> =
            own.into_iter().flatten().map(|(key, stored)| (key, &stored.value)).collect();
        let keys = columns::encode(&entry_field(descriptor), entries.iter().map(|entry| entry.0));
        let values = columns::encode(&descriptor.value, entries.iter().map(|entry| entry.1));
        (keys, values, entries.len())
    }

    /// Forgets entries whose time is over at `now` (ms).
    pub fn expire(&mut self, descriptors: &[StateDescriptor], now: i64) {
        let expired = |ttl: u64, written: i64| ttl > 0 && now.saturating_sub(written) as u64 >= ttl;
        for ((state, _), entries) in &mut self.all {
            entries.retain(|_, stored| !expired(descriptors[*state].ttl, stored.written));
        }
        self.all.retain(|_, entries| !entries.is_empty());
    }

    /// Takes over what a call at `now` (ms) has changed.
    pub fn apply(
        &mut self,
        descriptor: &StateDescriptor,
        keys: &[Key],
        update: &EntryUpdate,
        now: i64,
    ) -> Result<(), OpError> {
        let state = update.state as usize;
        for key in indices(&update.clears) {
            self.all.remove(&(state, keys[key].clone()));
        }
        let count = update.key_index.len() / 4;
        let values = cells(&descriptor.value, &update.values, count)?;
        let entry_keys = match update.entry_keys.first() {
            Some(column) => Some(cells(&entry_field(descriptor), column, count)?),
            None => None,
        };
        for (i, (key, value)) in indices(&update.key_index).zip(values).enumerate() {
            let own = self.all.entry((state, keys[key].clone())).or_default();
            let next =
                || Cell::Int(own.keys().next_back().map_or(0, |last| if let Cell::Int(n) = last { n + 1 } else { 0 }));
            let entry = entry_keys.as_ref().map_or_else(next, |keys| keys[i].clone());
            match value {
                Cell::Null => drop(own.remove(&entry)),
                value => drop(own.insert(entry, Stored { value, written: now })),
            }
        }
        self.all.retain(|_, entries| !entries.is_empty());
        Ok(())
    }
}

/// What the operator reads while it is called.
pub struct View<'a> {
    pub store: &'a mut EntryStore,
    pub descriptors: &'a [StateDescriptor],
    pub keys: &'a [Key],
    pub now: i64,
}

impl View<'_> {
    fn own(&mut self, state: usize, key: usize) -> Option<&mut BTreeMap<Cell, Stored>> {
        let key = &owners(&self.descriptors[state], self.keys)[key];
        self.store.all.get_mut(&(state, key.clone()))
    }
}

impl EntryReads for View<'_> {
    fn get_many(&mut self, state: u16, key_index: &[u8], entry_keys: &Column) -> Result<Column, String> {
        let (state, now) = (state as usize, self.now);
        let descriptor = &self.descriptors[state];
        let entries = cells(&entry_field(descriptor), entry_keys, key_index.len() / 4).map_err(|e| e.to_string())?;
        let mut values = Vec::new();
        for (key, entry) in indices(key_index).zip(entries) {
            let found = self.own(state, key).and_then(|own| own.get_mut(&entry));
            values.push(found.map_or(Cell::Null, |stored| {
                if descriptor.ttl_on_read {
                    stored.written = now;
                }
                stored.value.clone()
            }));
        }
        Ok(columns::encode(&descriptor.value, &values))
    }

    fn scan(&mut self, state: u16, key_index: &[u8], after: Option<&Column>, limit: u32) -> Result<Entries, String> {
        let (state, now) = (state as usize, self.now);
        let descriptor = &self.descriptors[state];
        let field = entry_field(descriptor);
        let count = key_index.len() / 4;
        let after = after.map(|after| cells(&field, after, count)).transpose().map_err(|e| e.to_string())?;
        let (mut index, mut keys, mut values) = (Vec::new(), Vec::new(), Vec::new());
        for (place, key) in indices(key_index).enumerate() {
            let start = after.as_ref().map(|after| after[place].clone()).filter(|after| *after != Cell::Null);
            let Some(own) = self.own(state, key) else { continue };
            let start = start.map_or(Bound::Unbounded, Bound::Excluded);
            for (entry, stored) in own.range_mut((start, Bound::Unbounded)).take(limit as usize) {
                if descriptor.ttl_on_read {
                    stored.written = now;
                }
                index.extend_from_slice(&(place as u32).to_le_bytes());
                keys.push(entry.clone());
                values.push(stored.value.clone());
            }
        }
        let (entry_keys, values) = (columns::encode(&field, &keys), columns::encode(&descriptor.value, &values));
        Ok(Entries { index, entry_keys, values, more: false })
    }
}
