//! Columns under construction.
//!
//! Law: all columns of a port grow together; `truncate` takes back the rows of an operator that
//! failed, as if they had never been written.

use crate::native::{Column, Field};

/// A bitmap under construction, least significant bit first.
#[derive(Clone, Debug, Default)]
pub struct Bits {
    bytes: Vec<u8>,
    len: usize,
}

impl Bits {
    #[inline(always)]
    pub fn push(&mut self, bit: bool) {
        let at = self.len & 7;
        if at == 0 {
            self.bytes.push(bit as u8);
        } else if let Some(last) = self.bytes.last_mut() {
            *last |= (bit as u8) << at;
        }
        self.len += 1;
    }

    pub fn truncate(&mut self, len: usize) {
        if len >= self.len {
            return;
        }
        self.len = len;
        self.bytes.truncate(len.div_ceil(8));
        if let (Some(last), 1..) = (self.bytes.last_mut(), len & 7) {
            *last &= (1 << (len & 7)) - 1;
        }
    }

    pub fn take(&mut self) -> Vec<u8> {
        self.len = 0;
        std::mem::take(&mut self.bytes)
    }
}

/// What the buffers of a column hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    Bits,
    Fixed(usize),
    Bytes,
    List,
    Struct(usize),
}

impl Layout {
    fn of(field: &Field) -> Self {
        match field.type_name.as_str() {
            "bool" => Layout::Bits,
            "int8" | "uint8" => Layout::Fixed(1),
            "int16" | "uint16" => Layout::Fixed(2),
            "int32" | "uint32" | "float32" | "date" => Layout::Fixed(4),
            "utf8" | "binary" => Layout::Bytes,
            "list" => Layout::List,
            "struct" => Layout::Struct(field.children as usize),
            name if name.starts_with("decimal128") => Layout::Fixed(16),
            _ => Layout::Fixed(8),
        }
    }

    fn has_offsets(self) -> bool {
        matches!(self, Layout::Bytes | Layout::List)
    }
}

/// One column under construction. Which methods fit follows from its type.
#[derive(Clone, Debug)]
pub struct ColumnBuilder {
    layout: Layout,
    validity: Bits,
    nulls: bool,
    offsets: Vec<u8>,
    data: Vec<u8>,
    bits: Bits,
}

impl ColumnBuilder {
    fn new(field: &Field) -> Self {
        Self {
            layout: Layout::of(field),
            validity: Bits::default(),
            nulls: false,
            offsets: Vec::new(),
            data: Vec::new(),
            bits: Bits::default(),
        }
    }

    /// One builder per field, ready for `reserve`.
    pub fn for_fields(fields: &[Field]) -> Vec<Self> {
        fields.iter().map(Self::new).collect()
    }

    /// Makes an empty builder ready for about `rows` rows.
    pub fn start(&mut self, rows: usize) {
        if let Layout::Fixed(width) = self.layout {
            self.data.reserve_exact(rows * width);
        }
        if self.layout.has_offsets() {
            self.offsets.reserve_exact((rows + 1) * 4);
            self.offsets.extend_from_slice(&[0; 4]);
        }
    }

    /// Appends a value of fixed width.
    #[inline(always)]
    pub fn push_fixed<const N: usize>(&mut self, value: [u8; N]) {
        self.data.extend_from_slice(&value);
    }

    #[inline(always)]
    pub fn push_bool(&mut self, value: bool) {
        self.bits.push(value);
    }

    #[inline(always)]
    pub fn push_bytes(&mut self, value: &[u8]) {
        self.data.extend_from_slice(value);
        self.offsets.extend_from_slice(&(self.data.len() as u32).to_le_bytes());
    }

    /// Ends a list (or a binary value) of `items` items, which go to the column of the items.
    #[inline(always)]
    pub fn push_items(&mut self, items: usize) {
        let end = last_offset(&self.offsets) + items;
        self.offsets.extend_from_slice(&(end as u32).to_le_bytes());
    }

    /// Appends many bytes to the data of a binary value or a column of bytes.
    pub fn extend_data(&mut self, bytes: &[u8]) {
        self.data.extend_from_slice(bytes);
    }

    /// Nullable columns: whether the value that follows is one.
    #[inline(always)]
    pub fn push_valid(&mut self, valid: bool) {
        self.validity.push(valid);
        self.nulls |= !valid;
    }

    /// The column, leaving an empty builder that has to be started again.
    pub fn finish(&mut self) -> Column {
        let validity = self.validity.take();
        let validity = if std::mem::take(&mut self.nulls) { validity } else { Vec::new() };
        let data = if self.layout == Layout::Bits { self.bits.take() } else { std::mem::take(&mut self.data) };
        Column { validity, offsets: std::mem::take(&mut self.offsets), data }
    }
}

/// Cuts the first of `columns` and its children to `rows` rows; returns the columns behind them.
pub fn truncate(columns: &mut [ColumnBuilder], rows: usize) -> &mut [ColumnBuilder] {
    let [own, rest @ ..] = columns else { return &mut [] };
    let mut rest = rest;
    own.validity.truncate(rows);
    match own.layout {
        Layout::Bits => own.bits.truncate(rows),
        Layout::Fixed(width) => own.data.truncate(rows * width),
        Layout::Bytes => {
            own.offsets.truncate((rows + 1) * 4);
            own.data.truncate(last_offset(&own.offsets));
        }
        Layout::List => {
            own.offsets.truncate((rows + 1) * 4);
            rest = truncate(rest, last_offset(&own.offsets));
        }
        Layout::Struct(children) => {
            for _ in 0..children {
                rest = truncate(rest, rows);
            }
        }
    }
    rest
}

fn last_offset(offsets: &[u8]) -> usize {
    offsets.last_chunk::<4>().map_or(0, |last| u32::from_le_bytes(*last) as usize)
}
