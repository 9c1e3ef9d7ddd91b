//! Typed columns that grow value by value, shared by the text formats.
//!
//! Laws: a value is appended whole or not at all on the column itself; after a failed row,
//! [`Column::truncate`] takes everything of it away, nested values too. Nothing allocates per row
//! except for growth, and `finish` hands the vectors to Arrow without copying.

mod calendar;
mod nested;
mod number;
mod text;
mod values;

use std::sync::Arc;

use arrow::array::{ArrayRef, ArrowPrimitiveType, BinaryArray, BooleanArray, PrimitiveArray, StringArray};
use arrow::buffer::{BooleanBuffer, Buffer};
use arrow::datatypes::*;
use arrow::error::ArrowError;
use tidemill_model::schema::type_name;

pub(crate) use calendar::{date, timestamp};
pub(crate) use nested::{ExpectedKey, Lists, Record, Slot};
pub(crate) use number::{Integer, SAFE_DIGITS, decimal, integer};
pub(crate) use text::{boolean, unhex};
pub(crate) use values::{Bytes, Values};

pub(crate) enum Column {
    Bool(Values<bool>),
    I8(Values<i8>),
    I16(Values<i16>),
    I32(Values<i32>),
    I64(Values<i64>),
    U8(Values<u8>),
    U16(Values<u16>),
    U32(Values<u32>),
    U64(Values<u64>),
    F32(Values<f32>),
    F64(Values<f64>),
    /// Days since the epoch.
    Date(Values<i32>),
    Timestamp(TimeUnit, Values<i64>),
    /// Precision and scale.
    Decimal(u8, i8, Values<i128>),
    Utf8(Bytes),
    Binary(Bytes),
    List(Box<Lists>),
    Struct(Box<Record>),
}

/// The same expression for whatever the column holds.
macro_rules! each {
    ($column:expr, $v:ident => $do:expr) => {
        match $column {
            Column::Bool($v) => $do,
            Column::I8($v) => $do,
            Column::I16($v) => $do,
            Column::I32($v) | Column::Date($v) => $do,
            Column::I64($v) | Column::Timestamp(_, $v) => $do,
            Column::U8($v) => $do,
            Column::U16($v) => $do,
            Column::U32($v) => $do,
            Column::U64($v) => $do,
            Column::F32($v) => $do,
            Column::F64($v) => $do,
            Column::Decimal(_, _, $v) => $do,
            Column::Utf8($v) | Column::Binary($v) => $do,
            Column::List($v) => $do,
            Column::Struct($v) => $do,
        }
    };
}

impl Column {
    /// Empty column. `Err` names a type that no pipeline can hold.
    pub(crate) fn new(data_type: &DataType) -> Result<Self, String> {
        Ok(match data_type {
            DataType::Boolean => Self::Bool(Values::default()),
            DataType::Int8 => Self::I8(Values::default()),
            DataType::Int16 => Self::I16(Values::default()),
            DataType::Int32 => Self::I32(Values::default()),
            DataType::Int64 => Self::I64(Values::default()),
            DataType::UInt8 => Self::U8(Values::default()),
            DataType::UInt16 => Self::U16(Values::default()),
            DataType::UInt32 => Self::U32(Values::default()),
            DataType::UInt64 => Self::U64(Values::default()),
            DataType::Float32 => Self::F32(Values::default()),
            DataType::Float64 => Self::F64(Values::default()),
            DataType::Date32 => Self::Date(Values::default()),
            DataType::Timestamp(unit, None) => Self::Timestamp(*unit, Values::default()),
            DataType::Decimal128(precision, scale) => Self::Decimal(*precision, *scale, Values::default()),
            DataType::Utf8 => Self::Utf8(Bytes::default()),
            DataType::Binary => Self::Binary(Bytes::default()),
            DataType::List(item) => Self::List(Box::new(Lists::new(item)?)),
            DataType::Struct(fields) => Self::Struct(Box::new(Record::new(fields)?)),
            other => return Err(format!("{} cannot be read", type_name(other))),
        })
    }

    pub(crate) fn len(&self) -> usize {
        each!(self, v => v.len())
    }

    pub(crate) fn truncate(&mut self, len: usize) {
        each!(self, v => v.truncate(len));
    }

    pub(crate) fn push_null(&mut self) {
        each!(self, v => v.push_null());
    }

    /// The values as an array of `data_type` (the one given to `new`); the column is empty afterwards.
    pub(crate) fn finish(&mut self, data_type: &DataType) -> Result<ArrayRef, ArrowError> {
        Ok(match self {
            Self::Bool(v) => {
                let (values, nulls) = v.take();
                Arc::new(BooleanArray::new(BooleanBuffer::from(values), nulls))
            }
            Self::I8(v) => primitive::<Int8Type>(v, data_type),
            Self::I16(v) => primitive::<Int16Type>(v, data_type),
            Self::I32(v) => primitive::<Int32Type>(v, data_type),
            Self::I64(v) => primitive::<Int64Type>(v, data_type),
            Self::U8(v) => primitive::<UInt8Type>(v, data_type),
            Self::U16(v) => primitive::<UInt16Type>(v, data_type),
            Self::U32(v) => primitive::<UInt32Type>(v, data_type),
            Self::U64(v) => primitive::<UInt64Type>(v, data_type),
            Self::F32(v) => primitive::<Float32Type>(v, data_type),
            Self::F64(v) => primitive::<Float64Type>(v, data_type),
            Self::Date(v) => primitive::<Date32Type>(v, data_type),
            Self::Timestamp(TimeUnit::Second, v) => primitive::<TimestampSecondType>(v, data_type),
            Self::Timestamp(TimeUnit::Millisecond, v) => primitive::<TimestampMillisecondType>(v, data_type),
            Self::Timestamp(TimeUnit::Microsecond, v) => primitive::<TimestampMicrosecondType>(v, data_type),
            Self::Timestamp(TimeUnit::Nanosecond, v) => primitive::<TimestampNanosecondType>(v, data_type),
            Self::Decimal(_, _, v) => primitive::<Decimal128Type>(v, data_type),
            Self::Utf8(v) => {
                let (offsets, values, nulls) = v.take();
                Arc::new(StringArray::try_new(offsets, Buffer::from_vec(values), nulls)?)
            }
            Self::Binary(v) => {
                let (offsets, values, nulls) = v.take();
                Arc::new(BinaryArray::try_new(offsets, Buffer::from_vec(values), nulls)?)
            }
            Self::List(v) => v.finish()?,
            Self::Struct(v) => Arc::new(v.finish()?),
        })
    }
}

fn primitive<T: ArrowPrimitiveType>(values: &mut Values<T::Native>, data_type: &DataType) -> ArrayRef {
    let (values, nulls) = values.take();
    Arc::new(PrimitiveArray::<T>::new(values.into(), nulls).with_data_type(data_type.clone()))
}
