//! Window join: rows of equal keys in the same window, tumbling or sliding.
//!
//! Flink's rules (`JoinedStreams` over `WindowOperator`): when the watermark reaches the last ms of a window, all pairs of its rows with
//! equal keys come out, with that time; a row all of whose windows are past is late. Then rows without a partner in that window come out.
//!
//! A row is held once, in the slice (as long as the greatest common divisor of size and slide) that it falls into, however many windows
//! it is in.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, TimestampMillisecondArray};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::{DataType, Field, TimeUnit};
use tidemill_model::limits::BATCH_ROWS_MAX;
use tidemill_model::snapshot::{Form, Restore, Snapshot};
use tidemill_model::time::{Now, WATERMARK_MIN};
use tidemill_model::{Batch, Collector, ConfigError, Fault, Operator, Progress};

use super::output::Output;
use super::pane::NONE;
use super::side::{Side, spread};
use super::stored::Stored;
use crate::poison::Rejects;
use crate::windows::start::window_start;

/// So many slices may have one window.
const SLICES_MAX: i64 = 100_000;

/// The columns that a select list may name beside those of both sides.
pub(super) fn own_columns() -> Vec<Field> {
    let time = || DataType::Timestamp(TimeUnit::Millisecond, None);
    ["window_start", "window_end"].map(|name| Field::new(name, time(), false)).to_vec()
}

pub(super) fn check(size_ms: i64, slide_ms: i64, offset_ms: i64) -> Result<(), ConfigError> {
    let error = |setting: &str, message: String| Err(ConfigError::new(&[setting], message));
    if size_ms <= 0 || slide_ms <= 0 {
        return error(
            if slide_ms == size_ms { "tumbling" } else { "sliding" },
            "a window of no time holds nothing".into(),
        );
    }
    if size_ms / Windows::new(size_ms, slide_ms, offset_ms).slice > SLICES_MAX {
        let message = "size and slide have too little in common: a window would have more than";
        return error("slide", format!("{message} {SLICES_MAX} slices"));
    }
    if offset_ms.saturating_abs() >= slide_ms {
        return error("offset", format!("an offset of {offset_ms} ms is not less than {slide_ms} ms"));
    }
    Ok(())
}

/// Where windows and slices lie.
#[derive(Clone, Copy)]
pub(super) struct Windows {
    size: i64,
    slide: i64,
    offset: i64,
    slice: i64,
}

impl Windows {
    pub fn new(size: i64, slide: i64, offset: i64) -> Self {
        let (mut a, mut b) = (size, slide);
        while b != 0 {
            (a, b) = (b, a % b);
        }
        Self { size, slide, offset, slice: a }
    }

    fn slice_of(self, time: i64) -> i64 {
        window_start(time, self.offset, self.slice)
    }

    /// The windows of a slice, the last one first. None: it lies between windows, which the slide may leave.
    fn of_slice(self, slice: i64) -> impl Iterator<Item = i64> {
        let last = window_start(slice, self.offset, self.slide);
        std::iter::successors(Some(last), move |window| window.checked_sub(self.slide))
            .take_while(move |window| window.saturating_add(self.size) > slice)
    }

    /// The last ms of a window.
    fn last(self, window: i64) -> i64 {
        window.saturating_add(self.size) - 1
    }

    /// No window will need the slice.
    fn is_past(self, slice: i64, watermark: i64) -> bool {
        self.of_slice(slice).next().is_none_or(|last| self.last(last) <= watermark)
    }

    /// Between windows a row is late by itself, as in Flink.
    fn is_late(self, time: i64, watermark: i64) -> bool {
        let slice = self.slice_of(time);
        self.of_slice(slice).next().map_or(time, |last| self.last(last)) <= watermark
    }
}

pub(super) struct Windowed {
    rejects: Rejects,
    output: Arc<Output>,
    stored: [Stored; 2],
    /// Their panes are slices.
    sides: [Side; 2],
    windows: Windows,
    watermark: i64,
    /// Starts of windows that have rows and have not fired.
    unfired: BTreeSet<i64>,
    firing: Option<Firing>,
}

/// A window whose rows are on their way out.
struct Firing {
    window: i64,
    /// Keys that both sides have: slice and row of each. The rows move on along those of the key.
    keys: Vec<Shared>,
    next: usize,
    /// By side and slice which rows have had a partner; of sides for which that matters.
    matched: [BTreeMap<i64, Vec<bool>>; 2],
    /// Rows without a partner, once all pairs are out: by side, from the last one on.
    rest: Option<[Vec<(i64, u32)>; 2]>,
}

struct Shared {
    slices: [i64; 2],
    left: u32,
    right: u32,
    /// Where `right` begins.
    first: u32,
}

impl Windowed {
    pub fn new(rejects: Rejects, output: Arc<Output>, stored: [Stored; 2], sides: [Side; 2], windows: Windows) -> Self {
        let (watermark, unfired) = (WATERMARK_MIN, BTreeSet::new());
        Self { rejects, output, stored, sides, windows, watermark, unfired, firing: None }
    }

    /// The windows of a slice will fire that have not yet.
    fn expect(&mut self, slice: i64) {
        let (windows, watermark) = (self.windows, self.watermark);
        self.unfired.extend(windows.of_slice(slice).take_while(|&window| windows.last(window) > watermark));
    }

    /// Emits about a batch of what is due.
    fn fire(&mut self, out: &mut dyn Collector) -> Result<Progress, Fault> {
        let mut emitted = 0;
        while emitted < BATCH_ROWS_MAX {
            let Some(mut firing) = self.firing.take().or_else(|| self.next_window()) else {
                let (windows, watermark) = (self.windows, self.watermark);
                self.sides.iter_mut().for_each(|side| side.drop_first(|slice| windows.is_past(slice, watermark)));
                return Ok(Progress::Done);
            };
            let rows = match firing.rest {
                None => self.emit_pairs(&mut firing, out)?,
                Some(_) => self.emit_rest(&mut firing, out)?,
            };
            emitted += rows;
            let is_done = firing.rest.as_ref().is_some_and(|rest| rest.iter().all(Vec::is_empty));
            self.firing = (!is_done).then_some(firing);
        }
        Ok(Progress::More)
    }

    fn next_window(&mut self) -> Option<Firing> {
        let window = self.unfired.first().copied().filter(|&window| self.windows.last(window) <= self.watermark)?;
        self.unfired.remove(&window);
        let slices = window..window.saturating_add(self.windows.size);
        let mut keys = Vec::new();
        for (&left, pane) in self.sides[0].panes.range(slices.clone()) {
            for (&right, other) in self.sides[1].panes.range(slices.clone()) {
                let shared = |(a, b)| Shared { slices: [left, right], left: a, right: b, first: b };
                keys.extend(pane.shared(other).map(shared));
            }
        }
        let matched = [0, 1].map(|side: usize| {
            let panes = self.sides[side].panes.range(slices.clone()).filter(|_| self.sides[side].outer);
            panes.map(|(&slice, pane)| (slice, vec![false; pane.len()])).collect()
        });
        Some(Firing { window, keys, next: 0, matched, rest: None })
    }

    /// Up to a batch of pairs: slice and row of left and right.
    fn next_pairs(&self, firing: &mut Firing) -> [Vec<(i64, u32)>; 2] {
        let (mut lefts, mut rights) = (Vec::new(), Vec::new());
        while let Some(key) = firing.keys.get_mut(firing.next) {
            let (left, right) = (&self.sides[0].panes[&key.slices[0]], &self.sides[1].panes[&key.slices[1]]);
            while key.left != NONE {
                if lefts.len() == BATCH_ROWS_MAX {
                    return [lefts, rights];
                }
                lefts.push((key.slices[0], key.left));
                rights.push((key.slices[1], key.right));
                key.right = right.after(key.right);
                if key.right == NONE {
                    (key.left, key.right) = (left.after(key.left), key.first);
                }
            }
            firing.next += 1;
        }
        [lefts, rights]
    }

    fn emit_pairs(&self, firing: &mut Firing, out: &mut dyn Collector) -> Result<usize, Fault> {
        let pairs = self.next_pairs(firing);
        let rows = pairs[0].len();
        if rows > 0 {
            let mut columns = self.sides[0].gather(&pairs[0])?;
            columns.extend(self.sides[1].gather(&pairs[1])?);
            let (joined, times) = self.joined(firing.window, columns, rows)?;
            let passed = self.output.emit_pairs(&joined, &times, 0, &self.rejects, out)?;
            for (matched, places) in firing.matched.iter_mut().zip(&pairs) {
                for (pair, (slice, row)) in places.iter().enumerate() {
                    if let Some(matched) = matched.get_mut(slice)
                        && passed.as_ref().is_none_or(|passed| passed[pair])
                    {
                        matched[*row as usize] = true;
                    }
                }
            }
        }
        if firing.next == firing.keys.len() {
            let rest = |matched: &BTreeMap<i64, Vec<bool>>| {
                let rows =
                    matched.iter().flat_map(|(&slice, rows)| (0..).zip(rows).map(move |(row, m)| (slice, row, *m)));
                let mut rest: Vec<(i64, u32)> = rows.filter(|row| !row.2).map(|(slice, row, _)| (slice, row)).collect();
                rest.reverse();
                rest
            };
            firing.rest = Some([rest(&firing.matched[0]), rest(&firing.matched[1])]);
        }
        Ok(rows)
    }

    fn emit_rest(&self, firing: &mut Firing, out: &mut dyn Collector) -> Result<usize, Fault> {
        let rest = firing.rest.iter_mut().flatten().enumerate();
        let Some((side, rest)) = rest.into_iter().find(|(_, rest)| !rest.is_empty()) else { return Ok(0) };
        let places: Vec<(i64, u32)> = rest.drain(rest.len().saturating_sub(BATCH_ROWS_MAX)..).rev().collect();
        let (own, none) = (self.sides[side].gather(&places)?, self.output.nulls(1 - side, places.len()));
        let columns = if side == 0 { [own, none] } else { [none, own] }.concat();
        let (joined, times) = self.joined(firing.window, columns, places.len())?;
        self.output.emit_unmatched(&joined, &times, &self.rejects, out)?;
        Ok(places.len())
    }

    /// Rows of both sides with their window, and their time.
    fn joined(
        &self,
        window: i64,
        mut columns: Vec<ArrayRef>,
        rows: usize,
    ) -> Result<(arrow::array::RecordBatch, ScalarBuffer<i64>), Fault> {
        let end = window.saturating_add(self.windows.size);
        let time = |time: i64| Arc::new(TimestampMillisecondArray::from(vec![time; rows])) as ArrayRef;
        columns.extend([time(window), time(end)]);
        Ok((self.output.join(columns, rows)?, ScalarBuffer::from(vec![end - 1; rows])))
    }
}

impl Operator for Windowed {
    fn on_batch(&mut self, input: usize, batch: Batch, out: &mut dyn Collector) -> Result<Progress, Fault> {
        let (windows, watermark) = (self.windows, self.watermark);
        let is_late = |time| windows.is_late(time, watermark);
        let Some(ready) = self.sides[input].ready(batch, is_late, &self.rejects.node, out)? else {
            return Ok(Progress::Done);
        };
        for (slice, rows) in spread(&ready.times, |time| windows.slice_of(time), windows.slice) {
            if windows.of_slice(slice).next().is_none() {
                out.count("rows_between_windows", rows.len() as u64);
                continue;
            }
            self.expect(slice);
            self.sides[input].add(slice, &ready, &rows, None)?;
        }
        Ok(Progress::Done)
    }

    fn on_time(&mut self, now: Now, out: &mut dyn Collector) -> Result<Progress, Fault> {
        self.watermark = self.watermark.max(now.watermark);
        self.fire(out)
    }

    fn resume(&mut self, out: &mut dyn Collector) -> Result<Progress, Fault> {
        self.fire(out)
    }

    fn snapshot(&mut self, _form: Form) -> Result<Snapshot, Fault> {
        let table = |side: usize| self.stored[side].table_of(&self.sides[side], |_| true);
        Ok(Snapshot { tables: vec![table(0)?, table(1)?], ..Snapshot::default() })
    }

    fn restore(&mut self, from: &dyn Restore) -> Result<(), Fault> {
        self.watermark = from.now().watermark;
        Stored::check_tables(&self.stored, from)?;
        let windows = self.windows;
        for (stored, side) in self.stored.iter().zip(&mut self.sides) {
            stored.restore(from, side, |time| windows.slice_of(time), windows.slice)?;
        }
        let slices: Vec<i64> = self.sides.iter().flat_map(|side| side.panes.keys().copied()).collect();
        slices.into_iter().for_each(|slice| self.expect(slice));
        Ok(())
    }

    fn held(&self) -> u64 {
        self.sides.iter().map(Side::held).sum()
    }
}
