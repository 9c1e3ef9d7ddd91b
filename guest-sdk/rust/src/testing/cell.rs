//! Values without their Rust types: what the driver knows of keys, states and output rows.

use std::fmt::{Display, Formatter, Result};

/// One value of a column. Cells can be compared and sorted, so that they can be keys.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cell {
    Null,
    Bool(bool),
    /// All whole numbers, timestamps, dates, and decimals without their point.
    Int(i128),
    Float(Float),
    Text(String),
    Bytes(Vec<u8>),
    List(Vec<Cell>),
    Struct(Vec<(String, Cell)>),
}

/// A floating-point number by its bits: equal and ordered as such.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Float(u64);

impl Float {
    pub fn value(self) -> f64 {
        f64::from_bits(self.0)
    }
}

impl std::fmt::Debug for Float {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "{:?}", self.value())
    }
}

macro_rules! cell_from {
    ($($ty:ty => $make:expr),* $(,)?) => { $(
        impl From<$ty> for Cell {
            fn from(value: $ty) -> Self {
                $make(value)
            }
        }
    )* };
}
cell_from!(
    bool => Cell::Bool,
    i8 => |v| Cell::Int(v as i128), i16 => |v| Cell::Int(v as i128), i32 => |v| Cell::Int(v as i128),
    i64 => |v| Cell::Int(v as i128), u8 => |v| Cell::Int(v as i128), u16 => |v| Cell::Int(v as i128),
    u32 => |v| Cell::Int(v as i128), u64 => |v| Cell::Int(v as i128),
    f32 => |v| Cell::Float(Float(f64::from(v).to_bits())), f64 => |v: f64| Cell::Float(Float(v.to_bits())),
    &str => |v: &str| Cell::Text(v.to_owned()), String => Cell::Text,
    &[u8] => |v: &[u8]| Cell::Bytes(v.to_vec()), Vec<u8> => Cell::Bytes,
);

/// JSON, with bytes in hexadecimal.
impl Display for Cell {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Cell::Null => f.write_str("null"),
            Cell::Bool(value) => write!(f, "{value}"),
            Cell::Int(value) => write!(f, "{value}"),
            Cell::Float(value) => write!(f, "{:?}", value.value()),
            Cell::Text(text) => quoted(text, f),
            Cell::Bytes(bytes) => {
                f.write_str("\"")?;
                bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
                f.write_str("\"")
            }
            Cell::List(items) => bracketed(f, "[", items, |f, item| item.fmt(f), "]"),
            Cell::Struct(fields) => bracketed(f, "{", fields, member, "}"),
        }
    }
}

fn member(f: &mut Formatter<'_>, (name, value): &(String, Cell)) -> Result {
    quoted(name, f)?;
    write!(f, ":{value}")
}

fn bracketed<T>(
    f: &mut Formatter<'_>,
    open: &str,
    items: &[T],
    mut write: impl FnMut(&mut Formatter<'_>, &T) -> Result,
    close: &str,
) -> Result {
    f.write_str(open)?;
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            f.write_str(",")?;
        }
        write(f, item)?;
    }
    f.write_str(close)
}

fn quoted(text: &str, f: &mut Formatter<'_>) -> Result {
    f.write_str("\"")?;
    for c in text.chars() {
        match c {
            '"' | '\\' => write!(f, "\\{c}")?,
            c if c < ' ' => write!(f, "\\u{:04x}", c as u32)?,
            c => write!(f, "{c}")?,
        }
    }
    f.write_str("\"")
}

/// A key as tests write it: `"ada"`, `7`, or a tuple for a key of several columns.
pub trait IntoKey {
    fn into_key(self) -> Vec<Cell>;
}

macro_rules! single_keys {
    ($($ty:ty),*) => { $(
        impl IntoKey for $ty {
            fn into_key(self) -> Vec<Cell> {
                vec![self.into()]
            }
        }
    )* };
}
single_keys!(bool, i8, i16, i32, i64, u8, u16, u32, u64, &str, String);

/// No key: for broadcast and operator state.
impl IntoKey for () {
    fn into_key(self) -> Vec<Cell> {
        Vec::new()
    }
}

impl IntoKey for Vec<Cell> {
    fn into_key(self) -> Vec<Cell> {
        self
    }
}

macro_rules! tuple_keys {
    ($($name:ident $index:tt),*) => {
        impl<$($name: Into<Cell>),*> IntoKey for ($($name,)*) {
            fn into_key(self) -> Vec<Cell> {
                vec![$(self.$index.into()),*]
            }
        }
    };
}
tuple_keys!(A 0);
tuple_keys!(A 0, B 1);
tuple_keys!(A 0, B 1, C 2);
tuple_keys!(A 0, B 1, C 2, D 3);
