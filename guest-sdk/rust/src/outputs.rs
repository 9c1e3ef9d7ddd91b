//! Rows of one output port under construction, with the row that each comes from.
//!
//! Law: parents never decrease, so the rows of the row in progress are the last ones. As long as row i comes from
//! row i no parents are written at all.

use crate::error::contract;
use crate::native::{Batch, OpError, Output, Port};
use crate::types::{ColumnBuilder, truncate};

pub struct PortBuilder {
    columns: Vec<ColumnBuilder>,
    rows: u32,
    /// Row i comes from row i so far; `parents` is empty.
    identity: bool,
    parents: Vec<u8>,
    /// Row kinds; empty as long as all are inserts.
    kinds: Vec<u8>,
    /// Rows with an event time of their own.
    times: Vec<(u32, i64)>,
    /// Rows of the last call, by which the buffers are sized.
    rows_before: usize,
}

impl PortBuilder {
    pub fn new(port: &Port) -> Self {
        Self {
            columns: ColumnBuilder::for_fields(&port.fields),
            rows: 0,
            identity: true,
            parents: Vec::new(),
            kinds: Vec::new(),
            times: Vec::new(),
            rows_before: 0,
        }
    }

    /// A call begins. Also clears what a failed call has left.
    pub fn start(&mut self) {
        for column in &mut self.columns {
            column.finish();
            column.start(self.rows_before);
        }
        self.rows = 0;
        self.identity = true;
        self.parents.clear();
        self.kinds.clear();
        self.times.clear();
    }

    #[inline(always)]
    pub fn columns(&mut self) -> &mut [ColumnBuilder] {
        &mut self.columns
    }

    /// A row was written; it comes from row `parent`.
    #[inline(always)]
    pub fn pushed(&mut self, parent: u32) {
        if !self.identity {
            self.parents.extend_from_slice(&parent.to_le_bytes());
        } else if parent != self.rows {
            self.leave_identity();
            self.parents.extend_from_slice(&parent.to_le_bytes());
        }
        self.rows += 1;
        if !self.kinds.is_empty() {
            self.kinds.push(0);
        }
    }

    #[cold]
    fn leave_identity(&mut self) {
        self.identity = false;
        self.parents.reserve(4 * self.rows_before.max(self.rows as usize + 1));
        for row in 0..self.rows {
            self.parents.extend_from_slice(&row.to_le_bytes());
        }
    }

    /// Event time of the row written last.
    pub fn set_time(&mut self, time: i64) {
        self.times.push((self.rows - 1, time));
    }

    /// Kind of the row written last.
    pub fn set_kind(&mut self, kind: u8) {
        if kind != 0 && self.kinds.is_empty() {
            self.kinds.resize(self.rows as usize, 0);
        }
        if let Some(last) = self.kinds.last_mut() {
            *last = kind;
        }
    }

    /// Takes back the rows that come from `row`.
    pub fn rollback(&mut self, row: u32) {
        let keep = if self.identity { self.rows.min(row) } else { self.rows_not_from(row) };
        if keep == self.rows {
            return;
        }
        self.rows = keep;
        let mut columns = &mut self.columns[..];
        while !columns.is_empty() {
            columns = truncate(columns, keep as usize);
        }
        if !self.identity {
            self.parents.truncate(keep as usize * 4);
        }
        self.kinds.truncate(keep as usize);
        while self.times.pop_if(|(row, _)| *row >= keep).is_some() {}
    }

    fn rows_not_from(&self, row: u32) -> u32 {
        let (parents, _) = self.parents.as_chunks::<4>();
        let own = parents.iter().rev().take_while(|p| u32::from_le_bytes(**p) == row).count();
        self.rows - own as u32
    }

    /// The rows, if there are any. `rows_in` and `times` speak of what came in.
    pub fn finish(&mut self, port: u16, rows_in: u32, times: &[[u8; 8]]) -> Result<Option<Output>, OpError> {
        self.rows_before = self.rows as usize;
        if self.rows == 0 {
            return Ok(None);
        }
        if self.identity && self.rows != rows_in {
            self.leave_identity();
        }
        let parents = std::mem::take(&mut self.parents);
        let times = self.finish_times(&parents, times)?;
        let columns = self.columns.iter_mut().map(ColumnBuilder::finish).collect();
        let rows = Batch { rows: self.rows, times, kinds: std::mem::take(&mut self.kinds), columns };
        Ok(Some(Output { port, rows, parents }))
    }

    /// Event times of all rows, if any row has one of its own: the others have their parents'.
    fn finish_times(&mut self, parents: &[u8], times: &[[u8; 8]]) -> Result<Vec<u8>, OpError> {
        if self.times.is_empty() {
            return Ok(Vec::new());
        }
        if times.is_empty() && self.times.len() < self.rows as usize {
            let message = "the stream has no event time: emit_at must be used for all rows of a port or for none";
            return Err(OpError::Fatal(message.into()));
        }
        let (parents, _) = parents.as_chunks::<4>();
        let mut own = self.times.drain(..).peekable();
        let mut all = Vec::with_capacity(self.rows as usize * 8);
        for row in 0..self.rows {
            let time = match own.next_if(|(r, _)| *r == row) {
                Some((_, time)) => time.to_le_bytes(),
                None => {
                    let parent = parents.get(row as usize).map_or(row, |p| u32::from_le_bytes(*p));
                    *times.get(parent as usize).ok_or_else(|| contract("event times are missing"))?
                }
            };
            all.extend_from_slice(&time);
        }
        Ok(all)
    }
}
