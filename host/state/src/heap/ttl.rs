//! When the values of one state were written, by slot; only for states with a time to live.

use tidemill_model::component::Ttl;
use tidemill_model::state::Slot;

use super::column::Column;
use super::pages::Pages;
use super::refs::Refs;
use crate::clock::Clock;

/// Times in a page, as for values of fixed width.
const PAGE: usize = 512;

pub(super) struct Times {
    ttl: Ttl,
    written: Pages<i64, PAGE>,
}

impl Times {
    pub fn new(ttl: Ttl) -> Self {
        Self { ttl, written: Pages::default() }
    }

    /// Of a state that had these before, or none: then its values count as written now.
    pub fn renewed(ttl: Ttl, before: Option<Self>, column: &Column, slots: usize, clock: &Clock) -> Self {
        if let Some(before) = before {
            return Self { ttl, ..before };
        }
        let mut times = Self::new(ttl);
        times.grow(slots);
        column.present_slots(0).for_each(|slot| times.set(slot, clock.stamp()));
        times
    }

    pub fn grow(&mut self, slots: usize) {
        self.written.grow(slots);
    }

    /// The values of these slots are about to be read: those that have expired go.
    pub fn read(&mut self, slots: &[Slot], column: &mut Column, refs: &mut Refs, clock: &Clock) {
        self.expire(slots, column, refs, clock);
        if self.ttl.on_read {
            self.write(slots, clock);
        }
    }

    /// Removes what has expired. Times under no value mean nothing.
    pub fn expire(&mut self, slots: &[Slot], column: &mut Column, refs: &mut Refs, clock: &Clock) {
        for &slot in slots {
            if column.is_present(slot) && clock.is_expired(*self.written.get(slot), self.ttl) {
                column.remove(slot, refs);
            }
        }
    }

    pub fn write(&mut self, slots: &[Slot], clock: &Clock) {
        let stamp = clock.stamp();
        slots.iter().for_each(|&slot| self.set(slot, stamp));
    }

    #[inline]
    pub fn set(&mut self, slot: Slot, stamp: i64) {
        // Writing what is there already would copy a page that a snapshot has.
        if *self.written.get(slot) != stamp {
            *self.written.get_mut(slot) = stamp;
        }
    }

    pub fn freeze(&mut self, clock: &Clock) -> FrozenTimes {
        FrozenTimes { ttl: self.ttl, written: self.written.freeze(), clock: *clock }
    }
}

/// The times as they were.
pub(super) struct FrozenTimes {
    ttl: Ttl,
    written: Pages<i64, PAGE>,
    clock: Clock,
}

impl FrozenTimes {
    pub fn is_expired(&self, slot: Slot) -> bool {
        self.clock.is_expired(*self.written.get(slot), self.ttl)
    }

    pub fn written(&self, slot: Slot) -> Option<i64> {
        self.clock.written(*self.written.get(slot))
    }
}
