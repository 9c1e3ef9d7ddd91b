//! Columns to cells and back, by their described types.

use super::cell::Cell;
use crate::native::{Column, ColumnRef, Field, OpError};
use crate::types::{ColumnBuilder, Cursor, Decode, bit};

/// The values of all top-level columns: one inner vector per column.
pub fn decode(fields: &[Field], columns: &[ColumnRef<'_>], rows: usize) -> Result<Vec<Vec<Cell>>, OpError> {
    let mut fields = fields.iter();
    let mut cursor = Cursor::new(columns);
    let mut decoded = Vec::new();
    while let Some(field) = fields.next() {
        decoded.push(decode_column(field, &mut fields, &mut cursor, rows)?);
    }
    cursor.end()?;
    Ok(decoded)
}

/// One column with its children, which are taken from `rest`.
fn decode_column<'f>(
    field: &'f Field,
    rest: &mut impl Iterator<Item = &'f Field>,
    cursor: &mut Cursor<'_, '_>,
    rows: usize,
) -> Result<Vec<Cell>, OpError> {
    let own = cursor.peek()?;
    let mut cells = match field.type_name.as_str() {
        "list" => {
            cursor.next()?;
            decode_list(own, rest, cursor, rows)?
        }
        "struct" => {
            cursor.next()?;
            decode_struct(field, rest, cursor, rows)?
        }
        name => decode_leaf(name, cursor, rows)?,
    };
    if !own.validity.is_empty() {
        for (row, cell) in cells.iter_mut().enumerate() {
            if !bit(own.validity, row) {
                *cell = Cell::Null;
            }
        }
    }
    Ok(cells)
}

fn decode_list<'f>(
    own: ColumnRef<'_>,
    rest: &mut impl Iterator<Item = &'f Field>,
    cursor: &mut Cursor<'_, '_>,
    rows: usize,
) -> Result<Vec<Cell>, OpError> {
    let offsets: Vec<usize> = own.offsets.as_chunks().0.iter().map(|o| u32::from_le_bytes(*o) as usize).collect();
    let count = offsets.get(rows).copied().unwrap_or(0);
    let Some(item) = rest.next() else { return Err(crate::error::contract("a list without an item type")) };
    // Boxed, because a list may hold lists without end as far as the compiler knows.
    let mut dynamic: Box<dyn Iterator<Item = &'f Field> + '_> = Box::new(rest);
    let items = decode_column(item, &mut dynamic, cursor, count)?;
    Ok((0..rows).map(|row| Cell::List(items[offsets[row]..offsets[row + 1]].to_vec())).collect())
}

fn decode_struct<'f>(
    field: &Field,
    rest: &mut impl Iterator<Item = &'f Field>,
    cursor: &mut Cursor<'_, '_>,
    rows: usize,
) -> Result<Vec<Cell>, OpError> {
    let mut members: Vec<Vec<(String, Cell)>> = vec![Vec::new(); rows];
    let mut dynamic: Box<dyn Iterator<Item = &'f Field> + '_> = Box::new(rest);
    for _ in 0..field.children {
        let Some(child) = dynamic.next() else { return Err(crate::error::contract("a struct without its fields")) };
        let cells = decode_column(child, &mut dynamic, cursor, rows)?;
        members.iter_mut().zip(cells).for_each(|(row, cell)| row.push((child.name.clone(), cell)));
    }
    Ok(members.into_iter().map(Cell::Struct).collect())
}

fn decode_leaf(type_name: &str, cursor: &mut Cursor<'_, '_>, rows: usize) -> Result<Vec<Cell>, OpError> {
    match type_name {
        "bool" => read_all::<bool>(cursor, rows, Cell::from),
        "int8" => read_all::<i8>(cursor, rows, Cell::from),
        "int16" => read_all::<i16>(cursor, rows, Cell::from),
        "int32" | "date" => read_all::<i32>(cursor, rows, Cell::from),
        "uint8" => read_all::<u8>(cursor, rows, Cell::from),
        "uint16" => read_all::<u16>(cursor, rows, Cell::from),
        "uint32" => read_all::<u32>(cursor, rows, Cell::from),
        "uint64" => read_all::<u64>(cursor, rows, Cell::from),
        "float32" => read_all::<f32>(cursor, rows, Cell::from),
        "float64" => read_all::<f64>(cursor, rows, Cell::from),
        "utf8" => read_all::<&str>(cursor, rows, Cell::from),
        "binary" => read_all::<&[u8]>(cursor, rows, Cell::from),
        name if name.starts_with("decimal128") => {
            read_all::<crate::Decimal128<38, 0>>(cursor, rows, |d| Cell::Int(d.0))
        }
        _ => read_all::<i64>(cursor, rows, Cell::from),
    }
}

fn read_all<'a, T: Decode<'a>>(
    cursor: &mut Cursor<'_, 'a>,
    rows: usize,
    cell: impl Fn(T) -> Cell,
) -> Result<Vec<Cell>, OpError> {
    let reader = T::reader(cursor, rows)?;
    Ok((0..rows).map(|row| cell(T::read(&reader, row))).collect())
}

/// Cells of a type without children as a column.
pub fn encode<'c>(field: &Field, cells: impl IntoIterator<Item = &'c Cell>) -> Column {
    let mut builders = ColumnBuilder::for_fields(std::slice::from_ref(field));
    builders[0].start(0);
    for cell in cells {
        builders[0].push_valid(*cell != Cell::Null);
        push(&field.type_name, cell, &mut builders[0]);
    }
    builders[0].finish()
}

fn push(type_name: &str, cell: &Cell, out: &mut ColumnBuilder) {
    let int = match cell {
        Cell::Int(value) => *value,
        _ => 0,
    };
    let float = match cell {
        Cell::Float(value) => value.value(),
        _ => 0.0,
    };
    match type_name {
        "bool" => out.push_bool(*cell == Cell::Bool(true)),
        "int8" | "uint8" => out.push_fixed((int as u8).to_le_bytes()),
        "int16" | "uint16" => out.push_fixed((int as u16).to_le_bytes()),
        "int32" | "uint32" | "date" => out.push_fixed((int as u32).to_le_bytes()),
        "float32" => out.push_fixed((float as f32).to_le_bytes()),
        "float64" => out.push_fixed(float.to_le_bytes()),
        "utf8" | "binary" => out.push_bytes(match cell {
            Cell::Text(text) => text.as_bytes(),
            Cell::Bytes(bytes) => bytes,
            _ => &[],
        }),
        name if name.starts_with("decimal128") => out.push_fixed(int.to_le_bytes()),
        _ => out.push_fixed((int as i64).to_le_bytes()),
    }
}
