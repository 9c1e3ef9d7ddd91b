//! Joins, against a reading of the rules row by row.

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use proptest::prelude::*;
use tidemill_engine::driver::{Driver, Input, one_operator};
use tidemill_engine::joins::join;
use tidemill_model::fault::OnError;
use tidemill_model::join::{JoinKind, JoinSpec, JoinType, SIDES};
use tidemill_model::plan::{Built, EventTimeSpec, Plan};
use tidemill_model::time::WatermarkStrategy;

use crate::join_model::Step::{Move, Rows, Watermark};
use crate::join_model::{Row, Step, model};
use crate::support::{explain, ints, lines, rows, schema, sorted, texts, times};

const INNER: JoinType = JoinType::Inner;

fn interval(lower_ms: i64, upper_ms: i64) -> JoinKind {
    JoinKind::Interval { lower_ms, upper_ms }
}

fn window(size_ms: i64, slide_ms: i64, offset_ms: i64) -> JoinKind {
    JoinKind::Window { size_ms, slide_ms, offset_ms }
}

fn spec(kind: JoinKind, join_type: JoinType, condition: Option<&str>, select: &[&str]) -> JoinSpec {
    let select = (!select.is_empty()).then(|| select.iter().map(|item| (*item).to_owned()).collect());
    let condition = condition.map(str::to_owned);
    JoinSpec { kind, join_type, keys: [vec![0], vec![0]], condition, select, on_error: OnError::Fail }
}

fn plan(built: &Built, inputs: [&SchemaRef; 2]) -> Plan {
    let strategy = WatermarkStrategy { delay_ms: i64::MAX / 4, idle_after_ms: None };
    let event_time = Some(EventTimeSpec { column: 1, strategy });
    let input = |(name, schema)| Input { key: vec![0], event_time, ..Input::new(name, schema) };
    one_operator("op", built, &SIDES.into_iter().zip(inputs).map(input).collect::<Vec<_>>())
}

/// The join, driven: what came out of each port after each step, with its event time.
fn run(spec: &JoinSpec, text_keys: bool, steps: &[Step]) -> Vec<Vec<String>> {
    let key = if text_keys { DataType::Utf8 } else { DataType::Int64 };
    let input = schema(&[("k", key), ("t", DataType::Int64), ("id", DataType::Int64)]);
    let built = join(spec.clone(), [&input, &input]).unwrap();
    let plan = plan(&built, [&input, &input]);
    let mut driver = Driver::by_hand(&plan, 1, 1).unwrap();
    let mut seen = Vec::new();
    for step in steps {
        match step {
            Rows(side, list) => {
                driver.push(SIDES[*side], batch(list, text_keys)).unwrap();
                driver.tick().unwrap();
            }
            Watermark(watermark) => both(&mut driver, *watermark),
            Move(workers) => {
                let checkpoint = driver.checkpoint().unwrap();
                // What happens behind a checkpoint does not change it.
                both(&mut driver, 1 << 50);
                driver = Driver::restore(&plan, *workers, 2, &checkpoint).unwrap();
            }
        }
        seen.push(taken(&mut driver));
    }
    driver.finish().unwrap();
    seen.push(taken(&mut driver));
    if spec.kind != JoinKind::Temporal {
        assert_eq!(driver.held("op"), 0);
    }
    seen
}

fn both(driver: &mut Driver, watermark: i64) {
    SIDES.iter().for_each(|side| driver.advance_event_time(side, watermark).unwrap());
}

fn batch(list: &[Row], text_keys: bool) -> RecordBatch {
    let names: Vec<Option<String>> = list.iter().map(|row| row.key.map(|key| format!("key {key}"))).collect();
    let key = match text_keys {
        true => texts(names.iter().map(|name| name.as_deref())),
        false => ints(list.iter().map(|row| row.key)),
    };
    rows(&[("k", key), ("t", ints(list.iter().map(|row| row.time))), ("id", ints(list.iter().map(|row| row.id)))])
}

fn taken(driver: &mut Driver) -> Vec<String> {
    let batches = driver.take_output("out");
    let mut seen: Vec<String> =
        lines(&batches).into_iter().zip(times(&batches)).map(|(line, time)| format!("{line} at {time}")).collect();
    for (side, port) in ["late_left", "late_right"].into_iter().enumerate() {
        let late = lines(&driver.take_output(port));
        seen.extend(late.iter().map(|line| format!("late {side} {}", line.rsplit('|').next().unwrap())));
    }
    sorted(seen)
}

/// Few keys, times near each other, watermarks that go on; ids are the numbers of the rows.
fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = prop_oneof![8 => (0i64..4).prop_map(Some), 1 => Just(None)];
    // From the watermark on, often at it.
    let time = prop_oneof![3 => -5i64..35, 2 => Just(0)];
    let row = (key, time).prop_map(|(key, time)| Row { key, time, id: 0 });
    let step = prop_oneof![
        6 => (0usize..2, prop::collection::vec(row, 1..12)).prop_map(|(side, rows)| Rows(side, rows)),
        3 => (-2i64..20).prop_map(Watermark),
        1 => (1usize..4).prop_map(Move),
    ];
    prop::collection::vec(step, 1..40).prop_map(|mut steps| {
        let (mut id, mut now) = (0, -30);
        for step in &mut steps {
            match step {
                Rows(_, rows) => {
                    for row in rows {
                        (row.id, row.time) = (id, row.time + now);
                        id += 1;
                    }
                }
                // Some stay where they were.
                Watermark(by) => {
                    now += *by.max(&mut 0);
                    *by = now;
                }
                Move(_) => {}
            }
        }
        steps
    })
}

fn kinds() -> impl Strategy<Value = JoinKind> {
    let bound = prop_oneof![2 => -15i64..15, 1 => Just(0)];
    prop_oneof![
        (bound.clone(), bound).prop_map(|(one, two)| interval(one.min(two), one.max(two))),
        (1i64..20, -1i64..2).prop_map(|(size, offset)| window(
            size,
            size,
            if offset.abs() < size { offset } else { 0 }
        )),
        (1i64..20, 2i64..12, -1i64..2).prop_map(|(size, slide, offset)| window(size, slide, offset)),
        Just(JoinKind::Temporal),
    ]
}

fn types() -> impl Strategy<Value = JoinType> {
    prop::sample::select(JoinType::ALL.map(|(_, join_type)| join_type).to_vec())
}

proptest! {
    #[test]
    fn joins_are_what_the_rules_say_row_by_row(
        kind in kinds(), join_type in types(), forbidden in prop::option::of(5i64..60), text_keys: bool, steps in steps(),
    ) {
        let condition = forbidden.map(|sum| format!("left.id + right.id <> {sum}"));
        // Versions do not come out by themselves.
        let join_type = match (kind, join_type.keeps(0)) {
            (JoinKind::Temporal, true) => JoinType::Left,
            (JoinKind::Temporal, false) => JoinType::Inner,
            _ => join_type,
        };
        let spec = spec(kind, join_type, condition.as_deref(), &["left.id", "right.id AS other"]);
        let (seen, expected) = (run(&spec, text_keys, &steps), model(&spec, forbidden, &steps));
        for (step, (seen, expected)) in seen.iter().zip(&expected).enumerate() {
            prop_assert_eq!(seen, expected, "step {}: {:?}", step, steps.get(step));
        }
    }
}

fn row(key: i64, time: i64, id: i64) -> Row {
    Row { key: Some(key), time, id }
}

#[test]
fn bounds_are_part_of_the_interval() {
    let steps = [
        Rows(0, vec![row(1, 100, 1), row(2, 100, 2)]),
        Rows(1, [97, 98, 100, 105, 106].iter().map(|&time| row(1, time, time)).collect()),
    ];
    let spec = spec(interval(-2, 5), INNER, None, &["left.id", "right.id AS other"]);
    assert_eq!(run(&spec, false, &steps)[1], ["1|100 at 100", "1|105 at 105", "1|98 at 100"]);
}

#[test]
fn rows_go_when_the_watermark_reaches_the_end_of_their_interval() {
    let spec = spec(interval(0, 10), JoinType::Full, None, &["left.id", "right.id AS other"]);
    let steps = [
        Rows(0, vec![row(1, 100, 1)]),
        Watermark(109),
        Rows(1, vec![row(1, 110, 2)]),
        Rows(0, vec![row(1, 109, 3), row(1, 108, 4)]),
        Watermark(110),
        // On time, but what it belongs to has gone.
        Rows(1, vec![row(1, 110, 5)]),
        Watermark(119),
    ];
    let seen = run(&spec, false, &steps);
    assert_eq!(seen[2], ["1|2 at 110"]);
    assert_eq!(seen[3], ["3|2 at 110", "late 0 4"]);
    assert_eq!(seen[4], [""; 0]);
    assert_eq!(seen[5], ["3|5 at 110"]);
    assert_eq!(seen.concat().len(), 4);
}

#[test]
fn rows_that_come_at_the_end_of_their_interval_stay_until_the_watermark_moves() {
    let spec = spec(interval(-5, 0), INNER, None, &["left.id", "right.id AS other"]);
    let (left, right) = (|id| Rows(0, vec![row(1, 10, id)]), |id| Rows(1, vec![row(1, 10, id)]));
    let steps = [left(1), Watermark(10), right(2), left(3), Watermark(10), right(4), Watermark(11), right(5)];
    let seen = run(&spec, false, &steps);
    assert_eq!(seen.concat(), ["3|2 at 10", "3|4 at 10", "late 1 5"]);
}

#[test]
fn many_pairs_come_out_in_batches_that_wait_for_room() {
    let many = |side: i64| (0..300).map(|id| row(1, 5, side * 1000 + id)).collect::<Vec<_>>();
    for kind in [interval(0, 0), window(10, 10, 0)] {
        let spec = spec(kind, JoinType::Full, Some("left.id + 1000 <> right.id"), &["left.id", "right.id AS other"]);
        let input = schema(&[("k", DataType::Int64), ("t", DataType::Int64), ("id", DataType::Int64)]);
        let built = join(spec, [&input, &input]).unwrap();
        let mut driver = Driver::by_hand(&plan(&built, [&input, &input]), 1, 1).unwrap();
        for (side, name) in SIDES.into_iter().enumerate() {
            driver.push(name, batch(&many(side as i64), false)).unwrap();
            driver.tick().unwrap();
        }
        driver.push("left", batch(&(0..20_000).map(|id| row(2, 6, id)).collect::<Vec<_>>(), false)).unwrap();
        driver.finish().unwrap();
        let sizes: Vec<usize> = driver.output("out").iter().map(|b| b.num_rows()).collect();
        assert!(sizes.iter().all(|&size| size <= 8192), "{sizes:?}");
        assert_eq!(sizes.iter().sum::<usize>(), 300 * 299 + 20_000, "{kind:?}");
    }
}

#[test]
fn versions_that_were_replaced_before_the_watermark_are_forgotten() {
    let input = schema(&[("k", DataType::Int64), ("t", DataType::Int64), ("id", DataType::Int64)]);
    let spec = spec(JoinKind::Temporal, JoinType::Left, None, &["left.t", "right.id AS version"]);
    let built = join(spec, [&input, &input]).unwrap();
    let mut driver = Driver::by_hand(&plan(&built, [&input, &input]), 1, 1).unwrap();
    for n in 0..200 {
        let versions: Vec<Row> = (0..1000).map(|key| row(key % 100, n * 10 + key / 100, n * 1000 + key)).collect();
        driver.push("right", batch(&versions, false)).unwrap();
        both(&mut driver, n * 10 + 9);
        // One each that is valid, and those that came since the watermark moved.
        assert!(driver.held("op") <= 1100, "{}", driver.held("op"));
    }
    driver.push("left", batch(&[row(7, 2500, 0), row(-1, 2500, 0)], false)).unwrap();
    driver.finish().unwrap();
    assert_eq!(sorted(lines(driver.output("out"))), ["2500|-", "2500|199907"]);
}

#[test]
fn columns_come_out_by_the_name_of_their_side() {
    let left = schema(&[("k", DataType::Int64), ("t", DataType::Int64), ("price", DataType::Int64)]);
    let right = schema(&[("key", DataType::Int64), ("at", DataType::Int64), ("rate", DataType::Int64)]);
    for (kind, select, expected) in [
        (interval(0, 5), &[][..], "7|1|100|7|3|2"),
        (interval(0, 5), &["left.price * right.rate AS total", "right.rate"], "200|2"),
        (interval(0, 5), &["right.*", "left.price"], "7|3|2|100"),
        (interval(0, 5), &["*", "left.t + right.at AS sum"], "7|1|100|7|3|2|4"),
        (window(5, 5, 0), &["window_start", "window_end", "rate"], ""),
        (
            window(5, 5, 0),
            &["window_start", "window_end", "right.rate"],
            "1970-01-01T00:00:00|1970-01-01T00:00:00.005|2",
        ),
    ] {
        let built = join(spec(kind, INNER, None, select), [&left, &right]);
        if expected.is_empty() {
            assert!(built.is_err());
            continue;
        }
        let mut driver = Driver::by_hand(&plan(&built.unwrap(), [&left, &right]), 1, 1).unwrap();
        driver.push("left", rows(&[("k", ints([7])), ("t", ints([1])), ("price", ints([100]))])).unwrap();
        driver.push("right", rows(&[("key", ints([7])), ("at", ints([3])), ("rate", ints([2]))])).unwrap();
        driver.finish().unwrap();
        assert_eq!(lines(driver.output("out")), [expected], "{select:?}");
    }
}

#[test]
fn a_pair_that_cannot_be_computed_is_rejected_alone() {
    let input = schema(&[("k", DataType::Int64), ("t", DataType::Int64), ("id", DataType::Int64)]);
    for (condition, select) in [(None, "10 / right.id AS n"), (Some("10 / right.id > 0"), "right.id AS n")] {
        let mut spec = spec(interval(0, 0), JoinType::Left, condition, &["left.id", select]);
        spec.on_error = OnError::DeadLetter;
        let built = join(spec, [&input, &input]).unwrap();
        let mut driver = Driver::by_hand(&plan(&built, [&input, &input]), 1, 1).unwrap();
        driver.push("left", batch(&[row(1, 0, 1)], false)).unwrap();
        driver.push("right", batch(&[row(1, 0, 10), row(1, 0, 0), row(1, 0, 5)], false)).unwrap();
        driver.finish().unwrap();
        assert_eq!(driver.output("out").iter().map(|b| b.num_rows()).sum::<usize>(), 2);
        let dead: Vec<&str> = driver.dead().iter().map(|dead| dead.row.as_str()).collect();
        assert_eq!(dead.len(), 1, "{dead:?}");
        assert!(dead[0].contains(r#""right.id":0"#), "{dead:?}");
    }
}

#[test]
fn a_snapshot_of_another_join_is_refused() {
    let input =
        schema(&[("k", DataType::Int64), ("t", DataType::Int64), ("id", DataType::Int64), ("more", DataType::Utf8)]);
    let made = |kind, join_type, select: &[&str]| {
        let built = join(spec(kind, join_type, None, select), [&input, &input]).unwrap();
        plan(&built, [&input, &input])
    };
    let mut driver = Driver::by_hand(&made(interval(0, 5), INNER, &["left.id"]), 1, 1).unwrap();
    let checkpoint = driver.checkpoint().unwrap();
    for (next, refusal) in [
        (made(interval(-100, 50), INNER, &["left.id + 1 AS id"]), ""),
        (made(interval(0, 5), JoinType::Left, &["left.id"]), "whose `type` is `inner`, but now it is `left`"),
        (made(window(5, 5, 0), INNER, &["left.id"]), "whose `join` is `interval`, but now it is `window`"),
        (
            made(interval(0, 5), INNER, &["left.id", "left.more"]),
            "the column `more`, which is read now, is not among them",
        ),
    ] {
        match Driver::restore(&next, 2, 1, &checkpoint) {
            Ok(_) => assert_eq!(refusal, ""),
            Err(fault) => assert!(!refusal.is_empty() && fault.message.contains(refusal), "{}", fault.message),
        }
    }
}

#[test]
fn wrong_settings_are_explained() {
    let left = schema(&[("k", DataType::Int64), ("t", DataType::Int64), ("price", DataType::Int64)]);
    let right = schema(&[("k", DataType::Int64), ("t", DataType::Int64), ("rate", DataType::Int64)]);
    for (kind, condition, select, expected) in [
        (
            interval(0, 5),
            None,
            &[][..],
            "join: both sides have a column `k`, and all columns would come out [say which ones do: \
             `select: [\"left.*\", right.rate]`; `right.k AS NAME` gives it another name]",
        ),
        (interval(5, 0), None, &["left.k"], "join.interval: no time is between 5 ms and 0 ms: the interval is empty"),
        (
            interval(0, 5),
            None,
            &["left.k", "right.k"],
            "select.1: the column `k` would come out twice [give it another name: `right.k AS right_k`]",
        ),
        (interval(0, 5), None, &["left.prize"], "select.0: there is no column `left.prize`"),
        (interval(0, 5), None, &["price"], "select.0: there is no column `price`"),
        (interval(0, 5), Some("left.price"), &["left.k"], "where: `left.price` is int64, not a condition"),
        (
            window(100_001, 1, 0),
            None,
            &["left.k"],
            "join.window.slide: size and slide have too little in common: a window would have more than 100000 slices",
        ),
        (JoinKind::Temporal, None, &["left.prize"], "select.0: there is no column `left.prize`"),
        (window(10, 10, 10), None, &["left.k"], "join.window.offset: an offset of 10 ms is not less than 10 ms"),
    ] {
        let error = join(spec(kind, INNER, condition, select), [&left, &right]).err().unwrap();
        let text = explain(&error);
        assert!(text.starts_with(expected), "{text}");
    }
}
