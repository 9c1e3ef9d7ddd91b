//! Interval join: rows of equal keys whose times are at most so far apart.
//!
//! Flink's rules (`IntervalJoinOperator`): a left row at `t` is joined with the right rows from `t + lower` to `t + upper`; the result
//! has the later one's time; a row is late when its time is below the watermark; a left row goes when the watermark reaches
//! `t + max(upper, 0)`, a right one at `t + max(-lower, 0)`. Rows that came when the watermark stood at that time already go when it moves
//! on.
//!
//! A row without a partner comes out when it goes, with that time as its own: so no window below takes it for late.
//!
//! Rows lie in panes by time. A row looks for its partners in the few panes that its interval overlaps with, and the oldest panes go as
//! a whole; in between, each row's own time is compared.

use std::sync::Arc;

use arrow::array::{ArrayRef, UInt32Array};
use arrow::buffer::ScalarBuffer;
use arrow::compute::take;
use tidemill_model::limits::BATCH_ROWS_MAX;
use tidemill_model::snapshot::{Form, Restore, Snapshot};
use tidemill_model::time::{Now, WATERMARK_MIN};
use tidemill_model::{Batch, Collector, Fault, Operator, Progress};

use super::output::Output;
use super::pane::{NONE, Pane};
use super::side::{Ready, Side, spread};
use super::stored::Stored;
use crate::poison::Rejects;
use crate::windows::start::window_start;

/// Shorter panes would have too few rows each.
const PANE_MS_MIN: i64 = 100;
/// So many panes hold the rows of a side, about.
const PANES: i64 = 16;

pub(super) struct Interval {
    pub rejects: Rejects,
    pub output: Arc<Output>,
    pub stored: [Stored; 2],
    sides: [Side; 2],
    lower: i64,
    upper: i64,
    /// Length of a pane.
    width: i64,
    watermark: i64,
    /// A batch whose partners are still to come out.
    probe: Option<Probe>,
}

/// A batch on the way through the panes of the other side.
struct Probe {
    side: usize,
    ready: Ready,
    /// Pane of the other side, row of the batch, first row of its key there.
    found: Vec<(i64, u32, u32)>,
    next: usize,
    /// Where each row lies on its own side; only if it matters whether it has a partner.
    places: Vec<(i64, u32)>,
}

/// Rows of a batch and their partners.
#[derive(Default)]
struct Pairs {
    own: Vec<u32>,
    /// Pane and row.
    other: Vec<(i64, u32)>,
    times: Vec<i64>,
}

impl Interval {
    pub fn new(
        rejects: Rejects,
        output: Arc<Output>,
        stored: [Stored; 2],
        sides: [Side; 2],
        bounds: (i64, i64),
    ) -> Self {
        let (lower, upper) = bounds;
        let span = upper.saturating_sub(lower);
        let longest = upper.max(0).max(lower.saturating_neg().max(0));
        let width = (span / 2 + 1).max(longest / PANES).max(PANE_MS_MIN);
        Self { rejects, output, stored, sides, lower, upper, width, watermark: WATERMARK_MIN, probe: None }
    }

    /// How far from a row of this side its partners are.
    fn bounds(&self, side: usize) -> (i64, i64) {
        match side {
            0 => (self.lower, self.upper),
            _ => (self.upper.saturating_neg(), self.lower.saturating_neg()),
        }
    }

    /// How long after its time a row of this side goes.
    fn kept_ms(&self, side: usize) -> i64 {
        self.bounds(side).1.max(0)
    }

    fn pane_of(&self, time: i64) -> i64 {
        window_start(time, 0, self.width)
    }

    /// Adds rows to their panes, and to `places` where they are.
    fn add(&mut self, side: usize, ready: &Ready, parts: &[(i64, Vec<u32>)]) -> Result<Vec<(i64, u32)>, Fault> {
        let outer = self.sides[side].outer;
        let mut places = if outer { vec![(0, 0); ready.times.len()] } else { Vec::new() };
        for (start, rows) in parts {
            let first = self.sides[side].add(*start, ready, rows, None)? as u32;
            if outer {
                rows.iter().zip(first..).for_each(|(&row, place)| places[row as usize] = (*start, place));
            }
        }
        Ok(places)
    }

    /// Looks up the keys of the other side that rows of the batch may be partners of.
    fn find(&self, side: usize, ready: &Ready, parts: &[(i64, Vec<u32>)]) -> Vec<(i64, u32, u32)> {
        let (lower, upper) = self.bounds(side);
        let mut found = Vec::new();
        for (start, rows) in parts {
            let last = start.saturating_add(self.width - 1);
            let panes = self.pane_of(start.saturating_add(lower))..=last.saturating_add(upper);
            for (&pane_start, pane) in self.sides[1 - side].panes.range(panes) {
                let pane_last = pane_start.saturating_add(self.width - 1);
                let may_meet = |row: &&u32| {
                    let time = ready.times[**row as usize];
                    time.saturating_add(lower) <= pane_last
                        && time.saturating_add(upper) >= pane_start
                        && ready.valid.as_ref().is_none_or(|valid| valid.is_valid(**row as usize))
                };
                let asked: Vec<u32> = rows.iter().filter(may_meet).copied().collect();
                pane.find(&ready.keys, &asked, |place, first| found.push((pane_start, asked[place], first)));
            }
        }
        found
    }

    /// Emits about a batch of the pairs that are still to come.
    fn emit_pairs(&mut self, out: &mut dyn Collector) -> Result<Progress, Fault> {
        let Some(mut probe) = self.probe.take() else { return Ok(Progress::Done) };
        let pairs = self.next_pairs(&mut probe);
        self.join(&probe, &pairs, out)?;
        if probe.next == probe.found.len() {
            return Ok(Progress::Done);
        }
        self.probe = Some(probe);
        Ok(Progress::More)
    }

    fn next_pairs(&self, probe: &mut Probe) -> Pairs {
        let (lower, upper) = self.bounds(probe.side);
        let kept_ms = self.kept_ms(1 - probe.side);
        let panes = &self.sides[1 - probe.side].panes;
        let (mut pairs, mut current) = (Pairs::default(), None::<(i64, &Pane)>);
        while let Some((pane_start, row, partner)) = probe.found.get_mut(probe.next) {
            let (_, pane) = match current {
                Some(same) if same.0 == *pane_start => same,
                _ => *current.insert((*pane_start, &panes[pane_start])),
            };
            let time = probe.ready.times[*row as usize];
            let (first, last) = (time.saturating_add(lower), time.saturating_add(upper));
            while *partner != NONE {
                if pairs.own.len() == BATCH_ROWS_MAX {
                    return pairs;
                }
                let other = pane.times[*partner as usize];
                let is_there = other.saturating_add(kept_ms) > self.watermark || *partner as usize >= pane.settled;
                if (first..=last).contains(&other) && is_there {
                    pairs.own.push(*row);
                    pairs.other.push((*pane_start, *partner));
                    pairs.times.push(time.max(other));
                }
                *partner = pane.after(*partner);
            }
            probe.next += 1;
        }
        pairs
    }

    fn join(&mut self, probe: &Probe, pairs: &Pairs, out: &mut dyn Collector) -> Result<(), Fault> {
        if pairs.own.is_empty() {
            return Ok(());
        }
        let (own, other) = (probe.side, 1 - probe.side);
        let rows = UInt32Array::from(pairs.own.clone());
        let read = 0..self.sides[own].read;
        let ours = read.map(|column| take(probe.ready.batch.column(column), &rows, None));
        let ours: Vec<ArrayRef> = ours.collect::<Result<_, _>>()?;
        let theirs = self.sides[other].gather(&pairs.other)?;
        let columns = if own == 0 { [ours, theirs] } else { [theirs, ours] }.concat();
        let joined = self.output.join(columns, pairs.own.len())?;
        let times = ScalarBuffer::from(pairs.times.clone());
        let passed = self.output.emit_pairs(&joined, &times, probe.ready.batch.entered_ns, &self.rejects, out)?;
        let passed = |pair: usize| passed.as_ref().is_none_or(|passed| passed[pair]);
        if self.sides[own].outer {
            let places = pairs.own.iter().enumerate().filter(|&(pair, _)| passed(pair));
            places.for_each(|(_, &row)| mark(&mut self.sides[own], probe.places[row as usize]));
        }
        if self.sides[other].outer {
            let places = pairs.other.iter().enumerate().filter(|&(pair, _)| passed(pair));
            places.for_each(|(_, &place)| mark(&mut self.sides[other], place));
        }
        Ok(())
    }

    /// Emits about a batch of the rows that go without a partner, and forgets all that go.
    fn sweep(&mut self, out: &mut dyn Collector) -> Result<Progress, Fault> {
        for side in 0..2 {
            let kept_ms = self.kept_ms(side);
            if self.sides[side].outer {
                let until = if self.watermark == i64::MAX { i64::MAX } else { self.watermark.saturating_sub(kept_ms) };
                let gone = self.sides[side].pop_unmatched(until);
                if !gone.is_empty() {
                    self.emit_unmatched(side, &gone, kept_ms, out)?;
                    return Ok(Progress::More);
                }
            }
            let last = |start: i64| start.saturating_add(self.width - 1).saturating_add(kept_ms);
            self.sides[side].drop_first(|start| last(start) <= self.watermark);
        }
        Ok(Progress::Done)
    }

    fn emit_unmatched(
        &self,
        side: usize,
        gone: &[(i64, i64, u32)],
        kept_ms: i64,
        out: &mut dyn Collector,
    ) -> Result<(), Fault> {
        let places: Vec<(i64, u32)> = gone.iter().map(|&(_, start, row)| (start, row)).collect();
        let (own, none) = (self.sides[side].gather(&places)?, self.output.nulls(1 - side, gone.len()));
        let columns = if side == 0 { [own, none] } else { [none, own] }.concat();
        let joined = self.output.join(columns, gone.len())?;
        let times = gone.iter().map(|&(time, ..)| time.saturating_add(kept_ms)).collect();
        self.output.emit_unmatched(&joined, &times, &self.rejects, out)
    }
}

fn mark(side: &mut Side, (start, row): (i64, u32)) {
    if let Some(pane) = side.panes.get_mut(&start) {
        pane.mark(row);
    }
}

impl Operator for Interval {
    fn on_batch(&mut self, input: usize, batch: Batch, out: &mut dyn Collector) -> Result<Progress, Fault> {
        let watermark = self.watermark;
        let Some(ready) = self.sides[input].ready(batch, |time| time < watermark, &self.rejects.node, out)? else {
            return Ok(Progress::Done);
        };
        let parts = spread(&ready.times, |time| self.pane_of(time), self.width);
        let places = self.add(input, &ready, &parts)?;
        let found = self.find(input, &ready, &parts);
        self.probe = Some(Probe { side: input, ready, found, next: 0, places });
        self.emit_pairs(out)
    }

    fn on_time(&mut self, now: Now, out: &mut dyn Collector) -> Result<Progress, Fault> {
        if now.watermark <= self.watermark {
            return Ok(Progress::Done);
        }
        self.watermark = now.watermark;
        self.sides.iter_mut().for_each(Side::settle);
        self.sweep(out)
    }

    fn resume(&mut self, out: &mut dyn Collector) -> Result<Progress, Fault> {
        match self.probe {
            Some(_) => self.emit_pairs(out),
            None => self.sweep(out),
        }
    }

    fn snapshot(&mut self, _form: Form) -> Result<Snapshot, Fault> {
        let mut tables = Vec::new();
        for side in 0..2 {
            let (kept_ms, watermark) = (self.kept_ms(side), self.watermark);
            let is_there = move |time: i64| time.saturating_add(kept_ms) > watermark;
            tables.push(self.stored[side].table_of(&self.sides[side], is_there)?);
        }
        Ok(Snapshot { tables, ..Snapshot::default() })
    }

    fn restore(&mut self, from: &dyn Restore) -> Result<(), Fault> {
        self.watermark = from.now().watermark;
        Stored::check_tables(&self.stored, from)?;
        let width = self.width;
        for (stored, side) in self.stored.iter().zip(&mut self.sides) {
            stored.restore(from, side, |time| window_start(time, 0, width), width)?;
        }
        Ok(())
    }

    fn held(&self) -> u64 {
        self.sides.iter().map(Side::held).sum()
    }
}
