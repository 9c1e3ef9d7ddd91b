//! Columns of values by slot: what windows of keys hold, to be read and written in any order.
//!
//! Law: what was put at a slot is what is taken there, whatever the type: numbers lie in arrays, everything else as bytes of Arrow's row format.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, NullArray, make_array};
use arrow::buffer::{Buffer, NullBuffer};
use arrow::datatypes::{ArrowNativeType, DataType};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, SortField};

/// One column.
pub(super) struct SlotColumn {
    data_type: DataType,
    values: Values,
}

enum Values {
    One(Numbers<u8>),
    Two(Numbers<u16>),
    Four(Numbers<u32>),
    Eight(Numbers<u64>),
    Sixteen(Numbers<i128>),
    Rows(RowConverter, Vec<Option<Box<[u8]>>>),
    /// Of the type null.
    None,
}

/// Numbers of so many bytes, whatever they mean.
#[derive(Default)]
struct Numbers<T> {
    values: Vec<T>,
    /// Empty as long as no null was put.
    valid: Vec<bool>,
}

impl SlotColumn {
    pub fn new(data_type: &DataType) -> Result<Self, ArrowError> {
        let values = match (data_type, data_type.primitive_width()) {
            (DataType::Null, _) => Values::None,
            (_, Some(1)) => Values::One(Numbers::default()),
            (_, Some(2)) => Values::Two(Numbers::default()),
            (_, Some(4)) => Values::Four(Numbers::default()),
            (_, Some(8)) => Values::Eight(Numbers::default()),
            (_, Some(16)) => Values::Sixteen(Numbers::default()),
            _ => Values::Rows(RowConverter::new(vec![SortField::new(data_type.clone())])?, Vec::new()),
        };
        Ok(Self { data_type: data_type.clone(), values })
    }

    /// Puts value `i` of `array`, which has the type of the column, at `slots[i]`. All slots are below `count`.
    pub fn put(&mut self, slots: &[u32], array: &ArrayRef, count: usize) -> Result<(), ArrowError> {
        match &mut self.values {
            Values::One(numbers) => numbers.put(slots, array, count),
            Values::Two(numbers) => numbers.put(slots, array, count),
            Values::Four(numbers) => numbers.put(slots, array, count),
            Values::Eight(numbers) => numbers.put(slots, array, count),
            Values::Sixteen(numbers) => numbers.put(slots, array, count),
            Values::Rows(converter, values) => {
                values.resize(count.max(values.len()), None);
                let rows = converter.convert_columns(std::slice::from_ref(array))?;
                for (&slot, row) in slots.iter().zip(rows.iter()) {
                    values[slot as usize] = Some(row.data().into());
                }
            }
            Values::None => {}
        }
        Ok(())
    }

    /// The values at `slots`, in their order. Something was put at each.
    pub fn take(&self, slots: &[u32]) -> Result<ArrayRef, ArrowError> {
        let (buffer, nulls) = match &self.values {
            Values::One(numbers) => numbers.take(slots),
            Values::Two(numbers) => numbers.take(slots),
            Values::Four(numbers) => numbers.take(slots),
            Values::Eight(numbers) => numbers.take(slots),
            Values::Sixteen(numbers) => numbers.take(slots),
            Values::Rows(converter, values) => return take_rows(converter, &self.data_type, values, slots),
            Values::None => return Ok(Arc::new(NullArray::new(slots.len()))),
        };
        let data = arrow::array::ArrayData::builder(self.data_type.clone()).len(slots.len()).add_buffer(buffer);
        Ok(make_array(data.nulls(nulls).build()?))
    }

    /// Frees what is held elsewhere for a slot that is not used any more.
    pub fn forget(&mut self, slot: u32) {
        if let Values::Rows(_, values) = &mut self.values
            && let Some(value) = values.get_mut(slot as usize)
        {
            *value = None;
        }
    }
}

fn take_rows(
    converter: &RowConverter,
    data_type: &DataType,
    values: &[Option<Box<[u8]>>],
    slots: &[u32],
) -> Result<ArrayRef, ArrowError> {
    // The row of a null, for slots without a value.
    let null = converter.convert_columns(&[arrow::array::new_null_array(data_type, 1)])?;
    let parser = converter.parser();
    let bytes = |slot: u32| values.get(slot as usize).and_then(Option::as_deref);
    let row = |&slot: &u32| parser.parse(bytes(slot).unwrap_or(null.row(0).data()));
    let mut columns = converter.convert_rows(slots.iter().map(row))?;
    Ok(columns.pop().expect("the converter has one column"))
}

impl<T: ArrowNativeType + Default> Numbers<T> {
    fn put(&mut self, slots: &[u32], array: &ArrayRef, count: usize) {
        self.values.resize(count.max(self.values.len()), T::default());
        let data = array.to_data();
        let values = &data.buffer::<T>(0)[..slots.len()];
        for (&slot, &value) in slots.iter().zip(values) {
            self.values[slot as usize] = value;
        }
        let nulls = array.nulls().filter(|nulls| nulls.null_count() > 0);
        if nulls.is_some() || !self.valid.is_empty() {
            self.valid.resize(self.values.len(), true);
            let valid = |row| nulls.is_none_or(|nulls| nulls.is_valid(row));
            slots.iter().enumerate().for_each(|(row, &slot)| self.valid[slot as usize] = valid(row));
        }
    }

    /// Nothing was put beyond what there is.
    fn take(&self, slots: &[u32]) -> (Buffer, Option<NullBuffer>) {
        let get = |&slot: &u32| self.values.get(slot as usize).copied().unwrap_or_default();
        let values: Vec<T> = slots.iter().map(get).collect();
        let len = self.values.len();
        let is_valid = |&slot: &u32| (slot as usize) < len && self.valid.get(slot as usize).is_none_or(|&valid| valid);
        let nulls = (!slots.iter().all(is_valid)).then(|| NullBuffer::from_iter(slots.iter().map(is_valid)));
        (Buffer::from_vec(values), nulls)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{
        BooleanArray, Decimal128Array, Float64Array, Int8Array, Int16Array, Int32Array, ListArray, StringArray,
        TimestampMicrosecondArray,
    };
    use arrow::compute::take;
    use arrow::datatypes::Int64Type;

    #[test]
    fn what_was_put_is_taken() {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int8Array::from(vec![Some(1), None, Some(-3), Some(4)])),
            Arc::new(Int16Array::from(vec![Some(1), None, Some(-3), Some(4)])),
            Arc::new(Int32Array::from(vec![Some(1), None, Some(-3), Some(4)])),
            Arc::new(Float64Array::from(vec![Some(1.5), None, Some(f64::NAN), Some(-0.0)])),
            Arc::new(TimestampMicrosecondArray::from(vec![Some(1), None, Some(-3), Some(4)])),
            Arc::new(Decimal128Array::from(vec![Some(1), None, Some(i128::MIN), Some(4)])),
            Arc::new(BooleanArray::from(vec![Some(true), None, Some(false), Some(true)])),
            Arc::new(StringArray::from(vec![Some("a"), None, Some(""), Some("δ")])),
            Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>([
                Some(vec![Some(1), None]),
                None,
                Some(vec![]),
                Some(vec![Some(4)]),
            ])),
        ];
        for column in columns {
            let mut stored = SlotColumn::new(column.data_type()).unwrap();
            // Of slices, to slots out of order; the null comes later than other values, and slot 5 is written twice.
            stored.put(&[5, 3], &column.slice(2, 2), 6).unwrap();
            stored.put(&[2, 5], &column.slice(0, 2), 6).unwrap();
            let taken = stored.take(&[2, 3, 5, 2]).unwrap();
            let right = take(&column, &arrow::array::UInt32Array::from(vec![0, 3, 1, 0]), None).unwrap();
            assert_eq!(taken.to_data(), right.to_data(), "{}", column.data_type());
        }
    }
}
