//! Keys and their slots: a hash table, with the key bytes in arrays indexed by slot.
//!
//! Law: a live key has exactly one slot; `forget` frees it for the next new key.

use arrow::array::BinaryArray;
use arrow::buffer::OffsetBuffer;
use hashbrown::HashTable;
use tidemill_model::Fault;
use tidemill_model::int_table::IntTable;
use tidemill_model::key::{decode_i64, encode_i64, hash_i64, hash_key, key_group};
use tidemill_model::state::Slot;

use super::pages::Pages;

/// Length of the encoding of one int64 key, by far the most common one: kept without a box per key.
const NINE: usize = 9;
/// Keys in a page of each kind, as for values.
const FIXED: usize = 1024;
const BYTES: usize = 128;

/// Key bytes by slot. Starts as `Nine` and becomes `Any` with the first key of another length.
enum Store {
    Nine(Pages<[u8; NINE], FIXED>),
    Any(Pages<Box<[u8]>, BYTES>),
}

/// The keys that were live when they were frozen.
pub(crate) struct FrozenKeys {
    store: Store,
    /// One bit per slot.
    live: Vec<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    tag: u32,
    slot: Slot,
}

#[derive(Default)]
pub(crate) struct KeyTable {
    /// Slots of keys that are the encoding of an int64 (or of another type of eight bytes: the encoding is one to one).
    ints: IntTable,
    /// Slots of all other keys.
    others: HashTable<Entry>,
    slots: Slots,
    /// Keys that are about to come together.
    expected: usize,
}

/// What is known of each slot.
struct Slots {
    store: Store,
    /// Handed out so far.
    count: usize,
    /// Tag of a key in `others`; needed to find its entry again when it is forgotten. As many as slots, once there is such a key.
    tags: Vec<u32>,
    /// One bit per slot.
    live: Vec<u64>,
    free: Vec<Slot>,
}

impl Default for Slots {
    fn default() -> Self {
        Self { store: Store::Nine(Pages::default()), count: 0, tags: Vec::new(), live: Vec::new(), free: Vec::new() }
    }
}

impl KeyTable {
    /// The slot of a key, a new one if it has none.
    pub fn slot(&mut self, key: &[u8], hash: u64) -> Result<Slot, Fault> {
        if let Some(number) = decode_i64(key) {
            return self.ints.get_or_insert(number, || self.slots.add(key, None));
        }
        let tag = tag_of(hash);
        match self.others.find(spread(tag), |e| e.tag == tag && self.slots.key(e.slot) == key) {
            Some(entry) => Ok(entry.slot),
            None => {
                let slot = self.slots.add(key, Some(tag))?;
                self.others.insert_unique(spread(tag), Entry { tag, slot }, |e| spread(e.tag));
                Ok(slot)
            }
        }
    }

    /// About so many keys are going to be there soon.
    pub fn expect(&mut self, keys: usize) {
        self.expected = keys;
    }

    /// The slots of int64 keys, by their values.
    pub fn slots_of_i64(&mut self, keys: &[i64], slots: &mut Vec<Slot>) -> Result<(), Fault> {
        self.ints.reserve(std::mem::take(&mut self.expected));
        let add = |key| self.slots.add(&encode_i64(key), None);
        self.ints.get_or_insert_all(keys.iter().copied(), add, |slot| slots.push(slot))
    }

    pub fn key(&self, slot: Slot) -> &[u8] {
        self.slots.key(slot)
    }

    /// The live keys as they are now.
    pub fn freeze(&mut self) -> FrozenKeys {
        FrozenKeys { store: self.slots.store.freeze(), live: self.slots.live.clone() }
    }

    /// Frees the slot. False if it is free already.
    pub fn forget(&mut self, slot: Slot) -> bool {
        let (word, bit) = (slot as usize / 64, 1u64 << (slot % 64));
        if self.slots.live[word] & bit == 0 {
            return false;
        }
        self.slots.live[word] ^= bit;
        if let Some(number) = decode_i64(self.slots.key(slot)) {
            self.ints.remove(number);
        } else {
            let entry = self.others.find_entry(spread(self.slots.tags[slot as usize]), |e| e.slot == slot);
            entry.expect("a live slot is in the table").remove();
        }
        self.slots.release(slot);
        true
    }

    /// Slots ever handed out: all are below this.
    pub fn capacity(&self) -> usize {
        self.slots.count
    }

    pub fn len(&self) -> usize {
        self.ints.len() + self.others.len()
    }
}

impl Slots {
    /// `tag`: of a key in `others`.
    #[cold]
    fn add(&mut self, key: &[u8], tag: Option<u32>) -> Result<Slot, Fault> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => self.new_slot()?,
        };
        if key.len() != NINE {
            self.widen();
        }
        match &mut self.store {
            Store::Nine(keys) => keys.get_mut(slot).copy_from_slice(key),
            Store::Any(keys) => *keys.get_mut(slot) = key.into(),
        }
        if let Some(tag) = tag {
            self.tags.resize(self.count, 0);
            self.tags[slot as usize] = tag;
        }
        self.live[slot as usize / 64] |= 1 << (slot % 64);
        Ok(slot)
    }

    fn new_slot(&mut self) -> Result<Slot, Fault> {
        let slot = Slot::try_from(self.count).map_err(|_| {
            Fault::data("more than 4294967295 keys on one worker").with_help("run the pipeline with more workers")
        })?;
        self.count += 1;
        self.live.resize(self.count.div_ceil(64), 0);
        match &mut self.store {
            Store::Nine(keys) => keys.grow(self.count),
            Store::Any(keys) => keys.grow(self.count),
        }
        Ok(slot)
    }

    /// From `Nine` to `Any`.
    fn widen(&mut self) {
        if let Store::Nine(keys) = &self.store {
            let mut any = Pages::<Box<[u8]>, BYTES>::default();
            any.grow(self.count);
            (0..self.count as Slot).for_each(|slot| *any.get_mut(slot) = keys.get(slot).as_slice().into());
            self.store = Store::Any(any);
        }
    }

    fn key(&self, slot: Slot) -> &[u8] {
        self.store.key(slot)
    }

    /// The slot is for the next new key.
    fn release(&mut self, slot: Slot) {
        if let Store::Any(keys) = &mut self.store {
            *keys.get_mut(slot) = Box::default();
        }
        self.free.push(slot);
    }
}

impl Store {
    #[inline]
    fn key(&self, slot: Slot) -> &[u8] {
        match self {
            Store::Nine(keys) => keys.get(slot),
            Store::Any(keys) => keys.get(slot),
        }
    }

    fn freeze(&mut self) -> Self {
        match self {
            Store::Nine(keys) => Store::Nine(keys.freeze()),
            Store::Any(keys) => Store::Any(keys.freeze()),
        }
    }
}

impl FrozenKeys {
    pub fn group(&self, slot: Slot) -> u32 {
        let key = self.store.key(slot);
        key_group(decode_i64(key).map_or_else(|| hash_key(key), hash_i64))
    }

    pub fn bytes_of(&self, slot: Slot) -> usize {
        match &self.store {
            Store::Nine(_) => NINE,
            Store::Any(keys) => keys.get(slot).len(),
        }
    }

    /// The keys of these slots, of which there are as many as a chunk has rows. Where all have one length, nothing in the loop
    /// waits for memory: many keys are fetched at once.
    pub fn gather(&self, slots: &[Slot]) -> BinaryArray {
        let keys = match &self.store {
            Store::Nine(keys) => keys,
            Store::Any(keys) => return BinaryArray::from_iter_values(slots.iter().map(|&slot| keys.get(slot))),
        };
        let bytes = slots.iter().map(|&slot| *keys.get(slot)).collect::<Vec<_>>().into_flattened();
        let offsets = OffsetBuffer::from_lengths(std::iter::repeat_n(NINE, slots.len()));
        BinaryArray::new(offsets, bytes.into(), None)
    }

    /// The slots of all live keys, ascending.
    pub fn slots(&self) -> impl Iterator<Item = Slot> {
        self.live.iter().enumerate().flat_map(|(word, &bits)| {
            (0..64).filter(move |bit| bits >> bit & 1 == 1).map(move |bit| word as Slot * 64 + bit)
        })
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
