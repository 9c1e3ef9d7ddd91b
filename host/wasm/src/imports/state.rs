//! `tidemill:operator/state`: lists and maps, for as long as a keyed call takes.
//!
//! Law: what the guest asks is checked like what it returns; a question that makes no sense is a trap, and so is one at any other time.

use std::ptr::NonNull;
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Field};
use tidemill_model::component::{Descriptor, StateKind};
use tidemill_model::entries::EntryReads;

use crate::abi::lift::{self, Place, numbers};
use crate::abi::lower::Lowered;
use crate::bindings::tidemill::operator::state::{Entries, Host};
use crate::bindings::tidemill::operator::types::ColumnResult;
use crate::sandbox::GuestState;

/// What can be read, while a call takes.
#[derive(Default)]
pub(crate) struct Reading(Option<Open>);

struct Open {
    descriptor: Arc<Descriptor>,
    reads: NonNull<dyn EntryReads>,
}

// SAFETY: there is a pointer during a call only, and nobody moves a logic while it is called.
unsafe impl Send for Open {}

impl Reading {
    /// Opens what a call may read. To be closed before `reads` is used by anybody else.
    pub(crate) fn open(&mut self, descriptor: &Arc<Descriptor>, reads: &mut dyn EntryReads) {
        // SAFETY: only the lifetime is forgotten. `close` is called before the borrow ends, and nobody else has the pointer.
        let reads =
            unsafe { std::mem::transmute::<NonNull<dyn EntryReads + '_>, NonNull<dyn EntryReads>>(reads.into()) };
        self.0 = Some(Open { descriptor: descriptor.clone(), reads });
    }

    pub(crate) fn close(&mut self) {
        self.0 = None;
    }

    fn ask(&mut self, state: u16) -> Result<Question<'_>, String> {
        let Some(open) = &mut self.0 else { return Err("only a keyed call can read lists and maps".to_owned()) };
        let index = usize::from(state);
        let Some(described) = open.descriptor.states.get(index) else {
            return Err(format!("there is no state {state}; the operator has {}", open.descriptor.states.len()));
        };
        let entry = match &described.kind {
            StateKind::Value => return Err(format!("state `{}` is a value, which has no entries", described.name)),
            StateKind::List => Field::new("place", DataType::UInt64, false),
            StateKind::Map(entry) => entry.clone(),
        };
        // SAFETY: see `open`; `self` is borrowed as long as what comes back, so there is no other reference.
        let reads = unsafe { open.reads.as_mut() };
        Ok(Question { index, name: &described.name, entry, value: &described.field, reads })
    }
}

/// A question about one state.
struct Question<'a> {
    index: usize,
    name: &'a str,
    /// Type of the entry keys.
    entry: Field,
    value: &'a Field,
    reads: &'a mut dyn EntryReads,
}

impl Question<'_> {
    fn keys(&self, bytes: Vec<u8>) -> Result<arrow::buffer::ScalarBuffer<u32>, String> {
        let length = bytes.len();
        let keys = numbers::<u32>(bytes, length / 4);
        keys.ok_or_else(|| format!("state `{}`: key indices have {length} bytes, no multiple of 4", self.name))
    }

    fn entries(&self, entries: ColumnResult, count: usize, nullable: bool) -> Result<ArrayRef, String> {
        let field = self.entry.clone().with_nullable(nullable);
        lift::values(&field, count, entries, &Place::State(self.name))
    }

    fn get_many(self, keys: Vec<u8>, entries: ColumnResult) -> Result<ColumnResult, String> {
        let keys = self.keys(keys)?;
        let entries = self.entries(entries, keys.len(), false)?;
        let values = self.reads.get_many(self.index, &keys, &entries)?;
        column(self.value, &values)
    }

    fn scan(self, keys: Vec<u8>, after: Option<ColumnResult>, limit: u32) -> Result<Entries, String> {
        let keys = self.keys(keys)?;
        let after = after.map(|after| self.entries(after, keys.len(), true)).transpose()?;
        let found = self.reads.scan(self.index, &keys, after.as_ref(), limit as usize)?;
        Ok(Entries {
            index: found.index.inner().as_slice().to_vec(),
            entry_keys: column(&self.entry, &found.entries)?,
            values: column(self.value, &found.values)?,
            more: found.more,
        })
    }
}

/// A column as it crosses. An answer is owned, so its buffers are copied.
fn column(field: &Field, array: &ArrayRef) -> Result<ColumnResult, String> {
    let mut lowered = Lowered::default();
    lowered.column(field, array)?;
    let columns = lowered.columns();
    let [column] = &columns[..] else { return Err("an entry has one column".to_owned()) };
    Ok(ColumnResult {
        validity: column.validity.to_vec(),
        offsets: column.offsets.to_vec(),
        data: column.data.to_vec(),
    })
}

impl Host for GuestState {
    fn get_many(&mut self, state: u16, keys: Vec<u8>, entries: ColumnResult) -> wasmtime::Result<ColumnResult> {
        let answer = self.reading.ask(state).and_then(|question| question.get_many(keys, entries));
        answer.map_err(wasmtime::Error::msg)
    }

    fn scan(
        &mut self,
        state: u16,
        keys: Vec<u8>,
        after: Option<ColumnResult>,
        limit: u32,
    ) -> wasmtime::Result<Entries> {
        let answer = self.reading.ask(state).and_then(|question| question.scan(keys, after, limit));
        answer.map_err(wasmtime::Error::msg)
    }
}
