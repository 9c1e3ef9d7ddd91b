//! The values of resident keys: one row per slot, as [`Layout`] says; values of variable width beside it.
//!
//! Law: a row without values is all zero.

use arrow::array::{Array, ArrayData, ArrayRef, AsArray, BooleanArray, make_array};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer};
use arrow::datatypes::{ArrowNativeType, DataType};
use tidemill_model::Fault;
use tidemill_model::component::StateDescriptor;
use tidemill_model::schema::type_name;
use tidemill_model::state::Slot;

use super::layout::{Layout, Part, Reader, column_type};

pub(super) struct Rows {
    types: Vec<DataType>,
    layout: Layout,
    /// `stride` bytes per slot.
    data: Vec<u8>,
    /// By number of the variable-width value, then by slot.
    variables: Vec<Vec<Vec<u8>>>,
    /// Bytes allocated for them.
    variable_bytes: usize,
}

/// A fixed-width value as bytes in a row.
trait Word: ArrowNativeType {
    fn read(bytes: &[u8]) -> Self;
    fn write(self, bytes: &mut [u8]);
}

macro_rules! words {
    ($($type:ty),*) => {$(
        impl Word for $type {
            #[inline(always)]
            fn read(bytes: &[u8]) -> Self {
                // Callers cut exactly as many bytes as the type has.
                bytes.try_into().map_or(0, <$type>::from_le_bytes)
            }
            #[inline(always)]
            fn write(self, bytes: &mut [u8]) {
                bytes.copy_from_slice(&self.to_le_bytes());
            }
        }
    )*};
}

words!(i8, i16, i32, i64, i128);

/// Runs generic code for the word of a width.
macro_rules! by_width {
    ($width:expr, $word:ident => $run:expr) => {
        match $width {
            1 => {
                type $word = i8;
                $run
            }
            2 => {
                type $word = i16;
                $run
            }
            4 => {
                type $word = i32;
                $run
            }
            8 => {
                type $word = i64;
                $run
            }
            _ => {
                type $word = i128;
                $run
            }
        }
    };
}

impl Rows {
    pub fn new(states: &[StateDescriptor]) -> Result<Self, Fault> {
        let layout = Layout::of(states)?;
        let types = states.iter().map(|s| column_type(s).clone()).collect();
        let variables = vec![Vec::new(); layout.variables];
        Ok(Self { types, layout, data: Vec::new(), variables, variable_bytes: 0 })
    }

    /// The same values in the rows of other states; those that are not among them are left behind. Of `self` it remains which values
    /// there were. One pass over the fixed part, since a worker waits for it; values of variable width are not touched.
    pub fn redescribed(
        &mut self,
        from: &[StateDescriptor],
        to: &[StateDescriptor],
        slots: usize,
    ) -> Result<Self, Fault> {
        let mut rows = Self::new(to)?;
        rows.data.resize(slots * rows.layout.stride, 0);
        let mut moves = Vec::new();
        for (index, state) in to.iter().enumerate() {
            let same = |s: &StateDescriptor| s.name == state.name && s.version == state.version;
            let before = from.iter().position(same);
            let width = match (before.map(|before| self.layout.parts[before]), rows.layout.parts[index]) {
                (None, Part::Fixed { .. }) => continue,
                (None, Part::Variable(new)) => {
                    rows.variables[new].resize(slots, Vec::new());
                    continue;
                }
                (Some(Part::Fixed { offset, width }), Part::Fixed { offset: new, width: same }) if width == same => {
                    (offset, new, width)
                }
                (Some(Part::Variable(old)), Part::Variable(new)) => {
                    rows.variables[new] = std::mem::take(&mut self.variables[old]);
                    (0, 0, 0)
                }
                (Some(_), _) => {
                    let message = format!("the type of state `{}` changes, and its version does not", state.name);
                    return Err(Fault::internal(message));
                }
            };
            moves.extend(before.map(|before| (before, index, width)));
        }
        let lost: usize = self.variables.iter().flatten().map(Vec::capacity).sum();
        rows.variable_bytes = self.variable_bytes - lost;
        let (old, new) = (self.layout.stride, rows.layout.stride);
        for (old, new) in self.data.chunks_exact(old).zip(rows.data.chunks_exact_mut(new)) {
            for &(before, index, (from, to, width)) in &moves {
                if old[before / 8] >> (before % 8) & 1 == 1 {
                    new[index / 8] |= 1 << (index % 8);
                    new[to..to + width].copy_from_slice(&old[from..from + width]);
                }
            }
        }
        Ok(rows)
    }

    pub fn grow(&mut self, slots: usize) {
        self.data.resize(slots * self.layout.stride, 0);
        self.variables.iter_mut().for_each(|v| v.resize(slots, Vec::new()));
    }

    /// Bytes per slot, without what variable-width values allocate.
    pub fn slot_bytes(&self) -> usize {
        self.layout.stride + self.layout.variables * size_of::<Vec<u8>>()
    }

    pub fn variable_bytes(&self) -> usize {
        self.variable_bytes
    }

    pub fn is_empty(&self, slot: Slot) -> bool {
        let start = slot as usize * self.layout.stride;
        self.data[start..start + self.layout.bits].iter().all(|&bits| bits == 0)
    }

    pub fn clear(&mut self, slot: Slot) {
        let start = slot as usize * self.layout.stride;
        self.data[start..start + self.layout.stride].fill(0);
        for values in &mut self.variables {
            self.variable_bytes -= std::mem::take(&mut values[slot as usize]).capacity();
        }
    }

    pub fn gather(&self, state: usize, slots: &[Slot]) -> Result<ArrayRef, Fault> {
        match self.layout.parts[state] {
            Part::Variable(index) => self.gather_variable(state, &self.variables[index], slots),
            Part::Fixed { offset, .. } if self.types[state] == DataType::Boolean => {
                let value = |slot: Slot| self.data[slot as usize * self.layout.stride + offset] == 1;
                let values = BooleanBuffer::collect_bool(slots.len(), |i| value(slots[i]));
                Ok(std::sync::Arc::new(BooleanArray::new(values, self.nulls(state, slots))))
            }
            Part::Fixed { offset, width } => {
                let (values, complete) = by_width!(width, T => {
                    let (values, complete) = self.pick::<T>(state, offset, slots);
                    (Buffer::from_vec(values), complete)
                });
                let nulls = if complete { None } else { self.nulls(state, slots) };
                let data =
                    ArrayData::builder(self.types[state].clone()).len(slots.len()).add_buffer(values).nulls(nulls);
                Ok(make_array(data.build()?))
            }
        }
    }

    /// The words of a state, and whether all slots have one.
    fn pick<T: Word>(&self, state: usize, offset: usize, slots: &[Slot]) -> (Vec<T>, bool) {
        let (byte, bit) = (state / 8, 1u8 << (state % 8));
        let end = offset + size_of::<T>();
        let mut all = bit;
        let values = slots.iter().map(|&slot| {
            let row = &self.data[slot as usize * self.layout.stride..][..self.layout.stride];
            all &= row[byte];
            T::read(&row[offset..end])
        });
        let values = values.collect();
        (values, all == bit)
    }

    fn nulls(&self, state: usize, slots: &[Slot]) -> Option<NullBuffer> {
        let present = BooleanBuffer::collect_bool(slots.len(), |i| self.has(state, slots[i]));
        Some(NullBuffer::new(present)).filter(|n| n.null_count() > 0)
    }

    fn gather_variable(&self, state: usize, values: &[Vec<u8>], slots: &[Slot]) -> Result<ArrayRef, Fault> {
        let total: usize = slots.iter().map(|&s| values[s as usize].len()).sum();
        if i32::try_from(total).is_err() {
            return Err(Fault::data(format!("the state of one batch's keys takes {total} bytes, more than 2 GiB"))
                .with_help("lower batch_rows, or keep less in the state"));
        }
        let mut data = Vec::with_capacity(total);
        slots.iter().for_each(|&s| data.extend_from_slice(&values[s as usize]));
        let offsets = OffsetBuffer::<i32>::from_lengths(slots.iter().map(|&s| values[s as usize].len()));
        let builder = ArrayData::builder(self.types[state].clone()).len(slots.len()).nulls(self.nulls(state, slots));
        let builder = builder.add_buffer(offsets.into_inner().into_inner()).add_buffer(Buffer::from_vec(data));
        // Validated: bytes of a utf8 state may come from a file.
        Ok(make_array(builder.build()?))
    }

    /// Stores one value per slot; null deletes.
    pub fn scatter(&mut self, state: usize, slots: &[Slot], values: &ArrayRef) -> Result<(), Fault> {
        let data_type = &self.types[state];
        if values.data_type() != data_type || values.len() != slots.len() {
            let (given, count) = (type_name(values.data_type()), values.len());
            let (wanted, keys) = (type_name(data_type), slots.len());
            let message = format!("{count} values of type {given} for {keys} keys of a state of type {wanted}");
            return Err(Fault::internal(message));
        }
        match self.layout.parts[state] {
            Part::Variable(index) => self.scatter_variable(state, index, slots, values),
            Part::Fixed { offset, .. } if *data_type == DataType::Boolean => {
                let source = values.as_boolean().values();
                self.place(state, offset, slots, values.nulls(), |i| i8::from(source.value(i)));
            }
            Part::Fixed { offset, width } => {
                let data = values.to_data();
                by_width!(width, T => {
                    let source = &data.buffers()[0].typed_data::<T>()[data.offset()..];
                    self.place(state, offset, slots, values.nulls(), |i| source[i]);
                });
            }
        }
        Ok(())
    }

    #[inline(always)]
    fn place<T: Word>(
        &mut self,
        state: usize,
        offset: usize,
        slots: &[Slot],
        nulls: Option<&NullBuffer>,
        value: impl Fn(usize) -> T,
    ) {
        let (byte, bit, end) = (state / 8, 1u8 << (state % 8), offset + size_of::<T>());
        let stride = self.layout.stride;
        for (i, &slot) in slots.iter().enumerate() {
            let row = &mut self.data[slot as usize * stride..][..stride];
            if nulls.is_none_or(|n| n.is_valid(i)) {
                row[byte] |= bit;
                value(i).write(&mut row[offset..end]);
            } else {
                row[byte] &= !bit;
                row[offset..end].fill(0);
            }
        }
    }

    /// Writes into the buffers that the values had before; a deleted value gives its memory back.
    fn scatter_variable(&mut self, state: usize, index: usize, slots: &[Slot], values: &ArrayRef) {
        let data = values.to_data();
        let offsets = &data.buffers()[0].typed_data::<i32>()[data.offset()..];
        let bytes = data.buffers()[1].as_slice();
        for (i, &slot) in slots.iter().enumerate() {
            let value = values.is_valid(i).then(|| &bytes[offsets[i] as usize..offsets[i + 1] as usize]);
            self.set_variable(state, index, slot, value);
        }
    }

    fn set_variable(&mut self, state: usize, index: usize, slot: Slot, value: Option<&[u8]>) {
        let bits = &mut self.data[slot as usize * self.layout.stride + state / 8];
        let stored = &mut self.variables[index][slot as usize];
        self.variable_bytes -= stored.capacity();
        match value {
            Some(value) => {
                *bits |= 1 << (state % 8);
                stored.clear();
                stored.extend_from_slice(value);
            }
            None => {
                *bits &= !(1 << (state % 8));
                *stored = Vec::new();
            }
        }
        self.variable_bytes += stored.capacity();
    }

    /// A value of eight bytes, if there is one.
    pub fn word(&self, state: usize, slot: Slot) -> Option<i64> {
        let row = &self.data[slot as usize * self.layout.stride..][..self.layout.stride];
        match self.layout.parts[state] {
            Part::Fixed { offset, .. } if row[state / 8] >> (state % 8) & 1 == 1 => {
                Some(Word::read(&row[offset..offset + 8]))
            }
            _ => None,
        }
    }

    pub fn set_word(&mut self, state: usize, slot: Slot, value: i64) {
        let row = &mut self.data[slot as usize * self.layout.stride..][..self.layout.stride];
        if let Part::Fixed { offset, .. } = self.layout.parts[state] {
            row[state / 8] |= 1 << (state % 8);
            value.write(&mut row[offset..offset + 8]);
        }
    }

    /// There is no value any more.
    pub fn remove(&mut self, state: usize, slot: Slot) {
        let row = &mut self.data[slot as usize * self.layout.stride..][..self.layout.stride];
        match self.layout.parts[state] {
            Part::Fixed { offset, width } => {
                row[state / 8] &= !(1 << (state % 8));
                row[offset..offset + width].fill(0);
            }
            Part::Variable(index) => self.set_variable(state, index, slot, None),
        }
    }

    pub fn has(&self, state: usize, slot: Slot) -> bool {
        self.data[slot as usize * self.layout.stride + state / 8] >> (state % 8) & 1 == 1
    }

    /// Appends the row of a slot as it is stored, `layout` being the number of this layout.
    pub fn encode(&self, slot: Slot, layout: u8, out: &mut Vec<u8>) {
        let start = slot as usize * self.layout.stride;
        let row = &self.data[start..start + self.layout.stride];
        out.push(layout);
        out.extend_from_slice(row);
        if self.layout.variables == 0 {
            return;
        }
        for (state, part) in self.layout.parts.iter().enumerate() {
            if let Part::Variable(index) = part
                && self.has(state, slot)
            {
                let value = &self.variables[*index][slot as usize];
                out.extend_from_slice(&(value.len() as u32).to_le_bytes());
                out.extend_from_slice(value);
            }
        }
    }

    /// Fills the empty row of a slot with a stored one. `None`: it is broken.
    pub fn decode(&mut self, slot: Slot, readers: &[Reader], stored: &[u8]) -> Option<()> {
        let (&id, row) = stored.split_first()?;
        let reader = readers.get(id as usize)?;
        let stride = self.layout.stride;
        if reader.same && self.layout.variables == 0 {
            let target = &mut self.data[slot as usize * stride..][..stride];
            return (row.len() == stride).then(|| target.copy_from_slice(row));
        }
        let read = reader.values(row, |state, value| match self.layout.parts[state] {
            Part::Variable(index) => self.set_variable(state, index, slot, Some(value)),
            Part::Fixed { offset, .. } => {
                let target = &mut self.data[slot as usize * stride..][..stride];
                target[state / 8] |= 1 << (state % 8);
                // Of the same width: a state keeps its type.
                target[offset..offset + value.len()].copy_from_slice(value);
            }
        });
        for &(state, times, since) in reader.since_all() {
            if self.has(state, slot) && !self.has(times, slot) {
                self.set_word(times, slot, since);
            }
        }
        read
    }
}
