//! One window's rows, aggregated by key.

use arrow::array::{ArrayRef, BinaryArray, UInt32Array};
use arrow::compute::take;

use super::aggregate::{Accumulators, Aggregates, Inputs, Result};
use super::groups::{BatchKeys, Groups, KeyReader};

pub(super) struct Pane {
    pub groups: Groups,
    accumulators: Accumulators,
}

/// Empty panes kept for the next windows, so that their memory is used again.
pub(super) struct Pool {
    spare: Vec<Pane>,
    /// As many as are in use at a time.
    max: usize,
}

impl Pool {
    pub fn new(max: usize) -> Self {
        Self { spare: Vec::new(), max }
    }

    pub fn take(&mut self, reader: &KeyReader, aggregates: &Aggregates) -> Result<Pane> {
        self.spare.pop().map_or_else(|| Pane::new(reader, aggregates), Ok)
    }

    /// Forgets what the pane has.
    pub fn give(&mut self, mut pane: Pane, aggregates: &Aggregates) -> Result<()> {
        if self.spare.len() < self.max {
            if pane.groups.len() > 0 {
                pane.clear(aggregates)?;
            }
            self.spare.push(pane);
        }
        Ok(())
    }
}

impl Pane {
    pub fn new(reader: &KeyReader, aggregates: &Aggregates) -> Result<Self> {
        Ok(Self { groups: reader.table(), accumulators: aggregates.accumulators()? })
    }

    /// Adds all `count` rows of a batch, or those in `rows`; their groups are left in `numbers`.
    pub fn update(
        &mut self,
        keys: &BatchKeys,
        inputs: &Inputs,
        count: usize,
        rows: Option<&UInt32Array>,
        numbers: &mut Vec<usize>,
    ) -> Result<()> {
        self.groups.number(keys, count, rows.map(|r| &r.values()[..]), numbers);
        inputs.update(&mut self.accumulators, rows, numbers, self.groups.len())
    }

    /// All groups: key columns and results. The pane is empty afterwards.
    pub fn drain(&mut self, reader: &KeyReader, aggregates: &Aggregates) -> Result<Vec<ArrayRef>> {
        let mut columns = reader.columns(&self.groups)?;
        columns.extend(aggregates.drain(&mut self.accumulators)?);
        self.groups.clear();
        Ok(columns)
    }

    /// Forgets all groups.
    fn clear(&mut self, aggregates: &Aggregates) -> Result<()> {
        self.groups.clear();
        aggregates.drain(&mut self.accumulators).map(drop)
    }

    /// Adds what another pane has, which keeps it.
    pub fn absorb(&mut self, other: &mut Self, aggregates: &Aggregates) -> Result<()> {
        let mut numbers = Vec::new();
        self.groups.add_from(&other.groups, None, &mut numbers);
        let state = other.state(aggregates)?;
        aggregates.merge(&mut self.accumulators, &state, &numbers, self.groups.len())
    }

    /// The same for the keys that this pane has already.
    pub fn absorb_known(&mut self, other: &mut Self, aggregates: &Aggregates) -> Result<()> {
        let (mut theirs, mut ours) = (Vec::new(), Vec::new());
        for number in 0..self.groups.len() {
            if let Some(found) = other.groups.find(&self.groups, number) {
                theirs.push(found as u32);
                ours.push(number);
            }
        }
        let theirs = UInt32Array::from(theirs);
        let state = other.state(aggregates)?;
        let state = state.iter().map(|column| Ok(take(column, &theirs, None)?)).collect::<Result<Vec<_>>>()?;
        aggregates.merge(&mut self.accumulators, &state, &ours, self.groups.len())
    }

    /// The state of all groups, in order of their numbers. The pane stays as it is.
    pub fn state(&mut self, aggregates: &Aggregates) -> Result<Vec<ArrayRef>> {
        aggregates.state(&mut self.accumulators, self.groups.len())
    }

    /// Adds such states to these keys.
    pub fn merge(&mut self, keys: &BinaryArray, state: &[ArrayRef], aggregates: &Aggregates) -> Result<()> {
        let mut numbers = Vec::new();
        self.groups.number_bytes(keys, &mut numbers);
        aggregates.merge(&mut self.accumulators, state, &numbers, self.groups.len())
    }
}
