//! Who needs each slot: values and pins, counted.
//!
//! Law: `idle` is the number of live slots at 0. While it is 0, as it mostly is, no slot has to be looked at to see
//! whether its key can be forgotten.

use tidemill_model::state::Slot;

#[derive(Default)]
pub(super) struct Refs {
    counts: Vec<u32>,
    idle: usize,
}

impl Refs {
    pub fn slots(&self) -> usize {
        self.counts.len()
    }

    /// About so many slots are going to be there soon.
    pub fn expect(&mut self, slots: usize) {
        self.counts.reserve(slots);
    }

    pub fn grow(&mut self, slots: usize) {
        self.counts.resize(slots, 0);
    }

    /// So many keys are new: nobody needs them yet.
    pub fn born(&mut self, keys: usize) {
        self.idle += keys;
    }

    /// An idle key is forgotten.
    pub fn died(&mut self) {
        self.idle -= 1;
    }

    pub fn any_idle(&self) -> bool {
        self.idle > 0
    }

    pub fn is_idle(&self, slot: Slot) -> bool {
        self.counts[slot as usize] == 0
    }

    pub fn up(&mut self, slot: Slot) {
        let count = &mut self.counts[slot as usize];
        *count += 1;
        self.idle -= usize::from(*count == 1);
    }

    pub fn down(&mut self, slot: Slot) {
        let count = &mut self.counts[slot as usize];
        *count -= 1;
        self.idle += usize::from(*count == 0);
    }
}
