//! Files as a source: which ones, in what order, in which parts, and what goes wrong.

mod common;

use std::fs;

use common::{BUDGET, lines, read_all, read_split, source, source_error};
use serde_json::json;
use tidemill_model::FaultKind;
use tidemill_model::source::{Position, ReadBudget};

fn ids(rows: &[String]) -> String {
    rows.iter().map(|row| row.trim_start_matches("{\"id\":").trim_end_matches('}')).collect::<Vec<_>>().join(" ")
}

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    folder
}

#[test]
fn one_file_a_glob_or_a_directory() {
    let folder = folder(&[
        ("d/b.csv", "id\n2\n"),
        ("d/a.csv", "id\n1\n"),
        ("d/sub/c.csv", "id\n3\n"),
        ("d/.hidden.csv", "id\n99\n"),
        ("d/_temporary/x.csv", "id\n99\n"),
        ("d/empty.csv", ""),
        ("_own/a.csv", "id\n7\n"),
        ("odd[1].csv", "id\n8\n"),
        ("other.txt", "id\n9\n"),
    ]);
    for (path, format, expected) in [
        ("d/a.csv", None, "1"),
        ("d/*.csv", None, "1 2"),
        ("d/**/*.csv", None, "1 2 3"),
        ("d/[b-z].csv", None, "2"),
        ("d", Some("csv"), "1 2 3"),
        ("d/sub", Some("csv"), "3"),
        ("_own/*.csv", None, "7"),
        ("odd[1].csv", None, "8"),
        ("other.txt", Some("csv"), "9"),
    ] {
        let mut settings = json!({"path": path, "columns": {"id": "int64"}});
        if let Some(format) = format {
            settings["format"] = json!(format);
        }
        let source = source("file", settings, folder.path());
        assert_eq!(ids(&lines(&read_all(&*source, 4).unwrap().0)), expected, "{path}");
        assert!(source.bounded());
    }
    let source = source("file", json!({"path": "d/*.csv", "columns": {"id": "int64"}}), folder.path());
    let ids: Vec<_> = source.splits(4).unwrap().into_iter().map(|s| s.id).collect();
    assert_eq!(ids, ["d/a.csv", "d/b.csv", "d/empty.csv"], "sorted, relative to the pipeline file");
}

#[test]
fn columns_are_inferred_from_the_first_file_that_has_some() {
    let folder = folder(&[("d/a.csv", ""), ("d/b.csv", "id,name\n1,x\n")]);
    let found = source("file", json!({"path": "d/*.csv"}), folder.path());
    assert_eq!(lines(&read_all(&*found, 1).unwrap().0), [r#"{"id":1,"name":"x"}"#]);
    let error = source_error("file", json!({"path": "d/a.csv"}), folder.path());
    assert_eq!(error.message, "`d/a.csv` has no row to tell its columns from");
    assert_eq!(error.path, ["path"]);
}

#[test]
fn a_file_that_is_cut_gives_the_same_rows() {
    let rows: String = (0..30_000).map(|i| format!("{{\"id\":{i}}}\n")).collect();
    let rows = rows.replace("{\"id\":12345}", "broken");
    let folder = folder(&[("a.ndjson", &rows)]);
    let columns = json!({"id": "int64"});
    let whole = source("file", json!({"path": "a.ndjson", "columns": columns}), folder.path());
    assert_eq!(whole.splits(8).unwrap().len(), 1, "a file is not cut unless that is asked for");
    let (expected, rejected) = read_all(&*whole, 8).unwrap();
    assert_eq!(rejected[0].line, Some(12_346));
    for size in ["1", "10KiB", "100000", "1GiB"] {
        let cut = source("file", json!({"path": "a.ndjson", "columns": columns, "split_size": size}), folder.path());
        let (found, rejected_cut) = read_all(&*cut, 8).unwrap();
        assert_eq!(found, expected, "{size}");
        assert_eq!(rejected_cut, rejected, "{size}");
    }
    let csv = json!({"path": "a.ndjson", "format": "csv", "columns": columns, "split_size": "10KiB"});
    assert_eq!(source("file", csv.clone(), folder.path()).splits(8).unwrap().len(), 1, "multiline");
    let mut lines = csv;
    lines["multiline"] = json!(false);
    assert!(source("file", lines, folder.path()).splits(8).unwrap().len() > 20);
}

#[test]
fn reading_resumes_at_any_position() {
    let csv: String = (0..500).map(|i| format!("{i},\"text\n{i}\"\n")).collect();
    let folder = folder(&[("a.csv", &format!("id,name\n{csv}"))]);
    let source = source("file", json!({"path": "a.csv", "columns": {"id": "int64", "name": "utf8"}}), folder.path());
    let split = &source.splits(1).unwrap()[0];
    let join = |batches: Vec<_>| arrow::compute::concat_batches(&source.schema(), &batches).unwrap();
    let whole = join(read_split(&*source, split, BUDGET, usize::MAX).unwrap().0);
    assert_eq!(whole.num_rows(), 500);
    for (rows, reads) in [(1, 1), (7, 1), (13, 3)] {
        let parts = read_split(&*source, split, ReadBudget { rows, ..BUDGET }, reads).unwrap().0;
        assert_eq!(join(parts), whole, "{reads} reads of {rows} rows");
    }
    let fault = source.open(split, &Position(vec![1, 2])).map(drop).unwrap_err();
    assert!(fault.to_string().contains("the stored position is damaged"));
}

#[test]
fn a_byte_budget_holds_for_wide_rows() {
    let rows: String = (0..2000).map(|i| format!("{{\"id\":{i},\"t\":\"{}\"}}\n", "x".repeat(1000))).collect();
    let folder = folder(&[("a.ndjson", &rows)]);
    let source = source("file", json!({"path": "a.ndjson", "columns": {"id": "int64", "t": "utf8"}}), folder.path());
    let split = &source.splits(1).unwrap()[0];
    let budget = ReadBudget { rows: 8192, bytes: 100_000, now_ms: 0 };
    let (batches, _) = read_split(&*source, split, budget, usize::MAX).unwrap();
    assert!(batches[1..].iter().all(|b| b.num_rows() <= 100), "the first read shows how large rows are");
}

#[test]
fn what_is_missing_is_said_clearly() {
    let folder = folder(&[("a.csv", "id\n1\n"), ("d/.x", "")]);
    let open = |path: &str| {
        let source = source("file", json!({"path": path, "format": "csv", "columns": {"id": "int64"}}), folder.path());
        source.splits(1).map(|_| ()).unwrap_err()
    };
    for (path, message) in [
        ("b.csv", "there is no file or directory `b.csv`"),
        ("x/*.csv", "no file matches `x/*.csv`"),
        ("d", "no file matches `d`"),
        ("a[.csv", "`a[.csv` is not a valid glob"),
    ] {
        let fault = open(path);
        assert_eq!(fault.kind, FaultKind::Config);
        assert!(fault.message.starts_with(message), "{fault}");
    }
    // Without columns the file is needed at once, and the place in the pipeline file is known.
    let error = source_error("file", json!({"path": "b.csv"}), folder.path());
    assert_eq!(
        (error.path, error.message.as_str()),
        (vec!["path".to_owned()], "there is no file or directory `b.csv`")
    );
}

#[test]
fn a_file_that_vanishes_is_an_error() {
    let folder = folder(&[("a.csv", "id\n1\n")]);
    let source = source("file", json!({"path": "a.csv", "columns": {"id": "int64"}}), folder.path());
    let splits = source.splits(1).unwrap();
    fs::remove_file(folder.path().join("a.csv")).unwrap();
    let fault = read_split(&*source, &splits[0], BUDGET, usize::MAX).unwrap_err();
    assert_eq!(fault.kind, FaultKind::Io);
    assert!(fault.to_string().starts_with("cannot open `a.csv`: No such file"), "{fault}");
    assert!(fault.help.unwrap().contains("is gone now"));
}

#[test]
fn bad_rows_carry_file_and_line() {
    let folder = folder(&[("d/a.csv", "id\n1\n"), ("d/b.csv", "id\n2\nx\n3\n")]);
    let source = source("file", json!({"path": "d/*.csv", "columns": {"id": "int64"}}), folder.path());
    let (rows, rejected) = read_all(&*source, 2).unwrap();
    assert_eq!(ids(&lines(&rows)), "1 2 3");
    assert_eq!(
        (rejected[0].file.as_deref(), rejected[0].line, rejected[0].row.as_str()),
        (Some("d/b.csv"), Some(3), "x")
    );
}

#[test]
fn settings_are_checked() {
    let folder = folder(&[("a.csv", "id\n1\n"), ("a.txt", "")]);
    let error = |settings| source_error("file", settings, folder.path());
    let found = error(json!({"path": "a.csv", "colums": {"id": "int64"}}));
    assert_eq!(found.name.as_deref(), Some("colums"));
    assert!(found.candidates.contains(&"columns".to_owned()) && found.candidates.contains(&"delimiter".to_owned()));
    let found = error(json!({"path": "a.csv", "columns": {"id": "int46"}}));
    assert_eq!((found.path, found.name.as_deref()), (vec!["columns".to_owned(), "id".to_owned()], Some("int46")));
    let found = error(json!({"path": "a.csv", "delimiter": "ab"}));
    assert_eq!(found.path, ["delimiter"]);
    let found = error(json!({"path": "a.csv", "options": {"delimiter": "ab"}}));
    assert_eq!(found.path, ["options", "delimiter"]);
    let found = error(json!({"path": "a.csv", "compression": "zip"}));
    assert_eq!(found.candidates, ["none", "gzip", "zstd"], "values, and no names of settings");
    let found = error(json!({"path": "a.csv", "format": "cvs"}));
    assert_eq!((found.path, found.name.as_deref()), (vec!["format".to_owned()], Some("cvs")));
    let found = error(json!({"path": "a.txt"}));
    assert_eq!(found.message, "`a.txt` does not end in the name of a format");
    let found = error(json!("a.csv"));
    assert!(found.message.starts_with("expected a map"));
    let found = tidemill_connectors::source("fiel", &json!({}), &common::context(folder.path())).map(drop).unwrap_err();
    assert_eq!(found.candidates, ["file", "nexmark", "datagen"]);
}
