//! Walks over the columns of a batch in pre-order, checking lengths once per call.

use crate::error::contract;
use crate::native::{ColumnRef, OpError};

/// The columns that are still to be taken.
pub struct Cursor<'c, 'a> {
    rest: &'c [ColumnRef<'a>],
}

impl<'c, 'a> Cursor<'c, 'a> {
    pub fn new(columns: &'c [ColumnRef<'a>]) -> Self {
        Self { rest: columns }
    }

    /// The next column, left where it is.
    pub fn peek(&self) -> Result<ColumnRef<'a>, OpError> {
        self.rest.first().copied().ok_or_else(|| contract("columns are missing"))
    }

    /// The next column.
    // Not an iterator: to have no next column is an error.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<ColumnRef<'a>, OpError> {
        let column = self.peek()?;
        self.rest = &self.rest[1..];
        Ok(column)
    }

    /// All columns must have been taken.
    pub fn end(self) -> Result<(), OpError> {
        if self.rest.is_empty() { Ok(()) } else { Err(contract("there are more columns than the port declares")) }
    }
}

/// The first `count` values of `N` bytes each. No alignment is asked for: a byte-wise little-endian
/// load is the same machine instruction.
pub fn words<const N: usize>(bytes: &[u8], count: usize) -> Result<&[[u8; N]], OpError> {
    let (words, _) = bytes.as_chunks::<N>();
    words.get(..count).ok_or_else(|| contract(format_args!("a buffer has {} bytes, not {count} x {N}", bytes.len())))
}

/// A bitmap of at least `count` bits.
pub fn bitmap(bytes: &[u8], count: usize) -> Result<&[u8], OpError> {
    let length = count.div_ceil(8);
    bytes.get(..length).ok_or_else(|| contract(format_args!("a bitmap has {} bytes, not {length}", bytes.len())))
}

pub fn bit(bitmap: &[u8], index: usize) -> bool {
    bitmap[index >> 3] >> (index & 7) & 1 == 1
}

/// Checked offsets of `rows` values: the spans, and the number of items in all.
pub fn offsets<'a>(column: ColumnRef<'a>, rows: usize) -> Result<(Offsets<'a>, usize), OpError> {
    if rows == 0 {
        return Ok((Offsets(&[]), 0));
    }
    let words = words::<4>(column.offsets, rows + 1)?;
    let last = i32::from_le_bytes(words[rows]);
    let items = usize::try_from(last).map_err(|_| contract("an offset is negative"))?;
    Ok((Offsets(words), items))
}

/// Offsets of variable-length values. A span is checked when the items are sliced with it.
#[derive(Clone, Copy)]
pub struct Offsets<'a>(&'a [[u8; 4]]);

impl Offsets<'_> {
    #[inline(always)]
    pub fn span(&self, row: usize) -> (usize, usize) {
        let pair = &self.0[row..row + 2];
        (u32::from_le_bytes(pair[0]) as usize, u32::from_le_bytes(pair[1]) as usize)
    }
}
