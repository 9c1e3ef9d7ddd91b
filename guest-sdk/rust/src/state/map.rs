//! The handle of a map: entries of the key of the row in progress, read from the host when they are asked for.
//!
//! Laws: a call reads its own writes; the same entry is asked for once per call, those that were prefetched together; what a failed row did is
//! undone.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::marker::PhantomData;

use super::cells;
use super::codec::{StateValue, shape};
use super::key::{StateKey, field};
use super::value::{Value, no_key};
use crate::error::Result as RowResult;
use crate::native::{self, Column, Effects, EntryUpdate, Field, OpError, StateDescriptor};
use crate::types::{bit, bitmap};

/// Entry keys and values as bytes.
type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// Keys of the call, each with an entry key.
type Wanted = Vec<(usize, Vec<u8>)>;

/// Entries that are read from the host at a time.
const PAGE: u32 = 1024;

/// A map per key, kept and checkpointed by the host entry by entry: it may be larger than memory. Entries are in the order of their
/// keys. Entry keys are `bool`, whole numbers, `String` or `Vec<u8>`, values what [`Value`] can hold; the attributes are the same. With a time to
/// live each entry has its own.
pub struct MapState<K, V> {
    name: &'static str,
    state: u16,
    /// Bitmap over the keys of the call: the host has entries.
    present: Vec<u8>,
    /// What is known of each key of the call.
    known: RefCell<Vec<Known>>,
    /// Keys of which something is known.
    touched: RefCell<Vec<usize>>,
    /// What is to be read together; none: it is too late for that.
    wanted: RefCell<Option<Wanted>>,
    key: usize,
    /// The rows of the call have no key.
    nobodys: bool,
    /// What the row in progress has changed, in order.
    undo: Vec<Undo>,
    fault: Cell<Option<String>>,
    types: PhantomData<fn() -> (K, V)>,
}

/// What is known of the entries of one key.
#[derive(Default)]
struct Known {
    touched: bool,
    /// What the host has does not count any more.
    cleared: bool,
    entries: BTreeMap<Vec<u8>, Entry>,
}

#[derive(Clone)]
struct Entry {
    /// None: there is none.
    value: Option<Vec<u8>>,
    /// Written in this call.
    changed: bool,
}

enum Undo {
    Entry(Vec<u8>, Option<Entry>),
    Clear(bool, BTreeMap<Vec<u8>, Entry>),
}

impl<K: StateKey, V: StateValue> MapState<K, V> {
    /// The value of an entry, if there is one.
    pub fn get(&self, key: &K::Borrowed) -> Option<V> {
        let value = self.find(K::ordered(key))?;
        self.decoded(&value)
    }

    /// Has this entry read together with others, if it is said in
    /// [`KeyedOperator::prefetch`](crate::KeyedOperator::prefetch); else at once.
    pub fn prefetch(&self, key: &K::Borrowed) {
        let key = K::ordered(key);
        let mut wanted = self.wanted.borrow_mut();
        let Some(wanted) = wanted.as_mut() else { return drop(self.find(key)) };
        let mut known = self.known.borrow_mut();
        let own = &mut known[self.key];
        if self.asks_host(own) && !own.entries.contains_key(&key) {
            own.entries.insert(key.clone(), Entry { value: None, changed: false });
            drop(known);
            self.touch();
            wanted.push((self.key, key));
        }
    }

    /// Whether there is such an entry.
    pub fn contains(&self, key: &K::Borrowed) -> bool {
        self.find(K::ordered(key)).is_some()
    }

    pub fn put(&mut self, key: &K::Borrowed, value: V) {
        match cells::encode(value) {
            Ok(value) => self.change(K::ordered(key), Some(value)),
            Err(error) => self.fail(format!("a value of state `{}` can't be encoded: {error}", self.name)),
        }
    }

    pub fn remove(&mut self, key: &K::Borrowed) {
        self.change(K::ordered(key), None);
    }

    /// Removes all entries of the key.
    pub fn clear(&mut self) {
        self.touch();
        let known = &mut self.known.get_mut()[self.key];
        let before = std::mem::take(&mut known.entries);
        self.undo.push(Undo::Clear(known.cleared, before));
        known.cleared = true;
    }

    /// Whether the key has no entries.
    pub fn is_empty(&self) -> bool {
        self.check_key();
        let known = self.known.borrow();
        let own = &known[self.key];
        if own.entries.values().any(|entry| entry.value.is_some()) {
            return false;
        }
        let asks = self.asks_host(own);
        drop(known);
        !asks || self.entries().is_empty()
    }

    /// All entries of the key, in the order of their keys.
    pub fn entries(&self) -> Vec<(K, V)> {
        let entry = |(key, value): (Vec<u8>, Vec<u8>)| {
            let found = K::from_ordered(&key);
            if found.is_none() {
                self.fail(format!("an entry key of state `{}` is no {}", self.name, std::any::type_name::<K>()));
            }
            Some((found?, self.decoded(&value)?))
        };
        self.all().into_iter().filter_map(entry).collect()
    }

    /// The entry keys, in order.
    pub fn keys(&self) -> Vec<K> {
        self.entries().into_iter().map(|(key, _)| key).collect()
    }

    /// The values, in the order of their entry keys.
    pub fn values(&self) -> Vec<V> {
        self.entries().into_iter().map(|(_, value)| value).collect()
    }

    fn decoded(&self, value: &[u8]) -> Option<V> {
        match cells::decode(value) {
            Ok(value) => Some(value),
            Err(error) => {
                let ty = std::any::type_name::<V>();
                self.fail(format!("a stored value of state `{}` is no {ty}: {error}", self.name));
                None
            }
        }
    }

    /// Rows without a key have no business here.
    fn check_key(&self) {
        if self.nobodys {
            no_key(self.name);
        }
    }

    #[cold]
    fn fail(&self, fault: String) {
        self.fault.set(Some(fault));
    }

    fn asks_host(&self, known: &Known) -> bool {
        !known.cleared && bit(&self.present, self.key)
    }

    /// Something is about to be known of the key.
    fn touch(&self) {
        self.check_key();
        let own = &mut self.known.borrow_mut()[self.key];
        if !std::mem::replace(&mut own.touched, true) {
            self.touched.borrow_mut().push(self.key);
        }
    }

    fn find(&self, key: Vec<u8>) -> Option<Vec<u8>> {
        self.check_key();
        let known = self.known.borrow();
        let own = &known[self.key];
        if let Some(entry) = own.entries.get(&key) {
            return entry.value.clone();
        }
        if !self.asks_host(own) {
            return None;
        }
        drop(known);
        let index = (self.key as u32).to_le_bytes();
        let column = K::column(std::iter::once(&key[..]));
        let answer = native::reads(|reads| reads.get_many(self.state, &index, &column));
        let found =
            answer.and_then(|column| cells::values(shape::<V>().layout, &column, 1).map_err(|wrong| wrong.to_string()));
        match found {
            Ok(mut values) => {
                let value = values.pop().flatten();
                self.touch();
                let own = &mut self.known.borrow_mut()[self.key];
                own.entries.insert(key, Entry { value: value.clone(), changed: false });
                value
            }
            Err(error) => {
                self.fail(format!("state `{}` can't be read: {error}", self.name));
                None
            }
        }
    }

    fn change(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        self.touch();
        let own = &mut self.known.get_mut()[self.key];
        let before = own.entries.insert(key.clone(), Entry { value, changed: true });
        self.undo.push(Undo::Entry(key, before));
    }

    /// What the host has, and what the call has made of it.
    fn all(&self) -> Pairs {
        self.check_key();
        let known = self.known.borrow();
        let own = &known[self.key];
        let mut all = BTreeMap::new();
        if self.asks_host(own) {
            match self.scan() {
                Ok(stored) => all.extend(stored),
                Err(error) => self.fail(format!("state `{}` can't be read: {error}", self.name)),
            }
        }
        for (key, entry) in own.entries.iter().filter(|(_, entry)| entry.changed) {
            match &entry.value {
                Some(value) => all.insert(key.clone(), value.clone()),
                None => all.remove(key),
            };
        }
        all.into_iter().collect()
    }

    fn scan(&self) -> Result<Pairs, String> {
        let index = (self.key as u32).to_le_bytes();
        let mut found = Pairs::new();
        loop {
            let after = found.last().map(|(key, _)| K::column(std::iter::once(&key[..])));
            let page = native::reads(|reads| reads.scan(self.state, &index, after.as_ref(), PAGE))?;
            let rows = page.index.len() / 4;
            let keys = K::keys(&page.entry_keys, rows).map_err(|wrong| wrong.to_string())?;
            let values = cells::values(shape::<V>().layout, &page.values, rows).map_err(|wrong| wrong.to_string())?;
            found.extend(keys.into_iter().zip(values).map(|(key, value)| (key, value.unwrap_or_default())));
            if rows == 0 || !page.more && rows < PAGE as usize {
                return Ok(found);
            }
        }
    }
}

/// What the derive `Keyed` calls.
#[doc(hidden)]
impl<K: StateKey, V: StateValue> MapState<K, V> {
    pub fn create(name: &'static str, state: u16) -> Self {
        let (present, known, touched, wanted, undo, fault) = Default::default();
        Self { name, state, present, known, touched, wanted, key: 0, nobodys: false, undo, fault, types: PhantomData }
    }

    pub fn describe(name: &str, version: u32, (ttl, ttl_on_read): (u64, bool)) -> StateDescriptor {
        let shape = shape::<V>();
        let value = Field { name: name.to_owned(), type_name: shape.type_name.into(), nullable: true, children: 0 };
        let (kind, entry_key, codec) = ("map", vec![field::<K>()], shape.codec.into());
        let (name, scope) = (name.to_owned(), "key");
        StateDescriptor { name, scope, kind, entry_key, value, codec, version, ttl, ttl_on_read }
    }

    pub fn load(&mut self, column: Column, keys: usize) -> Result<(), OpError> {
        bitmap(&column.data, keys)?;
        self.nobodys = keys == 0;
        let keys = keys.max(1);
        self.present = if self.nobodys { vec![0] } else { column.data };
        let known = self.known.get_mut();
        self.touched.get_mut().drain(..).for_each(|key| known[key] = Known::default());
        if known.len() < keys {
            known.resize_with(keys, Known::default);
        }
        self.wanted.get_mut().get_or_insert_default().clear();
        self.undo.clear();
        self.fault.take();
        Ok(())
    }

    /// Reads what was said to be wanted.
    pub fn fetch(&mut self) -> Result<(), OpError> {
        let wanted = self.wanted.get_mut().take().unwrap_or_default();
        for some in wanted.chunks(PAGE as usize) {
            let index: Vec<u8> = some.iter().flat_map(|(key, _)| (*key as u32).to_le_bytes()).collect();
            let column = K::column(some.iter().map(|(_, entry)| &entry[..]));
            let answer = native::reads(|reads| reads.get_many(self.state, &index, &column));
            let answer =
                answer.map_err(|error| OpError::Fatal(format!("state `{}` can't be read: {error}", self.name)))?;
            let values = cells::values(shape::<V>().layout, &answer, some.len())?;
            let known = self.known.get_mut();
            for ((key, entry), value) in some.iter().zip(values) {
                if let Some(entry) = known[*key].entries.get_mut(entry) {
                    entry.value = value;
                }
            }
        }
        Ok(())
    }

    #[inline(always)]
    pub fn begin(&mut self, key: usize) {
        self.key = key;
    }

    #[inline(always)]
    pub fn commit(&mut self) -> Result<(), OpError> {
        self.undo.clear();
        self.fault.take().map_or(Ok(()), |fault| Err(OpError::Fatal(fault)))
    }

    pub fn rollback(&mut self) {
        let own = &mut self.known.get_mut()[self.key];
        while let Some(undo) = self.undo.pop() {
            match undo {
                Undo::Entry(key, Some(before)) => drop(own.entries.insert(key, before)),
                Undo::Entry(key, None) => drop(own.entries.remove(&key)),
                Undo::Clear(cleared, entries) => (own.cleared, own.entries) = (cleared, entries),
            }
        }
    }

    pub fn finish(&mut self, state: u16, out: &mut Effects) {
        let (known, touched) = (self.known.get_mut(), self.touched.get_mut());
        touched.sort_unstable();
        let index = |key: &usize| (*key as u32).to_le_bytes();
        let clears: Vec<u8> = touched.iter().filter(|&&key| known[key].cleared).flat_map(index).collect();
        let changed = |key: usize| known[key].entries.iter().filter(|(_, entry)| entry.changed);
        let all = || touched.iter().flat_map(|&key| changed(key).map(move |entry| (key, entry)));
        let key_index: Vec<u8> = all().flat_map(|(key, _)| index(&key)).collect();
        if clears.is_empty() && key_index.is_empty() {
            return;
        }
        let entry_keys = vec![K::column(all().map(|(_, (key, _))| &key[..]))];
        let values = cells::column(shape::<V>().layout, all().map(|(_, (_, entry))| entry.value.as_deref()));
        out.entries.push(EntryUpdate { state, clears, key_index, entry_keys, values });
    }

    pub fn migrate<Old: StateValue>(
        name: &'static str,
        migrate: impl Fn(Old) -> RowResult<V>,
        values: Column,
    ) -> Result<Column, OpError> {
        Value::<V>::migrate(name, migrate, values)
    }
}

/// The entries of a key, for tests.
#[cfg(not(target_arch = "wasm32"))]
pub fn typed<K: StateKey, V: StateValue>(keys: &Column, values: &Column, rows: usize) -> Result<Vec<(K, V)>, OpError> {
    let broken = || crate::error::contract("an entry is of another type");
    let keys = K::keys(keys, rows)?;
    let values = cells::values(shape::<V>().layout, values, rows)?;
    let pair = |(key, value): (Vec<u8>, Option<Vec<u8>>)| {
        let value = cells::decode(&value.unwrap_or_default()).map_err(|_| broken())?;
        Ok((K::from_ordered(&key).ok_or_else(broken)?, value))
    };
    keys.into_iter().zip(values).map(pair).collect()
}
