//! Keyed calls: states and keys in, updates and timers out, and what may be wrong with those.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, StringArray};
use arrow::datatypes::Int64Type;
use tidemill_model::logic::{KeyedIn, LogicError, TimeDomain, TimerChange, TimersIn};
use tidemill_model::time::Now;

use crate::support::{numbers, open};

/// Three rows of two keys with counts 10 and 20.
fn input() -> KeyedIn {
    KeyedIn {
        rows: numbers(&[7, 8, 9]),
        key_index: vec![0u32, 1, 0].into(),
        key_count: 2,
        keys: None,
        states: states(),
    }
}

fn states() -> Vec<ArrayRef> {
    let counts = Int64Array::from(vec![10, 20]);
    vec![Arc::new(counts), Arc::new(StringArray::from(vec![Some("a"), None]))]
}

#[test]
fn updates_and_timers_arrive() {
    let effects = open("keyed", &[]).unwrap().process_keyed(&input()).unwrap();
    let update = &effects.updates[0];
    assert_eq!((update.state, &update.keys), (0, &None));
    assert_eq!(update.values.as_primitive::<Int64Type>().values(), &[11, 21]);
    let change = |key, time, delete| TimerChange { key, domain: TimeDomain::Event, time, delete };
    assert_eq!(effects.timers, [change(0, 100, false), change(1, 200, true)]);
    assert_eq!(effects.outputs[0].rows.num_rows(), 3);
}

#[test]
fn parts_of_the_keys_can_be_updated_in_any_order_and_deleted() {
    let effects = open("keyed", &[("do", "key-back")]).unwrap().process_keyed(&input()).unwrap();
    assert_eq!(effects.updates[0].keys.as_deref(), Some(&[1, 0][..]));
    let effects = open("keyed", &[("do", "delete")]).unwrap().process_keyed(&input()).unwrap();
    assert!(effects.updates[0].values.is_null(1) && effects.updates[0].values.is_valid(0));
}

#[test]
fn malformed_effects_are_refused() {
    for (mode, expected) in [
        ("state", "an update of state 2; the operator has 2 states"),
        ("state-type", "state `text`: offsets have 0 bytes, 2 rows need 12"),
        ("key-range", "state `count`: key 2, but the call is about 2 keys"),
        ("key-twice", "state `count`: key 1 is updated twice"),
        ("key-odd", "state `count`: key indices have 7 bytes, no multiple of 4"),
        ("values-short", "state `count`: data has 8 bytes, 2 rows of int64 need 16"),
        ("timer-key", "timers: key 9, but the call is about 2 keys"),
        ("timer-times", "timers: times have 8 bytes, 2 timers need 16"),
        ("timer-deletes", "timers: 1 marks of deletion for 2 timers"),
        ("timer-mark", "timers: 7 is neither 0 (set) nor 1 (delete)"),
    ] {
        match open("keyed", &[("do", mode)]).unwrap().process_keyed(&input()) {
            Err(LogicError::Trap(text)) => assert_eq!(text, format!("returned a malformed answer: {expected}")),
            other => panic!("{mode}: {other:?}"),
        }
    }
}

#[test]
fn timers_fire_as_a_batch() {
    let due = TimersIn {
        key_index: vec![1u32, 0, 1].into(),
        times: vec![5i64, 6, 7].into(),
        domain: TimeDomain::Processing,
        key_count: 2,
        keys: None,
        states: states(),
        now: Now { watermark: 3, processing_ms: 9 },
    };
    let effects = open("keyed", &[]).unwrap().on_timers(&due).unwrap();
    let side = &effects.outputs[0];
    assert_eq!((side.port, &side.parents), (1, &None));
    assert_eq!(side.rows.column(0).as_primitive::<Int64Type>().values(), &[5, 6, 7]);
    let again: Vec<(u32, i64, bool)> = effects.timers.iter().map(|t| (t.key, t.time, t.delete)).collect();
    assert_eq!(again, [(1, 5, false), (0, 6, true), (1, 7, false)]);
    assert!(effects.timers.iter().all(|t| t.domain == TimeDomain::Processing));
    let trap = open("keyed", &[("do", "timers-loop")]).unwrap().on_timers(&due).unwrap_err();
    assert!(trap.to_string().starts_with("ran longer than 500 ms"), "{trap}");
}

#[test]
fn states_that_do_not_match_the_descriptor_are_the_hosts_mistake() {
    let mut wrong = input();
    wrong.states.pop();
    let text = open("keyed", &[]).unwrap().process_keyed(&wrong).unwrap_err().to_string();
    assert_eq!(text, "the host made a mistake: 1 state columns of 2 keys were passed for 2");
    let mut wrong = input();
    wrong.states.swap(0, 1);
    let text = open("keyed", &[]).unwrap().process_keyed(&wrong).unwrap_err().to_string();
    assert!(text.contains("state `count`: column `value` was passed as utf8, but is declared as int64"), "{text}");
}
