//! One window's rows, aggregated by key.

use arrow::array::{ArrayRef, BinaryArray, UInt32Array};

use super::aggregate::{Accumulators, Aggregates, Inputs, Result};
use super::groups::{BatchKeys, Groups, KeyReader};

pub(super) struct Pane {
    pub groups: Groups,
    accumulators: Accumulators,
    /// Its result has been emitted; kept for late rows.
    pub fired: bool,
}

impl Pane {
    pub fn new(reader: &KeyReader, aggregates: &Aggregates) -> Result<Self> {
        Ok(Self { groups: reader.table(), accumulators: aggregates.accumulators()?, fired: false })
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
        self.fired = false;
        Ok(columns)
    }

    /// Key columns and results of all groups or some. The pane stays as it is.
    pub fn peek(
        &mut self,
        reader: &KeyReader,
        aggregates: &Aggregates,
        chosen: Option<UInt32Array>,
    ) -> Result<Vec<ArrayRef>> {
        let results = aggregates.peek(&mut self.accumulators, self.groups.len(), chosen.as_ref())?;
        let mut columns = match chosen {
            None => reader.columns(&self.groups)?,
            Some(chosen) => reader.columns_of(&self.groups, &(std::sync::Arc::new(chosen) as ArrayRef))?,
        };
        columns.extend(results);
        Ok(columns)
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
