//! Rows in columns, in the order in which they came, as pieces of the batches that brought them.
//!
//! Laws: a row keeps its number; a piece holds no memory of rows that are not here; small pieces become larger ones, so that
//! their number grows with the logarithm of small batches.

use arrow::array::{Array, ArrayRef, UInt64Array};
use arrow::compute::{concat, interleave, take};
use arrow::error::ArrowError;

/// Pieces of so many rows stay as they are.
const PIECE_ROWS: usize = 4096;

/// Some columns of rows.
#[derive(Clone, Debug, Default)]
pub(super) struct Rows {
    pieces: Vec<Piece>,
    len: usize,
}

#[derive(Clone, Debug)]
struct Piece {
    /// Number of its first row.
    first: usize,
    rows: usize,
    columns: Vec<ArrayRef>,
}

impl Rows {
    /// Adds so many rows.
    pub fn push(&mut self, columns: Vec<ArrayRef>, rows: usize) -> Result<(), ArrowError> {
        let columns = columns.into_iter().map(compact).collect::<Result<_, _>>()?;
        self.pieces.push(Piece { first: self.len, rows, columns });
        self.len += rows;
        while let [.., before, last] = self.pieces.as_slice()
            && before.rows <= last.rows * 2
            && before.rows < PIECE_ROWS
        {
            let pairs = before.columns.iter().zip(&last.columns);
            let columns = pairs.map(|(a, b)| concat(&[a.as_ref(), b.as_ref()])).collect::<Result<_, _>>()?;
            let whole = Piece { first: before.first, rows: before.rows + last.rows, columns };
            self.pieces.truncate(self.pieces.len() - 2);
            self.pieces.push(whole);
        }
        Ok(())
    }

    pub fn clear(&mut self) {
        self.pieces.clear();
        self.len = 0;
    }

    /// Each piece: the number of its first row, and its columns.
    pub fn pieces(&self) -> impl Iterator<Item = (usize, &[ArrayRef])> {
        self.pieces.iter().map(|piece| (piece.first, piece.columns.as_slice()))
    }

    pub fn bytes(&self) -> usize {
        self.pieces.iter().flat_map(|piece| &piece.columns).map(|column| column.get_array_memory_size()).sum()
    }
}

/// A copy, if the array is a small part of what it holds in memory.
fn compact(column: ArrayRef) -> Result<ArrayRef, ArrowError> {
    let data = column.to_data();
    if data.get_buffer_memory_size() <= 2 * data.get_slice_memory_size()? + 64 {
        return Ok(column);
    }
    take(&column, &UInt64Array::from_iter_values(0..column.len() as u64), None)
}

/// Rows chosen from several [`Rows`], to be copied together.
pub(super) struct Choice<'a> {
    pieces: Vec<&'a Piece>,
    /// The place of each one's first piece among `pieces`.
    firsts: Vec<usize>,
    /// Piece and row in it.
    chosen: Vec<(usize, usize)>,
}

impl<'a> Choice<'a> {
    pub fn of(all: impl IntoIterator<Item = &'a Rows>) -> Self {
        let (mut pieces, mut firsts) = (Vec::new(), Vec::new());
        for rows in all {
            firsts.push(pieces.len());
            pieces.extend(&rows.pieces);
        }
        firsts.push(pieces.len());
        Self { pieces, firsts, chosen: Vec::new() }
    }

    /// Chooses a row of the rows with this number.
    #[inline]
    pub fn push(&mut self, which: usize, row: usize) {
        let own = &self.pieces[self.firsts[which]..self.firsts[which + 1]];
        let piece = own.partition_point(|piece| piece.first <= row) - 1;
        self.chosen.push((self.firsts[which] + piece, row - own[piece].first));
    }

    /// The first so many columns of what was chosen.
    pub fn columns(&self, columns: usize) -> Result<Vec<ArrayRef>, ArrowError> {
        let column = |column: usize| {
            let parts: Vec<&dyn Array> = self.pieces.iter().map(|piece| piece.columns[column].as_ref()).collect();
            match parts.as_slice() {
                // Without the indirection of many.
                [one] => {
                    let rows = UInt64Array::from_iter_values(self.chosen.iter().map(|&(_, row)| row as u64));
                    take(*one, &rows, None)
                }
                many => interleave(many, &self.chosen),
            }
        };
        (0..columns).map(column).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{AsArray, Int64Array};
    use arrow::datatypes::Int64Type;
    use std::sync::Arc;

    use proptest::prelude::*;

    fn ints(values: impl IntoIterator<Item = i64>) -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(values))
    }

    proptest! {
        #[test]
        fn rows_keep_their_numbers(sizes in prop::collection::vec(1usize..50, 1..60)) {
            let mut rows = Rows::default();
            for &size in &sizes {
                let first = rows.len as i64;
                rows.push(vec![ints(first..first + size as i64)], size).unwrap();
            }
            let total: usize = sizes.iter().sum();
            prop_assert_eq!(rows.len, total);
            let mut choice = Choice::of([&rows, &rows]);
            (0..total).rev().for_each(|row| choice.push(row % 2, row));
            let found = choice.columns(1).unwrap();
            let expected: Vec<i64> = (0..total as i64).rev().collect();
            prop_assert_eq!(found[0].as_primitive::<Int64Type>().values().to_vec(), expected);
        }
    }

    #[test]
    fn many_small_batches_are_few_pieces() {
        let mut rows = Rows::default();
        (0..3000).for_each(|n| rows.push(vec![ints([n])], 1).unwrap());
        assert!(rows.pieces().count() <= 12, "{}", rows.pieces().count());
    }

    #[test]
    fn a_small_part_of_a_large_batch_is_copied() {
        let large = ints(0..100_000);
        let mut rows = Rows::default();
        rows.push(vec![large.slice(5, 3)], 3).unwrap();
        assert!(rows.bytes() < 1000, "{}", rows.bytes());
        rows.clear();
        rows.push(vec![large.clone()], 100_000).unwrap();
        let mut choice = Choice::of([&rows]);
        choice.push(0, 7);
        assert_eq!(choice.columns(1).unwrap()[0].as_primitive::<Int64Type>().values(), &[7]);
        assert_eq!(large.to_data().buffers()[0].as_ptr(), rows.pieces[0].columns[0].to_data().buffers()[0].as_ptr());
    }
}
