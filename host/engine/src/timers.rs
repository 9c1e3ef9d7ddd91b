//! Timers of one keyed operator on one worker.
//!
//! Laws: at most one timer per (key, domain, time); timers come out in order of time, then of slot.

use std::collections::BTreeSet;

use tidemill_model::logic::TimeDomain;
use tidemill_model::state::Slot;
use tidemill_model::time::Now;

#[derive(Debug, Default)]
pub(crate) struct Timers {
    event: BTreeSet<(i64, Slot)>,
    processing: BTreeSet<(i64, Slot)>,
}

impl Timers {
    /// Whether the timer is new.
    pub fn set(&mut self, domain: TimeDomain, time: i64, key: Slot) -> bool {
        self.of(domain).insert((time, key))
    }

    /// Whether there was such a timer.
    pub fn delete(&mut self, domain: TimeDomain, time: i64, key: Slot) -> bool {
        self.of(domain).remove(&(time, key))
    }

    /// The domain that has a timer due, event time first; `advanced`: event time counts.
    pub fn due(&self, now: Now, advanced: bool) -> Option<TimeDomain> {
        let is_due = |timers: &BTreeSet<(i64, Slot)>, clock| timers.first().is_some_and(|t| t.0 <= clock);
        if advanced && is_due(&self.event, now.watermark) {
            Some(TimeDomain::Event)
        } else {
            is_due(&self.processing, now.processing_ms).then_some(TimeDomain::Processing)
        }
    }

    /// Removes the next timer at or below the clock, if `accept` takes its key.
    pub fn pop(&mut self, domain: TimeDomain, now: Now, accept: impl FnOnce(Slot) -> bool) -> Option<(i64, Slot)> {
        let clock = match domain {
            TimeDomain::Event => now.watermark,
            TimeDomain::Processing => now.processing_ms,
        };
        let timers = self.of(domain);
        let &(time, key) = timers.first()?;
        if time > clock || !accept(key) {
            return None;
        }
        timers.pop_first()
    }

    /// All timers of a domain, in their order.
    pub fn all(&self, domain: TimeDomain) -> impl Iterator<Item = (i64, Slot)> {
        match domain {
            TimeDomain::Event => self.event.iter().copied(),
            TimeDomain::Processing => self.processing.iter().copied(),
        }
    }

    fn of(&mut self, domain: TimeDomain) -> &mut BTreeSet<(i64, Slot)> {
        match domain {
            TimeDomain::Event => &mut self.event,
            TimeDomain::Processing => &mut self.processing,
        }
    }
}
