//! Keys and their slots: a hash table, with the key bytes in arrays indexed by slot.
//!
//! Law: a live key has exactly one slot; `forget` frees it for the next new key.

use hashbrown::HashTable;
use tidemill_model::Fault;
use tidemill_model::key::{decode_i64, encode_i64};
use tidemill_model::state::Slot;

/// Length of the encoding of one int64 key, by far the most common one: kept without a box per key.
const NINE: usize = 9;

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// The int64 itself, so that finding it touches no other memory. 0 for other keys.
    number: i64,
    tag: u32,
    slot: Slot,
}

/// Key bytes by slot. Starts as `Nine` and becomes `Any` with the first key that is not the encoding of an int64 (or of
/// another type of eight bytes: any nine bytes that look like one will do, as the encoding is one to one).
enum Store {
    Nine(Vec<[u8; NINE]>),
    Any(Vec<Box<[u8]>>),
}

pub(super) struct KeyTable {
    table: HashTable<Entry>,
    store: Store,
    /// Tag of each slot's key; needed to find the entry again when it is forgotten.
    tags: Vec<u32>,
    live: Vec<bool>,
    free: Vec<Slot>,
}

impl Default for KeyTable {
    fn default() -> Self {
        let store = Store::Nine(Vec::new());
        Self { table: HashTable::new(), store, tags: Vec::new(), live: Vec::new(), free: Vec::new() }
    }
}

impl KeyTable {
    /// The slot of a key, a new one if it has none.
    pub fn slot(&mut self, key: &[u8], hash: u64) -> Result<Slot, Fault> {
        match decode_i64(key) {
            Some(number) => self.slot_of_i64(number, hash),
            None => {
                self.widen();
                self.find_or_add(key, tag_of(hash))
            }
        }
    }

    /// `slot` for the encoding of an int64.
    #[inline]
    pub fn slot_of_i64(&mut self, number: i64, hash: u64) -> Result<Slot, Fault> {
        let tag = tag_of(hash);
        let Store::Nine(_) = &self.store else { return self.find_or_add(&encode_i64(number), tag) };
        match self.table.find(spread(tag), |e| e.number == number) {
            Some(entry) => Ok(entry.slot),
            None => self.add(&encode_i64(number), number, tag),
        }
    }

    /// For keys of any length: all are in the store `Any`.
    fn find_or_add(&mut self, key: &[u8], tag: u32) -> Result<Slot, Fault> {
        let Store::Any(keys) = &self.store else { return Err(Fault::internal("keys of several lengths in one store")) };
        match self.table.find(spread(tag), |e| e.tag == tag && *keys[e.slot as usize] == *key) {
            Some(entry) => Ok(entry.slot),
            None => self.add(key, 0, tag),
        }
    }

    #[cold]
    fn add(&mut self, key: &[u8], number: i64, tag: u32) -> Result<Slot, Fault> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => self.new_slot()?,
        };
        match &mut self.store {
            Store::Nine(keys) => keys[slot as usize].copy_from_slice(key),
            Store::Any(keys) => keys[slot as usize] = key.into(),
        }
        self.tags[slot as usize] = tag;
        self.live[slot as usize] = true;
        self.table.insert_unique(spread(tag), Entry { number, tag, slot }, |e| spread(e.tag));
        Ok(slot)
    }

    fn new_slot(&mut self) -> Result<Slot, Fault> {
        let slot = Slot::try_from(self.tags.len()).map_err(|_| {
            Fault::data("more than 4294967295 keys on one worker").with_help("run the pipeline with more workers")
        })?;
        self.tags.push(0);
        self.live.push(false);
        match &mut self.store {
            Store::Nine(keys) => keys.push([0; NINE]),
            Store::Any(keys) => keys.push(Box::default()),
        }
        Ok(slot)
    }

    /// From `Nine` to `Any`.
    fn widen(&mut self) {
        if let Store::Nine(keys) = &self.store {
            self.store = Store::Any(keys.iter().map(|k| k.as_slice().into()).collect());
        }
    }

    pub fn key(&self, slot: Slot) -> &[u8] {
        match &self.store {
            Store::Nine(keys) => &keys[slot as usize],
            Store::Any(keys) => &keys[slot as usize],
        }
    }

    /// Frees the slot. Nothing happens if it is free already.
    pub fn forget(&mut self, slot: Slot) {
        if !std::mem::replace(&mut self.live[slot as usize], false) {
            return;
        }
        let tag = self.tags[slot as usize];
        let entry = self.table.find_entry(spread(tag), |e| e.slot == slot);
        entry.expect("a live slot is in the table").remove();
        if let Store::Any(keys) = &mut self.store {
            keys[slot as usize] = Box::default();
        }
        self.free.push(slot);
    }

    /// Slots ever handed out: all are below this.
    pub fn capacity(&self) -> usize {
        self.tags.len()
    }

    pub fn len(&self) -> usize {
        self.table.len()
    }
}

/// The low half of the key's hash: the high half decides the worker, so it hardly varies here.
#[inline]
fn tag_of(hash: u64) -> u32 {
    hash as u32
}

/// Hash for the table, computed from the tag alone, so that growing it reads no keys.
#[inline]
fn spread(tag: u32) -> u64 {
    // Fibonacci hashing: an odd multiplier keeps the low bits distinct and fills the high ones.
    u64::from(tag).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}
