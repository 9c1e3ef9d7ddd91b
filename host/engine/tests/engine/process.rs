//! Process nodes: map, filter, keyed state, timers, poison rows.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::{AsArray, BooleanArray};
use arrow::datatypes::{DataType, SchemaRef};
use proptest::prelude::*;
use tidemill_engine::driver::{Driver, Input, one_operator};
use tidemill_engine::process::{ProcessSpec, node};
use tidemill_model::component::LogicKind;
use tidemill_model::fault::OnError;
use tidemill_model::logic::{Effects, LogicError, TimeDomain, TimerChange};
use tidemill_model::plan::Built;
use tidemill_model::{Batch, ConfigError};
use tidemill_state::HeapFactory;

use crate::logic::*;
use crate::support::{driver, explain, ints, lines, rows, schema, sorted, texts, times};

fn build(logic: &Native, inputs: &[SchemaRef], keys: &[&[usize]], on_error: OnError) -> Result<Built, ConfigError> {
    node(ProcessSpec {
        logic: Arc::new(logic.clone()),
        inputs: inputs.to_vec(),
        keys: keys.iter().map(|k| k.to_vec()).collect(),
        config: Vec::new(),
        on_error,
        state: Arc::new(HeapFactory),
        shared: Arc::new(HeapFactory),
    })
}

fn kv() -> SchemaRef {
    schema(&[("k", DataType::Int64), ("v", DataType::Int64)])
}

fn batch(list: &[(i64, i64)]) -> arrow::array::RecordBatch {
    rows(&[("k", ints(list.iter().map(|r| r.0))), ("v", ints(list.iter().map(|r| r.1)))])
}

#[test]
fn map_projects_carries_and_inherits() {
    let input = schema(&[("x", DataType::Int64), ("t", DataType::Int64), ("s", DataType::Utf8)]);
    let own = schema(&[("x", DataType::Int64), ("y", DataType::Int64)]);
    let side = schema(&[("z", DataType::Int64)]);
    let mut map = Native::new(
        LogicKind::Map,
        &schema(&[("x", DataType::Int64)]),
        vec![port("out", &own, true), port("side", &side, false)],
    );
    map.process = Arc::new(|input| {
        assert_eq!(input.rows.num_columns(), 1, "only the declared column crosses");
        let x = column(&input.rows, "x");
        let doubled =
            rows(&[("x", ints(x.iter().map(|v| v.map(|v| v * 2)))), ("y", ints(x.iter().map(|v| v.map(|v| -v))))]);
        let last = x.len() as u32 - 1;
        let side = rows(&[("z", ints([1, 2]))]);
        Ok(Effects { outputs: vec![out(0, doubled, None), out(1, side, Some(vec![last, 0]))], ..Effects::default() })
    });
    let built = build(&map, std::slice::from_ref(&input), &[], OnError::Fail).unwrap();
    let names: Vec<String> = built.outputs[0].1.fields().iter().map(|f| f.name().clone()).collect();
    assert_eq!(names, ["x", "t", "s", "y"]);
    let mut driver = driver(&built, &input, &[], Some(1), 1);
    driver.push("in", rows(&[("x", ints([1, 2])), ("t", ints([10, 20])), ("s", texts(["a", "b"]))])).unwrap();
    driver.finish().unwrap();
    assert_eq!(lines(driver.output("out")), ["2|10|a|-1", "4|20|b|-2"]);
    assert_eq!(times(driver.output("out")), [10, 20]);
    assert_eq!(
        (lines(driver.output("side")), times(driver.output("side"))),
        (vec!["1".into(), "2".into()], vec![20, 10])
    );
}

#[test]
fn wide_parents_are_copied_a_piece_at_a_time() {
    let input = schema(&[("v", DataType::Int64), ("s", DataType::Utf8)]);
    let narrow = schema(&[("v", DataType::Int64)]);
    let own = schema(&[("copy", DataType::Int64)]);
    let mut map = Native::new(LogicKind::Map, &narrow, vec![port("out", &own, true)]);
    const COPIES: usize = 100;
    map.process = Arc::new(|input| {
        let count = input.rows.num_rows() * COPIES;
        let copies = rows(&[("copy", ints((0..count).map(|i| (i % COPIES) as i64)))]);
        let parents = (0..count).map(|i| (i / COPIES) as u32).collect();
        Ok(Effects { outputs: vec![out(0, copies, Some(parents))], ..Effects::default() })
    });
    let built = build(&map, std::slice::from_ref(&input), &[], OnError::Fail).unwrap();
    let mut driver = driver(&built, &input, &[], Some(0), 1);
    // 300 kB each, 60 MB in all.
    let (a, b) = ("a".repeat(300_000), "b".repeat(300_000));
    driver.push("in", rows(&[("v", ints([7, 8])), ("s", texts([a.as_str(), b.as_str()]))])).unwrap();
    driver.finish().unwrap();
    let mut seen = 0;
    for batch in driver.output("out") {
        assert!(batch.bytes() <= 5 << 20, "{} bytes at once", batch.bytes());
        let copies = column(batch.rows(), "copy");
        let texts = batch.rows().column_by_name("s").unwrap().as_string::<i32>();
        for row in 0..batch.num_rows() {
            let first = seen < COPIES;
            assert_eq!(copies.value(row), (seen % COPIES) as i64);
            assert_eq!(texts.value(row).as_bytes()[0], if first { b'a' } else { b'b' });
            assert_eq!(batch.times.as_ref().unwrap()[row], if first { 7 } else { 8 });
            seen += 1;
        }
    }
    assert_eq!(seen, 2 * COPIES);
}

#[test]
fn a_flat_map_is_called_on_fewer_rows_and_its_output_cut_into_batches() {
    let input = schema(&[("v", DataType::Int64)]);
    let calls = Arc::new(AtomicUsize::new(0));
    let largest = Arc::new(AtomicUsize::new(0));
    let mut map = Native::new(LogicKind::Map, &input, vec![port("out", &input, true)]);
    let (seen, most) = (calls.clone(), largest.clone());
    map.process = Arc::new(move |input| {
        let n = input.rows.num_rows();
        seen.fetch_add(1, Ordering::Relaxed);
        most.fetch_max(n, Ordering::Relaxed);
        let parents: Vec<u32> = (0..n as u32).flat_map(|r| [r; 100]).collect();
        let values = column(&input.rows, "v");
        let copies = rows(&[("v", ints(parents.iter().map(|&p| values.value(p as usize))))]);
        Ok(Effects { outputs: vec![out(0, copies, Some(parents))], ..Effects::default() })
    });
    let built = build(&map, std::slice::from_ref(&input), &[], OnError::Fail).unwrap();
    let mut driver = driver(&built, &input, &[], None, 1);
    driver.push("in", rows(&[("v", ints(0..8192))])).unwrap();
    driver.finish().unwrap();
    let sizes: Vec<usize> = driver.output("out").iter().map(Batch::num_rows).collect();
    assert_eq!(sizes.iter().sum::<usize>(), 819_200);
    assert!(sizes.iter().all(|&s| s <= 8192), "{sizes:?}");
    assert!(largest.load(Ordering::Relaxed) <= 256, "no call makes many batches at once");
    assert!(calls.load(Ordering::Relaxed) <= 110, "calls make about a batch each");
}

#[test]
fn filter_keeps_whole_rows() {
    let input = kv();
    let mut filter = Native::new(LogicKind::Filter, &schema(&[("v", DataType::Int64)]), Vec::new());
    filter.keep = Arc::new(|input| {
        let v = column(&input.rows, "v");
        trap_on_13(&v)?;
        Ok((BooleanArray::from_iter(v.iter().map(|v| Some(v.unwrap() % 2 == 1))), error_on_99(&v)))
    });
    let built = build(&filter, std::slice::from_ref(&input), &[], OnError::DeadLetter).unwrap();
    let mut driver = driver(&built, &input, &[], Some(1), 1);
    driver.push("in", batch(&[(1, 1), (2, 2), (3, 13), (4, 99), (5, 5)])).unwrap();
    driver.finish().unwrap();
    assert_eq!(lines(driver.output("out")), ["1|1", "5|5"]);
    assert_eq!(driver.dead().iter().map(|d| d.error.as_str()).collect::<Vec<_>>(), ["unlucky", "99 is not a value"]);
}

#[test]
fn keyed_state_counts_per_key() {
    let built = build(&counter(&kv()), &[kv()], &[&[0]], OnError::Fail).unwrap();
    let mut driver = driver(&built, &kv(), &[0], None, 1);
    driver.push("in", batch(&[(1, 5), (2, 1), (1, 6)])).unwrap();
    driver.push("in", batch(&[(2, 2), (3, 0), (1, 7)])).unwrap();
    driver.finish().unwrap();
    let expected = ["1|5|1|5", "2|1|1|1", "1|6|2|11", "2|2|2|3", "3|0|1|0", "1|7|3|18"];
    assert_eq!(lines(driver.output("out")), expected);
    assert_eq!(driver.held("op"), 3);
}

#[test]
fn poison_rows_go_to_the_dead_letters_and_leave_no_trace_in_the_state() {
    let built = build(&counter(&kv()), &[kv()], &[&[0]], OnError::DeadLetter).unwrap();
    let mut driver = driver(&built, &kv(), &[0], Some(1), 1);
    driver.push("in", batch(&[(1, 1), (1, 13), (1, 2), (2, 99), (2, 3), (2, 13), (1, 4)])).unwrap();
    driver.finish().unwrap();
    assert_eq!(lines(driver.output("out")), ["1|1|1|1", "1|2|2|3", "2|3|1|3", "1|4|3|7"]);
    let dead: Vec<_> = driver
        .dead()
        .iter()
        .map(|d| (d.operator.as_str(), d.error.as_str(), d.key.as_deref(), d.row.as_str(), d.event_time))
        .collect();
    assert_eq!(
        dead,
        [
            ("op", "unlucky", Some("1"), r#"{"k":1,"v":13}"#, Some(13)),
            ("op", "99 is not a value", Some("2"), r#"{"k":2,"v":99}"#, Some(99)),
            ("op", "unlucky", Some("2"), r#"{"k":2,"v":13}"#, Some(13)),
        ]
    );
    assert_eq!((driver.counter("op", "poison_rows"), driver.counter("op", "row_errors")), (2, 1));
    assert!(driver.counter("op", "traps") > 2);
}

#[test]
fn without_dead_letters_a_poison_row_fails_the_job_with_its_key_and_row() {
    for (value, error) in [(13, "unlucky"), (99, "99 is not a value")] {
        let built = build(&counter(&kv()), &[kv()], &[&[0]], OnError::Fail).unwrap();
        let mut driver = driver(&built, &kv(), &[0], None, 1);
        driver.push("in", batch(&[(1, 1), (7, value)])).unwrap();
        let fault = driver.finish().unwrap_err();
        assert_eq!((fault.operator.as_str(), fault.message.as_str()), ("op", error));
        assert_eq!((fault.key.as_deref(), fault.row), (Some("7"), Some(format!(r#"{{"k":7,"v":{value}}}"#))));
    }
}

#[test]
fn fatal_errors_are_not_retried() {
    let mut fatal = counter(&kv());
    let calls = Arc::new(AtomicUsize::new(0));
    let seen = calls.clone();
    fatal.keyed = Arc::new(move |_| {
        seen.fetch_add(1, Ordering::Relaxed);
        Err(LogicError::Fatal("no more".into()))
    });
    let built = build(&fatal, &[kv()], &[&[0]], OnError::DeadLetter).unwrap();
    let mut driver = driver(&built, &kv(), &[0], None, 1);
    driver.push("in", batch(&[(1, 1)])).unwrap();
    assert_eq!(driver.finish().unwrap_err().message, "no more");
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}

fn change(domain: TimeDomain, time: i64, key: u32, delete: bool) -> TimerChange {
    TimerChange { key, domain, time, delete }
}

fn event(time: i64, key: u32) -> Vec<TimerChange> {
    vec![change(TimeDomain::Event, time, key, false)]
}

fn alarms(logic: &Native, on_error: OnError) -> Driver {
    let built = build(logic, &[kv()], &[&[0]], on_error).unwrap();
    driver(&built, &kv(), &[0], None, 1)
}

#[test]
fn event_timers_fire_in_order_once_the_watermark_reaches_them() {
    let mut driver = alarms(&alarm(&kv(), event, |_, _| vec![]), OnError::Fail);
    driver.push("in", batch(&[(1, 30), (2, 10), (1, 20), (1, 30), (3, 11)])).unwrap();
    driver.advance_event_time("in", 10).unwrap();
    assert_eq!(lines(&driver.take_output("out")), ["2|10"]);
    assert_eq!(driver.held("op"), 2, "keys live as long as their timers");
    driver.advance_event_time("in", 29).unwrap();
    assert_eq!(lines(driver.output("out")), ["3|11", "1|20"]);
    assert_eq!(times(&driver.take_output("out")), [11, 20], "rows of a timer have its time");
    driver.finish().unwrap();
    assert_eq!(lines(driver.output("out")), ["1|30"], "unique per key and time; the end fires all");
    assert_eq!(driver.held("op"), 0);
}

#[test]
fn a_timer_set_below_the_watermark_waits_until_that_moves_on() {
    let mut driver = alarms(&alarm(&kv(), event, |_, _| vec![]), OnError::Fail);
    driver.advance_event_time("in", 10).unwrap();
    driver.push("in", batch(&[(1, 10), (2, -5)])).unwrap();
    driver.tick().unwrap();
    driver.advance_event_time("in", 10).unwrap();
    driver.advance_processing_time(1000).unwrap();
    assert!(driver.output("out").is_empty(), "a row that comes now may still delete them");
    driver.advance_event_time("in", 11).unwrap();
    assert_eq!(lines(driver.output("out")), ["2|-5", "1|10"]);
}

#[test]
fn timers_set_while_firing_fire_too_if_they_are_due() {
    let again = |time: i64, key| if time % 10 < 3 { event(time + 1, key) } else { vec![] };
    let mut driver = alarms(&alarm(&kv(), event, again), OnError::Fail);
    driver.push("in", batch(&[(1, 20), (2, 21)])).unwrap();
    driver.advance_event_time("in", 22).unwrap();
    let fired = lines(&driver.take_output("out"));
    assert_eq!(sorted(fired), ["1|20", "1|21", "1|22", "2|21", "2|22"]);
    driver.advance_event_time("in", 23).unwrap();
    assert_eq!(lines(driver.output("out")), ["1|23", "2|23"]);
}

#[test]
fn a_timer_may_delete_the_next_one_of_its_key() {
    let plan = |time, key| [event(time, key), event(time + 1, key), event(time + 2, key)].concat();
    // The first deletes the second, although both are due.
    let again = |time, key| vec![change(TimeDomain::Event, time + 1, key, true)];
    let mut driver = alarms(&alarm(&kv(), plan, again), OnError::Fail);
    driver.push("in", batch(&[(1, 10), (2, 10)])).unwrap();
    driver.advance_event_time("in", 100).unwrap();
    assert_eq!(lines(driver.output("out")), ["1|10", "2|10", "1|12", "2|12"]);
    assert_eq!(driver.held("op"), 0);
}

#[test]
fn processing_timers_follow_the_wall_clock_and_die_with_the_input() {
    let plan = |time, key| vec![change(TimeDomain::Processing, time, key, false)];
    let mut driver = alarms(&alarm(&kv(), plan, |_, _| vec![]), OnError::Fail);
    driver.push("in", batch(&[(1, 10), (2, 20), (3, -5)])).unwrap();
    driver.advance_event_time("in", 1000).unwrap();
    assert_eq!(lines(&driver.take_output("out")), ["3|-5"], "a timer in the past fires at once");
    driver.advance_processing_time(10).unwrap();
    assert_eq!(lines(driver.output("out")), ["1|10"]);
    assert!(driver.take_output("out")[0].times.is_none(), "no event time, as in Flink");
    driver.finish().unwrap();
    assert!(driver.output("out").is_empty(), "pending processing timers do not fire at the end");
}

#[test]
fn poison_timers_are_found_like_poison_rows() {
    let logic = alarm(&kv(), |time, key| if time == 0 { event(13, key) } else { event(time, key) }, |_, _| vec![]);
    let mut driver = alarms(&logic, OnError::DeadLetter);
    driver.push("in", batch(&[(1, 12), (2, 0), (3, 14), (4, 99)])).unwrap();
    driver.finish().unwrap();
    assert_eq!(lines(driver.output("out")), ["1|12", "3|14", "4|99"]);
    let dead: Vec<_> =
        driver.dead().iter().map(|d| (d.error.as_str(), d.key.as_deref().unwrap(), d.row.as_str())).collect();
    assert_eq!(
        dead,
        [
            ("unlucky", "2", r#"{"timer":13,"domain":"event"}"#),
            ("99 is not a value", "4", r#"{"timer":99,"domain":"event"}"#),
        ]
    );
    assert_eq!(driver.held("op"), 0);
}

#[test]
fn many_due_timers_fire_in_batches() {
    let mut driver = alarms(&alarm(&kv(), event, |_, _| vec![]), OnError::Fail);
    for part in 0..4 {
        let list: Vec<(i64, i64)> = (0..8000).map(|i| (part * 8000 + i, 100 + (i * 7) % 1000)).collect();
        driver.push("in", batch(&list)).unwrap();
    }
    driver.finish().unwrap();
    let fired = times(driver.output("out"));
    assert_eq!(fired.len(), 32_000);
    assert!(fired.is_sorted());
    assert!(driver.output("out").iter().all(|b| b.num_rows() <= 8192));
}

#[test]
fn inputs_of_a_keyed_operator_share_state() {
    let mut logic = counter(&kv());
    let other = schema(&[("v", DataType::Int64), ("id", DataType::Int64)]);
    logic.descriptor.inputs.push(port("other", &schema(&[("v", DataType::Int64)]), false));
    logic.descriptor.outputs[0].carry = false;
    let built = build(&logic, &[kv(), other.clone()], &[&[0], &[1]], OnError::Fail).unwrap();
    let mut inputs = [Input::new("in", &kv()), Input::new("other", &other)];
    inputs[0].key = vec![0];
    inputs[1].key = vec![1];
    let mut driver = Driver::by_hand(&one_operator("op", &built, &inputs), 3, 7).unwrap();
    driver.push("in", batch(&[(1, 5), (2, 6)])).unwrap();
    driver.tick().unwrap();
    driver.push("other", rows(&[("v", ints([10, 20])), ("id", ints([2, 1]))])).unwrap();
    driver.finish().unwrap();
    assert_eq!(sorted(lines(driver.output("out"))), ["1|5", "1|6", "2|16", "2|25"]);
}

#[test]
fn text_keys_with_nulls_work_like_numbers() {
    let input = schema(&[("k", DataType::Utf8), ("v", DataType::Int64)]);
    let built = build(&counter(&input), std::slice::from_ref(&input), &[&[0]], OnError::Fail).unwrap();
    let mut driver = driver(&built, &input, &[0], None, 1);
    let k = texts([Some("a"), None, Some("a very long key, longer than any block"), None, Some("a")]);
    driver.push("in", rows(&[("k", k), ("v", ints([1, 2, 3, 4, 5]))])).unwrap();
    driver.finish().unwrap();
    let expected = ["a|1|1|1", "-|2|1|2", "a very long key, longer than any block|3|1|3", "-|4|2|6", "a|5|2|6"];
    assert_eq!(lines(driver.output("out")), expected);
}

#[test]
fn changes_do_not_reach_logic_that_takes_inserts_only() {
    use tidemill_model::{OperatorContext, Progress};
    struct Nowhere;
    impl tidemill_model::Collector for Nowhere {
        fn emit(&mut self, _port: usize, batch: Batch) {
            assert_eq!(batch.kinds.as_deref(), Some(&[0u8, 3][..]));
        }
        fn dead(&mut self, _row: tidemill_model::DeadRow) {}
        fn count(&mut self, _counter: &'static str, _n: u64) {}
    }
    let context = OperatorContext { node: "op".into(), worker: 0, workers: 1, processing_ms: 0 };
    for changes in [false, true] {
        let mut logic = counter(&kv());
        logic.descriptor.changes = changes;
        let built = build(&logic, &[kv()], &[&[0]], OnError::DeadLetter).unwrap();
        let mut operator = built.factory.build(&context).unwrap();
        let mut changing = Batch::new(batch(&[(1, 1), (1, 2)]));
        changing.kinds = Some(vec![0, 3].into());
        match operator.on_batch(0, changing, &mut Nowhere) {
            Ok(progress) => assert_eq!((changes, progress), (true, Progress::Done)),
            Err(fault) => {
                assert!(!changes);
                assert_eq!(fault.message, "the stream has updates and deletes, but `native` understands inserts only");
            }
        }
    }
}

#[test]
fn malformed_answers_are_the_components_fault() {
    let cases: Vec<(Effects, &str)> = vec![
        (
            Effects { outputs: vec![out(5, batch(&[]), None)], ..Effects::default() },
            "rows for output 5, but there are 1 outputs",
        ),
        (
            Effects { outputs: vec![out(0, batch(&[(1, 1)]), None)], ..Effects::default() },
            "output `out`: 1 rows without parents for 2 rows in",
        ),
        (
            Effects { outputs: vec![out(0, batch(&[(1, 1)]), Some(vec![2]))], ..Effects::default() },
            "output `out`: a row comes from row 2, but 2 rows came in",
        ),
        (Effects { timers: event(1, 2), ..Effects::default() }, "a timer for key 2, but there are 2 keys"),
    ];
    for (effects, expected) in cases {
        let mut logic = Native::new(LogicKind::Keyed, &kv(), vec![port("out", &kv(), false)]);
        logic.keyed = Arc::new(move |_| Ok(effects.clone()));
        let built = build(&logic, &[kv()], &[&[0]], OnError::DeadLetter).unwrap();
        let mut driver = driver(&built, &kv(), &[0], None, 1);
        driver.push("in", batch(&[(1, 1), (2, 2)])).unwrap();
        let fault = driver.finish().unwrap_err();
        assert_eq!(fault.message, format!("malformed answer of `native`: {expected}"));
    }
}

#[test]
fn what_does_not_fit_is_refused_before_anything_runs() {
    let counter_logic = counter(&kv());
    let mut filter = Native::new(LogicKind::Filter, &kv(), Vec::new());
    filter.descriptor.name = "keep".into();
    let mut two = counter(&kv());
    two.descriptor.inputs.push(port("other", &schema(&[("v", DataType::Int64)]), false));
    let text = schema(&[("k", DataType::Utf8), ("v", DataType::Int64)]);
    let wrong = schema(&[("k", DataType::Int64), ("v", DataType::Utf8)]);
    let missing = schema(&[("k", DataType::Int64), ("w", DataType::Int64)]);
    for (logic, inputs, keys, expected) in [
        (
            &counter_logic,
            vec![kv()],
            vec![],
            "key: the operator `native` is keyed, but has no key [name the key columns: `key: [column]`]",
        ),
        (&filter, vec![kv()], vec![&[0usize][..]], "key: the operator `keep` is not keyed [leave out `key:`]"),
        (
            &counter_logic,
            vec![wrong],
            vec![&[0][..]],
            "input: what reaches input `in` of `native` does not fit: column `v` is utf8, but the operator declares int64 [a \
             `select:` in front of the operator can rename and convert columns]",
        ),
        (
            &two,
            vec![kv(), missing],
            vec![&[0][..], &[0][..]],
            "inputs.other: what reaches input `other` of `native` does not fit: column `v` is missing [a `select:` in front of \
             the operator can rename and convert columns]",
        ),
        (
            &two,
            vec![kv(), text],
            vec![&[0][..], &[0][..]],
            "key: the key is (int64) on input `in`, but (utf8) on input `other` [keys of one operator have the same types]",
        ),
        (
            &two,
            vec![kv()],
            vec![&[0][..]],
            "inputs: the operator `native` has 2 inputs (in, other), but 1 are connected",
        ),
    ] {
        let error = build(logic, &inputs, &keys, OnError::Fail).err().expect("refused");
        assert_eq!(explain(&error), expected);
    }
}

proptest! {
    // A case is a whole job: a quarter of the cases that are asked for.
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 4, ..ProptestConfig::default() })]

    /// Poison rows, row errors, several workers, any batches: every row is counted once or dead, and the last
    /// count of each key is that of its good rows.
    #[test]
    fn every_row_is_processed_once_or_dead(
        list in prop::collection::vec((0i64..6, prop_oneof![8 => 0i64..10, 1 => Just(13i64), 1 => Just(99i64)]), 1..150),
        size in 1usize..50, workers in 1usize..4, seed in any::<u64>(),
    ) {
        let built = build(&counter(&kv()), &[kv()], &[&[0]], OnError::DeadLetter).unwrap();
        let mut input = Input::new("in", &kv());
        input.key = vec![0];
        let mut driver = Driver::by_hand(&one_operator("op", &built, &[input]), workers, seed).unwrap();
        for part in list.chunks(size) {
            driver.push("in", batch(part)).unwrap();
            driver.tick().unwrap();
        }
        driver.finish().unwrap();
        let mut expected = std::collections::BTreeMap::<i64, (i64, i64)>::new();
        let mut seen = Vec::new();
        for &(k, v) in list.iter().filter(|r| is_good(Some(r.1))) {
            let entry = expected.entry(k).or_default();
            *entry = (entry.0 + 1, entry.1 + v);
            seen.push(format!("{k}|{v}|{}|{}", entry.0, entry.1));
        }
        prop_assert_eq!(sorted(lines(driver.output("out"))), sorted(seen));
        prop_assert_eq!(driver.dead().len(), list.iter().filter(|r| !is_good(Some(r.1))).count());
        prop_assert_eq!(driver.held("op"), expected.len() as u64);
    }
}
