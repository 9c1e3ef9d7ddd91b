//! The keys of one pane, numbered densely in the order in which they first came.
//!
//! Law: a key has one number; numbers are `0..len` without gaps. `clear` keeps the memory.

use std::borrow::Cow;
use std::convert::Infallible;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, Int64Array};
use arrow::buffer::{NullBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Int64Type, Schema};
use arrow::error::ArrowError;
use arrow::row::Rows;
use hashbrown::HashTable;
use tidemill_model::Batch;
use tidemill_model::int_table::{IntTable, mix};
use tidemill_model::key::{KeyEncoder, NULL_I64, decode_i64, encode_i64, hash_i64, hash_key, hash_rows, key_group};

use crate::key_list::KeyList;

/// How keys are taken from batches: chosen once per operator.
pub(crate) enum KeyReader {
    /// No key: all rows are one group.
    Global,
    /// One int64 column.
    I64(usize),
    Encoded(KeyEncoder),
}

/// The keys of one batch.
pub(crate) enum BatchKeys {
    Global,
    I64(Int64Array),
    Encoded(Rows, ScalarBuffer<u64>),
}

impl KeyReader {
    pub fn new(schema: &Schema, columns: &[usize]) -> Result<Self, ArrowError> {
        match columns {
            [] => Ok(Self::Global),
            [one] if schema.field(*one).data_type() == &DataType::Int64 => Ok(Self::I64(*one)),
            many => Ok(Self::Encoded(KeyEncoder::new(schema, many)?)),
        }
    }

    pub fn read(&self, batch: &Batch) -> Result<BatchKeys, ArrowError> {
        Ok(match self {
            Self::Global => BatchKeys::Global,
            Self::I64(column) => BatchKeys::I64(batch.column(*column).as_primitive::<Int64Type>().clone()),
            Self::Encoded(encoder) => {
                let encoded = encoder.encode(batch)?;
                let hashes = batch.hashes.clone().unwrap_or_else(|| hash_rows(&encoded));
                BatchKeys::Encoded(encoded, hashes)
            }
        })
    }

    pub fn table(&self) -> Groups {
        match self {
            Self::Global => Groups::Global(0),
            Self::I64(_) => Groups::I64(I64Groups::default()),
            Self::Encoded(_) => Groups::Encoded(EncodedGroups::default()),
        }
    }

    /// Key columns of all groups of a table made by this reader, in order of their numbers.
    pub fn columns(&self, groups: &Groups) -> Result<Vec<ArrayRef>, ArrowError> {
        match (self, groups) {
            (_, Groups::I64(groups)) => Ok(vec![groups.column()]),
            (Self::Encoded(encoder), Groups::Encoded(groups)) => encoder.decode(groups.keys.iter()),
            _ => Ok(Vec::new()),
        }
    }
}

pub(crate) enum Groups {
    /// Number of groups: 0 or 1.
    Global(usize),
    I64(I64Groups),
    Encoded(EncodedGroups),
}

impl Groups {
    pub fn len(&self) -> usize {
        match self {
            Self::Global(len) => *len,
            Self::I64(groups) => groups.keys.len(),
            Self::Encoded(groups) => groups.keys.len(),
        }
    }

    pub fn clear(&mut self) {
        match self {
            Self::Global(len) => *len = 0,
            Self::I64(groups) => groups.clear(),
            Self::Encoded(groups) => groups.clear(),
        }
    }

    /// The same for keys by their bytes, as [`FrozenGroups`] gives them out.
    pub fn number_bytes(&mut self, keys: &BinaryArray, numbers: &mut Vec<usize>) {
        numbers.clear();
        for key in keys.iter().map(Option::unwrap_or_default) {
            match self {
                Self::Global(len) => {
                    *len = 1;
                    numbers.push(0);
                }
                Self::I64(groups) => match decode_i64(key) {
                    Some(key) => groups.add(std::iter::once(key), numbers),
                    None => groups.add_null(numbers),
                },
                Self::Encoded(groups) => numbers.push(groups.group(key, hash_key(key))),
            }
        }
    }

    /// The groups here of all keys of another table made by the same reader, or of some; new ones are added.
    pub fn add_from(&mut self, other: &Self, chosen: Option<&[u32]>, numbers: &mut Vec<usize>) {
        numbers.clear();
        match (&mut *self, other, chosen) {
            (Self::I64(own), Self::I64(other), None) if other.null.is_none() => {
                own.add(other.keys.iter().copied(), numbers);
            }
            (_, _, None) => (0..other.len()).for_each(|number| self.add_one(other, number, numbers)),
            (_, _, Some(chosen)) => chosen.iter().for_each(|&n| self.add_one(other, n as usize, numbers)),
        }
    }

    fn add_one(&mut self, other: &Self, number: usize, numbers: &mut Vec<usize>) {
        match (self, other) {
            (Self::Global(len), _) => {
                *len = 1;
                numbers.push(0);
            }
            (Self::I64(own), Self::I64(other)) if other.null == Some(number) => own.add_null(numbers),
            (Self::I64(own), Self::I64(other)) => own.add(std::iter::once(other.keys[number]), numbers),
            (Self::Encoded(own), Self::Encoded(other)) => {
                let key = other.keys.get(number);
                numbers.push(own.group(key, hash_key(key)));
            }
            _ => unreachable!("both tables come from one reader"),
        }
    }

    /// The group here of a key of another table.
    pub fn find(&self, other: &Self, number: usize) -> Option<usize> {
        match (self, other) {
            (Self::Global(len), _) => (*len > 0).then_some(0),
            (Self::I64(own), Self::I64(other)) if other.null == Some(number) => own.null,
            (Self::I64(own), Self::I64(other)) => own.table.get(other.keys[number]).map(|number| number as usize),
            (Self::Encoded(own), Self::Encoded(other)) => {
                let key = other.keys.get(number);
                own.find(key, hash_key(key))
            }
            _ => unreachable!("both tables come from one reader"),
        }
    }

    /// The group of each of these rows that has one: `found(place in rows, group)`. None of their keys is null.
    pub fn find_rows(&self, keys: &BatchKeys, rows: &[u32], mut found: impl FnMut(usize, usize)) {
        match (self, keys) {
            (Self::Global(len), _) => (0..rows.len()).filter(|_| *len > 0).for_each(|place| found(place, 0)),
            (Self::I64(own), BatchKeys::I64(keys)) => {
                let values = keys.values();
                let mut place = 0;
                own.table.get_all(rows.iter().map(|&row| values[row as usize]), |group| {
                    if let Some(group) = group {
                        found(place, group as usize);
                    }
                    place += 1;
                });
            }
            (Self::Encoded(own), BatchKeys::Encoded(keys, hashes)) => {
                for (place, &row) in rows.iter().enumerate() {
                    if let Some(group) = own.find(keys.row(row as usize).data(), hashes[row as usize]) {
                        found(place, group);
                    }
                }
            }
            _ => unreachable!("keys and table come from readers of one kind"),
        }
    }

    /// The keys as they are now.
    pub fn freeze(&self) -> FrozenGroups {
        match self {
            Self::Global(_) => FrozenGroups::Global,
            Self::I64(groups) => FrozenGroups::I64(groups.keys.clone(), groups.null),
            Self::Encoded(groups) => FrozenGroups::Encoded(groups.keys.clone()),
        }
    }

    /// The group of each row in `numbers`: all rows of the batch, or those in `rows`.
    pub fn number(&mut self, keys: &BatchKeys, count: usize, rows: Option<&[u32]>, numbers: &mut Vec<usize>) {
        numbers.clear();
        match (self, keys) {
            (Self::Global(len), _) => {
                *len = 1;
                numbers.resize(rows.map_or(count, <[u32]>::len), 0);
            }
            (Self::I64(groups), BatchKeys::I64(keys)) => groups.number(keys, rows, numbers),
            (Self::Encoded(groups), BatchKeys::Encoded(keys, hashes)) => {
                let mut add = |row: usize| numbers.push(groups.group(keys.row(row).data(), hashes[row]));
                match rows {
                    None => (0..count).for_each(add),
                    Some(rows) => rows.iter().for_each(|&r| add(r as usize)),
                }
            }
            _ => unreachable!("keys and table come from one reader"),
        }
    }
}

/// The keys of a pane for a snapshot, by number.
pub(crate) enum FrozenGroups {
    Global,
    /// Values, and the number of the null key.
    I64(Vec<i64>, Option<usize>),
    Encoded(KeyList),
}

impl FrozenGroups {
    /// The key group of a key: as the exchange has it. What has no key belongs to the first one.
    pub fn key_group(&self, number: usize) -> u32 {
        match self {
            Self::Global => 0,
            Self::I64(keys, null) if *null != Some(number) => key_group(hash_i64(keys[number])),
            _ => key_group(hash_key(&self.bytes(number))),
        }
    }

    /// The encoding of a key; nothing if there is none.
    pub fn bytes(&self, number: usize) -> Cow<'_, [u8]> {
        match self {
            Self::Global => Cow::Borrowed(&[]),
            Self::I64(_, null) if *null == Some(number) => Cow::Borrowed(&NULL_I64),
            Self::I64(keys, _) => Cow::Owned(encode_i64(keys[number]).to_vec()),
            Self::Encoded(keys) => Cow::Borrowed(keys.get(number)),
        }
    }
}

#[derive(Default)]
pub(crate) struct I64Groups {
    table: IntTable,
    keys: Vec<i64>,
    /// Number of the null key.
    null: Option<usize>,
}

impl I64Groups {
    fn number(&mut self, keys: &Int64Array, rows: Option<&[u32]>, numbers: &mut Vec<usize>) {
        let values = keys.values();
        match (rows, keys.null_count()) {
            (None, 0) => self.add(values.iter().copied(), numbers),
            (Some(rows), 0) => self.add(rows.iter().map(|&r| values[r as usize]), numbers),
            (None, _) => (0..keys.len()).for_each(|r| self.add_nullable(keys, r, numbers)),
            (Some(rows), _) => rows.iter().for_each(|&r| self.add_nullable(keys, r as usize, numbers)),
        }
    }

    fn add(&mut self, keys: impl ExactSizeIterator<Item = i64> + Clone, numbers: &mut Vec<usize>) {
        numbers.reserve(keys.len());
        let new = |key| {
            self.keys.push(key);
            Ok::<u32, Infallible>(self.keys.len() as u32 - 1)
        };
        let Ok(()) = self.table.get_or_insert_all(keys, new, |number| numbers.push(number as usize));
    }

    fn add_nullable(&mut self, keys: &Int64Array, row: usize, numbers: &mut Vec<usize>) {
        if keys.is_valid(row) {
            return self.add(std::iter::once(keys.value(row)), numbers);
        }
        self.add_null(numbers);
    }

    fn add_null(&mut self, numbers: &mut Vec<usize>) {
        let null = *self.null.get_or_insert_with(|| {
            self.keys.push(0);
            self.keys.len() - 1
        });
        numbers.push(null);
    }

    fn column(&self) -> ArrayRef {
        let nulls = self.null.map(|null| NullBuffer::from_iter((0..self.keys.len()).map(|g| g != null)));
        Arc::new(Int64Array::new(self.keys.clone().into(), nulls))
    }

    fn clear(&mut self) {
        self.table.clear();
        self.keys.clear();
        self.null = None;
    }
}

#[derive(Default)]
pub(crate) struct EncodedGroups {
    /// Tag (a part of the hash) and number.
    table: HashTable<(u32, u32)>,
    keys: KeyList,
}

impl EncodedGroups {
    #[inline]
    fn group(&mut self, key: &[u8], hash: u64) -> usize {
        // The high half of the hash decides the worker, so the low half tells keys apart here.
        let (tag, next) = (hash as u32, self.keys.len());
        let same = |e: &(u32, u32)| e.0 == tag && self.keys.get(e.1 as usize) == key;
        let entry = self.table.entry(mix(i64::from(tag)), same, |e| mix(i64::from(e.0)));
        let group = entry.or_insert_with(|| (tag, next as u32)).get().1 as usize;
        if group == next {
            self.keys.push(key);
        }
        group
    }

    fn find(&self, key: &[u8], hash: u64) -> Option<usize> {
        let tag = hash as u32;
        let same = |e: &(u32, u32)| e.0 == tag && self.keys.get(e.1 as usize) == key;
        self.table.find(mix(i64::from(tag)), same).map(|e| e.1 as usize)
    }

    fn clear(&mut self) {
        self.table.clear();
        self.keys.clear();
    }
}
