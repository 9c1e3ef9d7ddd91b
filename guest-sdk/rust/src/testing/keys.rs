//! The driver's stand-in for the host's keyed state: values per key, and timers.

use std::collections::{BTreeMap, BTreeSet};

use super::cell::Cell;
use super::columns;
use super::entries::{EntryStore, View};
use crate::native::{self, Column, Domain, Effects, Field, KeyedBatch, Keys, OpError, StateDescriptor, StateUpdate};

pub type Key = Vec<Cell>;

/// Who owns the states that belong to no key.
static NOBODY: [Key; 1] = [Key::new()];

/// Those of `keys` that a state has values for: a state that belongs to no key has one, in each call.
pub fn owners<'k>(state: &StateDescriptor, keys: &'k [Key]) -> &'k [Key] {
    if state.scope == "key" { keys } else { &NOBODY }
}

/// State and timers of all keys.
pub struct KeyedStore {
    descriptors: Vec<StateDescriptor>,
    values: BTreeMap<Key, Vec<Cell>>,
    /// Of states with a time to live: when the value of a key was last written, ms.
    written: BTreeMap<(usize, Key), i64>,
    entries: EntryStore,
    timers: BTreeSet<(Domain, i64, Key)>,
}

/// The distinct keys of a call, and the key of each row.
#[derive(Default)]
pub struct Distinct {
    pub keys: Vec<Key>,
    pub index: Vec<u8>,
}

impl Distinct {
    pub fn of(keys: impl IntoIterator<Item = Key>) -> Self {
        let mut distinct = Self::default();
        let mut seen: BTreeMap<Key, u32> = BTreeMap::new();
        for key in keys {
            let next = seen.len() as u32;
            let index = *seen.entry(key.clone()).or_insert(next);
            if index == next {
                distinct.keys.push(key);
            }
            distinct.index.extend_from_slice(&index.to_le_bytes());
        }
        distinct
    }
}

impl KeyedStore {
    pub fn new(descriptors: Vec<StateDescriptor>) -> Self {
        let (values, written, entries, timers) = Default::default();
        Self { descriptors, values, written, entries, timers }
    }

    pub fn state(&self, name: &str) -> Option<usize> {
        self.descriptors.iter().position(|d| d.name == name)
    }

    pub fn descriptor(&self, state: usize) -> &StateDescriptor {
        &self.descriptors[state]
    }

    pub fn value(&self, state: usize, key: &Key) -> Cell {
        self.values.get(key).map_or(Cell::Null, |values| values[state].clone())
    }

    pub fn keys(&self) -> Vec<Key> {
        let all: BTreeSet<&Key> = self.values.keys().chain(self.entries.keys()).collect();
        all.into_iter().filter(|key| !key.is_empty()).cloned().collect()
    }

    /// Entry keys and values of a list or map as columns, and how many there are.
    pub fn entries(&self, state: usize, key: &Key) -> (Column, Column, usize) {
        self.entries.columns(state, &self.descriptors[state], key)
    }

    /// Makes a call that may read lists and maps of these keys at `now` (ms).
    pub fn call<T>(&mut self, keys: &[Key], now: i64, call: impl FnOnce() -> T) -> T {
        let mut view = View { store: &mut self.entries, descriptors: &self.descriptors, keys, now };
        native::with_entries(&mut view, call)
    }

    pub fn timers(&self) -> impl Iterator<Item = &(Domain, i64, Key)> {
        self.timers.iter()
    }

    /// Forgets values whose time is over at `now` (ms).
    pub fn expire(&mut self, now: i64) {
        self.entries.expire(&self.descriptors, now);
        let expired = |state: usize, written: i64| now.saturating_sub(written) as u64 >= self.descriptors[state].ttl;
        for ((state, key), _) in self.written.extract_if(.., |(state, _), written| expired(*state, *written)) {
            if let Some(values) = self.values.get_mut(&key) {
                values[state] = Cell::Null;
            }
        }
        self.forget();
    }

    /// Keys without values are not held.
    fn forget(&mut self) {
        self.values.retain(|_, values| values.iter().any(|v| *v != Cell::Null));
    }

    /// The values of these keys are written, or read, now.
    fn touch(&mut self, state: usize, keys: &[Key], now: i64) {
        for key in keys {
            match self.value(state, key) {
                Cell::Null => self.written.remove(&(state, key.clone())),
                _ => self.written.insert((state, key.clone()), now),
            };
        }
    }

    /// The keys as they cross at `now` (ms), with their states.
    pub fn load<'a>(&mut self, keys: &[Key], columns: &'a [Column], now: i64) -> Keys<'a> {
        self.expire(now);
        for state in 0..self.descriptors.len() {
            if self.descriptors[state].ttl_on_read {
                self.touch(state, keys, now);
            }
        }
        let column = |state: usize| {
            let keys = owners(&self.descriptors[state], keys);
            if self.descriptors[state].kind != "value" {
                let field = Field { type_name: "bool".into(), ..self.descriptors[state].value.clone() };
                let some: Vec<Cell> = keys.iter().map(|key| self.entries.has(state, key).into()).collect();
                return columns::encode(&field, &some);
            }
            let cells: Vec<Cell> = keys.iter().map(|key| self.value(state, key)).collect();
            columns::encode(&self.descriptors[state].value, &cells)
        };
        Keys {
            count: keys.len() as u32,
            columns: columns.iter().map(Column::borrow).collect(),
            states: (0..self.descriptors.len()).map(column).collect(),
        }
    }

    /// Takes the due timers of a domain out, in the order of their times.
    pub fn take_due(&mut self, domain: Domain, clock: i64) -> Vec<(i64, Key)> {
        let due = self.timers.extract_if(.., |(d, time, _)| *d == domain && *time <= clock);
        let mut due: Vec<(i64, Key)> = due.map(|(_, time, key)| (time, key)).collect();
        due.sort();
        due
    }

    /// Takes over what a call at `now` (ms) has changed.
    pub fn apply(&mut self, keys: &[Key], effects: &Effects, now: i64) -> Result<(), OpError> {
        for update in &effects.updates {
            self.update(keys, update, now)?;
        }
        self.forget();
        for update in &effects.entries {
            let state = &self.descriptors[update.state as usize];
            self.entries.apply(state, owners(state, keys), update, now)?;
        }
        for changes in &effects.timers {
            let (indices, times) = (changes.key_index.as_chunks::<4>().0, changes.times.as_chunks::<8>().0);
            for (i, (index, time)) in indices.iter().zip(times).enumerate() {
                let key = keys[u32::from_le_bytes(*index) as usize].clone();
                let timer = (changes.domain, i64::from_le_bytes(*time), key);
                match changes.deletes.get(i) {
                    Some(1) => self.timers.remove(&timer),
                    _ => self.timers.insert(timer),
                };
            }
        }
        Ok(())
    }

    fn update(&mut self, keys: &[Key], update: &StateUpdate, now: i64) -> Result<(), OpError> {
        let state = update.state as usize;
        let keys = &owners(&self.descriptors[state], keys).to_vec()[..];
        let concerned: Vec<usize> = match update.key_index.as_chunks::<4>().0 {
            [] => (0..keys.len()).collect(),
            some => some.iter().map(|k| u32::from_le_bytes(*k) as usize).collect(),
        };
        let field: &[Field] = std::slice::from_ref(&self.descriptors[state].value);
        let cells = columns::decode(field, &[update.values.borrow()], concerned.len())?;
        for (key, cell) in concerned.into_iter().zip(cells.into_iter().flatten()) {
            let empty = || vec![Cell::Null; self.descriptors.len()];
            self.values.entry(keys[key].clone()).or_insert_with(empty)[state] = cell;
            if self.descriptors[state].ttl > 0 {
                self.touch(state, &keys[key..=key], now);
            }
        }
        Ok(())
    }
}

/// Key columns of distinct keys, flattened.
pub fn key_columns(fields: &[Field], keys: &[Key]) -> Vec<Column> {
    fields.iter().enumerate().map(|(i, field)| columns::encode(field, keys.iter().map(|key| &key[i]))).collect()
}

/// What `process_keyed` is given.
pub fn keyed_batch<'a>(
    input: u16,
    rows: crate::native::BatchRef<'a>,
    distinct: &'a Distinct,
    keys: Keys<'a>,
    now: crate::native::Now,
) -> KeyedBatch<'a> {
    KeyedBatch { input, rows, key_index: &distinct.index, keys, now }
}
