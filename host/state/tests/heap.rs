//! The heap backend against the conformance suite and arbitrary steps.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray};
use arrow::datatypes::DataType;
use proptest::prelude::*;
use tidemill_model::component::StateDescriptor;
use tidemill_model::key::hash_i64;
use tidemill_model::snapshot::{CHUNK_BYTES_MAX, Form};
use tidemill_model::state::{StateBackendFactory, StateContext};
use tidemill_state::HeapFactory;
use tidemill_state::conformance::{Step, check_steps, conformance};

#[test]
fn heap_conforms() {
    conformance(&HeapFactory);
}

fn step() -> impl Strategy<Value = Step> {
    let key = proptest::option::weighted(0.9, -3i64..12);
    prop_oneof![
        3 => (prop::collection::vec(key, 0..16), proptest::option::of(any::<i64>()), any::<bool>())
            .prop_map(|(keys, value, both)| Step::Write { keys, value, both }),
        1 => (0i64..12).prop_map(|key| Step::Pin { key }),
        1 => (0i64..12).prop_map(|key| Step::Unpin { key }),
        1 => Just(Step::Restore { form: Form::Portable }),
    ]
}

proptest! {
    #[test]
    fn any_steps_do_as_on_a_map(steps in prop::collection::vec(step(), 0..60)) {
        check_steps(&HeapFactory, &steps);
    }
}

#[test]
fn a_chunk_of_large_values_is_not_larger_than_it_must_be() {
    let states = [StateDescriptor::value("blob", DataType::Binary)];
    let place = StateContext { node: "node", worker: 0, workers: 1, states: &states };
    let mut heap = HeapFactory.open(&place).unwrap();
    let (value, count) = (CHUNK_BYTES_MAX / 4, 10);
    let keys: Vec<i64> = (0..count).collect();
    let mut slots = Vec::new();
    heap.resolve_i64(&keys, &keys.iter().map(|&key| hash_i64(key)).collect::<Vec<_>>(), &mut slots).unwrap();
    let values: ArrayRef = Arc::new(BinaryArray::from_iter_values(keys.iter().map(|_| vec![7; value])));
    heap.scatter(0, &slots, &values).unwrap();
    let table = heap.snapshot(Form::Portable).unwrap().tables.remove(0);
    let rows: Vec<usize> = table.chunks.map(|chunk| chunk.unwrap().num_rows()).collect();
    assert_eq!(rows, [4, 4, 2]);
}
