//! Growing vectors of values with nulls.

use arrow::array::BooleanBufferBuilder;
use arrow::buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};

/// Rows that are null, ascending. Most columns have few: a value costs nothing here.
#[derive(Default)]
pub(crate) struct Nulls(Vec<u32>);

impl Nulls {
    pub(crate) fn push(&mut self, row: usize) {
        self.0.push(row as u32);
    }

    pub(crate) fn truncate(&mut self, len: usize) {
        while self.0.last().is_some_and(|&row| row as usize >= len) {
            self.0.pop();
        }
    }

    /// As a bitmap over `len` rows; `None` if there is no null.
    pub(crate) fn take(&mut self, len: usize) -> Option<NullBuffer> {
        if self.0.is_empty() {
            return None;
        }
        let mut bits = BooleanBufferBuilder::new(len);
        bits.append_n(len, true);
        for row in self.0.drain(..) {
            bits.set_bit(row as usize, false);
        }
        Some(NullBuffer::new(bits.finish()))
    }
}

/// Values of one size.
#[derive(Default)]
pub(crate) struct Values<T> {
    values: Vec<T>,
    nulls: Nulls,
}

impl<T: Copy + Default> Values<T> {
    #[inline]
    pub(crate) fn push(&mut self, value: T) {
        self.values.push(value);
    }

    pub(crate) fn push_null(&mut self) {
        self.nulls.push(self.values.len());
        self.values.push(T::default());
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }

    pub(crate) fn truncate(&mut self, len: usize) {
        self.values.truncate(len);
        self.nulls.truncate(len);
    }

    pub(crate) fn take(&mut self) -> (Vec<T>, Option<NullBuffer>) {
        let next = Vec::with_capacity(self.values.len());
        let values = std::mem::replace(&mut self.values, next);
        let nulls = self.nulls.take(values.len());
        (values, nulls)
    }
}

/// Texts or byte strings, end to end.
pub(crate) struct Bytes {
    values: Vec<u8>,
    /// One more than there are rows; the first is 0.
    offsets: Vec<i32>,
    nulls: Nulls,
}

impl Default for Bytes {
    fn default() -> Self {
        Self { values: Vec::new(), offsets: vec![0], nulls: Nulls::default() }
    }
}

impl Bytes {
    #[inline]
    pub(crate) fn push(&mut self, value: &[u8]) {
        self.values.extend_from_slice(value);
        self.end_value();
    }

    /// For values that are made piece by piece; [`Self::end_value`] closes the value. A value that is left
    /// open must be taken away with `truncate`.
    pub(crate) fn open(&mut self) -> &mut Vec<u8> {
        &mut self.values
    }

    /// A read holds at most a few MiB of input, and no value is longer than its text: offsets cannot overflow.
    #[inline]
    pub(crate) fn end_value(&mut self) {
        self.offsets.push(self.values.len() as i32);
    }

    pub(crate) fn push_null(&mut self) {
        self.nulls.push(self.len());
        self.end_value();
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    pub(crate) fn truncate(&mut self, len: usize) {
        self.offsets.truncate(len + 1);
        self.values.truncate(*self.offsets.last().expect("there is always a first offset") as usize);
        self.nulls.truncate(len);
    }

    pub(crate) fn take(&mut self) -> (OffsetBuffer<i32>, Vec<u8>, Option<NullBuffer>) {
        let nulls = self.nulls.take(self.len());
        let next_values = Vec::with_capacity(self.values.len() + self.values.len() / 8);
        let mut next_offsets = Vec::with_capacity(self.offsets.len());
        next_offsets.push(0);
        let values = std::mem::replace(&mut self.values, next_values);
        let offsets = std::mem::replace(&mut self.offsets, next_offsets);
        (OffsetBuffer::new(ScalarBuffer::from(offsets)), values, nulls)
    }
}
