//! What every state backend must do, as a function that tests call. Panics with what was violated.
//!
//! The reference is a `BTreeMap`: a [`Step`] is done on both and the answers compared.

mod changes;
mod entries;
mod lives;
mod snapshots;
mod sweeps;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, Int64Array, StringArray, new_empty_array};
use arrow::compute::{cast, concat, take};
use arrow::datatypes::{DataType, Field, Int64Type, TimeUnit};
use arrow::row::{RowConverter, Rows, SortField};
use tidemill_model::component::StateDescriptor;
use tidemill_model::key::{groups_of, hash_rows};
use tidemill_model::snapshot::Form;
use tidemill_model::state::{Slot, StateBackend, StateBackendFactory, StateContext};

use snapshots::{Written, reopen};

/// One call on a backend with two states, an int64 and a utf8 one.
#[derive(Clone, Debug)]
pub enum Step {
    /// Resolves the keys, gathers and compares, writes `value` (`None` deletes) to state 0 of each key
    /// and its text to state 1 if `both`, releases.
    Write {
        keys: Vec<Option<i64>>,
        value: Option<i64>,
        both: bool,
    },
    /// Pins or unpins (if it is pinned) one key.
    Pin {
        key: i64,
    },
    Unpin {
        key: i64,
    },
    /// Freezes, restores into a new backend, and pins again as timers do.
    Restore {
        form: Form,
    },
}

/// Runs all checks.
pub fn conformance(factory: &dyn StateBackendFactory) {
    every_type_round_trips(factory);
    both_resolves_agree(factory);
    keys_of_any_length(factory);
    forgotten_keys_start_anew(factory);
    pins_keep_keys(factory);
    wrong_values_are_refused(factory);
    snapshots::snapshots(factory);
    changes::changes(factory);
    lives::lives(factory);
    sweeps::sweeps(factory);
    entries::entries(factory);
    for seed in 0..20 {
        check_steps(factory, &random_steps(seed));
    }
}

/// Does the steps on a fresh backend and on the reference.
pub fn check_steps(factory: &dyn StateBackendFactory, steps: &[Step]) {
    let mut pair = Pair { backend: open(factory, PAIR_TYPES), values: BTreeMap::new(), pins: BTreeMap::new() };
    for step in steps {
        match step {
            Step::Write { keys, value, both } => pair.write(keys, *value, *both),
            Step::Pin { key } => pair.pin(*key),
            Step::Unpin { key } => pair.unpin(*key),
            Step::Restore { form } => pair.restore(factory, *form),
        }
        assert_eq!(pair.backend.keys(), pair.expected_keys(), "keys held after {step:?}");
    }
}

type Key = Option<i64>;

const PAIR_TYPES: &[DataType] = &[DataType::Int64, DataType::Utf8];

struct Pair {
    backend: Box<dyn StateBackend>,
    values: BTreeMap<Key, (Option<i64>, Option<String>)>,
    /// Slot and number of pins.
    pins: BTreeMap<i64, (Slot, u32)>,
}

impl Pair {
    fn write(&mut self, keys: &[Key], value: Option<i64>, both: bool) {
        let mut distinct = keys.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        let slots = resolve(self.backend.as_mut(), &distinct);
        self.compare(&distinct, &slots);
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![value; slots.len()]));
        self.backend.scatter(0, &slots, &numbers).expect("scatter");
        let text = value.map(|v| "x".repeat((v.unsigned_abs() % 40) as usize));
        if both {
            let texts: ArrayRef = Arc::new(StringArray::from(vec![text.as_deref(); slots.len()]));
            self.backend.scatter(1, &slots, &texts).expect("scatter");
        }
        for key in &distinct {
            let entry = self.values.entry(*key).or_default();
            entry.0 = value;
            if both {
                entry.1.clone_from(&text);
            }
        }
        self.values.retain(|_, (n, t)| n.is_some() || t.is_some());
        self.compare(&distinct, &slots);
        self.backend.release(&slots);
    }

    fn compare(&mut self, keys: &[Key], slots: &[Slot]) {
        let numbers = self.backend.gather(0, slots).expect("gather");
        let texts = self.backend.gather(1, slots).expect("gather");
        for (i, key) in keys.iter().enumerate() {
            let (number, text) = self.values.get(key).cloned().unwrap_or_default();
            let numbers = numbers.as_primitive::<Int64Type>();
            assert_eq!(numbers.is_valid(i).then(|| numbers.value(i)), number, "state 0 of {key:?}");
            let texts = texts.as_string::<i32>();
            assert_eq!(texts.is_valid(i).then(|| texts.value(i)), text.as_deref(), "state 1 of {key:?}");
            assert_eq!(self.backend.key(slots[i]), encode(&[*key]).row(0).data(), "bytes of {key:?}");
        }
    }

    fn pin(&mut self, key: i64) {
        let slots = resolve(self.backend.as_mut(), &[Some(key)]);
        self.backend.pin(slots[0]);
        let entry = self.pins.entry(key).or_insert((slots[0], 0));
        assert_eq!(entry.0, slots[0], "a pinned key keeps its slot");
        entry.1 += 1;
        self.backend.release(&slots);
    }

    fn unpin(&mut self, key: i64) {
        let Some((slot, count)) = self.pins.get_mut(&key) else { return };
        let slot = *slot;
        *count -= 1;
        if *count == 0 {
            self.pins.remove(&key);
        }
        self.backend.unpin(slot);
        self.backend.release(&[slot]);
    }

    fn restore(&mut self, factory: &dyn StateBackendFactory, form: Form) {
        let written = [Written::read(self.backend.snapshot(form).expect("snapshot"), groups_of(0, 1))];
        self.backend = reopen(factory, PAIR_TYPES, &written, (0, 1));
        assert_eq!(self.backend.keys(), self.values.len(), "keys with values come back, and no others");
        for (&key, pin) in &mut self.pins {
            let slots = resolve(self.backend.as_mut(), &[Some(key)]);
            pin.0 = slots[0];
            (0..pin.1).for_each(|_| self.backend.pin(slots[0]));
            self.backend.release(&slots);
        }
        let keys: Vec<Key> = self.values.keys().copied().collect();
        let slots = resolve(self.backend.as_mut(), &keys);
        self.compare(&keys, &slots);
        self.backend.release(&slots);
    }

    fn expected_keys(&self) -> usize {
        let pinned_only = self.pins.keys().filter(|k| !self.values.contains_key(&Some(**k))).count();
        self.values.len() + pinned_only
    }
}

fn open(factory: &dyn StateBackendFactory, types: &[DataType]) -> Box<dyn StateBackend> {
    let states: Vec<StateDescriptor> = types.iter().enumerate().map(|(i, t)| descriptor(i, t)).collect();
    let place = StateContext { node: "node", worker: 0, workers: 1, states: &states };
    factory.open(&place).expect("open")
}

fn descriptor(index: usize, data_type: &DataType) -> StateDescriptor {
    StateDescriptor::value(&format!("state{index}"), data_type.clone())
}

fn encode_columns(column: ArrayRef) -> Rows {
    let converter = RowConverter::new(vec![SortField::new(column.data_type().clone())]).expect("sortable");
    converter.convert_columns(&[column]).expect("encodes")
}

fn encode(keys: &[Key]) -> Rows {
    encode_columns(Arc::new(Int64Array::from(keys.to_vec())))
}

/// Resolves through `resolve_i64` when no key is null and their number is even, else through `resolve`.
fn resolve(backend: &mut dyn StateBackend, keys: &[Key]) -> Vec<Slot> {
    let rows = encode(keys);
    let hashes = hash_rows(&rows);
    let mut slots = vec![Slot::MAX; 3];
    let plain: Option<Vec<i64>> = keys.iter().copied().collect();
    match plain.filter(|k| k.len() % 2 == 0) {
        Some(plain) => backend.resolve_i64(&plain, &hashes, &mut slots).expect("resolve"),
        None => backend.resolve(&rows, &hashes, &mut slots).expect("resolve"),
    }
    assert_eq!(slots.len(), keys.len(), "resolve clears the list and gives one slot per key");
    slots
}

/// A column of four values, the second one null, of each type that a state can have.
fn columns_of_every_type() -> Vec<ArrayRef> {
    use DataType::*;
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None, Some(0), Some(100)]));
    let cast_to = [
        Boolean,
        Int8,
        Int16,
        Int32,
        Int64,
        UInt8,
        UInt16,
        UInt32,
        UInt64,
        Float32,
        Float64,
        Utf8,
        Decimal128(20, 3),
        Timestamp(TimeUnit::Second, None),
        Timestamp(TimeUnit::Nanosecond, None),
    ];
    let mut columns: Vec<ArrayRef> = cast_to.iter().map(|t| cast(&numbers, t).expect("cast from int64")).collect();
    columns.push(cast(&cast(&numbers, &Int32).expect("int32"), &Date32).expect("date"));
    columns.push(Arc::new(BinaryArray::from_opt_vec(vec![Some(b"\xff\x00"), None, Some(b""), Some(b"abc")])));
    columns
}

fn every_type_round_trips(factory: &dyn StateBackendFactory) {
    for column in columns_of_every_type() {
        let name = format!("{:?}", column.data_type());
        let mut backend = open(factory, &[column.data_type().clone()]);
        let slots = resolve(backend.as_mut(), &[Some(7), Some(8), None, Some(-9)]);
        let none = backend.gather(0, &slots).expect("gather");
        assert_eq!((none.null_count(), none.data_type()), (4, column.data_type()), "{name}: nothing at first");
        backend.scatter(0, &slots, &column).expect("scatter");
        assert_eq!(&backend.gather(0, &slots).expect("gather"), &column, "{name}");
        let (back, order) = ([slots[3], slots[1]], arrow::array::UInt32Array::from(vec![3, 1]));
        let reordered = take(&column, &order, None).expect("take");
        assert_eq!(&backend.gather(0, &back).expect("gather"), &reordered, "{name}: any order");
        let padded = concat(&[column.as_ref(), column.as_ref()]).expect("concat").slice(3, 2);
        backend.scatter(0, &slots[..2], &padded).expect("scatter of a slice");
        assert_eq!(&backend.gather(0, &slots[..2]).expect("gather"), &padded, "{name}: slices");
        let empty = backend.gather(0, &[]).expect("gather nothing");
        assert_eq!(&empty, &new_empty_array(column.data_type()), "{name}: no slots");
    }
}

fn both_resolves_agree(factory: &dyn StateBackendFactory) {
    let mut backend = open(factory, &[DataType::Int64]);
    let keys = [i64::MIN, -1, 0, 1, 7, 7, i64::MAX];
    let rows = encode(&keys.map(Some));
    let hashes = hash_rows(&rows);
    let (mut plain, mut encoded) = (Vec::new(), Vec::new());
    backend.resolve_i64(&keys, &hashes, &mut plain).expect("resolve");
    backend.resolve(&rows, &hashes, &mut encoded).expect("resolve");
    assert_eq!(plain, encoded, "resolve_i64 is resolve of the encoding");
    assert_eq!(plain[4], plain[5], "equal keys, equal slots");
    assert_eq!(backend.keys(), 6);
}

fn keys_of_any_length(factory: &dyn StateBackendFactory) {
    let mut backend = open(factory, &[DataType::Int64]);
    // Numbers first, so that a backend with a short form for them has to give it up.
    let numbers = resolve(backend.as_mut(), &[Some(1), Some(2)]);
    let texts: Vec<Option<String>> = (0..50).map(|n| Some("k".repeat(n))).chain([None, Some("ü".into())]).collect();
    let rows = encode_columns(Arc::new(StringArray::from(texts.clone())));
    let hashes = hash_rows(&rows);
    let mut slots = Vec::new();
    backend.resolve(&rows, &hashes, &mut slots).expect("resolve");
    let mut distinct: Vec<Slot> = slots.iter().chain(&numbers).copied().collect();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), texts.len() + 2, "different keys, different slots");
    for (i, &slot) in slots.iter().enumerate() {
        assert_eq!(backend.key(slot), rows.row(i).data(), "bytes of {:?}", texts[i]);
    }
    assert_eq!(resolve(backend.as_mut(), &[Some(2)]), numbers[1..], "slots outlive other keys");
    backend.release(&slots);
    assert_eq!(backend.keys(), 2);
}

fn forgotten_keys_start_anew(factory: &dyn StateBackendFactory) {
    let mut backend = open(factory, &[DataType::Int64]);
    for round in 0..3i64 {
        let keys: Vec<Key> = (round * 10..round * 10 + 5).map(Some).collect();
        let slots = resolve(backend.as_mut(), &keys);
        assert_eq!(backend.gather(0, &slots).expect("gather").null_count(), 5, "a new key has no value");
        let values: ArrayRef = Arc::new(Int64Array::from(vec![round; 5]));
        backend.scatter(0, &slots, &values).expect("scatter");
        backend.release(&slots);
        assert_eq!(backend.keys(), 5, "values keep keys");
        let slots = resolve(backend.as_mut(), &keys);
        let nothing: ArrayRef = Arc::new(Int64Array::from(vec![None; 5]));
        backend.scatter(0, &slots, &nothing).expect("scatter");
        backend.release(&slots);
        backend.release(&slots);
        assert_eq!(backend.keys(), 0, "keys without values are forgotten, once");
    }
}

fn pins_keep_keys(factory: &dyn StateBackendFactory) {
    let mut backend = open(factory, &[]);
    let slots = resolve(backend.as_mut(), &[Some(1), Some(2)]);
    backend.pin(slots[0]);
    backend.pin(slots[0]);
    backend.release(&slots);
    assert_eq!(backend.keys(), 1, "a pinned key stays, also without states");
    backend.unpin(slots[0]);
    backend.release(&slots[..1]);
    assert_eq!(backend.keys(), 1, "pins count");
    assert_eq!(backend.key(slots[0]), encode(&[Some(1)]).row(0).data());
    backend.unpin(slots[0]);
    backend.release(&slots[..1]);
    assert_eq!(backend.keys(), 0);
}

fn wrong_values_are_refused(factory: &dyn StateBackendFactory) {
    let mut backend = open(factory, &[DataType::Int64]);
    let slots = resolve(backend.as_mut(), &[Some(1), Some(2)]);
    let texts: ArrayRef = Arc::new(StringArray::from(vec!["a", "b"]));
    assert!(backend.scatter(0, &slots, &texts).is_err(), "another type");
    let short: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    assert!(backend.scatter(0, &slots, &short).is_err(), "another number of values");
    let list = DataType::List(Arc::new(Field::new("item", DataType::Int64, true)));
    let place = StateContext { node: "node", worker: 0, workers: 1, states: &[descriptor(0, &list)] };
    assert!(factory.open(&place).is_err(), "no state is a list");
}

/// Numbers below a limit. SplitMix64: a seed gives the same ones everywhere.
fn chance(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed;
    move |below| {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % below
    }
}

/// A few hundred steps over few keys, so that they meet.
fn random_steps(seed: u64) -> Vec<Step> {
    let mut next = chance(seed);
    let steps = (0..300).map(|_| match next(40) {
        0..10 => Step::Pin { key: next(30) as i64 },
        10..20 => Step::Unpin { key: next(30) as i64 },
        20 => Step::Restore { form: if next(2) == 0 { Form::Portable } else { Form::Native } },
        _ => Step::Write {
            keys: (0..next(20)).map(|_| Some(next(30) as i64).filter(|k| *k > 0)).collect(),
            value: Some(next(1000) as i64).filter(|v| v % 3 > 0),
            both: next(2) == 0,
        },
    });
    steps.collect()
}
