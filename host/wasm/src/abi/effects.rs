//! What a call returned, checked against the operator's descriptor and the call's input.
//!
//! Law: an index that leaves here is in range (ports, parents, keys, states, rows), and parts that
//! speak of the same rows have the same length.

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::buffer::{BooleanBuffer, Buffer, ScalarBuffer};
use arrow::datatypes::DataType;

use tidemill_model::component::{Descriptor, StateDescriptor, StateKind, StateScope};
use tidemill_model::entries::EntryUpdate;
use tidemill_model::limits::{ENTRY_KEY_BYTES_MAX, ENTRY_VALUE_BYTES_MAX, TEXT_BYTES_MAX};
use tidemill_model::logic::{RowError, RowsOut, StateUpdate, TimeDomain, TimerChange};

use super::lift::{self, Place, numbers};
use crate::bindings::exports::tidemill::operator::keyed;
use crate::bindings::tidemill::operator::types;

/// The largest `RowKind`.
const KIND_MAX: u8 = 3;

/// What an answer is checked against.
pub(crate) struct Call<'a> {
    pub(crate) descriptor: &'a Descriptor,
    /// Rows or due timers that went in.
    pub(crate) rows: usize,
    /// Distinct keys that went in.
    pub(crate) keys: usize,
    /// The rows were those of a broadcast input.
    pub(crate) broadcast: bool,
}

impl Call<'_> {
    pub(crate) fn outputs(&self, outputs: Vec<types::Output>) -> Result<Vec<RowsOut>, String> {
        let mut rows = Vec::with_capacity(outputs.len());
        for output in outputs {
            let out = self.output(output)?;
            if out.rows.num_rows() > 0 {
                rows.push(out);
            }
        }
        Ok(rows)
    }

    fn output(&self, output: types::Output) -> Result<RowsOut, String> {
        let types::Output { port, rows: batch, parents } = output;
        let Some(declared) = self.descriptor.outputs.get(usize::from(port)) else {
            let ports: Vec<String> = self.descriptor.outputs.iter().map(|p| format!("`{}`", p.name)).collect();
            return Err(format!("rows for port {port}; the operator has {} ports: {}", ports.len(), ports.join(", ")));
        };
        let (rows, place) = (batch.rows as usize, Place::Port(&declared.name));
        let parents = self.parents(rows, parents, &place)?;
        let times = per_row::<i64>(batch.times, rows, "event times", &place)?;
        let kinds = self.kinds(batch.kinds, rows, &place)?;
        let columns = lift::rows(&declared.schema, rows, batch.columns, &place)?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let rows = RecordBatch::try_new_with_options(declared.schema.clone(), columns, &options)
            .map_err(|error| format!("{place}: {error}"))?;
        Ok(RowsOut { port: usize::from(port), rows, parents, times, kinds })
    }

    fn parents(&self, rows: usize, parents: Vec<u8>, at: &Place) -> Result<Option<ScalarBuffer<u32>>, String> {
        if parents.is_empty() {
            if rows != self.rows && rows != 0 {
                let came = self.rows;
                return Err(format!(
                    "{at}: {rows} rows without parents, which stands for one per row in, but {came} came in"
                ));
            }
            return Ok(None);
        }
        let parents = per_row::<u32>(parents, rows, "parents", at)?;
        if let Some(wrong) = parents.as_ref().and_then(|p| out_of_range(p, self.rows)) {
            return Err(format!("{at}: a row comes from row {wrong}, but {} rows came in", self.rows));
        }
        Ok(parents)
    }

    fn kinds(&self, kinds: Vec<u8>, rows: usize, at: &Place) -> Result<Option<ScalarBuffer<u8>>, String> {
        let kinds = per_row::<u8>(kinds, rows, "row kinds", at)?;
        let most = kinds.as_ref().and_then(|k| k.iter().copied().max()).unwrap_or(0);
        if most > KIND_MAX {
            return Err(format!("{at}: {most} is not a row kind, they end at {KIND_MAX}"));
        }
        if most > 0 && !self.descriptor.changes {
            return Err(format!("{at}: rows that are not inserts, but the operator does not declare `changes`"));
        }
        Ok(kinds.filter(|_| most > 0))
    }

    pub(crate) fn updates(&self, updates: Vec<keyed::StateUpdate>) -> Result<Vec<StateUpdate>, String> {
        updates.into_iter().map(|update| self.update(update)).collect()
    }

    fn update(&self, update: keyed::StateUpdate) -> Result<StateUpdate, String> {
        let index = usize::from(update.state);
        let Some(state) = self.descriptor.states.get(index) else {
            return Err(format!(
                "an update of state {index}; the operator has {} states",
                self.descriptor.states.len()
            ));
        };
        let place = Place::State(&state.name);
        let call = self.for_state(state)?;
        let keys = match update.key_index {
            all if all.is_empty() => None,
            some => Some(call.keys_once(some, &place)?),
        };
        let count = keys.as_ref().map_or(call.keys, |k| k.len());
        let values = lift::values(&state.field, count, update.values, &place)?;
        Ok(StateUpdate { state: index, keys, values })
    }

    /// The call as it is for a state that may be changed in it: one that belongs to no key has one value.
    fn for_state(&self, state: &StateDescriptor) -> Result<Self, String> {
        if state.scope == StateScope::Broadcast && !self.broadcast {
            let name = &state.name;
            return Err(format!("state `{name}` is broadcast, and was changed in a call that not all workers get"));
        }
        let keys = if state.is_shared() { 1 } else { self.keys };
        Ok(Self { keys, ..*self })
    }

    pub(crate) fn entries(&self, updates: Vec<keyed::EntryUpdate>) -> Result<Vec<EntryUpdate>, String> {
        updates.into_iter().map(|update| self.entry_update(update)).collect()
    }

    fn entry_update(&self, update: keyed::EntryUpdate) -> Result<EntryUpdate, String> {
        let index = usize::from(update.state);
        let Some(state) = self.descriptor.states.get(index) else {
            let count = self.descriptor.states.len();
            return Err(format!("entries of state {index}; the operator has {count} states"));
        };
        let place = Place::State(&state.name);
        let call = self.for_state(state)?;
        let clears = call.key_index(update.clears, &place)?;
        let keys = call.key_index(update.key_index, &place)?;
        let (count, given) = (keys.len(), update.entry_keys.len());
        let mut entry_keys = update.entry_keys.into_iter();
        let entries = match (&state.kind, entry_keys.next()) {
            (StateKind::Map(entry), Some(column)) if given == 1 => Some(lift::values(entry, count, column, &place)?),
            (StateKind::Map(_), _) => return Err(format!("{place}: a map has 1 column of entry keys, not {given}")),
            (StateKind::List, None) => None,
            (StateKind::List, Some(_)) => return Err(format!("{place}: a list has no entry keys")),
            (StateKind::Value, _) => return Err(format!("{place}: a value has no entries")),
        };
        let field = state.field.clone().with_nullable(entries.is_some());
        let values = lift::values(&field, count, update.values, &place)?;
        for (what, column, most) in
            [("entry key", entries.as_ref(), ENTRY_KEY_BYTES_MAX), ("value", Some(&values), ENTRY_VALUE_BYTES_MAX)]
        {
            let longest = column.map_or(0, longest);
            if longest > most {
                return Err(format!("{place}: the {what} of an entry has {longest} bytes, at most {most} fit"));
            }
        }
        Ok(EntryUpdate { state: index, clears, keys, entries, values })
    }

    /// Key indices in range, each at most once.
    fn keys_once(&self, bytes: Vec<u8>, at: &Place) -> Result<ScalarBuffer<u32>, String> {
        let keys = self.key_index(bytes, at)?;
        // The usual case, and without memory: in order.
        if keys.windows(2).fold(true, |sorted, w| sorted & (w[0] < w[1])) {
            return Ok(keys);
        }
        let mut seen = vec![false; self.keys];
        for &key in keys.iter() {
            if std::mem::replace(&mut seen[key as usize], true) {
                return Err(format!("{at}: key {key} is updated twice"));
            }
        }
        Ok(keys)
    }

    fn key_index(&self, bytes: Vec<u8>, at: &dyn std::fmt::Display) -> Result<ScalarBuffer<u32>, String> {
        let length = bytes.len();
        let Some(keys) = numbers::<u32>(bytes, length / 4) else {
            return Err(format!("{at}: key indices have {length} bytes, no multiple of 4"));
        };
        match out_of_range(&keys, self.keys) {
            Some(wrong) => Err(format!("{at}: key {wrong}, but the call is about {} keys", self.keys)),
            None => Ok(keys),
        }
    }

    pub(crate) fn timers(&self, changes: Vec<keyed::TimerChanges>) -> Result<Vec<TimerChange>, String> {
        let mut timers = Vec::new();
        for change in changes {
            self.push_timers(change, &mut timers)?;
        }
        Ok(timers)
    }

    fn push_timers(&self, change: keyed::TimerChanges, into: &mut Vec<TimerChange>) -> Result<(), String> {
        let keys = self.key_index(change.key_index, &"timers")?;
        let (count, bytes) = (keys.len(), change.times.len());
        let Some(times) = numbers::<i64>(change.times, count) else {
            return Err(format!("timers: times have {bytes} bytes, {count} timers need {}", count * 8));
        };
        let deletes = change.deletes;
        if !deletes.is_empty() && deletes.len() != count {
            return Err(format!("timers: {} marks of deletion for {count} timers", deletes.len()));
        }
        if let Some(wrong) = deletes.iter().find(|&&d| d > 1) {
            return Err(format!("timers: {wrong} is neither 0 (set) nor 1 (delete)"));
        }
        let domain = match change.domain {
            keyed::Domain::Event => TimeDomain::Event,
            keyed::Domain::Processing => TimeDomain::Processing,
        };
        into.extend(keys.iter().zip(times.iter()).enumerate().map(|(i, (&key, &time))| TimerChange {
            key,
            domain,
            time,
            delete: deletes.get(i) == Some(&1),
        }));
        Ok(())
    }

    /// In the order of the rows, one per row.
    pub(crate) fn errors(&self, errors: Vec<types::RowError>) -> Result<Vec<RowError>, String> {
        if let Some(wrong) = errors.iter().find(|e| e.row as usize >= self.rows) {
            return Err(format!("an error of row {}, but {} rows came in", wrong.row, self.rows));
        }
        let mut errors: Vec<RowError> =
            errors.into_iter().map(|e| RowError { row: e.row, message: cut(e.message) }).collect();
        errors.sort_by_key(|e| e.row);
        errors.dedup_by_key(|e| e.row);
        Ok(errors)
    }

    /// The rows that a filter keeps: never one with an error.
    pub(crate) fn kept(&self, bitmap: Vec<u8>, errors: &[RowError]) -> Result<BooleanArray, String> {
        let (bytes, needed) = (bitmap.len(), self.rows.div_ceil(8));
        if bytes < needed {
            return Err(format!("the bitmap has {bytes} bytes, {} rows need {needed}", self.rows));
        }
        let mut bitmap = bitmap;
        for error in errors {
            bitmap[error.row as usize / 8] &= !(1 << (error.row % 8));
        }
        Ok(BooleanArray::new(BooleanBuffer::new(Buffer::from_vec(bitmap), 0, self.rows), None))
    }
}

/// A list with one number per row, or an empty one.
fn per_row<T: arrow::datatypes::ArrowNativeType>(
    bytes: Vec<u8>,
    rows: usize,
    what: &str,
    at: &Place,
) -> Result<Option<ScalarBuffer<T>>, String> {
    let length = bytes.len();
    if length == 0 {
        return Ok(None);
    }
    match numbers::<T>(bytes, rows) {
        Some(numbers) => Ok(Some(numbers)),
        None => Err(format!("{at}: {what} have {length} bytes, {rows} rows need {}", rows * size_of::<T>())),
    }
}

/// Bytes of the longest utf8 or binary value; those of other types are short.
fn longest(column: &ArrayRef) -> usize {
    let lengths = match column.data_type() {
        DataType::Utf8 => column.as_string::<i32>().offsets().lengths().max(),
        DataType::Binary => column.as_binary::<i32>().offsets().lengths().max(),
        _ => None,
    };
    lengths.unwrap_or(0)
}

fn out_of_range(indices: &[u32], count: usize) -> Option<u32> {
    // Without a branch per row: the maximum is vectorised.
    indices.iter().copied().max().filter(|&most| most as usize >= count)
}

/// Text of a guest, cut between two characters.
pub(crate) fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
    text
}
