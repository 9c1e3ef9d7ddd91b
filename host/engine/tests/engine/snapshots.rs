//! Operators that are frozen in the middle of a run and go on at another parallelism.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use proptest::prelude::*;
use tidemill_engine::driver::{Checkpoint, Driver, Input, one_operator};
use tidemill_engine::process::{ProcessSpec, node};
use tidemill_engine::windows::window;
use tidemill_model::component::StateKind;
use tidemill_model::fault::OnError;
use tidemill_model::logic::{TimeDomain, TimerChange};
use tidemill_model::plan::{Built, EventTimeSpec, Plan};
use tidemill_model::time::WatermarkStrategy;
use tidemill_model::window::{WindowSpec, Windows};
use tidemill_state::HeapFactory;

use crate::logic::{Native, alarm, counter, keeper};
use crate::support::{floats, ints, lines, rows, schema, sorted, texts};

fn windows(input: &SchemaRef, lateness: i64, key: &[usize], calls: &[(&str, &str)]) -> Built {
    let aggregates = calls.iter().map(|(name, call)| ((*name).to_owned(), (*call).to_owned())).collect();
    let spec = WindowSpec::new(Windows::Tumbling { size_ms: 10 }, key.to_vec(), aggregates);
    window(WindowSpec { allowed_lateness_ms: lateness, ..spec }, input).unwrap()
}

fn keyed(logic: Native, input: &SchemaRef) -> Built {
    let (inputs, keys) = (vec![input.clone()], vec![vec![0]]);
    let (logic, state) = (Arc::new(logic), Arc::new(HeapFactory));
    let (config, on_error, shared) = (Vec::new(), OnError::Fail, Arc::new(HeapFactory));
    node(ProcessSpec { logic, inputs, keys, config, on_error, state, shared }).unwrap()
}

fn plan(built: &Built, schema: &SchemaRef, key: &[usize], time: usize) -> Plan {
    let strategy = WatermarkStrategy { delay_ms: i64::MAX / 4, idle_after_ms: None };
    let event_time = Some(EventTimeSpec { column: time, strategy });
    one_operator("op", built, &[Input { key: key.to_vec(), event_time, ..Input::new("in", schema) }])
}

/// One thing after another, on a driver that may be replaced between two of them.
struct Run {
    plan: Plan,
    /// The plan from the first move on, if it is another one.
    next: Option<Plan>,
    driver: Driver,
    seen: BTreeMap<String, Vec<String>>,
}

impl Run {
    fn new(plan: &Plan, workers: usize) -> Self {
        let driver = Driver::by_hand(plan, workers, 1).unwrap();
        Self { plan: plan.clone(), next: None, driver, seen: BTreeMap::new() }
    }

    fn checkpoint(&mut self) -> Checkpoint {
        let checkpoint = self.driver.checkpoint().unwrap();
        self.collect();
        checkpoint
    }

    fn move_to(&mut self, workers: usize) {
        let checkpoint = self.checkpoint();
        // What happens behind a checkpoint does not change it.
        self.driver.advance_event_time("in", 1 << 50).unwrap();
        self.plan = self.next.take().unwrap_or_else(|| self.plan.clone());
        self.driver = Driver::restore(&self.plan, workers, 2, &checkpoint).unwrap();
    }

    fn push(&mut self, batch: RecordBatch) {
        self.driver.push("in", batch).unwrap();
        self.driver.tick().unwrap();
        self.collect();
    }

    fn watermark(&mut self, watermark: i64) {
        self.driver.advance_event_time("in", watermark).unwrap();
        self.collect();
    }

    fn collect(&mut self) {
        let sinks: Vec<String> = self.plan.nodes[2..].iter().map(|n| n.name.clone()).collect();
        for sink in sinks {
            let new = lines(&self.driver.take_output(&sink));
            self.seen.entry(sink).or_default().extend(new);
        }
    }

    fn finish(mut self) -> BTreeMap<String, Vec<String>> {
        self.driver.finish().unwrap();
        self.collect();
        self.seen.into_iter().map(|(sink, lines)| (sink, sorted(lines))).collect()
    }
}

#[test]
fn every_aggregate_comes_back() {
    let batch = |from: i64| {
        rows(&[
            ("k", texts(["a", "a", "b", "a", "c", "a"])),
            ("t", ints([0, 1, 2, 3, 14, 5])),
            ("x", floats([Some(1.0 + from as f64), Some(2.0), None, Some(4.0), None, Some(5.5)])),
            ("y", ints([3 + from, 1, 2, 3, 9, 3])),
            ("s", texts([Some("p"), Some("q"), Some("p"), Some("p"), None, Some("p")])),
        ])
    };
    let schema = batch(0).schema();
    let calls = [
        "count(*)",
        "count(x)",
        "count(s)",
        "count(DISTINCT y)",
        "count(DISTINCT s)",
        "count(DISTINCT x)",
        "sum(x)",
        "sum(y)",
        "min(x)",
        "max(y)",
        "min(s)",
        "max(s)",
        "avg(x)",
        "avg(y)",
        "stddev(y)",
        "stddev_pop(x)",
        "var(x)",
        "var_pop(y)",
        "median(x)",
        "median(y)",
        "bool_and(y > 1)",
        "bool_or(x > 100)",
        "bit_and(y)",
        "bit_or(y)",
        "bit_xor(y)",
        "corr(x, y)",
        "covar_pop(x, y)",
        "covar_samp(x, y)",
        "regr_slope(x, y)",
        "regr_count(x, y)",
        "approx_percentile_cont(x, 0.5)",
        "approx_percentile(y, 0.9)",
        "approx_median(x)",
        "approx_distinct(s)",
        "approx_distinct(y)",
        "count(*) FILTER (WHERE y = 3)",
        "sum(x) FILTER (WHERE x > 100)",
        "sum(DISTINCT y)",
        "avg(DISTINCT x)",
        "median(DISTINCT y)",
        "min(y > 1)",
        "sum(arrow_cast(y, 'Decimal128(20, 2)'))",
        "avg(arrow_cast(y, 'Decimal128(20, 2)'))",
        "max(arrow_cast(y, 'Timestamp(Microsecond, None)'))",
        "count(DISTINCT arrow_cast(x, 'Decimal128(20, 2)'))",
    ];
    for call in calls {
        let built = windows(&schema, 0, &[0], &[("v", call)]);
        let plan = plan(&built, &schema, &[0], 1);
        let run = |workers: &[usize]| {
            let mut run = Run::new(&plan, 2);
            run.push(batch(0));
            workers.iter().for_each(|&workers| run.move_to(workers));
            run.push(batch(7));
            run.watermark(9);
            run.push(batch(9));
            run.finish()
        };
        assert_eq!(run(&[3, 1]), run(&[]), "{call}");
    }
}

#[test]
fn windows_without_rows_or_key_can_be_frozen() {
    let schema = schema(&[("k", DataType::Int64), ("t", DataType::Int64)]);
    let batch = || rows(&[("k", ints([Some(1), None])), ("t", ints([1, 2]))]);
    for key in [&[][..], &[0], &[0, 1]] {
        let plan = plan(&windows(&schema, 0, key, &[("n", "count(*)"), ("m", "median(t)")]), &schema, key, 1);
        let mut run = Run::new(&plan, 1);
        run.move_to(3);
        // Without a key each worker has a window of its own, until they meet again.
        run.push(batch());
        run.push(batch());
        run.move_to(1);
        run.push(batch());
        let rows = run.finish().remove("out").unwrap();
        let total: i64 = rows.iter().map(|row| row.rsplit('|').nth(1).unwrap().parse::<i64>().unwrap()).sum();
        assert_eq!((rows.len(), total), (1.max(key.len() * 2).min(2), 6), "{key:?}: {rows:?}");
    }
}

#[test]
fn what_has_no_place_is_named() {
    let schema = schema(&[("k", DataType::Int64), ("t", DataType::Int64), ("v", DataType::Int64)]);
    let at = |built: &Built| plan(built, &schema, &[0], 1);
    let frozen = |built: &Built| {
        let mut run = Run::new(&at(built), 1);
        run.push(rows(&[("k", ints([1])), ("t", ints([1])), ("v", ints([1]))]));
        run.checkpoint()
    };
    let count = windows(&schema, 0, &[0], &[("n", "count(*)")]);
    let mut without = counter(&schema);
    without.descriptor.states.clear();
    let mut renamed = counter(&schema);
    renamed.descriptor.states[0].name = "other".into();
    let mut list = keeper(&schema, 2);
    list.descriptor.states[1].kind = StateKind::List;
    let state = counter(&schema).descriptor.states[0].name.clone();
    for (before, after, message) in [
        (keyed(counter(&schema), &schema), keyed(without, &schema), format!("holds the state `{state}`")),
        (keyed(counter(&schema), &schema), keyed(renamed, &schema), format!("holds the state `{state}`")),
        (
            keyed(keeper(&schema, 1), &schema),
            keyed(list, &schema),
            "state `m` is map of int64 to int64 in version 1, but list of int64 in version 2".into(),
        ),
        (keyed(counter(&schema), &schema), count.clone(), format!("holds `state/{state}@1`, which a window")),
        (count.clone(), keyed(counter(&schema), &schema), "holds `panes`".into()),
        (
            count.clone(),
            windows(&schema, 0, &[0], &[("n", "count(v)")]),
            "`aggregates.n` is `count(*)`, but now".into(),
        ),
        (
            count.clone(),
            windows(&schema, 0, &[0], &[("m", "count(*)")]),
            "`aggregates.n` is `count(*)`, but now".into(),
        ),
        (count.clone(), windows(&schema, 0, &[0, 1], &[("n", "count(*)")]), "`key` is `int64`, but now".into()),
    ] {
        let fault = Driver::restore(&at(&after), 2, 1, &frozen(&before)).err().expect("refused");
        assert!(fault.message.contains(&message), "{fault}");
        assert_eq!(fault.operator, "op");
    }
    // Another lateness is no reason.
    let later = at(&windows(&schema, 5, &[0], &[("n", "count(*)")]));
    assert!(Driver::restore(&later, 2, 1, &frozen(&count)).is_ok());
}

#[derive(Clone, Debug)]
enum Step {
    Rows(Vec<(i64, i64)>),
    Watermark(i64),
    Clock(i64),
    Move(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let row = (0i64..6, 0i64..60);
    let step = prop_oneof![
        4 => prop::collection::vec(row, 1..8).prop_map(Step::Rows),
        2 => (0i64..60).prop_map(Step::Watermark),
        1 => (0i64..20).prop_map(Step::Clock),
        2 => (1usize..4).prop_map(Step::Move),
    ];
    prop::collection::vec(step, 1..25)
}

/// What comes out with and without the moves.
fn both(plan: &Plan, steps: &[Step]) -> [BTreeMap<String, Vec<String>>; 2] {
    both_versions(plan, plan, steps)
}

/// The same with another plan from the first move on.
fn both_versions(plan: &Plan, next: &Plan, steps: &[Step]) -> [BTreeMap<String, Vec<String>>; 2] {
    [true, false].map(|moves| {
        let mut run = Run::new(plan, 2);
        run.next = Some(next.clone());
        for step in steps {
            match step {
                Step::Rows(list) => run.push(rows(&[
                    ("k", ints(list.iter().map(|r| Some(r.0).filter(|k| *k > 0)))),
                    ("t", ints(list.iter().map(|r| r.1))),
                    ("v", ints(list.iter().map(|r| r.1 * 2))),
                ])),
                Step::Watermark(watermark) => run.watermark(*watermark),
                Step::Clock(ms) => {
                    run.driver.advance_processing_time(*ms).unwrap();
                    run.collect();
                }
                Step::Move(workers) if moves => run.move_to(*workers),
                // A checkpoint of a driver that is fed by hand closes the tick.
                Step::Move(_) => run.driver.tick().unwrap(),
            }
        }
        run.finish()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 4, ..ProptestConfig::default() })]

    #[test]
    fn windows_go_on_as_if_nothing_had_happened(steps in steps(), lateness in prop_oneof![Just(0i64), 1..30i64]) {
        let schema = schema(&[("k", DataType::Int64), ("t", DataType::Int64), ("v", DataType::Int64)]);
        let built = windows(&schema, lateness, &[0], &[("n", "count(*)"), ("d", "count(DISTINCT t)"), ("m", "median(t)")]);
        let [with, without] = both(&plan(&built, &schema, &[0], 1), &steps);
        prop_assert_eq!(with, without);
    }

    #[test]
    fn state_and_timers_go_on_as_if_nothing_had_happened(steps in steps()) {
        let schema = schema(&[("k", DataType::Int64), ("t", DataType::Int64), ("v", DataType::Int64)]);
        // Timers of both clocks; every third row deletes those that another one may have set.
        let timers = |v: i64, key| {
            let change = |domain| TimerChange { key, domain, time: if v % 3 == 0 { v - 2 } else { v }, delete: v % 3 == 0 };
            vec![change(TimeDomain::Event), change(TimeDomain::Processing)]
        };
        let again = |time: i64, key| match time % 8 {
            0 => vec![TimerChange { key, domain: TimeDomain::Event, time: time + 6, delete: false }],
            _ => Vec::new(),
        };
        for logic in [counter(&schema), alarm(&schema, timers, again), keeper(&schema, 1)] {
            let [with, without] = both(&plan(&keyed(logic, &schema), &schema, &[0], 1), &steps);
            prop_assert_eq!(with, without);
        }
    }

    #[test]
    fn a_later_version_goes_on_with_lists_and_maps(steps in steps()) {
        let schema = schema(&[("k", DataType::Int64), ("t", DataType::Int64), ("v", DataType::Int64)]);
        let [before, after] = [1, 2].map(|version| plan(&keyed(keeper(&schema, version), &schema), &schema, &[0], 1));
        let [with, without] = both_versions(&before, &after, &steps);
        prop_assert_eq!(with, without);
    }
}
