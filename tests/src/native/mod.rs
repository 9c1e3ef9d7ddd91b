//! Operators of the Rust SDK run natively behind the host's logic port, by the same columns that cross
//! into a component: for comparison of WASM with native code, in results and in speed.
//!
//! A panic is a trap, as it is in a component: the instance is gone, and the next call gets a fresh one.

mod columns;
mod entries;

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Once};

use arrow::array::{ArrayRef, BooleanArray, RecordBatch};
use arrow::buffer::{BooleanBuffer, Buffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use tidemill_model::Fault;
use tidemill_model::component::{Descriptor, LogicKind, Port, StateDescriptor, StateKind, StateScope, Ttl};
use tidemill_model::entries::{EntryReads, EntryUpdate};
use tidemill_model::logic::{
    Effects, KeyedIn, Logic, LogicError, LogicFactory, OpenContext, RowError, RowsIn, RowsOut, StateUpdate, TimeDomain,
    TimerChange, TimersIn,
};
use tidemill_model::schema::{parse_type, type_name};
use tidemill_model::time::Now;
use tidemill_sdk::native as sdk;

use entries::SdkReads;

use columns::{Columns, Lowered, bytes, lift, lift_all, optional};

/// One operator of a crate that is linked in.
pub struct NativeFactory {
    entry: &'static sdk::Entry,
    descriptor: Descriptor,
}

impl NativeFactory {
    pub fn new(entry: &'static sdk::Entry) -> Arc<Self> {
        Arc::new(Self { entry, descriptor: descriptor(&entry.describe()) })
    }
}

impl LogicFactory for NativeFactory {
    fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    fn open(&self, context: &OpenContext) -> Result<Box<dyn Logic>, Fault> {
        let key_fields = context.key_schema.iter().flat_map(|s| s.fields().iter().map(|f| sdk_field(f)));
        let context = sdk::OpenContext {
            operator: context.operator.clone(),
            node: context.node.clone(),
            config: context.config.clone(),
            key_fields: key_fields.collect(),
            worker: context.worker as u32,
            workers: context.workers as u32,
        };
        let instance = self.entry.open(&context).map_err(|e| Fault::config(e.to_string()))?;
        Ok(Box::new(Native { entry: self.entry, context, instance, descriptor: self.descriptor.clone() }))
    }
}

struct Native {
    entry: &'static sdk::Entry,
    context: sdk::OpenContext,
    instance: Box<dyn sdk::Instance>,
    descriptor: Descriptor,
}

// SAFETY: an instance is moved as a whole, and no operator of the tests shares anything with the thread that opened it.
unsafe impl Send for Native {}

impl Logic for Native {
    fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    fn process(&mut self, input: &RowsIn) -> Result<Effects, LogicError> {
        let columns = Lowered::of(input.rows.columns());
        let rows = columns.batch(input.rows.num_rows(), &input.times);
        let effects = self.call(|instance| instance.process(input.input as u16, &rows, now(input.now)))?;
        self.effects(effects, 0)
    }

    fn keep(&mut self, input: &RowsIn) -> Result<(BooleanArray, Vec<RowError>), LogicError> {
        let columns = Lowered::of(input.rows.columns());
        let rows = columns.batch(input.rows.num_rows(), &input.times);
        let kept = self.call(|instance| instance.keep(input.input as u16, &rows, now(input.now)))?;
        let bits = BooleanBuffer::new(Buffer::from_vec(kept.bitmap), 0, input.rows.num_rows());
        Ok((BooleanArray::new(bits, None), kept.errors.into_iter().map(row_error).collect()))
    }

    fn process_keyed(&mut self, input: &KeyedIn, reads: &mut dyn EntryReads) -> Result<Effects, LogicError> {
        let columns = Lowered::of(input.rows.rows.columns());
        let keys = Lowered::of(input.keys.iter().flat_map(|k| k.columns()));
        let batch = sdk::KeyedBatch {
            input: input.rows.input as u16,
            rows: columns.batch(input.rows.rows.num_rows(), &input.rows.times),
            key_index: bytes(input.key_index.inner()),
            keys: keys.keys(input.key_count, &input.states),
            now: now(input.rows.now),
        };
        let mut reads = SdkReads { reads, states: &self.descriptor.states.clone() };
        let call = |instance: &mut dyn sdk::Instance| sdk::with_entries(&mut reads, || instance.process_keyed(batch));
        let effects = self.call(call)?;
        self.effects(effects, input.key_count)
    }

    fn on_timers(&mut self, due: &TimersIn, reads: &mut dyn EntryReads) -> Result<Effects, LogicError> {
        let keys = Lowered::of(due.keys.iter().flat_map(|k| k.columns()));
        let timers = sdk::DueTimers {
            domain: match due.domain {
                TimeDomain::Event => sdk::Domain::Event,
                TimeDomain::Processing => sdk::Domain::Processing,
            },
            key_index: bytes(due.key_index.inner()),
            times: bytes(due.times.inner()),
            keys: keys.keys(due.key_count, &due.states),
            now: now(due.now),
        };
        let mut reads = SdkReads { reads, states: &self.descriptor.states.clone() };
        let call = |instance: &mut dyn sdk::Instance| sdk::with_entries(&mut reads, || instance.on_timers(timers));
        let effects = self.call(call)?;
        self.effects(effects, due.key_count)
    }

    fn migrate_state(&mut self, name: &str, from: u32, values: &ArrayRef) -> Result<ArrayRef, LogicError> {
        let (count, column) = (values.len(), columns::owned(values));
        let migrated = self.call(|instance| instance.migrate_state(name, from, column))?;
        let state = self.descriptor.states.iter().find(|state| state.name == name);
        let state = state.ok_or_else(|| LogicError::Fatal(format!("there is no state `{name}`")))?;
        lift(state.field.data_type(), count, &mut Columns::from([migrated]))
    }
}

static QUIET_HOOK: Once = Once::new();

thread_local! {
    /// This thread is in a call: a panic is a result.
    static CALLING: Cell<bool> = const { Cell::new(false) };
}

/// Panics in calls print nothing, as in a component.
fn hush() {
    let loud = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !CALLING.get() {
            loud(panic);
        }
    }));
}

impl Native {
    /// Calls the operator. What it leaves behind when it panics is thrown away with it.
    fn call<T>(
        &mut self,
        call: impl FnOnce(&mut dyn sdk::Instance) -> Result<T, sdk::OpError>,
    ) -> Result<T, LogicError> {
        let instance = self.instance.as_mut();
        QUIET_HOOK.call_once(hush);
        CALLING.set(true);
        let result = catch_unwind(AssertUnwindSafe(|| call(instance)));
        CALLING.set(false);
        match result {
            Ok(result) => result.map_err(fatal),
            Err(panic) => {
                self.instance = self.entry.open(&self.context).map_err(fatal)?;
                let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
                let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
                Err(LogicError::Trap(format!("panicked: {text}")))
            }
        }
    }

    /// `keys`: how many there are in the call.
    fn effects(&self, effects: sdk::Effects, keys: usize) -> Result<Effects, LogicError> {
        let outputs: Result<Vec<RowsOut>, LogicError> = effects.outputs.into_iter().map(|o| self.output(o)).collect();
        let updates: Result<Vec<StateUpdate>, LogicError> =
            effects.updates.into_iter().map(|u| self.update(u, keys)).collect();
        let entries: Result<Vec<EntryUpdate>, LogicError> = effects
            .entries
            .into_iter()
            .map(|u| entries::update(&self.descriptor.states[u.state as usize], u))
            .collect();
        Ok(Effects {
            outputs: outputs?,
            updates: updates?,
            entries: entries?,
            timers: effects.timers.into_iter().flat_map(timer_changes).collect(),
            errors: effects.errors.into_iter().map(row_error).collect(),
        })
    }

    fn output(&self, output: sdk::Output) -> Result<RowsOut, LogicError> {
        let schema = &self.descriptor.outputs[output.port as usize].schema;
        let rows = output.rows.rows as usize;
        let columns = lift_all(schema.fields(), rows, output.rows.columns)?;
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(rows));
        let rows = RecordBatch::try_new_with_options(schema.clone(), columns, &options);
        Ok(RowsOut {
            port: output.port as usize,
            rows: rows.map_err(|e| LogicError::Fatal(e.to_string()))?,
            parents: optional(output.parents),
            times: optional(output.rows.times),
            kinds: None,
        })
    }

    fn update(&self, update: sdk::StateUpdate, keys: usize) -> Result<StateUpdate, LogicError> {
        let StateDescriptor { field, scope, .. } = &self.descriptor.states[update.state as usize];
        let keys = if *scope == StateScope::Key { keys } else { 1 };
        let indices = optional(update.key_index);
        // Without indices there is a value for each key.
        let rows = indices.as_ref().map_or(keys, |indices: &ScalarBuffer<u32>| indices.len());
        let values = lift(field.data_type(), rows, &mut Columns::from([update.values]))?;
        Ok(StateUpdate { state: update.state as usize, keys: indices, values })
    }
}

fn fatal(error: sdk::OpError) -> LogicError {
    LogicError::Fatal(error.to_string())
}

fn now(now: Now) -> sdk::Now {
    sdk::Now { watermark: now.watermark, processing: now.processing_ms }
}

fn row_error(error: sdk::RowError) -> RowError {
    RowError { row: error.row, message: error.message }
}

fn timer_changes(changes: sdk::TimerChanges) -> impl Iterator<Item = TimerChange> {
    let domain = match changes.domain {
        sdk::Domain::Event => TimeDomain::Event,
        sdk::Domain::Processing => TimeDomain::Processing,
    };
    let keys: ScalarBuffer<u32> = Buffer::from_vec(changes.key_index).into();
    let times: ScalarBuffer<i64> = Buffer::from_vec(changes.times).into();
    let deletes = changes.deletes;
    (0..keys.len()).map(move |i| TimerChange {
        key: keys[i],
        domain,
        time: times[i],
        delete: deletes.get(i).is_some_and(|&d| d == 1),
    })
}

fn descriptor(d: &sdk::Descriptor) -> Descriptor {
    let state = |s: &sdk::StateDescriptor| StateDescriptor {
        name: s.name.clone(),
        scope: StateScope::of_name(s.scope).expect("the SDK names scopes as the host does"),
        field: field(&s.value),
        kind: match s.kind {
            "list" => StateKind::List,
            "map" => StateKind::Map(field(&s.entry_key[0])),
            _ => StateKind::Value,
        },
        codec: s.codec.clone(),
        version: s.version,
        ttl: (s.ttl > 0).then_some(Ttl { ms: s.ttl, on_read: s.ttl_on_read }),
    };
    Descriptor {
        name: d.name.clone(),
        doc: d.doc.clone(),
        kind: match d.kind {
            "map" => LogicKind::Map,
            "filter" => LogicKind::Filter,
            _ => LogicKind::Keyed,
        },
        inputs: d.inputs.iter().map(port).collect(),
        outputs: d.outputs.iter().map(port).collect(),
        states: d.states.iter().map(state).collect(),
        reads_time: d.reads_time,
        reads_keys: d.reads_keys,
        changes: d.changes,
    }
}

fn port(p: &sdk::Port) -> Port {
    let mut flat = p.fields.iter();
    let mut fields = Vec::new();
    while let Some(first) = flat.next() {
        fields.push(nested(first, &mut flat));
    }
    let schema: SchemaRef = Arc::new(Schema::new(fields));
    Port { name: p.name.clone(), schema, carry: p.carry, broadcast: p.broadcast }
}

/// A field with its children, which follow it in pre-order.
fn nested<'a>(f: &sdk::Field, rest: &mut impl Iterator<Item = &'a sdk::Field>) -> Field {
    let children: Vec<Field> = (0..f.children)
        .map(|_| {
            let child = rest.next().expect("a child follows its parent");
            nested(child, rest)
        })
        .collect();
    let data_type = match f.type_name.as_str() {
        "list" => DataType::List(Arc::new(children.into_iter().next().expect("a list has items"))),
        "struct" => DataType::Struct(Fields::from(children)),
        plain => parse_type(plain).expect("the SDK names types as the host does"),
    };
    Field::new(&f.name, data_type, f.nullable)
}

fn field(f: &sdk::Field) -> Field {
    nested(f, &mut std::iter::empty())
}

/// Keys are flat.
fn sdk_field(f: &Field) -> sdk::Field {
    sdk::Field { name: f.name().clone(), type_name: type_name(f.data_type()), nullable: f.is_nullable(), children: 0 }
}
