//! Arrow arrays as columns for the guest.
//!
//! Law: a buffer is shared, not copied; only bits that do not start at a byte and offsets that do not
//! start at zero (both from slices) are written anew. No work per row otherwise.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, SchemaRef};
use arrow::downcast_primitive_array;

use tidemill_model::schema::{type_fits, type_name};

use super::ColumnIn;

/// The buffers of one flattened column; `None` is an empty list.
#[derive(Default)]
struct Buffers {
    validity: Option<Buffer>,
    offsets: Option<Buffer>,
    data: Option<Buffer>,
}

/// Columns that are ready to cross. Owns (shares) the buffers that [`Lowered::columns`] borrows.
#[derive(Default)]
pub(crate) struct Lowered(Vec<Buffers>);

impl Lowered {
    /// The rows of a port with this schema. `Err`: the host passed something else.
    pub(crate) fn rows(schema: &SchemaRef, rows: &RecordBatch) -> Result<Self, String> {
        let mut lowered = Self(Vec::with_capacity(rows.num_columns()));
        if rows.num_columns() != schema.fields().len() {
            return Err(format!("{} columns were passed for {}", rows.num_columns(), schema.fields().len()));
        }
        for (array, field) in rows.columns().iter().zip(schema.fields()) {
            lowered.column(field, array)?;
        }
        Ok(lowered)
    }

    /// One more column.
    pub(crate) fn column(&mut self, field: &Field, array: &ArrayRef) -> Result<(), String> {
        if array.data_type() != field.data_type() && !type_fits(array.data_type(), field.data_type()) {
            let (have, want) = (type_name(array.data_type()), type_name(field.data_type()));
            return Err(format!("column `{}` was passed as {have}, but is declared as {want}", field.name()));
        }
        if !field.is_nullable() && array.null_count() > 0 {
            return Err(format!("column `{}` was passed with nulls, but is declared as not null", field.name()));
        }
        self.array(array.as_ref());
        Ok(())
    }

    /// What the guest gets: slices of the buffers.
    pub(crate) fn columns<'a>(&'a self) -> Vec<ColumnIn<'a>> {
        let column = |c: &'a Buffers| ColumnIn {
            validity: slice(&c.validity),
            offsets: slice(&c.offsets),
            data: slice(&c.data),
        };
        self.0.iter().map(column).collect()
    }

    fn array(&mut self, array: &dyn Array) {
        let validity = array.nulls().and_then(validity);
        match array.data_type() {
            DataType::Boolean => {
                self.0.push(Buffers { validity, offsets: None, data: Some(bits(array.as_boolean().values())) });
            }
            DataType::Utf8 => {
                let array = array.as_string::<i32>();
                self.0.push(bytes(validity, array.offsets(), array.values()));
            }
            DataType::Binary => {
                let array = array.as_binary::<i32>();
                self.0.push(bytes(validity, array.offsets(), array.values()));
            }
            DataType::List(_) => {
                let array = array.as_list::<i32>();
                let (offsets, first, length) = rebase(array.offsets());
                self.0.push(Buffers { validity, offsets: Some(offsets), data: None });
                match (first, length) {
                    (0, length) if length == array.values().len() => self.array(array.values()),
                    (first, length) => self.array(&array.values().slice(first, length)),
                }
            }
            DataType::Struct(_) => {
                self.0.push(Buffers { validity, ..Buffers::default() });
                for column in array.as_struct().columns() {
                    self.array(column);
                }
            }
            _ => self.0.push(Buffers { validity, offsets: None, data: primitive(array) }),
        }
    }
}

fn slice(buffer: &Option<Buffer>) -> &[u8] {
    buffer.as_ref().map_or(&[], |b| b.as_slice())
}

/// Values of a fixed-width array; its type has been checked against the port's.
fn primitive(array: &dyn Array) -> Option<Buffer> {
    downcast_primitive_array!(
        array => Some(array.values().inner().clone()),
        _ => None
    )
}

fn validity(nulls: &NullBuffer) -> Option<Buffer> {
    (nulls.null_count() > 0).then(|| bits(nulls.inner()))
}

/// A bitmap that starts at the first bit of its first byte.
fn bits(bits: &BooleanBuffer) -> Buffer {
    if bits.offset().is_multiple_of(8) {
        bits.inner().slice_with_length(bits.offset() / 8, bits.len().div_ceil(8))
    } else {
        bits.sliced()
    }
}

fn bytes(validity: Option<Buffer>, offsets: &OffsetBuffer<i32>, values: &Buffer) -> Buffers {
    let (offsets, first, length) = rebase(offsets);
    Buffers { validity, offsets: Some(offsets), data: Some(values.slice_with_length(first, length)) }
}

/// Offsets that start at zero, and the part of the values that they speak of: (first, length).
fn rebase(offsets: &OffsetBuffer<i32>) -> (Buffer, usize, usize) {
    let (first, last) = (offsets[0], offsets[offsets.len() - 1]);
    let buffer = if first == 0 {
        offsets.inner().inner().clone()
    } else {
        offsets.iter().map(|o| o - first).collect::<Vec<i32>>().into()
    };
    (buffer, first as usize, (last - first) as usize)
}
