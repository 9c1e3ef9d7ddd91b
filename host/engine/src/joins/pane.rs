//! The rows of one side within a span of event time, found by key.
//!
//! Laws: rows of a key come in the order of their arrival; a row whose key has a null is found by nobody; a pane goes as a whole, so
//! that forgetting costs nothing per row.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use arrow::array::ArrayRef;
use arrow::buffer::NullBuffer;
use tidemill_model::Fault;

use super::rows::Rows;
use crate::windows::groups::{BatchKeys, Groups};

/// The end of a list.
pub(super) const NONE: u32 = u32::MAX;

pub(super) struct Pane {
    groups: Groups,
    /// By group: its first and its last row.
    first: Vec<u32>,
    last: Vec<u32>,
    /// By row: the next one of its group.
    next: Vec<u32>,
    /// By row.
    pub times: Vec<i64>,
    pub rows: Rows,
    /// Rows that were here when the watermark moved last.
    pub settled: usize,
    /// By row whether it has had a partner; only if that matters.
    matched: Option<Vec<bool>>,
    /// Times and numbers of rows that come out if nobody asks for them.
    waiting: BinaryHeap<Reverse<(i64, u32)>>,
    numbers: Vec<usize>,
}

/// Rows of a batch on their way into a pane.
pub(super) struct Arrivals<'a> {
    /// None: nobody will look for them.
    pub keys: Option<&'a BatchKeys>,
    /// Which keys have no null; none: all.
    pub valid: Option<&'a NullBuffer>,
    /// Their places in the batch.
    pub rows: &'a [u32],
    pub columns: Vec<ArrayRef>,
}

impl Pane {
    /// `waits`: rows come out by themselves when their time has come.
    pub fn new(groups: Groups, waits: bool) -> Self {
        Self {
            groups,
            first: Vec::new(),
            last: Vec::new(),
            next: Vec::new(),
            times: Vec::new(),
            rows: Rows::default(),
            settled: 0,
            matched: waits.then(Vec::new),
            waiting: BinaryHeap::new(),
            numbers: Vec::new(),
        }
    }

    pub fn len(&self) -> usize {
        self.times.len()
    }

    /// Forgets all rows and keeps the memory of tables.
    pub fn clear(&mut self) {
        self.groups.clear();
        self.first.clear();
        self.last.clear();
        self.next.clear();
        self.times.clear();
        self.rows.clear();
        self.settled = 0;
        self.matched.iter_mut().for_each(Vec::clear);
        self.waiting.clear();
    }

    /// Adds rows with their times, one per row. `matched`: which of them have had a partner already; none: none has.
    pub fn add(
        &mut self,
        arrivals: Arrivals<'_>,
        times: impl Iterator<Item = i64>,
        matched: Option<&[bool]>,
    ) -> Result<(), Fault> {
        let (from, count) = (self.len(), arrivals.rows.len());
        if from + count >= NONE as usize {
            return Err(Fault::data("a join holds more than four billion rows of one time"));
        }
        self.times.extend(times);
        self.next.resize(from + count, NONE);
        self.rows.push(arrivals.columns, count)?;
        if let Some(own) = &mut self.matched {
            match matched {
                Some(matched) => own.extend(matched),
                None => own.resize(from + count, false),
            }
            let waiting = (from..from + count).filter(|&row| !own[row]);
            self.waiting.extend(waiting.map(|row| Reverse((self.times[row], row as u32))));
        }
        let Some(keys) = arrivals.keys else { return Ok(()) };
        match arrivals.valid {
            None => self.link(keys, arrivals.rows, from as u32..),
            Some(valid) => {
                let with_key =
                    arrivals.rows.iter().zip(from as u32..).filter(|&(&row, _)| valid.is_valid(row as usize));
                let (rows, numbers): (Vec<u32>, Vec<u32>) = with_key.unzip();
                self.link(keys, &rows, numbers.into_iter());
            }
        }
        Ok(())
    }

    /// Puts rows of a batch behind those of their groups. `numbers`: what they are called here.
    fn link(&mut self, keys: &BatchKeys, rows: &[u32], numbers: impl Iterator<Item = u32>) {
        let mut groups = std::mem::take(&mut self.numbers);
        self.groups.number(keys, rows.len(), Some(rows), &mut groups);
        for (&group, row) in groups.iter().zip(numbers) {
            // New groups are numbered in order.
            if group == self.first.len() {
                self.first.push(row);
                self.last.push(row);
            } else {
                self.next[self.last[group] as usize] = row;
                self.last[group] = row;
            }
        }
        self.numbers = groups;
    }

    /// The first row with the key of each of these rows: `found(place in rows, row)`.
    pub fn find(&self, keys: &BatchKeys, rows: &[u32], mut found: impl FnMut(usize, u32)) {
        self.groups.find_rows(keys, rows, |place, group| found(place, self.first[group]));
    }

    /// The keys that another pane has, too: the first row of each here and there.
    pub fn shared<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = (u32, u32)> + 'a {
        let find = |group: usize| Some((self.first[group], other.first[other.groups.find(&self.groups, group)?]));
        (0..self.first.len()).filter_map(find)
    }

    /// The row behind this one, of the same key.
    #[inline]
    pub fn after(&self, row: u32) -> u32 {
        self.next[row as usize]
    }

    /// The row has had a partner.
    #[inline]
    pub fn mark(&mut self, row: u32) {
        if let Some(matched) = &mut self.matched {
            matched[row as usize] = true;
        }
    }

    pub fn is_matched(&self, row: usize) -> bool {
        self.matched.as_ref().is_some_and(|matched| matched[row])
    }

    /// The next row up to a time that has had no partner; it is given out once.
    pub fn pop_unmatched(&mut self, until: i64) -> Option<(i64, u32)> {
        while self.waiting.peek().is_some_and(|Reverse((time, _))| *time <= until) {
            let Reverse((time, row)) = self.waiting.pop()?;
            if !self.is_matched(row as usize) {
                return Some((time, row));
            }
        }
        None
    }

    /// By row whether it has had a partner.
    pub fn matches(&self) -> Vec<bool> {
        self.matched.clone().unwrap_or_else(|| vec![false; self.len()])
    }
}
