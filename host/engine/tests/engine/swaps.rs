//! Logic that is replaced in the middle of a run: whether it stays or has to go, what comes out and what is held are as if
//! nothing had happened.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef};
use arrow::datatypes::{DataType, Field, SchemaRef};
use arrow::util::display::array_value_to_string;
use proptest::prelude::*;
use tidemill_engine::process::{ProcessSpec, node};
use tidemill_model::component::{StateDescriptor, StateKind};
use tidemill_model::dead::DeadRow;
use tidemill_model::fault::OnError;
use tidemill_model::logic::{LogicError, TimeDomain, TimerChange};
use tidemill_model::operator::{StateFate, Successor};
use tidemill_model::snapshot::Form;
use tidemill_model::state::StateBackendFactory;
use tidemill_model::time::Now;
use tidemill_model::{Batch, Collector, Fault, Operator, OperatorContext, OperatorFactory, Progress};
use tidemill_state::{HeapFactory, RocksFactory, RocksSettings};

use crate::logic::{Native, alarm, counter, keeper, state};
use crate::support::{ints, lines, rows, schema};

fn factory(logic: Native, input: &SchemaRef) -> Arc<dyn OperatorFactory> {
    factory_on(Arc::new(HeapFactory), logic, input)
}

fn factory_on(state: Arc<dyn StateBackendFactory>, logic: Native, input: &SchemaRef) -> Arc<dyn OperatorFactory> {
    let (inputs, keys) = (vec![input.clone()], vec![vec![0]]);
    let (logic, shared) = (Arc::new(logic), Arc::new(HeapFactory));
    let (config, on_error) = (Vec::new(), OnError::DeadLetter);
    let spec = ProcessSpec { logic, inputs, keys, config, on_error, state, shared };
    node(spec).unwrap().factory
}

pub fn place() -> OperatorContext {
    OperatorContext { node: "op".into(), worker: 0, workers: 1, processing_ms: 0 }
}

fn input() -> SchemaRef {
    schema(&[("k", DataType::Int64), ("v", DataType::Int64)])
}

/// The same logic, with states of the next version.
fn raised(
    mut logic: Native,
    migrate: impl Fn(&ArrayRef) -> Result<ArrayRef, LogicError> + Send + Sync + 'static,
) -> Native {
    logic.descriptor.states.iter_mut().for_each(|state| state.version += 1);
    logic.migrate = Arc::new(migrate);
    logic
}

#[derive(Clone, Debug)]
enum Call {
    Rows(Vec<(i64, i64)>),
    Time(i64, i64),
}

fn calls() -> impl Strategy<Value = Vec<Call>> {
    let row = (0i64..6, 0i64..60);
    let call = prop_oneof![
        3 => prop::collection::vec(row, 1..8).prop_map(Call::Rows),
        1 => (0i64..60, 0i64..60).prop_map(|(event, processing)| Call::Time(event, processing)),
    ];
    prop::collection::vec(call, 1..30)
}

#[derive(Default)]
pub struct Seen {
    pub lines: Vec<String>,
}

impl Collector for Seen {
    fn emit(&mut self, port: usize, batch: Batch) {
        self.lines.extend(lines(&[batch]).into_iter().map(|line| format!("{port}: {line}")));
    }
    fn dead(&mut self, row: DeadRow) {
        self.lines.push(format!("dead: {row:?}"));
    }
    fn count(&mut self, _counter: &'static str, _n: u64) {}
}

/// Clocks never go back.
struct Clocks(Now);

fn make(operator: &mut dyn Operator, call: &Call, clocks: &mut Clocks) -> Result<Vec<String>, Fault> {
    let mut seen = Seen::default();
    let mut progress = match call {
        Call::Rows(list) => {
            let batch = rows(&[("k", ints(list.iter().map(|r| r.0))), ("v", ints(list.iter().map(|r| r.1)))]);
            operator.on_batch(0, Batch::new(batch), &mut seen)?
        }
        Call::Time(event, processing) => {
            clocks.0.watermark = clocks.0.watermark.max(*event);
            clocks.0.processing_ms = clocks.0.processing_ms.max(*processing);
            operator.on_time(clocks.0, &mut seen)?
        }
    };
    while progress == Progress::More {
        progress = operator.resume(&mut seen)?;
    }
    // Timers of one time fire in the order of slots, which means nothing.
    seen.lines.sort();
    Ok(seen.lines)
}

/// What is held: rows of all tables, without the versions and the signs of values.
fn held(operator: &mut dyn Operator) -> BTreeMap<String, Vec<String>> {
    let mut held: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for table in operator.snapshot(Form::Portable).unwrap().tables {
        let name = table.name.split('@').next().unwrap().to_owned();
        for chunk in table.chunks.map(Result::unwrap) {
            let value = |column: &ArrayRef, row| array_value_to_string(column, row).unwrap();
            let line =
                |row| chunk.columns().iter().map(|c| value(c, row)).collect::<Vec<_>>().join(",").replace(",-", ",");
            held.entry(name.clone()).or_default().extend((0..chunk.num_rows()).map(line));
        }
    }
    held.values_mut().for_each(|rows| rows.sort());
    held
}

/// All calls, with a swap before call `at` whose trial lasts for `trial` calls.
fn run(
    backend: &Arc<dyn StateBackendFactory>,
    before: &Native,
    after: Option<&Native>,
    calls: &[Call],
    (at, trial, keep): (usize, usize, bool),
) -> (Vec<String>, BTreeMap<String, Vec<String>>) {
    let factory = factory_on(backend.clone(), before.clone(), &input());
    let mut operator = factory.build(&place()).unwrap();
    let (mut out, mut clocks) = (Vec::new(), Clocks(Now::START));
    let (first, rest) = calls.split_at(at.min(calls.len()));
    for call in first {
        out.extend(make(operator.as_mut(), call, &mut clocks).unwrap());
    }
    let (tried, rest) = rest.split_at(trial.min(rest.len()));
    let Some(after) = after else {
        for call in tried.iter().chain(rest) {
            out.extend(make(operator.as_mut(), call, &mut clocks).unwrap());
        }
        out.extend(afterwards(operator.as_mut(), &mut clocks));
        return (out, held(operator.as_mut()));
    };
    let successor = factory.successor(Arc::new(after.clone()), &[]).unwrap();
    let frozen = held(operator.as_mut());
    operator.swap(successor.open(&place()).unwrap()).unwrap();
    let (mut new_out, mut new_clocks) = (Vec::new(), Clocks(clocks.0));
    let went = tried
        .iter()
        .try_for_each(|call| make(operator.as_mut(), call, &mut new_clocks).map(|lines| new_out.extend(lines)));
    let keep = keep && went.is_ok();
    operator.settle(keep).unwrap();
    match keep {
        true => {
            out.extend(new_out);
            clocks = new_clocks;
        }
        false => {
            assert_eq!(held(operator.as_mut()), frozen, "all is as it was");
            for call in tried {
                out.extend(make(operator.as_mut(), call, &mut clocks).unwrap());
            }
        }
    }
    for call in rest {
        out.extend(make(operator.as_mut(), call, &mut clocks).unwrap());
    }
    out.extend(afterwards(operator.as_mut(), &mut clocks));
    if keep {
        let versions = operator.snapshot(Form::Portable).unwrap().states.iter().map(|s| s.version).collect::<Vec<_>>();
        let expected: Vec<u32> = after.descriptor.states.iter().map(|s| s.version).collect();
        assert_eq!(versions, expected, "nothing of an earlier version is left");
    }
    (out, held(operator.as_mut()))
}

/// Time goes on: what nobody has asked for is migrated.
fn afterwards(operator: &mut dyn Operator, clocks: &mut Clocks) -> Vec<String> {
    let again = Call::Time(i64::MIN, i64::MIN);
    (0..24).flat_map(|_| make(operator, &again, clocks).unwrap()).collect()
}

/// Timers of both clocks; every third row deletes those that another one may have set.
fn timers() -> Native {
    let plan = |v: i64, key| {
        let time = if v % 3 == 0 { v - 2 } else { v };
        let change = |domain| TimerChange { key, domain, time, delete: v % 3 == 0 };
        vec![change(TimeDomain::Event), change(TimeDomain::Processing)]
    };
    let again = |time: i64, key| match time % 8 {
        0 => vec![TimerChange { key, domain: TimeDomain::Event, time: time + 6, delete: false }],
        _ => Vec::new(),
    };
    alarm(&input(), plan, again)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 2, ..ProptestConfig::default() })]

    #[test]
    fn a_swap_changes_nothing_whichever_way_it_ends(
        calls in calls(),
        at in 0usize..20,
        trial in 0usize..10,
        keep in any::<bool>(),
        on_disk in prop::bool::weighted(0.15),
    ) {
        let input = input();
        let folder = tempfile::tempdir().unwrap();
        let settings = RocksSettings {
            memory_bytes: RocksSettings::MEMORY_BYTES_MIN,
            directory: folder.path().to_owned(),
        };
        let heap: Arc<dyn StateBackendFactory> = Arc::new(HeapFactory);
        let backend = if on_disk { Arc::new(RocksFactory::new(settings)) } else { heap.clone() };
        let pairs = [
            (counter(&input), counter(&input)),
            (counter(&input), raised(counter(&input), |old| Ok(old.clone()))),
            (timers(), timers()),
            (keeper(&input, 1), keeper(&input, 1)),
            (keeper(&input, 1), keeper(&input, 2)),
        ];
        // What is no list or map the backends' own tests show.
        for (before, after) in &pairs[if on_disk { 3 } else { 0 }..] {
            let expected = run(&heap, before, None, &calls, (at, trial, keep));
            let got = run(&backend, before, Some(after), &calls, (at, trial, keep));
            prop_assert_eq!(got, expected);
        }
    }
}

#[test]
fn what_can_not_be_migrated_is_a_fault_of_the_trial() {
    let refuse = |old: &ArrayRef| match old.len() {
        0 => Ok(old.clone()),
        count => Err(LogicError::Fatal(format!("{count} values are too much"))),
    };
    let rows = |count: i64| Call::Rows((0..count).map(|k| (k, 1)).collect());
    let factory = factory(counter(&input()), &input());
    let mut operator = factory.build(&place()).unwrap();
    make(operator.as_mut(), &rows(5), &mut Clocks(Now::START)).unwrap();
    let before = held(operator.as_mut());
    let successor = factory.successor(Arc::new(raised(counter(&input()), refuse)), &[]).unwrap();
    operator.swap(successor.open(&place()).unwrap()).unwrap();
    let fault = make(operator.as_mut(), &rows(2), &mut Clocks(Now::START)).unwrap_err();
    assert_eq!(fault.message, "state `n` can't be migrated from version 1: 2 values are too much");
    assert_eq!(fault.operator, "op");
    operator.settle(false).unwrap();
    assert_eq!(held(operator.as_mut()), before);
}

#[test]
fn what_does_not_fit_is_refused_before_anything_stops() {
    let input = input();
    let with = |change: &dyn Fn(&mut Native)| {
        let mut logic = counter(&input);
        change(&mut logic);
        logic
    };
    let of_type =
        |data_type: DataType| move |logic: &mut Native| logic.descriptor.states[0] = state("n", data_type.clone());
    let lower = with(&|logic| logic.descriptor.states[0].version = 0);
    let text = with(&of_type(DataType::Utf8));
    let fewer = with(&|logic| logic.descriptor.states.truncate(1));
    let other_port = with(&|logic| logic.descriptor.outputs[0].name = "other".into());
    let wants_more = with(&|logic| logic.descriptor.inputs[0].schema = schema(&[("w", DataType::Int64)]));
    let no_migration = with(&|logic| logic.descriptor.states[0].version = 2);
    let of_kind = |version, kind: StateKind| {
        with(&|logic| {
            let state = state("n", DataType::Int64);
            logic.descriptor.states[0] = StateDescriptor { version, kind: kind.clone(), ..state };
        })
    };
    for (logic, dropped, words) in [
        (lower, "", "state `n` has version 1, but it declares version 0"),
        (text, "", "state `n` is int64, but it declares utf8 as the same version"),
        (fewer.clone(), "", "it does not declare the state `sum`, which has values"),
        (other_port, "", "its outputs are (other: "),
        (wants_more, "", "does not fit"),
        (no_migration, "", "it can't migrate state `n` from version 1"),
        (of_kind(1, StateKind::List), "", "state `n` is int64, but it declares list of int64 as the same version"),
        (of_kind(2, StateKind::List), "", "state `n` is int64 in version 1, but list of int64 in version 2"),
        (fewer, "total", "it does not declare the state `sum`"),
        (counter(&input), "n", "it declares the state `n` as it was"),
    ] {
        let dropped: Vec<String> = Some(dropped.to_owned()).filter(|name| !name.is_empty()).into_iter().collect();
        let factory = factory(counter(&input), &input);
        let refused = factory.successor(Arc::new(logic), &dropped).and_then(|successor| successor.open(&place()));
        let fault = refused.expect_err(words);
        assert!(fault.message.contains(words), "{fault}");
        assert!(fault.help.is_some(), "{fault}");
    }
}

#[test]
fn a_map_keeps_the_type_of_its_entry_keys() {
    let input = input();
    let mut other = keeper(&input, 2);
    other.descriptor.states[1].kind = StateKind::Map(Field::new("entry", DataType::Utf8, false));
    let words = "state `m` is map of int64 to int64 in version 1, but map of utf8 to int64 in version 2";
    let factory = factory(keeper(&input, 1), &input);
    let fault = factory.successor(Arc::new(other), &[]).map(drop).unwrap_err();
    assert_eq!(fault.message, words);
    // Its name means nothing.
    let mut same = keeper(&input, 2);
    same.descriptor.states[1].kind = StateKind::Map(Field::new("key", DataType::Int64, false));
    assert!(factory.successor(Arc::new(same), &[]).is_ok());
}

#[test]
fn states_that_are_given_up_start_empty_and_new_ones_too() {
    let mut next = counter(&input());
    next.descriptor.states[0] = state("n", DataType::Int64);
    next.descriptor.states[1] = state("total", DataType::Int64);
    let factory = factory(counter(&input()), &input());
    let successor: Arc<dyn Successor> = factory.successor(Arc::new(next), &["sum".to_owned()]).unwrap();
    let fates: Vec<StateFate> = successor.changes().iter().map(|change| change.fate).collect();
    assert_eq!(fates, [StateFate::Kept, StateFate::New, StateFate::Dropped]);
    let mut operator = factory.build(&place()).unwrap();
    let mut clocks = Clocks(Now::START);
    let call = Call::Rows(vec![(1, 10), (1, 10), (2, 5)]);
    make(operator.as_mut(), &call, &mut clocks).unwrap();
    operator.swap(successor.open(&place()).unwrap()).unwrap();
    operator.settle(true).unwrap();
    let out = make(operator.as_mut(), &Call::Rows(vec![(1, 7)]), &mut clocks).unwrap();
    assert!(out.len() == 1 && out[0].contains("3") && out[0].contains("7"), "{out:?}");
    let tables: Vec<String> = held(operator.as_mut()).into_keys().collect();
    assert_eq!(tables, ["state/n", "state/total"]);
}
