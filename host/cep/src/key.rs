//! What is held for a key.

use crate::history::{History, NONE};
use crate::{EventId, Stage};

/// The event that the start state begins with: behind all others.
pub(crate) const NO_EVENT: EventId = EventId::MAX;

/// The partial matches of a key. An owner forgets it while [`Self::is_idle`]: a key without is like one never seen.
#[derive(Clone, Debug, Default)]
pub struct KeyState {
    /// Nothing while it is idle.
    pub(crate) live: Option<Box<Live>>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Live {
    /// A heap, with the start state in it.
    pub partials: Vec<Partial>,
    /// Matches that wait, because of the skip strategy, for partial matches that began before. A heap.
    pub completed: Vec<Partial>,
    pub history: History,
    /// The earliest time at which a partial match is over.
    pub deadline: Option<i64>,
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
        self.live.is_none()
    }
    /// The earliest time for which a call of [`Matcher::advance`](crate::Matcher::advance) does anything.
    pub fn deadline(&self) -> Option<i64> {
        self.live.as_ref()?.deadline
    }
    /// Partial matches.
    pub fn partial_matches(&self) -> usize {
        self.live.as_ref().map_or(0, |live| live.partials.len() - 1)
    }
    /// All events that are held, with the stages that took them, each at least once.
    pub fn held(&self) -> impl Iterator<Item = (Stage, EventId)> + '_ {
        self.live.iter().flat_map(|live| {
            let ends = live.partials.iter().chain(&live.completed);
            ends.flat_map(|partial| live.history.back_from(partial.node))
        })
    }
}

impl Live {
    pub fn is_idle(&self) -> bool {
        self.partials.len() <= 1 && self.completed.is_empty() && self.history.is_empty()
    }
    pub fn running(&self) -> impl Iterator<Item = &Partial> {
        self.partials.iter().filter(|partial| !partial.is_start())
    }
}
