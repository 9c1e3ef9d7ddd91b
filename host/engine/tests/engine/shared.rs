//! Broadcast inputs, and states that belong to no key: what workers see, and what becomes of it when their number changes.

use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Int64Type, SchemaRef};
use proptest::prelude::*;
use tidemill_engine::driver::{Driver, Input, one_operator};
use tidemill_engine::process::{ProcessSpec, node};
use tidemill_model::component::{LogicKind, Port, StateDescriptor, StateKind, StateScope};
use tidemill_model::entries::EntryUpdate;
use tidemill_model::fault::OnError;
use tidemill_model::logic::{Effects, KeyedIn, LogicError, StateUpdate};
use tidemill_model::plan::{Built, Plan};
use tidemill_model::snapshot::Form;
use tidemill_model::{Batch, ConfigError, Fault, Operator, Progress};
use tidemill_state::HeapFactory;

use crate::logic::{Native, column, out, port, state};
use crate::support::{explain, ints, lines, rows, schema, sorted};
use crate::swaps::{Seen, place};

fn kv() -> SchemaRef {
    schema(&[("k", DataType::Int64), ("v", DataType::Int64)])
}

fn scoped(name: &str, scope: StateScope, kind: StateKind) -> StateDescriptor {
    StateDescriptor { scope, kind, ..state(name, DataType::Int64) }
}

const N: usize = 0;
const TOTAL: usize = 1;
const KEPT: usize = 2;

/// Input `rows` counts the rows of each key and keeps their values in the worker's list; input `all` adds to a total that all know, or
/// with a negative value shows the total. What comes out: the key's count (0 without a key), the total.
fn logic(scope: StateScope) -> Native {
    let own = schema(&[("n", DataType::Int64), ("total", DataType::Int64)]);
    let mut native = Native::new(LogicKind::Keyed, &kv(), vec![port("out", &own, false)]);
    native.descriptor.inputs = vec![port("rows", &kv(), false), Port { broadcast: true, ..port("all", &kv(), false) }];
    native.descriptor.states = vec![
        state("n", DataType::Int64),
        scoped("total", StateScope::Broadcast, StateKind::Value),
        scoped("kept", scope, StateKind::List),
    ];
    native.keyed = Arc::new(call);
    native
}

fn one(input: &KeyedIn, state: usize) -> i64 {
    assert_eq!(input.states[state].len(), 1, "one value, whatever the number of keys");
    let values = input.states[state].as_primitive::<Int64Type>();
    if values.is_null(0) { 0 } else { values.value(0) }
}

fn call(input: &KeyedIn) -> Result<Effects, LogicError> {
    let values = column(&input.rows.rows, "v");
    let mut total = one(input, TOTAL);
    if input.rows.input == 1 {
        assert_eq!((input.key_count, input.key_index.len()), (0, 0), "a row for all has no key");
        let shown = values.iter().flatten().filter(|v| *v < 0).count();
        total += values.iter().flatten().filter(|v| *v > 0).sum::<i64>();
        let update = StateUpdate { state: TOTAL, keys: None, values: ints([total]) };
        let emitted = rows(&[("n", ints(vec![0; shown])), ("total", ints(vec![total; shown]))]);
        let outputs = vec![out(0, emitted, Some(vec![0; shown]))];
        return Ok(Effects { outputs, updates: vec![update], ..Effects::default() });
    }
    let counts = input.states[N].as_primitive::<Int64Type>();
    let mut counts: Vec<i64> = counts.iter().map(Option::unwrap_or_default).collect();
    let n: Vec<i64> = input
        .key_index
        .iter()
        .map(|&key| {
            counts[key as usize] += 1;
            counts[key as usize]
        })
        .collect();
    let emitted = rows(&[("n", ints(n)), ("total", ints(vec![total; values.len()]))]);
    let entries = EntryUpdate {
        state: KEPT,
        clears: Vec::new().into(),
        keys: vec![0; values.len()].into(),
        entries: None,
        values: Arc::new(values),
    };
    Ok(Effects {
        outputs: vec![out(0, emitted, None)],
        updates: vec![StateUpdate { state: N, keys: None, values: ints(counts) }],
        entries: vec![entries],
        ..Effects::default()
    })
}

fn build(logic: Native, keys: Vec<Vec<usize>>) -> Result<Built, ConfigError> {
    let inputs = vec![kv(); logic.descriptor.inputs.len()];
    let (state, shared) = (Arc::new(HeapFactory), Arc::new(HeapFactory));
    let (logic, config, on_error) = (Arc::new(logic), Vec::new(), OnError::Fail);
    node(ProcessSpec { logic, inputs, keys, config, on_error, state, shared })
}

fn plan(logic: Native) -> Plan {
    let built = build(logic, vec![vec![0], Vec::new()]).unwrap();
    let all = Input { broadcast: true, ..Input::new("all", &kv()) };
    one_operator("op", &built, &[Input { key: vec![0], ..Input::new("rows", &kv()) }, all])
}

fn push(driver: &mut Driver, input: &str, list: &[(i64, i64)]) {
    let batch = rows(&[("k", ints(list.iter().map(|r| r.0))), ("v", ints(list.iter().map(|r| r.1)))]);
    driver.push(input, batch).unwrap();
    driver.tick().unwrap();
}

/// What the workers hold in a table, by worker: its last column.
fn held(driver: &mut Driver, table: &str) -> Vec<Option<Vec<i64>>> {
    let checkpoint = driver.checkpoint().unwrap();
    let workers = &checkpoint.operators["op"].workers;
    let values = |bytes: &Vec<u8>| {
        let batches = arrow::ipc::reader::StreamReader::try_new(std::io::Cursor::new(bytes), None).unwrap();
        let last = |batch: arrow::array::RecordBatch| batch.columns().last().unwrap().clone();
        batches.flat_map(|b| last(b.unwrap()).as_primitive::<Int64Type>().values().to_vec()).collect()
    };
    workers.iter().map(|tables| tables.get(table).map(values)).collect()
}

fn move_to(plan: &Plan, driver: &mut Driver, workers: usize) {
    let checkpoint = driver.checkpoint().unwrap();
    *driver = Driver::restore(plan, workers, 2, &checkpoint).unwrap();
}

#[test]
fn each_worker_gets_each_row_of_a_broadcast_input() {
    let plan = plan(logic(StateScope::Split));
    for workers in [1, 2, 3] {
        let mut driver = Driver::by_hand(&plan, workers, 1).unwrap();
        push(&mut driver, "all", &[(0, 5), (0, 6)]);
        push(&mut driver, "all", &[(0, -1)]);
        assert_eq!(lines(&driver.take_output("out")), vec!["0|11"; workers]);
        push(&mut driver, "rows", &[(1, 1), (2, 2), (1, 3)]);
        assert_eq!(sorted(lines(&driver.take_output("out"))), ["1|11", "1|11", "2|11"]);
        let mut written = held(&mut driver, "shared/total@1").into_iter();
        assert_eq!(written.next().unwrap().unwrap(), [11]);
        assert!(written.all(|table| table.is_none()), "one worker speaks for all");
    }
}

#[test]
fn a_broadcast_state_is_known_to_all_workers_after_a_restore() {
    let plan = plan(logic(StateScope::Split));
    let mut driver = Driver::by_hand(&plan, 2, 1).unwrap();
    push(&mut driver, "all", &[(0, 5)]);
    for workers in [3, 1, 4] {
        move_to(&plan, &mut driver, workers);
        driver.take_output("out");
        push(&mut driver, "all", &[(0, -1)]);
        assert_eq!(lines(&driver.take_output("out")), vec!["0|5"; workers]);
    }
}

proptest! {
    #[test]
    fn each_value_of_a_split_list_goes_to_one_worker(
        values in prop::collection::vec((0i64..20, 0i64..1000), 0..60), moves in prop::collection::vec(1usize..6, 1..5),
    ) {
        let plan = plan(logic(StateScope::Split));
        let mut driver = Driver::by_hand(&plan, 3, 1).unwrap();
        let expected = sorted(values.iter().map(|(_, v)| v.to_string()).collect());
        values.chunks(7).for_each(|some| push(&mut driver, "rows", some));
        for workers in moves {
            let before: Vec<i64> = held(&mut driver, "shared/kept@1").into_iter().flatten().flatten().collect();
            move_to(&plan, &mut driver, workers);
            let after = held(&mut driver, "shared/kept@1");
            let counts: Vec<usize> = after.iter().map(|table| table.as_ref().map_or(0, Vec::len)).collect();
            prop_assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{:?}", counts);
            let after: Vec<i64> = after.into_iter().flatten().flatten().collect();
            prop_assert_eq!(&before, &after, "they stay in order");
            prop_assert_eq!(sorted(after.iter().map(ToString::to_string).collect()), expected.clone());
        }
    }
}

#[test]
fn each_worker_gets_all_of_a_union_list() {
    let plan = plan(logic(StateScope::Union));
    let mut driver = Driver::by_hand(&plan, 2, 1).unwrap();
    push(&mut driver, "rows", &[(1, 1), (2, 2), (3, 3), (4, 4)]);
    let all: Vec<i64> = held(&mut driver, "shared/kept@1").into_iter().flatten().flatten().collect();
    move_to(&plan, &mut driver, 3);
    assert_eq!(held(&mut driver, "shared/kept@1"), vec![Some(all); 3]);
}

#[test]
fn values_of_earlier_versions_are_migrated_at_the_restore() {
    let mut driver = Driver::by_hand(&plan(logic(StateScope::Split)), 2, 1).unwrap();
    push(&mut driver, "all", &[(0, 5)]);
    push(&mut driver, "rows", &[(1, 7)]);
    let checkpoint = driver.checkpoint().unwrap();
    let mut next = logic(StateScope::Split);
    (next.descriptor.states[TOTAL].version, next.descriptor.states[KEPT].version) = (2, 2);
    next.migrate = Arc::new(|old| Ok(ints(old.as_primitive::<Int64Type>().iter().map(|v| v.map(|v| v * 100)))));
    let next = plan(next);
    let mut driver = Driver::restore(&next, 3, 2, &checkpoint).unwrap();
    push(&mut driver, "all", &[(0, -1)]);
    assert_eq!(lines(&driver.take_output("out")), vec!["0|500"; 3]);
    assert_eq!(held(&mut driver, "shared/total@1"), vec![None; 3]);
    assert_eq!(held(&mut driver, "shared/total@2"), [Some(vec![500]), None, None]);
    assert_eq!(held(&mut driver, "shared/kept@2").into_iter().flatten().flatten().collect::<Vec<_>>(), [700]);
    let mut other = logic(StateScope::Union);
    other.descriptor.states[KEPT].version = 2;
    let fault: Fault = Driver::restore(&plan(other), 1, 2, &checkpoint).err().unwrap();
    assert_eq!(fault.message, "state `kept` was stored with the scope `split`, but `native` declares `union`");
}

#[test]
fn a_change_that_not_all_workers_see_is_malformed() {
    type Bend = fn(&KeyedIn) -> Effects;
    let cases: [(&str, Bend, &str); 4] = [
        (
            "rows",
            |_| update(TOTAL, None, &[1]),
            "state `total` is broadcast: only a call about rows of a broadcast input",
        ),
        (
            "all",
            |_| update(TOTAL, Some(1), &[1]),
            "state `total` belongs to no key: it has one value, and its index is 0",
        ),
        (
            "all",
            |_| update(TOTAL, None, &[1, 2]),
            "state `total` belongs to no key: it has one value, and its index is 0",
        ),
        ("all", |_| update(N, Some(0), &[1]), "a value for a key beyond the 0 of the call"),
    ];
    for (input, bend, expected) in cases {
        let mut evil = logic(StateScope::Split);
        evil.keyed = Arc::new(move |input| Ok(bend(input)));
        let mut driver = Driver::by_hand(&plan(evil), 2, 1).unwrap();
        driver.push(input, rows(&[("k", ints([1])), ("v", ints([1]))])).unwrap();
        let fault = driver.tick().unwrap_err();
        assert!(fault.message.starts_with(&format!("malformed answer of `native`: {expected}")), "{fault}");
    }
}

fn update(state: usize, key: Option<u32>, values: &[i64]) -> Effects {
    let update = StateUpdate { state, keys: key.map(|key| vec![key].into()), values: ints(values.to_vec()) };
    Effects { updates: vec![update], ..Effects::default() }
}

#[test]
fn keys_are_asked_for_where_there_is_something_to_key() {
    let explained = |logic: &Native, keys| build(logic.clone(), keys).err().map(|error| explain(&error));
    let keyed = logic(StateScope::Split);
    assert_eq!(
        explained(&keyed, vec![Vec::new(), Vec::new()]).unwrap(),
        "key: the operator `native` is keyed, but has no key [name the key columns: `key: [column]`]"
    );
    assert_eq!(
        explained(&keyed, vec![vec![0], vec![0]]).unwrap(),
        "key: the input `all` is broadcast: its rows have no key [name the key columns of the other inputs only]"
    );
    let mut free = keyed;
    free.descriptor.states.remove(N);
    assert_eq!(explained(&free, vec![Vec::new(), Vec::new()]), None, "nothing is kept by key");
    assert_eq!(explained(&free, vec![vec![0], Vec::new()]), None, "but it may be");
    free.descriptor.reads_keys = true;
    assert!(explained(&free, vec![Vec::new(), Vec::new()]).is_some());
}

#[test]
fn rows_of_a_broadcast_input_are_not_carried() {
    let mut carrying = logic(StateScope::Split);
    carrying.descriptor.outputs[0].carry = true;
    // Only the others' columns count.
    carrying.descriptor.inputs[1].schema = schema(&[("v", DataType::Int64)]);
    let mut driver = Driver::by_hand(&plan(carrying), 1, 1).unwrap();
    push(&mut driver, "rows", &[(1, 7)]);
    assert_eq!(lines(&driver.take_output("out")), ["1|7|1|0"]);
    driver.push("all", rows(&[("k", ints([1])), ("v", ints([-1]))])).unwrap();
    let fault = driver.tick().unwrap_err();
    assert!(fault.message.contains("carries the columns of its input row, but a row of a broadcast input has none"));
}

/// The last column of a table that an operator holds.
fn last_column(operator: &mut dyn Operator, table: &str) -> Vec<i64> {
    let tables = operator.snapshot(Form::Portable).unwrap().tables;
    let chunks = tables.into_iter().filter(|held| held.name == table).flat_map(|held| held.chunks);
    let last = |chunk: Result<RecordBatch, Fault>| chunk.unwrap().columns().last().unwrap().clone();
    chunks.flat_map(|chunk| last(chunk).as_primitive::<Int64Type>().values().to_vec()).collect()
}

/// Keeps the values of its rows in the worker's list, and nothing else.
fn keeper(scope: StateScope, version: u32) -> Native {
    let mut native = Native::new(LogicKind::Keyed, &kv(), vec![port("out", &kv(), false)]);
    native.descriptor.states = vec![StateDescriptor { version, ..scoped("kept", scope, StateKind::List) }];
    native.migrate = Arc::new(|old| Ok(ints(old.as_primitive::<Int64Type>().iter().map(|v| v.map(|v| v * 100)))));
    native.keyed = Arc::new(|input| {
        let values = column(&input.rows.rows, "v");
        let keys = vec![0; values.len()].into();
        let values = Arc::new(values);
        let kept = EntryUpdate { state: 0, clears: Vec::new().into(), keys, entries: None, values };
        Ok(Effects { entries: vec![kept], ..Effects::default() })
    });
    native
}

#[test]
fn operator_state_is_upgraded_in_place_and_taken_back() {
    let built = build(keeper(StateScope::Split, 1), vec![vec![0]]).unwrap();
    let given_up = ["kept".to_owned()];
    for (dropped, keep, kept) in [
        (&[][..], true, vec![700, 8, 9]),
        (&given_up, true, vec![8, 9]),
        (&[][..], false, vec![7, 9]),
        (&given_up, false, vec![7, 9]),
    ] {
        let successor = built.factory.successor(Arc::new(keeper(StateScope::Split, 2)), dropped).unwrap();
        let mut operator = built.factory.build(&place()).unwrap();
        let push = |operator: &mut dyn Operator, value: i64| {
            let batch = rows(&[("k", ints([1])), ("v", ints([value]))]);
            assert_eq!(operator.on_batch(0, Batch::new(batch), &mut Seen::default()).unwrap(), Progress::Done);
        };
        push(operator.as_mut(), 7);
        operator.swap(successor.open(&place()).unwrap()).unwrap();
        push(operator.as_mut(), 8);
        operator.settle(keep).unwrap();
        push(operator.as_mut(), 9);
        let version = if keep { 2 } else { 1 };
        assert_eq!(last_column(operator.as_mut(), &format!("shared/kept@{version}")), kept, "{dropped:?}, {keep}");
        assert_eq!(last_column(operator.as_mut(), &format!("shared/kept@{}", 3 - version)), [0; 0]);
    }
    let refused = |next: Native| built.factory.successor(Arc::new(next), &[]).err().unwrap().message;
    assert_eq!(refused(keeper(StateScope::Union, 2)), "state `kept` has the scope `split`, but it declares `union`");
}

#[test]
fn broadcast_state_is_not_upgraded_in_place() {
    let built = build(logic(StateScope::Split), vec![vec![0], Vec::new()]).unwrap();
    let fault = built.factory.successor(Arc::new(logic(StateScope::Split)), &[]).err().unwrap();
    assert_eq!(fault.message, "state `total` is broadcast: such operators can't be upgraded in place");
}
