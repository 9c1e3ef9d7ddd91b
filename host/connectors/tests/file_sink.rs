//! Files as a sink: hidden until committed, never lost, never overwritten.

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use common::{lines, read_all, sink, sink_error, source};
use serde_json::json;
use tidemill_model::{Batch, FaultKind};

fn batch(ids: std::ops::Range<i64>) -> Batch {
    let name: StringArray = ids.clone().map(|i| (i % 2 == 0).then(|| format!("n{i}"))).collect();
    let columns = [
        ("id", Arc::new(Int64Array::from_iter_values(ids)) as ArrayRef, false),
        ("name", Arc::new(name) as ArrayRef, true),
    ];
    Batch::new(RecordBatch::try_from_iter_with_nullable(columns).unwrap())
}

fn listing(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_is_committed_is_read_back() {
    for (settings, ending) in [
        (json!({"format": "csv"}), "csv"),
        (json!({"format": "ndjson", "compression": "gzip"}), "ndjson.gz"),
        (json!({"format": "csv", "options": {"compression": "zstd", "delimiter": ";"}}), "csv.zst"),
        (json!({"format": "parquet"}), "parquet"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = settings;
        settings["path"] = json!("out/deep");
        let sink = sink("file", settings.clone(), folder.path());
        assert!(sink.blocks());
        let mut writers: Vec<_> = (0..2).map(|w| sink.open(w, 2, batch(0..0).schema()).unwrap()).collect();
        writers[0].write(&batch(0..10)).unwrap();
        writers[1].write(&batch(10..20)).unwrap();
        writers[0].write(&batch(20..30)).unwrap();
        writers[0].flush().unwrap();
        let committables: Vec<_> = writers.iter_mut().flat_map(|w| w.prepare(1).unwrap()).collect();
        let out = folder.path().join("out/deep");
        assert_eq!(listing(&out), ["0-0", "1-0"].map(|n| format!(".part-{n}.{ending}.inprogress")), "still hidden");
        sink.commit(&committables).unwrap();
        assert_eq!(listing(&out), ["0-0", "1-0"].map(|n| format!("part-{n}.{ending}")));
        sink.commit(&committables).unwrap();

        settings["path"] = json!("out/deep");
        settings.as_object_mut().unwrap().remove("compression");
        settings["columns"] = json!({"id": "int64", "name": "utf8?"});
        let back = source("file", settings, folder.path());
        let (rows, rejected) = read_all(&*back, 1).unwrap();
        assert_eq!(rejected, []);
        let expected = [0..10, 20..30, 10..20].map(|ids| batch(ids).rows().clone());
        assert_eq!(rows, arrow::compute::concat_batches(&back.schema(), &expected).unwrap());

        // A later run adds files, and a checkpoint without rows adds none.
        drop(writers);
        let mut again = sink.open(0, 1, batch(0..0).schema()).unwrap();
        assert_eq!(again.prepare(1).unwrap(), []);
        again.write(&batch(30..31)).unwrap();
        sink.commit(&again.prepare(2).unwrap()).unwrap();
        assert_eq!(listing(&out), ["0-0", "0-1", "1-0"].map(|n| format!("part-{n}.{ending}")));
    }
}

#[test]
fn files_roll() {
    let folder = tempfile::tempdir().unwrap();
    let by_rows = sink("file", json!({"path": "a", "format": "csv", "roll_rows": 4}), folder.path());
    let mut writer = by_rows.open(0, 1, batch(0..0).schema()).unwrap();
    writer.write(&batch(0..10)).unwrap();
    writer.write(&batch(10..11)).unwrap();
    by_rows.commit(&writer.prepare(1).unwrap()).unwrap();
    assert_eq!(listing(&folder.path().join("a")), ["part-0-0.csv", "part-0-1.csv", "part-0-2.csv"]);
    let last = fs::read_to_string(folder.path().join("a/part-0-2.csv")).unwrap();
    assert_eq!(last, "id,name\n8,n8\n9,\n10,n10\n");

    let by_bytes = sink("file", json!({"path": "b", "format": "ndjson", "roll_bytes": "1MiB"}), folder.path());
    let mut writer = by_bytes.open(0, 1, batch(0..0).schema()).unwrap();
    (0..100).for_each(|i| writer.write(&batch(i * 1000..(i + 1) * 1000)).unwrap());
    by_bytes.commit(&writer.prepare(1).unwrap()).unwrap();
    let sizes: Vec<_> =
        fs::read_dir(folder.path().join("b")).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).collect();
    assert!(sizes.len() > 1 && sizes.iter().all(|&s| s < 1_500_000), "{sizes:?}");
}

#[test]
fn aborting_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let sink = sink("file", json!({"path": "out", "format": "csv", "roll_rows": 4}), folder.path());
    let mut writer = sink.open(0, 1, batch(0..0).schema()).unwrap();
    writer.write(&batch(0..2)).unwrap();
    let prepared = writer.prepare(1).unwrap();
    writer.write(&batch(2..12)).unwrap();
    writer.abort();
    assert_eq!(listing(&out), [".part-0-0.csv.inprogress"], "what was prepared stays");
    sink.commit(&prepared).unwrap();
    writer.write(&batch(0..1)).unwrap();
    drop(writer);
    assert_eq!(listing(&out), ["part-0-0.csv"]);
}

#[test]
fn commits_that_cannot_be() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let sink = sink("file", json!({"path": "out", "format": "csv"}), folder.path());
    let mut writer = sink.open(0, 1, batch(0..0).schema()).unwrap();
    writer.write(&batch(0..2)).unwrap();
    let prepared = writer.prepare(1).unwrap();
    fs::write(out.join("part-0-0.csv"), "somebody else's").unwrap();
    let fault = sink.commit(&prepared).unwrap_err();
    assert!(fault.message.contains("a file of that name is there"), "{fault}");
    fs::remove_file(out.join("part-0-0.csv")).unwrap();
    fs::remove_file(out.join(".part-0-0.csv.inprogress")).unwrap();
    let fault = sink.commit(&prepared).unwrap_err();
    assert!(fault.message.contains("its data is gone"), "{fault}");
}

#[test]
fn directories_that_cannot_be_written_to() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    for path in ["file", "file/below", "/proc/nowhere"] {
        let sink = sink("file", json!({"path": path, "format": "csv"}), folder.path());
        let fault = sink.open(0, 1, batch(0..0).schema()).map(drop).unwrap_err();
        assert_eq!(fault.kind, FaultKind::Io);
        assert!(fault.message.starts_with("cannot write to the directory"), "{fault}");
    }
    let error = sink_error("file", json!({"path": "out", "format": "csv", "roll_rows": 0}), folder.path());
    assert_eq!(error.path, ["roll_rows"]);
    let error = sink_error("file", json!({"path": "out"}), folder.path());
    assert!(error.message.contains("missing field `format`"), "{}", error.message);
}

#[test]
fn a_schema_that_the_format_cannot_hold_is_refused_before_anything_runs() {
    use arrow::datatypes::{DataType, Field, Schema};
    let folder = tempfile::tempdir().unwrap();
    let sink = sink("file", json!({"path": "out", "format": "csv"}), folder.path());
    let list = DataType::List(Arc::new(Field::new("item", DataType::Int64, true)));
    let fault = sink.accepts(&Arc::new(Schema::new(vec![Field::new("a", list, true)]))).unwrap_err();
    assert!(fault.message.contains("csv cannot hold column `a`"), "{fault}");
    assert_eq!(listing(folder.path()), Vec::<String>::new());
}

const CHILD: &str = "TIDEMILL_TEST_FULL_DISK";

/// Run by `a_full_disk_names_the_file` in a process that may write small files only.
#[test]
fn full_disk_child() {
    let Ok(folder) = std::env::var(CHILD) else { return };
    for format in ["csv", "ndjson", "parquet"] {
        let sink = sink("file", json!({"path": "out", "format": format}), Path::new(&folder));
        let mut writer = sink.open(0, 1, batch(0..0).schema()).unwrap();
        let result = (0..200)
            .try_for_each(|i| writer.write(&batch(i * 10_000..(i + 1) * 10_000)))
            .and_then(|()| writer.prepare(1).map(drop));
        println!("fault: {}", result.unwrap_err());
        writer.abort();
    }
}

#[test]
fn a_full_disk_names_the_file() {
    let folder = tempfile::tempdir().unwrap();
    // A limit on the size of files stands in for a full disk: the error comes from the same call.
    let run = r#"trap '' XFSZ; ulimit -f 512; exec "$0" --exact full_disk_child --nocapture"#;
    let output = Command::new("bash")
        .args(["-c", run, std::env::current_exe().unwrap().to_str().unwrap()])
        .env(CHILD, folder.path())
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    let faults: Vec<_> = shown.lines().filter(|l| l.contains("fault: ")).collect();
    assert_eq!(faults.len(), 3, "{shown}{}", String::from_utf8_lossy(&output.stderr));
    for (fault, format) in faults.iter().zip(["csv", "ndjson", "parquet"]) {
        let named = format!("out/part-0-0.{format}`: File too large");
        assert!(fault.contains("cannot write: `") && fault.contains(&named), "{fault}");
    }
    assert_eq!(listing(&folder.path().join("out")), Vec::<String>::new(), "nothing half-written stays");
}

#[test]
fn blackhole_and_lines() {
    let folder = tempfile::tempdir().unwrap();
    let blackhole = sink("blackhole", json!({}), folder.path());
    assert!(!blackhole.blocks());
    let mut writer = blackhole.open(0, 1, batch(0..0).schema()).unwrap();
    writer.write(&batch(0..10)).unwrap();
    blackhole.commit(&writer.prepare(1).unwrap()).unwrap();
    assert_eq!(sink_error("blackhole", json!({"x": 1}), folder.path()).name.as_deref(), Some("x"));
    assert_eq!(lines(batch(1..2).rows()), [r#"{"id":1}"#]);
}
