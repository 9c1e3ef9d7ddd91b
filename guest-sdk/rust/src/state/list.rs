//! The handle of a list: values of the key of the row in progress, in the order in which they were added.
//!
//! Laws: as of a map; adding reads nothing.

use std::cell::{Cell, RefCell};
use std::marker::PhantomData;

use super::cells;
use super::codec::{StateValue, shape};
use super::value::{Value, no_key};
use crate::error::Result as RowResult;
use crate::native::{self, Column, Effects, EntryUpdate, Field, OpError, StateDescriptor};
use crate::types::{bit, bitmap};

/// Values that are read from the host at a time.
const PAGE: u32 = 1024;

/// A list per key, kept and checkpointed by the host value by value. Values are what [`Value`] can hold; the attributes are the same. With
/// a time to live each value has its own.
pub struct ListState<T> {
    name: &'static str,
    state: u16,
    /// Bitmap over the keys of the call: the host has values.
    present: Vec<u8>,
    known: RefCell<Vec<Known>>,
    /// Keys of which something is known.
    touched: RefCell<Vec<usize>>,
    key: usize,
    /// The rows of the call have no key.
    nobodys: bool,
    undo: Vec<Undo>,
    fault: Cell<Option<String>>,
    value: PhantomData<fn() -> T>,
}

/// What is known of the list of one key.
#[derive(Default)]
struct Known {
    touched: bool,
    /// What the host has does not count any more.
    cleared: bool,
    /// What the host has, if it was read.
    stored: Option<Vec<Vec<u8>>>,
    added: Vec<Vec<u8>>,
}

enum Undo {
    Added,
    Clear(bool, Vec<Vec<u8>>),
}

impl<T: StateValue> ListState<T> {
    /// Puts a value at the end.
    pub fn add(&mut self, value: T) {
        match cells::encode(value) {
            Ok(value) => {
                self.touch();
                self.known.get_mut()[self.key].added.push(value);
                self.undo.push(Undo::Added);
            }
            Err(error) => self.fail(format!("a value of state `{}` can't be encoded: {error}", self.name)),
        }
    }

    /// All values of the key, in the order in which they were added.
    pub fn get(&self) -> Vec<T> {
        self.read();
        let known = self.known.borrow();
        let own = &known[self.key];
        let stored = own.stored.iter().flatten().filter(|_| !own.cleared);
        stored.chain(&own.added).filter_map(|value| self.decoded(value)).collect()
    }

    /// Whether the key has no values. Reads nothing.
    pub fn is_empty(&self) -> bool {
        self.check_key();
        let own = &self.known.borrow()[self.key];
        own.added.is_empty() && (own.cleared || !bit(&self.present, self.key))
    }

    /// Removes all values of the key.
    pub fn clear(&mut self) {
        self.touch();
        let own = &mut self.known.get_mut()[self.key];
        self.undo.push(Undo::Clear(own.cleared, std::mem::take(&mut own.added)));
        own.cleared = true;
    }

    /// Puts these values in the place of those that were there.
    pub fn update(&mut self, values: impl IntoIterator<Item = T>) {
        self.clear();
        values.into_iter().for_each(|value| self.add(value));
    }

    fn decoded(&self, value: &[u8]) -> Option<T> {
        match cells::decode(value) {
            Ok(value) => Some(value),
            Err(error) => {
                let ty = std::any::type_name::<T>();
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

    /// Something is about to be known of the key.
    fn touch(&self) {
        self.check_key();
        let own = &mut self.known.borrow_mut()[self.key];
        if !std::mem::replace(&mut own.touched, true) {
            self.touched.borrow_mut().push(self.key);
        }
    }

    /// Reads what the host has, once.
    fn read(&self) {
        self.check_key();
        let asks_host = |own: &Known| !own.cleared && own.stored.is_none() && bit(&self.present, self.key);
        if !asks_host(&self.known.borrow()[self.key]) {
            return;
        }
        match self.scan() {
            Ok(values) => {
                self.touch();
                self.known.borrow_mut()[self.key].stored = Some(values);
            }
            Err(error) => self.fail(format!("state `{}` can't be read: {error}", self.name)),
        }
    }

    fn scan(&self) -> Result<Vec<Vec<u8>>, String> {
        let index = (self.key as u32).to_le_bytes();
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = native::reads(|reads| reads.scan(self.state, &index, after.as_ref(), PAGE))?;
            let rows = page.index.len() / 4;
            let values = cells::values(shape::<T>().layout, &page.values, rows).map_err(|wrong| wrong.to_string())?;
            found.extend(values.into_iter().map(Option::unwrap_or_default));
            if rows == 0 || !page.more && rows < PAGE as usize {
                return Ok(found);
            }
            let last = page.entry_keys.data.len().saturating_sub(8);
            after = Some(Column { data: page.entry_keys.data[last..].to_vec(), ..Column::default() });
        }
    }
}

/// What the derive `Keyed` calls.
#[doc(hidden)]
impl<T: StateValue> ListState<T> {
    pub fn create(name: &'static str, state: u16) -> Self {
        let (present, known, touched, undo, fault) = Default::default();
        Self { name, state, present, known, touched, key: 0, nobodys: false, undo, fault, value: PhantomData }
    }

    pub fn describe(name: &str, version: u32, (ttl, ttl_on_read): (u64, bool)) -> StateDescriptor {
        let shape = shape::<T>();
        let value = Field { name: name.to_owned(), type_name: shape.type_name.into(), nullable: true, children: 0 };
        let (kind, entry_key, codec) = ("list", Vec::new(), shape.codec.into());
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
        self.undo.clear();
        self.fault.take();
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
                Undo::Added => drop(own.added.pop()),
                Undo::Clear(cleared, added) => (own.cleared, own.added) = (cleared, added),
            }
        }
    }

    pub fn finish(&mut self, state: u16, out: &mut Effects) {
        let (known, touched) = (self.known.get_mut(), self.touched.get_mut());
        touched.sort_unstable();
        let index = |key: &usize| (*key as u32).to_le_bytes();
        let clears: Vec<u8> = touched.iter().filter(|&&key| known[key].cleared).flat_map(index).collect();
        let all = || touched.iter().flat_map(|&key| known[key].added.iter().map(move |value| (key, value)));
        let key_index: Vec<u8> = all().flat_map(|(key, _)| index(&key)).collect();
        if clears.is_empty() && key_index.is_empty() {
            return;
        }
        let values = cells::column(shape::<T>().layout, all().map(|(_, value)| Some(&value[..])));
        out.entries.push(EntryUpdate { state, clears, key_index, entry_keys: Vec::new(), values });
    }

    pub fn migrate<Old: StateValue>(
        name: &'static str,
        migrate: impl Fn(Old) -> RowResult<T>,
        values: Column,
    ) -> Result<Column, OpError> {
        Value::<T>::migrate(name, migrate, values)
    }
}
