//! The operator: rows into windows, and results out of them.
//!
//! Law: rows are taken in the order in which they came. Those that do not fire anything are added in one step; a window that has fired by a row
//! gets its next row in the next step.

use std::sync::Arc;

use arrow::array::UInt32Array;
use arrow::array::{Array, ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, TimestampMillisecondArray};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::{Float64Type, Int64Type};
use datafusion_common::DataFusionError;
use tidemill_model::limits::BATCH_ROWS_MAX;
use tidemill_model::logic::TimeDomain;
use tidemill_model::snapshot::{Form, Restore, Snapshot};
use tidemill_model::time::{Now, WATERMARK_MAX, WATERMARK_MIN};
use tidemill_model::window::{Fires, Gap, Windows};
use tidemill_model::{Batch, Collector, Fault, FaultKind, Operator, OperatorContext, Progress};

use super::super::aggregate::{Inputs, Result as Computed, unreadable};
use super::super::groups::KeyReader;
use super::super::start::window_start;
use super::contents::{Contents, Step};
use super::keys::Keys;
use super::store::{NEVER, NONE, Store, Window};
use super::{Plan, stored};
use crate::poison::{Rejects, sieve};
use crate::sql::{evaluate, message};

const EVENT: usize = TimeDomain::Event as usize;
const PROCESSING: usize = TimeDomain::Processing as usize;

pub(super) struct Keyed {
    plan: Arc<Plan>,
    rejects: Rejects,
    reader: KeyReader,
    keys: Keys,
    store: Store,
    contents: Contents,
    /// The watermark, and the last ms of the wall clock that is over.
    clocks: [i64; 2],
    /// The watermark has moved on, and not all that is due has been looked at. What is set behind the watermark waits until it moves on.
    advanced: bool,
    /// Global windows have fired at the end of the input.
    ended: bool,
    step: Step,
    /// Windows that fire when the step is done.
    fires: Vec<u32>,
    /// Windows that have got rows behind their end.
    again: Vec<u32>,
    /// Windows that were merged away in this step.
    merged: Vec<u32>,
    /// Windows without an end that were purged.
    purged: Vec<u32>,
    results: Vec<Batch>,
    /// Key of each row: memory of earlier batches.
    numbers: Vec<u32>,
}

/// What is read of a batch.
struct Read {
    inputs: Inputs,
    gaps: Option<Int64Array>,
    deltas: Option<Float64Array>,
}

impl Keyed {
    pub fn new(plan: Arc<Plan>, reader: KeyReader, context: &OperatorContext) -> Computed<Self> {
        let rejects = Rejects {
            node: context.node.clone(),
            worker: context.worker,
            on_error: plan.spec.on_error,
            kind: FaultKind::Data,
        };
        Ok(Self {
            rejects,
            keys: Keys::new(&reader),
            store: Store::default(),
            contents: Contents::new(&plan.aggregates)?,
            reader,
            plan,
            clocks: [WATERMARK_MIN, context.processing_ms - 1],
            advanced: false,
            ended: false,
            step: Step::default(),
            fires: Vec::new(),
            again: Vec::new(),
            merged: Vec::new(),
            purged: Vec::new(),
            results: Vec::new(),
            numbers: Vec::new(),
        })
    }

    /// The clock that ends windows.
    fn clock(&self) -> i64 {
        self.clocks[self.plan.spec.time as usize]
    }

    /// Whether a window that ends then is dropped already.
    fn is_gone(&self, end: i64) -> bool {
        (end - 1).saturating_add(self.plan.spec.allowed_lateness_ms) <= self.clock()
    }

    fn read(&self, batch: &Batch) -> Result<Read, String> {
        let column = |expr| evaluate(expr, batch.rows()).map_err(|e| message(&e));
        let inputs = self.plan.aggregates.read(batch).map_err(|e| unreadable(&e))?;
        let gaps = self.plan.gap.as_ref().map(|gap| column(gap.as_ref())).transpose()?;
        let gaps = gaps.map(|gaps| gaps.as_primitive::<Int64Type>().clone());
        if let Some(gap) = gaps.iter().flatten().find(|gap| gap.is_none_or(|gap| gap < 1)) {
            let gap = gap.map_or("null".to_owned(), |gap| format!("{gap} ms"));
            return Err(format!("the gap of a session is {gap}, and must be 1 ms at least"));
        }
        let deltas = self.plan.delta.as_ref().map(|delta| column(delta.as_ref())).transpose()?;
        Ok(Read { inputs, gaps, deltas: deltas.map(|deltas| deltas.as_primitive::<Float64Type>().clone()) })
    }

    /// Adds rows that can be read.
    fn add(&mut self, batch: &Batch, read: &Read, out: &mut dyn Collector) -> Result<(), Fault> {
        let keys = self.reader.read(batch)?;
        let mut numbers = std::mem::take(&mut self.numbers);
        self.keys.number(&keys, batch.num_rows(), &mut numbers);
        let by_event = self.plan.spec.time == TimeDomain::Event;
        let event_times = batch.times.clone();
        let (mut late, mut between, mut loose) = (Vec::new(), 0, Vec::new());
        for (row, &key) in numbers.iter().enumerate() {
            let event_time = event_times.as_ref().map(|times| times[row]);
            let time = if by_event { event_time.unwrap_or_default() } else { self.clocks[PROCESSING] + 1 };
            if self.place(row, key, time, event_time, batch, read)? {
                continue;
            }
            // Between windows a row is late by itself, as in Flink.
            if time.saturating_add(self.plan.spec.allowed_lateness_ms) <= self.clock() {
                late.push(row as u32);
            } else {
                between += 1;
            }
            loose.push(key);
        }
        self.numbers = numbers;
        self.finish_step(batch, read)?;
        let mut again = std::mem::take(&mut self.again);
        again.retain(|&slot| {
            let (window, clock) = (&mut self.store[slot], self.clocks[self.plan.spec.time as usize]);
            std::mem::take(&mut window.again) && window.live && window.last_time() <= clock
        });
        self.fire(&again)?;
        self.drop_purged();
        loose.sort_unstable();
        loose.dedup();
        loose.iter().filter(|&&key| self.store.head(key) == NONE).for_each(|&key| self.keys.remove(key));
        if between > 0 {
            out.count("rows_between_windows", between);
        }
        if !late.is_empty() {
            let mut late = batch.take(&UInt32Array::from(late))?;
            out.count("late_rows", late.num_rows() as u64);
            late.hashes = None;
            out.emit(1, late);
        }
        Ok(())
    }

    /// Puts a row into its windows. Whether there is one that takes it.
    fn place(
        &mut self,
        row: usize,
        key: u32,
        time: i64,
        event_time: Option<i64>,
        batch: &Batch,
        read: &Read,
    ) -> Result<bool, Fault> {
        let (size, step) = match self.plan.spec.windows {
            Windows::Global => {
                let slot = match self.store.head(key) {
                    NONE => self.store.add(Window::new(key, i64::MIN, i64::MAX), NONE),
                    slot => slot,
                };
                self.put(row, slot, time, event_time, batch, read)?;
                return Ok(true);
            }
            Windows::Session(ref gap) => {
                let gap = match (gap, &read.gaps) {
                    (Gap::Ms(gap), _) => *gap,
                    (_, gaps) => gaps.as_ref().map_or(1, |gaps| gaps.value(row)),
                };
                let slot = self.session(key, time, time.saturating_add(gap), batch, read)?;
                if let Some(slot) = slot {
                    self.put(row, slot, time, event_time, batch, read)?;
                }
                return Ok(slot.is_some());
            }
            Windows::Tumbling { size_ms } => (size_ms, size_ms),
            Windows::Sliding { size_ms, slide_ms } => (size_ms, slide_ms),
            Windows::Cumulate { size_ms, step_ms } => (size_ms, step_ms),
        };
        let offset = self.plan.spec.offset_ms;
        let cumulates = matches!(self.plan.spec.windows, Windows::Cumulate { .. });
        let first = window_start(time, offset, if cumulates { size } else { step });
        let mut end = first.saturating_add(size);
        let (mut taken, mut before) = (false, NONE);
        // The one that ends last comes first: when that is gone, so are the others.
        while end > time && !self.is_gone(end) {
            let slot = match self.store.find(key, before, end) {
                Ok(slot) => slot,
                Err(behind) => {
                    let start = if cumulates { first } else { end.saturating_sub(size) };
                    self.store.add(Window::new(key, start, end), behind)
                }
            };
            self.put(row, slot, time, event_time, batch, read)?;
            (taken, before) = (true, slot);
            end = end.saturating_sub(step);
        }
        Ok(taken)
    }

    /// The session that takes `[start, end)`, which may be several that become one. None: it would be gone already.
    fn session(
        &mut self,
        key: u32,
        mut start: i64,
        mut end: i64,
        batch: &Batch,
        read: &Read,
    ) -> Result<Option<u32>, Fault> {
        let mut at = self.store.head(key);
        while at != NONE && self.store[at].start > end {
            at = self.store[at].next;
        }
        // Those that overlap or touch lie one behind the other; the earliest of them stays.
        let mut found = Vec::new();
        while at != NONE && self.store[at].end >= start {
            found.push(at);
            at = self.store[at].next;
        }
        let Some(stays) = found.pop() else {
            if self.is_gone(end) {
                return Ok(None);
            }
            return Ok(Some(self.store.add(Window::new(key, start, end), NONE)));
        };
        start = start.min(self.store[stays].start);
        end = found.first().map_or(end, |&last| end.max(self.store[last].end)).max(self.store[stays].end);
        if !found.is_empty() {
            if found.iter().chain([&stays]).any(|&slot| self.store[slot].number != NONE) {
                self.finish_step(batch, read)?;
            }
            self.number(stays);
            found.iter().rev().for_each(|&gone| self.merge(gone, stays));
        }
        let window = &mut self.store[stays];
        (window.start, window.end) = (start, end);
        Ok(Some(stays))
    }

    /// Leaves what `gone` has to `stays`, which is in the step.
    fn merge(&mut self, gone: u32, stays: u32) {
        let from = self.store[gone].clone();
        self.store.unlink(gone);
        if from.filled {
            self.step.stored.push(gone);
            self.step.stored_numbers.push(self.store[stays].number as usize);
        }
        self.merged.push(gone);
        let into = &mut self.store[stays];
        into.filled |= from.filled;
        into.rows += from.rows;
        into.max_time = into.max_time.max(from.max_time);
        into.fire_at = into.fire_at.min(from.fire_at);
        into.last = into.last.or(from.last);
    }

    /// The number of a window in the step.
    fn number(&mut self, slot: u32) -> usize {
        let window = &mut self.store[slot];
        if window.number == NONE {
            window.number = self.step.slots.len() as u32;
            self.step.slots.push(slot);
            if window.filled {
                self.step.stored.push(slot);
                self.step.stored_numbers.push(window.number as usize);
            }
        }
        window.number as usize
    }

    /// Adds a row to a window.
    fn put(
        &mut self,
        row: usize,
        slot: u32,
        time: i64,
        event_time: Option<i64>,
        batch: &Batch,
        read: &Read,
    ) -> Result<(), Fault> {
        if self.store[slot].fires {
            self.finish_step(batch, read)?;
        }
        let number = self.number(slot);
        self.step.rows.push(row as u32);
        self.step.numbers.push(number);
        let window = &mut self.store[slot];
        window.max_time = window.max_time.max(event_time.unwrap_or(i64::MIN));
        window.filled = true;
        let clock = self.clocks[self.plan.spec.time as usize];
        let is_over = self.plan.spec.windows.bounded() && window.last_time() <= clock;
        let fires = match self.plan.trigger.fires {
            Fires::Count(rows) => {
                window.rows += 1;
                let full = window.rows >= rows;
                window.rows = if full { 0 } else { window.rows };
                full
            }
            Fires::Delta { threshold, .. } => {
                let value = read.deltas.as_ref().filter(|deltas| deltas.is_valid(row)).map(|deltas| deltas.value(row));
                let differs =
                    matches!((window.last, value), (Some(last), Some(value)) if (value - last).abs() > threshold);
                window.last = if differs { value } else { window.last.or(value) };
                differs
            }
            Fires::AtEnd | Fires::Early(_) | Fires::Every(..) => {
                if is_over && self.plan.fires_at_end() && !window.again {
                    window.again = true;
                    self.again.push(slot);
                }
                false
            }
        };
        if let Some((domain, every)) = self.plan.every()
            && window.fire_at == NEVER
            && !is_over
        {
            let now = if domain == TimeDomain::Event { time } else { self.clocks[PROCESSING] + 1 };
            // Flink's Java rounds towards zero.
            window.fire_at = (now - now % every).saturating_add(every);
            if self.plan.ends_by(domain) {
                window.fire_at = window.fire_at.min(window.last_time());
            }
        }
        if fires {
            window.fires = true;
            self.fires.push(slot);
        }
        self.schedule(slot, self.clocks);
        Ok(())
    }

    /// Puts a window into the queues for what is due behind `after`.
    fn schedule(&mut self, slot: u32, after: [i64; 2]) {
        for domain in [TimeDomain::Event, TimeDomain::Processing] {
            let (clock, window) = (domain as usize, &self.store[slot]);
            let mut due = NEVER;
            if self.plan.ends_by(domain) {
                let last = window.last_time();
                if self.plan.fires_at_end() && last > after[clock] {
                    due = last;
                }
                due = due.min(last.saturating_add(self.plan.spec.allowed_lateness_ms));
            }
            if self.plan.every().is_some_and(|(every, _)| every == domain) {
                due = due.min(window.fire_at);
            }
            self.store.schedule(slot, clock, due);
        }
    }

    /// Adds what has gathered, and fires what fires by it.
    fn finish_step(&mut self, batch: &Batch, read: &Read) -> Result<(), Fault> {
        if self.step.slots.is_empty() {
            return Ok(());
        }
        let mut step = std::mem::take(&mut self.step);
        // Rows are taken in order: as many are all.
        let all = step.rows.len() == batch.num_rows() && step.rows.windows(2).all(|pair| pair[0] < pair[1]);
        let count = self.store.capacity();
        self.contents.apply(&step, &read.inputs, all, count).map_err(|e| self.broken(&e))?;
        for &slot in &step.slots {
            self.store[slot].number = NONE;
        }
        step.clear();
        self.step = step;
        for slot in std::mem::take(&mut self.merged) {
            self.contents.forget(slot);
            self.store.release(slot);
        }
        let fires = std::mem::take(&mut self.fires);
        fires.iter().for_each(|&slot| self.store[slot].fires = false);
        self.fire(&fires)
    }

    /// Results of windows, in this order. Each is there once.
    fn fire(&mut self, slots: &[u32]) -> Result<(), Fault> {
        let filled: Vec<u32> = slots.iter().copied().filter(|&slot| self.store[slot].filled).collect();
        for slots in filled.chunks(BATCH_ROWS_MAX) {
            let mut columns = self.contents.results(slots).map_err(|e| self.broken(&e))?;
            let windows = || slots.iter().map(|&slot| &self.store[slot]);
            let keys: Vec<u32> = windows().map(|window| window.key).collect();
            let mut all = self.keys.columns(&self.reader, &keys)?;
            let times: Option<Vec<i64>> = if self.plan.spec.windows.bounded() {
                let time = |of: fn(&Window) -> i64| {
                    Arc::new(TimestampMillisecondArray::from_iter_values(windows().map(of))) as ArrayRef
                };
                all.extend([time(|window| window.start), time(|window| window.end)]);
                Some(windows().map(Window::last_time).collect())
            } else {
                // Without event times of the rows there is none.
                windows().map(|window| Some(window.max_time).filter(|&time| time != i64::MIN)).collect()
            };
            all.append(&mut columns);
            let rows = RecordBatch::try_new(self.plan.schema.clone(), all)?;
            self.results.push(Batch::new(rows).with_times(times.map(ScalarBuffer::from)));
        }
        if self.plan.trigger.purge {
            for &slot in &filled {
                self.store[slot].filled = false;
                self.contents.forget(slot);
            }
            if !self.plan.spec.windows.bounded() {
                self.purged.extend(filled);
            }
        }
        Ok(())
    }

    /// Fires about a batch of windows for which it is time by a clock. Whether there may be more.
    fn fire_due(&mut self, domain: TimeDomain) -> Result<bool, Fault> {
        let (clock, now) = (domain as usize, self.clocks[domain as usize]);
        let (mut fired, mut gone) = (Vec::new(), Vec::new());
        while fired.len() < BATCH_ROWS_MAX && gone.len() < BATCH_ROWS_MAX {
            let Some((time, slot)) = self.store.due(clock, now) else { break };
            let ends = self.plan.ends_by(domain);
            let window = &mut self.store[slot];
            let (last, mut fires) = (window.last_time(), false);
            if let Some((_, every)) = self.plan.every().filter(|every| every.0 == domain)
                && window.fire_at <= time
            {
                fires = true;
                window.fire_at = window.fire_at.saturating_add(every);
                let is_over = self.plan.spec.windows.bounded() && last <= self.clocks[self.plan.spec.time as usize];
                if ends {
                    window.fire_at = if time >= last { NEVER } else { window.fire_at.min(last) };
                } else if is_over {
                    window.fire_at = NEVER;
                }
            }
            fires |= ends && self.plan.fires_at_end() && time == last;
            let is_gone = ends && time >= last.saturating_add(self.plan.spec.allowed_lateness_ms);
            if fires {
                if window.fires {
                    // Twice in one go: with what it has now.
                    self.fire_now(&mut fired)?;
                }
                self.store[slot].fires = true;
                fired.push(slot);
            }
            if is_gone {
                gone.push(slot);
            } else {
                let mut after = self.clocks;
                after[clock] = time;
                self.schedule(slot, after);
            }
        }
        let more = !fired.is_empty() || !gone.is_empty();
        self.fire_now(&mut fired)?;
        gone.into_iter().for_each(|slot| self.drop_window(slot));
        self.drop_purged();
        Ok(more)
    }

    fn fire_now(&mut self, fired: &mut Vec<u32>) -> Result<(), Fault> {
        fired.iter().for_each(|&slot| self.store[slot].fires = false);
        self.fire(fired)?;
        fired.clear();
        Ok(())
    }

    /// At the end of the input what has no other end fires.
    fn fire_rest(&mut self) -> Result<(), Fault> {
        let is_end = self.clocks[EVENT] == WATERMARK_MAX && !self.plan.spec.windows.bounded();
        if is_end && self.plan.trigger.fires == Fires::AtEnd && !self.ended {
            self.ended = true;
            let all: Vec<u32> = self.store.live().collect();
            self.fire(&all)?;
        }
        Ok(())
    }

    fn drop_window(&mut self, slot: u32) {
        let key = self.store[slot].key;
        if !self.store.unlink(slot) {
            self.keys.remove(key);
        }
        self.contents.forget(slot);
        self.store.release(slot);
    }

    /// A window without an end goes when there is nothing more to know of it.
    fn drop_purged(&mut self) {
        for slot in std::mem::take(&mut self.purged) {
            let window = &self.store[slot];
            if window.live && !window.filled && window.rows == 0 && window.last.is_none() {
                self.drop_window(slot);
            }
        }
    }

    /// Emits what is there, and what is due, about a batch at a time.
    fn emit(&mut self, out: &mut dyn Collector) -> Result<Progress, Fault> {
        loop {
            if !self.results.is_empty() {
                let results = std::mem::take(&mut self.results);
                let rows: usize = results.iter().map(Batch::num_rows).sum();
                match rows <= BATCH_ROWS_MAX {
                    true => out.emit(0, Batch::concat(&results)?),
                    false => results.into_iter().for_each(|batch| out.emit(0, batch)),
                }
                return Ok(Progress::More);
            }
            self.advanced = self.advanced && self.fire_due(TimeDomain::Event)?;
            if !self.advanced && !self.fire_due(TimeDomain::Processing)? {
                return Ok(Progress::Done);
            }
        }
    }

    fn broken(&self, error: &DataFusionError) -> Fault {
        Fault::data(format!("an aggregate fails: {}", message(error))).at(&self.rejects.node)
    }
}

impl Operator for Keyed {
    fn on_batch(&mut self, _input: usize, batch: Batch, out: &mut dyn Collector) -> Result<Progress, Fault> {
        if batch.is_empty() {
            return Ok(Progress::Done);
        }
        if batch.times.is_none() && self.plan.ends_by(TimeDomain::Event) {
            return Err(Fault::config("rows without event time reach a window")
                .at(&self.rejects.node)
                .with_help("give the source an `event_time:`"));
        }
        if batch.kinds.is_some() {
            return Err(Fault::config("a stream with updates and deletes reaches a window, which takes inserts only")
                .at(&self.rejects.node));
        }
        match self.read(&batch) {
            Ok(read) => self.add(&batch, &read, out)?,
            Err(_) => {
                let good = sieve(&batch, &self.rejects, out, |rows| self.read(rows).map(drop))?;
                if !good.is_empty() {
                    let batch = batch.take(&UInt32Array::from(good))?;
                    // By itself each row can be read, so it ends here even if together they cannot.
                    let read = self.read(&batch).map_err(|e| Fault::data(e).at(&self.rejects.node))?;
                    self.add(&batch, &read, out)?;
                }
            }
        }
        self.emit(out)
    }

    fn on_time(&mut self, now: Now, out: &mut dyn Collector) -> Result<Progress, Fault> {
        self.advanced |= now.watermark > self.clocks[EVENT];
        self.clocks[EVENT] = self.clocks[EVENT].max(now.watermark);
        self.clocks[PROCESSING] = self.clocks[PROCESSING].max(now.processing_ms.saturating_sub(1));
        self.fire_rest()?;
        self.emit(out)
    }

    fn resume(&mut self, out: &mut dyn Collector) -> Result<Progress, Fault> {
        self.emit(out)
    }

    fn snapshot(&mut self, _form: Form) -> Result<Snapshot, Fault> {
        let table = stored::table(self.plan.stored.clone(), &self.store, &self.keys, &self.contents);
        Ok(Snapshot { tables: vec![table.map_err(|e| self.broken(&e))?], ..Snapshot::default() })
    }

    fn restore(&mut self, from: &dyn Restore) -> Result<(), Fault> {
        self.clocks[EVENT] = from.now().watermark;
        self.clocks[PROCESSING] = self.clocks[PROCESSING].max(from.now().processing_ms.saturating_sub(1));
        let mut numbers = Vec::new();
        stored::restore(&self.plan.stored.clone(), from, |rows| {
            self.keys.number_bytes(rows.keys(), &mut numbers);
            let windows = rows.windows(&numbers);
            let (mut slots, mut filled) = (Vec::new(), Vec::new());
            for (row, window) in windows.enumerate() {
                if window.filled {
                    filled.push(row as u32);
                }
                let slot = self.store.add(window, NONE);
                slots.push(slot);
            }
            let of_filled: Vec<u32> = filled.iter().map(|&row| slots[row as usize]).collect();
            let states = rows.states(&UInt32Array::from(filled))?;
            let put = self.contents.put(&of_filled, &states, self.store.capacity());
            put.map_err(|e| Fault::data(format!("an aggregate fails: {}", message(&e))))?;
            slots.iter().for_each(|&slot| self.schedule(slot, self.clocks));
            Ok(())
        })
    }

    fn held(&self) -> u64 {
        self.store.len() as u64
    }
}
