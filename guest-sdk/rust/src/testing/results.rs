//! What came out of an operator under test.

use std::fmt::{Display, Formatter};

use super::cell::Cell;
use super::columns;
use crate::error::contract;
use crate::native::{Field, OpError, Output};
use crate::row::Ports;

/// A row that the operator refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowFailure {
    /// Which of the rows pushed so far, from 0; `None` for a timer.
    pub row: Option<usize>,
    pub message: String,
}

/// An output row without its Rust type. Displayed as JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record(pub Vec<(String, Cell)>);

impl Record {
    pub fn get(&self, column: &str) -> Option<&Cell> {
        self.0.iter().find(|(name, _)| name == column).map(|(_, cell)| cell)
    }
}

impl Display for Record {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        Cell::Struct(self.0.clone()).fmt(f)
    }
}

/// Rows of one call and port, with the event time of each.
pub struct Emitted {
    pub output: Output,
    pub times: Vec<Option<i64>>,
}

impl Emitted {
    /// `parent_times` are those of the rows or timers of the call.
    pub fn new(output: Output, parent_times: &[Option<i64>]) -> Result<Self, OpError> {
        let parents = output.parents.as_chunks::<4>().0;
        let own = output.rows.times.as_chunks::<8>().0;
        let time = |row: usize| match own.get(row) {
            Some(time) => Ok(Some(i64::from_le_bytes(*time))),
            None => {
                let parent = parents.get(row).map_or(row, |p| u32::from_le_bytes(*p) as usize);
                parent_times.get(parent).copied().ok_or_else(|| contract("a row has no parent"))
            }
        };
        let times = (0..output.rows.rows as usize).map(time).collect::<Result<_, _>>()?;
        Ok(Self { output, times })
    }

    pub fn rows<'a, P: Ports<'a>>(&'a self) -> Result<Vec<P>, OpError> {
        let batch = self.output.rows.borrow();
        let reader = P::reader(self.output.port, &batch.columns, batch.rows as usize)?;
        Ok((0..batch.rows as usize).map(|row| P::read(&reader, row)).collect())
    }

    pub fn records(&self, fields: &[Field]) -> Result<Vec<Record>, OpError> {
        let batch = self.output.rows.borrow();
        let columns = columns::decode(fields, &batch.columns, batch.rows as usize)?;
        let mut records = vec![Record(Vec::new()); batch.rows as usize];
        for (name, column) in top_level(fields).zip(columns) {
            records.iter_mut().zip(column).for_each(|(record, cell)| record.0.push((name.to_owned(), cell)));
        }
        Ok(records)
    }
}

/// Names of the columns that are not children of another.
pub fn top_level(fields: &[Field]) -> impl Iterator<Item = &str> {
    let mut skip = 0;
    fields.iter().filter_map(move |field| {
        let child = skip > 0;
        skip = (skip + field.children).saturating_sub(child as u32);
        (!child).then_some(field.name.as_str())
    })
}
