//! Entries of lists and maps: how they stand in RocksDB, and those that it does not have yet.
//!
//! An entry's key is the key group (two bytes), the length of the key (four bytes), the key, the number of the state (four bytes),
//! all big-endian, and the entry key; so the entries of one key and state lie together, in their order. Its value is a byte that
//! says whether the next eight are the time it was written at, little-endian, and then the value's bytes.

use std::collections::BTreeMap;
use std::ops::{Bound, Range};

use tidemill_model::key::{hash_key, key_group};

use crate::clock::UNKNOWN;

/// What an entry takes here beside its bytes, about.
const ENTRY_BYTES: usize = 64;

/// In front of the entry keys of one key and state.
pub(super) fn prefix(key: &[u8], state: u32) -> Vec<u8> {
    let mut prefix = Vec::with_capacity(key.len() + 26);
    prefix.extend_from_slice(&(key_group(hash_key(key)) as u16).to_be_bytes());
    prefix.extend_from_slice(&(key.len() as u32).to_be_bytes());
    prefix.extend_from_slice(key);
    prefix.extend_from_slice(&state.to_be_bytes());
    prefix
}

/// The parts of an entry's key.
pub(super) struct Parts<'a> {
    pub key: &'a [u8],
    pub state: u32,
    pub entry: &'a [u8],
}

/// None: it is broken.
pub(super) fn parts(bytes: &[u8]) -> Option<Parts<'_>> {
    let (_group, rest) = bytes.split_first_chunk::<2>()?;
    let (length, rest) = rest.split_first_chunk()?;
    let (key, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    let (state, entry) = rest.split_first_chunk()?;
    Some(Parts { key, state: u32::from_be_bytes(*state), entry })
}

/// The first key behind all that begin with `prefix`.
pub(super) fn end_of(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while end.last() == Some(&u8::MAX) {
        end.pop();
    }
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

/// An entry's value as it is stored.
pub(super) fn encode(value: &[u8], written: Option<i64>) -> Box<[u8]> {
    let mut stored = Vec::with_capacity(value.len() + 9);
    stored.push(u8::from(written.is_some()));
    written.iter().for_each(|written| stored.extend_from_slice(&written.to_le_bytes()));
    stored.extend_from_slice(value);
    stored.into()
}

/// The time it was written at, and the value. None: it is broken.
pub(super) fn decode(stored: &[u8]) -> Option<(Option<i64>, &[u8])> {
    match stored.split_first()? {
        (0, value) => Some((None, value)),
        (_, rest) => {
            let (written, value) = rest.split_first_chunk()?;
            Some((Some(i64::from_le_bytes(*written)), value))
        }
    }
}

/// Entries that are newer than what RocksDB has; none: it is to remove it.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    entries: BTreeMap<Vec<u8>, Option<Box<[u8]>>>,
    bytes: usize,
}

impl Overlay {
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// None: nothing is known of it here.
    pub fn get(&self, key: &[u8]) -> Option<Option<&[u8]>> {
        self.entries.get(key).map(|stored| stored.as_deref())
    }

    pub fn put(&mut self, key: Vec<u8>, stored: Option<Box<[u8]>>) {
        let length = key.len() + ENTRY_BYTES;
        self.bytes += stored.as_ref().map_or(0, |stored| stored.len());
        match self.entries.insert(key, stored) {
            Some(before) => self.bytes -= before.map_or(0, |stored| stored.len()),
            None => self.bytes += length,
        }
    }

    /// Entries that were written at an unknown time were written then.
    pub fn set_times(&mut self, now: i64) {
        for stored in self.entries.values_mut().flatten() {
            if let Some((Some(UNKNOWN), value)) = decode(stored) {
                *stored = encode(value, Some(now));
            }
        }
    }

    /// Forgets what was said of an entry that RocksDB does not have.
    pub fn forget(&mut self, key: &[u8]) {
        if let Some((key, stored)) = self.entries.remove_entry(key) {
            self.bytes -= key.len() + ENTRY_BYTES + stored.map_or(0, |stored| stored.len());
        }
    }

    /// Entries from `start` on whose keys are below `end`.
    pub fn range<'a>(&'a self, start: &[u8], end: &[u8]) -> impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> {
        let range = self.entries.range::<[u8], _>((Bound::Included(start), Bound::Excluded(end)));
        range.map(|(key, stored)| (key.as_slice(), stored.as_deref()))
    }

    /// Entries of key groups.
    pub fn groups(&self, groups: &Range<u32>) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        let bound = |group: u32| u16::try_from(group).map(u16::to_be_bytes);
        let start = bound(groups.start).map_or(Bound::Unbounded, |start| Bound::Included(start.to_vec()));
        let end = bound(groups.end).map_or(Bound::Unbounded, |end| Bound::Excluded(end.to_vec()));
        self.entries.range::<Vec<u8>, _>((start, end)).map(|(key, stored)| (key.as_slice(), stored.as_deref()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_apart_again_and_states_lie_apart() {
        for key in [&b""[..], b"a", &[0xff; 20]] {
            let prefix = prefix(key, 7);
            let whole = [&prefix[..], b"entry"].concat();
            let found = parts(&whole).unwrap();
            assert_eq!((found.key, found.state, found.entry), (key, 7, &b"entry"[..]));
            assert_eq!(whole[..2], (key_group(hash_key(key)) as u16).to_be_bytes());
            assert!(whole < end_of(&prefix) && super::prefix(key, 8) >= end_of(&prefix));
        }
        assert!((0..6).all(|length| parts(&prefix(b"", 1)[..length]).is_none()));
    }

    #[test]
    fn values_keep_their_times() {
        for (value, written) in [(&b"v"[..], None), (b"", Some(-5)), (b"\x01", Some(i64::MIN))] {
            assert_eq!(decode(&encode(value, written)), Some((written, value)));
        }
        assert_eq!((decode(b""), decode(b"\x01short")), (None, None));
    }

    #[test]
    fn bytes_are_counted() {
        let mut overlay = Overlay::default();
        overlay.put(vec![0, 1], Some(Box::new([1; 10])));
        overlay.put(vec![0, 1], Some(Box::new([1; 4])));
        overlay.put(vec![0, 2], None);
        assert_eq!(overlay.bytes(), 2 * (2 + ENTRY_BYTES) + 4);
        assert_eq!((overlay.get(&[0, 2]), overlay.get(&[0, 3])), (Some(None), None));
        assert_eq!(overlay.groups(&(0..1)).count(), 0);
        assert_eq!(overlay.groups(&(2..3)).count(), 1);
        assert_eq!(overlay.groups(&(0..1 << 16)).count(), 2);
        overlay.forget(&[0, 1]);
        overlay.forget(&[0, 2]);
        assert_eq!((overlay.bytes(), overlay.entries.len()), (0, 0));
    }
}
