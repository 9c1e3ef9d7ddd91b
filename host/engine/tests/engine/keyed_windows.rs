//! Windows of a key: sessions, global and count windows, windows of the wall clock, triggers.

use arrow::array::AsArray;
use arrow::datatypes::{DataType, Int64Type};
use proptest::prelude::*;
use tidemill_engine::driver::Driver;
use tidemill_engine::windows::window;
use tidemill_model::fault::OnError;
use tidemill_model::logic::TimeDomain;
use tidemill_model::window::{Fires, Gap, Trigger, WindowSpec, Windows};

use crate::support::{driver, explain, ints, lines, rows, schema, sorted, texts, times};
use crate::windows::collect;

fn calls(n: &[(&str, &str)]) -> Vec<(String, String)> {
    n.iter().map(|(name, call)| ((*name).to_owned(), (*call).to_owned())).collect()
}

fn windows_of(windows: Windows) -> WindowSpec {
    WindowSpec::new(windows, vec![0], calls(&[("n", "count(*)")]))
}

#[test]
fn windows_that_cannot_be_are_explained() {
    let input = schema(&[("k", DataType::Utf8), ("x", DataType::Float64)]);
    let tumbling = || windows_of(Windows::Tumbling { size_ms: 10 });
    let session = |gap: &str| windows_of(Windows::Session(Gap::Of(gap.to_owned())));
    let fires = |spec: WindowSpec, fires| WindowSpec { trigger: Some(Trigger { fires, purge: false }), ..spec };
    let delta = |value: &str, threshold| Fires::Delta { value: value.to_owned(), threshold };
    let by_clock = |spec| WindowSpec { time: TimeDomain::Processing, ..spec };
    for (spec, expected) in [
        (windows_of(Windows::Session(Gap::Ms(0))), "window.session: a window of 0 ms holds nothing"),
        (session("k"), "window.session_gap: `k` is utf8, not a number"),
        (session("z"), "window.session_gap: there is no column `z`"),
        (
            windows_of(Windows::Cumulate { size_ms: 10, step_ms: 3 }),
            "window.step: a window of 10 ms is not a multiple of the step of 3 ms",
        ),
        (
            windows_of(Windows::Cumulate { size_ms: 1 << 40, step_ms: 1 }),
            "window.step: a row would be in more than 10000 windows",
        ),
        (
            WindowSpec { allowed_lateness_ms: 1, ..by_clock(tumbling()) },
            "window.allowed_lateness: no row is late for such a window",
        ),
        (
            WindowSpec { offset_ms: -10, ..by_clock(tumbling()) },
            "window.offset: an offset of -10 ms is not less than the size of 10 ms",
        ),
        (windows_of(Windows::Global), "window: a global window has no end at which it would fire"),
        (fires(tumbling(), Fires::Count(0)), "window.trigger.count: after 0 rows nothing has changed"),
        (fires(tumbling(), Fires::Early(0)), "window.trigger.every: the time between is 0"),
        (fires(tumbling(), delta("k", 1.0)), "window.trigger.delta: `k` is utf8, not a number"),
        (fires(tumbling(), delta("x", f64::NAN)), "window.trigger.threshold: is not a number from 0"),
        (
            fires(session("5"), delta("x", 1.0)),
            "window.trigger.delta: sessions merge, and what differs from which row would be open",
        ),
        (
            fires(by_clock(tumbling()), Fires::Early(1)),
            "window.trigger.early: is for windows of event time: use `every`",
        ),
        (
            fires(by_clock(tumbling()), Fires::Every(TimeDomain::Event, 1)),
            "window.trigger.every: windows of processing time do not fire by event time",
        ),
    ] {
        let shown = format!("{spec:?}");
        let seen = explain(&window(spec, &input).err().unwrap_or_else(|| panic!("not refused: {shown}")));
        assert!(seen.starts_with(expected), "{seen}: {expected}");
    }
}

proptest! {
    /// In whatever order rows come, and however they are cut into batches, the sessions are the same.
    #[test]
    fn sessions_merge_in_any_order(
        rows_of in prop::collection::vec((0i64..3, 0i64..200), 1..60),
        order in any::<prop::sample::Index>(),
        size in 1usize..20,
        gap in 1i64..20,
    ) {
        let mut expected = Vec::new();
        for key in 0..3 {
            let mut times: Vec<i64> = rows_of.iter().filter(|row| row.0 == key).map(|row| row.1).collect();
            times.sort_unstable();
            // A session goes on while the next row lies within the gap, or just at its end.
            for session in times.chunk_by(|a, b| b - a <= gap) {
                expected.push(format!("{key} [{}, {}) {}", session[0], session[session.len() - 1] + gap, session.len()));
            }
        }
        let mut shuffled = rows_of.clone();
        shuffled.sort_by_key(|row| (row.0 * 7919 + row.1 * 104_729) % (order.index(997) as i64 + 1));
        let input = schema(&[("k", DataType::Int64), ("t", DataType::Int64)]);
        let built = window(windows_of(Windows::Session(Gap::Ms(gap))), &input).unwrap();
        let mut driver = driver(&built, &input, &[0], Some(1), 1);
        for part in shuffled.chunks(size) {
            let batch = rows(&[("k", ints(part.iter().map(|r| r.0))), ("t", ints(part.iter().map(|r| r.1)))]);
            driver.push("in", batch).unwrap();
        }
        driver.finish().unwrap();
        let mut seen = Vec::new();
        collect(&mut driver, &mut seen);
        prop_assert_eq!(sorted(seen), sorted(expected));
        prop_assert_eq!(driver.held("op"), 0);
    }
}

/// Rows by the wall clock: `key|count` in the order in which windows fire, with the time when they did.
fn by_clock(spec: WindowSpec, timed: bool, steps: &[(i64, &[i64])]) -> Vec<String> {
    let input = schema(&[("k", DataType::Int64), ("t", DataType::Int64)]);
    let built = window(spec, &input).unwrap();
    let mut driver = driver(&built, &input, &[0], timed.then_some(1), 1);
    let mut seen = Vec::new();
    for (clock, keys) in steps {
        driver.advance_processing_time(clock - driver.now_ms()).unwrap();
        let mut take = |driver: &mut Driver| {
            for line in lines(&driver.take_output("out")) {
                let parts: Vec<&str> = line.split('|').collect();
                seen.push(format!("{clock}: {} {}", parts[0], parts[parts.len() - 1]));
            }
        };
        take(&mut driver);
        if !keys.is_empty() {
            let batch = rows(&[("k", ints(keys.iter().copied())), ("t", ints(keys.iter().map(|_| 5)))]);
            driver.push("in", batch).unwrap();
            driver.tick().unwrap();
            take(&mut driver);
        }
    }
    driver.finish().unwrap();
    seen.push("end".into());
    seen.extend(lines(&driver.take_output("out")).iter().map(|line| line.rsplit('|').next().unwrap().to_owned()));
    seen
}

#[test]
fn windows_of_the_wall_clock_end_by_it() {
    let clock = |windows| WindowSpec { time: TimeDomain::Processing, ..windows_of(windows) };
    // A window is over when its last ms is, and those that are open at the end do not fire.
    assert_eq!(
        by_clock(
            clock(Windows::Tumbling { size_ms: 10 }),
            false,
            &[(1000, &[1, 1]), (1009, &[1, 2]), (1010, &[1]), (1019, &[]), (1020, &[2])]
        ),
        ["1010: 1 3", "1010: 2 1", "1020: 1 1", "end"]
    );
    assert_eq!(
        by_clock(clock(Windows::Session(Gap::Ms(10))), false, &[(1000, &[1]), (1008, &[1]), (1017, &[]), (1018, &[1])]),
        ["1018: 1 2", "end"]
    );
    assert_eq!(
        by_clock(
            clock(Windows::Cumulate { size_ms: 20, step_ms: 10 }),
            false,
            &[(1000, &[1]), (1010, &[1]), (1020, &[1]), (1040, &[])]
        ),
        ["1010: 1 1", "1020: 1 2", "1040: 1 1", "1040: 1 1", "end"]
    );
}

#[test]
fn triggers_of_the_wall_clock_fire_before_the_end() {
    let trigger = |fires, purge| Some(Trigger { fires, purge });
    // Event time does not move before the end.
    let early =
        WindowSpec { trigger: trigger(Fires::Early(10), false), ..windows_of(Windows::Tumbling { size_ms: 1000 }) };
    assert_eq!(
        by_clock(early, true, &[(1003, &[1]), (1010, &[1]), (1011, &[]), (1015, &[1]), (1021, &[])]),
        ["1011: 1 2", "1021: 1 3", "end", "3"]
    );
    let every = |purge| WindowSpec {
        trigger: trigger(Fires::Every(TimeDomain::Processing, 10), purge),
        ..windows_of(Windows::Global)
    };
    assert_eq!(
        by_clock(every(false), false, &[(1003, &[1]), (1011, &[]), (1021, &[2]), (1031, &[])]),
        ["1011: 1 1", "1021: 1 1", "1031: 1 1", "1031: 2 1", "end"]
    );
    // Times that nobody has seen are one.
    assert_eq!(
        by_clock(every(false), false, &[(1003, &[1]), (9999, &[]), (10_001, &[])]),
        ["9999: 1 1", "10001: 1 1", "end"]
    );
    // What has fired and was forgotten does not fire again without rows.
    assert_eq!(
        by_clock(every(true), false, &[(1003, &[1, 1]), (1011, &[]), (1021, &[]), (1025, &[1]), (1031, &[])]),
        ["1011: 1 2", "1031: 1 1", "end"]
    );
}

#[test]
fn a_trigger_without_an_end_ends_with_the_input() {
    let input = schema(&[("k", DataType::Int64), ("t", DataType::Int64)]);
    let every = Some(Trigger { fires: Fires::Every(TimeDomain::Event, 10), purge: false });
    let built = window(WindowSpec { trigger: every, ..windows_of(Windows::Global) }, &input).unwrap();
    let mut driver = driver(&built, &input, &[0], Some(1), 1);
    driver.push("in", rows(&[("k", ints([1, 1])), ("t", ints([3, 12]))])).unwrap();
    driver.tick().unwrap();
    driver.advance_event_time("in", 25).unwrap();
    assert_eq!(lines(&driver.take_output("out")), ["1|2", "1|2"], "at 10 and 20");
    driver.finish().unwrap();
    assert_eq!(lines(driver.output("out")), ["1|2"], "and not for all times to come");
}

#[test]
fn windows_without_an_end_need_no_event_time_and_pass_on_what_there_is() {
    let count =
        |purge| WindowSpec { trigger: Some(Trigger { fires: Fires::Count(2), purge }), ..windows_of(Windows::Global) };
    assert_eq!(by_clock(count(true), false, &[(0, &[1, 2, 1, 1, 1, 2])]), ["0: 1 2", "0: 1 2", "0: 2 2", "end"]);
    assert_eq!(by_clock(count(false), false, &[(0, &[1, 2, 1, 1, 1, 2])]), ["0: 1 2", "0: 1 4", "0: 2 2", "end"]);
    let input = schema(&[("k", DataType::Int64), ("t", DataType::Int64)]);
    let built = window(count(true), &input).unwrap();
    let mut driver = driver(&built, &input, &[0], Some(1), 1);
    driver.push("in", rows(&[("k", ints([1, 1, 2])), ("t", ints([70, 30, 10]))])).unwrap();
    driver.tick().unwrap();
    let out = driver.take_output("out");
    assert_eq!(times(&out), [70], "the largest of its rows");
    assert_eq!(out[0].schema().fields().len(), 2, "no start and end");
    assert_eq!(driver.held("op"), 1, "nothing stays of what was purged");
}

#[test]
fn rows_whose_gap_or_arguments_cannot_be_computed_are_put_aside() {
    let input = schema(&[("k", DataType::Int64), ("t", DataType::Int64), ("g", DataType::Int64)]);
    let spec = WindowSpec {
        on_error: OnError::DeadLetter,
        ..WindowSpec::new(
            Windows::Session(Gap::Of("g".to_owned())),
            vec![0],
            calls(&[("n", "count(*)"), ("s", "sum(100 / (t - 5))")]),
        )
    };
    let built = window(spec, &input).unwrap();
    let mut driver = driver(&built, &input, &[0], Some(1), 1);
    let gaps = ints([Some(10), None, Some(0), Some(-1), Some(3), Some(4)]);
    driver.push("in", rows(&[("k", ints([1; 6])), ("t", ints([1, 2, 3, 4, 5, 6])), ("g", gaps)])).unwrap();
    driver.finish().unwrap();
    let errors: Vec<&str> = driver.dead().iter().map(|row| row.error.as_str()).collect();
    assert_eq!(
        errors,
        [
            "the gap of a session is null, and must be 1 ms at least",
            "the gap of a session is 0 ms, and must be 1 ms at least",
            "the gap of a session is -1 ms, and must be 1 ms at least",
            "an aggregate's argument fails: Divide by zero error",
        ]
    );
    assert_eq!(driver.counter("op", "row_errors"), 4);
    assert_eq!(lines(driver.output("out")), ["1|1970-01-01T00:00:00.001|1970-01-01T00:00:00.011|2|75"]);
}

/// A long stream with keys that come and go: numbers and slots are used again, and nothing stays.
#[test]
fn sessions_of_many_keys_leave_nothing_behind() {
    for key in [vec![0], vec![1], vec![0, 1]] {
        let input = schema(&[("k", DataType::Int64), ("s", DataType::Utf8), ("t", DataType::Int64)]);
        let spec =
            WindowSpec::new(Windows::Session(Gap::Ms(50)), key.clone(), calls(&[("n", "count(*)"), ("l", "max(s)")]));
        let built = window(spec, &input).unwrap();
        let mut driver = driver(&built, &input, &key, Some(2), 1);
        let (mut results, mut expected) = (0, 0);
        for round in 0..40i64 {
            let keys: Vec<i64> = (0..300).map(|i| (round / 4) * 100 + i % 150).collect();
            let texts_of: Vec<Option<String>> = keys.iter().map(|k| (k % 7 != 0).then(|| format!("key {k}"))).collect();
            let batch = rows(&[
                ("k", ints(keys.iter().map(|&k| (k % 5 != 0).then_some(k)))),
                ("s", texts(texts_of.iter().map(Option::as_deref))),
                ("t", ints(keys.iter().map(|_| round * 10))),
            ]);
            expected += keys.len() as i64;
            driver.push("in", batch).unwrap();
            driver.tick().unwrap();
            driver.advance_event_time("in", round * 10).unwrap();
        }
        driver.advance_event_time("in", 100_000).unwrap();
        assert_eq!(driver.held("op"), 0, "{key:?}");
        for batch in driver.output("out") {
            let column = batch.schema().index_of("n").unwrap();
            results += arrow::compute::sum(batch.column(column).as_primitive::<Int64Type>()).unwrap_or_default();
        }
        assert_eq!(results, expected, "{key:?}");
    }
}
