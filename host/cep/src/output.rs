//! What comes out of a matcher.

use crate::{EventId, Stage};

/// Matches, partial matches that ran out of time, and events that are not needed any more. Cleared by the owner.
#[derive(Clone, Debug, Default)]
pub struct Output {
    pub matches: Vec<Match>,
    /// With the time at which it was over.
    pub timed_out: Vec<Match>,
    /// Events that the matcher had taken and that no partial match refers to any more. Matches above may: use those first.
    pub released: Vec<EventId>,
    items: Vec<(Stage, EventId)>,
}

/// A match, or a partial one.
#[derive(Clone, Copy, Debug)]
pub struct Match {
    /// The time of the call that found it; of one that timed out, the end of its time.
    pub time: i64,
    first: usize,
    end: usize,
}

impl Output {
    /// The events of a match with their stages, in order.
    pub fn events(&self, found: &Match) -> &[(Stage, EventId)] {
        &self.items[found.first..found.end]
    }
    pub fn clear(&mut self) {
        self.matches.clear();
        self.timed_out.clear();
        self.released.clear();
        self.items.clear();
    }
    pub fn is_empty(&self) -> bool {
        self.matches.is_empty() && self.timed_out.is_empty() && self.released.is_empty()
    }
    /// Adds the events of a match, which come from the last to the first.
    pub(crate) fn collect(&mut self, time: i64, backwards: impl Iterator<Item = (Stage, EventId)>) -> Match {
        let first = self.items.len();
        self.items.extend(backwards);
        self.items[first..].reverse();
        Match { time, first, end: self.items.len() }
    }
}
