//! Values of fixed width.

use serde::{Deserialize, Serialize};

use super::cursor::{bit, bitmap};
use super::{ColumnBuilder, Cursor, Decode, Encode, Type, leaf, words};
use crate::native::{Field, OpError};

/// Implements the three traits for a type that is `N` little-endian bytes.
macro_rules! fixed {
    ([$($generics:tt)*] $ty:ty, $name:expr, $inner:ty, $wrap:expr, $unwrap:expr, $byte:literal) => {
        impl<$($generics)*> Type for $ty {
            const BYTE: bool = $byte;
            fn describe(name: &str, nullable: bool, out: &mut Vec<Field>) {
                leaf(name, $name, nullable, out);
            }
        }

        impl<'a, $($generics)*> Decode<'a> for $ty {
            type Reader = &'a [[u8; size_of::<$inner>()]];
            fn reader(columns: &mut Cursor<'_, 'a>, rows: usize) -> Result<Self::Reader, OpError> {
                words(columns.next()?.data, rows)
            }
            #[inline(always)]
            fn read(reader: &Self::Reader, row: usize) -> Self {
                $wrap(<$inner>::from_le_bytes(reader[row]))
            }
        }

        impl<$($generics)*> Encode for $ty {
            #[inline(always)]
            fn write(&self, out: &mut [ColumnBuilder]) {
                out[0].push_fixed($unwrap(self).to_le_bytes());
            }
            fn write_null(out: &mut [ColumnBuilder]) {
                out[0].push_fixed([0; size_of::<$inner>()]);
            }
        }
    };
}

macro_rules! plain {
    ($($ty:ty: $name:literal),*) => { $( fixed!([] $ty, $name, $ty, |v| v, |v: &$ty| *v, false); )* };
}
plain!(
    i8: "int8", i16: "int16", i32: "int32", i64: "int64", u16: "uint16", u32: "uint32", u64: "uint64",
    f32: "float32", f64: "float64"
);
fixed!([] u8, "uint8", u8, |v| v, |v: &u8| *v, true);

macro_rules! newtypes {
    ($($(#[$doc:meta])* $ty:ident($inner:ty) $name:literal),* $(,)?) => { $(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $ty(pub $inner);
        fixed!([] $ty, $name, $inner, $ty, |v: &$ty| v.0, false);
    )* };
}
newtypes!(
    /// A point in time in ms since the Unix epoch, UTC: the host's `timestamp(ms)`.
    Timestamp(i64) "timestamp(ms)",
    /// A point in time in seconds since the Unix epoch, UTC: the host's `timestamp(s)`.
    TimestampS(i64) "timestamp(s)",
    /// A point in time in microseconds since the Unix epoch, UTC: the host's `timestamp(us)`.
    TimestampUs(i64) "timestamp(us)",
    /// A point in time in nanoseconds since the Unix epoch, UTC: the host's `timestamp(ns)`.
    TimestampNs(i64) "timestamp(ns)",
    /// A day as days since the Unix epoch: the host's `date`.
    Date(i32) "date",
);

/// A decimal number with `P` digits, `S` of them behind the point, as the integer `value * 10^S`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Decimal128<const P: u8, const S: i8>(pub i128);
fixed!([const P: u8, const S: i8] Decimal128<P, S>, decimal_name::<P, S>(), i128, Decimal128, |v: &Decimal128<P, S>| v.0, false);

fn decimal_name<const P: u8, const S: i8>() -> String {
    const { decimal_checked(P, S) };
    format!("decimal128({P},{S})")
}

/// Precision 1 to 38 and a scale not above it, as Arrow has it; anything else does not compile.
const fn decimal_checked(precision: u8, scale: i8) -> bool {
    assert!(precision >= 1 && precision <= 38, "Decimal128<P, S>: P must be 1 to 38");
    assert!(scale.unsigned_abs() <= precision, "Decimal128<P, S>: S must not be above P");
    true
}

impl Type for bool {
    fn describe(name: &str, nullable: bool, out: &mut Vec<Field>) {
        leaf(name, "bool", nullable, out);
    }
}

impl<'a> Decode<'a> for bool {
    type Reader = &'a [u8];
    fn reader(columns: &mut Cursor<'_, 'a>, rows: usize) -> Result<Self::Reader, OpError> {
        bitmap(columns.next()?.data, rows)
    }
    #[inline(always)]
    fn read(reader: &Self::Reader, row: usize) -> Self {
        bit(reader, row)
    }
}

impl Encode for bool {
    #[inline(always)]
    fn write(&self, out: &mut [ColumnBuilder]) {
        out[0].push_bool(*self);
    }
    fn write_null(out: &mut [ColumnBuilder]) {
        out[0].push_bool(false);
    }
}
