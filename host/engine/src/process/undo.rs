//! What undoes changes of lists and maps: each entry as it was before it was first touched.
//!
//! Laws: an entry is noted once, before its first change; of a key whose entries all go, all are noted; after `undo` each key has the
//! entries that it had, lists in the order that they had. Entries that come back count as written at the time of the undo.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use arrow::array::{Array, ArrayRef, BinaryArray, BooleanArray};
use arrow::compute::filter;
use tidemill_model::Fault;
use tidemill_model::entries::Most;
use tidemill_model::state::{Slot, StateBackend};

/// What one scan takes of a key that is noted whole.
const NOTED_AT_ONCE: Most = Most { entries: 8192, bytes: 4 << 20 };

/// Changed entries, by state of the backend.
#[derive(Default)]
pub(super) struct EntryUndo {
    states: BTreeMap<usize, Touched>,
}

#[derive(Default)]
struct Touched {
    /// Keys of which all that they had is noted.
    whole: BTreeSet<Slot>,
    /// How many values were put at the ends of lists.
    appended: BTreeMap<Slot, u64>,
    /// Entries that are noted, or were not there.
    entries: HashSet<(Slot, Box<[u8]>)>,
    /// What they were.
    noted: Vec<Noted>,
}

struct Noted {
    slots: Vec<Slot>,
    entries: BinaryArray,
    /// Null: there was no such entry.
    values: ArrayRef,
}

impl EntryUndo {
    /// All entries of these keys are about to go.
    pub fn clears(&mut self, state: usize, slots: &[Slot], backend: &mut dyn StateBackend) -> Result<(), Fault> {
        let touched = self.states.entry(state).or_default();
        for &slot in slots {
            if !touched.whole.contains(&slot) {
                touched.note_all(state, slot, backend)?;
                touched.whole.insert(slot);
            }
        }
        Ok(())
    }

    /// These entries of a map are about to be written or deleted.
    pub fn puts(
        &mut self,
        state: usize,
        slots: &[Slot],
        entries: &BinaryArray,
        backend: &mut dyn StateBackend,
    ) -> Result<(), Fault> {
        let touched = self.states.entry(state).or_default();
        let new = |(&slot, entry): (&Slot, Option<&[u8]>)| {
            !touched.whole.contains(&slot) && touched.entries.insert((slot, entry.unwrap_or_default().into()))
        };
        let new: Vec<bool> = slots.iter().zip(entries).map(new).collect();
        let slots: Vec<Slot> = slots.iter().zip(&new).filter(|(_, new)| **new).map(|(&slot, _)| slot).collect();
        if slots.is_empty() {
            return Ok(());
        }
        let entries = chosen(entries, new);
        let values = backend.get_entries(state, &slots, &entries)?;
        touched.noted.push(Noted { slots, entries, values });
        Ok(())
    }

    /// A value is about to be put at the end of each of these lists.
    pub fn appends(&mut self, state: usize, slots: &[Slot]) {
        let touched = self.states.entry(state).or_default();
        for &slot in slots {
            if !touched.whole.contains(&slot) {
                *touched.appended.entry(slot).or_default() += 1;
            }
        }
    }

    /// What these keys have of one state is about to go over to another, which has nothing of keys that have something of the first.
    pub fn moves(
        &mut self,
        from: usize,
        to: usize,
        slots: &[Slot],
        backend: &mut dyn StateBackend,
    ) -> Result<(), Fault> {
        self.clears(from, slots, backend)?;
        self.states.entry(to).or_default().whole.extend(slots);
        Ok(())
    }

    pub fn undo(self, backend: &mut dyn StateBackend) -> Result<(), Fault> {
        for (state, touched) in self.states {
            let whole: Vec<Slot> = touched.whole.into_iter().collect();
            backend.clear_entries(state, &whole)?;
            let (longer, counts): (Vec<Slot>, Vec<u64>) = touched.appended.into_iter().unzip();
            if !longer.is_empty() {
                backend.truncate_entries(state, &longer, &counts)?;
            }
            for Noted { slots, entries, values } in &touched.noted {
                backend.put_entries(state, slots, entries, values)?;
            }
        }
        Ok(())
    }
}

impl Touched {
    fn note_all(&mut self, state: usize, slot: Slot, backend: &mut dyn StateBackend) -> Result<(), Fault> {
        if let Some(count) = self.appended.remove(&slot) {
            // They go now, so nobody misses them; what was there before them is left.
            backend.truncate_entries(state, &[slot], &[count])?;
        }
        let mut after: Option<Vec<u8>> = None;
        loop {
            let found = backend.scan_entries(state, slot, after.as_deref(), NOTED_AT_ONCE)?;
            after = found.entries.iter().next_back().flatten().map(<[u8]>::to_vec);
            let is_new = |entry: Option<&[u8]>| !self.entries.contains(&(slot, entry.unwrap_or_default().into()));
            let new: Vec<bool> = found.entries.iter().map(is_new).collect();
            let values = filter(&found.values, &BooleanArray::from(new.clone()))?;
            let entries = chosen(&found.entries, new);
            self.noted.push(Noted { slots: vec![slot; entries.len()], entries, values });
            if !found.more {
                return Ok(());
            }
        }
    }
}

fn chosen(entries: &BinaryArray, which: Vec<bool>) -> BinaryArray {
    entries.iter().zip(which).filter(|(_, which)| *which).map(|(entry, _)| entry).collect()
}
