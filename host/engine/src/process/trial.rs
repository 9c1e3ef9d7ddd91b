//! The first calls of new logic, which can be undone: for each key that they touch, what its values were, and each change of a timer.
//!
//! Law: after `undo` the backend and the timers are as they were when the trial began, whatever the calls did; a key that was noted keeps
//! its slot until the trial ends.

use std::collections::HashSet;

use arrow::array::ArrayRef;
use tidemill_model::Fault;
use tidemill_model::component::StateDescriptor;
use tidemill_model::logic::{Logic, TimeDomain};
use tidemill_model::state::{Slot, StateBackend};
use tidemill_model::time::Now;

use super::migrate::Migration;
use super::{Amplification, Common};
use crate::timers::Timers;

/// What the operator goes back to.
pub(super) struct Before {
    pub common: Common,
    pub logic: Box<dyn Logic>,
    pub migration: Migration,
    pub now: Now,
    pub firing: bool,
    pub advanced: bool,
    pub rows_in: Amplification,
    pub timers_in: Amplification,
}

/// A change of a timer that has taken place.
enum Changed {
    Set(TimeDomain, i64, Slot),
    /// Deleted, or fired.
    Gone(TimeDomain, i64, Slot),
}

pub(super) struct Trial {
    pub before: Before,
    /// What the backend held when the trial began, and how many states it holds while the trial lasts.
    states: Vec<StateDescriptor>,
    held: usize,
    noted: HashSet<Slot>,
    /// Keys with their values, one array per state of the backend.
    values: Vec<(Vec<Slot>, Vec<ArrayRef>)>,
    timers: Vec<Changed>,
}

impl Trial {
    /// `states`: what the backend held before; now it holds so many.
    pub fn new(before: Before, states: Vec<StateDescriptor>, held: usize) -> Self {
        Self { before, states, held, noted: HashSet::new(), values: Vec::new(), timers: Vec::new() }
    }

    /// A call is about to change these keys.
    pub fn note(&mut self, state: &mut dyn StateBackend, slots: &[Slot]) -> Result<(), Fault> {
        let new: Vec<Slot> = slots.iter().copied().filter(|&slot| self.noted.insert(slot)).collect();
        if new.is_empty() {
            return Ok(());
        }
        let values = (0..self.held).map(|index| state.gather(index, &new)).collect::<Result<_, _>>()?;
        new.iter().for_each(|&slot| state.pin(slot));
        self.values.push((new, values));
        Ok(())
    }

    pub fn timer_set(&mut self, domain: TimeDomain, time: i64, slot: Slot) {
        self.timers.push(Changed::Set(domain, time, slot));
    }

    pub fn timer_gone(&mut self, domain: TimeDomain, time: i64, slot: Slot) {
        self.timers.push(Changed::Gone(domain, time, slot));
    }

    /// The trial has ended well: nobody will ask for what was noted. Whatever stays of the pins is let go.
    pub fn forget(self, state: &mut dyn StateBackend) {
        self.let_go(state);
    }

    /// Everything as it was.
    pub fn undo(mut self, state: &mut dyn StateBackend, timers: &mut Timers) -> Result<Before, Fault> {
        for changed in self.timers.drain(..).rev() {
            match changed {
                Changed::Set(domain, time, slot) => {
                    if timers.delete(domain, time, slot) {
                        state.unpin(slot);
                    }
                }
                Changed::Gone(domain, time, slot) => {
                    if timers.set(domain, time, slot) {
                        state.pin(slot);
                    }
                }
            }
        }
        for (slots, values) in &self.values {
            for (index, values) in values.iter().enumerate() {
                state.scatter(index, slots, values)?;
            }
        }
        let states = std::mem::take(&mut self.states);
        let before = self.let_go(state);
        state.redescribe(&states)?;
        Ok(before)
    }

    fn let_go(self, state: &mut dyn StateBackend) -> Before {
        for (slots, _) in &self.values {
            slots.iter().for_each(|&slot| state.unpin(slot));
            state.release(slots);
        }
        self.before
    }
}
