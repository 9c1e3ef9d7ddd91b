//! Times to live: a state with one has a second, hidden column in the rows, which says when its value was written.
//!
//! So switching it on and off is a change of layouts like any other. Laws: where there is no value there is no time; a value without
//! a time (of a program that kept none) counts as written at the `since` of its database, one with the time
//! [`UNKNOWN`](crate::clock::UNKNOWN), which left memory in the first tick, when the clock of this run was first set.

use arrow::datatypes::DataType;
use tidemill_model::component::{StateDescriptor, StateKind, Ttl};
use tidemill_model::state::Slot;

use super::cache::Cache;
use super::layout::Reader;
use crate::clock::Clock;

/// Behind the name of a state: its times. No name that a component may give has a tab.
const SUFFIX: &str = "\twritten";

/// The columns of rows: the states, and behind them the times of those that have a time to live.
pub(super) fn columns(states: &[StateDescriptor]) -> Vec<StateDescriptor> {
    let timed = states.iter().filter(|state| state.ttl.is_some());
    let times = timed.map(|state| StateDescriptor {
        version: state.version,
        ..StateDescriptor::value(&format!("{}{SUFFIX}", state.name), DataType::Int64)
    });
    states.iter().cloned().chain(times).collect()
}

/// The state whose times a column holds.
pub(super) fn timed(column: &str) -> Option<&str> {
    column.strip_suffix(SUFFIX)
}

/// A state with a time to live.
#[derive(Clone, Copy, Debug)]
pub(super) struct Life {
    pub state: usize,
    /// Column of its times.
    pub times: usize,
    pub ttl: Ttl,
    /// It is a list or map.
    pub has_entries: bool,
}

/// In the order of states.
pub(super) fn lives(states: &[StateDescriptor]) -> Vec<Life> {
    let timed = states.iter().enumerate().filter_map(|(state, descriptor)| Some((state, descriptor.ttl?)));
    let has_entries = |state: usize| states[state].kind != StateKind::Value;
    let life = |(n, (state, ttl))| Life { state, times: states.len() + n, ttl, has_entries: has_entries(state) };
    timed.enumerate().map(life).collect()
}

impl Life {
    /// Removes what has expired. Calls `gone` with its slots.
    pub fn expire(&self, cache: &mut Cache, slots: &[Slot], clock: &Clock, mut gone: impl FnMut(Slot)) {
        for &slot in slots {
            let Some(written) = cache.rows.word(self.times, slot) else { continue };
            if clock.is_expired(written, self.ttl) {
                cache.rows.remove(self.state, slot);
                cache.rows.remove(self.times, slot);
                cache.set_dirty(slot);
                gone(slot);
            }
        }
    }

    /// Notes when the values of these slots were written, as far as they have any.
    pub fn write(&self, cache: &mut Cache, slots: &[Slot], stamp: i64) {
        for &slot in slots {
            let before = cache.rows.word(self.times, slot);
            if !cache.rows.has(self.state, slot) {
                cache.rows.remove(self.times, slot);
            } else if before != Some(stamp) {
                cache.rows.set_word(self.times, slot, stamp);
                cache.set_dirty(slot);
            }
        }
    }

    /// Whether a stored row has a value of this state that has expired. A broken row has none.
    pub fn has_expired(&self, reader: &Reader, row: &[u8], clock: &Clock) -> bool {
        let (mut present, mut written) = (false, reader.since(self.times));
        let read = reader.values(row, |column, bytes| {
            present |= column == self.state;
            if column == self.times {
                written = bytes.try_into().ok().map(i64::from_le_bytes);
            }
        });
        read.is_some() && present && written.is_some_and(|written| clock.is_expired(written, self.ttl))
    }
}
