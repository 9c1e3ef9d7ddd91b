//! Keys that have windows, by number.
//!
//! Laws: a key has one number as long as it has windows; the number of one that has none any more goes to the next new key.

use std::borrow::Cow;
use std::convert::Infallible;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BinaryArray, Int64Array};
use arrow::error::ArrowError;
use hashbrown::HashTable;
use tidemill_model::int_table::{IntTable, mix};
use tidemill_model::key::{NULL_I64, decode_i64, encode_i64, hash_i64, hash_key, key_group};

use super::super::groups::{BatchKeys, KeyReader};

pub(super) enum Keys {
    /// No key: one number for all rows.
    Global,
    I64(I64Keys),
    Encoded(EncodedKeys),
}

#[derive(Default)]
pub(super) struct I64Keys {
    table: IntTable,
    values: Vec<i64>,
    null: Option<u32>,
    free: Vec<u32>,
}

#[derive(Default)]
pub(super) struct EncodedKeys {
    /// Tag (a part of the hash) and number.
    table: HashTable<(u32, u32)>,
    keys: Vec<Box<[u8]>>,
    free: Vec<u32>,
}

impl Keys {
    pub fn new(reader: &KeyReader) -> Self {
        match reader {
            KeyReader::Global => Self::Global,
            KeyReader::I64(_) => Self::I64(I64Keys::default()),
            KeyReader::Encoded(_) => Self::Encoded(EncodedKeys::default()),
        }
    }

    /// The number of each row's key.
    pub fn number(&mut self, keys: &BatchKeys, count: usize, numbers: &mut Vec<u32>) {
        numbers.clear();
        match (self, keys) {
            (Self::I64(own), BatchKeys::I64(keys)) if keys.null_count() == 0 => own.add_all(keys.values(), numbers),
            (Self::I64(own), BatchKeys::I64(keys)) => numbers.extend(keys.iter().map(|key| own.add(key))),
            (Self::Encoded(own), BatchKeys::Encoded(rows, hashes)) => {
                numbers.extend(rows.iter().zip(hashes.iter()).map(|(key, &hash)| own.add(key.data(), hash)));
            }
            _ => numbers.resize(count, 0),
        }
    }

    /// The same for keys by their bytes, as [`Keys::bytes`] gives them out.
    pub fn number_bytes(&mut self, keys: &BinaryArray, numbers: &mut Vec<u32>) {
        numbers.clear();
        let number = |key: Option<&[u8]>| match (&mut *self, key.unwrap_or_default()) {
            (Self::Global, _) => 0,
            (Self::I64(own), key) => own.add(decode_i64(key)),
            (Self::Encoded(own), key) => own.add(key, hash_key(key)),
        };
        numbers.extend(keys.iter().map(number));
    }

    /// Asks for the memory that [`Keys::remove`] needs.
    pub fn prefetch(&self, number: u32) {
        if let Self::I64(own) = self {
            own.table.prefetch(own.values[number as usize]);
        }
    }

    /// The key has no windows any more.
    pub fn remove(&mut self, number: u32) {
        match self {
            Self::Global => {}
            Self::I64(own) => {
                if own.null == Some(number) {
                    own.null = None;
                } else {
                    own.table.remove(own.values[number as usize]);
                }
                own.free.push(number);
            }
            Self::Encoded(own) => {
                let tag = hash_key(&own.keys[number as usize]) as u32;
                if let Ok(entry) = own.table.find_entry(mix(i64::from(tag)), |e| e.1 == number) {
                    entry.remove();
                }
                own.free.push(number);
            }
        }
    }

    /// The key columns of these keys.
    pub fn columns(&self, reader: &KeyReader, numbers: &[u32]) -> Result<Vec<ArrayRef>, ArrowError> {
        match (self, reader) {
            (Self::I64(own), _) => {
                let value = |&number: &u32| Some(own.values[number as usize]).filter(|_| own.null != Some(number));
                Ok(vec![Arc::new(numbers.iter().map(value).collect::<Int64Array>())])
            }
            (Self::Encoded(own), KeyReader::Encoded(encoder)) => {
                encoder.decode(numbers.iter().map(|&number| &*own.keys[number as usize]))
            }
            _ => Ok(Vec::new()),
        }
    }

    /// The encoding of a key; nothing if there is none.
    pub fn bytes(&self, number: u32) -> Cow<'_, [u8]> {
        match self {
            Self::Global => Cow::Borrowed(&[]),
            Self::I64(own) if own.null == Some(number) => Cow::Borrowed(&NULL_I64),
            Self::I64(own) => Cow::Owned(encode_i64(own.values[number as usize]).to_vec()),
            Self::Encoded(own) => Cow::Borrowed(&own.keys[number as usize]),
        }
    }

    /// The key group of a key: as the exchange has it. What has no key belongs to the first one.
    pub fn key_group(&self, number: u32) -> u32 {
        match self {
            Self::Global => 0,
            Self::I64(own) if own.null != Some(number) => key_group(hash_i64(own.values[number as usize])),
            _ => key_group(hash_key(&self.bytes(number))),
        }
    }
}

impl I64Keys {
    fn add_all(&mut self, keys: &[i64], numbers: &mut Vec<u32>) {
        let Self { table, values, free, .. } = self;
        let new = |key| Ok::<u32, Infallible>(place(free, values, key));
        let Ok(()) = table.get_or_insert_all(keys.iter().copied(), new, |number| numbers.push(number));
    }

    fn add(&mut self, key: Option<i64>) -> u32 {
        let Self { table, values, null, free } = self;
        match key {
            Some(key) => {
                let Ok(number) = table.get_or_insert(key, || Ok::<u32, Infallible>(place(free, values, key)));
                number
            }
            None => *null.get_or_insert_with(|| place(free, values, 0)),
        }
    }
}

impl EncodedKeys {
    fn add(&mut self, key: &[u8], hash: u64) -> u32 {
        let Self { table, keys, free } = self;
        // The high half of the hash decides the worker, so the low half tells keys apart here.
        let tag = hash as u32;
        let same = |e: &(u32, u32)| e.0 == tag && *keys[e.1 as usize] == *key;
        if let Some(entry) = table.find(mix(i64::from(tag)), same) {
            return entry.1;
        }
        let number = place(free, keys, key.into());
        table.insert_unique(mix(i64::from(tag)), (tag, number), |e| mix(i64::from(e.0)));
        number
    }
}

/// The number of a new item: a free one, or the next.
fn place<T>(free: &mut Vec<u32>, items: &mut Vec<T>, item: T) -> u32 {
    match free.pop() {
        Some(number) => {
            items[number as usize] = item;
            number
        }
        None => {
            items.push(item);
            items.len() as u32 - 1
        }
    }
}
