//! Keys: how they are encoded, hashed and assigned to workers.
//!
//! Laws: a key's bytes are the Arrow row encoding of its columns, so equal keys are equal bytes and
//! byte order is value order. Key group = xxh3(bytes) mod [`KEY_GROUPS`], stable across versions,
//! machines and parallelism. Each worker owns a contiguous range of groups.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::{DataType, Int64Type, Schema};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, Rows, SortField};
use xxhash_rust::xxh3::xxh3_64;

use crate::batch::Batch;
use crate::limits::KEY_GROUPS;

/// The key group of a key hash.
#[inline]
pub fn key_group(hash: u64) -> u32 {
    // The high half by multiplication: unbiased enough and no division.
    (((hash >> 32) * u64::from(KEY_GROUPS)) >> 32) as u32
}

/// The key groups that a worker owns.
pub fn groups_of(worker: usize, workers: usize) -> std::ops::Range<u32> {
    let first = |worker: usize| (worker * KEY_GROUPS as usize).div_ceil(workers) as u32;
    first(worker)..first(worker + 1)
}

/// Hash of a key by its bytes.
#[inline]
pub fn hash_key(key: &[u8]) -> u64 {
    xxh3_64(key)
}

/// The worker that owns a key group.
#[inline]
pub fn worker_of(group: u32, workers: usize) -> usize {
    (group as usize * workers) / KEY_GROUPS as usize
}

/// Encodes and hashes the key columns of batches with one schema.
pub struct KeyEncoder {
    columns: Vec<usize>,
    converter: RowConverter,
    single_i64: bool,
}

impl std::fmt::Debug for KeyEncoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyEncoder").field("columns", &self.columns).finish_non_exhaustive()
    }
}

impl KeyEncoder {
    /// `columns`: indices of the key columns in `schema`, in key order.
    pub fn new(schema: &Schema, columns: &[usize]) -> Result<Self, ArrowError> {
        let types: Vec<DataType> = columns.iter().map(|&c| schema.field(c).data_type().clone()).collect();
        let converter = RowConverter::new(types.iter().cloned().map(SortField::new).collect())?;
        Ok(Self { columns: columns.to_vec(), converter, single_i64: types == [DataType::Int64] })
    }

    /// The key columns of a batch.
    pub fn key_columns(&self, batch: &Batch) -> Vec<ArrayRef> {
        self.columns.iter().map(|&c| batch.column(c).clone()).collect()
    }

    /// The keys' bytes, one row per row.
    pub fn encode(&self, batch: &Batch) -> Result<Rows, ArrowError> {
        self.converter.convert_columns(&self.key_columns(batch))
    }

    /// Key columns back from encoded keys, in the order given.
    pub fn decode<'a>(&self, keys: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<ArrayRef>, ArrowError> {
        let parser = self.converter.parser();
        self.converter.convert_rows(keys.into_iter().map(|k| parser.parse(k)))
    }

    /// The key values, if the key is one int64 column and this batch has no nulls in it: then the encoding
    /// need not be made.
    pub fn plain_i64<'a>(&self, batch: &'a Batch) -> Option<&'a [i64]> {
        let column = batch.column(*self.columns.first()?);
        let plain = self.single_i64 && column.null_count() == 0;
        plain.then(|| &column.as_primitive::<Int64Type>().values()[..])
    }

    /// Hash of each row's key, equal to xxh3 of the encoded key.
    pub fn hashes(&self, batch: &Batch) -> Result<ScalarBuffer<u64>, ArrowError> {
        match self.plain_i64(batch) {
            Some(values) => Ok(values.iter().map(|&v| hash_i64(v)).collect()),
            None => Ok(hash_rows(&self.encode(batch)?)),
        }
    }
}

/// Hash of each encoded key.
pub fn hash_rows(keys: &Rows) -> ScalarBuffer<u64> {
    keys.iter().map(|k| xxh3_64(k.data())).collect()
}

/// Arrow row encoding of one valid i64: a marker byte, then big-endian with the sign bit flipped.
#[inline]
pub fn encode_i64(value: i64) -> [u8; 9] {
    let mut bytes = [1u8; 9];
    bytes[1..].copy_from_slice(&((value as u64) ^ (1 << 63)).to_be_bytes());
    bytes
}

/// Arrow row encoding of a null int64.
pub const NULL_I64: [u8; 9] = [0; 9];

/// xxh3 of [`encode_i64`], computed in registers (xxh3's rule for 9 to 16 bytes, with its default secret): going
/// through the bytes in memory costs five times as much.
#[inline]
pub fn hash_i64(value: i64) -> u64 {
    // Words at 24, 32, 40 and 48 of the secret.
    const FLIP_LOW: u64 = 0x1f67_b3b7_a4a4_4072 ^ 0x78e5_c0cc_4ee6_79cb;
    const FLIP_HIGH: u64 = 0x2172_ffcc_7dd0_5a82 ^ 0x8e24_43f7_7446_08b8;
    let word = ((value as u64) ^ (1 << 63)).swap_bytes();
    let low = (1 | word << 8) ^ FLIP_LOW;
    let high = word ^ FLIP_HIGH;
    let product = u128::from(low) * u128::from(high);
    let folded = product as u64 ^ (product >> 64) as u64;
    let hash = 9u64.wrapping_add(low.swap_bytes()).wrapping_add(high).wrapping_add(folded);
    let hash = (hash ^ hash >> 37).wrapping_mul(0x1656_6791_9E37_79F9);
    hash ^ hash >> 32
}

/// The i64 whose encoding this is; `None` for anything else.
#[inline]
pub fn decode_i64(bytes: &[u8]) -> Option<i64> {
    let [1, word @ ..] = bytes else { return None };
    let word = <[u8; 8]>::try_from(word).ok()?;
    Some((u64::from_be_bytes(word) ^ (1 << 63)) as i64)
}

/// Splits batches by key for `workers` workers. The parts share the batch; whoever gets one copies the columns it
/// reads, and only those. Reuses its index lists.
#[derive(Debug)]
pub struct Partitioner {
    encoder: KeyEncoder,
    indices: Vec<Vec<u32>>,
}

impl Partitioner {
    pub fn new(encoder: KeyEncoder, workers: usize) -> Self {
        Self { encoder, indices: vec![Vec::new(); workers] }
    }

    /// Calls `send(worker, part)` for each worker that gets rows. Parts carry the key hashes.
    pub fn partition(&mut self, mut batch: Batch, mut send: impl FnMut(usize, Batch)) -> Result<(), ArrowError> {
        let hashes = match &batch.hashes {
            Some(h) => h.clone(),
            None => self.encoder.hashes(&batch)?,
        };
        batch.hashes = Some(hashes.clone());
        let workers = self.indices.len();
        if workers == 1 {
            send(0, batch);
            return Ok(());
        }
        for list in &mut self.indices {
            list.clear();
        }
        for (row, &hash) in hashes.iter().enumerate() {
            self.indices[worker_of(key_group(hash), workers)].push(row as u32);
        }
        for worker in 0..workers {
            let count = self.indices[worker].len();
            if count == batch.num_rows() {
                send(worker, batch.clone());
            } else if count > 0 {
                send(worker, batch.select(self.indices[worker].clone()));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int64Array, RecordBatch};
    use arrow::datatypes::Field;
    use proptest::prelude::*;
    use std::sync::Arc;

    fn rows(values: Vec<Option<i64>>) -> RecordBatch {
        let schema = Arc::new(Schema::new(vec![Field::new("k", DataType::Int64, true)]));
        RecordBatch::try_new(schema, vec![Arc::new(Int64Array::from(values))]).unwrap()
    }

    #[test]
    fn null_is_encoded_as_the_encoding_does() {
        let batch = Batch::new(rows(vec![None]));
        let encoder = KeyEncoder::new(&batch.rows().schema(), &[0]).unwrap();
        assert_eq!(encoder.encode(&batch).unwrap().row(0).data(), NULL_I64);
    }

    #[test]
    fn each_group_is_owned_by_the_worker_that_it_is_sent_to() {
        for workers in [1, 2, 3, 5, 7, 64, 256, 1024] {
            for worker in 0..workers {
                for group in groups_of(worker, workers) {
                    assert_eq!(worker_of(group, workers), worker, "{group} of {workers}");
                }
            }
            assert_eq!(groups_of(workers - 1, workers).end, KEY_GROUPS);
        }
    }

    proptest! {
        #[test]
        fn the_fast_path_hashes_like_the_encoding(values in prop::collection::vec(any::<i64>(), 1..50)) {
            let batch = rows(values.into_iter().map(Some).collect());
            let encoder = KeyEncoder::new(&batch.schema(), &[0]).unwrap();
            let batch = Batch::new(batch);
            let expected = hash_rows(&encoder.encode(&batch).unwrap());
            prop_assert_eq!(encoder.hashes(&batch).unwrap(), expected);
        }

        #[test]
        fn every_row_goes_to_exactly_one_worker(
            values in prop::collection::vec(proptest::option::of(0i64..100), 1..200), workers in 1usize..7,
        ) {
            let batch = rows(values.clone());
            let encoder = KeyEncoder::new(&batch.schema(), &[0]).unwrap();
            let mut partitioner = Partitioner::new(encoder, workers);
            let mut owner = std::collections::HashMap::new();
            let mut seen = 0;
            partitioner.partition(Batch::new(batch), |worker, part| {
                seen += part.num_rows();
                for v in part.column(0).as_primitive::<Int64Type>() {
                    assert_eq!(*owner.entry(v).or_insert(worker), worker);
                }
            }).unwrap();
            prop_assert_eq!(seen, values.len());
        }
    }

    #[test]
    fn key_groups_of_known_keys_never_change() {
        // A change here breaks every savepoint ever taken.
        let groups = [0i64, 1, -1, 42, i64::MAX].map(|k| key_group(xxh3_64(&encode_i64(k))));
        assert_eq!(groups, [379, 521, 655, 367, 334]);
        let texts = Arc::new(arrow::array::StringArray::from(vec!["", "a", "tide", "mill"]));
        let schema = Arc::new(Schema::new(vec![Field::new("k", DataType::Utf8, true)]));
        let encoder = KeyEncoder::new(&schema, &[0]).unwrap();
        let hashes = encoder.hashes(&Batch::new(RecordBatch::try_new(schema, vec![texts]).unwrap())).unwrap();
        assert_eq!(hashes.iter().map(|&h| key_group(h)).collect::<Vec<_>>(), [900, 375, 588, 534]);
        let owners: Vec<usize> = (0..KEY_GROUPS).map(|g| worker_of(g, 3)).collect();
        assert!(owners.is_sorted() && owners[0] == 0 && owners[1023] == 2);
    }
}
