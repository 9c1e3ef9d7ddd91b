//! Logic with state and timers per key. A call gets rows (or due timers) with the states of their keys and returns
//! what changes.
//!
//! Laws: rows of a key are processed in order of arrival, each call seeing what the calls before it stored; timers fire in
//! order of time, and a key's next timer only after the effects of the one before are applied (Flink's order);
//! timers set while firing fire in the same tick if they are due; one that rows set at or below the watermark waits until the
//! watermark moves on, as in Flink's `InternalTimerServiceImpl`, so that a later row may still delete it; a key with a timer
//! keeps its slot.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::buffer::ScalarBuffer;
use arrow::compute::take;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::util::display::array_value_to_string;
use tidemill_model::component::{StateDescriptor, StateKind};
use tidemill_model::entries::EntryReads;
use tidemill_model::key::KeyEncoder;
use tidemill_model::logic::{Effects, KeyedIn, Logic, LogicError, RowsIn, StateUpdate, TimeDomain, TimersIn};
use tidemill_model::operator::OpenedLogic;
use tidemill_model::snapshot::{Form, Restore, Snapshot};
use tidemill_model::state::{Slot, StateBackend, state_of_table};
use tidemill_model::time::Now;
use tidemill_model::{Batch, Collector, Fault, Operator, Progress};

use super::distinct::Distinct;
use super::entries::{EntryKeys, Reads};
use super::migrate::Migration;
use super::outputs::Parents;
use super::stored;
use super::swap::Next;
use super::trial::{Before, Trial};
use super::{Amplification, Common, Work};
use crate::poison::{Attempt, once, search};
use crate::timers::Timers;

/// Calls before others have their turn: a timer that sets the next one, and emits nothing, would go on for ever.
const ROUNDS_MAX: usize = 256;

pub(super) struct Keyed {
    common: Common,
    logic: Box<dyn Logic>,
    state: Box<dyn StateBackend>,
    /// One per input; they agree on types.
    encoders: Vec<KeyEncoder>,
    key_schema: SchemaRef,
    entry_keys: EntryKeys,
    timers: Timers,
    now: Now,
    work: Option<Work>,
    /// Timers may be due, ...
    firing: bool,
    /// ... also those of event time: the watermark has moved on.
    advanced: bool,
    rows_in: Amplification,
    timers_in: Amplification,
    distinct: Distinct,
    /// Values that an earlier version of the logic has written.
    migration: Migration,
    /// The logic is new, and may have to go.
    trial: Option<Trial>,
}

impl Keyed {
    pub fn new(
        common: Common,
        logic: Box<dyn Logic>,
        state: Box<dyn StateBackend>,
        encoders: Vec<KeyEncoder>,
        key_schema: SchemaRef,
    ) -> Result<Self, Fault> {
        let entry_keys = EntryKeys::new(&common.descriptor.states)?;
        Ok(Self {
            common,
            logic,
            state,
            encoders,
            key_schema,
            entry_keys,
            timers: Timers::default(),
            now: Now::START,
            work: None,
            firing: false,
            advanced: false,
            rows_in: Amplification::default(),
            timers_in: Amplification::default(),
            distinct: Distinct::default(),
            migration: Migration::default(),
            trial: None,
        })
    }

    /// Calls the logic, which may read lists and maps of these slots meanwhile.
    fn call(
        &mut self,
        slots: &[Slot],
        call: impl FnOnce(&mut dyn Logic, &mut dyn EntryReads) -> Result<Effects, LogicError>,
    ) -> Result<Result<Effects, LogicError>, Fault> {
        let (backend, states) = (self.state.as_mut(), &self.common.descriptor.states[..]);
        let mut reads = Reads { backend, states, keys: &self.entry_keys, slots, failed: None };
        let result = call(self.logic.as_mut(), &mut reads);
        reads.failed.map_or(Ok(result), Err)
    }

    /// Goes on with rows, then with timers, until a batch's worth has come out.
    fn go(&mut self, out: &mut dyn Collector) -> Result<Progress, Fault> {
        self.common.outputs.refuel();
        for _ in 0..ROUNDS_MAX {
            if !self.common.outputs.flush(out)? {
                return Ok(Progress::More);
            }
            if self.work.is_none() && !self.firing {
                return Ok(Progress::Done);
            }
            if self.common.outputs.exhausted() {
                return Ok(Progress::More);
            }
            match self.work.take() {
                Some(work) => self.rows(work, out)?,
                None => self.firing = self.fire(out)?,
            }
        }
        Ok(Progress::More)
    }

    /// The next rows of the batch.
    fn rows(&mut self, mut work: Work, out: &mut dyn Collector) -> Result<(), Fault> {
        let rows = self.rows_in.rows_per_call().min(work.batch.num_rows() - work.done);
        let batch = if rows == work.batch.num_rows() { work.batch.clone() } else { work.batch.slice(work.done, rows) };
        let slots = self.resolve(work.input, &batch)?;
        let crossing = self.common.inputs[work.input].project(&batch)?;
        let node = self.common.rejects.node.clone();
        self.note(&slots)?;
        let on_trial = self.trial.is_some();
        let mut task = RowTask { op: self, input: work.input, batch: &batch, crossing, slots: &slots, out };
        match on_trial {
            false => search(&mut task, 0..rows, 1, &node)?,
            true => once(&mut task, 0..rows, &node)?,
        }
        self.state.release(&slots);
        self.distinct.give_back(slots);
        let made = self.common.outputs.take_made();
        self.rows_in.observe(rows, made);
        work.done += rows;
        if work.done < work.batch.num_rows() {
            self.work = Some(work);
        }
        Ok(())
    }

    fn resolve(&mut self, input: usize, batch: &Batch) -> Result<Vec<Slot>, Fault> {
        let encoder = &self.encoders[input];
        let hashes = match &batch.hashes {
            Some(hashes) => hashes.clone(),
            None => encoder.hashes(batch)?,
        };
        let mut slots = self.distinct.take_buffer();
        match encoder.plain_i64(batch) {
            Some(keys) => self.state.resolve_i64(keys, &hashes, &mut slots)?,
            None => self.state.resolve(&encoder.encode(batch)?, &hashes, &mut slots)?,
        }
        Ok(slots)
    }

    /// Fires the next due timers. Whether there were any.
    fn fire(&mut self, out: &mut dyn Collector) -> Result<bool, Fault> {
        let Some(domain) = self.timers.due(self.now, self.advanced) else { return Ok(false) };
        let (mut times, mut slots) = (Vec::new(), Vec::new());
        let rows_max = self.timers_in.rows_per_call();
        self.distinct.begin();
        // A key's second timer waits for the next call: the first may delete it, or set one before it.
        while times.len() < rows_max
            && let Some((time, slot)) = self.timers.pop(domain, self.now, |slot| self.distinct.add(slot).1)
        {
            times.push(time);
            slots.push(slot);
            if let Some(trial) = &mut self.trial {
                trial.timer_gone(domain, time, slot);
            }
        }
        let count = times.len();
        let due = Due { domain, times: times.into(), slots };
        let node = self.common.rejects.node.clone();
        self.note(&due.slots)?;
        let on_trial = self.trial.is_some();
        let mut task = TimerTask { op: self, due: &due, out };
        let fired = match on_trial {
            false => search(&mut task, 0..count, 1, &node),
            true => once(&mut task, 0..count, &node),
        };
        due.slots.iter().for_each(|&slot| self.state.unpin(slot));
        self.state.release(&due.slots);
        fired?;
        let made = self.common.outputs.take_made();
        self.timers_in.observe(count, made);
        Ok(true)
    }

    fn states(&self) -> &[StateDescriptor] {
        &self.common.descriptor.states
    }

    /// All that the backend holds.
    fn held_states(&self) -> Vec<StateDescriptor> {
        [self.states(), &self.migration.held()].concat()
    }

    /// A call is about to change these keys.
    fn note(&mut self, slots: &[Slot]) -> Result<(), Fault> {
        match &mut self.trial {
            Some(trial) => trial.note(self.state.as_mut(), slots),
            None => Ok(()),
        }
    }

    /// What a snapshot holds of earlier versions of the states. A fault names what has no place.
    fn earlier(&self, from: &dyn Restore) -> Result<Vec<StateDescriptor>, Fault> {
        let operator = &self.common.descriptor.name;
        let tables = from.tables();
        let foreign = |table: &str| !stored::is_timers(table) && state_of_table(table).is_none();
        if let Some((table, _)) = tables.iter().find(|(table, _)| foreign(table)) {
            return Err(Fault::config(format!("the snapshot holds `{table}`, which `{operator}` has no place for")));
        }
        let mut earlier = Vec::new();
        for stored in from.states() {
            let Some(state) = self.states().iter().find(|state| state.name == stored.name) else {
                let message =
                    format!("the snapshot holds the state `{}`, which `{operator}` does not declare", stored.name);
                return Err(
                    Fault::config(message).with_help("declare it, or give up what it holds with `--drop-state`")
                );
            };
            if stored.version > state.version {
                let (name, newer, own) = (&stored.name, stored.version, state.version);
                return Err(Fault::config(format!(
                    "state `{name}` was written by version {newer}, but `{operator}` declares version {own}"
                ))
                .with_help("use the component that wrote it, or a newer one"));
            }
            if stored.version < state.version && (stored.kind != StateKind::Value || state.kind != StateKind::Value) {
                let (name, before, now) = (&stored.name, stored.version, state.version);
                let message = format!(
                    "state `{name}` was written by version {before}, and `{operator}` declares version {now}: lists and \
                     maps can't be migrated"
                );
                let help = "keep the version and read both encodings, or give up what it holds with `--drop-state`";
                return Err(Fault::config(message).with_help(help));
            }
            if stored.version < state.version {
                // How long its values live the present version says.
                earlier.push(StateDescriptor { ttl: state.ttl, ..stored });
            }
        }
        Ok(earlier)
    }

    fn gather(&mut self, slots: &[Slot]) -> Result<Vec<ArrayRef>, Fault> {
        if !self.migration.is_done() {
            let lifted = self.migration.lift(self.state.as_mut(), self.logic.as_mut(), slots);
            lifted.map_err(|fault| fault.at(&self.common.rejects.node))?;
        }
        (0..self.common.descriptor.states.len()).map(|state| self.state.gather(state, slots)).collect()
    }

    /// Key columns of slots, from their bytes.
    fn decode(&self, slots: &[Slot]) -> Result<RecordBatch, Fault> {
        let columns = self.encoders[0].decode(slots.iter().map(|&s| self.state.key(s)))?;
        Ok(RecordBatch::try_new(self.key_schema.clone(), columns)?)
    }

    /// Stores what a call changed. `slots`: the keys of the call.
    fn store(&mut self, effects: &Effects, slots: &[Slot]) -> Result<(), Fault> {
        for update in &effects.updates {
            self.update(update, slots)?;
        }
        for update in &effects.entries {
            let stored = self.entry_keys.store(update, slots, self.state.as_mut())?;
            stored.map_err(|wrong| self.common.malformed(wrong))?;
        }
        for change in &effects.timers {
            let Some(&slot) = slots.get(change.key as usize) else {
                let what = format!("a timer for key {}, but there are {} keys", change.key, slots.len());
                return Err(self.common.malformed(what));
            };
            if change.delete {
                if self.timers.delete(change.domain, change.time, slot) {
                    self.state.unpin(slot);
                    if let Some(trial) = &mut self.trial {
                        trial.timer_gone(change.domain, change.time, slot);
                    }
                }
            } else if self.timers.set(change.domain, change.time, slot) {
                self.state.pin(slot);
                if let Some(trial) = &mut self.trial {
                    trial.timer_set(change.domain, change.time, slot);
                }
            }
        }
        Ok(())
    }

    fn update(&mut self, update: &StateUpdate, slots: &[Slot]) -> Result<(), Fault> {
        if update.state >= self.common.descriptor.states.len() {
            return Err(self.common.malformed(format!("a value for state {}, which does not exist", update.state)));
        }
        let Some(keys) = &update.keys else {
            return self.state.scatter(update.state, slots, &update.values);
        };
        let chosen: Option<Vec<Slot>> = keys.iter().map(|&k| slots.get(k as usize).copied()).collect();
        match chosen {
            Some(chosen) => self.state.scatter(update.state, &chosen, &update.values),
            None => Err(self.common.malformed(format!("a value for a key beyond the {} of the call", slots.len()))),
        }
    }
}

impl Operator for Keyed {
    fn on_batch(&mut self, input: usize, batch: Batch, out: &mut dyn Collector) -> Result<Progress, Fault> {
        self.common.admit(&batch)?;
        if !batch.is_empty() {
            self.work = Some(Work { input, batch, done: 0 });
        }
        self.go(out)
    }

    fn on_time(&mut self, now: Now, out: &mut dyn Collector) -> Result<Progress, Fault> {
        self.advanced = now.watermark > self.now.watermark;
        self.now = now;
        self.state.set_now(now.processing_ms)?;
        self.firing = true;
        // What the trial has not touched it need not put back.
        if !self.migration.is_done() && self.trial.is_none() {
            let swept = self.migration.sweep(self.state.as_mut(), self.logic.as_mut(), &self.common.descriptor.states);
            swept.map_err(|fault| fault.at(&self.common.rejects.node))?;
        }
        self.go(out)
    }

    fn resume(&mut self, out: &mut dyn Collector) -> Result<Progress, Fault> {
        self.go(out)
    }

    fn snapshot(&mut self, form: Form) -> Result<Snapshot, Fault> {
        let mut snapshot = self.state.snapshot(form)?;
        snapshot.tables.extend(stored::tables(&self.timers, self.state.as_ref()));
        Ok(snapshot)
    }

    fn restore(&mut self, from: &dyn Restore) -> Result<(), Fault> {
        let earlier = self.earlier(from)?;
        if !earlier.is_empty() {
            self.migration = Migration::new(self.states(), &earlier, &[]);
            self.state.redescribe(&self.held_states())?;
        }
        self.state.restore(from)?;
        stored::restore(&mut self.timers, self.state.as_mut(), from)?;
        // Lateness goes on from there; a timer of the wall clock that is in the past fires at the next tick.
        self.now = from.now();
        Ok(())
    }

    fn held(&self) -> u64 {
        self.state.keys() as u64
    }

    fn swap(&mut self, next: OpenedLogic) -> Result<(), Fault> {
        let next = next.downcast::<Next>().map_err(|_| Fault::internal("this logic was opened for another node"))?;
        let Next { common, logic, dropped } = *next;
        let now = &common.descriptor.states;
        let is_new = |state: &StateDescriptor| !self.states().iter().any(|s| same(s, state));
        if let Some(state) = self.migration.held().iter().find(|h| now.iter().any(|s| s.name == h.name && is_new(s))) {
            let (name, version) = (&state.name, state.version);
            let message = format!("values of state `{name}` are still being migrated from version {version}");
            return Err(Fault::config(message).with_help("try again when that is done"));
        }
        let before = self.held_states();
        // While it is on trial, all that there was stays.
        let others: Vec<StateDescriptor> =
            before.iter().filter(|state| !now.iter().any(|s| same(s, state))).cloned().collect();
        self.state.redescribe(&[now.as_slice(), &others].concat())?;
        let held = now.len() + others.len();
        let migration = Migration::new(now, &others, &dropped);
        let before_it = Before {
            common: std::mem::replace(&mut self.common, common),
            logic: std::mem::replace(&mut self.logic, logic),
            migration: std::mem::replace(&mut self.migration, migration),
            now: self.now,
            firing: self.firing,
            advanced: self.advanced,
            rows_in: std::mem::take(&mut self.rows_in),
            timers_in: std::mem::take(&mut self.timers_in),
        };
        self.trial = Some(Trial::new(before_it, before, held));
        Ok(())
    }

    fn settle(&mut self, keep: bool) -> Result<(), Fault> {
        let Some(trial) = self.trial.take() else { return Ok(()) };
        if keep {
            trial.forget(self.state.as_mut());
            let held = self.held_states();
            self.state.redescribe(&held)?;
            let count = self.states().len();
            self.migration = Migration::new(&held[..count], &held[count..], &[]);
            return Ok(());
        }
        let before = trial.undo(self.state.as_mut(), &mut self.timers)?;
        self.common = before.common;
        self.logic = before.logic;
        self.migration = before.migration;
        (self.now, self.firing, self.advanced) = (before.now, before.firing, before.advanced);
        (self.rows_in, self.timers_in) = (before.rows_in, before.timers_in);
        self.work = None;
        Ok(())
    }
}

fn same(a: &StateDescriptor, b: &StateDescriptor) -> bool {
    a.name == b.name && a.version == b.version
}

struct RowTask<'a> {
    op: &'a mut Keyed,
    input: usize,
    batch: &'a Batch,
    crossing: RecordBatch,
    slots: &'a [Slot],
    out: &'a mut dyn Collector,
}

impl RowTask<'_> {
    fn key_columns(&self, part: &Batch, first_rows: &[u32]) -> Result<Option<RecordBatch>, Fault> {
        if !self.op.common.descriptor.reads_keys {
            return Ok(None);
        }
        let rows = UInt32Array::from(first_rows.to_vec());
        let columns = self.op.encoders[self.input].key_columns(part);
        let columns: Result<Vec<ArrayRef>, _> = columns.iter().map(|c| take(c, &rows, None)).collect();
        Ok(Some(RecordBatch::try_new(self.op.key_schema.clone(), columns?)?))
    }

    fn apply(&mut self, part: &Batch, offset: usize, slots: &[Slot], effects: Effects) -> Result<(), Fault> {
        self.op.store(&effects, slots)?;
        for error in effects.errors {
            let row = error.row as usize;
            if row >= part.num_rows() {
                let what = format!("an error for row {row}, but {} rows came in", part.num_rows());
                return Err(self.op.common.malformed(what));
            }
            self.out.count("row_errors", 1);
            self.reject(offset + row, error.message)?;
        }
        let parents = Parents { rows: part.num_rows(), batch: Some(part), times: part.times.as_ref() };
        for rows in effects.outputs {
            let added = self.op.common.outputs.add(rows, &parents);
            added.map_err(|e| self.op.common.malformed(e))?;
        }
        Ok(())
    }

    fn reject(&mut self, row: usize, error: String) -> Result<(), Fault> {
        let columns = self.op.encoders[self.input].key_columns(self.batch);
        let key = key_text(&self.op.key_schema, &columns, row);
        let time = self.batch.times.as_ref().map(|t| t[row]);
        self.op.common.rejects.reject(self.out, self.batch.rows(), row, time, Some(key), error)
    }
}

impl Attempt for RowTask<'_> {
    fn attempt(&mut self, rows: Range<usize>) -> Result<Result<(), LogicError>, Fault> {
        let whole = rows.len() == self.batch.num_rows();
        let part = if whole { self.batch.clone() } else { self.batch.slice(rows.start, rows.len()) };
        let crossing = if whole { self.crossing.clone() } else { self.crossing.slice(rows.start, rows.len()) };
        let keys = self.op.distinct.index(&self.slots[rows.clone()]);
        let input = KeyedIn {
            rows: RowsIn {
                input: self.input,
                rows: crossing,
                times: part.times.clone().filter(|_| self.op.common.descriptor.reads_time),
                kinds: part.kinds.clone(),
                now: self.op.now,
            },
            key_index: keys.index.into(),
            key_count: keys.slots.len(),
            keys: self.key_columns(&part, &keys.first_rows)?,
            states: self.op.gather(&keys.slots)?,
        };
        let called = self.op.call(&keys.slots, |logic, reads| logic.process_keyed(&input, reads))?;
        let result = match called {
            Ok(effects) => Ok(self.apply(&part, rows.start, &keys.slots, effects)?),
            Err(error) => Err(error),
        };
        self.op.distinct.recycle(keys.slots, keys.first_rows);
        if let Err(LogicError::Trap(_)) = &result {
            self.out.count("traps", 1);
        }
        Ok(result)
    }

    fn condemn(&mut self, row: usize, error: String) -> Result<(), Fault> {
        self.out.count("poison_rows", 1);
        self.reject(row, error)
    }
}

/// Timers taken out of the set; their keys are still pinned, and different.
struct Due {
    domain: TimeDomain,
    times: ScalarBuffer<i64>,
    slots: Vec<Slot>,
}

struct TimerTask<'a> {
    op: &'a mut Keyed,
    due: &'a Due,
    out: &'a mut dyn Collector,
}

impl TimerTask<'_> {
    fn apply(&mut self, timers: Range<usize>, times: &ScalarBuffer<i64>, effects: Effects) -> Result<(), Fault> {
        self.op.store(&effects, &self.due.slots[timers.clone()])?;
        for error in effects.errors {
            let timer = error.row as usize;
            if timer >= timers.len() {
                let what = format!("an error for timer {timer}, but {} were due", timers.len());
                return Err(self.op.common.malformed(what));
            }
            self.out.count("row_errors", 1);
            self.reject(timers.start + timer, error.message)?;
        }
        // As in Flink, what a processing-time timer emits has no event time of its own.
        let times = Some(times).filter(|_| self.due.domain == TimeDomain::Event);
        let parents = Parents { rows: timers.len(), batch: None, times };
        for rows in effects.outputs {
            let added = self.op.common.outputs.add(rows, &parents);
            added.map_err(|e| self.op.common.malformed(e))?;
        }
        Ok(())
    }

    fn reject(&mut self, timer: usize, error: String) -> Result<(), Fault> {
        let keys = self.op.decode(&self.due.slots[timer..=timer])?;
        let key = key_text(&self.op.key_schema, keys.columns(), 0);
        let (domain, event_time) = match self.due.domain {
            TimeDomain::Event => ("event", Some(self.due.times[timer])),
            TimeDomain::Processing => ("processing", None),
        };
        let row = format!(r#"{{"timer":{},"domain":"{domain}"}}"#, self.due.times[timer]);
        self.op.common.rejects.reject_text(self.out, row, event_time, Some(key), error)
    }
}

impl Attempt for TimerTask<'_> {
    fn attempt(&mut self, timers: Range<usize>) -> Result<Result<(), LogicError>, Fault> {
        let slots = &self.due.slots[timers.clone()];
        let times = self.due.times.slice(timers.start, timers.len());
        let reads_keys = self.op.common.descriptor.reads_keys;
        let due = TimersIn {
            key_index: (0..slots.len() as u32).collect(),
            times: times.clone(),
            domain: self.due.domain,
            key_count: slots.len(),
            keys: reads_keys.then(|| self.op.decode(slots)).transpose()?,
            states: self.op.gather(slots)?,
            now: self.op.now,
        };
        let called = self.op.call(slots, |logic, reads| logic.on_timers(&due, reads))?;
        let result = match called {
            Ok(effects) => Ok(self.apply(timers, &times, effects)?),
            Err(error) => Err(error),
        };
        if let Err(LogicError::Trap(_)) = &result {
            self.out.count("traps", 1);
        }
        Ok(result)
    }

    fn condemn(&mut self, timer: usize, error: String) -> Result<(), Fault> {
        self.out.count("poison_rows", 1);
        self.reject(timer, error)
    }
}

/// A key for people: the value, or `name=value` for several columns.
fn key_text(schema: &Arc<Schema>, columns: &[ArrayRef], row: usize) -> String {
    let value = |c: &ArrayRef| {
        if c.is_null(row) { "null".to_owned() } else { array_value_to_string(c, row).unwrap_or_else(|e| e.to_string()) }
    };
    match columns {
        [one] => value(one),
        many => {
            let named = schema.fields().iter().zip(many).map(|(f, c)| format!("{}={}", f.name(), value(c)));
            named.collect::<Vec<_>>().join(", ")
        }
    }
}
