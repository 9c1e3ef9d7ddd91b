//! The heap backend against the conformance suite and arbitrary steps.

use proptest::prelude::*;
use tidemill_model::snapshot::Form;
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
