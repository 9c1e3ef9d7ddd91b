//! Windows as sums of slices, for windows that overlap.
//!
//! Two stacks: `front` has for each window start up to `middle` the sum from there to `middle`, `back` the sum from `middle` to `end`. A window is
//! one of each. When the front is used up, what lies behind becomes the next front. So each slice is added twice and each window costs one
//! addition, however many slices it has.

use std::collections::BTreeMap;
use std::ops::Range;

use super::aggregate::{Aggregates, Result};
use super::groups::KeyReader;
use super::pane::{Pane, Pool};

#[derive(Default)]
pub(super) struct Sums {
    /// By window start.
    front: BTreeMap<i64, Pane>,
    back: Option<Pane>,
    middle: i64,
    end: i64,
}

impl Sums {
    /// A slice has got rows.
    pub fn changed(&mut self, slice: i64) {
        if slice < self.end {
            *self = Self::default();
        }
    }

    /// The sum of the slices of a window. Later calls are for later windows.
    pub fn of(
        &mut self,
        window: Range<i64>,
        slide_ms: i64,
        slices: &mut BTreeMap<i64, Pane>,
        (reader, aggregates): (&KeyReader, &Aggregates),
        pool: &mut Pool,
    ) -> Result<Pane> {
        let mut add = |sum: &mut Pane, range: Range<i64>| {
            slices.range_mut(range).try_for_each(|(_, slice)| sum.absorb(slice, aggregates))
        };
        while let Some(entry) = self.front.first_entry().filter(|entry| *entry.key() < window.start) {
            pool.give(entry.remove(), aggregates)?;
        }
        if self.front.is_empty() {
            if let Some(back) = self.back.take() {
                pool.give(back, aggregates)?;
            }
            (self.middle, self.end) = (window.end, window.end);
            let starts = (0..).map_while(|n| Some(window.start + slide_ms * n).filter(|start| *start < window.end));
            let mut to = window.end;
            for start in starts.collect::<Vec<_>>().into_iter().rev() {
                let mut sum = pool.take(reader, aggregates)?;
                if let Some(behind) = self.front.get_mut(&to) {
                    sum.absorb(behind, aggregates)?;
                }
                add(&mut sum, start..to)?;
                self.front.insert(start, sum);
                to = start;
            }
        } else {
            let mut back = match self.back.take() {
                Some(back) => back,
                None => pool.take(reader, aggregates)?,
            };
            add(&mut back, self.end..window.end)?;
            (self.back, self.end) = (Some(back), window.end);
        }
        let mut sum = match self.front.remove(&window.start) {
            Some(sum) => sum,
            None => pool.take(reader, aggregates)?,
        };
        if let Some(back) = &mut self.back {
            sum.absorb(back, aggregates)?;
        }
        Ok(sum)
    }
}
