//! The values of one state, indexed by slot.
//!
//! Laws: `refs` of a slot counts its values, so every change of presence is noted there; a frozen column is a column that
//! nobody writes to.

use arrow::array::{Array, ArrayData, ArrayRef, AsArray, BooleanArray, make_array};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer};
use arrow::datatypes::{ArrowNativeType, DataType};
use tidemill_model::Fault;
use tidemill_model::component::StateDescriptor;
use tidemill_model::schema::type_name;
use tidemill_model::state::Slot;

use super::pages::Pages;
use super::refs::Refs;

/// Values in a page: few enough that the copy after a snapshot is a matter of microseconds, enough that a state of
/// gigabytes is frozen in milliseconds.
const FIXED: usize = 512;
/// The same for values that are copied one by one.
const BYTES: usize = 128;

pub(super) struct Column {
    data_type: DataType,
    values: Values,
    /// One bit per slot: is there a value?
    present: Vec<u64>,
    /// Bits that are set.
    count: usize,
}

/// Storage by width: the type matters only when a column is made of it.
enum Values {
    Bool(Pages<bool, FIXED>),
    W1(Pages<i8, FIXED>),
    W2(Pages<i16, FIXED>),
    W4(Pages<i32, FIXED>),
    W8(Pages<i64, FIXED>),
    W16(Pages<i128, FIXED>),
    /// UTF-8 or binary.
    Bytes(Pages<Vec<u8>, BYTES>),
}

impl Column {
    pub fn new(descriptor: &StateDescriptor) -> Result<Self, Fault> {
        let data_type = descriptor.field.data_type().clone();
        let values = match (&data_type, data_type.primitive_width()) {
            (DataType::Boolean, _) => Values::Bool(Pages::default()),
            (DataType::Utf8 | DataType::Binary, _) => Values::Bytes(Pages::default()),
            (_, Some(1)) => Values::W1(Pages::default()),
            (_, Some(2)) => Values::W2(Pages::default()),
            (_, Some(4)) => Values::W4(Pages::default()),
            (_, Some(8)) => Values::W8(Pages::default()),
            (_, Some(16)) => Values::W16(Pages::default()),
            _ => return Err(unsupported(descriptor)),
        };
        Ok(Self { data_type, values, present: Vec::new(), count: 0 })
    }

    pub fn grow(&mut self, slots: usize) {
        self.present.resize(slots.div_ceil(64), 0);
        match &mut self.values {
            Values::Bool(v) => v.grow(slots),
            Values::W1(v) => v.grow(slots),
            Values::W2(v) => v.grow(slots),
            Values::W4(v) => v.grow(slots),
            Values::W8(v) => v.grow(slots),
            Values::W16(v) => v.grow(slots),
            Values::Bytes(v) => v.grow(slots),
        }
    }

    /// Whether each of so many live keys has a value: then nobody has to look.
    pub fn is_full(&self, live: usize) -> bool {
        self.count == live
    }

    /// `full`: each of the slots has a value.
    pub fn gather(&self, slots: &[Slot], full: bool) -> Result<ArrayRef, Fault> {
        let nulls = if full { None } else { self.nulls(slots) };
        match &self.values {
            Values::Bool(v) => {
                let bits = BooleanBuffer::collect_bool(slots.len(), |i| *v.get(slots[i]));
                Ok(std::sync::Arc::new(BooleanArray::new(bits, nulls)))
            }
            Values::W1(v) => self.fixed(pick(v, slots), slots.len(), nulls),
            Values::W2(v) => self.fixed(pick(v, slots), slots.len(), nulls),
            Values::W4(v) => self.fixed(pick(v, slots), slots.len(), nulls),
            Values::W8(v) => self.fixed(pick(v, slots), slots.len(), nulls),
            Values::W16(v) => self.fixed(pick(v, slots), slots.len(), nulls),
            Values::Bytes(v) => self.bytes(v, slots, nulls),
        }
    }

    /// `full`: each of the slots has a value.
    pub fn scatter(&mut self, slots: &[Slot], values: &ArrayRef, refs: &mut Refs, full: bool) -> Result<(), Fault> {
        if values.data_type() != &self.data_type || values.len() != slots.len() {
            return Err(Fault::internal(format!(
                "{} values of type {} for {} keys of a state of type {}",
                values.len(),
                type_name(values.data_type()),
                slots.len(),
                type_name(&self.data_type)
            )));
        }
        if !full || values.null_count() > 0 {
            self.mark(slots, values.as_ref(), refs);
        }
        match &mut self.values {
            Values::Bool(v) => {
                let source = values.as_boolean().values();
                slots.iter().enumerate().for_each(|(i, &s)| *v.get_mut(s) = source.value(i));
            }
            Values::W1(v) => place(v, slots, values),
            Values::W2(v) => place(v, slots, values),
            Values::W4(v) => place(v, slots, values),
            Values::W8(v) => place(v, slots, values),
            Values::W16(v) => place(v, slots, values),
            Values::Bytes(v) => place_bytes(v, slots, values),
        }
        Ok(())
    }

    /// There is no value any more.
    pub fn remove(&mut self, slot: Slot, refs: &mut Refs) {
        self.present[slot as usize / 64] ^= 1 << (slot % 64);
        self.count -= 1;
        refs.down(slot);
        if let Values::Bytes(values) = &mut self.values {
            *values.get_mut(slot) = Vec::new();
        }
    }

    /// The column as it is now.
    pub fn freeze(&mut self) -> Self {
        let values = match &mut self.values {
            Values::Bool(v) => Values::Bool(v.freeze()),
            Values::W1(v) => Values::W1(v.freeze()),
            Values::W2(v) => Values::W2(v.freeze()),
            Values::W4(v) => Values::W4(v.freeze()),
            Values::W8(v) => Values::W8(v.freeze()),
            Values::W16(v) => Values::W16(v.freeze()),
            Values::Bytes(v) => Values::Bytes(v.freeze()),
        };
        Self { data_type: self.data_type.clone(), values, present: self.present.clone(), count: self.count }
    }

    /// Bytes of a value, about.
    pub fn bytes_of(&self, slot: Slot) -> usize {
        match &self.values {
            Values::Bytes(v) => v.get(slot).len(),
            _ => self.data_type.primitive_width().unwrap_or(1),
        }
    }

    pub fn is_present(&self, slot: Slot) -> bool {
        self.present[slot as usize / 64] >> (slot % 64) & 1 == 1
    }

    /// Slots from `from` on that have a value, ascending.
    pub fn present_slots(&self, from: Slot) -> impl Iterator<Item = Slot> {
        let first = from as usize / 64;
        let words = self.present.iter().enumerate().skip(first);
        words.flat_map(move |(index, &word)| {
            let mut left = if index == first { word & (u64::MAX << (from % 64)) } else { word };
            std::iter::from_fn(move || {
                let bit = left.trailing_zeros();
                left &= left.wrapping_sub(1);
                (bit < 64).then(|| (index * 64) as Slot + bit)
            })
        })
    }

    fn nulls(&self, slots: &[Slot]) -> Option<NullBuffer> {
        let present = BooleanBuffer::collect_bool(slots.len(), |i| self.is_present(slots[i]));
        Some(NullBuffer::new(present)).filter(|n| n.null_count() > 0)
    }

    /// Sets and clears presence bits and counts them in `refs`.
    fn mark(&mut self, slots: &[Slot], values: &dyn Array, refs: &mut Refs) {
        let no_nulls = values.null_count() == 0;
        for (i, &slot) in slots.iter().enumerate() {
            let (word, bit) = (slot as usize / 64, 1u64 << (slot % 64));
            let (was, is) = (self.present[word] & bit != 0, no_nulls || values.is_valid(i));
            if was != is {
                self.present[word] ^= bit;
                if is {
                    self.count += 1;
                    refs.up(slot);
                } else {
                    self.count -= 1;
                    refs.down(slot);
                }
            }
        }
    }

    fn fixed(&self, values: Buffer, len: usize, nulls: Option<NullBuffer>) -> Result<ArrayRef, Fault> {
        let data = ArrayData::builder(self.data_type.clone()).len(len).add_buffer(values).nulls(nulls);
        Ok(make_array(data.build()?))
    }

    fn bytes(
        &self,
        values: &Pages<Vec<u8>, BYTES>,
        slots: &[Slot],
        nulls: Option<NullBuffer>,
    ) -> Result<ArrayRef, Fault> {
        let total: usize = slots.iter().map(|&s| values.get(s).len()).sum();
        if i32::try_from(total).is_err() {
            return Err(Fault::data(format!("the state of one batch's keys takes {total} bytes, more than 2 GiB"))
                .with_help("lower batch_rows, or keep less in the state"));
        }
        let mut data = Vec::with_capacity(total);
        slots.iter().for_each(|&s| data.extend_from_slice(values.get(s)));
        let offsets = OffsetBuffer::<i32>::from_lengths(slots.iter().map(|&s| values.get(s).len()));
        let builder = ArrayData::builder(self.data_type.clone()).len(slots.len()).nulls(nulls);
        let builder = builder.add_buffer(offsets.into_inner().into_inner()).add_buffer(Buffer::from_vec(data));
        // SAFETY: offsets are monotonic and end at the data's length; the bytes of a utf8 state were
        // copied value by value out of valid utf8 arrays.
        Ok(make_array(unsafe { builder.build_unchecked() }))
    }
}

fn unsupported(descriptor: &StateDescriptor) -> Fault {
    Fault::config(format!(
        "state `{}` has the type {}, which no state can have",
        descriptor.name,
        type_name(descriptor.field.data_type())
    ))
    .with_help("use a fixed-width type, utf8 or binary")
}

fn pick<T: ArrowNativeType, const N: usize>(values: &Pages<T, N>, slots: &[Slot]) -> Buffer {
    Buffer::from_vec(slots.iter().map(|&s| *values.get(s)).collect::<Vec<T>>())
}

fn place<T: ArrowNativeType, const N: usize>(values: &mut Pages<T, N>, slots: &[Slot], source: &ArrayRef) {
    let data = source.to_data();
    let source: &[T] = &data.buffers()[0].typed_data::<T>()[data.offset()..];
    for (&slot, &value) in slots.iter().zip(source) {
        *values.get_mut(slot) = value;
    }
}

/// Writes into the buffers that the values had before; a deleted value gives its memory back.
fn place_bytes(values: &mut Pages<Vec<u8>, BYTES>, slots: &[Slot], source: &ArrayRef) {
    let data = source.to_data();
    let offsets = &data.buffers()[0].typed_data::<i32>()[data.offset()..];
    let bytes = data.buffers()[1].as_slice();
    for (i, &slot) in slots.iter().enumerate() {
        let value = values.get_mut(slot);
        if source.is_null(i) {
            *value = Vec::new();
        } else {
            value.clear();
            value.extend_from_slice(&bytes[offsets[i] as usize..offsets[i + 1] as usize]);
        }
    }
}
