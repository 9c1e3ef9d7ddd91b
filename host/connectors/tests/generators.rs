//! Nexmark and datagen: the same rows for any number of workers, in the documented proportions.

mod common;

use std::collections::HashMap;
use std::path::Path;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type, TimestampMillisecondType};
use common::{BUDGET, lines, read_all, read_split, sorted, source, source_error};
use serde_json::{Value, json};
use tidemill_model::source::{Polled, Position, ReadBudget};

fn make(kind: &str, settings: Value) -> std::sync::Arc<dyn tidemill_model::source::Source> {
    source(kind, settings, Path::new("/"))
}

fn rows(kind: &str, settings: Value) -> RecordBatch {
    read_all(&*make(kind, settings), 1).unwrap().0
}

fn ints(rows: &RecordBatch, column: &str) -> Vec<i64> {
    rows.column_by_name(column).unwrap().as_primitive::<Int64Type>().values().to_vec()
}

fn texts<'a>(rows: &'a RecordBatch, column: &str) -> Vec<&'a str> {
    rows.column_by_name(column).unwrap().as_string::<i32>().iter().flatten().collect()
}

fn datagen_settings() -> Value {
    json!({"rows": 2500, "seed": 3, "columns": [
        {"id": {"sequence": {"start": 5, "step": -2}}},
        {"m": {"sequence": {"start": -7, "step": 3, "modulo": 10}}},
        {"w": {"sequence": {"start": -7, "step": 6, "modulo": 700}}},
        {"h": {"hash": {"modulo": 100000}}},
        {"r": {"random": {"min": -5, "max": 5}}},
        {"f": {"type": "float32", "random": {"min": 0.5, "max": 2}}},
        {"t": {"random": {"length": 7}}},
        {"c": {"random": {"choices": ["a", "bb", ""]}}},
        {"n": {"random": {"choices": [1, 2.5]}}},
        {"k": {"constant": true}},
        {"p": {"prefix": {"text": "channel-", "modulo": 10}}},
        {"q": {"prefix": {"text": "user ", "modulo": 1000000}}},
        {"at": {"timestamp": {"start": "2024-01-01T00:00:00", "step_every": 10, "step": "1s"}}},
    ]})
}

#[test]
fn rows_do_not_depend_on_the_number_of_workers() {
    let mut cases = vec![("datagen", datagen_settings())];
    for kind in ["person", "auction", "bid", "all"] {
        cases.push(("nexmark", json!({"kind": kind, "rows": 2500, "seed": 7})));
    }
    cases.push(("datagen", json!({"elements": [{"a": 1, "b": "x"}, {"a": 2}, {"a": 3, "b": "z"}]})));
    for (kind, settings) in cases {
        let source = make(kind, settings.clone());
        assert!(source.bounded());
        let (one, _) = read_all(&*source, 1).unwrap();
        let expected = sorted(lines(&one));
        for workers in [2, 3, 7] {
            let (found, _) = read_all(&*source, workers).unwrap();
            assert_eq!(sorted(lines(&found)), expected, "{kind} {settings} on {workers} workers");
        }
        let split = &source.splits(3).unwrap()[1];
        let join = |b: Vec<RecordBatch>| arrow::compute::concat_batches(&source.schema(), &b).unwrap();
        let whole = join(read_split(&*source, split, BUDGET, usize::MAX).unwrap().0);
        let parts = join(read_split(&*source, split, ReadBudget { rows: 17, ..BUDGET }, 2).unwrap().0);
        assert_eq!(parts, whole, "resumed");
    }
    let other = json!({"kind": "bid", "rows": 2500, "seed": 8});
    assert_ne!(rows("nexmark", other), rows("nexmark", json!({"kind": "bid", "rows": 2500, "seed": 7})));
}

#[test]
fn datagen_values() {
    let rows = rows("datagen", datagen_settings());
    assert_eq!(ints(&rows, "id")[..3], [5, 3, 1]);
    let remainders = |step: i64, modulo: i64| (0..2500).map(|i| (-7 + i * step).rem_euclid(modulo)).collect::<Vec<_>>();
    assert_eq!(ints(&rows, "m"), remainders(3, 10));
    assert_eq!(ints(&rows, "w"), remainders(6, 700), "over the end of the period");
    let hash: Vec<i64> = (0..2500u64).map(|i| (((i * 2_654_435_761) >> 8) % 100_000) as i64).collect();
    assert_eq!(ints(&rows, "h"), hash);
    let random = ints(&rows, "r");
    assert!((-5..=5).all(|v| random.iter().filter(|&&r| r == v).count() > 150), "even over both ends");
    assert!(texts(&rows, "t").iter().all(|t| t.len() == 7));
    assert!(["a", "bb", ""].iter().all(|c| texts(&rows, "c").iter().filter(|t| *t == c).count() > 700));
    assert!(texts(&rows, "p").iter().enumerate().all(|(i, t)| *t == format!("channel-{}", i % 10)));
    assert_eq!(texts(&rows, "q")[1234], "user 1234");
    let at = rows.column_by_name("at").unwrap().as_primitive::<TimestampMillisecondType>();
    assert_eq!((at.value(9), at.value(10)), (1_704_067_200_000, 1_704_067_201_000));
    assert_eq!(
        tidemill_model::dead::row_json(&rows, 0),
        format!(
            r#"{{"id":5,"m":3,"w":693,"h":0,"r":{},"f":{},"t":"{}","c":"{}","n":{},"k":true,"p":"channel-0","q":"user 0","at":"2024-01-01T00:00:00"}}"#,
            random[0],
            lines(&rows)[0].split("\"f\":").nth(1).unwrap().split(',').next().unwrap(),
            texts(&rows, "t")[0],
            texts(&rows, "c")[0],
            lines(&rows)[0].split("\"n\":").nth(1).unwrap().split(',').next().unwrap(),
        )
    );
}

#[test]
fn datagen_elements() {
    let elements = json!([{"a": 1, "b": "x", "c": {"d": [1]}}, {"a": 2}]);
    let rows = rows(
        "datagen",
        json!({"elements": elements, "columns": {"a": "int8", "b": "utf8?", "c": "struct(d:list(int64?))?"}}),
    );
    assert_eq!(lines(&rows), [r#"{"a":1,"b":"x","c":{"d":[1]}}"#, r#"{"a":2}"#]);
    let error = |settings| source_error("datagen", settings, Path::new("/"));
    let found = error(json!({"elements": [{"a": 1}, {"a": 1, "z": 2}], "columns": {"a": "int64"}}));
    assert_eq!(found.path, ["elements"]);
    assert!(found.message.starts_with("row 2: "), "{}", found.message);
    assert!(error(json!({"elements": [], "rows": 1})).path == ["rows"]);
}

#[test]
fn a_rate_is_kept() {
    for workers in [1, 3] {
        let source = make("datagen", json!({"rate": 900, "columns": {"id": {"sequence": {}}}}));
        assert!(!source.bounded());
        let mut readers: Vec<_> =
            source.splits(workers).unwrap().iter().map(|s| source.open(s, &Position::default()).unwrap()).collect();
        let (mut rows, mut pending) = (0, 0);
        for now_ms in (0..=10_000).step_by(10) {
            for reader in &mut readers {
                match reader.poll(ReadBudget { now_ms, ..BUDGET }).unwrap() {
                    Polled::Rows { rows: batch, .. } => rows += batch.num_rows() as i64,
                    Polled::Pending { until_ms } => {
                        assert!(until_ms > now_ms);
                        pending += 1;
                    }
                    Polled::End => panic!("unbounded"),
                }
            }
        }
        assert!((rows - 9000).abs() <= workers as i64, "{rows} rows, {pending} times pending");
    }
}

#[test]
fn datagen_settings_are_checked() {
    let column = |settings: Value| source_error("datagen", json!({"columns": {"a": settings}}), Path::new("/"));
    for (settings, path, message) in [
        (json!({}), "columns.a", "has no generator"),
        (json!({"sequence": {}, "constant": 1}), "columns.a", "several generators"),
        (json!({"hash": {"modulo": 0}}), "columns.a.hash.modulo", "must be 1 or more"),
        (json!({"random": {"min": 3, "max": 1}}), "columns.a.random.min", "above"),
        (json!({"random": {"min": 3}}), "columns.a.random", "unclear"),
        (json!({"random": {"choices": [1, "x"]}}), "columns.a.random.choices", "all be numbers"),
        (json!({"type": "int9", "constant": 1}), "columns.a.type", "not a type"),
        (json!({"type": "list(int64)", "timestamp": {}}), "columns.a.type", "no list(int64)"),
        (json!({"timestamp": {"start": "noon"}}), "columns.a.timestamp.start", "is not a time"),
    ] {
        let error = column(settings.clone());
        assert_eq!(error.path.join("."), path, "{settings}: {}", error.message);
        assert!(error.message.contains(message), "{settings}: {}", error.message);
    }
    assert_eq!(column(json!({"sequense": {}})).name.as_deref(), Some("sequense"));
    let narrow = make("datagen", json!({"rows": 200, "columns": {"a": {"type": "int8", "sequence": {}}}}));
    let fault = read_all(&*narrow, 1).unwrap_err();
    assert!(fault.message.contains("column `a`") && fault.message.contains("128"), "{fault}");
}

#[test]
fn nexmark_proportions() {
    let all = rows("nexmark", json!({"kind": "all", "rows": 100_000, "seed": 1, "base_time": 0, "event_rate": 1000}));
    let kinds = all.column_by_name("event_type").unwrap().as_primitive::<Int32Type>();
    let count = |kind| kinds.values().iter().filter(|&&k| k == kind).count();
    assert_eq!([count(0), count(1), count(2)], [2000, 6000, 92_000], "1 : 3 : 46");
    for (kind, name) in [(0, "person"), (1, "auction"), (2, "bid")] {
        let column = all.column_by_name(name).unwrap();
        assert!((0..all.num_rows()).all(|i| column.is_valid(i) == (kinds.value(i) == kind)), "{name}");
        // The same events as in the table of that kind.
        let part = arrow::compute::filter(column, &arrow::compute::is_not_null(column).unwrap()).unwrap();
        let table =
            rows("nexmark", json!({"kind": name, "rows": count(kind), "seed": 1, "base_time": 0, "event_rate": 1000}));
        assert_eq!(&RecordBatch::from(part.as_struct()), &table, "{name}");
    }
    let times = all.column_by_name("date_time").unwrap().as_primitive::<TimestampMillisecondType>();
    assert!((0..100_000).all(|n| times.value(n) == n as i64), "in order, 1000 per second");
}

#[test]
fn nexmark_ids_prices_and_hot_spots() {
    let n = 200_000;
    let bids = rows("nexmark", json!({"kind": "bid", "rows": n, "seed": 1}));
    let (auctions, bidders) = (ints(&bids, "auction"), ints(&bids, "bidder"));
    let share = |of: &dyn Fn(usize) -> bool| (0..n).filter(|&i| of(i)).count() as f64 / n as f64;
    let event = |k: usize| k / 46 * 50 + 4 + k % 46;
    let hot_auction = |k: usize| 1000 + (event(k) / 50 * 3 + 2) as i64 / 100 * 100;
    let hot_bidder = |k: usize| 1000 + (event(k) / 50) as i64 / 100 * 100 + 1;
    // Cold choices are one of about a hundred auctions and a thousand persons: they may hit the hot one, too.
    assert!((share(&|k| auctions[k] == hot_auction(k)) - 0.5).abs() < 0.02);
    assert!((share(&|k| bidders[k] == hot_bidder(k)) - 0.75).abs() < 0.02);
    for k in 0..n {
        let (last_auction, last_person) = ((event(k) / 50 * 3 + 2) as i64, (event(k) / 50) as i64);
        assert!((1000 + (last_auction - 100).max(0) / 100 * 100..=1000 + last_auction + 10).contains(&auctions[k]));
        assert!((1000..=1000 + (last_person + 10).max(1)).contains(&bidders[k]), "bidders have ids of persons");
    }
    let prices = ints(&bids, "price");
    assert!(prices.iter().all(|p| (100..=100_000_000).contains(p)));
    for (below, expected) in [(1_000, 1.0 / 6.0), (100_000, 0.5), (10_000_000, 5.0 / 6.0)] {
        assert!((share(&|k| prices[k] < below) - expected).abs() < 0.01, "log-uniform");
    }
    let mut channels = HashMap::new();
    texts(&bids, "channel").iter().for_each(|c| *channels.entry(c.to_owned()).or_insert(0usize) += 1);
    for hot in ["Google", "Facebook", "Baidu", "Apple"] {
        assert!((channels[hot] as f64 / n as f64 - 0.125).abs() < 0.01, "{hot}");
    }
    assert!(channels.len() > 9_900);
    let (names, urls) = (texts(&bids, "channel"), texts(&bids, "url"));
    let cold: Vec<&str> = (0..n).filter(|&k| names[k].starts_with("channel-")).map(|k| urls[k]).collect();
    let with_id = cold.iter().filter(|u| u.contains("&channel_id=")).count() as f64 / cold.len() as f64;
    assert!((with_id - 0.9).abs() < 0.02, "{with_id}");

    let auctions = rows("nexmark", json!({"kind": "auction", "rows": 30_000, "seed": 1}));
    assert_eq!(ints(&auctions, "id"), (1000..31_000).collect::<Vec<_>>());
    let categories = ints(&auctions, "category");
    assert!((10..15).all(|c| categories.iter().filter(|&&x| x == c).count() > 5_500));
    let sellers = ints(&auctions, "seller");
    let hot = (0..30_000).filter(|&k| sellers[k] == 1000 + (k as i64 / 3) / 100 * 100).count() as f64 / 30_000.0;
    assert!((hot - 0.75).abs() < 0.02, "{hot}");
    let (open, reserve) = (ints(&auctions, "initial_bid"), ints(&auctions, "reserve"));
    assert!(open.iter().zip(&reserve).all(|(o, r)| o < r));
    let persons = rows("nexmark", json!({"kind": "person", "rows": 1000, "seed": 1}));
    assert_eq!(ints(&persons, "id"), (1000..2000).collect::<Vec<_>>());
    assert!(texts(&persons, "credit_card").iter().all(|c| c.len() == 19 && c.split(' ').all(|g| g.len() == 4)));
    assert!(texts(&persons, "email_address").iter().all(|e| e.ends_with(".com") && e.contains('@')));
    for (table, column, bytes) in [(&bids, "extra", 68.0), (&auctions, "extra", 380.0), (&persons, "extra", 120.0)] {
        let lengths: Vec<f64> = texts(table, column).iter().map(|t| t.len() as f64).collect();
        let mean = lengths.iter().sum::<f64>() / lengths.len() as f64;
        assert!((mean - bytes).abs() < bytes * 0.05, "{mean} against {bytes}");
    }
}

#[test]
fn nexmark_makes_only_the_columns_asked_for() {
    let some = rows("nexmark", json!({"kind": "bid", "rows": 100, "columns": ["price", "auction"]}));
    let all = rows("nexmark", json!({"kind": "bid", "rows": 100}));
    assert_eq!(some, all.project(&[2, 0]).unwrap());
    let error = |columns: Value| source_error("nexmark", json!({"kind": "bid", "columns": columns}), Path::new("/"));
    let unknown = error(json!(["price", "prize"]));
    assert_eq!((unknown.path.join("."), unknown.name.as_deref()), ("columns.1".to_owned(), Some("prize")));
    assert!(unknown.candidates.contains(&"price".to_owned()));
    assert!(error(json!(["price", "price"])).message.contains("twice"));
    let kind = source_error("nexmark", json!({"kind": "bids"}), Path::new("/"));
    assert_eq!(kind.candidates, ["person", "auction", "bid", "all"]);
}
