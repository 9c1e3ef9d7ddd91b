//! Entry keys of maps: which types can be one, and how they stand in a column.
//!
//! Law: within a call a key is bytes whose order is the order of keys, and the host's.

use super::codec::StateValue;
use crate::error::contract;
use crate::native::{Column, Field, OpError};
use crate::types::{Bits, bit, bitmap, words};

/// A type that the entry keys of a map can have: `bool`, whole numbers, `String` and `Vec<u8>`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't be the entry key of a map",
    note = "entry keys are bool, whole numbers, String or Vec<u8>"
)]
pub trait StateKey: StateValue {
    /// What a lookup takes by reference: `str` for `String`.
    type Borrowed: ?Sized;
    #[doc(hidden)]
    const TYPE: &'static str;
    /// Bytes in the order of keys.
    #[doc(hidden)]
    fn ordered(key: &Self::Borrowed) -> Vec<u8>;
    /// The key that these bytes stand for.
    #[doc(hidden)]
    fn from_ordered(bytes: &[u8]) -> Option<Self>;
    /// The column of keys.
    #[doc(hidden)]
    fn column<'a>(keys: impl Iterator<Item = &'a [u8]>) -> Column;
    /// The keys of a column.
    #[doc(hidden)]
    fn keys(column: &Column, rows: usize) -> Result<Vec<Vec<u8>>, OpError>;
}

/// How the entry key of a map is described.
pub fn field<K: StateKey>() -> Field {
    Field { name: "key".to_owned(), type_name: K::TYPE.to_owned(), nullable: false, children: 0 }
}

macro_rules! numbers {
    ($($ty:ty, $unsigned:ty, $flip:expr, $name:literal;)*) => { $(
        impl StateKey for $ty {
            type Borrowed = $ty;
            const TYPE: &'static str = $name;

            fn ordered(key: &$ty) -> Vec<u8> {
                // With its sign turned around, a number's big-endian bytes are in its order.
                (*key as $unsigned ^ $flip).to_be_bytes().to_vec()
            }

            fn from_ordered(bytes: &[u8]) -> Option<Self> {
                Some((<$unsigned>::from_be_bytes(bytes.try_into().ok()?) ^ $flip) as $ty)
            }

            fn column<'a>(keys: impl Iterator<Item = &'a [u8]>) -> Column {
                let key = |key: &[u8]| Self::from_ordered(key).unwrap_or_default().to_le_bytes();
                Column { data: keys.flat_map(key).collect(), ..Column::default() }
            }

            fn keys(column: &Column, rows: usize) -> Result<Vec<Vec<u8>>, OpError> {
                let words = words::<{ size_of::<$ty>() }>(&column.data, rows)?;
                Ok(words.iter().map(|word| Self::ordered(&<$ty>::from_le_bytes(*word))).collect())
            }
        }
    )* };
}
numbers!(
    i8, u8, 1 << 7, "int8"; i16, u16, 1 << 15, "int16"; i32, u32, 1 << 31, "int32"; i64, u64, 1 << 63, "int64";
    u8, u8, 0, "uint8"; u16, u16, 0, "uint16"; u32, u32, 0, "uint32"; u64, u64, 0, "uint64";
);

impl StateKey for bool {
    type Borrowed = bool;
    const TYPE: &'static str = "bool";

    fn ordered(key: &bool) -> Vec<u8> {
        vec![u8::from(*key)]
    }

    fn from_ordered(bytes: &[u8]) -> Option<Self> {
        bytes.first().map(|&byte| byte == 1)
    }

    fn column<'a>(keys: impl Iterator<Item = &'a [u8]>) -> Column {
        let mut bits = Bits::default();
        keys.for_each(|key| bits.push(key == [1]));
        Column { data: bits.take(), ..Column::default() }
    }

    fn keys(column: &Column, rows: usize) -> Result<Vec<Vec<u8>>, OpError> {
        let bits = bitmap(&column.data, rows)?;
        Ok((0..rows).map(|row| vec![u8::from(bit(bits, row))]).collect())
    }
}

macro_rules! bytes {
    ($($ty:ty, $borrowed:ty, $name:literal, $read:expr, $bytes:expr;)*) => { $(
        impl StateKey for $ty {
            type Borrowed = $borrowed;
            const TYPE: &'static str = $name;

            fn ordered(key: &$borrowed) -> Vec<u8> {
                $bytes(key).to_vec()
            }

            fn from_ordered(bytes: &[u8]) -> Option<Self> {
                $read(bytes)
            }

            fn column<'a>(keys: impl Iterator<Item = &'a [u8]>) -> Column {
                bytes_column(keys)
            }

            fn keys(column: &Column, rows: usize) -> Result<Vec<Vec<u8>>, OpError> {
                spans(column, rows)?.iter().map(|&(start, end)| Ok(column.data[start..end].to_vec())).collect()
            }
        }
    )* };
}
bytes!(
    String, str, "utf8", |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok(), |key: &str| key.as_bytes().to_vec();
    Vec<u8>, [u8], "binary", |bytes: &[u8]| Some(bytes.to_vec()), |key: &[u8]| key.to_vec();
);

fn bytes_column<'a>(values: impl Iterator<Item = &'a [u8]>) -> Column {
    let mut column = Column { offsets: vec![0; 4], ..Column::default() };
    for value in values {
        column.data.extend_from_slice(value);
        column.offsets.extend_from_slice(&(column.data.len() as u32).to_le_bytes());
    }
    column
}

/// Where the values of a column of bytes begin and end.
pub fn spans(column: &Column, rows: usize) -> Result<Vec<(usize, usize)>, OpError> {
    if rows == 0 {
        return Ok(Vec::new());
    }
    let offsets = words::<4>(&column.offsets, rows + 1)?;
    let place = |i: usize| u32::from_le_bytes(offsets[i]) as usize;
    let spans: Vec<(usize, usize)> = (0..rows).map(|row| (place(row), place(row + 1))).collect();
    match spans.iter().all(|(start, end)| start <= end && *end <= column.data.len()) {
        true => Ok(spans),
        false => Err(contract("offsets of entries are out of order")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<K: StateKey + Ord + Clone + std::fmt::Debug>(mut keys: Vec<K>, ordered: impl Fn(&K) -> Vec<u8>) {
        let mut bytes: Vec<Vec<u8>> = keys.iter().map(&ordered).collect();
        let column = K::column(bytes.iter().map(|key| &key[..]));
        assert_eq!(K::keys(&column, keys.len()).unwrap(), bytes);
        keys.sort();
        bytes.sort();
        assert_eq!(bytes.iter().map(|key| K::from_ordered(key).unwrap()).collect::<Vec<K>>(), keys);
    }

    #[test]
    fn keys_have_the_order_of_their_bytes() {
        check(vec![5i64, -1, i64::MIN, i64::MAX, 0, 256], i64::ordered);
        check(vec![5i8, -1, i8::MIN, i8::MAX, 0], i8::ordered);
        check(vec![5u32, 256, u32::MAX, 0], u32::ordered);
        check(vec![true, false], bool::ordered);
        check(["b", "", "ab", "ü", "a"].map(str::to_owned).to_vec(), |key| String::ordered(key));
        check(vec![vec![1u8, 0], vec![], vec![255], vec![1]], |key| Vec::<u8>::ordered(key));
    }
}
