//! What is held for a key.

use crate::history::{History, NONE};
use crate::{EventId, Stage};

/// The event that the start state begins with: behind all others.
pub(crate) const NO_EVENT: EventId = EventId::MAX;

/// The partial matches of a key. An owner forgets it while [`Self::is_idle`]: a key without is like one never seen.
#[derive(Clone, Debug, Default)]
pub struct KeyState {
    /// A heap. Empty, or with the start state in it.
    pub(crate) partials: Vec<Partial>,
    /// Matches that wait, because of the skip strategy, for partial matches that began before. A heap.
    pub(crate) completed: Vec<Partial>,
    pub(crate) history: History,
    /// The earliest time at which a partial match is over.
    pub(crate) deadline: Option<i64>,
}

/// A partial match: the events so far, and where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Partial {
    /// Its first event, [`NO_EVENT`] of the start state.
    pub start: EventId,
    pub start_ms: i64,
    pub last_ms: i64,
    /// Its last event.
    pub node: u32,
    pub state: u16,
}

impl Partial {
    pub fn waiting(state: u16) -> Self {
        Self { start: NO_EVENT, start_ms: 0, last_ms: 0, node: NONE, state }
    }
    pub fn is_start(&self) -> bool {
        self.start == NO_EVENT
    }
}

impl KeyState {
    /// No partial match, and no match that waits.
    pub fn is_idle(&self) -> bool {
        self.partials.len() <= 1 && self.completed.is_empty()
    }
    /// The earliest time for which a call of [`Matcher::advance`](crate::Matcher::advance) does anything.
    pub fn deadline(&self) -> Option<i64> {
        self.deadline
    }
    /// Partial matches.
    pub fn partial_matches(&self) -> usize {
        self.partials.len().saturating_sub(1)
    }
    /// All events that are held, with the stages that took them, each at least once.
    pub fn held(&self) -> impl Iterator<Item = (Stage, EventId)> + '_ {
        let ends = self.partials.iter().chain(&self.completed);
        ends.flat_map(|partial| self.history.back_from(partial.node))
    }
}
