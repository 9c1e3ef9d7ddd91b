//! However a file is cut into ranges, and wherever reading stops and resumes, each row is read once.

mod common;

use common::{drain, format, lines, schema, section, write};
use proptest::prelude::*;
use serde_json::json;
use tidemill_model::DeadRow;
use tidemill_model::format::{Compression, FormatRef};

const COLUMNS: &str = "id: int64; name: utf8?";

/// Rows, then rejected rows as (line, text).
type Found = (Vec<String>, Vec<(i64, String)>);

fn places(rejected: Vec<DeadRow>) -> Vec<(i64, String)> {
    rejected.into_iter().map(|d| (d.line.unwrap(), d.row)).collect()
}

fn read_cut(format: &FormatRef, file: &[u8], cuts: &[u64], rows: usize) -> Found {
    let schema = schema(COLUMNS);
    let mut bounds = vec![0, file.len() as u64];
    bounds.extend(cuts.iter().map(|c| c % (file.len() as u64 + 1)));
    bounds.sort_unstable();
    let mut all = Found::default();
    for range in bounds.windows(2) {
        let section = section(file, range[0], range[1], Compression::None);
        let mut reader = format.reader(section, schema.clone(), 0).unwrap();
        let (found, rejected) = drain(&mut *reader, &schema, rows).unwrap();
        all.0.extend(lines(&found));
        all.1.extend(places(rejected));
    }
    all
}

/// Reads with a new reader for each read, from the position of the one before.
fn read_resumed(format: &FormatRef, file: &[u8], compression: Compression, rows: usize) -> Found {
    let schema = schema(COLUMNS);
    let (mut all, mut position) = (Found::default(), 0);
    for _ in 0..100_000 {
        let section = section(file, 0, file.len() as u64, compression);
        let mut reader = format.reader(section, schema.clone(), position).unwrap();
        let Some(decoded) = reader.read(rows).unwrap() else { return all };
        assert!(reader.position() > position, "every read gets on");
        position = reader.position();
        all.0.extend(lines(&decoded.rows));
        all.1.extend(places(decoded.rejected));
    }
    panic!("reading does not end");
}

fn check(format: &FormatRef, file: &[u8], cuts: &[u64], rows: usize) {
    let whole = read_cut(format, file, &[], 1000);
    if format.splittable() {
        assert_eq!(read_cut(format, file, cuts, rows), whole, "cut at {cuts:?}");
    }
    assert_eq!(read_resumed(format, file, Compression::None, rows), whole, "resumed every {rows} rows");
}

fn csv_line() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => (any::<i32>(), "[a-zä ]{0,12}").prop_map(|(id, name)| format!("{id},{name}")),
        1 => Just(String::new()),
        1 => "[a-z,\"]{0,10}",
        2 => (any::<i32>(), "[a-z,\n]{0,12}").prop_map(|(id, name)| format!("{id},\"{name}\"")),
    ]
}

fn json_line() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => (any::<i32>(), "[a-zä ]{0,12}").prop_map(|(id, name)| format!("{{\"id\":{id},\"name\":\"{name}\"}}")),
        1 => Just(String::new()),
        1 => "[a-z{},\"]{0,10}",
    ]
}

proptest! {
    #[test]
    fn csv(rows in prop::collection::vec(csv_line(), 0..40), cuts in prop::collection::vec(any::<u64>(), 0..6),
           count in 1usize..20, multiline: bool, crlf: bool, open_end: bool) {
        let end = if crlf { "\r\n" } else { "\n" };
        let mut file = format!("name,id{end}").replace("name,id", "id,name") + &rows.join(end);
        if !open_end { file.push_str(end); }
        check(&format("csv", json!({"multiline": multiline})), file.as_bytes(), &cuts, count);
    }

    #[test]
    fn ndjson(rows in prop::collection::vec(json_line(), 0..40), cuts in prop::collection::vec(any::<u64>(), 0..6),
              count in 1usize..20, mark: bool) {
        let file = if mark { "\u{feff}" } else { "" }.to_owned() + &rows.join("\n");
        check(&format("ndjson", json!({})), file.as_bytes(), &cuts, count);
    }

    #[test]
    fn parquet(groups in prop::collection::vec(1usize..30, 1..5), cuts in prop::collection::vec(any::<u64>(), 0..6), count in 1usize..20) {
        let file = parquet_file(&groups);
        check(&format("parquet", json!({})), &file, &cuts, count);
    }
}

/// A file with row groups of the given sizes.
fn parquet_file(groups: &[usize]) -> Vec<u8> {
    use arrow::array::{ArrayRef, Int64Array, RecordBatch};
    let mut out = Vec::new();
    let rows = |from: usize, n: usize| {
        let ids = (from..from + n).map(|i| i as i64);
        let id = std::sync::Arc::new(ids.clone().collect::<Int64Array>()) as ArrayRef;
        let name = ids.map(|i| (i % 3 > 0).then(|| format!("n{i}"))).collect::<arrow::array::StringArray>();
        RecordBatch::try_new(schema(COLUMNS), vec![id, std::sync::Arc::new(name)]).unwrap()
    };
    let mut writer = parquet::arrow::ArrowWriter::try_new(&mut out, schema(COLUMNS), None).unwrap();
    let mut from = 0;
    for &n in groups {
        writer.write(&rows(from, n)).unwrap();
        writer.flush().unwrap();
        from += n;
    }
    writer.close().unwrap();
    out
}

#[test]
fn large_files_over_many_buffers() {
    let row = |i: u64| format!("{{\"id\":{i},\"name\":\"{}\"}}\n", "x".repeat((i * 7919 % 300) as usize));
    let mut file: String = (0..20_000).map(row).collect();
    file.insert_str(file.find("{\"id\":15000").unwrap(), "broken\n");
    let ndjson = format("ndjson", json!({}));
    let size = file.len() as u64;
    let cuts = [1, size / 3, size / 2, size - 5];
    let (rows, rejected) = read_cut(&ndjson, file.as_bytes(), &cuts, 8192);
    assert_eq!(rows.len(), 20_000);
    assert_eq!(rejected, [(15_001, "broken".to_owned())], "the line counts from the beginning of the file");
    for (name, compression) in [("gzip", Compression::Gzip), ("zstd", Compression::Zstd)] {
        let (all, _) = common::read(&ndjson, common::whole(file.as_bytes()), &schema(COLUMNS)).unwrap();
        let packed = write(&format("ndjson", json!({"compression": name})), &[all]);
        assert_eq!(read_resumed(&ndjson, &packed, compression, 3000).0, rows);
    }
}
