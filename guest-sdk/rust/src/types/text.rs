//! Text and bytes. Borrowed forms point into the batch and cost no allocation.

use super::cursor::{Offsets, offsets};
use super::{ColumnBuilder, Cursor, Decode, Encode, Type, leaf};
use crate::error::contract;
use crate::native::{Field, OpError};

/// Spans of bytes. Made with `checked_text` for columns of text.
#[derive(Clone, Copy)]
pub struct BytesReader<'a> {
    offsets: Offsets<'a>,
    data: &'a [u8],
}

impl<'a> BytesReader<'a> {
    fn new(columns: &mut Cursor<'_, 'a>, rows: usize) -> Result<Self, OpError> {
        let column = columns.next()?;
        let (offsets, length) = offsets(column, rows)?;
        let data = column.data.get(..length).ok_or_else(|| contract("an offset points behind the data"))?;
        Ok(Self { offsets, data })
    }

    #[inline(always)]
    fn bytes(&self, row: usize) -> &'a [u8] {
        let (start, end) = self.offsets.span(row);
        &self.data[start..end]
    }
}

/// Spans of text.
#[derive(Clone, Copy)]
pub struct TextReader<'a> {
    offsets: Offsets<'a>,
    text: &'a str,
}

impl<'a> TextReader<'a> {
    fn new(columns: &mut Cursor<'_, 'a>, rows: usize) -> Result<Self, OpError> {
        let BytesReader { offsets, data } = BytesReader::new(columns, rows)?;
        // One check per column (a few ns per row at most, far less for ASCII) keeps the reads below safe.
        let text = std::str::from_utf8(data).map_err(|_| contract("a column of text is not UTF-8"))?;
        Ok(Self { offsets, text })
    }

    #[inline(always)]
    fn text(&self, row: usize) -> &'a str {
        let (start, end) = self.offsets.span(row);
        &self.text[start..end]
    }
}

macro_rules! spans {
    ([$($lt:lifetime)?] $ty:ty, $name:literal, $reader:ident, $read:expr, $bytes:expr) => {
        impl$(<$lt>)? Type for $ty {
            fn describe(name: &str, nullable: bool, out: &mut Vec<Field>) {
                leaf(name, $name, nullable, out);
            }
        }

        impl<'a> Decode<'a> for $ty {
            type Reader = $reader<'a>;
            fn reader(columns: &mut Cursor<'_, 'a>, rows: usize) -> Result<Self::Reader, OpError> {
                $reader::new(columns, rows)
            }
            #[inline(always)]
            fn read(reader: &Self::Reader, row: usize) -> Self {
                $read(reader, row)
            }
        }

        impl$(<$lt>)? Encode for $ty {
            #[inline(always)]
            fn write(&self, out: &mut [ColumnBuilder]) {
                out[0].push_bytes($bytes(self));
            }
            fn write_null(out: &mut [ColumnBuilder]) {
                out[0].push_bytes(&[]);
            }
        }
    };
}
spans!(['a] &'a str, "utf8", TextReader, TextReader::text, str::as_bytes);
spans!([] String, "utf8", TextReader, |r: &TextReader<'a>, row| r.text(row).to_owned(), String::as_bytes);
spans!(['a] &'a [u8], "binary", BytesReader, BytesReader::bytes, |v: &&'a [u8]| *v);
