//! Nulls and lists. `Vec<u8>` is binary: it differs from a list only in that its items stand in its own column.

use super::cursor::{Offsets, bit, bitmap, offsets};
use super::{ColumnBuilder, Cursor, Decode, Encode, Type, leaf};
use crate::error::contract;
use crate::native::{Field, OpError};

impl<T: Type> Type for Option<T> {
    const COLUMNS: usize = T::COLUMNS;
    const NULLABLE: bool = true;
    fn describe(name: &str, _nullable: bool, out: &mut Vec<Field>) {
        const { assert!(!T::NULLABLE, "a column is either null or not: Option<Option<T>> has no place in it") };
        T::describe(name, true, out);
    }
}

impl<'a, T: Decode<'a>> Decode<'a> for Option<T> {
    /// An empty bitmap says that there are no nulls.
    type Reader = (&'a [u8], T::Reader);
    fn reader(columns: &mut Cursor<'_, 'a>, rows: usize) -> Result<Self::Reader, OpError> {
        let validity = columns.peek()?.validity;
        let validity = if validity.is_empty() { validity } else { bitmap(validity, rows)? };
        Ok((validity, T::reader(columns, rows)?))
    }
    #[inline(always)]
    fn read((validity, inner): &Self::Reader, row: usize) -> Self {
        (validity.is_empty() || bit(validity, row)).then(|| T::read(inner, row))
    }
}

impl<T: Encode> Encode for Option<T> {
    #[inline(always)]
    fn write(&self, out: &mut [ColumnBuilder]) {
        out[0].push_valid(self.is_some());
        match self {
            Some(value) => value.write(out),
            None => T::write_null(out),
        }
    }
    fn write_null(out: &mut [ColumnBuilder]) {
        out[0].push_valid(false);
        T::write_null(out);
    }
}

/// Describes a list of `T`, or binary if `T` is a byte.
fn describe_many<T: Type>(name: &str, nullable: bool, out: &mut Vec<Field>) {
    if T::BYTE {
        return leaf(name, "binary", nullable, out);
    }
    out.push(Field { name: name.to_owned(), type_name: "list".into(), nullable, children: 1 });
    T::describe("item", T::NULLABLE, out);
}

/// Columns of a list of `T`.
const fn columns_of_many<T: Type>() -> usize {
    if T::BYTE { 1 } else { 1 + T::COLUMNS }
}

/// Where the items stand, from the list's own column.
const fn items_at<T: Type>() -> usize {
    if T::BYTE { 0 } else { 1 }
}

/// Columns of lists.
pub struct ListReader<'a, T: Decode<'a>> {
    offsets: Offsets<'a>,
    items: T::Reader,
    count: usize,
}

impl<'a, T: Decode<'a>> Clone for ListReader<'a, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<'a, T: Decode<'a>> Copy for ListReader<'a, T> {}

impl<'a, T: Decode<'a>> ListReader<'a, T> {
    fn new(columns: &mut Cursor<'_, 'a>, rows: usize) -> Result<Self, OpError> {
        let own = if T::BYTE { columns.peek()? } else { columns.next()? };
        let (offsets, count) = offsets(own, rows)?;
        let items = T::reader(columns, count)?;
        Ok(Self { offsets, items, count })
    }

    fn list(&self, row: usize) -> List<'a, T> {
        let (start, end) = self.offsets.span(row);
        assert!(start <= end && end <= self.count, "{}", contract("offsets of a list are out of order"));
        List { items: self.items, start, end }
    }
}

/// A list in a row that is read without being copied: items are read where they are.
pub struct List<'a, T: Decode<'a>> {
    items: T::Reader,
    start: usize,
    end: usize,
}

impl<'a, T: Decode<'a>> List<'a, T> {
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The item at `index`, if there is one.
    pub fn get(&self, index: usize) -> Option<T> {
        (index < self.len()).then(|| T::read(&self.items, self.start + index))
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = T> {
        (self.start..self.end).map(|i| T::read(&self.items, i))
    }
}

impl<'a, T: Decode<'a>> Clone for List<'a, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<'a, T: Decode<'a>> Copy for List<'a, T> {}

impl<'a, T: Decode<'a> + std::fmt::Debug> std::fmt::Debug for List<'a, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<'a, T: Decode<'a> + PartialEq> PartialEq for List<'a, T> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl<'a, T: Decode<'a>> Type for List<'a, T> {
    const COLUMNS: usize = columns_of_many::<T>();
    fn describe(name: &str, nullable: bool, out: &mut Vec<Field>) {
        describe_many::<T>(name, nullable, out);
    }
}

impl<'a, T: Decode<'a>> Decode<'a> for List<'a, T> {
    type Reader = ListReader<'a, T>;
    fn reader(columns: &mut Cursor<'_, 'a>, rows: usize) -> Result<Self::Reader, OpError> {
        ListReader::new(columns, rows)
    }
    #[inline(always)]
    fn read(reader: &Self::Reader, row: usize) -> Self {
        reader.list(row)
    }
}

impl<'a, T: Decode<'a> + Encode> Encode for List<'a, T> {
    fn write(&self, out: &mut [ColumnBuilder]) {
        self.iter().for_each(|item| item.write(&mut out[items_at::<T>()..]));
        out[0].push_items(self.len());
    }
    fn write_null(out: &mut [ColumnBuilder]) {
        out[0].push_items(0);
    }
}

impl<T: Type> Type for Vec<T> {
    const COLUMNS: usize = columns_of_many::<T>();
    fn describe(name: &str, nullable: bool, out: &mut Vec<Field>) {
        describe_many::<T>(name, nullable, out);
    }
}

impl<'a, T: Decode<'a>> Decode<'a> for Vec<T> {
    type Reader = ListReader<'a, T>;
    fn reader(columns: &mut Cursor<'_, 'a>, rows: usize) -> Result<Self::Reader, OpError> {
        ListReader::new(columns, rows)
    }
    fn read(reader: &Self::Reader, row: usize) -> Self {
        reader.list(row).iter().collect()
    }
}

impl<T: Encode> Encode for Vec<T> {
    fn write(&self, out: &mut [ColumnBuilder]) {
        T::write_all(self, &mut out[items_at::<T>()..]);
        out[0].push_items(self.len());
    }
    fn write_null(out: &mut [ColumnBuilder]) {
        out[0].push_items(0);
    }
}
