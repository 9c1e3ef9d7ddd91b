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

/// How fast stored rows are looked at, to find those that nobody asks for: all of them several times in a life.
#[derive(Default)]
pub(super) struct Pace {
    last: Option<i64>,
    /// Rows times ms.
    credit: u64,
}

/// Times that all rows are looked at while a value lives.
const ROUNDS: u64 = 4;
/// Rows at a time: fewer are not worth a seek, more would hold the worker up for milliseconds.
const ROWS_MIN: u64 = 64;
const ROWS_MAX: u64 = 1024;

impl Pace {
    /// The rows to look at now, of so many.
    pub fn rows(&mut self, now: i64, stored: u64, ttl_ms: u64) -> usize {
        let elapsed = now.saturating_sub(self.last.replace(now).unwrap_or(now)).max(0) as u64;
        self.credit = self.credit.saturating_add(stored.saturating_mul(ROUNDS).saturating_mul(elapsed));
        let rows = (self.credit / ttl_ms.max(1)).min(ROWS_MAX);
        if rows < ROWS_MIN.min(stored.max(1)) {
            return 0;
        }
        // What was missed is not made up for.
        self.credit = 0;
        rows as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_rows_are_seen_within_a_life_at_an_even_pace() {
        for (stored, ttl_ms, tick_ms) in [(100_000u64, 60_000u64, 10), (1_000, 60_000, 10), (3, 1_000, 100)] {
            let (mut pace, mut seen, mut most) = (Pace::default(), 0, 0);
            for tick in 0..=ttl_ms / tick_ms {
                let rows = pace.rows((tick * tick_ms) as i64, stored, ttl_ms) as u64;
                (seen, most) = (seen + rows, most.max(rows));
            }
            assert!(seen >= stored && seen <= stored * ROUNDS + ROWS_MIN, "{seen} of {stored}");
            assert!(most <= 2 * ROWS_MIN, "{most} at a time");
        }
        let mut pace = Pace::default();
        pace.rows(0, 1 << 40, 1);
        assert_eq!(pace.rows(1_000_000, 1 << 40, 1), ROWS_MAX as usize, "bounded after a pause");
        assert_eq!(pace.rows(1_000_000, 0, 1), 0);
    }
}
