//! Wherever reading stops, reading on from the position (as bytes, with other batch sizes) gives the rows and the rejected
//! rows that were left, and no others.

mod common;

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use common::{lines, sorted, source};
use proptest::prelude::*;
use serde_json::{Value, json};
use tidemill_model::source::{Polled, Position, ReadBudget, Source, Split, SplitReader};
use tidemill_model::{DeadRow, FaultKind};

/// A poll, and whether the reader is closed behind it.
type Poll = (ReadBudget, bool);

/// Rows, then what was rejected: file, line, text, reason.
type Found = (Vec<String>, Vec<(Option<String>, Option<i64>, String, String)>);

fn take(found: &mut Found, rows: &RecordBatch, rejected: Vec<DeadRow>) {
    found.0.extend(lines(rows));
    found.1.extend(rejected.into_iter().map(|dead| (dead.file, dead.line, dead.row, dead.error)));
}

/// All of a split, stopped and gone on with as `polls` say, over and over.
fn read(source: &dyn Source, split: &Split, polls: &[Poll]) -> Found {
    let mut found = Found::default();
    let mut reader = source.open(split, &Position::default()).unwrap();
    for (budget, close) in polls.iter().cycle().take(100_000) {
        match reader.poll(*budget).unwrap() {
            Polled::Rows { rows, rejected } => {
                assert!(rows.num_rows() <= budget.rows);
                take(&mut found, &rows, rejected);
            }
            Polled::Pending { .. } => panic!("files do not wait"),
            Polled::End => {
                let position = reader.position();
                let again = source.open(split, &position).unwrap().poll(*budget).unwrap();
                assert!(matches!(again, Polled::End) || rows_of(again) == 0, "the end is a position, too");
                return found;
            }
        }
        if *close {
            let stored: Vec<u8> = reader.position().0.clone();
            reader = source.open(split, &Position(stored)).unwrap();
        }
    }
    panic!("reading does not end");
}

fn rows_of(polled: Polled) -> usize {
    match polled {
        Polled::Rows { rows, rejected } => rows.num_rows() + rejected.len(),
        _ => 0,
    }
}

fn read_all(source: &dyn Source, polls: &[Poll]) -> Found {
    let mut all = Found::default();
    for split in source.splits(1).unwrap() {
        let (rows, rejected) = read(source, &split, polls);
        all.0.extend(rows);
        all.1.extend(rejected);
    }
    all
}

fn polls() -> impl Strategy<Value = Vec<Poll>> {
    let budget = (1..40usize, 1..5000usize).prop_map(|(rows, bytes)| ReadBudget { rows, bytes, now_ms: 0 });
    let polls = proptest::collection::vec((budget, any::<bool>()), 1..8);
    // Those that never close say nothing.
    polls.prop_map(|mut polls| {
        polls[0].1 = true;
        polls
    })
}

const WHOLE: &[Poll] = &[(ReadBudget { rows: 8192, bytes: 1 << 22, now_ms: 0 }, false)];

fn pack(path: &Path, bytes: &[u8], members: usize) {
    let file = || fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
    let parts = bytes.chunks(bytes.len().div_ceil(members).max(1));
    // Also of nothing something is made.
    for part in parts.chain(bytes.is_empty().then_some(bytes)) {
        match path.extension().and_then(|e| e.to_str()) {
            Some("gz") => {
                let mut packed = flate2::write::GzEncoder::new(file(), flate2::Compression::fast());
                packed.write_all(part).unwrap();
                packed.finish().unwrap();
            }
            Some("zst") => zstd::stream::copy_encode(part, file(), 1).unwrap(),
            _ => file().write_all(part).unwrap(),
        }
    }
}

fn csv_row() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => (any::<i32>(), "[a-zä ]{0,12}").prop_map(|(id, name)| format!("{id},{name}")),
        2 => (any::<i32>(), "[a-z,\n]{0,12}").prop_map(|(id, name)| format!("{id},\"{name}\"")),
        1 => (any::<i32>(), "[a-z]{0,4}").prop_map(|(id, name)| format!("{id},\"{name}\r\n\"\"{name}\"")),
        1 => Just(String::new()),
        1 => "[a-z,\"]{0,10}",
    ]
}

fn json_row() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => (any::<i32>(), "[a-zä ]{0,12}").prop_map(|(id, name)| format!("{{\"id\":{id},\"name\":\"{name}\"}}")),
        1 => Just(String::new()),
        1 => "[a-z{},\"]{0,10}",
    ]
}

fn text_file() -> impl Strategy<Value = (&'static str, String, bool)> {
    let rows = |row: BoxedStrategy<String>| proptest::collection::vec(row, 0..60);
    let csv = (rows(csv_row().boxed()), any::<bool>(), any::<bool>(), any::<bool>());
    let json = (rows(json_row().boxed()), any::<bool>(), any::<bool>());
    prop_oneof![
        csv.prop_map(|(rows, crlf, open_end, multiline)| {
            let end = if crlf { "\r\n" } else { "\n" };
            let text = [vec!["id,name".to_owned()], rows].concat().join(end);
            ("csv", text + if open_end { "" } else { end }, multiline)
        }),
        json.prop_map(|(rows, crlf, mark)| {
            let begin = if mark { "\u{feff}" } else { "" };
            ("ndjson", begin.to_owned() + &rows.join(if crlf { "\r\n" } else { "\n" }), false)
        }),
    ]
}

proptest! {
    #[test]
    fn text_files(
        (format, text, multiline) in text_file(),
        packing in prop_oneof![Just(""), Just(".gz"), Just(".zst")],
        members in 1..4usize,
        copies in prop_oneof![3 => Just(1usize), 1 => Just(200)],
        polls in polls(),
    ) {
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let name = format!("a.{format}{packing}");
        // Long enough to be cut, and for several buffers.
        pack(&folder.path().join(&name), text.repeat(copies).as_bytes(), members);
        let mut settings = json!({"path": name, "columns": {"id": "int64", "name": "utf8?"}, "split_size": "4096"});
        if format == "csv" {
            settings["multiline"] = json!(multiline);
        }
        let source = source("file", settings, folder.path());
        // A reader that is opened anew reads a packed file from its beginning.
        let polls = if copies > 1 {
            polls.into_iter().map(|(b, close)| (ReadBudget { rows: b.rows * 97, bytes: b.bytes * 97, ..b }, close)).collect()
        } else {
            polls
        };
        prop_assert_eq!(read_all(&*source, &polls), read_all(&*source, WHOLE));
    }

    #[test]
    fn parquet_files(groups in proptest::collection::vec(0..60usize, 0..5), polls in polls(), cut: bool) {
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        parquet(&folder.path().join("a.parquet"), &groups);
        // Every seventh number does not fit into its column.
        let mut settings = json!({"path": "a.parquet", "columns": {"id": "int8", "name": "utf8?"}});
        if cut {
            settings["split_size"] = json!(4096);
        }
        let source = source("file", settings, folder.path());
        prop_assert_eq!(read_all(&*source, &polls), read_all(&*source, WHOLE));
    }

    #[test]
    fn generators(polls in polls(), workers in 1..4usize, kind in 0..3usize, rows in 0..300u64) {
        let columns = json!({"i": {"sequence": {}}, "r": {"random": {"length": 5}}, "t": {"timestamp": {"step_every": 3}}});
        let (connector, settings) = [
            ("datagen", json!({"rows": rows, "columns": columns})),
            ("datagen", json!({"elements": (0..rows).map(|i| json!({"i": i})).collect::<Vec<_>>(), "columns": {"i": "int64"}})),
            ("nexmark", json!({"kind": "all", "rows": rows})),
        ][kind].clone();
        let source = source(connector, settings, Path::new("/"));
        for split in source.splits(workers).unwrap() {
            prop_assert_eq!(read(&*source, &split, &polls), read(&*source, &split, WHOLE));
        }
    }

    #[test]
    fn a_generator_with_a_rate_goes_on_at_its_rate(
        rate in 1..5000u32,
        steps in proptest::collection::vec((1..50i64, any::<bool>(), 0..100_000i64), 1..60),
    ) {
        let times = json!({"timestamp": {"start": 7, "step_every": 2, "step": "3ms"}});
        let columns = json!([{"i": {"sequence": {}}}, {"at": times}]);
        let source = source("datagen", json!({"rate": rate, "columns": columns}), Path::new("/"));
        let split = &source.splits(1).unwrap()[0];
        let mut reader = source.open(split, &Position::default()).unwrap();
        // It runs, and is down, for so many ms.
        let (mut now_ms, mut ran_ms, mut starts, mut found) = (1_000_000, 0, 1, Vec::new());
        for (run_ms, stops, down_ms) in steps {
            drain(&mut *reader, now_ms, &mut found);
            if stops {
                reader = source.open(split, &Position(reader.position().0.clone())).unwrap();
                now_ms += down_ms;
                starts += 1;
                drain(&mut *reader, now_ms, &mut found);
            }
            now_ms += run_ms;
            ran_ms += run_ms;
        }
        drain(&mut *reader, now_ms, &mut found);
        // A start brings one row at once; what was missed while it was down is not made up for.
        let most = (f64::from(rate) * ran_ms as f64 / 1000.0).ceil() as usize + starts;
        let least = most.saturating_sub(2 * starts + 1);
        prop_assert!((least..=most).contains(&found.len()), "{} rows, expected {least} to {most}", found.len());
        let expected = (0..found.len() as i64).map(|i| (i, 7 + i / 2 * 3));
        prop_assert_eq!(found.clone(), expected.collect::<Vec<_>>(), "rows know nothing of the stops");
    }
}

/// Polls until the source has nothing more at that moment.
fn drain(reader: &mut dyn SplitReader, now_ms: i64, found: &mut Vec<(i64, i64)>) {
    use arrow::array::AsArray;
    use arrow::datatypes::{Int64Type, TimestampMillisecondType};
    while let Polled::Rows { rows, .. } = reader.poll(ReadBudget { rows: 100, bytes: 1 << 20, now_ms }).unwrap() {
        let numbers = rows.column(0).as_primitive::<Int64Type>().values();
        let times = rows.column(1).as_primitive::<TimestampMillisecondType>().values();
        found.extend(numbers.iter().copied().zip(times.iter().copied()));
    }
}

/// A file with row groups of the given sizes.
fn parquet(path: &Path, groups: &[usize]) {
    let columns = |from: usize, rows: usize| {
        let ids = (from..from + rows).map(|i| if i % 7 == 6 { 1000 } else { i as i64 % 100 });
        let names = (from..from + rows).map(|i| (i % 3 > 0).then(|| format!("{}{i}", "n".repeat(i % 90))));
        let columns = [
            ("id", Arc::new(ids.collect::<Int64Array>()) as ArrayRef, false),
            ("name", Arc::new(names.collect::<StringArray>()) as ArrayRef, true),
        ];
        RecordBatch::try_from_iter_with_nullable(columns).unwrap()
    };
    let mut writer =
        parquet::arrow::ArrowWriter::try_new(File::create(path).unwrap(), columns(0, 0).schema(), None).unwrap();
    let mut from = 0;
    for &rows in groups {
        writer.write(&columns(from, rows)).unwrap();
        writer.flush().unwrap();
        from += rows;
    }
    writer.close().unwrap();
}

/// A file of numbers, read for a while: what the rest of it is for a reader that goes on when `change` has been at it.
fn after(file: &str, settings: Value, change: impl FnOnce(&Path)) -> Result<Vec<String>, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(file);
    let text: String = (0..1000).map(|i| format!("{i}\n")).collect();
    pack(&path, text.as_bytes(), 1);
    let mut all = json!({"path": file, "columns": {"id": "int64"}, "header": false});
    all.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
    let source = source("file", all, folder.path());
    let split = &source.splits(1).unwrap()[0];
    let budget = ReadBudget { rows: 100, bytes: 1 << 20, now_ms: 0 };
    let mut reader = source.open(split, &Position::default()).unwrap();
    reader.poll(budget).unwrap();
    let position = reader.position();
    change(&path);
    let mut reader = source.open(split, &position).unwrap();
    let mut rest = Vec::new();
    loop {
        match reader.poll(budget) {
            Ok(Polled::Rows { rows, .. }) => rest.extend(lines(&rows)),
            Ok(_) => return Ok(rest),
            Err(fault) => {
                assert_eq!(fault.kind, FaultKind::Io);
                assert!(rest.is_empty(), "no row of another file");
                return Err(fault.message);
            }
        }
    }
}

#[test]
fn a_file_that_has_changed_is_not_read_on() {
    let expected: Vec<String> = (100..1000).map(|i| format!("{{\"id\":{i}}}")).collect();
    for name in ["a.csv", "a.csv.gz", "a.csv.zst"] {
        assert_eq!(after(name, json!({}), |_| {}), Ok(expected.clone()));
        // A copy is as good.
        let copied = after(name, json!({}), |path| {
            let bytes = fs::read(path).unwrap();
            fs::remove_file(path).unwrap();
            fs::write(path, bytes).unwrap();
        });
        assert_eq!(copied, Ok(expected.clone()));
        let cut = after(name, json!({}), |path| {
            let file = File::options().write(true).open(path).unwrap();
            file.set_len(file.metadata().unwrap().len() - 1).unwrap();
        });
        assert!(cut.unwrap_err().contains("has changed since the checkpoint was taken: it had"));
        let other = after(name, json!({}), |path| {
            let mut bytes = fs::read(path).unwrap();
            let last = bytes.len() - 2;
            bytes[last] ^= 1;
            fs::write(path, bytes).unwrap();
        });
        assert!(other.unwrap_err().ends_with("it has other content"));
    }
    // What is behind the part that was there belongs to nobody.
    let grown = after("a.csv", json!({}), |path| {
        let mut file = File::options().append(true).open(path).unwrap();
        file.write_all(b"1000\n").unwrap();
    });
    assert_eq!(grown, Ok(expected));
    assert!(after("a.csv", json!({}), |path| fs::remove_file(path).unwrap()).unwrap_err().contains("cannot open"));
}

#[test]
fn workers_share_a_rate() {
    let columns = json!({"i": {"sequence": {}}});
    let source = source("datagen", json!({"rate": 1000, "columns": columns}), Path::new("/"));
    let mut all = Vec::new();
    for split in source.splits(2).unwrap() {
        let mut reader = source.open(&split, &Position::default()).unwrap();
        for now_ms in 0..=1000 {
            if let Polled::Rows { rows, .. } = reader.poll(ReadBudget { rows: 100, bytes: 1 << 20, now_ms }).unwrap() {
                all.extend(lines(&rows));
            }
        }
    }
    assert_eq!(sorted(all).len(), 1002, "and one at once from each");
}
