//! Files in directories by event time and by columns.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampMillisecondArray,
};
use common::{files, parts, sink, sink_error};
use proptest::prelude::*;
use serde_json::{Value, json};
use tidemill_model::Batch;

/// Rows with a number, a text and an event time.
fn batch(rows: &[(i64, Option<&str>, i64)]) -> Batch {
    let columns = [
        ("id", Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.0))) as ArrayRef, false),
        ("kind", Arc::new(rows.iter().map(|r| r.1).collect::<StringArray>()) as ArrayRef, true),
    ];
    let batch = Batch::new(RecordBatch::try_from_iter_with_nullable(columns).unwrap());
    batch.with_times(Some(rows.iter().map(|r| r.2).collect()))
}

/// What a writer makes of batches, by file.
fn written(base: &Path, bucket: Value, batches: &[Batch]) -> BTreeMap<String, String> {
    let settings = json!({"path": "out", "format": "csv", "header": false, "bucket": bucket, "open_files": 2});
    let sink = sink("file", settings, base);
    let mut writer = sink.open(0, 1, batches[0].schema()).unwrap();
    batches.iter().for_each(|batch| writer.write(batch).unwrap());
    sink.commit(&writer.prepare(1).unwrap()).unwrap();
    let out = base.join("out");
    files(&out).into_iter().map(|name| (name.clone(), fs::read_to_string(out.join(name)).unwrap())).collect()
}

/// Without the names of the files.
fn by_directory(files: BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut directories: BTreeMap<String, String> = BTreeMap::new();
    for (name, text) in files {
        *directories.entry(name.rsplit_once('/').unwrap().0.to_owned()).or_default() += &text;
    }
    directories
}

const HOUR_MS: i64 = 3_600_000;

#[test]
fn by_time_and_columns() {
    let rows = [
        (1, Some("a"), 0),
        (2, Some("b"), HOUR_MS - 1),
        (3, Some("a"), HOUR_MS),
        (4, None, -1),
        (5, Some("a"), 30 * HOUR_MS),
        (6, Some("a"), 1),
    ];
    for (bucket, expected) in [
        (
            json!({"time": "dt=%Y-%m-%d/hour=%H"}),
            vec![
                ("dt=1969-12-31/hour=23", "4,\n"),
                ("dt=1970-01-01/hour=00", "1,a\n2,b\n6,a\n"),
                ("dt=1970-01-01/hour=01", "3,a\n"),
                ("dt=1970-01-02/hour=06", "5,a\n"),
            ],
        ),
        (
            json!({"time": "%Y", "columns": ["kind"], "keep_columns": false}),
            vec![
                ("1969/kind=__HIVE_DEFAULT_PARTITION__", "4\n"),
                ("1970/kind=a", "1\n3\n5\n6\n"),
                ("1970/kind=b", "2\n"),
            ],
        ),
        (json!({"time": "h%H", "columns": ["kind", "id"]}), {
            vec![
                ("h00/kind=a/id=1", "1,a\n"),
                ("h00/kind=a/id=6", "6,a\n"),
                ("h00/kind=b/id=2", "2,b\n"),
                ("h01/kind=a/id=3", "3,a\n"),
                ("h06/kind=a/id=5", "5,a\n"),
                ("h23/kind=__HIVE_DEFAULT_PARTITION__/id=4", "4,\n"),
            ]
        }),
    ] {
        let expected: BTreeMap<_, _> = expected.into_iter().map(|(d, t)| (d.to_owned(), t.to_owned())).collect();
        for rows_in_batch in [1, 2, 6] {
            let folder = tempfile::tempdir().unwrap();
            let batches: Vec<_> = rows.chunks(rows_in_batch).map(batch).collect();
            assert_eq!(by_directory(written(folder.path(), bucket.clone(), &batches)), expected, "{bucket}");
        }
    }
}

#[test]
fn files_that_make_room_are_finished_and_files_of_one_bucket_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let kinds = ["a", "b", "a", "c", "b", "a"];
    let batches: Vec<_> = kinds.iter().enumerate().map(|(i, kind)| batch(&[(i as i64, Some(kind), 0)])).collect();
    let files = written(folder.path(), json!({"columns": ["kind"]}), &batches);
    let expected = [
        // When `c` came `b` had waited longest, then `a` when `b` came back.
        ("kind=a/part-0-0.csv", "0,a\n2,a\n"),
        ("kind=a/part-0-4.csv", "5,a\n"),
        ("kind=b/part-0-1.csv", "1,b\n"),
        ("kind=b/part-0-3.csv", "4,b\n"),
        ("kind=c/part-0-2.csv", "3,c\n"),
    ];
    assert_eq!(files, expected.iter().map(|&(name, text)| (name.to_owned(), text.to_owned())).collect());
}

#[test]
fn values_that_are_no_names() {
    for (value, name) in [
        ("../../etc", "..%2F..%2Fetc"),
        ("a=b:c%d", "a%3Db%3Ac%25d"),
        ("", "__HIVE_DEFAULT_PARTITION__"),
        ("Zürich 2", "Zürich 2"),
        ("a\u{0}\n\u{7f}\\", "a%00%0A%7F%5C"),
        ("_x", "_x"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let settings = json!({"columns": ["kind"], "keep_columns": false});
        let files = written(folder.path(), settings, &[batch(&[(1, Some(value), 0)])]);
        assert_eq!(files.into_keys().collect::<Vec<_>>(), [format!("kind={name}/part-0-0.csv")]);
    }
    let folder = tempfile::tempdir().unwrap();
    let settings = json!({"path": "out", "format": "csv", "bucket": {"columns": ["kind"]}});
    let sink = sink("file", settings, folder.path());
    let long = "x".repeat(300);
    let rows = batch(&[(1, Some(&long), 0)]);
    let fault = sink.open(0, 1, rows.schema()).unwrap().write(&rows).unwrap_err();
    assert!(fault.message.contains("`kind` is too long for the name of a directory"), "{fault}");
}

#[test]
fn columns_of_every_type_that_can_be() {
    let columns = [
        ("n", Arc::new(Int64Array::from(vec![-7])) as ArrayRef),
        ("b", Arc::new(BooleanArray::from(vec![true])) as ArrayRef),
        ("d", Arc::new(Date32Array::from(vec![19_753])) as ArrayRef),
        ("t", Arc::new(TimestampMillisecondArray::from(vec![1_706_695_199_999])) as ArrayRef),
        ("m", Arc::new(Decimal128Array::from(vec![150]).with_precision_and_scale(5, 2).unwrap()) as ArrayRef),
        ("_.h", Arc::new(Int64Array::from(vec![1])) as ArrayRef),
        ("x", Arc::new(Float64Array::from(vec![1.5])) as ArrayRef),
    ];
    let rows = Batch::new(RecordBatch::try_from_iter(columns).unwrap());
    let folder = tempfile::tempdir().unwrap();
    let bucket = json!({"columns": ["n", "b", "d", "t", "m", "_.h"], "keep_columns": false});
    let files = written(folder.path(), bucket, std::slice::from_ref(&rows));
    let expected = "n=-7/b=true/d=2024-01-31/t=2024-01-31T09%3A59%3A59.999/m=1.50/%5F.h=1/part-0-0.csv";
    assert_eq!(files, BTreeMap::from([(expected.to_owned(), "1.5\n".to_owned())]));

    for (columns, keep, complaint) in [
        (json!(["x"]), true, "cannot make buckets by column `x`: it is float64"),
        (json!(["nix"]), true, "there is no column `nix` to make buckets by"),
    ] {
        let bucket = json!({"columns": columns, "keep_columns": keep});
        let sink = sink("file", json!({"path": "o", "format": "csv", "bucket": bucket}), folder.path());
        assert_eq!(sink.accepts(&rows.schema()).unwrap_err().message, complaint);
    }
    let bucket = json!({"columns": ["n"], "keep_columns": false});
    let sink = sink("file", json!({"path": "o", "format": "csv", "bucket": bucket}), folder.path());
    let only = rows.rows().project(&[0]).unwrap();
    assert!(sink.accepts(&only.schema()).unwrap_err().message.contains("no column is left"));
}

#[test]
fn rows_without_event_time_and_wrong_settings() {
    let folder = tempfile::tempdir().unwrap();
    let by_time = sink("file", json!({"path": "out", "format": "csv", "bucket": {"time": "%Y"}}), folder.path());
    assert!(by_time.needs_times());
    let rows = batch(&[(1, None, 0)]).with_times(None);
    let fault = by_time.open(0, 1, rows.schema()).unwrap().write(&rows).unwrap_err();
    assert!(fault.message.contains("no event time to make buckets by"), "{fault}");
    assert!(parts(&folder.path().join("out")).is_empty());
    for (setting, value, path) in [
        ("bucket", json!({}), vec!["bucket"]),
        ("bucket", json!({"time": "%Q"}), vec!["bucket", "time"]),
        ("bucket", json!({"columns": ["a", "a"]}), vec!["bucket", "columns", "1"]),
        ("open_files", json!(0), vec!["open_files"]),
        ("roll_interval", json!("0s"), vec!["roll_interval"]),
        ("roll_interval", json!("-1s"), vec!["roll_interval"]),
        ("missing_files", json!("maybe"), vec!["missing_files"]),
    ] {
        let mut settings = json!({"path": "out", "format": "csv"});
        settings[setting] = value;
        assert_eq!(sink_error("file", settings.clone(), folder.path()).path, path, "{settings}");
    }
}

proptest! {
    #[test]
    fn each_row_goes_where_it_belongs_and_in_order(
        rows in proptest::collection::vec((0..4usize, -3..3i64), 1..60),
        rows_in_batch in 1..60usize,
        by_time: bool,
        by_kind: bool,
    ) {
        prop_assume!(by_time || by_kind);
        let kinds = [Some("x"), Some("y"), None, Some("z z")];
        let rows: Vec<_> =
            rows.iter().enumerate().map(|(id, &(kind, hour))| (id as i64, kinds[kind], hour * HOUR_MS + 5)).collect();
        let mut bucket = json!({});
        if by_time {
            bucket["time"] = json!("h=%H");
        }
        if by_kind {
            bucket["columns"] = json!(["kind"]);
        }
        let mut expected: BTreeMap<String, String> = BTreeMap::new();
        for &(id, kind, time) in &rows {
            let hour = format!("h={:02}", time.div_euclid(HOUR_MS).rem_euclid(24));
            let kind_name = format!("kind={}", kind.unwrap_or("__HIVE_DEFAULT_PARTITION__"));
            let names: Vec<_> = [by_time.then_some(hour), by_kind.then_some(kind_name)].into_iter().flatten().collect();
            *expected.entry(names.join("/")).or_default() += &format!("{id},{}\n", kind.unwrap_or_default());
        }
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let batches: Vec<_> = rows.chunks(rows_in_batch).map(batch).collect();
        let mut found: BTreeMap<String, Vec<(u64, String)>> = BTreeMap::new();
        for (name, text) in written(folder.path(), bucket, &batches) {
            let (directory, file) = name.rsplit_once('/').unwrap();
            let number = file.trim_start_matches("part-0-").trim_end_matches(".csv").parse().unwrap();
            found.entry(directory.to_owned()).or_default().push((number, text));
        }
        let in_order = |mut files: Vec<(u64, String)>| {
            files.sort();
            files.into_iter().map(|(_, text)| text).collect::<String>()
        };
        let found: BTreeMap<_, _> = found.into_iter().map(|(directory, files)| (directory, in_order(files))).collect();
        prop_assert_eq!(found, expected);
    }
}
