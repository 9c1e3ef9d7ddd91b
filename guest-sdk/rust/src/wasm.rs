//! The edge of a component: WIT records to and from the plain ones, and the host's imports.
//!
//! Law: nothing is decided here; input buffers are lent, output buffers are moved, none is copied.

use std::cell::RefCell;
use std::marker::PhantomData;

use crate::native::{self, Entry, Instance};
use bindings::exports::tidemill::operator::{keyed, lifecycle, stateless};
use bindings::tidemill::operator::{state as host_state, types};

pub mod bindings {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "operator",
        pub_export_macro: true,
        export_macro_name: "export_component",
        default_bindings_module: "tidemill_sdk::wasm::bindings",
    });
}

/// The list of a crate's operators, given by `export!`.
pub trait Crate {
    fn operators() -> &'static [Entry];
}

/// What the component exports.
pub struct Exports<C>(PhantomData<C>);

thread_local! {
    /// The opened operator: an instance is one of them for life.
    static OPENED: RefCell<Option<Box<dyn Instance>>> = const { RefCell::new(None) };
}

fn with_opened<T>(call: impl FnOnce(&mut dyn Instance) -> Result<T, native::OpError>) -> Result<T, types::OpError> {
    OPENED.with_borrow_mut(|opened| match opened {
        Some(instance) => call(instance.as_mut()).map_err(op_error),
        None => Err(types::OpError::Fatal("the operator was not opened".into())),
    })
}

fn report_panics() {
    std::panic::set_hook(Box::new(|panic| bindings::tidemill::operator::logging::panicked(&panic.to_string())));
}

impl<C: Crate> lifecycle::Guest for Exports<C> {
    fn describe() -> Vec<lifecycle::Descriptor> {
        report_panics();
        native::describe(C::operators()).into_iter().map(descriptor).collect()
    }

    fn open(context: lifecycle::OpenContext) -> Result<(), types::OpError> {
        report_panics();
        let context = native::OpenContext {
            operator: context.operator,
            node: context.node,
            config: context.config,
            key_fields: context.key_fields.into_iter().map(field_in).collect(),
            worker: context.worker,
            workers: context.workers,
        };
        let instance = native::open(C::operators(), &context).map_err(op_error)?;
        OPENED.set(Some(instance));
        Ok(())
    }
}

impl<C: Crate> stateless::Guest for Exports<C> {
    fn process(input: u16, rows: types::Batch, now: types::Now) -> Result<stateless::Effects, types::OpError> {
        let effects = with_opened(|instance| instance.process(input, &batch_in(&rows), now_in(now)))?;
        Ok(stateless::Effects { outputs: outputs(effects.outputs), errors: errors(effects.errors) })
    }

    fn keep(input: u16, rows: types::Batch, now: types::Now) -> Result<stateless::Kept, types::OpError> {
        let kept = with_opened(|instance| instance.keep(input, &batch_in(&rows), now_in(now)))?;
        Ok(stateless::Kept { bitmap: kept.bitmap, errors: errors(kept.errors) })
    }
}

impl<C: Crate> keyed::Guest for Exports<C> {
    fn process(input: keyed::KeyedBatch) -> Result<keyed::Effects, types::OpError> {
        let batch = native::KeyedBatch {
            input: input.input,
            rows: batch_in(&input.rows),
            key_index: &input.key_index,
            keys: keys_in(&input.keys.columns, input.keys.count, input.keys.states),
            now: now_in(input.now),
        };
        with_opened(|instance| instance.process_keyed(batch)).map(effects)
    }

    fn on_timers(due: keyed::DueTimers) -> Result<keyed::Effects, types::OpError> {
        let due = native::DueTimers {
            domain: match due.domain {
                keyed::Domain::Event => native::Domain::Event,
                keyed::Domain::Processing => native::Domain::Processing,
            },
            key_index: &due.key_index,
            times: &due.times,
            keys: keys_in(&due.keys.columns, due.keys.count, due.keys.states),
            now: now_in(due.now),
        };
        with_opened(|instance| instance.on_timers(due)).map(effects)
    }

    fn migrate_state(name: String, from: u32, values: types::Column) -> Result<types::Column, types::OpError> {
        with_opened(|instance| instance.migrate_state(&name, from, column_in(values))).map(column)
    }
}

fn now_in(now: types::Now) -> native::Now {
    native::Now { watermark: now.watermark, processing: now.processing }
}

fn column_in(column: types::Column) -> native::Column {
    native::Column { validity: column.validity, offsets: column.offsets, data: column.data }
}

fn column_ref(column: &types::Column) -> native::ColumnRef<'_> {
    native::ColumnRef { validity: &column.validity, offsets: &column.offsets, data: &column.data }
}

fn batch_in(batch: &types::Batch) -> native::BatchRef<'_> {
    let columns = batch.columns.iter().map(column_ref).collect();
    native::BatchRef { rows: batch.rows, times: &batch.times, kinds: &batch.kinds, columns }
}

fn keys_in(columns: &[types::Column], count: u32, states: Vec<types::Column>) -> native::Keys<'_> {
    let columns = columns.iter().map(column_ref).collect();
    native::Keys { count, columns, states: states.into_iter().map(column_in).collect() }
}

fn field_in(field: lifecycle::Field) -> native::Field {
    native::Field { name: field.name, type_name: field.type_name, nullable: field.nullable, children: field.children }
}

fn op_error(error: native::OpError) -> types::OpError {
    match error {
        native::OpError::Config(message) => types::OpError::Config(message),
        native::OpError::Fatal(message) => types::OpError::Fatal(message),
    }
}

fn column(column: native::Column) -> types::Column {
    types::Column { validity: column.validity, offsets: column.offsets, data: column.data }
}

fn outputs(outputs: Vec<native::Output>) -> Vec<types::Output> {
    let batch = |batch: native::Batch| types::Batch {
        rows: batch.rows,
        times: batch.times,
        kinds: batch.kinds,
        columns: batch.columns.into_iter().map(column).collect(),
    };
    let output = |o: native::Output| types::Output { port: o.port, rows: batch(o.rows), parents: o.parents };
    outputs.into_iter().map(output).collect()
}

fn errors(errors: Vec<native::RowError>) -> Vec<types::RowError> {
    errors.into_iter().map(|e| types::RowError { row: e.row, message: e.message }).collect()
}

fn effects(effects: native::Effects) -> keyed::Effects {
    let update = |u: native::StateUpdate| keyed::StateUpdate {
        state: u.state,
        key_index: u.key_index,
        values: column(u.values),
    };
    let entries = |e: native::EntryUpdate| keyed::EntryUpdate {
        state: e.state,
        clears: e.clears,
        key_index: e.key_index,
        entry_keys: e.entry_keys.into_iter().map(column).collect(),
        values: column(e.values),
    };
    let timers = |t: native::TimerChanges| keyed::TimerChanges {
        domain: match t.domain {
            native::Domain::Event => keyed::Domain::Event,
            native::Domain::Processing => keyed::Domain::Processing,
        },
        key_index: t.key_index,
        times: t.times,
        deletes: t.deletes,
    };
    keyed::Effects {
        outputs: outputs(effects.outputs),
        updates: effects.updates.into_iter().map(update).collect(),
        entries: effects.entries.into_iter().map(entries).collect(),
        timers: effects.timers.into_iter().map(timers).collect(),
        errors: errors(effects.errors),
    }
}

fn field(field: native::Field) -> lifecycle::Field {
    lifecycle::Field {
        name: field.name,
        type_name: field.type_name,
        nullable: field.nullable,
        children: field.children,
    }
}

fn descriptor(d: native::Descriptor) -> lifecycle::Descriptor {
    let ports = |ports: Vec<native::Port>| {
        let port = |p: native::Port| lifecycle::Port {
            name: p.name,
            fields: p.fields.into_iter().map(field).collect(),
            carry: p.carry,
            broadcast: p.broadcast,
        };
        ports.into_iter().map(port).collect()
    };
    let state = |s: native::StateDescriptor| lifecycle::StateDescriptor {
        name: s.name,
        scope: s.scope.to_owned(),
        kind: s.kind.to_owned(),
        entry_key: s.entry_key.into_iter().map(field).collect(),
        value: field(s.value),
        codec: s.codec,
        version: s.version,
        ttl: s.ttl,
        ttl_on_read: s.ttl_on_read,
    };
    lifecycle::Descriptor {
        name: d.name,
        doc: d.doc,
        kind: d.kind.to_owned(),
        inputs: ports(d.inputs),
        outputs: ports(d.outputs),
        states: d.states.into_iter().map(state).collect(),
        reads_time: d.reads_time,
        reads_keys: d.reads_keys,
        changes: d.changes,
    }
}

/// Lists and maps as the host has them.
pub(crate) struct HostReads;

impl native::EntryReads for HostReads {
    fn get_many(&mut self, state: u16, keys: &[u8], entries: &native::Column) -> Result<native::Column, String> {
        Ok(column_in(host_state::get_many(state, keys, &column(entries.clone()))))
    }

    fn scan(
        &mut self,
        state: u16,
        keys: &[u8],
        after: Option<&native::Column>,
        limit: u32,
    ) -> Result<native::Entries, String> {
        let after = after.cloned().map(column);
        let found = host_state::scan(state, keys, after.as_ref(), limit);
        let (entry_keys, values) = (column_in(found.entry_keys), column_in(found.values));
        Ok(native::Entries { index: found.index, entry_keys, values, more: found.more })
    }
}

/// Log lines and numbers as host calls.
pub(crate) mod sink {
    use super::bindings::tidemill::operator::{logging, metrics};
    use crate::log::Level;

    pub fn log(level: Level, message: String) {
        let level = match level {
            Level::Trace => logging::Level::Trace,
            Level::Debug => logging::Level::Debug,
            Level::Info => logging::Level::Info,
            Level::Warn => logging::Level::Warn,
            Level::Error => logging::Level::Error,
        };
        logging::log(level, &message);
    }

    pub fn count(name: &'static str, n: u64) {
        metrics::count(name, n);
    }

    pub fn gauge(name: &'static str, value: f64) {
        metrics::gauge(name, value);
    }
}
