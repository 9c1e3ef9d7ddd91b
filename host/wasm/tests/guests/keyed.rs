//! Keyed calls: states and keys in, updates and timers out, and what may be wrong with those.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, StringArray};
use arrow::datatypes::Int64Type;
use tidemill_model::entries::{EntryReads, EntryRows, NoEntries};
use tidemill_model::logic::{KeyedIn, LogicError, RowsIn, TimeDomain, TimerChange, TimersIn};
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
    let some = || Arc::new(BooleanArray::from(vec![true, false]));
    vec![Arc::new(counts), Arc::new(StringArray::from(vec![Some("a"), None])), some(), some()]
}

#[test]
fn updates_and_timers_arrive() {
    let effects = open("keyed", &[]).unwrap().process_keyed(&input(), &mut NoEntries).unwrap();
    let update = &effects.updates[0];
    assert_eq!((update.state, &update.keys), (0, &None));
    assert_eq!(update.values.as_primitive::<Int64Type>().values(), &[11, 21]);
    let change = |key, time, delete| TimerChange { key, domain: TimeDomain::Event, time, delete };
    assert_eq!(effects.timers, [change(0, 100, false), change(1, 200, true)]);
    assert_eq!(effects.outputs[0].rows.num_rows(), 3);
}

#[test]
fn parts_of_the_keys_can_be_updated_in_any_order_and_deleted() {
    let effects = open("keyed", &[("do", "key-back")]).unwrap().process_keyed(&input(), &mut NoEntries).unwrap();
    assert_eq!(effects.updates[0].keys.as_deref(), Some(&[1, 0][..]));
    let effects = open("keyed", &[("do", "delete")]).unwrap().process_keyed(&input(), &mut NoEntries).unwrap();
    assert!(effects.updates[0].values.is_null(1) && effects.updates[0].values.is_valid(0));
}

#[test]
fn malformed_effects_are_refused() {
    for (mode, expected) in [
        ("state", "an update of state 9; the operator has 4 states"),
        ("state-type", "state `text`: offsets have 0 bytes, 2 rows need 12"),
        ("key-range", "state `count`: key 2, but the call is about 2 keys"),
        ("key-twice", "state `count`: key 1 is updated twice"),
        ("key-odd", "state `count`: key indices have 7 bytes, no multiple of 4"),
        ("values-short", "state `count`: data has 8 bytes, 2 rows of int64 need 16"),
        ("timer-key", "timers: key 9, but the call is about 2 keys"),
        ("timer-times", "timers: times have 8 bytes, 2 timers need 16"),
        ("timer-deletes", "timers: 1 marks of deletion for 2 timers"),
        ("timer-mark", "timers: 7 is neither 0 (set) nor 1 (delete)"),
        ("entry-state", "entries of state 9; the operator has 4 states"),
        ("entry-of-value", "state `count`: a value has no entries"),
        ("entry-of-list", "state `trail`: a list has no entry keys"),
        ("entry-key-range", "state `seen`: key 2, but the call is about 2 keys"),
        ("entry-key-odd", "state `seen`: key indices have 7 bytes, no multiple of 4"),
        ("entry-clears", "state `seen`: key 7, but the call is about 2 keys"),
        ("entry-no-keys", "state `seen`: a map has 1 column of entry keys, not 0"),
        ("entry-two-keys", "state `seen`: a map has 1 column of entry keys, not 2"),
        ("entry-null-key", "state `seen`: row 0 is null, but the column is declared as not null"),
        ("entry-long-key", "state `seen`: the entry key of an entry has 5000 bytes, at most 4096 fit"),
        ("entry-short", "state `seen`: data has 8 bytes, 2 rows of int64 need 16"),
        ("entries-list-null", "state `trail`: row 1 is null, but the column is declared as not null"),
    ] {
        match open("keyed", &[("do", mode)]).unwrap().process_keyed(&input(), &mut NoEntries) {
            Err(LogicError::Trap(text)) => assert_eq!(text, format!("returned a malformed answer: {expected}")),
            other => panic!("{mode}: {other:?}"),
        }
    }
}

#[test]
fn entries_arrive() {
    let effects = open("keyed", &[("do", "entry-delete")]).unwrap().process_keyed(&input(), &mut NoEntries).unwrap();
    let update = &effects.entries[0];
    assert_eq!((update.state, &update.clears[..], &update.keys[..]), (2, &[1][..], &[0, 1][..]));
    assert_eq!(update.entries.as_ref().unwrap().as_string::<i32>(), &StringArray::from(vec!["a", "b"]));
    assert_eq!(update.values.as_primitive::<Int64Type>(), &Int64Array::from(vec![Some(1), None]));
    let effects = open("keyed", &[("do", "entries-list")]).unwrap().process_keyed(&input(), &mut NoEntries).unwrap();
    assert!(effects.entries[0].entries.is_none());
}

/// Answers any sound question about two keys.
struct TwoKeys;

impl EntryReads for TwoKeys {
    fn get_many(&mut self, _: usize, keys: &[u32], entries: &ArrayRef) -> Result<ArrayRef, String> {
        assert_eq!(entries.as_string::<i32>().len(), keys.len());
        match keys.iter().find(|&&key| key > 1) {
            Some(wrong) => Err(format!("there is no key {wrong}")),
            None => Ok(Arc::new(Int64Array::from(vec![None; keys.len()]))),
        }
    }

    fn scan(&mut self, _: usize, keys: &[u32], _: Option<&ArrayRef>, _: usize) -> Result<EntryRows, String> {
        let index: Vec<u32> = (0..keys.len() as u32).collect();
        let entries: ArrayRef = Arc::new(StringArray::from_iter_values(["x", "y"].into_iter().take(keys.len())));
        let values: ArrayRef = Arc::new(Int64Array::from_iter_values(keys.iter().map(|&key| i64::from(key) + 1)));
        Ok(EntryRows { index: index.into(), entries, values, more: false })
    }
}

#[test]
fn wrong_questions_are_traps() {
    for (mode, expected) in [
        ("read", "ok"),
        ("read-scan", "ok"),
        ("read-state", "there is no state 9; the operator has 4"),
        ("read-value", "state `count` is a value, which has no entries"),
        ("read-key", "there is no key 2"),
        ("read-odd", "state `seen`: key indices have 7 bytes, no multiple of 4"),
        ("read-short", "state `seen`: offsets have 8 bytes, 2 rows need 12"),
        ("read-type", "state `seen`: offsets have 0 bytes, 1 rows need 8"),
        ("read-scan-after", "state `seen`: offsets have 8 bytes, 2 rows need 12"),
        ("read-scan-list", "state `trail`: has offsets, which uint64 has not"),
    ] {
        match open("keyed", &[("do", mode)]).unwrap().process_keyed(&input(), &mut TwoKeys) {
            Ok(_) => assert_eq!("ok", expected, "{mode}"),
            Err(LogicError::Trap(text)) => {
                let first = text.lines().next().unwrap_or_default();
                assert_eq!(first, format!("broke the contract: {expected}"), "{mode}");
            }
            other => panic!("{mode}: {other:?}"),
        }
    }
    let fault = open("keyed", &[("open", "read")]).map(drop).unwrap_err();
    assert!(fault.message.contains("only a keyed call can read lists and maps"), "{fault}");
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
    let effects = open("keyed", &[]).unwrap().on_timers(&due, &mut NoEntries).unwrap();
    let side = &effects.outputs[0];
    assert_eq!((side.port, &side.parents), (1, &None));
    assert_eq!(side.rows.column(0).as_primitive::<Int64Type>().values(), &[5, 6, 7]);
    let again: Vec<(u32, i64, bool)> = effects.timers.iter().map(|t| (t.key, t.time, t.delete)).collect();
    assert_eq!(again, [(1, 5, false), (0, 6, true), (1, 7, false)]);
    assert!(effects.timers.iter().all(|t| t.domain == TimeDomain::Processing));
    let trap = open("keyed", &[("do", "timers-loop")]).unwrap().on_timers(&due, &mut NoEntries).unwrap_err();
    assert!(trap.to_string().starts_with("ran longer than 500 ms"), "{trap}");
}

#[test]
fn states_that_do_not_match_the_descriptor_are_the_hosts_mistake() {
    let mut wrong = input();
    wrong.states.pop();
    let text = open("keyed", &[]).unwrap().process_keyed(&wrong, &mut NoEntries).unwrap_err().to_string();
    assert_eq!(text, "the host made a mistake: 3 state columns of 2 keys were passed for 4");
    let mut wrong = input();
    wrong.states.swap(0, 1);
    let text = open("keyed", &[]).unwrap().process_keyed(&wrong, &mut NoEntries).unwrap_err().to_string();
    assert!(text.contains("state `count`: column `value` was passed as utf8, but is declared as int64"), "{text}");
}

/// Two rows of two keys, or two for all workers.
fn shared(input: usize) -> KeyedIn {
    let none = || Arc::new(BooleanArray::from(vec![false])) as ArrayRef;
    let key_index: Vec<u32> = if input == 0 { vec![0, 1] } else { vec![] };
    let keys = key_index.len();
    KeyedIn {
        rows: RowsIn { input, ..numbers(&[7, 8]) },
        key_index: key_index.into(),
        key_count: keys,
        keys: None,
        states: vec![
            Arc::new(Int64Array::from(vec![None; keys])),
            Arc::new(Int64Array::from(vec![None])),
            none(),
            none(),
        ],
    }
}

#[test]
fn states_of_no_key_change_as_their_scope_allows() {
    let changed = |input| open("shared", &[]).unwrap().process_keyed(&shared(input), &mut NoEntries).unwrap();
    let of_all = changed(1);
    assert_eq!((of_all.updates[0].state, of_all.updates[0].values.len()), (1, 1));
    assert_eq!((of_all.entries[0].state, &of_all.entries[0].keys[..]), (2, &[0, 0][..]));
    assert_eq!(changed(0).entries[0].state, 3);
    let foreign = "is broadcast, and was changed in a call that not all workers get";
    for (input, mode, expected) in [
        (0, "all-value", format!("state `total` {foreign}")),
        (0, "all-entry", format!("state `rules` {foreign}")),
        (0, "all-clear", format!("state `rules` {foreign}")),
        (1, "value-key", "state `total`: key 1, but the call is about 1 keys".to_owned()),
        (1, "value-two", "state `total`: data has 16 bytes, 1 rows of int64 need 8".to_owned()),
        (0, "entry-key", "state `parked`: key 1, but the call is about 1 keys".to_owned()),
        (1, "clear-key", "state `parked`: key 1, but the call is about 1 keys".to_owned()),
        (1, "nobodys-value", "state `count`: key 0, but the call is about 0 keys".to_owned()),
        (1, "nobodys-timer", "timers: key 0, but the call is about 0 keys".to_owned()),
    ] {
        match open("shared", &[("do", mode)]).unwrap().process_keyed(&shared(input), &mut NoEntries) {
            Err(LogicError::Trap(text)) => assert_eq!(text, format!("returned a malformed answer: {expected}")),
            other => panic!("{mode}: {other:?}"),
        }
    }
}
