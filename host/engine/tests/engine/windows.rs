//! Tumbling and sliding windows that fire at their end.

use std::collections::{BTreeMap, BTreeSet};

use arrow::datatypes::DataType;
use proptest::prelude::*;
use tidemill_engine::driver::{Driver, Input, one_operator};
use tidemill_engine::windows::window;
use tidemill_model::fault::OnError;
use tidemill_model::time::WATERMARK_MAX;
use tidemill_model::window::{WindowSpec, Windows};

use crate::support::{driver, explain, floats, ints, lines, rows, schema, sorted, texts, times};

fn spec(size_ms: i64, offset_ms: i64, allowed_lateness_ms: i64, aggregates: &[(&str, &str)]) -> WindowSpec {
    let aggregates = aggregates.iter().map(|(n, a)| ((*n).to_owned(), (*a).to_owned())).collect();
    let spec = WindowSpec::new(Windows::Tumbling { size_ms }, vec![0], aggregates);
    WindowSpec { offset_ms, allowed_lateness_ms, ..spec }
}

/// Rows `(key, time)` and watermarks in turn; results as `key start end count`, late rows as `late key time`.
enum Step {
    Rows(&'static [(i64, i64)]),
    Watermark(i64),
}
use Step::{Rows, Watermark};

fn counts(size: i64, offset: i64, lateness: i64, steps: &[Step]) -> Vec<String> {
    counts_of(spec(size, offset, lateness, &[("n", "count(*)")]), steps)
}

fn counts_of(spec: WindowSpec, steps: &[Step]) -> Vec<String> {
    let input = schema(&[("k", DataType::Int64), ("t", DataType::Int64)]);
    let built = window(spec, &input).unwrap();
    let mut driver = driver(&built, &input, &[0], Some(1), 1);
    let mut seen = Vec::new();
    for step in steps {
        match step {
            Rows(list) => {
                let batch = rows(&[("k", ints(list.iter().map(|r| r.0))), ("t", ints(list.iter().map(|r| r.1)))]);
                driver.push("in", batch).unwrap();
                driver.tick().unwrap();
            }
            Watermark(w) => driver.advance_event_time("in", *w).unwrap(),
        }
        collect(&mut driver, &mut seen);
    }
    seen.push("end".into());
    driver.finish().unwrap();
    collect(&mut driver, &mut seen);
    seen
}

pub(crate) fn collect(driver: &mut Driver, seen: &mut Vec<String>) {
    for batch in driver.take_output("out") {
        let window = |line: &str| {
            let parts: Vec<&str> = line.split('|').collect();
            let ms = |t: &str| t.parse::<chrono_free::Ms>().unwrap().0;
            format!("{} [{}, {}) {}", parts[0], ms(parts[1]), ms(parts[2]), parts[3])
        };
        let ends: BTreeSet<i64> = times(std::slice::from_ref(&batch)).into_iter().collect();
        let lines = lines(std::slice::from_ref(&batch));
        assert!(ends.iter().all(|e| lines.iter().any(|l| window(l).contains(&format!(", {})", e + 1)))));
        seen.extend(lines.iter().map(|l| window(l)));
    }
    seen.extend(lines(&driver.take_output("late")).into_iter().map(|l| format!("late {l}")));
}

/// Reads the timestamps that Arrow prints, for dates near 1970.
mod chrono_free {
    pub struct Ms(pub i64);
    impl std::str::FromStr for Ms {
        type Err = std::num::ParseIntError;
        fn from_str(text: &str) -> Result<Self, Self::Err> {
            let day_ms = 86_400_000;
            let days = match &text[..10] {
                "1970-01-01" => 0,
                "1969-12-31" => -day_ms,
                other => panic!("{other} is not near 1970"),
            };
            let part = |range: std::ops::Range<usize>| text.get(range).unwrap_or("0").parse::<i64>();
            let seconds = part(11..13)? * 3600 + part(14..16)? * 60 + part(17..19)?;
            let millis = text.get(20..).map_or(Ok(0), |f| format!("{f:0<3}").parse::<i64>())?;
            Ok(Ms(days + seconds * 1000 + millis))
        }
    }
}

#[test]
fn windows_fire_when_the_watermark_reaches_their_last_millisecond() {
    let rows: &[(i64, i64)] = &[(1, 0), (1, 9), (2, 5), (1, 10)];
    assert_eq!(counts(10, 0, 0, &[Rows(rows), Watermark(8)]), ["end", "1 [0, 10) 2", "2 [0, 10) 1", "1 [10, 20) 1"]);
    assert_eq!(counts(10, 0, 0, &[Rows(rows), Watermark(9)]), ["1 [0, 10) 2", "2 [0, 10) 1", "end", "1 [10, 20) 1"]);
}

#[test]
fn negative_times_and_offsets_fall_into_flinks_windows() {
    let rows: &[(i64, i64)] = &[(1, -1), (1, -10), (1, -11), (1, 0)];
    assert_eq!(counts(10, 0, 0, &[Rows(rows)]), ["end", "1 [-20, -10) 1", "1 [-10, 0) 2", "1 [0, 10) 1"]);
    let rows: &[(i64, i64)] = &[(1, 2), (1, 3), (1, -7), (1, -8)];
    assert_eq!(counts(10, 3, 0, &[Rows(rows)]), ["end", "1 [-17, -7) 1", "1 [-7, 3) 2", "1 [3, 13) 1"]);
    assert_eq!(counts(10, -7, 0, &[Rows(rows)]), ["end", "1 [-17, -7) 1", "1 [-7, 3) 2", "1 [3, 13) 1"]);
}

#[test]
fn rows_are_late_when_their_window_is_past() {
    // Window [0, 10) is past at watermark 9, not at 8.
    assert_eq!(
        counts(10, 0, 0, &[Watermark(8), Rows(&[(1, 3)]), Watermark(9), Rows(&[(1, 4), (2, 12)])]),
        ["1 [0, 10) 1", "late 1|4", "end", "2 [10, 20) 1"]
    );
    // A batch that is late as a whole.
    assert_eq!(counts(10, 0, 0, &[Watermark(100), Rows(&[(1, 4), (2, 5)])]), ["late 1|4", "late 2|5", "end"]);
}

#[test]
fn within_the_allowed_lateness_updated_keys_fire_again() {
    assert_eq!(
        counts(
            10,
            0,
            5,
            &[
                Rows(&[(1, 1), (2, 2), (3, 3)]),
                Watermark(9),
                Rows(&[(2, 4), (4, 5), (2, 6)]),
                Watermark(13),
                Rows(&[(1, 7)]),
                Watermark(14),
                Rows(&[(1, 8)]),
            ]
        ),
        ["1 [0, 10) 1", "2 [0, 10) 1", "3 [0, 10) 1", "2 [0, 10) 3", "4 [0, 10) 1", "1 [0, 10) 2", "late 1|8", "end"]
    );
    // The first row of a window may come after its end.
    assert_eq!(counts(10, 0, 5, &[Watermark(12), Rows(&[(1, 1)]), Watermark(20)]), ["1 [0, 10) 1", "end"]);
}

#[test]
fn an_endless_lateness_keeps_windows_until_the_end() {
    let steps = [Rows(&[(1, 1)]), Watermark(1000), Rows(&[(1, 2)]), Watermark(1 << 40), Rows(&[(1, 3)])];
    assert_eq!(counts(10, 0, i64::MAX, &steps), ["1 [0, 10) 1", "1 [0, 10) 2", "1 [0, 10) 3", "end"]);
}

fn sliding(size: i64, slide: i64, lateness: i64, steps: &[Step]) -> Vec<String> {
    counts_of(
        WindowSpec {
            windows: Windows::Sliding { size_ms: size, slide_ms: slide },
            ..spec(size, 0, lateness, &[("n", "count(*)")])
        },
        steps,
    )
}

#[test]
fn a_row_is_in_all_windows_that_hold_it() {
    assert_eq!(
        sliding(10, 5, 0, &[Rows(&[(1, 3), (2, 7), (1, 12)]), Watermark(4), Watermark(14)]),
        ["1 [-5, 5) 1", "1 [0, 10) 1", "2 [0, 10) 1", "1 [5, 15) 1", "2 [5, 15) 1", "end", "1 [10, 20) 1"]
    );
    // Size and slide have 2 in common.
    assert_eq!(sliding(6, 4, 0, &[Rows(&[(1, 4), (1, 5), (1, 6)])]), ["end", "1 [0, 6) 2", "1 [4, 10) 3"]);
}

#[test]
fn a_row_is_late_when_all_its_windows_are_past() {
    // [0, 10) is past, [5, 15) is not.
    let steps = [Rows(&[(1, 1), (1, 6)]), Watermark(9), Rows(&[(1, 7), (1, 4)]), Watermark(14), Rows(&[(2, 8)])];
    assert_eq!(sliding(10, 5, 0, &steps), ["1 [-5, 5) 1", "1 [0, 10) 2", "late 1|4", "1 [5, 15) 2", "late 2|8", "end"]);
    // With windows kept for longer each of them fires again, once.
    let steps = [Rows(&[(1, 1), (2, 6)]), Watermark(14), Rows(&[(1, 7), (1, 4), (1, 12)]), Watermark(20)];
    assert_eq!(
        sliding(10, 5, 6, &steps),
        [
            "1 [-5, 5) 1",
            "1 [0, 10) 1",
            "2 [0, 10) 1",
            "2 [5, 15) 1",
            "1 [0, 10) 3",
            "1 [5, 15) 2",
            "1 [10, 20) 1",
            "end"
        ]
    );
}

#[test]
fn between_windows_there_may_be_none() {
    // [0, 2), [10, 12): what lies between belongs nowhere, and is late when it is past.
    let steps = [Rows(&[(1, 1), (1, 5), (1, 11)]), Watermark(30), Rows(&[(1, 26), (1, 45)])];
    assert_eq!(sliding(2, 10, 0, &steps), ["1 [0, 2) 1", "1 [10, 12) 1", "late 1|26", "end"]);
}

#[test]
fn results_come_in_order_of_windows_and_first_rows() {
    let rows: &[(i64, i64)] = &[(5, 25), (3, 1), (9, 2), (3, 26), (1, 3)];
    assert_eq!(
        counts(10, 0, 0, &[Rows(rows), Watermark(30)]),
        ["3 [0, 10) 1", "9 [0, 10) 1", "1 [0, 10) 1", "5 [20, 30) 1", "3 [20, 30) 1", "end"]
    );
}

#[test]
fn aggregates_are_as_computed_by_hand() {
    let batch = rows(&[
        ("k", texts(["a", "a", "b", "a", "b", "a"])),
        ("t", ints([0, 1, 2, 3, 4, 5])),
        ("x", floats([Some(1.0), Some(2.0), None, Some(4.0), None, Some(5.0)])),
        ("y", ints([3, 1, 2, 3, 9, 3])),
        ("s", texts([Some("p"), Some("q"), Some("p"), Some("p"), None, Some("p")])),
    ]);
    for (call, a, b) in [
        ("count(*)", "4", "2"),
        ("count(x)", "4", "0"),
        ("count(s)", "4", "1"),
        ("count(DISTINCT y)", "2", "2"),
        ("count(DISTINCT s)", "2", "1"),
        ("sum(x)", "12.0", "-"),
        ("sum(y)", "10", "11"),
        ("sum(y * 2 + 1)", "24", "24"),
        ("min(x)", "1.0", "-"),
        ("max(y)", "3", "9"),
        ("min(s)", "p", "p"),
        ("max(s)", "q", "p"),
        ("avg(x)", "3.0", "-"),
        ("avg(y)", "2.5", "5.5"),
        ("stddev(y)", "1.0", "4.949747468305833"),
        ("stddev_pop(y)", "0.8660254037844386", "3.5"),
        ("var_pop(y)", "0.75", "12.25"),
        ("median(x)", "3.0", "-"),
        ("count(*) FILTER (WHERE y = 3)", "3", "0"),
        ("sum(x) FILTER (WHERE x > 1.5)", "11.0", "-"),
        ("bool_and(y > 1)", "false", "true"),
        // The digest interpolates between its centroids.
        ("approx_percentile_cont(x, 0.5)", "3.25", "-"),
        ("approx_percentile(y, 0.0)", "1.0", "2.0"),
        ("approx_distinct(s)", "2", "1"),
    ] {
        let spec = spec(10, 0, 0, &[("v", call)]);
        let built = window(spec, &batch.schema()).unwrap_or_else(|e| panic!("{call}: {e:?}"));
        let mut driver = driver(&built, &batch.schema(), &[0], Some(1), 1);
        driver.push("in", batch.clone()).unwrap();
        driver.finish().unwrap();
        let values: Vec<String> =
            lines(driver.output("out")).iter().map(|l| l.rsplit('|').next().unwrap().to_owned()).collect();
        assert_eq!(values, [a, b], "{call}");
    }
}

#[test]
fn keys_may_be_null_several_or_none() {
    let batch = rows(&[
        ("a", ints([Some(1), None, Some(1), None])),
        ("b", texts([Some("x"), Some("x"), None, Some("x")])),
        ("t", ints([0, 1, 2, 13])),
    ]);
    for (key, expected) in [
        (vec![0], vec!["-|1970-01-01T00:00:00.010|1", "-|1970-01-01T00:00:00|1", "1|1970-01-01T00:00:00|2"]),
        (vec![], vec!["1970-01-01T00:00:00.010|1", "1970-01-01T00:00:00|3"]),
        (
            vec![1, 0],
            vec![
                "-|1|1970-01-01T00:00:00|1",
                "x|-|1970-01-01T00:00:00.010|1",
                "x|-|1970-01-01T00:00:00|1",
                "x|1|1970-01-01T00:00:00|1",
            ],
        ),
    ] {
        let spec = WindowSpec { key: key.clone(), ..spec(10, 0, 0, &[("n", "count(*)")]) };
        let built = window(spec, &batch.schema()).unwrap();
        let mut driver = driver(&built, &batch.schema(), &key, Some(2), 1);
        driver.push("in", batch.clone()).unwrap();
        driver.finish().unwrap();
        let seen = lines(driver.output("out")).into_iter().map(|l| {
            let mut parts: Vec<&str> = l.split('|').collect();
            parts.remove(parts.len() - 2);
            parts.join("|")
        });
        assert_eq!(sorted(seen.collect()), expected, "{key:?}");
    }
}

#[test]
fn large_windows_come_out_in_batches() {
    let n = 20_000;
    let input = rows(&[("k", ints(0..n)), ("t", ints((0..n).map(|_| 5)))]);
    let built = window(spec(10, 0, 0, &[("n", "count(*)")]), &input.schema()).unwrap();
    let mut driver = driver(&built, &input.schema(), &[0], Some(1), 1);
    driver.push("in", input).unwrap();
    driver.finish().unwrap();
    let sizes: Vec<usize> = driver.output("out").iter().map(|b| b.num_rows()).collect();
    assert_eq!(sizes, [8192, 8192, 3616]);
    assert_eq!(driver.held("op"), 0);
}

#[test]
fn wrong_settings_are_explained() {
    let input = schema(&[("k", DataType::Utf8), ("x", DataType::Float64), ("window_end", DataType::Int64)]);
    let with = |size, offset, lateness, name: &str, call: &str| {
        explain(&window(spec(size, offset, lateness, &[(name, call)]), &input).err().expect("refused"))
    };
    for (seen, expected) in [
        (with(0, 0, 0, "n", "count(*)"), "window.tumbling: a window of 0 ms holds nothing"),
        (with(10, 10, 0, "n", "count(*)"), "window.offset: an offset of 10 ms is not less than the size of 10 ms"),
        (with(10, 0, -1, "n", "count(*)"), "window.allowed_lateness: the allowed lateness is negative"),
        (with(10, 0, 0, "k", "count(*)"), "aggregates.k: the column `k` would come out twice"),
        (with(10, 0, 0, "n", "count(y)"), "aggregates.n: there is no column `y`"),
        (with(10, 0, 0, "n", "cout(x)"), "aggregates.n: there is no function `cout`"),
        (
            with(10, 0, 0, "n", "x + 1"),
            "aggregates.n: `x + 1` is not an aggregate [write one call, such as `sum(price * quantity)`; compute with results \
             in a `select:` behind the window]",
        ),
        (
            with(10, 0, 0, "n", "sum(x) / 2"),
            "aggregates.n: `sum(x) / 2` is not an aggregate [write one call, such as `sum(price * quantity)`; compute with \
             results in a `select:` behind the window]",
        ),
        (with(10, 0, 0, "n", "sum(max(x))"), "aggregates.n: `max` stands inside of `sum`: aggregates can't be nested"),
    ] {
        assert_eq!(seen, expected);
    }
    for (call, part) in [
        ("sum(k)", "sum(utf8) does not exist"),
        ("approx_percentile_cont(x, 2)", "between 0.0 and 1.0"),
        ("approx_percentile_cont(x, x)", "must be a literal"),
        ("avg(x, x)", "avg(float64, float64) does not exist"),
    ] {
        let error = window(spec(10, 0, 0, &[("n", call)]), &input).err().expect("refused");
        assert_eq!(error.path, ["aggregates", "n"], "{call}");
        assert!(error.message.contains(part), "{call}: {}", error.message);
    }
}

#[test]
fn rows_without_event_time_and_failing_arguments_are_clear_faults() {
    let input = rows(&[("k", ints([1, 2])), ("t", ints([1, 2])), ("z", ints([1, 0]))]);
    let built = window(spec(10, 0, 0, &[("n", "sum(10 / z)")]), &input.schema()).unwrap();
    let mut without = driver(&built, &input.schema(), &[0], None, 1);
    without.push("in", input.clone()).unwrap();
    let fault = without.finish().unwrap_err();
    assert_eq!((fault.operator.as_str(), fault.message.as_str()), ("op", "rows without event time reach a window"));
    let mut with = driver(&built, &input.schema(), &[0], Some(1), 1);
    with.push("in", input).unwrap();
    let fault = with.finish().unwrap_err();
    assert_eq!(fault.row.as_deref(), Some(r#"{"k":2,"t":2,"z":0}"#));
}

#[test]
fn rows_that_an_aggregate_cannot_read_are_put_aside_alone() {
    let batch = |rows_: &[(i64, i64, i64)]| {
        let column = |get: fn(&(i64, i64, i64)) -> i64| ints(rows_.iter().map(get).collect::<Vec<_>>());
        rows(&[("k", column(|r| r.0)), ("t", column(|r| r.1)), ("z", column(|r| r.2))])
    };
    let aggregates = [("n", "count(*)"), ("sum", "sum(10 / z)"), ("few", "count(*) FILTER (WHERE 1 / (z - 1) = 0)")];
    let spec = WindowSpec { on_error: OnError::DeadLetter, ..spec(10, 0, 5, &aggregates) };
    let built = window(spec, &batch(&[]).schema()).unwrap();
    let mut driver = driver(&built, &batch(&[]).schema(), &[0], Some(1), 1);
    driver.push("in", batch(&[(1, 5, 2), (1, 6, 0), (1, 15, 5), (1, 7, 1), (2, 16, 0)])).unwrap();
    driver.tick().unwrap();
    driver.advance_event_time("in", 20).unwrap();
    // The first row is late, and its value is of no interest; the second one is in time to let its window fire again.
    driver.push("in", batch(&[(1, 1, 0), (1, 17, 10), (1, 18, 0)])).unwrap();
    driver.tick().unwrap();
    driver.finish().unwrap();
    let dead: Vec<&str> = driver.dead().iter().map(|row| row.row.as_str()).collect();
    let expected = [(1, 6, 0), (1, 7, 1), (2, 16, 0), (1, 18, 0)];
    assert_eq!(dead, expected.map(|(k, t, z)| format!("{{\"k\":{k},\"t\":{t},\"z\":{z}}}")));
    assert!(driver.dead()[0].error.starts_with("an aggregate's argument fails: "), "{}", driver.dead()[0].error);
    assert_eq!(driver.dead()[0].event_time, Some(6));
    assert_eq!(lines(driver.output("late")), ["1|1|0"]);
    let seen: Vec<String> =
        lines(driver.output("out")).iter().map(|l| l.split('|').skip(3).collect::<Vec<_>>().join("|")).collect();
    assert_eq!(seen, ["1|5|0", "1|2|1", "2|3|2"]);
    assert_eq!(driver.counter("op", "row_errors"), 4);
}

/// A row of a stream: key, event time, value.
type Row = (i64, i64, Option<i64>);

/// By window start and key: rows, values, sum, min, max and distinct values.
fn model(rows: &[Row], size: i64, offset: i64) -> Vec<String> {
    let mut windows: BTreeMap<(i64, i64), Vec<Option<i64>>> = BTreeMap::new();
    for &(key, time, value) in rows {
        windows.entry(((time - offset).div_euclid(size), key)).or_default().push(value);
    }
    let text = |v: Option<i64>| v.map_or("-".to_owned(), |v| v.to_string());
    let line = |((_, key), values): (&(i64, i64), &Vec<Option<i64>>)| {
        let some: Vec<i64> = values.iter().flatten().copied().collect();
        let distinct: BTreeSet<i64> = some.iter().copied().collect();
        let sum = (!some.is_empty()).then(|| some.iter().sum::<i64>());
        let (min, max) = (text(some.iter().min().copied()), text(some.iter().max().copied()));
        format!("{key}|{}|{}|{}|{min}|{max}|{}", values.len(), some.len(), text(sum), distinct.len())
    };
    sorted(windows.iter().map(line).collect())
}

proptest! {
    // A case is a whole job: a quarter of the cases that are asked for.
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 4, ..ProptestConfig::default() })]

    /// No lateness is needed: the watermark moves at the end only. Whatever the batches, workers and seed,
    /// the result is the model's.
    #[test]
    fn any_batching_and_parallelism_gives_the_models_result(
        rows_in in prop::collection::vec((-3i64..8, -60i64..100, proptest::option::of(-5i64..5)), 1..120),
        batch in 1usize..40, workers in 1usize..4, seed in any::<u64>(), offset in -9i64..10, lateness in 0i64..20,
    ) {
        let input = schema(&[("k", DataType::Int64), ("t", DataType::Int64), ("v", DataType::Int64)]);
        let calls = [("n", "count(*)"), ("c", "count(v)"), ("s", "sum(v)"), ("lo", "min(v)"), ("hi", "max(v)"),
            ("d", "count(distinct v)")];
        let built = window(spec(10, offset, lateness, &calls), &input).unwrap();
        let mut source = Input::new("in", &input);
        source.key = vec![0];
        let mut driver = Driver::by_hand(&one_operator("op", &built, &[source]), workers, seed).unwrap();
        for part in rows_in.chunks(batch) {
            let batch = rows(&[("k", ints(part.iter().map(|r| r.0))), ("t", ints(part.iter().map(|r| r.1))),
                ("v", ints(part.iter().map(|r| r.2)))]);
            driver.push_timed("in", batch, part.iter().map(|r| r.1).collect()).unwrap();
        }
        driver.finish().unwrap();
        let seen = lines(driver.output("out")).into_iter().map(|line| {
            let mut parts: Vec<&str> = line.split('|').collect();
            parts.drain(1..3);
            parts.join("|")
        });
        prop_assert_eq!(sorted(seen.collect()), model(&rows_in, 10, offset));
    }

    /// Watermarks in between: with an endless lateness the last result per key and window is the model's, and the
    /// panes' memory is clean when it is used again.
    #[test]
    fn the_last_update_of_each_window_is_the_models(
        parts in prop::collection::vec(
            (prop::collection::vec((0i64..4, 0i64..60, proptest::option::of(-5i64..5)), 1..20), 0i64..80), 1..12),
        endless in any::<bool>(),
    ) {
        let input = schema(&[("k", DataType::Int64), ("t", DataType::Int64), ("v", DataType::Int64)]);
        let calls = [("n", "count(*)"), ("c", "count(v)"), ("s", "sum(v)"), ("lo", "min(v)"), ("hi", "max(v)"),
            ("d", "count(distinct v)")];
        let lateness = if endless { WATERMARK_MAX } else { 0 };
        let built = window(spec(10, 0, lateness, &calls), &input).unwrap();
        let mut driver = driver(&built, &input, &[0], Some(1), 1);
        let (mut taken, mut watermark) = (Vec::new(), i64::MIN);
        for (part, next) in &parts {
            let batch = rows(&[("k", ints(part.iter().map(|r| r.0))), ("t", ints(part.iter().map(|r| r.1))),
                ("v", ints(part.iter().map(|r| r.2)))]);
            driver.push("in", batch).unwrap();
            driver.tick().unwrap();
            let last = |t: i64| t.div_euclid(10) * 10 + 9;
            taken.extend(part.iter().copied().filter(|r| endless || last(r.1) > watermark));
            watermark = watermark.max(*next);
            driver.advance_event_time("in", watermark).unwrap();
        }
        driver.finish().unwrap();
        let mut latest = BTreeMap::new();
        for line in lines(driver.output("out")) {
            let parts: Vec<&str> = line.split('|').collect();
            latest.insert((parts[0].to_owned(), parts[1].to_owned()), format!("{}|{}", parts[0], parts[3..].join("|")));
        }
        prop_assert_eq!(sorted(latest.into_values().collect()), model(&taken, 10, 0));
    }

    /// Step by step what windows kept one by one would show, late rows included.
    #[test]
    fn sums_of_slices_are_what_windows_one_by_one_would_show(
        size in 1i64..30, slide in 1i64..30, shift in -30i64..30, lateness in prop::sample::select(vec![0, 7, 40, i64::MAX]),
        parts in prop::collection::vec(
            (prop::collection::vec((0i64..4, 0i64..100, -5i64..5), 1..20), 0i64..120), 1..12),
    ) {
        let offset = shift % slide;
        let input = schema(&[("k", DataType::Int64), ("t", DataType::Int64), ("v", DataType::Int64)]);
        let calls = [("n", "count(*)"), ("s", "sum(v)"), ("hi", "max(v)"), ("d", "count(distinct v)")];
        let built = window(WindowSpec { windows: Windows::Sliding { size_ms: size, slide_ms: slide }, ..spec(size, offset, lateness, &calls) }, &input).unwrap();
        let mut driver = driver(&built, &input, &[0], Some(1), 1);
        let mut kept = Kept { size, slide, offset, lateness, watermark: i64::MIN, rows: BTreeMap::new() };
        for (part, next) in &parts {
            let batch = rows(&[("k", ints(part.iter().map(|r| r.0))), ("t", ints(part.iter().map(|r| r.1))),
                ("v", ints(part.iter().map(|r| r.2)))]);
            driver.push("in", batch).unwrap();
            driver.tick().unwrap();
            let (fired, late) = kept.take(part);
            prop_assert_eq!(sorted(kept_lines(&driver.take_output("out"))), sorted(fired));
            prop_assert_eq!(sorted(lines(&driver.take_output("late"))), sorted(late));
            driver.advance_event_time("in", *next).unwrap();
            prop_assert_eq!(sorted(kept_lines(&driver.take_output("out"))), sorted(kept.advance(*next)));
        }
        driver.finish().unwrap();
        prop_assert_eq!(sorted(kept_lines(&driver.take_output("out"))), sorted(kept.advance(WATERMARK_MAX)));
    }
}

type Taken = (i64, i64, i64);

/// All windows with their rows, by key and start.
struct Kept {
    size: i64,
    slide: i64,
    offset: i64,
    lateness: i64,
    watermark: i64,
    rows: BTreeMap<(i64, i64), Vec<Taken>>,
}

impl Kept {
    /// What fires again, and what is late.
    fn take(&mut self, part: &[Taken]) -> (Vec<String>, Vec<String>) {
        let (mut again, mut late) = (BTreeSet::new(), Vec::new());
        for row in part {
            let first = (row.1 - self.offset).div_euclid(self.slide) * self.slide + self.offset;
            let windows = (0..).map(|n| first - n * self.slide).take_while(|start| start + self.size > row.1);
            let last = |start: i64| start + self.size - 1;
            let open: Vec<i64> =
                windows.filter(|start| last(*start).saturating_add(self.lateness) > self.watermark).collect();
            if open.is_empty() && row.1.saturating_add(self.lateness) <= self.watermark {
                late.push(format!("{}|{}|{}", row.0, row.1, row.2));
            }
            for start in open {
                self.rows.entry((row.0, start)).or_default().push(*row);
                if last(start) <= self.watermark {
                    again.insert((row.0, start));
                }
            }
        }
        (again.into_iter().map(|window| self.show(window)).collect(), late)
    }

    fn advance(&mut self, watermark: i64) -> Vec<String> {
        let before = self.watermark;
        self.watermark = before.max(watermark);
        let due = |start: i64| start + self.size - 1 > before && start + self.size - 1 <= self.watermark;
        self.rows.keys().filter(|(_, start)| due(*start)).map(|window| self.show(*window)).collect()
    }

    fn show(&self, (key, start): (i64, i64)) -> String {
        let values: Vec<i64> = self.rows[&(key, start)].iter().map(|row| row.2).collect();
        let (sum, hi) = (values.iter().sum::<i64>(), values.iter().max().unwrap());
        let distinct = values.iter().collect::<BTreeSet<_>>().len();
        format!("{key} {start} {}|{sum}|{hi}|{distinct}", values.len())
    }
}

/// Results as key, start of the window, and aggregates.
fn kept_lines(batches: &[tidemill_model::Batch]) -> Vec<String> {
    let show = |line: &String| {
        let parts: Vec<&str> = line.split('|').collect();
        format!("{} {} {}", parts[0], parts[1].parse::<chrono_free::Ms>().unwrap().0, parts[3..].join("|"))
    };
    lines(batches).iter().map(show).collect()
}
