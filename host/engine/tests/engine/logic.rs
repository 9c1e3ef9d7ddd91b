//! Native logic for tests: closures behind `model::logic`.

use std::sync::Arc;

use std::collections::BTreeMap;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, SchemaRef};
use tidemill_model::Fault;
use tidemill_model::component::{Descriptor, LogicKind, Port, StateDescriptor, StateKind};
use tidemill_model::entries::{EntryReads, EntryUpdate};
use tidemill_model::logic::{
    Effects, KeyedIn, Logic, LogicError, LogicFactory, OpenContext, RowError, RowsIn, RowsOut, StateUpdate,
    TimerChange, TimersIn,
};

use crate::support::{ints, rows, schema};

type Shared<In, Out> = Arc<dyn Fn(&In) -> Result<Out, LogicError> + Send + Sync>;
type Reading = Arc<dyn Fn(&KeyedIn, &mut dyn EntryReads) -> Result<Effects, LogicError> + Send + Sync>;

#[derive(Clone)]
pub struct Native {
    pub descriptor: Descriptor,
    pub process: Shared<RowsIn, Effects>,
    pub keep: Shared<RowsIn, (BooleanArray, Vec<RowError>)>,
    pub keyed: Shared<KeyedIn, Effects>,
    /// Instead of `keyed`, for logic that reads lists or maps.
    pub reading: Option<Reading>,
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
            reading: None,
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
    fn process_keyed(&mut self, input: &KeyedIn, reads: &mut dyn EntryReads) -> Result<Effects, LogicError> {
        match &self.reading {
            Some(reading) => reading(input, reads),
            None => (self.keyed)(input),
        }
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

/// Changes a map and a list of the key as a row's value says, and emits for each row how many rows of its key there were and what both
/// had before the call. Version 2 stores numbers with the other sign.
pub fn keeper(input: &SchemaRef, version: u32) -> Native {
    let sign = if version == 1 { 1 } else { -1 };
    let own = schema(&[("n", DataType::Int64), ("map", DataType::Int64), ("list", DataType::Int64)]);
    let mut native = Native::new(LogicKind::Keyed, input, vec![port("out", &own, true)]);
    native.descriptor.inputs[0].schema = schema(&[("v", DataType::Int64)]);
    let map = StateKind::Map(Field::new("entry", DataType::Int64, false));
    native.descriptor.states = [("n", StateKind::Value), ("m", map), ("l", StateKind::List)]
        .map(|(name, kind)| StateDescriptor { kind, version, ..state(name, DataType::Int64) })
        .to_vec();
    native.reading = Some(Arc::new(move |input, reads| keep_entries(input, reads, sign)));
    let negated = |old: &Int64Array| ints(old.iter().map(|value| value.map(|value| -value)));
    native.migrate = Arc::new(move |old| Ok(negated(old.as_primitive())));
    native
}

/// What a call does to the map and the list of one key.
#[derive(Clone, Default)]
struct Kept {
    clears: [bool; 2],
    puts: BTreeMap<i64, Option<i64>>,
    added: Vec<i64>,
}

impl Kept {
    fn apply(&mut self, value: i64) {
        let entry = value % 4;
        if matches!(value % 10, 6 | 8) {
            self.clears[0] = true;
            self.puts.clear();
        }
        if matches!(value % 10, 7 | 9) {
            self.clears[1] = true;
            self.added.clear();
        }
        match value % 10 {
            0..3 | 8 => drop(self.puts.insert(entry, Some(value))),
            3 => drop(self.puts.insert(entry, None)),
            4 | 5 | 9 => self.added.push(value),
            _ => {}
        }
    }
}

fn keep_entries(input: &KeyedIn, reads: &mut dyn EntryReads, sign: i64) -> Result<Effects, LogicError> {
    let values = column(&input.rows.rows, "v");
    trap_on_13(&values)?;
    let keys: Vec<u32> = (0..input.key_count as u32).collect();
    let mut digests = [vec![0i64; keys.len()], vec![0; keys.len()]];
    for (state, digests) in digests.iter_mut().enumerate() {
        let found = reads.scan(state + 1, &keys, None, 1000).map_err(LogicError::Trap)?;
        for (&key, value) in found.index.iter().zip(found.values.as_primitive::<Int64Type>().values()) {
            let digest = &mut digests[key as usize];
            *digest = digest.wrapping_mul(61).wrapping_add(value * sign + 1);
        }
    }
    let stored = input.states[0].as_primitive::<Int64Type>();
    let mut n: Vec<i64> = stored.iter().map(|n| n.unwrap_or(0) * sign).collect();
    let mut kept = vec![Kept::default(); keys.len()];
    let mut counts = Vec::new();
    for (&key, value) in input.key_index.iter().zip(values.values()) {
        n[key as usize] += 1;
        counts.push(n[key as usize]);
        kept[key as usize].apply(*value);
    }
    let of = |digests: &[i64]| ints(input.key_index.iter().map(|&key| digests[key as usize]));
    let emitted = rows(&[("n", ints(counts)), ("map", of(&digests[0])), ("list", of(&digests[1]))]);
    let clears = |state: usize| keys.iter().copied().filter(|&key| kept[key as usize].clears[state]).collect();
    let all = || keys.iter().zip(&kept);
    let puts = || all().flat_map(|(&key, kept)| kept.puts.iter().map(move |(&entry, &value)| (key, entry, value)));
    let added = || all().flat_map(|(&key, kept)| kept.added.iter().map(move |&value| (key, value)));
    let map = EntryUpdate {
        state: 1,
        clears: clears(0),
        keys: puts().map(|put| put.0).collect(),
        entries: Some(ints(puts().map(|put| put.1))),
        values: ints(puts().map(|put| put.2.map(|value| value * sign))),
    };
    let list = EntryUpdate {
        state: 2,
        clears: clears(1),
        keys: added().map(|added| added.0).collect(),
        entries: None,
        values: ints(added().map(|added| added.1 * sign)),
    };
    Ok(Effects {
        outputs: vec![out(0, emitted, Some((0..values.len() as u32).collect()))],
        updates: vec![StateUpdate { state: 0, keys: None, values: ints(n.into_iter().map(|n| n * sign)) }],
        entries: vec![map, list],
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
