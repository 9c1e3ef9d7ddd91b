//! Arrow arrays as the SDK's columns and back: nested ones flattened in pre-order, as the contract has it.

use std::collections::VecDeque;

use arrow::array::{Array, ArrayData, ArrayRef, make_array};
use arrow::buffer::{Buffer, ScalarBuffer};
use arrow::datatypes::{DataType, FieldRef};
use tidemill_model::logic::LogicError;
use tidemill_sdk::native as sdk;

/// Columns that an operator has put out, those of a nested value one behind the other.
pub(super) type Columns = VecDeque<sdk::Column>;

pub(super) fn bytes(buffer: &Buffer) -> &[u8] {
    buffer.as_slice()
}

pub(super) fn optional<T: arrow::datatypes::ArrowNativeType>(bytes: Vec<u8>) -> Option<ScalarBuffer<T>> {
    (!bytes.is_empty()).then(|| Buffer::from_vec(bytes).into())
}

/// Buffers of columns, each beginning at its first row.
pub(super) struct Lowered(Vec<ArrayData>);

impl Lowered {
    pub(super) fn of<'a>(columns: impl IntoIterator<Item = &'a ArrayRef>) -> Self {
        let mut flat = Vec::new();
        columns.into_iter().for_each(|column| flatten(column.to_data(), &mut flat));
        Self(flat)
    }

    fn refs(&self) -> Vec<sdk::ColumnRef<'_>> {
        self.0.iter().map(column_ref).collect()
    }

    pub(super) fn batch<'a>(&'a self, rows: usize, times: &'a Option<ScalarBuffer<i64>>) -> sdk::BatchRef<'a> {
        let times = times.as_ref().map_or(&[][..], |t| bytes(t.inner()));
        sdk::BatchRef { rows: rows as u32, times, kinds: &[], columns: self.refs() }
    }

    pub(super) fn keys(&self, count: usize, states: &[ArrayRef]) -> sdk::Keys<'_> {
        sdk::Keys { count: count as u32, columns: self.refs(), states: states.iter().map(owned).collect() }
    }
}

/// A column of an array without children.
pub(super) fn owned(array: &ArrayRef) -> sdk::Column {
    let data = rebase(array.to_data());
    let column = column_ref(&data);
    sdk::Column { validity: column.validity.to_vec(), offsets: column.offsets.to_vec(), data: column.data.to_vec() }
}

/// The array, then its children.
fn flatten(data: ArrayData, into: &mut Vec<ArrayData>) {
    let data = rebase(data);
    into.push(data.clone());
    match data.data_type() {
        DataType::List(_) => {
            let items = data.buffers()[0].typed_data::<i32>()[data.len()] as usize;
            flatten(data.child_data()[0].slice(0, items), into);
        }
        DataType::Struct(_) => data.child_data().iter().for_each(|child| flatten(child.slice(0, data.len()), into)),
        _ => {}
    }
}

/// Slices whose values or nulls do not begin at 0 are copied.
fn rebase(data: ArrayData) -> ArrayData {
    if data.offset() == 0 && data.nulls().is_none_or(|n| n.offset() == 0) {
        return data;
    }
    let mut copy = arrow::array::MutableArrayData::new(vec![&data], false, data.len());
    copy.try_extend(0, 0, data.len()).expect("a batch fits into one array");
    copy.freeze()
}

fn column_ref(data: &ArrayData) -> sdk::ColumnRef<'_> {
    let rows = data.len();
    let validity = data.nulls().filter(|n| n.null_count() > 0).map_or(&[][..], |n| n.buffer().as_slice());
    let offsets = || &data.buffers()[0].as_slice()[..(rows + 1) * 4];
    match data.data_type() {
        DataType::Utf8 | DataType::Binary => {
            let end = data.buffers()[0].typed_data::<i32>()[rows] as usize;
            sdk::ColumnRef { validity, offsets: offsets(), data: &data.buffers()[1].as_slice()[..end] }
        }
        DataType::Boolean => sdk::ColumnRef { validity, offsets: &[], data: data.buffers()[0].as_slice() },
        DataType::List(_) => sdk::ColumnRef { validity, offsets: offsets(), data: &[] },
        DataType::Struct(_) => sdk::ColumnRef { validity, offsets: &[], data: &[] },
        other => {
            let width = other.primitive_width().expect("a type of the contract");
            sdk::ColumnRef { validity, offsets: &[], data: &data.buffers()[0].as_slice()[..rows * width] }
        }
    }
}

/// Arrays of these fields.
pub(super) fn lift_all<'a>(
    fields: impl IntoIterator<Item = &'a FieldRef>,
    rows: usize,
    columns: Vec<sdk::Column>,
) -> Result<Vec<ArrayRef>, LogicError> {
    let mut columns = Columns::from(columns);
    fields.into_iter().map(|field| lift(field.data_type(), rows, &mut columns)).collect()
}

/// An array of the next column and those of its children.
pub(super) fn lift(data_type: &DataType, rows: usize, columns: &mut Columns) -> Result<ArrayRef, LogicError> {
    lift_data(data_type, rows, columns).map(make_array)
}

fn lift_data(data_type: &DataType, rows: usize, columns: &mut Columns) -> Result<ArrayData, LogicError> {
    let column = columns.pop_front().ok_or_else(|| LogicError::Fatal("a column is missing".into()))?;
    let mut builder = ArrayData::builder(data_type.clone()).len(rows);
    if !column.validity.is_empty() {
        builder = builder.null_bit_buffer(Some(Buffer::from_vec(column.validity)));
    }
    let offsets = Buffer::from_vec(column.offsets);
    builder = match data_type {
        DataType::Utf8 | DataType::Binary => builder.add_buffer(offsets).add_buffer(Buffer::from_vec(column.data)),
        DataType::List(item) => {
            let items = offsets.as_slice().last_chunk().map_or(0, |end| i32::from_le_bytes(*end));
            let items = lift_data(item.data_type(), items as usize, columns)?;
            builder.add_buffer(offsets).add_child_data(items)
        }
        DataType::Struct(fields) => {
            for field in fields {
                builder = builder.add_child_data(lift_data(field.data_type(), rows, columns)?);
            }
            builder
        }
        _ => builder.add_buffer(Buffer::from_vec(column.data)),
    };
    builder.align_buffers(true).build().map_err(|e| LogicError::Fatal(e.to_string()))
}
