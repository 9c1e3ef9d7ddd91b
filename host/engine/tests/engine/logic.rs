//! Native logic for tests: closures behind `model::logic`.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Int64Type, SchemaRef};
use tidemill_model::Fault;
use tidemill_model::component::{Descriptor, LogicKind, Port, StateDescriptor};
use tidemill_model::entries::EntryReads;
use tidemill_model::logic::{
    Effects, KeyedIn, Logic, LogicError, LogicFactory, OpenContext, RowError, RowsIn, RowsOut, StateUpdate,
    TimerChange, TimersIn,
};

use crate::support::{ints, rows, schema};

type Shared<In, Out> = Arc<dyn Fn(&In) -> Result<Out, LogicError> + Send + Sync>;

#[derive(Clone)]
pub struct Native {
    pub descriptor: Descriptor,
    pub process: Shared<RowsIn, Effects>,
    pub keep: Shared<RowsIn, (BooleanArray, Vec<RowError>)>,
    pub keyed: Shared<KeyedIn, Effects>,
    pub timers: Shared<TimersIn, Effects>,
    pub migrate: Shared<ArrayRef, ArrayRef>,
}

impl Native {
    pub fn new(kind: LogicKind, input: &SchemaRef, outputs: Vec<Port>) -> Self {
        let inputs = vec![port("in", input, false)];
        let descriptor = Descriptor {
            name: "native".into(),
            doc: String::new(),
            kind,
            inputs,
            outputs,
            states: Vec::new(),
            reads_time: false,
            reads_keys: false,
            changes: false,
        };
        Self {
            descriptor,
            process: Arc::new(|_| Ok(Effects::default())),
            keep: Arc::new(|_| Ok((BooleanArray::from(Vec::<bool>::new()), Vec::new()))),
            keyed: Arc::new(|_| Ok(Effects::default())),
            timers: Arc::new(|_| Ok(Effects::default())),
            migrate: Arc::new(|_| Err(LogicError::Fatal("no migration".into()))),
        }
    }
}

impl LogicFactory for Native {
    fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }
    fn open(&self, _context: &OpenContext) -> Result<Box<dyn Logic>, Fault> {
        Ok(Box::new(self.clone()))
    }
}

impl Logic for Native {
    fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }
    fn process(&mut self, input: &RowsIn) -> Result<Effects, LogicError> {
        (self.process)(input)
    }
    fn keep(&mut self, input: &RowsIn) -> Result<(BooleanArray, Vec<RowError>), LogicError> {
        (self.keep)(input)
    }
    fn process_keyed(&mut self, input: &KeyedIn, _reads: &mut dyn EntryReads) -> Result<Effects, LogicError> {
        (self.keyed)(input)
    }
    fn on_timers(&mut self, due: &TimersIn, _reads: &mut dyn EntryReads) -> Result<Effects, LogicError> {
        (self.timers)(due)
    }
    fn migrate_state(&mut self, _name: &str, _from: u32, values: &ArrayRef) -> Result<ArrayRef, LogicError> {
        (self.migrate)(values)
    }
}

pub fn port(name: &str, schema: &SchemaRef, carry: bool) -> Port {
    Port { name: name.into(), schema: schema.clone(), carry, broadcast: false }
}

pub fn state(name: &str, data_type: DataType) -> StateDescriptor {
    StateDescriptor::value(name, data_type)
}

pub fn column(rows: &RecordBatch, name: &str) -> Int64Array {
    rows.column_by_name(name).unwrap().as_primitive::<Int64Type>().clone()
}

pub fn out(port: usize, rows: RecordBatch, parents: Option<Vec<u32>>) -> RowsOut {
    RowsOut { port, rows, parents: parents.map(Into::into), times: None, kinds: None }
}

/// The value 13 makes a call trap; 99 is a row error.
pub fn trap_on_13(values: &Int64Array) -> Result<(), LogicError> {
    if values.iter().any(|v| v == Some(13)) { Err(LogicError::Trap("unlucky".into())) } else { Ok(()) }
}

pub fn error_on_99(values: &Int64Array) -> Vec<RowError> {
    let bad = values.iter().enumerate().filter(|(_, v)| *v == Some(99));
    bad.map(|(row, _)| RowError { row: row as u32, message: "99 is not a value".into() }).collect()
}

pub fn is_good(value: Option<i64>) -> bool {
    value != Some(13) && value != Some(99)
}

/// Counts the rows of each key and sums their values; emits `n` and `sum` after each row, carrying the row.
pub fn counter(input: &SchemaRef) -> Native {
    let own = schema(&[("n", DataType::Int64), ("sum", DataType::Int64)]);
    let mut native = Native::new(LogicKind::Keyed, input, vec![port("out", &own, true)]);
    native.descriptor.inputs[0].schema = schema(&[("v", DataType::Int64)]);
    native.descriptor.states = vec![state("n", DataType::Int64), state("sum", DataType::Int64)];
    native.keyed = Arc::new(count_rows);
    native
}

fn count_rows(input: &KeyedIn) -> Result<Effects, LogicError> {
    let values = column(&input.rows.rows, "v");
    trap_on_13(&values)?;
    let load = |s: usize| -> Vec<i64> {
        input.states[s].as_primitive::<Int64Type>().iter().map(Option::unwrap_or_default).collect()
    };
    let (mut n, mut sum) = (load(0), load(1));
    let (mut out_n, mut out_sum, mut parents) = (vec![], vec![], vec![]);
    for (row, value) in values.iter().enumerate().filter(|(_, v)| *v != Some(99)) {
        let key = input.key_index[row] as usize;
        n[key] += 1;
        sum[key] += value.unwrap_or(0);
        out_n.push(n[key]);
        out_sum.push(sum[key]);
        parents.push(row as u32);
    }
    // A key without a counted row has no state.
    let counted: Vec<bool> = n.iter().map(|&n| n > 0).collect();
    let update = |state, values: Vec<i64>| {
        let kept = values.into_iter().zip(&counted).map(|(value, &counted)| counted.then_some(value));
        StateUpdate { state, keys: None, values: ints(kept) }
    };
    Ok(Effects {
        outputs: vec![out(0, rows(&[("n", ints(out_n)), ("sum", ints(out_sum))]), Some(parents))],
        updates: vec![update(0, n), update(1, sum)],
        errors: error_on_99(&values),
        ..Effects::default()
    })
}

/// Sets the timers that `plan` gives for each row `(value)`; a timer emits its time and the key, and sets those
/// that `again` gives for its time.
pub fn alarm(
    input: &SchemaRef,
    plan: impl Fn(i64, u32) -> Vec<TimerChange> + Send + Sync + 'static,
    again: impl Fn(i64, u32) -> Vec<TimerChange> + Send + Sync + 'static,
) -> Native {
    let own = schema(&[("key", DataType::Int64), ("at", DataType::Int64)]);
    let mut native = Native::new(LogicKind::Keyed, input, vec![port("out", &own, false)]);
    native.descriptor.reads_keys = true;
    native.keyed = Arc::new(move |input| {
        let values = column(&input.rows.rows, "v");
        trap_on_13(&values)?;
        let rows = values.iter().enumerate();
        let timers = rows.flat_map(|(row, v)| plan(v.unwrap(), input.key_index[row])).collect();
        Ok(Effects { timers, ..Effects::default() })
    });
    native.timers = Arc::new(move |due| {
        let keys = due.keys.as_ref().unwrap().column(0).as_primitive::<Int64Type>().clone();
        let at = Int64Array::new(due.times.clone(), None);
        trap_on_13(&at)?;
        let key: ArrayRef = ints(due.key_index.iter().map(|&k| keys.value(k as usize)));
        let timers = due.times.iter().zip(due.key_index.iter()).flat_map(|(&t, &k)| again(t, k)).collect();
        let emitted = rows(&[("key", key), ("at", Arc::new(at.clone()))]);
        let good: Vec<u32> = (0..at.len() as u32).collect();
        Ok(Effects {
            outputs: vec![out(0, emitted, Some(good))],
            timers,
            errors: error_on_99(&at),
            ..Effects::default()
        })
    });
    native
}
