//! The handle of one state: a field of the operator, speaking of the key of the row in progress.

use std::cell::Cell;
use std::marker::PhantomData;

use super::codec::{self, Layout, StateValue, shape};
use super::store::{Store, Undo};
use crate::error::Result as RowResult;
use crate::native::{Column, Effects, Field, OpError, StateDescriptor};

/// One value per key, kept and checkpointed by the host; with `#[state(broadcast)]` one for all.
///
/// A field `orders: Value<i64>` is the state `orders`. `bool`, numbers, `String` and `Vec<u8>` cross as columns of
/// their type; any other owned serde type as postcard. `#[state(...)]` on the field sets `name`, `version`,
/// `ttl` (such as `"12h"`, counted from the last write, or with `ttl_on_read` from the last row or timer of the key), and
/// how older versions are read: `migrate(1 = function)`.
pub struct Value<T> {
    name: &'static str,
    store: Store,
    key: usize,
    /// The row in progress has changed the value; `undo` holds the one before.
    touched: bool,
    undo: Undo,
    fault: Cell<Option<String>>,
    value: PhantomData<fn() -> T>,
}

impl<T: StateValue> Value<T> {
    /// The key's value, if it has one.
    #[inline(always)]
    pub fn get(&self) -> Option<T> {
        if !self.is_set() {
            return None;
        }
        match shape::<T>().layout {
            Layout::Fixed(_) => codec::read_fixed(self.store.data(), self.key),
            Layout::Bool => codec::from_bool(self.store.bool(self.key)),
            Layout::Bytes => self.get_bytes(),
        }
    }

    /// The key's value, or the default of its type.
    #[inline(always)]
    pub fn get_or_default(&self) -> T
    where
        T: Default,
    {
        self.get().unwrap_or_default()
    }

    /// Whether the key has a value.
    #[inline(always)]
    pub fn is_set(&self) -> bool {
        let is_set = self.store.is_valid(self.key);
        if !is_set && self.store.is_nobodys() {
            no_key(self.name);
        }
        is_set
    }

    #[inline(always)]
    pub fn set(&mut self, value: T) {
        self.touch();
        match shape::<T>().layout {
            Layout::Fixed(_) => codec::write_fixed(value, self.store.data_mut(), self.key),
            Layout::Bool => self.store.set_bool(self.key, codec::to_bool(value)),
            Layout::Bytes => self.set_bytes(&value),
        }
        self.store.mark(self.key, true);
    }

    /// The key has no value from now on, and costs nothing.
    pub fn clear(&mut self) {
        self.touch();
        self.store.mark(self.key, false);
    }

    #[inline(always)]
    fn touch(&mut self) {
        if !self.touched {
            self.undo = self.store.save(self.key, shape::<T>().layout);
            self.touched = true;
        }
    }

    fn get_bytes(&self) -> Option<T> {
        match codec::read_bytes(self.store.bytes(self.key)) {
            Ok(value) => Some(value),
            Err(error) => {
                self.fault.set(Some(format!(
                    "the stored value of state `{}` is no {}: {error}. If its type has changed, raise \
                     #[state(version)] and say how the old one is read with migrate(...)",
                    self.name,
                    std::any::type_name::<T>(),
                )));
                None
            }
        }
    }

    fn set_bytes(&mut self, value: &T) {
        if let Err(error) = self.store.set_bytes(self.key, |out| codec::write_bytes(value, out)) {
            self.fault.set(Some(format!("a value of state `{}` can't be encoded: {error}", self.name)));
        }
    }
}

impl Value<String> {
    /// The key's text, without copying it.
    pub fn get_str(&self) -> Option<&str> {
        if !self.is_set() {
            return None;
        }
        std::str::from_utf8(self.store.bytes(self.key)).ok()
    }
}

/// What the derive `Keyed` calls.
#[doc(hidden)]
impl<T: StateValue> Value<T> {
    pub fn create(name: &'static str, _state: u16) -> Self {
        let store = Store::new(shape::<T>().layout);
        let (fault, undo) = Default::default();
        Self { name, store, key: 0, touched: false, undo, fault, value: PhantomData }
    }

    pub fn describe(name: &str, version: u32, (ttl, ttl_on_read): (u64, bool)) -> StateDescriptor {
        let shape = shape::<T>();
        let value = Field { name: name.to_owned(), type_name: shape.type_name.into(), nullable: true, children: 0 };
        let (kind, entry_key, codec) = ("value", Vec::new(), shape.codec.into());
        let (name, scope) = (name.to_owned(), "key");
        StateDescriptor { name, scope, kind, entry_key, value, codec, version, ttl, ttl_on_read }
    }

    pub fn load(&mut self, column: Column, keys: usize) -> Result<(), OpError> {
        self.touched = false;
        self.fault.take();
        self.store.load(column, keys)
    }

    #[inline(always)]
    pub fn begin(&mut self, key: usize) {
        self.key = key;
    }

    #[inline(always)]
    pub fn commit(&mut self) -> Result<(), OpError> {
        self.touched = false;
        match shape::<T>().layout {
            Layout::Bytes => self.fault.take().map_or(Ok(()), |fault| Err(OpError::Fatal(fault))),
            _ => Ok(()),
        }
    }

    pub fn rollback(&mut self) {
        if std::mem::take(&mut self.touched) {
            self.store.restore(self.key, self.undo);
        }
    }

    pub fn finish(&mut self, state: u16, out: &mut Effects) {
        out.updates.extend(self.store.finish(state));
    }

    pub fn migrate<Old: StateValue>(
        name: &'static str,
        migrate: impl Fn(Old) -> RowResult<T>,
        values: Column,
    ) -> Result<Column, OpError> {
        migrate_column(name, migrate, values)
    }
}

/// Somebody has asked for the state of a key where there is none: a mistake in the operator.
#[cold]
pub(super) fn no_key(state: &str) -> ! {
    panic!("state `{state}` belongs to a key, and rows of a broadcast input have none");
}

/// Turns a column of old values into one of new values, one for each; nulls stay null.
fn migrate_column<Old: StateValue, New: StateValue>(
    name: &'static str,
    migrate: impl Fn(Old) -> RowResult<New>,
    values: Column,
) -> Result<Column, OpError> {
    let keys = match shape::<Old>().layout {
        Layout::Fixed(width) => values.data.len() / width,
        Layout::Bytes => (values.offsets.len() / 4).saturating_sub(1),
        // A bitmap does not say where it ends: whole bytes, and the host cuts.
        Layout::Bool => values.data.len() * 8,
    };
    let mut old = Value::<Old>::create(name, 0);
    let mut new = Value::<New>::create(name, 0);
    old.load(values, keys)?;
    new.load(nulls::<New>(keys), keys)?;
    for key in 0..keys {
        old.begin(key);
        new.begin(key);
        match old.get() {
            Some(value) => new.set(migrate(value).map_err(|e| migration_failed(name, e))?),
            None => new.clear(),
        }
        old.commit()?;
        new.commit()?;
    }
    Ok(new.store.finish(0).map(|update| update.values).unwrap_or_default())
}

fn migration_failed(name: &str, error: crate::Error) -> OpError {
    OpError::Fatal(format!("state `{name}` could not be migrated: {error}"))
}

/// A column of `keys` nulls.
fn nulls<T: StateValue>(keys: usize) -> Column {
    let bitmap = vec![0; keys.div_ceil(8)];
    match shape::<T>().layout {
        Layout::Bool => Column { data: bitmap.clone(), validity: bitmap, offsets: Vec::new() },
        Layout::Fixed(width) => Column { validity: bitmap, offsets: Vec::new(), data: vec![0; keys * width] },
        Layout::Bytes => Column { validity: bitmap, offsets: vec![0; (keys + 1) * 4], data: Vec::new() },
    }
}
