//! Which Rust types cross as columns, and how their values are read and written.
//!
//! Laws: reading never trusts a length and never allocates for borrowed types; a type takes exactly
//! `COLUMNS` columns, its own first and its children behind it (pre-order).

mod builder;
mod cursor;
mod nested;
mod scalar;
mod text;

pub use builder::{Bits, ColumnBuilder, truncate};
pub use cursor::{Cursor, bit, bitmap, words};
pub use nested::List;
pub use scalar::{Date, Decimal128, Timestamp, TimestampNs, TimestampS, TimestampUs};

use crate::native::{Field, OpError};

/// A type that has a place in a schema.
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't be a column",
    note = "columns are bool, i8 to i64, u8 to u64, f32, f64, &str, String, &[u8], Vec<u8>, Timestamp (ms), TimestampS, TimestampUs, TimestampNs, Date, Decimal128<P, S>, Option<T>, Vec<T>, List<T>, and structs that derive Row"
)]
pub trait Type {
    /// Columns that it takes, its children's included.
    const COLUMNS: usize = 1;
    /// Whether it is an `Option`.
    const NULLABLE: bool = false;
    /// Whether it is `u8`, a `Vec` of which is binary and no list.
    const BYTE: bool = false;
    /// Appends its field and those of its children.
    fn describe(name: &str, nullable: bool, out: &mut Vec<Field>);
}

/// A type that can be read from columns that live for `'a`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't be read from a column",
    note = "readable are bool, i8 to i64, u8 to u64, f32, f64, &str, String, &[u8], Vec<u8>, Timestamp (ms), TimestampS, TimestampUs, TimestampNs, Date, Decimal128<P, S>, Option<T>, Vec<T>, List<T>, and structs that derive Row"
)]
pub trait Decode<'a>: Type + Sized {
    /// Its columns, checked: so that reading a value is a load.
    type Reader: Copy;
    /// Takes its columns from the cursor.
    fn reader(columns: &mut Cursor<'_, 'a>, rows: usize) -> Result<Self::Reader, OpError>;
    fn read(reader: &Self::Reader, row: usize) -> Self;
}

/// A type that can be written to columns.
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't be written to a column",
    note = "writable are bool, i8 to i64, u8 to u64, f32, f64, &str, String, &[u8], Vec<u8>, Timestamp (ms), TimestampS, TimestampUs, TimestampNs, Date, Decimal128<P, S>, Option<T>, Vec<T>, List<T>, and structs that derive Row"
)]
pub trait Encode: Type {
    /// Appends a value to `out[..COLUMNS]`.
    fn write(&self, out: &mut [ColumnBuilder]);
    /// Appends what stands under a null.
    fn write_null(out: &mut [ColumnBuilder]);
    /// Appends many values.
    fn write_all(items: &[Self], out: &mut [ColumnBuilder])
    where
        Self: Sized,
    {
        for item in items {
            item.write(out);
        }
    }
}

/// Pushes the field of a type without children.
fn leaf(name: &str, type_name: impl Into<String>, nullable: bool, out: &mut Vec<Field>) {
    out.push(Field { name: name.to_owned(), type_name: type_name.into(), nullable, children: 0 });
}
