//! What compactions leave out of entries: those that have expired, and those of states that are no more.
//!
//! Law: only what nobody can see any more is left out, so a compaction changes nothing for anybody. Rows of keys are another matter:
//! their number is known, see `backend/sweep.rs`.

use std::sync::RwLock;
use std::sync::atomic::{AtomicI64, Ordering};

use rocksdb::CompactionDecision;
use tidemill_model::component::Ttl;

use super::layout::Layouts;
use super::overlay::{decode, parts};
use super::ttl::Life;
use crate::clock::{Clock, UNKNOWN};

/// What is known of the entries of one database.
#[derive(Debug)]
pub(super) struct Filter {
    states: RwLock<Vec<State>>,
    /// The clock of processing time, and when it was first set: [`UNKNOWN`] until then.
    now: AtomicI64,
    start: AtomicI64,
}

#[derive(Debug)]
struct State {
    /// Its number in the database.
    id: u32,
    ttl: Option<Ttl>,
    /// When entries without a time count as written.
    since: Option<i64>,
}

impl Filter {
    pub fn new(layouts: &Layouts, states: usize, lives: &[Life]) -> Self {
        let states = RwLock::new(known(layouts, states, lives));
        Self { states, now: AtomicI64::new(UNKNOWN), start: AtomicI64::new(UNKNOWN) }
    }

    /// The operator has other states from now on.
    pub fn redescribe(&self, layouts: &Layouts, states: usize, lives: &[Life]) {
        *self.states.write().expect("no panic while held") = known(layouts, states, lives);
    }

    /// What time it is, and what time it was when the clock was set, if that is known or new.
    pub fn set_now(&self, now: Option<i64>, start: Option<i64>) {
        // Relaxed: an entry that stays for another compaction does no harm.
        start.into_iter().for_each(|start| self.start.store(start, Ordering::Relaxed));
        now.into_iter().for_each(|now| self.now.store(now, Ordering::Relaxed));
    }

    pub fn decide(&self, key: &[u8], stored: &[u8]) -> CompactionDecision {
        match self.is_seen(key, stored) {
            true => CompactionDecision::Keep,
            false => CompactionDecision::Remove,
        }
    }

    /// What is broken is kept, for somebody to find out.
    fn is_seen(&self, key: &[u8], stored: &[u8]) -> bool {
        let Some(parts) = parts(key) else { return true };
        let states = self.states.read().expect("no panic while held");
        let Some(state) = states.iter().find(|state| state.id == parts.state) else { return false };
        let (Some(ttl), Some((written, _))) = (state.ttl, decode(stored)) else { return true };
        let (now, start) = (self.now.load(Ordering::Relaxed), self.start.load(Ordering::Relaxed));
        if now == UNKNOWN || start == UNKNOWN {
            return true;
        }
        let mut clock = Clock::default();
        clock.set(start);
        clock.set(now);
        !clock.is_expired(written.or(state.since).unwrap_or(UNKNOWN), ttl)
    }
}

fn known(layouts: &Layouts, states: usize, lives: &[Life]) -> Vec<State> {
    let readers = layouts.readers();
    let state = |state: usize| {
        let life = lives.iter().find(|life| life.state == state);
        let since = life.and_then(|life| readers.first()?.since(life.times));
        State { id: layouts.id(state), ttl: life.map(|life| life.ttl), since }
    };
    (0..states).map(state).collect()
}

#[cfg(test)]
mod tests {
    use super::super::overlay::{encode, prefix};
    use super::*;

    #[test]
    fn only_what_nobody_can_see_is_left_out() {
        let ttl = Some(Ttl { ms: 100, on_read: false });
        let state = |id, ttl, since| State { id, ttl, since };
        let states = RwLock::new(vec![state(1, ttl, Some(40)), state(2, None, None), state(3, ttl, None)]);
        let filter = Filter { states, now: AtomicI64::new(UNKNOWN), start: AtomicI64::new(UNKNOWN) };
        let entry = |state: u32, written| ([prefix(b"key", state), b"e".to_vec()].concat(), encode(b"v", written));
        let seen = |state, written| {
            let (key, stored) = entry(state, written);
            filter.is_seen(&key, &stored)
        };
        assert!(seen(1, Some(0)) && seen(1, None), "before anybody knows what time it is");
        assert!(!seen(7, None), "of a state that is no more");
        filter.set_now(Some(1000), Some(1000));
        filter.set_now(Some(1050), None);
        for (state, written, expected) in [
            (1, Some(950), false),
            (1, Some(951), true),
            (1, None, false),
            (1, Some(UNKNOWN), true),
            (2, Some(0), true),
            (2, None, true),
            (3, None, true),
        ] {
            assert_eq!(seen(state, written), expected, "{written:?} of state {state}");
        }
        filter.set_now(Some(1100), None);
        assert!(!seen(1, Some(UNKNOWN)) && !seen(3, None), "written when the clock was set");
        assert!(filter.is_seen(b"x", b"") && filter.is_seen(&entry(1, None).0, b""), "broken ones stay");
    }
}
