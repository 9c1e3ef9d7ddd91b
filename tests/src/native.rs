//! Operators of the Rust SDK run natively behind the host's logic port, by the same columns that cross
//! into a component: for comparison of WASM with native code, in results and in speed.
//!
//! Flat columns only (no list, no struct): what the benchmarks and the case matrix use.

use std::sync::Arc;

use arrow::array::{Array, ArrayData, ArrayRef, BooleanArray, RecordBatch, make_array};
use arrow::buffer::{BooleanBuffer, Buffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use tidemill_model::Fault;
use tidemill_model::component::{Descriptor, LogicKind, Port, StateDescriptor};
use tidemill_model::logic::{
    Effects, KeyedIn, Logic, LogicError, LogicFactory, OpenContext, RowError, RowsIn, RowsOut, StateUpdate, TimeDomain,
    TimerChange, TimersIn,
};
use tidemill_model::schema::{parse_type, type_name};
use tidemill_model::time::Now;
use tidemill_sdk::native as sdk;

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
        Ok(Box::new(Native { instance, descriptor: self.descriptor.clone() }))
    }
}

struct Native {
    instance: Box<dyn sdk::Instance>,
    descriptor: Descriptor,
}

impl Logic for Native {
    fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    fn process(&mut self, input: &RowsIn) -> Result<Effects, LogicError> {
        let columns = Lowered::of(input.rows.columns());
        let rows = columns.batch(input.rows.num_rows(), &input.times);
        let effects = self.instance.process(input.input as u16, &rows, now(input.now)).map_err(fatal)?;
        self.effects(effects)
    }

    fn keep(&mut self, input: &RowsIn) -> Result<(BooleanArray, Vec<RowError>), LogicError> {
        let columns = Lowered::of(input.rows.columns());
        let rows = columns.batch(input.rows.num_rows(), &input.times);
        let kept = self.instance.keep(input.input as u16, &rows, now(input.now)).map_err(fatal)?;
        let bits = BooleanBuffer::new(Buffer::from_vec(kept.bitmap), 0, input.rows.num_rows());
        Ok((BooleanArray::new(bits, None), kept.errors.into_iter().map(row_error).collect()))
    }

    fn process_keyed(&mut self, input: &KeyedIn) -> Result<Effects, LogicError> {
        let columns = Lowered::of(input.rows.rows.columns());
        let keys = Lowered::of(input.keys.iter().flat_map(|k| k.columns()));
        let batch = sdk::KeyedBatch {
            input: input.rows.input as u16,
            rows: columns.batch(input.rows.rows.num_rows(), &input.rows.times),
            key_index: bytes(input.key_index.inner()),
            keys: keys.keys(input.key_count, &input.states),
            now: now(input.rows.now),
        };
        let effects = self.instance.process_keyed(batch).map_err(fatal)?;
        self.effects(effects)
    }

    fn on_timers(&mut self, due: &TimersIn) -> Result<Effects, LogicError> {
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
        let effects = self.instance.on_timers(timers).map_err(fatal)?;
        self.effects(effects)
    }
}

impl Native {
    fn effects(&self, effects: sdk::Effects) -> Result<Effects, LogicError> {
        let outputs: Result<Vec<RowsOut>, LogicError> = effects.outputs.into_iter().map(|o| self.output(o)).collect();
        let updates: Result<Vec<StateUpdate>, LogicError> =
            effects.updates.into_iter().map(|u| self.update(u)).collect();
        Ok(Effects {
            outputs: outputs?,
            updates: updates?,
            timers: effects.timers.into_iter().flat_map(timer_changes).collect(),
            errors: effects.errors.into_iter().map(row_error).collect(),
        })
    }

    fn output(&self, output: sdk::Output) -> Result<RowsOut, LogicError> {
        let schema = &self.descriptor.outputs[output.port as usize].schema;
        let rows = output.rows.rows as usize;
        let columns: Result<Vec<ArrayRef>, LogicError> = (schema.fields().iter().zip(output.rows.columns))
            .map(|(field, column)| lift(field.data_type(), rows, column))
            .collect();
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(rows));
        let rows = RecordBatch::try_new_with_options(schema.clone(), columns?, &options);
        Ok(RowsOut {
            port: output.port as usize,
            rows: rows.map_err(|e| LogicError::Fatal(e.to_string()))?,
            parents: optional(output.parents),
            times: optional(output.rows.times),
            kinds: None,
        })
    }

    fn update(&self, update: sdk::StateUpdate) -> Result<StateUpdate, LogicError> {
        let field = &self.descriptor.states[update.state as usize].field;
        let width = field.data_type().primitive_width();
        let rows = match width {
            Some(width) => update.values.data.len() / width,
            None if *field.data_type() == DataType::Boolean => update.key_index.len() / 4,
            None => (update.values.offsets.len() / 4).saturating_sub(1),
        };
        let values = lift(field.data_type(), rows, update.values)?;
        Ok(StateUpdate { state: update.state as usize, keys: optional(update.key_index), values })
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

fn bytes(buffer: &Buffer) -> &[u8] {
    buffer.as_slice()
}

fn optional<T: arrow::datatypes::ArrowNativeType>(bytes: Vec<u8>) -> Option<ScalarBuffer<T>> {
    (!bytes.is_empty()).then(|| Buffer::from_vec(bytes).into())
}

/// Buffers of flat columns, rebased to their first row.
struct Lowered(Vec<ArrayData>);

impl Lowered {
    fn of<'a>(columns: impl IntoIterator<Item = &'a ArrayRef>) -> Self {
        Self(columns.into_iter().map(|c| rebase(c.to_data())).collect())
    }

    fn refs(&self) -> Vec<sdk::ColumnRef<'_>> {
        self.0.iter().map(column_ref).collect()
    }

    fn batch<'a>(&'a self, rows: usize, times: &'a Option<ScalarBuffer<i64>>) -> sdk::BatchRef<'a> {
        let times = times.as_ref().map_or(&[][..], |t| bytes(t.inner()));
        sdk::BatchRef { rows: rows as u32, times, kinds: &[], columns: self.refs() }
    }

    fn keys(&self, count: usize, states: &[ArrayRef]) -> sdk::Keys<'_> {
        let owned = |a: &ArrayRef| {
            let data = rebase(a.to_data());
            let column = column_ref(&data);
            sdk::Column {
                validity: column.validity.to_vec(),
                offsets: column.offsets.to_vec(),
                data: column.data.to_vec(),
            }
        };
        sdk::Keys { count: count as u32, columns: self.refs(), states: states.iter().map(owned).collect() }
    }
}

/// Slices that do not begin at 0 are copied, except those of fixed width.
fn rebase(data: ArrayData) -> ArrayData {
    if data.offset() == 0 {
        return data;
    }
    let mut copy = arrow::array::MutableArrayData::new(vec![&data], false, data.len());
    copy.try_extend(0, 0, data.len()).expect("a batch fits into one array");
    copy.freeze()
}

fn column_ref(data: &ArrayData) -> sdk::ColumnRef<'_> {
    let rows = data.len();
    let validity = data.nulls().filter(|n| n.null_count() > 0).map_or(&[][..], |n| n.buffer().as_slice());
    match data.data_type() {
        DataType::Utf8 | DataType::Binary => {
            let offsets = &data.buffers()[0].as_slice()[..(rows + 1) * 4];
            let end = data.buffers()[0].typed_data::<i32>()[rows] as usize;
            sdk::ColumnRef { validity, offsets, data: &data.buffers()[1].as_slice()[..end] }
        }
        DataType::Boolean => sdk::ColumnRef { validity, offsets: &[], data: data.buffers()[0].as_slice() },
        other => {
            let width = other.primitive_width().expect("flat columns only");
            sdk::ColumnRef { validity, offsets: &[], data: &data.buffers()[0].as_slice()[..rows * width] }
        }
    }
}

fn lift(data_type: &DataType, rows: usize, column: sdk::Column) -> Result<ArrayRef, LogicError> {
    let mut builder = ArrayData::builder(data_type.clone()).len(rows);
    if !column.validity.is_empty() {
        builder = builder.null_bit_buffer(Some(Buffer::from_vec(column.validity)));
    }
    if matches!(data_type, DataType::Utf8 | DataType::Binary) {
        builder = builder.add_buffer(Buffer::from_vec(column.offsets));
    }
    let data = builder.add_buffer(Buffer::from_vec(column.data)).align_buffers(true).build();
    data.map(make_array).map_err(|e| LogicError::Fatal(e.to_string()))
}

fn descriptor(d: &sdk::Descriptor) -> Descriptor {
    let state = |s: &sdk::StateDescriptor| StateDescriptor {
        name: s.name.clone(),
        field: field(&s.value),
        codec: s.codec.clone(),
        version: s.version,
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
    let schema: SchemaRef = Arc::new(Schema::new(p.fields.iter().map(field).collect::<Vec<_>>()));
    Port { name: p.name.clone(), schema, carry: p.carry }
}

fn field(f: &sdk::Field) -> Field {
    assert_eq!(f.children, 0, "flat columns only: `{}`", f.name);
    Field::new(&f.name, parse_type(&f.type_name).expect("the SDK names types as the host does"), f.nullable)
}

fn sdk_field(f: &Field) -> sdk::Field {
    sdk::Field { name: f.name().clone(), type_name: type_name(f.data_type()), nullable: f.is_nullable(), children: 0 }
}
