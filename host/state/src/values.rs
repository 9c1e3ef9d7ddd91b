//! Values of entries as bytes: of fixed width little-endian, of variable width as they are, a bool as one byte.

use std::sync::Arc;

use arrow::array::{Array, ArrayData, ArrayRef, BooleanArray, make_array};
use arrow::buffer::{Buffer, OffsetBuffer};
use arrow::datatypes::DataType;
use tidemill_model::Fault;
use tidemill_model::schema::type_name;

/// Bytes of a value; none: variable.
pub(crate) fn width(data_type: &DataType) -> Option<usize> {
    match data_type {
        DataType::Boolean => Some(1),
        _ => data_type.primitive_width(),
    }
}

/// The values of a column.
pub(crate) struct Bytes {
    data: ArrayData,
    width: Option<usize>,
}

impl Bytes {
    /// The column must have this type and so many values.
    pub fn of(values: &ArrayRef, data_type: &DataType, count: usize) -> Result<Self, Fault> {
        if values.data_type() != data_type || values.len() != count {
            let (given, len) = (type_name(values.data_type()), values.len());
            let wanted = type_name(data_type);
            return Err(Fault::internal(format!("{len} values of type {given} for {count} entries of type {wanted}")));
        }
        Ok(Self { data: values.to_data(), width: width(data_type) })
    }

    /// None: it is null.
    pub fn get(&self, index: usize) -> Option<&[u8]> {
        if self.data.is_null(index) {
            return None;
        }
        let at = self.data.offset() + index;
        let values = self.data.buffers()[0].as_slice();
        match (self.data.data_type(), self.width) {
            (DataType::Boolean, _) if values[at / 8] >> (at % 8) & 1 == 1 => Some(&[1]),
            (DataType::Boolean, _) => Some(&[0]),
            (_, Some(width)) => Some(&values[at * width..][..width]),
            (_, None) => {
                let offsets = &self.data.buffers()[0].typed_data::<i32>()[at..at + 2];
                Some(&self.data.buffers()[1].as_slice()[offsets[0] as usize..offsets[1] as usize])
            }
        }
    }
}

/// Builds a column of values.
pub(crate) struct Builder {
    data_type: DataType,
    width: Option<usize>,
    data: Vec<u8>,
    ends: Vec<i32>,
    present: Vec<bool>,
}

impl Builder {
    pub fn new(data_type: &DataType) -> Self {
        let (data, ends, present) = Default::default();
        Self { data_type: data_type.clone(), width: width(data_type), data, ends, present }
    }

    /// `None` is null. Bytes of another width than the type has are broken.
    pub fn push(&mut self, value: Option<&[u8]>) -> Result<(), Fault> {
        let broken = || Fault::data("the state has a broken entry").with_help("restore the last checkpoint");
        match (self.width, value) {
            (Some(width), None) => self.data.resize(self.data.len() + width, 0),
            (Some(width), Some(value)) if value.len() != width => return Err(broken()),
            (_, value) => self.data.extend_from_slice(value.unwrap_or_default()),
        }
        let too_large = |_| Fault::data("the entries of one call take more than 2 GiB").with_help("lower batch_rows");
        self.ends.push(i32::try_from(self.data.len()).map_err(too_large)?);
        self.present.push(value.is_some());
        Ok(())
    }

    pub fn finish(self) -> Result<ArrayRef, Fault> {
        let nulls = Some(self.present.into()).filter(|nulls: &arrow::buffer::NullBuffer| nulls.null_count() > 0);
        let count = self.ends.len();
        if self.data_type == DataType::Boolean {
            let bits = self.data.iter().map(|&byte| byte == 1).collect();
            return Ok(Arc::new(BooleanArray::new(bits, nulls)));
        }
        let builder = ArrayData::builder(self.data_type).len(count).nulls(nulls);
        let builder = match self.width {
            Some(_) => builder.add_buffer(Buffer::from_vec(self.data)).align_buffers(true),
            None => {
                let ends = std::iter::once(0).chain(self.ends).collect::<Vec<i32>>();
                let offsets = OffsetBuffer::new(ends.into()).into_inner().into_inner();
                builder.add_buffer(offsets).add_buffer(Buffer::from_vec(self.data))
            }
        };
        // Validated: bytes of a utf8 value may come from a file.
        Ok(make_array(builder.build()?))
    }
}
