//! Entries of list and map states: many values of one key, each under an entry key.
//!
//! Storage knows one thing only: (state, key, entry key) -> value, in the order of entry keys. An entry key is bytes: of a map the
//! Arrow row encoding of its column, of a list a number that ascends ([`list_entry`]). Laws: a key with entries is held like one with
//! values; each entry has its own time to live.

use arrow::array::{ArrayRef, BinaryArray};
use arrow::buffer::ScalarBuffer;

use crate::fault::Fault;
use crate::state::Slot;

/// The part of a state backend about entries. `state` is the index of a descriptor of the kind `List` or `Map`; all other calls of
/// the backend treat such a state as a bool that says whether a key has entries.
pub trait EntryStore {
    /// The value of each pair of slot and entry key; null: there is no such entry.
    fn get_entries(&mut self, state: usize, slots: &[Slot], entries: &BinaryArray) -> Result<ArrayRef, Fault>;
    /// Stores the value of each pair, in order; null deletes.
    fn put_entries(
        &mut self,
        state: usize,
        slots: &[Slot],
        entries: &BinaryArray,
        values: &ArrayRef,
    ) -> Result<(), Fault>;
    /// Puts values at the ends of lists, in order. None is null.
    fn append_entries(&mut self, state: usize, slots: &[Slot], values: &ArrayRef) -> Result<(), Fault>;
    /// Takes so many values off the ends of lists, all different. The next one is put where the first of them was.
    fn truncate_entries(&mut self, state: usize, slots: &[Slot], counts: &[u64]) -> Result<(), Fault>;
    /// Removes all entries of these slots.
    fn clear_entries(&mut self, state: usize, slots: &[Slot]) -> Result<(), Fault>;
    /// Entries of a slot in the order of their keys, from the first one behind `after`.
    fn scan_entries(&mut self, state: usize, slot: Slot, after: Option<&[u8]>, most: Most) -> Result<Scanned, Fault>;
}

/// A bound on what a scan returns: it ends with the entry that reaches either.
#[derive(Clone, Copy, Debug)]
pub struct Most {
    pub entries: usize,
    /// Of entry keys and values.
    pub bytes: usize,
}

/// What a scan has found.
#[derive(Clone, Debug)]
pub struct Scanned {
    pub entries: BinaryArray,
    /// None is null.
    pub values: ArrayRef,
    /// There may be more behind the last one.
    pub more: bool,
}

/// The entry key of a place in a list.
pub fn list_entry(place: u64) -> [u8; 8] {
    place.to_be_bytes()
}

/// The place that an entry key stands for; none: it is not one of a list.
pub fn list_place(entry: &[u8]) -> Option<u64> {
    entry.try_into().ok().map(u64::from_be_bytes)
}

/// What a call has changed in one list or map state.
#[derive(Clone, Debug)]
pub struct EntryUpdate {
    /// Index of the descriptor.
    pub state: usize,
    /// Keys whose entries go before anything else.
    pub clears: ScalarBuffer<u32>,
    /// For each change its key.
    pub keys: ScalarBuffer<u32>,
    /// Of a map: for each change the entry key, in the descriptor's type. Of a list none: values are appended.
    pub entries: Option<ArrayRef>,
    /// For each change the value; null deletes the entry of a map.
    pub values: ArrayRef,
}

/// What logic may read while it is called: entries of the keys of the call, as they were before it. `Err` says what is wrong with the
/// question, or that there is no answer; the call must not go on then.
pub trait EntryReads {
    /// The value of each pair of key and entry key; null: there is none.
    fn get_many(&mut self, state: usize, keys: &[u32], entries: &ArrayRef) -> Result<ArrayRef, String>;
    /// Entries of the keys, in the order in which they are asked for, each from the first one behind its `after` (null: from the
    /// first). At most `limit` per key, and not more than fits into one answer.
    fn scan(&mut self, state: usize, keys: &[u32], after: Option<&ArrayRef>, limit: usize)
    -> Result<EntryRows, String>;
}

/// Entries of several keys.
#[derive(Clone, Debug)]
pub struct EntryRows {
    /// For each entry the place of its key in the question.
    pub index: ScalarBuffer<u32>,
    /// Entry keys in the descriptor's type; of a list uint64.
    pub entries: ArrayRef,
    pub values: ArrayRef,
    /// There may be more of the last key, and nothing was looked for of those behind it.
    pub more: bool,
}

/// For logic without lists and maps.
#[derive(Debug)]
pub struct NoEntries;

impl EntryReads for NoEntries {
    fn get_many(&mut self, state: usize, _: &[u32], _: &ArrayRef) -> Result<ArrayRef, String> {
        Err(format!("state {state} has no entries"))
    }

    fn scan(&mut self, state: usize, _: &[u32], _: Option<&ArrayRef>, _: usize) -> Result<EntryRows, String> {
        Err(format!("state {state} has no entries"))
    }
}
