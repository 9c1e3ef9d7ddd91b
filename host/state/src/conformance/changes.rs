//! What a backend does when its operator gets other logic: other states, and a walk over the keys that have a value.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int64Array, StringArray};
use arrow::datatypes::DataType;
use tidemill_model::component::StateDescriptor;
use tidemill_model::key::groups_of;
use tidemill_model::snapshot::Form;
use tidemill_model::state::{StateBackend, StateBackendFactory};

use super::snapshots::Written;
use super::{Key, descriptor, encode, open, resolve};

const KEYS: i64 = 5000;

pub(super) fn changes(factory: &dyn StateBackendFactory) {
    // Some keys in the databases, some only in memory, some in both: backends may treat them differently.
    for stored in [0, KEYS / 2, KEYS] {
        states_come_stay_and_go(factory, stored);
        a_walk_meets_every_key_that_has_a_value(factory, stored);
    }
}

/// Even keys have a number, every third a text.
fn filled(factory: &dyn StateBackendFactory, stored: i64) -> Box<dyn StateBackend> {
    let mut backend = open(factory, &[DataType::Int64, DataType::Utf8]);
    for range in [0..stored, stored..KEYS] {
        let keys: Vec<Key> = range.map(Some).collect();
        if keys.is_empty() {
            continue;
        }
        let slots = resolve(backend.as_mut(), &keys);
        let numbers = keys.iter().map(|k| k.filter(|k| k % 2 == 0));
        backend.scatter(0, &slots, &(Arc::new(numbers.collect::<Int64Array>()) as ArrayRef)).expect("scatter");
        let texts = keys.iter().map(|k| k.filter(|k| k % 3 == 0).map(|k| k.to_string()));
        backend.scatter(1, &slots, &(Arc::new(texts.collect::<StringArray>()) as ArrayRef)).expect("scatter");
        backend.release(&slots);
        if keys[0] == Some(0) {
            Written::read(backend.snapshot(Form::Native).expect("snapshot"), groups_of(0, 1));
        }
    }
    backend
}

fn present(backend: &mut dyn StateBackend, state: usize) -> BTreeMap<i64, bool> {
    let keys: Vec<Key> = (0..KEYS).map(Some).collect();
    let slots = resolve(backend, &keys);
    let values = backend.gather(state, &slots).expect("gather");
    backend.release(&slots);
    (0..KEYS).map(|k| (k, values.is_valid(k as usize))).collect()
}

fn having(backend: &mut dyn StateBackend, state: usize) -> Vec<i64> {
    present(backend, state).into_iter().filter(|(_, has)| *has).map(|(key, _)| key).collect()
}

fn states_come_stay_and_go(factory: &dyn StateBackendFactory, stored: i64) {
    let mut backend = filled(factory, stored);
    let [number, text] = [(0, DataType::Int64), (1, DataType::Utf8)].map(|(i, t)| descriptor(i, &t));
    // The name is as before, version and type are others: another state.
    let next = StateDescriptor { version: 2, ..descriptor(0, &DataType::Utf8) };
    backend.redescribe(&[text.clone(), next.clone(), number.clone()]).expect("redescribe");
    let thirds: Vec<i64> = (0..KEYS).filter(|k| k % 3 == 0).collect();
    let halves: Vec<i64> = (0..KEYS).filter(|k| k % 2 == 0).collect();
    assert_eq!(having(backend.as_mut(), 0), thirds, "a state that stays keeps its values");
    assert_eq!(having(backend.as_mut(), 1), [0; 0], "a new version starts empty");
    assert_eq!(having(backend.as_mut(), 2), halves, "the version before keeps its values");
    let slots = resolve(backend.as_mut(), &[Some(1), Some(2)]);
    backend.scatter(1, &slots, &(Arc::new(StringArray::from(vec!["one", "two"])) as ArrayRef)).expect("scatter");
    backend.release(&slots);
    // It goes through a checkpoint between two changes.
    Written::read(backend.snapshot(Form::Native).expect("snapshot"), groups_of(0, 1));
    backend.redescribe(&[text, next]).expect("redescribe");
    assert_eq!(having(backend.as_mut(), 0), thirds);
    assert_eq!(having(backend.as_mut(), 1), [1, 2]);
    backend.redescribe(&[number]).expect("redescribe");
    assert_eq!(having(backend.as_mut(), 0), [0; 0], "what was given up does not come back");
}

fn a_walk_meets_every_key_that_has_a_value(factory: &dyn StateBackendFactory, stored: i64) {
    let mut backend = filled(factory, stored);
    let (mut place, mut slots) = (Vec::new(), Vec::new());
    let mut met: Vec<Vec<u8>> = Vec::new();
    while backend.walk(0, &mut place, 700, &mut slots).expect("walk") {
        let values = backend.gather(0, &slots).expect("gather");
        met.extend((0..slots.len()).filter(|&i| values.is_valid(i)).map(|i| backend.key(slots[i]).to_vec()));
        // As a migration does: what was met has no value any more.
        let nothing: ArrayRef = Arc::new(Int64Array::from(vec![None; slots.len()]));
        backend.scatter(0, &slots, &nothing).expect("scatter");
        backend.release(&slots);
    }
    met.sort();
    let even: Vec<Key> = (0..KEYS).filter(|k| k % 2 == 0).map(Some).collect();
    let mut expected: Vec<Vec<u8>> = encode(&even).iter().map(|key| key.data().to_vec()).collect();
    expected.sort();
    assert_eq!(met, expected, "each key once");
    assert_eq!(having(backend.as_mut(), 0), [0; 0]);
    let thirds = (0..KEYS).filter(|k| k % 3 == 0).count();
    assert_eq!(having(backend.as_mut(), 1).len(), thirds, "other states are left alone");
}
