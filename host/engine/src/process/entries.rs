//! Lists and maps of a keyed operator: what a call may read of them, and what it has changed.
//!
//! Laws: a call reads what was there before it; entry keys go to the backend as bytes in the Arrow row encoding, which keeps
//! their order; an answer is bounded, whatever is asked for.

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, UInt64Array, new_empty_array};
use arrow::compute::concat;
use arrow::datatypes::UInt64Type;
use arrow::row::{RowConverter, SortField};
use tidemill_model::Fault;
use tidemill_model::component::{StateDescriptor, StateKind};
use tidemill_model::entries::{EntryReads, EntryRows, EntryUpdate, Most, Scanned, list_entry, list_place};
use tidemill_model::limits::{SCAN_BYTES_MAX, SCAN_ENTRIES_MAX};
use tidemill_model::state::{Slot, StateBackend};

use super::undo::EntryUndo;

/// How entry keys of each state become bytes.
pub(super) struct EntryKeys {
    states: Vec<Kind>,
}

enum Kind {
    Value,
    List,
    Map(RowConverter),
}

impl EntryKeys {
    pub fn new(states: &[StateDescriptor]) -> Result<Self, Fault> {
        let kind = |state: &StateDescriptor| match &state.kind {
            StateKind::Value => Ok(Kind::Value),
            StateKind::List => Ok(Kind::List),
            StateKind::Map(entry) => {
                let converter = RowConverter::new(vec![SortField::new(entry.data_type().clone())]);
                Ok(Kind::Map(converter?))
            }
        };
        Ok(Self { states: states.iter().map(kind).collect::<Result<_, Fault>>()? })
    }

    /// `Err`: what is wrong with the entry keys.
    fn encode(&self, state: usize, entries: &ArrayRef) -> Result<BinaryArray, String> {
        if entries.null_count() > 0 {
            return Err("an entry key is null".to_owned());
        }
        match &self.states[state] {
            Kind::Value => Err(format!("state {state} has no entries")),
            Kind::List => {
                let Some(places) = entries.as_primitive_opt::<UInt64Type>() else {
                    return Err(format!("places of a list are uint64, not {}", entries.data_type()));
                };
                Ok(BinaryArray::from_iter_values(places.values().iter().map(|&place| list_entry(place))))
            }
            Kind::Map(converter) => {
                let rows = converter.convert_columns(std::slice::from_ref(entries)).map_err(|e| e.to_string())?;
                rows.try_into_binary().map_err(|e| e.to_string())
            }
        }
    }

    fn decode(&self, state: usize, entries: &BinaryArray) -> Result<ArrayRef, Fault> {
        let broken = || Fault::data("a list has a broken entry").with_help("restore the last checkpoint");
        let keys = || entries.iter().map(Option::unwrap_or_default);
        match &self.states[state] {
            Kind::Map(converter) => {
                let parser = converter.parser();
                let mut columns = converter.convert_rows(keys().map(|key| parser.parse(key)))?;
                columns.pop().ok_or_else(broken)
            }
            Kind::Value | Kind::List => {
                let places: Option<UInt64Array> = keys().map(|key| list_place(key).map(Some)).collect();
                Ok(std::sync::Arc::new(places.ok_or_else(broken)?))
            }
        }
    }

    /// Stores what a call has changed; what would undo it is noted in `undo`. `Err` of the inner result: what is malformed.
    pub fn store(
        &self,
        update: &EntryUpdate,
        slots: &[Slot],
        backend: &mut dyn StateBackend,
        mut undo: Option<&mut EntryUndo>,
    ) -> Result<Result<(), String>, Fault> {
        let pick = |keys: &[u32]| keys.iter().map(|&key| slots.get(key as usize).copied()).collect::<Option<Vec<_>>>();
        let (Some(cleared), Some(changed)) = (pick(&update.clears), pick(&update.keys)) else {
            return Ok(Err(format!("an entry for a key beyond the {} of the call", slots.len())));
        };
        if changed.len() != update.values.len() {
            return Ok(Err(format!("{} values for {} entries", update.values.len(), changed.len())));
        }
        match (self.states.get(update.state), &update.entries) {
            (Some(Kind::List), None) if update.values.null_count() > 0 => Ok(Err("a null for a list".to_owned())),
            (Some(Kind::List), None) => {
                if let Some(undo) = &mut undo {
                    undo.clears(update.state, &cleared, backend)?;
                    undo.appends(update.state, &changed);
                }
                backend.clear_entries(update.state, &cleared)?;
                backend.append_entries(update.state, &changed, &update.values).map(Ok)
            }
            (Some(Kind::Map(_)), Some(entries)) if entries.len() == changed.len() => {
                let entries = match self.encode(update.state, entries) {
                    Ok(entries) => entries,
                    Err(wrong) => return Ok(Err(wrong)),
                };
                if let Some(undo) = &mut undo {
                    undo.clears(update.state, &cleared, backend)?;
                    undo.puts(update.state, &changed, &entries, backend)?;
                }
                backend.clear_entries(update.state, &cleared)?;
                backend.put_entries(update.state, &changed, &entries, &update.values).map(Ok)
            }
            _ => Ok(Err(format!("entries that state {} can't have", update.state))),
        }
    }
}

/// Reads of one call.
pub(super) struct Reads<'a> {
    pub backend: &'a mut dyn StateBackend,
    pub states: &'a [StateDescriptor],
    pub keys: &'a EntryKeys,
    /// The keys of the call.
    pub slots: &'a [Slot],
    /// The backend could not answer: whatever the logic has made of that does not count.
    pub failed: Option<Fault>,
}

impl Reads<'_> {
    fn check(&self, state: usize, keys: &[u32]) -> Result<(), String> {
        match self.keys.states.get(state) {
            None => return Err(format!("there is no state {state}")),
            Some(Kind::Value) => return Err(format!("state `{}` has no entries", self.states[state].name)),
            Some(Kind::List | Kind::Map(_)) => {}
        }
        match keys.iter().find(|&&key| key as usize >= self.slots.len()) {
            Some(wrong) => Err(format!("key {wrong}, but the call is about {} keys", self.slots.len())),
            None => Ok(()),
        }
    }

    /// The answer of the backend.
    fn answer<T>(&mut self, answer: Result<T, Fault>) -> Result<T, String> {
        answer.map_err(|fault| {
            let text = fault.to_string();
            self.failed = Some(fault);
            text
        })
    }

    fn scan_all(
        &mut self,
        state: usize,
        keys: &[u32],
        after: Option<&BinaryArray>,
        limit: usize,
    ) -> Result<EntryRows, Fault> {
        let (mut index, mut entries, mut values, mut more) = (Vec::new(), Vec::new(), Vec::new(), false);
        let mut room = Most { entries: SCAN_ENTRIES_MAX, bytes: SCAN_BYTES_MAX };
        for (place, &key) in keys.iter().enumerate() {
            let most = Most { entries: limit.min(room.entries), bytes: room.bytes };
            let after = after.filter(|after| after.is_valid(place)).map(|after| after.value(place));
            let found = self.backend.scan_entries(state, self.slots[key as usize], after, most)?;
            let Scanned { entries: some, values: own, more: cut } = found;
            index.extend(std::iter::repeat_n(place as u32, some.len()));
            room.entries -= some.len().min(room.entries);
            room.bytes = room.bytes.saturating_sub(some.value_data().len() + own.get_buffer_memory_size());
            let is_short = cut && some.len() < limit;
            entries.push(self.keys.decode(state, &some)?);
            values.push(own);
            if is_short || room.entries == 0 || room.bytes == 0 {
                more = is_short || place + 1 < keys.len() || cut;
                break;
            }
        }
        let join = |parts: &[ArrayRef], empty: ArrayRef| match parts {
            [] => Ok(empty),
            [one] => Ok(one.clone()),
            many => concat(&many.iter().map(|part| part.as_ref()).collect::<Vec<_>>()),
        };
        let no_entries = self.keys.decode(state, &BinaryArray::from_iter_values(std::iter::empty::<&[u8]>()))?;
        let no_values = new_empty_array(self.states[state].field.data_type());
        let (entries, values) = (join(&entries, no_entries)?, join(&values, no_values)?);
        Ok(EntryRows { index: index.into(), entries, values, more })
    }
}

impl EntryReads for Reads<'_> {
    fn get_many(&mut self, state: usize, keys: &[u32], entries: &ArrayRef) -> Result<ArrayRef, String> {
        self.check(state, keys)?;
        if keys.len() != entries.len() {
            return Err(format!("{} entry keys for {} keys", entries.len(), keys.len()));
        }
        let entries = self.keys.encode(state, entries)?;
        let slots: Vec<Slot> = keys.iter().map(|&key| self.slots[key as usize]).collect();
        let found = self.backend.get_entries(state, &slots, &entries);
        self.answer(found)
    }

    fn scan(
        &mut self,
        state: usize,
        keys: &[u32],
        after: Option<&ArrayRef>,
        limit: usize,
    ) -> Result<EntryRows, String> {
        self.check(state, keys)?;
        let after = match after {
            Some(after) if after.len() != keys.len() => {
                return Err(format!("{} entry keys to go on behind for {} keys", after.len(), keys.len()));
            }
            Some(after) => Some(self.behind(state, after)?),
            None => None,
        };
        let found = self.scan_all(state, keys, after.as_ref(), limit.max(1));
        self.answer(found)
    }
}

impl Reads<'_> {
    /// Entry keys of which some may be null.
    fn behind(&self, state: usize, after: &ArrayRef) -> Result<BinaryArray, String> {
        let valid = (0..after.len()).filter(|&i| after.is_valid(i));
        let places: arrow::array::UInt32Array = valid.map(|i| i as u32).collect::<Vec<_>>().into();
        let some = arrow::compute::take(after, &places, None).map_err(|e| e.to_string())?;
        let encoded = self.keys.encode(state, &some)?;
        let mut encoded = encoded.iter();
        let next = |i: usize| if after.is_valid(i) { encoded.next().flatten() } else { None };
        Ok((0..after.len()).map(next).collect())
    }
}
