//! Rows on their way to a database: packed one behind the other, then written in runs that are sorted by key.

use rocksdb::WriteBatch;
use tidemill_model::key::{hash_key, key_group};

/// Records that are sorted and written at a time: 8 MiB of places, and a write batch of some MiB.
const RUN: usize = 128 << 10;
/// Length of a row that says: the key is gone.
const GONE: u32 = u32::MAX;
/// Two lengths.
const HEADER: usize = 8;

/// See the module.
#[derive(Default)]
pub(super) struct Records {
    bytes: Vec<u8>,
    count: usize,
}

/// A record's place, in the order of keys.
struct Place {
    /// The first 16 bytes of the key.
    prefix: u128,
    start: usize,
}

/// The key in a database.
pub(super) fn put_key(key: &[u8], group: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(&(group as u16).to_be_bytes());
    out.extend_from_slice(key);
}

pub(super) fn group_of(key: &[u8]) -> u32 {
    key_group(hash_key(key))
}

/// The first 16 bytes as a number, in the order of bytes.
pub(super) fn prefix(key: &[u8]) -> u128 {
    let mut bytes = [0; 16];
    let length = key.len().min(16);
    bytes[..length].copy_from_slice(&key[..length]);
    u128::from_be_bytes(bytes)
}

impl Records {
    /// With room for so many bytes: growing would copy them.
    pub fn with_capacity(bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), count: 0 }
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds a row; `encode` appends it.
    pub fn put(&mut self, key: &[u8], group: u32, encode: impl FnOnce(&mut Vec<u8>)) {
        let header = self.begin(key, group);
        let start = self.bytes.len();
        encode(&mut self.bytes);
        let length = (self.bytes.len() - start) as u32;
        self.bytes[header + 4..header + HEADER].copy_from_slice(&length.to_le_bytes());
    }

    /// Adds the removal of a key.
    pub fn remove(&mut self, key: &[u8], group: u32) {
        let header = self.begin(key, group);
        self.bytes[header + 4..header + HEADER].copy_from_slice(&GONE.to_le_bytes());
    }

    fn begin(&mut self, key: &[u8], group: u32) -> usize {
        let header = self.bytes.len();
        self.bytes.extend_from_slice(&(key.len() as u32 + 2).to_le_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        put_key(key, group, &mut self.bytes);
        self.count += 1;
        header
    }

    /// Gives the records to `write`, in batches.
    pub fn write<E>(&self, mut write: impl FnMut(WriteBatch) -> Result<(), E>) -> Result<(), E> {
        let mut places = Vec::with_capacity(self.count.min(RUN));
        let mut start = 0;
        while start < self.bytes.len() {
            places.clear();
            while start < self.bytes.len() && places.len() < RUN {
                let (key, _, end) = self.record(start);
                places.push(Place { prefix: prefix(key), start });
                start = end;
            }
            places.sort_unstable_by(|a, b| {
                let tail = || self.record(a.start).0.cmp(self.record(b.start).0);
                a.prefix.cmp(&b.prefix).then_with(tail)
            });
            write(self.batch(&places))?;
        }
        Ok(())
    }

    fn batch(&self, places: &[Place]) -> WriteBatch {
        let mut batch = WriteBatch::default();
        for place in places {
            match self.record(place.start) {
                (key, Some(row), _) => batch.put(key, row),
                (key, None, _) => batch.delete(key),
            }
        }
        batch
    }

    /// Key, row and end of the record at `start`.
    fn record(&self, start: usize) -> (&[u8], Option<&[u8]>, usize) {
        let length = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| self.bytes[at + i]));
        let key_end = start + HEADER + length(start) as usize;
        let key = &self.bytes[start + HEADER..key_end];
        match length(start + 4) {
            GONE => (key, None, key_end),
            row => (key, Some(&self.bytes[key_end..key_end + row as usize]), key_end + row as usize),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rocksdb::WriteBatchIterator;

    #[derive(Default)]
    struct Seen(Vec<(Vec<u8>, Option<Vec<u8>>)>);

    impl WriteBatchIterator for Seen {
        fn put(&mut self, key: &[u8], value: &[u8]) {
            self.0.push((key.to_vec(), Some(value.to_vec())));
        }
        fn delete(&mut self, key: &[u8]) {
            self.0.push((key.to_vec(), None));
        }
    }

    #[test]
    fn batches_are_sorted_by_group_and_key() {
        let long = [b'k'; 40];
        let mut longer = long.to_vec();
        longer.push(0);
        let keys: [(&[u8], u32); 6] = [(&longer, 7), (b"b", 300), (b"a", 300), (&long, 7), (b"z", 2), (b"", 2)];
        let mut records = Records::default();
        assert!(records.is_empty());
        for (key, group) in keys {
            match key {
                b"a" => records.remove(key, group),
                _ => records.put(key, group, |out| out.extend_from_slice(&key[..key.len().min(3)])),
            }
        }
        let mut seen = Seen::default();
        let wrote: Result<(), ()> = records.write(|batch| {
            batch.iterate(&mut seen);
            Ok(())
        });
        assert_eq!(wrote, Ok(()));
        let expected = keys.map(|(key, group)| {
            let mut stored = Vec::new();
            put_key(key, group, &mut stored);
            (stored, (key != b"a").then(|| key[..key.len().min(3)].to_vec()))
        });
        let mut expected = expected.to_vec();
        expected.sort();
        assert_eq!(seen.0, expected);
    }
}
