//! What the windows have aggregated: the accumulators' states, as columns by slot.
//!
//! Laws: rows are added in the order in which they came; a batch costs one update of the aggregates, however many windows it is spread over.
//! The accumulators here are empty between calls.

use std::sync::Arc;

use arrow::array::{ArrayRef, UInt32Array};

use super::super::aggregate::{Accumulators, Aggregates, Inputs, Result};
use super::slots::SlotColumn;

pub(super) struct Contents {
    aggregates: Arc<Aggregates>,
    accumulators: Accumulators,
    states: Vec<SlotColumn>,
}

/// One step: what is to be added to which windows.
#[derive(Default)]
pub(super) struct Step {
    /// Slots of the windows that change, each once: its place here is its number in the step.
    pub slots: Vec<u32>,
    /// Slots that have states which go into the windows of these numbers: their own, and those of windows that were merged.
    pub stored: Vec<u32>,
    pub stored_numbers: Vec<usize>,
    /// Rows and the numbers of their windows.
    pub rows: Vec<u32>,
    pub numbers: Vec<usize>,
}

impl Step {
    pub fn clear(&mut self) {
        let Self { slots, stored, stored_numbers, rows, numbers } = self;
        [slots, stored, rows].into_iter().for_each(Vec::clear);
        [stored_numbers, numbers].into_iter().for_each(Vec::clear);
    }
}

impl Contents {
    pub fn new(aggregates: &Arc<Aggregates>) -> Result<Self> {
        let fields = aggregates.state_fields()?;
        let states = fields.iter().flatten().map(|field| SlotColumn::new(field.data_type()));
        Ok(Self {
            accumulators: aggregates.accumulators()?,
            states: states.collect::<std::result::Result<_, _>>()?,
            aggregates: aggregates.clone(),
        })
    }

    /// Does a step. `all`: the rows are those of the batch, in order; `count`: all slots are below.
    pub fn apply(&mut self, step: &Step, inputs: &Inputs, all: bool, count: usize) -> Result<()> {
        let groups = step.slots.len();
        if !step.stored.is_empty() {
            let states = self.take(&step.stored)?;
            self.aggregates.merge(&mut self.accumulators, &states, &step.stored_numbers, groups)?;
        }
        let rows = (!all).then(|| UInt32Array::from(step.rows.clone()));
        inputs.update(&mut self.accumulators, rows.as_ref(), &step.numbers, groups)?;
        let states = self.aggregates.drain_state(&mut self.accumulators)?;
        self.put(&step.slots, &states, count)
    }

    /// The results of these windows; they keep their states.
    pub fn results(&mut self, slots: &[u32]) -> Result<Vec<ArrayRef>> {
        let states = self.take(slots)?;
        let numbers: Vec<usize> = (0..slots.len()).collect();
        self.aggregates.merge(&mut self.accumulators, &states, &numbers, slots.len())?;
        self.aggregates.drain(&mut self.accumulators)
    }

    pub fn forget(&mut self, slot: u32) {
        self.states.iter_mut().for_each(|column| column.forget(slot));
    }

    /// The states of these windows.
    pub fn take(&self, slots: &[u32]) -> Result<Vec<ArrayRef>> {
        Ok(self.states.iter().map(|column| column.take(slots)).collect::<std::result::Result<_, _>>()?)
    }

    /// Such states for these windows; all slots are below `count`.
    pub fn put(&mut self, slots: &[u32], states: &[ArrayRef], count: usize) -> Result<()> {
        for (column, state) in self.states.iter_mut().zip(states) {
            column.put(slots, state, count)?;
        }
        Ok(())
    }
}
