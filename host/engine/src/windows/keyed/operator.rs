//! The operator: rows into windows, and results out of them.
//!
//! Law: rows are taken in the order in which they came. Those that do not fire anything are added in one step; a window that has fired by a row
//! gets its next row in the next step.

use std::sync::Arc;

use arrow::array::{AsArray, Float64Array, Int64Array, UInt32Array};
use arrow::datatypes::{Float64Type, Int64Type};
use datafusion_common::DataFusionError;
use tidemill_model::logic::TimeDomain;
use tidemill_model::snapshot::{Form, Restore, Snapshot};
use tidemill_model::time::{Now, WATERMARK_MIN};
use tidemill_model::{Batch, Collector, Fault, FaultKind, Operator, OperatorContext, Progress};

use super::super::aggregate::{Inputs, Result as Computed, unreadable};
use super::super::groups::KeyReader;
use super::contents::{Contents, Step};
use super::keys::Keys;
use super::store::{NONE, Store};
use super::{Plan, stored};
use crate::poison::{Rejects, sieve};
use crate::sql::{evaluate, message};

pub(super) const EVENT: usize = TimeDomain::Event as usize;
pub(super) const PROCESSING: usize = TimeDomain::Processing as usize;

pub(super) struct Keyed {
    pub(super) plan: Arc<Plan>,
    pub(super) rejects: Rejects,
    pub(super) reader: KeyReader,
    pub(super) keys: Keys,
    pub(super) store: Store,
    pub(super) contents: Contents,
    /// The watermark, and the last ms of the wall clock that is over.
    pub(super) clocks: [i64; 2],
    /// The watermark has moved on, and not all that is due has been looked at. What is set behind the watermark waits until it moves on.
    pub(super) advanced: bool,
    /// Global windows have fired at the end of the input.
    pub(super) ended: bool,
    pub(super) step: Step,
    /// Windows that fire when the step is done.
    pub(super) fires: Vec<u32>,
    /// Windows that have got rows behind their end.
    pub(super) again: Vec<u32>,
    /// Windows that were merged away in this step.
    pub(super) merged: Vec<u32>,
    /// Windows without an end that were purged.
    pub(super) purged: Vec<u32>,
    pub(super) results: Vec<Batch>,
    /// Key of each row: memory of earlier batches.
    pub(super) numbers: Vec<u32>,
}

/// What is read of a batch.
pub(super) struct Read {
    pub inputs: Inputs,
    pub gaps: Option<Int64Array>,
    pub deltas: Option<Float64Array>,
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
    pub(super) fn clock(&self) -> i64 {
        self.clocks[self.plan.spec.time as usize]
    }

    /// Whether a window that ends then is dropped already.
    pub(super) fn is_gone(&self, end: i64) -> bool {
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
            self.store.prefetch(&numbers, row);
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

    /// Adds what has gathered, and fires what fires by it.
    pub(super) fn finish_step(&mut self, batch: &Batch, read: &Read) -> Result<(), Fault> {
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

    pub(super) fn broken(&self, error: &DataFusionError) -> Fault {
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
            let windows = rows.windows(&numbers, self.clocks[self.plan.spec.time as usize]);
            let (mut slots, mut filled) = (Vec::new(), Vec::new());
            for (row, (window, firing)) in windows.enumerate() {
                if window.filled {
                    filled.push(row as u32);
                }
                let slot = self.store.add(window, NONE);
                self.store.firing[slot as usize] = firing;
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
