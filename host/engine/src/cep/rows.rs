//! Rows on their way to the matcher: those that wait for the watermark, and those that belong to partial matches.
//!
//! Laws: rows are given out in the order of their times, those of one time as they came; a row is kept as the bytes of the
//! columns that matches need (`arrow::row`), so that a match never holds a batch.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, RecordBatch, new_null_array};
use arrow::datatypes::{DataType, Schema};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, SortField};

/// A row by its bytes.
pub(super) type Row = Arc<[u8]>;

/// The columns that matches keep of their events, to bytes and back.
pub(super) struct Kept {
    pub columns: Vec<usize>,
    converter: RowConverter,
    /// In place of an event that there is not.
    nothing: Row,
}

impl Kept {
    pub fn new(input: &Schema, columns: &[usize]) -> Result<Self, ArrowError> {
        let types: Vec<DataType> = columns.iter().map(|&column| input.field(column).data_type().clone()).collect();
        let converter = RowConverter::new(types.iter().cloned().map(SortField::new).collect())?;
        let nulls: Vec<ArrayRef> = types.iter().map(|data_type| new_null_array(data_type, 1)).collect();
        let nothing = converter.convert_columns(&nulls)?.row(0).data().into();
        Ok(Self { columns: columns.to_vec(), converter, nothing })
    }

    pub fn bytes(&self, rows: &RecordBatch) -> Result<BinaryArray, ArrowError> {
        let columns: Vec<ArrayRef> = self.columns.iter().map(|&column| rows.column(column).clone()).collect();
        self.converter.convert_columns(&columns)?.try_into_binary()
    }

    /// The kept columns of some rows; nulls where there is no row.
    pub fn columns_of<'a>(&'a self, rows: impl Iterator<Item = Option<&'a [u8]>>) -> Result<Vec<ArrayRef>, ArrowError> {
        let parser = self.converter.parser();
        self.converter.convert_rows(rows.map(|row| parser.parse(row.unwrap_or(&self.nothing))))
    }

    /// The place of a column of the input.
    pub fn place(&self, column: usize) -> usize {
        self.columns.partition_point(|kept| *kept < column)
    }
}

/// Rows that came together.
pub(super) struct Chunk {
    pub times: Vec<i64>,
    /// What the conditions say of each.
    pub answers: Vec<u64>,
    pub hashes: Vec<u64>,
    pub keys: BinaryArray,
    pub rows: BinaryArray,
    /// Rows in the order of their times.
    order: Vec<u32>,
    /// How many of them have been given out.
    given: usize,
}

impl Chunk {
    pub fn new(times: Vec<i64>, answers: Vec<u64>, hashes: Vec<u64>, keys: BinaryArray, rows: BinaryArray) -> Self {
        let mut order: Vec<u32> = (0..times.len() as u32).collect();
        order.sort_by_key(|row| times[*row as usize]);
        Self { times, answers, hashes, keys, rows, order, given: 0 }
    }
}

/// A row whose time has come: time, chunk, row.
pub(super) type Due = (i64, u32, u32);

/// All rows that wait.
#[derive(Default)]
pub(super) struct Waiting {
    pub chunks: Vec<Chunk>,
}

impl Waiting {
    /// Rows up to the watermark, in order. Their chunks stay until [`Self::forget`].
    pub fn due(&mut self, watermark: i64) -> Vec<Due> {
        let mut due = Vec::new();
        for (number, chunk) in self.chunks.iter_mut().enumerate() {
            let end = chunk.order.partition_point(|row| chunk.times[*row as usize] <= watermark);
            let rows = &chunk.order[chunk.given.min(end)..end];
            due.extend(rows.iter().map(|row| (chunk.times[*row as usize], number as u32, *row)));
            chunk.given = chunk.given.max(end);
        }
        due.sort_unstable();
        due
    }

    /// Drops chunks of which all rows have been given out.
    pub fn forget(&mut self) {
        self.chunks.retain(|chunk| chunk.given < chunk.order.len());
    }

    pub fn len(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.order.len() - chunk.given).sum()
    }

    /// The rows that wait, as they came: chunk and row.
    pub fn all(&self) -> impl Iterator<Item = (&Chunk, usize)> {
        self.chunks.iter().flat_map(|chunk| {
            let mut rows = chunk.order[chunk.given..].to_vec();
            rows.sort_unstable();
            rows.into_iter().map(move |row| (chunk, row as usize))
        })
    }
}
