//! The unit of work: a batch of rows in columns, with the event time and the row kind of each row.
//!
//! Law: every operation on rows (`take`, `filter`, `slice`, `concat`) acts on all parts alike, so that
//! row `i` of each part always speaks of the same row.

use std::any::Any;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, UInt8Array, UInt32Array, UInt64Array};
use arrow::buffer::ScalarBuffer;
use arrow::compute;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;

/// What a row does to the table that the stream describes (Flink's `RowKind`), one byte on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RowKind {
    Insert = 0,
    UpdateBefore = 1,
    UpdateAfter = 2,
    Delete = 3,
}

/// Bytes that a batch accounts for in some budget. Dropping the last clone gives them back.
pub type Permit = Arc<dyn Any + Send + Sync>;

/// Rows in Arrow columns, with what the host knows of each row.
#[derive(Clone)]
pub struct Batch {
    /// The user's columns.
    pub rows: RecordBatch,
    /// Event time of each row in ms since the epoch; `None` if the stream has no event time.
    pub times: Option<ScalarBuffer<i64>>,
    /// [`RowKind`] of each row as a byte; `None` means that all rows are inserts.
    pub kinds: Option<ScalarBuffer<u8>>,
    /// Hash of each row's key, set by a keyed exchange for the operator behind it.
    pub hashes: Option<ScalarBuffer<u64>>,
    /// When the oldest row entered the job: ns on the job's monotonic clock; 0 if unknown.
    pub entered_ns: u64,
    /// Held in flight budgets, in the order in which the operators took them.
    pub permit: Option<Permit>,
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch").field("rows", &self.rows).field("times", &self.times).finish_non_exhaustive()
    }
}

impl Batch {
    /// A batch of inserts without event time.
    pub fn new(rows: RecordBatch) -> Self {
        Self { rows, times: None, kinds: None, hashes: None, entered_ns: 0, permit: None }
    }

    /// The same rows with event times. Panics if the lengths differ (a bug of the host).
    pub fn with_times(mut self, times: Option<ScalarBuffer<i64>>) -> Self {
        if let Some(t) = &times {
            assert_eq!(t.len(), self.rows.num_rows(), "one event time per row");
        }
        self.times = times;
        self
    }

    /// What `self` knows besides rows (entry time, permit), with other rows. Times, kinds and hashes are dropped.
    pub fn derive(&self, rows: RecordBatch) -> Self {
        Self { rows, times: None, kinds: None, hashes: None, entered_ns: self.entered_ns, permit: self.permit.clone() }
    }

    pub fn num_rows(&self) -> usize {
        self.rows.num_rows()
    }

    pub fn is_empty(&self) -> bool {
        self.num_rows() == 0
    }

    pub fn schema(&self) -> SchemaRef {
        self.rows.schema()
    }

    /// Bytes of the rows that this batch shows (a slice counts only its part).
    pub fn bytes(&self) -> usize {
        let columns: usize = self.rows.columns().iter().map(slice_bytes).sum();
        columns + self.times.as_ref().map_or(0, |t| t.len() * 8)
    }

    /// The rows at `indices`, in that order. Panics if an index is out of range (a bug of the host).
    pub fn take(&self, indices: &UInt32Array) -> Result<Self, ArrowError> {
        let rows = take_rows(&self.rows, indices)?;
        Ok(Self {
            times: self.times.as_ref().map(|t| indices.values().iter().map(|&i| t[i as usize]).collect()),
            kinds: self.kinds.as_ref().map(|k| indices.values().iter().map(|&i| k[i as usize]).collect()),
            hashes: self.hashes.as_ref().map(|h| indices.values().iter().map(|&i| h[i as usize]).collect()),
            ..self.derive(rows)
        })
    }

    /// The rows whose bit in `mask` is set (null counts as unset).
    pub fn filter(&self, mask: &BooleanArray) -> Result<Self, ArrowError> {
        let predicate = compute::FilterBuilder::new(mask).optimize().build();
        let rows = predicate.filter_record_batch(&self.rows)?;
        let times = self.times.as_ref().map(|t| {
            let array = arrow::array::Int64Array::new(t.clone(), None);
            predicate.filter(&array).map(|a| values_i64(&a))
        });
        let kinds = self.kinds.as_ref().map(|k| {
            let array = UInt8Array::new(k.clone(), None);
            predicate.filter(&array).map(|a| values_u8(&a))
        });
        let hashes = self.hashes.as_ref().map(|h| {
            let array = UInt64Array::new(h.clone(), None);
            predicate.filter(&array).map(|a| values_u64(&a))
        });
        Ok(Self {
            times: times.transpose()?,
            kinds: kinds.transpose()?,
            hashes: hashes.transpose()?,
            ..self.derive(rows)
        })
    }

    /// `length` rows from `offset` on, without copying.
    pub fn slice(&self, offset: usize, length: usize) -> Self {
        Self {
            times: self.times.as_ref().map(|t| t.slice(offset, length)),
            kinds: self.kinds.as_ref().map(|k| k.slice(offset, length)),
            hashes: self.hashes.as_ref().map(|h| h.slice(offset, length)),
            ..self.derive(self.rows.slice(offset, length))
        }
    }

    /// All rows of `batches` (same schema, not empty) in order. The entry time is the oldest one; permits are dropped.
    pub fn concat(batches: &[Batch]) -> Result<Self, ArrowError> {
        let first = &batches[0];
        let rows = compute::concat_batches(&first.schema(), batches.iter().map(|b| &b.rows))?;
        let all = |has: fn(&Batch) -> bool| batches.iter().all(has);
        Ok(Self {
            times: all(|b| b.times.is_some())
                .then(|| batches.iter().flat_map(|b| b.times.iter().flat_map(|t| t.iter().copied())).collect()),
            kinds: batches.iter().any(|b| b.kinds.is_some()).then(|| {
                let kinds = |b: &Batch| b.kinds.as_ref().map_or_else(|| vec![0u8; b.num_rows()], |k| k.to_vec());
                batches.iter().flat_map(kinds).collect()
            }),
            hashes: all(|b| b.hashes.is_some())
                .then(|| batches.iter().flat_map(|b| b.hashes.iter().flat_map(|t| t.iter().copied())).collect()),
            rows,
            entered_ns: batches.iter().map(|b| b.entered_ns).filter(|&n| n > 0).min().unwrap_or(0),
            permit: None,
        })
    }
}

/// `take` for record batches of any width, also of no columns.
pub fn take_rows(rows: &RecordBatch, indices: &UInt32Array) -> Result<RecordBatch, ArrowError> {
    let columns: Result<Vec<ArrayRef>, _> = rows.columns().iter().map(|c| compute::take(c, indices, None)).collect();
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(indices.len()));
    RecordBatch::try_new_with_options(rows.schema(), columns?, &options)
}

fn slice_bytes(array: &ArrayRef) -> usize {
    array.to_data().get_slice_memory_size().unwrap_or_else(|_| array.get_array_memory_size())
}

fn values_i64(array: &ArrayRef) -> ScalarBuffer<i64> {
    use arrow::array::AsArray;
    array.as_primitive::<arrow::datatypes::Int64Type>().values().clone()
}

fn values_u8(array: &ArrayRef) -> ScalarBuffer<u8> {
    use arrow::array::AsArray;
    array.as_primitive::<arrow::datatypes::UInt8Type>().values().clone()
}

fn values_u64(array: &ArrayRef) -> ScalarBuffer<u64> {
    use arrow::array::AsArray;
    array.as_primitive::<arrow::datatypes::UInt64Type>().values().clone()
}
