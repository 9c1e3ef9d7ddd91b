//! The column of one state during a call: values by key, which of them changed, and how to undo the last row.

use super::codec::Layout;
use crate::error::contract;
use crate::native::{Column, OpError, StateUpdate};
use crate::types::{bit, bitmap, words};

/// Values of one state for the keys of a call. Fixed-width values are changed in place; values of
/// variable length are appended, and their key's span is moved.
#[derive(Debug)]
pub struct Store {
    layout: Layout,
    keys: usize,
    /// Bitmap over the keys; empty = all have a value.
    validity: Vec<u8>,
    data: Vec<u8>,
    /// Layout `Bytes`: start and end in `data`.
    spans: Vec<(u32, u32)>,
    /// One byte per key: written in this call.
    dirty: Vec<u8>,
    dirty_keys: usize,
}

/// A value before the row in progress touched it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Undo {
    valid: bool,
    dirty: bool,
    /// The bits of a value of fixed width (or a bool).
    bits: u64,
    span: (u32, u32),
}

impl Store {
    pub fn new(layout: Layout) -> Self {
        let (validity, data, spans, dirty) = Default::default();
        Self { layout, keys: 0, validity, data, spans, dirty, dirty_keys: 0 }
    }

    /// Takes the host's column, which must hold a value or a null for each of `keys` keys.
    pub fn load(&mut self, column: Column, keys: usize) -> Result<(), OpError> {
        if !column.validity.is_empty() {
            bitmap(&column.validity, keys)?;
        }
        match self.layout {
            Layout::Bool => drop(bitmap(&column.data, keys)?),
            Layout::Fixed(width) if column.data.len() < keys * width => {
                return Err(contract(format_args!("a state has {} bytes for {keys} keys", column.data.len())));
            }
            Layout::Fixed(_) => {}
            Layout::Bytes => self.load_spans(&column, keys)?,
        }
        self.keys = keys;
        self.validity = column.validity;
        self.data = column.data;
        self.dirty.clear();
        self.dirty.resize(keys, 0);
        self.dirty_keys = 0;
        if keys == 0 {
            self.load_nobody();
        }
        Ok(())
    }

    /// The rows of the call have no key: whoever asks nevertheless finds no value, and what he writes leads to an error.
    fn load_nobody(&mut self) {
        (self.validity, self.data, self.dirty) = (vec![0], vec![0; size_of::<u64>()], vec![0]);
        self.spans = vec![(0, 0)];
    }

    /// Whether the rows of the call have no key.
    #[inline(always)]
    pub fn is_nobodys(&self) -> bool {
        self.keys == 0
    }

    fn load_spans(&mut self, column: &Column, keys: usize) -> Result<(), OpError> {
        self.spans.clear();
        if keys == 0 {
            return Ok(());
        }
        let offsets = words::<4>(&column.offsets, keys + 1)?;
        let mut start = u32::from_le_bytes(offsets[0]);
        for offset in &offsets[1..] {
            let end = u32::from_le_bytes(*offset);
            if start > end || end as usize > column.data.len() {
                return Err(contract("offsets of a state are out of order"));
            }
            self.spans.push((start, end));
            start = end;
        }
        Ok(())
    }

    #[inline(always)]
    pub fn is_valid(&self, key: usize) -> bool {
        self.validity.is_empty() || bit(&self.validity, key)
    }

    #[inline(always)]
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// For values of fixed width, between `touch` calls.
    #[inline(always)]
    pub fn data_mut(&mut self) -> &mut [u8] {
        &mut self.data
    }

    pub fn bool(&self, key: usize) -> bool {
        bit(&self.data, key)
    }

    pub fn set_bool(&mut self, key: usize, value: bool) {
        put_bit(&mut self.data, key, value);
    }

    pub fn bytes(&self, key: usize) -> &[u8] {
        let (start, end) = self.spans[key];
        &self.data[start as usize..end as usize]
    }

    /// Appends a value with `write` and moves the key's span to it.
    pub fn set_bytes<E>(&mut self, key: usize, write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<(), E> {
        let start = self.data.len();
        write(&mut self.data)?;
        self.spans[key] = (start as u32, self.data.len() as u32);
        Ok(())
    }

    /// A value is there (or not), and the key is written.
    #[inline(always)]
    pub fn mark(&mut self, key: usize, valid: bool) {
        if !self.validity.is_empty() {
            put_bit(&mut self.validity, key, valid);
        } else if !valid {
            self.validity = vec![0xff; self.keys.div_ceil(8)];
            put_bit(&mut self.validity, key, false);
        }
        self.dirty_keys += (self.dirty[key] == 0) as usize;
        self.dirty[key] = 1;
    }

    /// `layout` is the store's own, given by the caller as a constant.
    #[inline(always)]
    pub fn save(&self, key: usize, layout: Layout) -> Undo {
        let (bits, span) = match layout {
            Layout::Bool => (self.bool(key) as u64, (0, 0)),
            Layout::Fixed(1) => (self.data[key] as u64, (0, 0)),
            Layout::Fixed(2) => (u16::from_le_bytes(self.data.as_chunks().0[key]) as u64, (0, 0)),
            Layout::Fixed(4) => (u32::from_le_bytes(self.data.as_chunks().0[key]) as u64, (0, 0)),
            Layout::Fixed(_) => (u64::from_le_bytes(self.data.as_chunks().0[key]), (0, 0)),
            Layout::Bytes => (0, self.spans[key]),
        };
        Undo { valid: self.is_valid(key), dirty: self.dirty[key] == 1, bits, span }
    }

    pub fn restore(&mut self, key: usize, undo: Undo) {
        self.mark(key, undo.valid);
        if !undo.dirty {
            self.dirty[key] = 0;
            self.dirty_keys -= 1;
        }
        match self.layout {
            Layout::Bool => self.set_bool(key, undo.bits == 1),
            Layout::Fixed(width) => {
                self.data[key * width..][..width].copy_from_slice(&undo.bits.to_le_bytes()[..width]);
            }
            Layout::Bytes => self.spans[key] = undo.span,
        }
    }

    /// What was written since `load`, and forgets all.
    pub fn finish(&mut self, state: u16) -> Option<StateUpdate> {
        if self.dirty_keys == 0 {
            return None;
        }
        if self.dirty_keys == self.keys && self.layout != Layout::Bytes {
            let values = Column {
                validity: std::mem::take(&mut self.validity),
                offsets: Vec::new(),
                data: std::mem::take(&mut self.data),
            };
            return Some(StateUpdate { state, key_index: Vec::new(), values });
        }
        let keys: Vec<usize> = (0..self.keys).filter(|&key| self.dirty[key] == 1).collect();
        let all = keys.len() == self.keys;
        let key_index = if all { Vec::new() } else { keys.iter().flat_map(|&k| (k as u32).to_le_bytes()).collect() };
        Some(StateUpdate { state, key_index, values: self.gather(&keys) })
    }

    fn gather(&self, keys: &[usize]) -> Column {
        let mut column = Column::default();
        if !self.validity.is_empty() {
            column.validity = bits(keys, |key| bit(&self.validity, key));
        }
        match self.layout {
            Layout::Bool => column.data = bits(keys, |key| self.bool(key)),
            Layout::Fixed(width) => {
                column.data.reserve_exact(keys.len() * width);
                keys.iter().for_each(|key| column.data.extend_from_slice(&self.data[key * width..][..width]));
            }
            Layout::Bytes => {
                column.offsets.reserve_exact((keys.len() + 1) * 4);
                column.offsets.extend_from_slice(&[0; 4]);
                for &key in keys {
                    if self.is_valid(key) {
                        column.data.extend_from_slice(self.bytes(key));
                    }
                    column.offsets.extend_from_slice(&(column.data.len() as u32).to_le_bytes());
                }
            }
        }
        column
    }
}

fn bits(keys: &[usize], get: impl Fn(usize) -> bool) -> Vec<u8> {
    let mut bits = crate::types::Bits::default();
    keys.iter().for_each(|&key| bits.push(get(key)));
    bits.take()
}

#[inline(always)]
fn put_bit(bitmap: &mut [u8], index: usize, value: bool) {
    let mask = 1 << (index & 7);
    let byte = &mut bitmap[index >> 3];
    *byte = if value { *byte | mask } else { *byte & !mask };
}
