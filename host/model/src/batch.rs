//! The unit of work: a batch of rows in columns, with the event time and the row kind of each row.
//!
//! Laws: every operation on rows (`take`, `select`, `filter`, `slice`, `concat`) acts on all parts alike, so that
//! row `i` of each part always speaks of the same row; a column of selected rows is copied when it is first asked for.

use std::any::Any;
use std::sync::{Arc, OnceLock};

use arrow::array::{
    Array, ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions, UInt8Array, UInt32Array, UInt64Array,
};
use arrow::buffer::ScalarBuffer;
use arrow::compute;
use arrow::datatypes::{ArrowNativeType, SchemaRef};
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
    columns: Columns,
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

/// The user's columns.
#[derive(Clone)]
enum Columns {
    Plain(RecordBatch),
    Selected(Arc<Selected>),
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch").field("rows", self.rows()).field("times", &self.times).finish_non_exhaustive()
    }
}

impl Batch {
    /// A batch of inserts without event time.
    pub fn new(rows: RecordBatch) -> Self {
        Self::of(Columns::Plain(rows))
    }

    fn of(columns: Columns) -> Self {
        Self { columns, times: None, kinds: None, hashes: None, entered_ns: 0, permit: None }
    }

    /// The same rows with event times. Panics if the lengths differ (a bug of the host).
    pub fn with_times(mut self, times: Option<ScalarBuffer<i64>>) -> Self {
        if let Some(t) = &times {
            assert_eq!(t.len(), self.num_rows(), "one event time per row");
        }
        self.times = times;
        self
    }

    /// What `self` knows besides rows (entry time, permit), with other rows. Times, kinds and hashes are dropped.
    pub fn derive(&self, rows: RecordBatch) -> Self {
        self.derive_columns(Columns::Plain(rows))
    }

    fn derive_columns(&self, columns: Columns) -> Self {
        Self { entered_ns: self.entered_ns, permit: self.permit.clone(), ..Self::of(columns) }
    }

    /// As many rows in their place, with times, kinds and hashes left as they are. Panics if the number differs
    /// (a bug of the host).
    pub fn set_rows(&mut self, rows: RecordBatch) {
        assert_eq!(rows.num_rows(), self.num_rows(), "one row in place of each");
        self.columns = Columns::Plain(rows);
    }

    pub fn num_rows(&self) -> usize {
        match &self.columns {
            Columns::Plain(rows) => rows.num_rows(),
            Columns::Selected(selected) => selected.indices.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.num_rows() == 0
    }

    pub fn schema(&self) -> SchemaRef {
        match &self.columns {
            Columns::Plain(rows) => rows.schema(),
            Columns::Selected(selected) => selected.source.schema(),
        }
    }

    /// All columns. Costs a copy if rows were selected; [`Batch::column`] copies only what is needed.
    pub fn rows(&self) -> &RecordBatch {
        match &self.columns {
            Columns::Plain(rows) => rows,
            Columns::Selected(selected) => selected.all(),
        }
    }

    /// One column.
    pub fn column(&self, index: usize) -> &ArrayRef {
        match &self.columns {
            Columns::Plain(rows) => rows.column(index),
            Columns::Selected(selected) => selected.column(index),
        }
    }

    /// Some columns, in the order given, as rows of `schema`.
    pub fn project(&self, columns: &[usize], schema: SchemaRef) -> Result<RecordBatch, ArrowError> {
        let columns = columns.iter().map(|&c| self.column(c).clone()).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(self.num_rows()));
        RecordBatch::try_new_with_options(schema, columns, &options)
    }

    /// Bytes of the rows that this batch shows (a slice or selection counts only its part).
    pub fn bytes(&self) -> usize {
        let columns = match &self.columns {
            Columns::Plain(rows) => rows_bytes(rows),
            Columns::Selected(selected) => {
                rows_bytes(&selected.source) * selected.indices.len() / selected.source.num_rows().max(1)
            }
        };
        columns + self.times.as_ref().map_or(0, |t| t.len() * 8)
    }

    /// The rows at `indices`, which must ascend. Columns are copied when they are first asked for, so what nobody
    /// reads behind an exchange never moves. Panics if an index is out of range (a bug of the host).
    pub fn select(&self, indices: Vec<u32>) -> Self {
        let chosen = UInt32Array::from(indices);
        let (times, kinds, hashes) = self.taken(&chosen);
        let selected = match &self.columns {
            Columns::Plain(rows) => Selected::new(rows.clone(), chosen),
            Columns::Selected(selected) => selected.narrowed(&chosen),
        };
        let columns = Columns::Selected(Arc::new(selected));
        Self { times, kinds, hashes, ..self.derive_columns(columns) }
    }

    /// The rows at `indices`, in that order. Panics if an index is out of range (a bug of the host).
    pub fn take(&self, indices: &UInt32Array) -> Result<Self, ArrowError> {
        let rows = take_rows(self.rows(), indices)?;
        let (times, kinds, hashes) = self.taken(indices);
        Ok(Self { times, kinds, hashes, ..self.derive(rows) })
    }

    /// Times, kinds and hashes of the rows at `indices`.
    #[allow(clippy::type_complexity)]
    fn taken(
        &self,
        indices: &UInt32Array,
    ) -> (Option<ScalarBuffer<i64>>, Option<ScalarBuffer<u8>>, Option<ScalarBuffer<u64>>) {
        fn pick<T: ArrowNativeType>(
            values: &Option<ScalarBuffer<T>>,
            indices: &UInt32Array,
        ) -> Option<ScalarBuffer<T>> {
            values.as_ref().map(|v| indices.values().iter().map(|&i| v[i as usize]).collect())
        }
        (pick(&self.times, indices), pick(&self.kinds, indices), pick(&self.hashes, indices))
    }

    /// The rows whose bit in `mask` is set (null counts as unset).
    pub fn filter(&self, mask: &BooleanArray) -> Result<Self, ArrowError> {
        let predicate = compute::FilterBuilder::new(mask).optimize().build();
        let rows = predicate.filter_record_batch(self.rows())?;
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
            ..self.derive_columns(self.columns.slice(offset, length))
        }
    }

    /// All rows of `batches` (same schema, not empty) in order. The entry time is the oldest one; permits are dropped.
    pub fn concat(batches: &[Batch]) -> Result<Self, ArrowError> {
        let first = &batches[0];
        let rows = compute::concat_batches(&first.schema(), batches.iter().map(|b| b.rows()))?;
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
            columns: Columns::Plain(rows),
            entered_ns: batches.iter().map(|b| b.entered_ns).filter(|&n| n > 0).min().unwrap_or(0),
            permit: None,
        })
    }
}

impl Columns {
    fn slice(&self, offset: usize, length: usize) -> Self {
        match self {
            Self::Plain(rows) => Self::Plain(rows.slice(offset, length)),
            Self::Selected(selected) if length == selected.indices.len() => Self::Selected(selected.clone()),
            Self::Selected(selected) => {
                let indices = selected.indices.slice(offset, length);
                Self::Selected(Arc::new(Selected::new(selected.source.clone(), indices)))
            }
        }
    }
}

/// Some rows of others.
struct Selected {
    source: RecordBatch,
    /// Ascending, so that a column of them is never longer than the source's.
    indices: UInt32Array,
    /// What was asked for so far.
    columns: Vec<OnceLock<ArrayRef>>,
    all: OnceLock<RecordBatch>,
}

impl Selected {
    fn new(source: RecordBatch, indices: UInt32Array) -> Self {
        let columns = vec![OnceLock::new(); source.num_columns()];
        Self { source, indices, columns, all: OnceLock::new() }
    }

    fn narrowed(&self, chosen: &UInt32Array) -> Self {
        let indices = chosen.values().iter().map(|&i| self.indices.value(i as usize));
        Self::new(self.source.clone(), UInt32Array::from_iter_values(indices))
    }

    fn column(&self, index: usize) -> &ArrayRef {
        self.columns[index].get_or_init(|| {
            compute::take(self.source.column(index), &self.indices, None).expect("a part fits where the whole did")
        })
    }

    fn all(&self) -> &RecordBatch {
        self.all.get_or_init(|| {
            let columns = (0..self.columns.len()).map(|c| self.column(c).clone()).collect();
            let options = RecordBatchOptions::new().with_row_count(Some(self.indices.len()));
            RecordBatch::try_new_with_options(self.source.schema(), columns, &options)
                .expect("columns of one selection are equally long")
        })
    }
}

/// `take` for record batches of any width, also of no columns.
pub fn take_rows(rows: &RecordBatch, indices: &UInt32Array) -> Result<RecordBatch, ArrowError> {
    let columns: Result<Vec<ArrayRef>, _> = rows.columns().iter().map(|c| compute::take(c, indices, None)).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(indices.len()));
    RecordBatch::try_new_with_options(rows.schema(), columns?, &options)
}

fn rows_bytes(rows: &RecordBatch) -> usize {
    rows.columns().iter().map(slice_bytes).sum()
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
