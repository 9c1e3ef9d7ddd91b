//! Components behind the model's traits: one opened instance per node and worker.
//!
//! Laws: after a trap or a malformed answer the instance is dropped, and the next call opens a fresh
//! one; a call that fails has had no effect on anything but the guest's memory.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch};
use arrow::datatypes::Field;
use wasmtime::Store;

use tidemill_model::Fault;
use tidemill_model::component::{Descriptor, LogicKind};
use tidemill_model::entries::EntryReads;
use tidemill_model::logic::{
    Effects, KeyedIn, Logic, LogicError, LogicFactory, OpenContext, RowError, RowsIn, TimeDomain, TimersIn,
};

use crate::abi::effects::{Call, cut};
use crate::abi::fields::Flat;
use crate::abi::input::{self, LoweredKeys};
use crate::abi::lift::{self, Place};
use crate::abi::lower::Lowered;
use crate::bindings::exports::tidemill::operator::keyed::{Domain, DueTimers, KeyedBatch};
use crate::bindings::exports::tidemill::operator::{keyed, lifecycle};
use crate::bindings::tidemill::operator::types::OpError;
use crate::component::Component;
use crate::host::Limits;
use crate::sandbox::{Exports, GuestState, Instance};

/// Supplies instances of one operator.
pub(crate) struct GuestFactory {
    component: Arc<Component>,
    descriptor: Arc<Descriptor>,
    limits: Limits,
}

impl GuestFactory {
    pub(crate) fn new(component: Arc<Component>, descriptor: Arc<Descriptor>, limits: Limits) -> Self {
        Self { component, descriptor, limits }
    }
}

impl LogicFactory for GuestFactory {
    fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    fn digest(&self) -> &str {
        self.component.digest()
    }

    fn open(&self, context: &OpenContext) -> Result<Box<dyn Logic>, Fault> {
        let limits = self.limits;
        let state = GuestState::new(&context.node, context.worker, &limits);
        let (component, descriptor) = (self.component.clone(), self.descriptor.clone());
        match open(&component, context, state, limits) {
            Ok(instance) => {
                let (context, instance) = (context.clone(), Some(instance));
                Ok(Box::new(GuestLogic { component, descriptor, limits, context, instance, spare: None }))
            }
            Err((refusal, _)) => Err(refusal.fault().at(&context.node).on_worker(context.worker)),
        }
    }
}

/// Why an operator did not open.
enum Refusal {
    Config(String),
    Fatal(String),
    Trap(String),
}

impl Refusal {
    fn fault(self) -> Fault {
        match self {
            Refusal::Config(text) => Fault::config(text),
            Refusal::Fatal(text) => Fault::component(text),
            Refusal::Trap(text) => Fault::component(format!("can't be opened: {text}")),
        }
    }

    fn text(self) -> String {
        match self {
            Refusal::Config(text) | Refusal::Fatal(text) | Refusal::Trap(text) => text,
        }
    }
}

fn open(
    component: &Component,
    context: &OpenContext,
    state: GuestState,
    limits: Limits,
) -> Result<Instance, (Refusal, GuestState)> {
    let mut instance = match component.instantiate(state, limits) {
        Ok(instance) => instance,
        Err((text, state)) => return Err((Refusal::Trap(text), state.renew(&limits))),
    };
    let key_fields = Flat::of(context.key_schema.as_deref());
    let config: Vec<(&str, &str)> = context.config.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let opened = instance.call(|store, exports| {
        let context = lifecycle::OpenContext {
            operator: &context.operator,
            node: &context.node,
            config: &config,
            key_fields: &key_fields.fields(),
            worker: context.worker as u32,
            workers: context.workers as u32,
        };
        exports.lifecycle.call_open(store, context)
    });
    let refusal = match opened {
        Ok(Ok(())) => return Ok(instance),
        Ok(Err(OpError::Config(text))) => Refusal::Config(cut(text)),
        Ok(Err(OpError::Fatal(text))) => Refusal::Fatal(cut(text)),
        Err(text) => Refusal::Trap(text),
    };
    Err((refusal, instance.into_state()))
}

struct GuestLogic {
    component: Arc<Component>,
    descriptor: Arc<Descriptor>,
    limits: Limits,
    context: OpenContext,
    instance: Option<Instance>,
    /// Log and metrics of the last instance, for the next one.
    spare: Option<GuestState>,
}

impl GuestLogic {
    /// Calls the guest, in a fresh instance if the last one is gone.
    fn call<R>(
        &mut self,
        call: impl FnOnce(&mut Store<GuestState>, &Exports) -> wasmtime::Result<Result<R, OpError>>,
    ) -> Result<R, LogicError> {
        match self.instance()?.call(call) {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(OpError::Config(text) | OpError::Fatal(text))) => Err(LogicError::Fatal(cut(text))),
            Err(text) => Err(self.trapped(text)),
        }
    }

    /// The same for a call that may read lists and maps.
    fn call_keyed<R>(
        &mut self,
        reads: &mut dyn EntryReads,
        call: impl FnOnce(&mut Store<GuestState>, &Exports) -> wasmtime::Result<Result<R, OpError>>,
    ) -> Result<R, LogicError> {
        let descriptor = self.descriptor.clone();
        self.call(|store, exports| {
            store.data_mut().reading.open(&descriptor, reads);
            let answer = call(store, exports);
            store.data_mut().reading.close();
            answer
        })
    }

    fn instance(&mut self) -> Result<&mut Instance, LogicError> {
        let instance = match self.instance.take() {
            Some(instance) => instance,
            None => self.reopen()?,
        };
        Ok(self.instance.insert(instance))
    }

    fn reopen(&mut self) -> Result<Instance, LogicError> {
        let fresh = || GuestState::new(&self.context.node, self.context.worker, &self.limits);
        let state = self.spare.take().unwrap_or_else(fresh);
        open(&self.component, &self.context, state, self.limits).map_err(|(refusal, state)| {
            self.spare = Some(state);
            LogicError::Fatal(format!("can't be opened again: {}", refusal.text()))
        })
    }

    fn trapped(&mut self, text: String) -> LogicError {
        self.spare = self.instance.take().map(Instance::into_state);
        LogicError::Trap(text)
    }

    /// Passes an answer on; one that fails the checks costs the instance, which can't be right in its mind.
    fn checked<R>(&mut self, answer: Result<R, String>) -> Result<R, LogicError> {
        answer.map_err(|wrong| self.trapped(format!("returned a malformed answer: {wrong}")))
    }

    fn of_kind(&self, kind: LogicKind) -> Result<(), LogicError> {
        if self.descriptor.kind == kind {
            return Ok(());
        }
        Err(host(format!("called as {kind:?}, but it is {:?}", self.descriptor.kind)))
    }

    /// `input`: where rows have come in, if it was not timers.
    fn effects(
        &mut self,
        input: Option<usize>,
        rows: usize,
        keys: usize,
        said: keyed::Effects,
    ) -> Result<Effects, LogicError> {
        let descriptor = self.descriptor.clone();
        let broadcast = input.and_then(|input| descriptor.inputs.get(input)).is_some_and(|port| port.broadcast);
        let call = Call { descriptor: &descriptor, rows, keys, broadcast };
        let check = || {
            Ok(Effects {
                outputs: call.outputs(said.outputs)?,
                updates: call.updates(said.updates)?,
                entries: call.entries(said.entries)?,
                timers: call.timers(said.timers)?,
                errors: call.errors(said.errors)?,
            })
        };
        self.checked(check())
    }

    fn lower_keys(
        &self,
        count: usize,
        keys: Option<&RecordBatch>,
        states: &[ArrayRef],
    ) -> Result<LoweredKeys, LogicError> {
        let schema = self.context.key_schema.as_ref().filter(|_| self.descriptor.reads_keys);
        LoweredKeys::new(schema, &self.descriptor.states, count, keys, states).map_err(host)
    }
}

/// A mistake of the host, which no retry mends.
fn host(text: String) -> LogicError {
    LogicError::Fatal(format!("the host made a mistake: {text}"))
}

impl Logic for GuestLogic {
    fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    fn process(&mut self, input: &RowsIn) -> Result<Effects, LogicError> {
        self.of_kind(LogicKind::Map)?;
        let lowered = input::rows(&self.descriptor, input).map_err(host)?;
        let (columns, port) = (lowered.columns(), input.input as u16);
        let said = self.call(|store, exports| {
            exports.stateless()?.call_process(store, port, input::batch(input, &columns), input::now(input.now))
        })?;
        let said = keyed::Effects {
            outputs: said.outputs,
            updates: vec![],
            entries: vec![],
            timers: vec![],
            errors: said.errors,
        };
        self.effects(Some(input.input), input.rows.num_rows(), 0, said)
    }

    fn keep(&mut self, input: &RowsIn) -> Result<(BooleanArray, Vec<RowError>), LogicError> {
        self.of_kind(LogicKind::Filter)?;
        let lowered = input::rows(&self.descriptor, input).map_err(host)?;
        let (columns, port) = (lowered.columns(), input.input as u16);
        let kept = self.call(|store, exports| {
            exports.stateless()?.call_keep(store, port, input::batch(input, &columns), input::now(input.now))
        })?;
        let descriptor = self.descriptor.clone();
        let call = Call { descriptor: &descriptor, rows: input.rows.num_rows(), keys: 0, broadcast: false };
        let check = || {
            let errors = call.errors(kept.errors)?;
            Ok((call.kept(kept.bitmap, &errors)?, errors))
        };
        self.checked(check())
    }

    fn process_keyed(&mut self, input: &KeyedIn, reads: &mut dyn EntryReads) -> Result<Effects, LogicError> {
        self.of_kind(LogicKind::Keyed)?;
        let rows = &input.rows;
        let lowered = input::rows(&self.descriptor, rows).map_err(host)?;
        let lowered_keys = self.lower_keys(input.key_count, input.keys.as_ref(), &input.states)?;
        let (columns, key_columns) = (lowered.columns(), lowered_keys.columns());
        let said = self.call_keyed(reads, |store, exports| {
            let batch = KeyedBatch {
                input: rows.input as u16,
                rows: input::batch(rows, &columns),
                key_index: input::bytes(&input.key_index),
                keys: lowered_keys.keys(&key_columns),
                now: input::now(rows.now),
            };
            exports.keyed()?.call_process(store, batch)
        })?;
        self.effects(Some(rows.input), rows.rows.num_rows(), input.key_count, said)
    }

    fn on_timers(&mut self, due: &TimersIn, reads: &mut dyn EntryReads) -> Result<Effects, LogicError> {
        self.of_kind(LogicKind::Keyed)?;
        let lowered_keys = self.lower_keys(due.key_count, due.keys.as_ref(), &due.states)?;
        let key_columns = lowered_keys.columns();
        let said = self.call_keyed(reads, |store, exports| {
            let timers = DueTimers {
                domain: match due.domain {
                    TimeDomain::Event => Domain::Event,
                    TimeDomain::Processing => Domain::Processing,
                },
                key_index: input::bytes(&due.key_index),
                times: input::bytes(&due.times),
                keys: lowered_keys.keys(&key_columns),
                now: input::now(due.now),
            };
            exports.keyed()?.call_on_timers(store, timers)
        })?;
        self.effects(None, due.times.len(), due.key_count, said)
    }

    fn migrate_state(&mut self, name: &str, from: u32, values: &ArrayRef) -> Result<ArrayRef, LogicError> {
        self.of_kind(LogicKind::Keyed)?;
        let descriptor = self.descriptor.clone();
        let Some(state) = descriptor.states.iter().find(|state| state.name == name) else {
            return Err(host(format!("there is no state `{name}` to migrate")));
        };
        let mut lowered = Lowered::default();
        lowered.column(&Field::new(name, values.data_type().clone(), true), values).map_err(host)?;
        let Some(column) = lowered.columns().into_iter().next() else {
            return Err(host(format!("state `{name}` has no column")));
        };
        let said = self.call(|store, exports| exports.keyed()?.call_migrate_state(store, name, from, column))?;
        self.checked(lift::values(&state.field, values.len(), said, &Place::State(name)))
    }
}
