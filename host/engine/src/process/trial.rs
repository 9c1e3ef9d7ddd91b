//! The first calls of new logic, which can be undone: for each key that they touch, what its values were, each entry that they
//! change, and each change of a timer.
//!
//! Law: after `undo` the backend and the timers are as they were when the trial began, whatever the calls did; a key that was noted keeps
//! its slot until the trial ends.

use std::collections::HashSet;

use arrow::array::ArrayRef;
use tidemill_model::Fault;
use tidemill_model::component::{StateDescriptor, StateKind};
use tidemill_model::logic::{Logic, TimeDomain};
use tidemill_model::state::{Slot, StateBackend};
use tidemill_model::time::Now;

use super::entries::EntryKeys;
use super::migrate::{Migration, present};
use super::shared::Shared;
use super::undo::EntryUndo;
use super::{Amplification, Common};
use crate::timers::Timers;

/// What the operator goes back to.
pub(super) struct Before {
    pub common: Common,
    pub logic: Box<dyn Logic>,
    pub migration: Migration,
    pub entry_keys: EntryKeys,
    /// Left alone while the new logic works on a copy.
    pub shared: Option<Box<Shared>>,
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
    /// What the backend held when the trial began.
    states: Vec<StateDescriptor>,
    /// What it holds while the trial lasts, as far as that are values.
    held: Vec<usize>,
    noted: HashSet<Slot>,
    /// Keys with their values, one array per state in `held`.
    values: Vec<(Vec<Slot>, Vec<ArrayRef>)>,
    timers: Vec<Changed>,
    pub entries: EntryUndo,
}

impl Trial {
    /// `states`: what the backend held before; `held`: what it holds now.
    pub fn new(before: Before, states: Vec<StateDescriptor>, held: &[StateDescriptor]) -> Self {
        let values = held.iter().enumerate().filter(|(_, state)| state.kind == StateKind::Value);
        let held = values.map(|(index, _)| index).collect();
        let (noted, values, timers, entries) = Default::default();
        Self { before, states, held, noted, values, timers, entries }
    }

    /// A call is about to change these keys, and to migrate what they have of earlier versions.
    pub fn note(&mut self, state: &mut dyn StateBackend, migration: &Migration, slots: &[Slot]) -> Result<(), Fault> {
        let new: Vec<Slot> = slots.iter().copied().filter(|&slot| self.noted.insert(slot)).collect();
        if new.is_empty() {
            return Ok(());
        }
        let values = self.held.iter().map(|&index| state.gather(index, &new)).collect::<Result<_, _>>()?;
        new.iter().for_each(|&slot| state.pin(slot));
        for (from, to) in migration.entry_states() {
            let some = present(state, from, &new)?;
            self.entries.moves(from, to, &some, state)?;
        }
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
            for (&index, values) in self.held.iter().zip(values) {
                state.scatter(index, slots, values)?;
            }
        }
        std::mem::take(&mut self.entries).undo(state)?;
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
