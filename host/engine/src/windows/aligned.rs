//! Windows that begin at the same times for all keys: tumbling and sliding, over event time.
//!
//! Flink's rules, window by window (`SlidingEventTimeWindows`, `EventTimeTrigger`, `WindowOperator`): windows start at
//! `ts - ((ts - offset) mod slide)` and at each slide before it whose window still holds `ts`; a window fires when the watermark reaches
//! `end - 1`; it is dropped, and rows for it are late, when the watermark reaches `end - 1 + allowed lateness`. A row is late if
//! that holds for all its windows.
//!
//! One difference: Flink fires again for each late element within the allowed lateness. Here a late *batch* updates
//! its windows first, and then each updated key fires once, with the result after the batch. The last result
//! per key and window is the same.
//!
//! Rows are aggregated once, into the slice (as long as the greatest common divisor of size and slide) that they fall into; a window is the
//! sum of its slices ([`super::sums`]), so that its cost does not grow with the number of windows that a row is in.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::RangeInclusive;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, TimestampMillisecondArray, UInt32Array};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::SchemaRef;
use datafusion_common::DataFusionError;
use hashbrown::HashMap;
use tidemill_model::fault::OnError;
use tidemill_model::limits::BATCH_ROWS_MAX;
use tidemill_model::plan::Built;
use tidemill_model::snapshot::{Form, Restore, Snapshot};
use tidemill_model::time::{Now, WATERMARK_MIN};
use tidemill_model::window::WindowSpec;
use tidemill_model::{
    Batch, Collector, ConfigError, Fault, FaultKind, Operator, OperatorContext, OperatorFactory, Progress,
};

use super::aggregate::{Aggregates, unreadable};
use super::groups::KeyReader;
use super::pane::{Pane, Pool};
use super::start::window_start;
use super::stored::{self, FrozenPane, StoredPane};
use super::sums::Sums;
use super::{check_key, common_ms, output_schema};
use crate::poison::{Rejects, sieve};
use crate::sql::message;

/// Empty panes kept beside those of overlapping windows: as many as are open while ticks are in flight.
const SPARE_PANES: usize = 32;
/// And of overlapping windows at most.
const SPARE_PANES_MAX: usize = 1024;

/// A window node whose windows are the same for all keys.
#[derive(Clone, Debug)]
pub(super) struct AlignedSpec {
    pub size_ms: i64,
    /// From the start of a window to that of the next; of tumbling windows the size.
    pub slide_ms: i64,
    pub offset_ms: i64,
    pub allowed_lateness_ms: i64,
    pub key: Vec<usize>,
    pub aggregates: Vec<(String, String)>,
    pub on_error: OnError,
}

/// See [`super::window`], which has checked the times. `slide_ms`: of tumbling windows the size.
pub(super) fn aligned(spec: WindowSpec, size_ms: i64, slide_ms: i64, input: &SchemaRef) -> Result<Built, ConfigError> {
    check_key(&spec.key, input)?;
    let WindowSpec { offset_ms, allowed_lateness_ms, key, aggregates, on_error, .. } = spec;
    let spec = AlignedSpec { size_ms, slide_ms, offset_ms, allowed_lateness_ms, key, aggregates, on_error };
    let aggregates = Aggregates::new(input, &spec.aggregates).map_err(|e| e.inside("aggregates"))?;
    let schema = output_schema(&spec.key, true, input, &aggregates)?;
    let key = spec.key.iter().map(|&c| input.field(c).data_type().clone());
    let settings = stored::settings(&spec, key);
    let stored = stored::schema(&aggregates, settings).map_err(|e| ConfigError::new(&["aggregates"], message(&e)))?;
    let outputs = vec![("out".to_owned(), schema.clone()), ("late".to_owned(), input.clone())];
    let factory = Factory { spec, input: input.clone(), aggregates: Arc::new(aggregates), schema, stored };
    Ok(Built { factory: Arc::new(factory), outputs })
}

struct Factory {
    spec: AlignedSpec,
    input: SchemaRef,
    aggregates: Arc<Aggregates>,
    schema: SchemaRef,
    /// Of the table in a snapshot.
    stored: SchemaRef,
}

impl OperatorFactory for Factory {
    fn build(&self, context: &OperatorContext) -> Result<Box<dyn Operator>, Fault> {
        let overlap = usize::try_from(self.spec.size_ms / self.spec.slide_ms).unwrap_or(usize::MAX);
        Ok(Box::new(Aligned {
            rejects: Rejects {
                node: context.node.clone(),
                worker: context.worker,
                on_error: self.spec.on_error,
                kind: FaultKind::Data,
            },
            spec: self.spec.clone(),
            reader: KeyReader::new(&self.input, &self.spec.key)?,
            aggregates: self.aggregates.clone(),
            schema: self.schema.clone(),
            stored: self.stored.clone(),
            watermark: WATERMARK_MIN,
            slice_ms: common_ms(self.spec.size_ms, self.spec.slide_ms),
            slices: BTreeMap::new(),
            sums: Sums::default(),
            unfired: BTreeSet::new(),
            pool: Pool::new(SPARE_PANES_MAX.min(SPARE_PANES + overlap)),
            results: VecDeque::new(),
            numbers: Vec::new(),
        }))
    }
    fn uses_time(&self) -> bool {
        true
    }
}

struct Aligned {
    rejects: Rejects,
    spec: AlignedSpec,
    reader: KeyReader,
    aggregates: Arc<Aggregates>,
    schema: SchemaRef,
    stored: SchemaRef,
    watermark: i64,
    slice_ms: i64,
    /// By the slice's start.
    slices: BTreeMap<i64, Pane>,
    sums: Sums,
    /// Starts of windows that have rows and have not fired.
    unfired: BTreeSet<i64>,
    pool: Pool,
    /// Fired, not yet emitted.
    results: VecDeque<Fired>,
    /// Group of each row: memory of earlier batches.
    numbers: Vec<usize>,
}

/// Results of one window.
struct Fired {
    start: i64,
    columns: Vec<ArrayRef>,
    rows: usize,
    emitted: usize,
}

/// Which rows of a batch belong to which slice.
enum Spread {
    One(i64),
    Many(Vec<(i64, Vec<u32>)>),
}

impl Aligned {
    fn end(&self, window: i64) -> i64 {
        window.saturating_add(self.spec.size_ms)
    }

    /// The last event time that belongs to the window.
    fn last(&self, window: i64) -> i64 {
        self.end(window) - 1
    }

    /// The last event time that belongs to the slice.
    fn last_of_slice(&self, slice: i64) -> i64 {
        slice.saturating_add(self.slice_ms) - 1
    }

    fn is_gone(&self, window: i64) -> bool {
        self.last(window).saturating_add(self.spec.allowed_lateness_ms) <= self.watermark
    }

    /// The windows of a slice, the last one first. None: it lies between windows, which the slide may leave.
    fn windows(&self, slice: i64) -> impl Iterator<Item = i64> + use<> {
        let (size, slide) = (self.spec.size_ms, self.spec.slide_ms);
        let last = window_start(slice, self.spec.offset_ms, slide);
        std::iter::successors(Some(last), move |window| window.checked_sub(slide))
            .take_while(move |window| window.saturating_add(size) > slice)
    }

    /// No window will need it.
    fn is_late(&self, slice: i64) -> bool {
        self.windows(slice).next().is_none_or(|last| self.is_gone(last))
    }

    fn spread(&self, times: &[i64]) -> Spread {
        let (min, max) = times.iter().fold((i64::MAX, i64::MIN), |(lo, hi), &t| (lo.min(t), hi.max(t)));
        let first = window_start(min, self.spec.offset_ms, self.slice_ms);
        if max <= self.last_of_slice(first) {
            return Spread::One(first);
        }
        let mut index: HashMap<i64, usize> = HashMap::new();
        let mut parts: Vec<(i64, Vec<u32>)> = Vec::new();
        let (mut current, mut range) = (0, None);
        for (row, &time) in times.iter().enumerate() {
            if !range.as_ref().is_some_and(|r: &RangeInclusive<i64>| r.contains(&time)) {
                let start = window_start(time, self.spec.offset_ms, self.slice_ms);
                current = *index.entry(start).or_insert_with(|| {
                    parts.push((start, Vec::new()));
                    parts.len() - 1
                });
                range = Some(start..=self.last_of_slice(start));
            }
            parts[current].1.push(row as u32);
        }
        Spread::Many(parts)
    }

    fn late(&self, mut rows: Batch, out: &mut dyn Collector) {
        out.count("late_rows", rows.num_rows() as u64);
        rows.hashes = None;
        out.emit(1, rows);
    }

    /// Takes out the rows that no window takes, and leaves the slices of the others, with their rows.
    fn split_late(
        &self,
        batch: &Batch,
        times: &[i64],
        parts: &mut Vec<(i64, Vec<u32>)>,
        out: &mut dyn Collector,
    ) -> Result<(), Fault> {
        let (mut late, mut between): (Vec<u32>, u64) = (Vec::new(), 0);
        parts.retain(|(slice, rows)| {
            if !self.is_late(*slice) {
                return true;
            }
            for &row in rows {
                // Between windows a row is late by itself, as in Flink.
                let is_late = times[row as usize].saturating_add(self.spec.allowed_lateness_ms) <= self.watermark;
                if is_late { late.push(row) } else { between += 1 }
            }
            false
        });
        if between > 0 {
            out.count("rows_between_windows", between);
        }
        if late.len() == batch.num_rows() {
            self.late(batch.clone(), out);
        } else if !late.is_empty() {
            late.sort_unstable();
            self.late(batch.take(&UInt32Array::from(late))?, out);
        }
        Ok(())
    }

    /// Adds the rows of `parts` to their windows.
    fn add(
        &mut self,
        batch: &Batch,
        parts: Vec<(i64, Option<UInt32Array>)>,
        out: &mut dyn Collector,
    ) -> Result<(), Fault> {
        let Ok(inputs) = self.aggregates.read(batch) else {
            return self.add_good(batch, parts, out);
        };
        let keys = self.reader.read(batch)?;
        let mut again = BTreeMap::<i64, Vec<(i64, Vec<u32>)>>::new();
        for (slice, rows) in parts {
            let mut pane = match self.slices.remove(&slice) {
                Some(pane) => pane,
                None => {
                    self.expect(slice);
                    self.new_pane()?
                }
            };
            let mut numbers = std::mem::take(&mut self.numbers);
            pane.update(&keys, &inputs, batch.num_rows(), rows.as_ref(), &mut numbers).map_err(|e| self.broken(&e))?;
            self.sums.changed(slice);
            let fired = |window: &i64| self.last(*window) <= self.watermark && !self.is_gone(*window);
            let mut fired = self.windows(slice).skip_while(|window| !fired(window)).take_while(fired).peekable();
            if fired.peek().is_some() {
                let mut touched: Vec<u32> = numbers.iter().map(|&n| n as u32).collect();
                touched.sort_unstable();
                touched.dedup();
                fired.for_each(|window| again.entry(window).or_default().push((slice, touched.clone())));
            }
            self.numbers = numbers;
            self.slices.insert(slice, pane);
        }
        again.into_iter().try_for_each(|(window, touched)| self.fire_again(window, touched))
    }

    /// The same for a batch with rows that cannot be read: rejects those among `parts` (not late ones beside them), and
    /// adds the others.
    fn add_good(
        &mut self,
        batch: &Batch,
        parts: Vec<(i64, Option<UInt32Array>)>,
        out: &mut dyn Collector,
    ) -> Result<(), Fault> {
        for (start, rows) in parts {
            let part = match rows {
                Some(rows) => batch.take(&rows)?,
                None => batch.clone(),
            };
            let reads = |rows: &Batch| self.aggregates.read(rows).map(drop).map_err(|e| unreadable(&e));
            let good = UInt32Array::from(sieve(&part, &self.rejects, out, reads)?);
            if !good.is_empty() {
                let part = part.take(&good)?;
                // By itself each row can be read, so it ends here even if together they cannot.
                if let Err(error) = self.aggregates.read(&part) {
                    return Err(self.broken(&error));
                }
                self.add(&part, vec![(start, None)], out)?;
            }
        }
        Ok(())
    }

    /// The windows of a slice will fire that have not yet.
    fn expect(&mut self, slice: i64) {
        let watermark = self.watermark;
        let last = |window: i64| window.saturating_add(self.spec.size_ms) - 1;
        self.unfired.extend(self.windows(slice).take_while(|&window| last(window) > watermark));
    }

    fn new_pane(&mut self) -> Result<Pane, Fault> {
        self.pool.take(&self.reader, &self.aggregates).map_err(|e| broken(&self.rejects, &e))
    }

    /// Late rows within the allowed lateness have come: their keys, by slice and number, fire at once.
    fn fire_again(&mut self, window: i64, touched: Vec<(i64, Vec<u32>)>) -> Result<(), Fault> {
        let mut result = self.new_pane()?;
        for (slice, numbers) in touched {
            if let Some(pane) = self.slices.get(&slice) {
                result.groups.add_from(&pane.groups, Some(&numbers), &mut self.numbers);
            }
        }
        let end = self.end(window);
        for pane in self.slices.range_mut(window..end).map(|(_, pane)| pane) {
            result.absorb_known(pane, &self.aggregates).map_err(|e| broken(&self.rejects, &e))?;
        }
        self.push_result(window, result)
    }

    /// Takes in a part of a slice from a snapshot.
    fn merge(&mut self, stored: &StoredPane) -> Result<(), Fault> {
        let mut pane = match self.slices.remove(&stored.start) {
            Some(pane) => pane,
            None => self.new_pane()?,
        };
        pane.merge(&stored.keys, &stored.state, &self.aggregates).map_err(|e| self.broken(&e))?;
        if !stored.fired {
            self.expect(stored.start);
        }
        self.slices.insert(stored.start, pane);
        Ok(())
    }

    /// Fires the first window for which it is time, or drops the slices that no window needs any more. Whether one has fired.
    fn fire_next(&mut self) -> Result<bool, Fault> {
        let due = self.unfired.first().copied().filter(|&window| self.last(window) <= self.watermark);
        let Some(window) = due else {
            while let Some(slice) = self.slices.keys().next().copied().filter(|&slice| self.is_late(slice)) {
                let pane = self.slices.remove(&slice).expect("found above");
                self.recycle(pane)?;
            }
            return Ok(false);
        };
        self.unfired.remove(&window);
        let result = match self.slices.remove(&window) {
            // The only one that has these rows.
            Some(pane) if self.slice_ms == self.spec.size_ms && self.is_late(window) => pane,
            pane => {
                self.slices.extend(pane.map(|pane| (window, pane)));
                let end = self.end(window);
                let parts = (&self.reader, &*self.aggregates);
                let sum = self.sums.of(window..end, self.spec.slide_ms, &mut self.slices, parts, &mut self.pool);
                sum.map_err(|e| self.broken(&e))?
            }
        };
        self.push_result(window, result)?;
        Ok(true)
    }

    fn push_result(&mut self, start: i64, mut pane: Pane) -> Result<(), Fault> {
        let rows = pane.groups.len();
        let columns = pane.drain(&self.reader, &self.aggregates).map_err(|e| self.broken(&e))?;
        self.results.push_back(Fired { start, columns, rows, emitted: 0 });
        self.recycle(pane)
    }

    fn recycle(&mut self, pane: Pane) -> Result<(), Fault> {
        self.pool.give(pane, &self.aggregates).map_err(|e| broken(&self.rejects, &e))
    }

    /// Emits about a batch of results.
    fn emit(&mut self, out: &mut dyn Collector) -> Result<Progress, Fault> {
        let mut emitted = 0;
        loop {
            let Some(mut fired) = self.results.pop_front() else {
                if self.fire_next()? {
                    continue;
                }
                return Ok(Progress::Done);
            };
            if emitted >= BATCH_ROWS_MAX {
                self.results.push_front(fired);
                return Ok(Progress::More);
            }
            let rows = (fired.rows - fired.emitted).min(BATCH_ROWS_MAX);
            out.emit(0, self.chunk(&fired, rows)?);
            emitted += rows;
            fired.emitted += rows;
            if fired.emitted < fired.rows {
                self.results.push_front(fired);
            }
        }
    }

    fn chunk(&self, fired: &Fired, rows: usize) -> Result<Batch, Fault> {
        let end = self.end(fired.start);
        let time = |t: i64| Arc::new(TimestampMillisecondArray::from(vec![t; rows])) as ArrayRef;
        let mut columns: Vec<ArrayRef> = fired.columns.iter().map(|c| c.slice(fired.emitted, rows)).collect();
        let keys = self.spec.key.len();
        columns.splice(keys..keys, [time(fired.start), time(end)]);
        let times = ScalarBuffer::from(vec![end - 1; rows]);
        Ok(Batch::new(RecordBatch::try_new(self.schema.clone(), columns)?).with_times(Some(times)))
    }

    fn broken(&self, error: &DataFusionError) -> Fault {
        broken(&self.rejects, error)
    }
}

fn broken(rejects: &Rejects, error: &DataFusionError) -> Fault {
    Fault::data(format!("an aggregate fails: {}", message(error))).at(&rejects.node)
}

impl Operator for Aligned {
    fn on_batch(&mut self, _input: usize, batch: Batch, out: &mut dyn Collector) -> Result<Progress, Fault> {
        if batch.is_empty() {
            return Ok(Progress::Done);
        }
        let Some(times) = &batch.times else {
            return Err(Fault::config("rows without event time reach a window")
                .at(&self.rejects.node)
                .with_help("give the source an `event_time:`"));
        };
        if batch.kinds.is_some() {
            return Err(Fault::config("a stream with updates and deletes reaches a window, which takes inserts only")
                .at(&self.rejects.node));
        }
        let parts = match self.spread(times) {
            Spread::One(slice) if !self.is_late(slice) => vec![(slice, None)],
            spread => {
                let mut parts = match spread {
                    Spread::One(slice) => vec![(slice, (0..batch.num_rows() as u32).collect())],
                    Spread::Many(parts) => parts,
                };
                self.split_late(&batch, times, &mut parts, out)?;
                parts.into_iter().map(|(start, rows)| (start, Some(rows.into()))).collect()
            }
        };
        if !parts.is_empty() {
            self.add(&batch, parts, out)?;
        }
        self.emit(out)
    }

    fn on_time(&mut self, now: Now, out: &mut dyn Collector) -> Result<Progress, Fault> {
        self.watermark = self.watermark.max(now.watermark);
        self.emit(out)
    }

    fn resume(&mut self, out: &mut dyn Collector) -> Result<Progress, Fault> {
        self.emit(out)
    }

    fn snapshot(&mut self, _form: Form) -> Result<Snapshot, Fault> {
        let mut panes = Vec::with_capacity(self.slices.len());
        for (&slice, pane) in &mut self.slices {
            // What has not fired of several windows the watermark says.
            let fired = self.slice_ms == self.spec.size_ms && !self.unfired.contains(&slice);
            let frozen = FrozenPane::new(slice, fired, pane, &self.aggregates);
            panes.push(frozen.map_err(|e| broken(&self.rejects, &e))?);
        }
        Ok(Snapshot { tables: vec![stored::table(self.stored.clone(), panes)], ..Snapshot::default() })
    }

    fn restore(&mut self, from: &dyn Restore) -> Result<(), Fault> {
        self.watermark = from.now().watermark;
        stored::restore(&self.stored.clone(), from, |stored| self.merge(&stored))
    }

    fn held(&self) -> u64 {
        self.slices.values().map(|p| p.groups.len() as u64).sum()
    }
}
