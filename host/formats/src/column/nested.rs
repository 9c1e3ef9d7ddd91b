//! Columns of columns: lists, and records (structs, and the row itself).

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, ListArray, StructArray};
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{FieldRef, Fields};
use arrow::error::ArrowError;

use super::Column;
use super::values::Nulls;
use crate::reject::Flaw;

/// A column with its name and whether it may be null.
pub(crate) struct Slot {
    pub(crate) field: FieldRef,
    pub(crate) nullable: bool,
    pub(crate) column: Column,
}

impl Slot {
    pub(crate) fn new(field: &FieldRef) -> Result<Self, String> {
        let column = Column::new(field.data_type()).map_err(|e| format!("column `{}`: {e}", field.name()))?;
        Ok(Self { field: field.clone(), nullable: field.is_nullable(), column })
    }

    pub(crate) fn push_null(&mut self) -> Result<(), Flaw> {
        if !self.nullable {
            return Err(Flaw::null());
        }
        self.column.push_null();
        Ok(())
    }

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        self.column.finish(self.field.data_type())
    }
}

pub(crate) struct Lists {
    pub(crate) item: Slot,
    /// One more than there are rows; the first is 0.
    offsets: Vec<i32>,
    nulls: Nulls,
}

impl Lists {
    pub(crate) fn new(item: &FieldRef) -> Result<Self, String> {
        Ok(Self { item: Slot::new(item)?, offsets: vec![0], nulls: Nulls::default() })
    }

    /// Closes a list of all items appended since the last one.
    pub(crate) fn end_list(&mut self) {
        self.offsets.push(self.item.column.len() as i32);
    }

    pub(crate) fn push_null(&mut self) {
        self.nulls.push(self.len());
        self.end_list();
    }

    pub(crate) fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    pub(crate) fn truncate(&mut self, len: usize) {
        self.offsets.truncate(len + 1);
        self.item.column.truncate(*self.offsets.last().expect("there is always a first offset") as usize);
        self.nulls.truncate(len);
    }

    pub(crate) fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        let nulls = self.nulls.take(self.len());
        let offsets = OffsetBuffer::new(ScalarBuffer::from(std::mem::replace(&mut self.offsets, vec![0])));
        let items = self.item.finish()?;
        Ok(Arc::new(ListArray::try_new(self.item.field.clone(), offsets, items, nulls)?))
    }
}

/// Columns of equal length, found by name.
pub(crate) struct Record {
    pub(crate) slots: Vec<Slot>,
    names: HashMap<Vec<u8>, usize>,
    /// The keys as they are written, in the order in which they were first seen: objects in a file mostly
    /// look alike, so the key that followed last time is compared first, and names are rarely looked up.
    pub(crate) expected: Vec<ExpectedKey>,
    fields: Fields,
    nulls: Nulls,
    len: usize,
}

/// A key with its quotes and the colon behind it.
pub(crate) struct ExpectedKey {
    pub(crate) raw: Vec<u8>,
    /// `None`: a key that nobody asked for.
    pub(crate) slot: Option<usize>,
}

impl Record {
    pub(crate) fn new(fields: &Fields) -> Result<Self, String> {
        let slots = fields.iter().map(Slot::new).collect::<Result<Vec<_>, _>>()?;
        let names = fields.iter().enumerate().map(|(i, f)| (f.name().as_bytes().to_vec(), i)).collect();
        Ok(Self { slots, names, expected: Vec::new(), fields: fields.clone(), nulls: Nulls::default(), len: 0 })
    }

    pub(crate) fn find(&self, name: &[u8]) -> Option<usize> {
        self.names.get(name).copied()
    }

    /// Closes a row: every column must have got its value.
    #[inline]
    pub(crate) fn end_row(&mut self) {
        self.len += 1;
    }

    /// Null for the columns that got no value in the row that is open.
    pub(crate) fn fill_missing(&mut self) -> Result<(), Flaw> {
        for slot in self.slots.iter_mut().filter(|s| s.column.len() == self.len) {
            if !slot.nullable {
                return Err(Flaw::new("missing, but the column is declared as not null").within(slot.field.name()));
            }
            slot.column.push_null();
        }
        Ok(())
    }

    pub(crate) fn push_null(&mut self) {
        self.nulls.push(self.len);
        // Under a null struct anything may stand, so nullability of the fields does not matter.
        self.slots.iter_mut().for_each(|s| s.column.push_null());
        self.len += 1;
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Acts on columns that are no longer than `len` too: they may hold the beginning of a value.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.slots.iter_mut().for_each(|s| s.column.truncate(len));
        self.nulls.truncate(len);
        self.len = self.len.min(len);
    }

    /// Takes away what a row that failed has left behind.
    pub(crate) fn roll_back(&mut self) {
        self.truncate(self.len);
    }

    pub(crate) fn finish_columns(&mut self) -> Result<Vec<ArrayRef>, ArrowError> {
        self.len = 0;
        self.slots.iter_mut().map(Slot::finish).collect()
    }

    pub(crate) fn finish(&mut self) -> Result<StructArray, ArrowError> {
        let (len, nulls) = (self.len, self.nulls.take(self.len));
        let columns = self.finish_columns()?;
        StructArray::try_new_with_length(self.fields.clone(), columns, nulls, len)
    }
}
