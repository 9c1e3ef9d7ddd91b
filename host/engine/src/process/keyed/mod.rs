//! Logic with state and timers per key. A call gets rows (or due timers) with the states of their keys and returns
//! what changes.
//!
//! Laws: rows of a key are processed in order of arrival, each call seeing what the calls before it stored; timers fire in
//! order of time, and a key's next timer only after the effects of the one before are applied (Flink's order);
//! timers set while firing fire in the same tick if they are due; one that rows set at or below the watermark waits until the
//! watermark moves on, as in Flink's `InternalTimerServiceImpl`, so that a later row may still delete it; a key with a timer
//! keeps its slot.

mod tasks;
mod versions;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::SchemaRef;
use tidemill_model::component::StateDescriptor;
use tidemill_model::entries::{EntryReads, EntryUpdate};
use tidemill_model::key::KeyEncoder;
use tidemill_model::logic::{Effects, Logic, LogicError, StateUpdate};
use tidemill_model::operator::OpenedLogic;
use tidemill_model::snapshot::{Form, Restore, Snapshot};
use tidemill_model::state::{Slot, StateBackend};
use tidemill_model::time::Now;
use tidemill_model::{Batch, Collector, Fault, Operator, Progress};

use self::tasks::{Due, RowTask, TimerTask};
use super::distinct::Distinct;
use super::entries::{EntryKeys, Reads};
use super::migrate::Migration;
use super::shared::{Place, Shared};
use super::stored;
use super::trial::Trial;
use super::{Amplification, Common, Work};
use crate::poison::{once, search};
use crate::timers::Timers;

/// Calls before others have their turn: a timer that sets the next one, and emits nothing, would go on for ever.
const ROUNDS_MAX: usize = 256;

pub(super) struct Keyed {
    common: Common,
    logic: Box<dyn Logic>,
    state: Box<dyn StateBackend>,
    /// States that belong to no key, if there are any.
    shared: Option<Box<Shared>>,
    /// One per input, none where rows have no key; they agree on types.
    encoders: Vec<Option<KeyEncoder>>,
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
        mut state: Box<dyn StateBackend>,
        shared: Option<Box<Shared>>,
        encoders: Vec<Option<KeyEncoder>>,
        key_schema: SchemaRef,
        now: Now,
    ) -> Result<Self, Fault> {
        state.set_now(now.processing_ms)?;
        let entry_keys = EntryKeys::new(of_keys(&common, &shared))?;
        Ok(Self {
            common,
            logic,
            state,
            shared,
            encoders,
            key_schema,
            entry_keys,
            timers: Timers::default(),
            now,
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
        let Some(shared) = &mut self.shared else {
            let (backend, states) = (self.state.as_mut(), &self.common.descriptor.states[..]);
            let mut reads = Reads { backend, states, keys: &self.entry_keys, slots, failed: None };
            let result = call(self.logic.as_mut(), &mut reads);
            return reads.failed.map_or(Ok(result), Err);
        };
        let mut reads = shared.reads(self.state.as_mut(), &self.entry_keys, slots);
        let result = call(self.logic.as_mut(), &mut reads);
        reads.failed().map_or(Ok(result), Err)
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
        let Some(encoder) = &self.encoders[input] else { return Ok(self.distinct.take_buffer()) };
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

    /// States of keys.
    fn states(&self) -> &[StateDescriptor] {
        of_keys(&self.common, &self.shared)
    }

    /// All that the backend holds.
    fn held_states(&self) -> Vec<StateDescriptor> {
        [self.states(), &self.migration.held()].concat()
    }

    /// A call is about to change these keys.
    fn note(&mut self, slots: &[Slot]) -> Result<(), Fault> {
        match &mut self.trial {
            Some(trial) => trial.note(self.state.as_mut(), &self.migration, slots),
            None => Ok(()),
        }
    }

    fn gather(&mut self, slots: &[Slot]) -> Result<Vec<ArrayRef>, Fault> {
        if !self.migration.is_done() {
            let lifted = self.migration.lift(self.state.as_mut(), self.logic.as_mut(), slots);
            lifted.map_err(|fault| fault.at(&self.common.rejects.node))?;
        }
        let of_keys =
            (0..self.states().len()).map(|state| self.state.gather(state, slots)).collect::<Result<_, _>>()?;
        match &mut self.shared {
            None => Ok(of_keys),
            Some(shared) => shared.gather(of_keys),
        }
    }

    /// Key columns of slots, from their bytes.
    fn decode(&self, slots: &[Slot]) -> Result<RecordBatch, Fault> {
        let Some(encoder) = self.encoders.iter().flatten().next() else {
            return Err(Fault::internal("a key of an operator that has none"));
        };
        let columns = encoder.decode(slots.iter().map(|&s| self.state.key(s)))?;
        Ok(RecordBatch::try_new(self.key_schema.clone(), columns)?)
    }

    /// Stores what a call changed. `slots`: the keys of the call. `broadcast`: it was about rows of a broadcast input.
    fn store(&mut self, effects: &Effects, slots: &[Slot], broadcast: bool) -> Result<(), Fault> {
        for update in &effects.updates {
            self.update(update, slots, broadcast)?;
        }
        for update in &effects.entries {
            let place = self.place(update.state);
            let undo = self.trial.as_mut().map(|trial| &mut trial.entries);
            let stored = match (place, &mut self.shared) {
                (Place::Shared(index), Some(shared)) => shared.store(index, update, broadcast)?,
                (Place::OfKeys(index), Some(_)) => {
                    let update = EntryUpdate { state: index, ..update.clone() };
                    self.entry_keys.store(&update, slots, self.state.as_mut(), undo)?
                }
                (_, None) => self.entry_keys.store(update, slots, self.state.as_mut(), undo)?,
            };
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

    /// Where a state is.
    fn place(&self, state: usize) -> Place {
        self.shared.as_ref().map_or(Place::OfKeys(state), |shared| shared.place(state))
    }

    fn update(&mut self, update: &StateUpdate, slots: &[Slot], broadcast: bool) -> Result<(), Fault> {
        if update.state >= self.common.descriptor.states.len() {
            return Err(self.common.malformed(format!("a value for state {}, which does not exist", update.state)));
        }
        let state = match (self.place(update.state), &mut self.shared) {
            (Place::Shared(index), Some(shared)) => {
                let stored = shared.update(index, update, broadcast)?;
                return stored.map_err(|wrong| self.common.malformed(wrong));
            }
            (Place::Shared(index) | Place::OfKeys(index), _) => index,
        };
        let Some(keys) = &update.keys else {
            return self.state.scatter(state, slots, &update.values);
        };
        let chosen: Option<Vec<Slot>> = keys.iter().map(|&k| slots.get(k as usize).copied()).collect();
        match chosen {
            Some(chosen) => self.state.scatter(state, &chosen, &update.values),
            None => Err(self.common.malformed(format!("a value for a key beyond the {} of the call", slots.len()))),
        }
    }
}

/// The states that the backend of keys holds for the logic.
fn of_keys<'a>(common: &'a Common, shared: &'a Option<Box<Shared>>) -> &'a [StateDescriptor] {
    shared.as_ref().map_or(&common.descriptor.states, |shared| shared.of_keys())
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
            let states = of_keys(&self.common, &self.shared);
            let swept = self.migration.sweep(self.state.as_mut(), self.logic.as_mut(), states);
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
        if let Some(shared) = &mut self.shared {
            shared.snapshot(&mut snapshot)?;
        }
        Ok(snapshot)
    }

    fn restore(&mut self, from: &dyn Restore) -> Result<(), Fault> {
        let (shared, earlier): (Vec<_>, Vec<_>) = self.earlier(from)?.into_iter().partition(|state| state.is_shared());
        if !earlier.is_empty() {
            self.migration = Migration::new(self.states(), &earlier, &[]);
            self.state.redescribe(&self.held_states())?;
        }
        self.state.restore(from)?;
        if let Some(own) = &mut self.shared {
            let restored = own.restore(from, &shared, self.logic.as_mut());
            restored.map_err(|fault| fault.at(&self.common.rejects.node))?;
        }
        stored::restore(&mut self.timers, self.state.as_mut(), from)?;
        // Lateness goes on from there. The wall clock has gone on meanwhile: what has expired is not seen even by the first row, and a
        // timer that is in the past fires at the next tick.
        let before = from.now();
        self.now = Now { processing_ms: before.processing_ms.max(self.now.processing_ms), ..before };
        self.state.set_now(self.now.processing_ms)
    }

    fn held(&self) -> u64 {
        self.state.keys() as u64
    }

    fn swap(&mut self, next: OpenedLogic) -> Result<(), Fault> {
        self.try_other(next)
    }

    fn settle(&mut self, keep: bool) -> Result<(), Fault> {
        self.end_trial(keep)
    }
}
