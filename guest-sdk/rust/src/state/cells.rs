//! Values of entries as bytes, each by itself, and as columns.

use super::codec::{self, Layout, StateValue, shape};
use super::key::spans;
use crate::native::{Column, OpError};
use crate::types::{Bits, bit, bitmap};

/// A value's bytes.
pub fn encode<T: StateValue>(value: T) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    match shape::<T>().layout {
        Layout::Bool => bytes.push(u8::from(codec::to_bool(value))),
        Layout::Fixed(width) => {
            bytes.resize(width, 0);
            codec::write_fixed(value, &mut bytes, 0);
        }
        Layout::Bytes => codec::write_bytes(&value, &mut bytes)?,
    }
    Ok(bytes)
}

/// The value that these bytes stand for.
pub fn decode<T: StateValue>(bytes: &[u8]) -> Result<T, String> {
    let shape = shape::<T>();
    let value = match shape.layout {
        Layout::Bool => codec::from_bool(bytes == [1]),
        Layout::Fixed(width) if bytes.len() == width => codec::read_fixed(bytes, 0),
        Layout::Fixed(_) => None,
        Layout::Bytes => return codec::read_bytes(bytes),
    };
    value.ok_or_else(|| format!("it has {} bytes", bytes.len()))
}

/// A column of values; none is null.
pub fn column<'a>(layout: Layout, values: impl Iterator<Item = Option<&'a [u8]>>) -> Column {
    let (mut column, mut validity, mut bits, mut nulls) = (Column::default(), Bits::default(), Bits::default(), false);
    if layout == Layout::Bytes {
        column.offsets.extend_from_slice(&[0; 4]);
    }
    for value in values {
        validity.push(value.is_some());
        nulls |= value.is_none();
        match (layout, value) {
            (Layout::Bool, value) => bits.push(value == Some(&[1])),
            (Layout::Fixed(width), None) => column.data.resize(column.data.len() + width, 0),
            (_, value) => column.data.extend_from_slice(value.unwrap_or_default()),
        }
        if layout == Layout::Bytes {
            column.offsets.extend_from_slice(&(column.data.len() as u32).to_le_bytes());
        }
    }
    if layout == Layout::Bool {
        column.data = bits.take();
    }
    if nulls {
        column.validity = validity.take();
    }
    column
}

/// The values of a column; null is none.
pub fn values(layout: Layout, column: &Column, rows: usize) -> Result<Vec<Option<Vec<u8>>>, OpError> {
    if !column.validity.is_empty() {
        bitmap(&column.validity, rows)?;
    }
    let is_valid = |row: usize| column.validity.is_empty() || bit(&column.validity, row);
    let some = |row: usize, value: &dyn Fn(usize) -> Vec<u8>| is_valid(row).then(|| value(row));
    match layout {
        Layout::Bool => {
            let bits = bitmap(&column.data, rows)?;
            Ok((0..rows).map(|row| some(row, &|row| vec![u8::from(bit(bits, row))])).collect())
        }
        Layout::Fixed(width) if column.data.len() < rows * width => {
            Err(crate::error::contract(format_args!("{} bytes for {rows} entries", column.data.len())))
        }
        Layout::Fixed(width) => {
            Ok((0..rows).map(|row| some(row, &|row| column.data[row * width..][..width].to_vec())).collect())
        }
        Layout::Bytes => {
            let spans = spans(column, rows)?;
            let value = |row: usize| column.data[spans[row].0..spans[row].1].to_vec();
            Ok((0..rows).map(|row| some(row, &value)).collect())
        }
    }
}
