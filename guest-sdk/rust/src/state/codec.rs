//! How a value of type `T` stands in its column: primitives as they are, anything else as postcard.
//!
//! The choice is by `TypeId`, which is a constant once `T` is known: the compiler removes all other branches.

use std::any::{Any, TypeId};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A type that state can have: owned, and serde can read and write it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't be kept as state",
    note = "state is bool, a number, String, Vec<u8>, or any owned type that derives serde's Serialize and Deserialize"
)]
pub trait StateValue: Serialize + DeserializeOwned + 'static {}

impl<T: Serialize + DeserializeOwned + 'static> StateValue for T {}

/// Where a value stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    Bool,
    /// So many bytes each, at most eight.
    Fixed(usize),
    /// A span of bytes.
    Bytes,
}

/// The column type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub layout: Layout,
    pub type_name: &'static str,
    pub codec: &'static str,
}

/// `value` as a `B`, which it must be.
#[inline(always)]
fn same<A: 'static, B: 'static>(value: A) -> Option<B> {
    let mut value = Some(value);
    (&mut value as &mut dyn Any).downcast_mut::<Option<B>>().and_then(Option::take)
}

#[inline(always)]
fn is<T: 'static, U: 'static>() -> bool {
    TypeId::of::<T>() == TypeId::of::<U>()
}

macro_rules! primitives {
    ($($ty:ty: $name:literal),*) => {
        fn fixed_shape<T: 'static>() -> Option<Shape> {
            $( if is::<T, $ty>() {
                return Some(Shape { layout: Layout::Fixed(size_of::<$ty>()), type_name: $name, codec: "" });
            } )*
            None
        }

        /// Reads a primitive from the bytes at `key`.
        #[inline(always)]
        pub fn read_fixed<T: 'static>(data: &[u8], key: usize) -> Option<T> {
            $( if is::<T, $ty>() {
                return same(<$ty>::from_le_bytes(data.as_chunks().0[key]));
            } )*
            None
        }

        /// Writes a primitive to the bytes at `key`.
        #[inline(always)]
        pub fn write_fixed<T: 'static>(value: T, data: &mut [u8], key: usize) {
            $( if is::<T, $ty>() {
                if let Some(value) = same::<T, $ty>(value) {
                    data.as_chunks_mut().0[key] = value.to_le_bytes();
                }
                return;
            } )*
        }
    };
}
primitives!(
    i8: "int8", i16: "int16", i32: "int32", i64: "int64", u8: "uint8", u16: "uint16", u32: "uint32", u64: "uint64",
    f32: "float32", f64: "float64"
);

/// The column that values of this type stand in.
#[inline(always)]
pub fn shape<T: 'static>() -> Shape {
    let bytes = |type_name, codec| Shape { layout: Layout::Bytes, type_name, codec };
    if let Some(shape) = fixed_shape::<T>() {
        return shape;
    }
    if is::<T, bool>() {
        Shape { layout: Layout::Bool, type_name: "bool", codec: "" }
    } else if is::<T, String>() {
        bytes("utf8", "")
    } else if is::<T, Vec<u8>>() {
        bytes("binary", "")
    } else {
        bytes("binary", "postcard")
    }
}

/// `bool` as `T`, which it must be.
#[inline(always)]
pub fn from_bool<T: 'static>(value: bool) -> Option<T> {
    same(value)
}

#[inline(always)]
pub fn to_bool<T: 'static>(value: T) -> bool {
    same::<T, bool>(value).unwrap_or_default()
}

/// Reads a value that is a span of bytes.
pub fn read_bytes<T: StateValue>(bytes: &[u8]) -> Result<T, String> {
    let read = if is::<T, String>() {
        std::str::from_utf8(bytes).ok().and_then(|text| same(text.to_owned()))
    } else if is::<T, Vec<u8>>() {
        same(bytes.to_vec())
    } else {
        return postcard::from_bytes(bytes).map_err(|e| e.to_string());
    };
    read.ok_or_else(|| "it is not UTF-8".to_owned())
}

/// Appends a value to bytes.
pub fn write_bytes<T: StateValue>(value: &T, out: &mut Vec<u8>) -> Result<(), String> {
    let any = value as &dyn Any;
    if let Some(text) = any.downcast_ref::<String>() {
        out.extend_from_slice(text.as_bytes());
    } else if let Some(bytes) = any.downcast_ref::<Vec<u8>>() {
        out.extend_from_slice(bytes);
    } else {
        *out = postcard::to_extend(value, std::mem::take(out)).map_err(|e| e.to_string())?;
    }
    Ok(())
}
