//! Files as a sink: hidden until committed, never lost, never overwritten.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use common::{lines, parts, read_all, sink, sink_error, source};
use serde_json::json;
use tidemill_model::sink::{Committable, Sink};
use tidemill_model::{Batch, FaultKind};

fn batch(ids: std::ops::Range<i64>) -> Batch {
    let name: StringArray = ids.clone().map(|i| (i % 2 == 0).then(|| format!("n{i}"))).collect();
    let columns = [
        ("id", Arc::new(Int64Array::from_iter_values(ids)) as ArrayRef, false),
        ("name", Arc::new(name) as ArrayRef, true),
    ];
    Batch::new(RecordBatch::try_from_iter_with_nullable(columns).unwrap())
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
        assert_eq!(parts(&out), ["0-0", "1-0"].map(|n| format!(".part-{n}.{ending}.inprogress")), "still hidden");
        sink.commit(&committables).unwrap();
        assert_eq!(parts(&out), ["0-0", "1-0"].map(|n| format!("part-{n}.{ending}")));
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
        assert_eq!(parts(&out), ["0-0", "0-1", "1-0"].map(|n| format!("part-{n}.{ending}")));
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
    assert_eq!(parts(&folder.path().join("a")), ["part-0-0.csv", "part-0-1.csv", "part-0-2.csv"]);
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
    assert_eq!(parts(&out), [".part-0-0.csv.inprogress"], "what was prepared stays");
    sink.commit(&prepared).unwrap();
    writer.write(&batch(0..1)).unwrap();
    drop(writer);
    assert_eq!(parts(&out), ["part-0-0.csv"]);
}

#[test]
fn what_dead_runs_leave_is_removed_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let start = |owner: &str, named: &[Committable]| {
        let sink = sink("file", json!({"path": "out", "format": "csv", "roll_rows": 1}), folder.path());
        sink.recover(owner, Some(named)).unwrap();
        sink
    };
    let wrote = |sink: &dyn Sink, worker| {
        let mut writer = sink.open(worker, 9, batch(0..0).schema()).unwrap();
        writer.write(&batch(0..2)).unwrap();
        writer.prepare(1).unwrap()
    };
    let hidden = |worker: usize| [0, 1].map(|n| format!(".part-{worker}-{n}.csv.inprogress"));
    // Of an owner that does not start again, and of a run that still lives.
    wrote(&*start("other", &[]), 0);
    let alive = start("me", &[]);
    let soon = wrote(&*alive, 1);
    // Of runs that are dead, the first with a file that a manifest names.
    let named = wrote(&*start("me", &[]), 2);
    wrote(&*start("me", &named), 3);
    let all = [hidden(0), hidden(1), hidden(2), [2, 3].map(|n| format!(".part-3-{n}.csv.inprogress"))].concat();
    assert_eq!(parts(&out), all, "a start removes what was left before it, and nobody has started since");

    let third = start("me", &named[..1]);
    let kept = [&all[..4], &all[4..5]].concat();
    assert_eq!(parts(&out), kept);
    third.commit(&named[..1]).unwrap();
    alive.commit(&soon).unwrap();
    drop((alive, third));
    // Numbers do not begin anew, even if readers have taken the files away.
    fs::remove_file(out.join("part-2-0.csv")).unwrap();
    let last = start("me", &soon);
    let again = wrote(&*last, 2);
    last.commit(&again).unwrap();
    let visible = ["part-1-0.csv", "part-1-1.csv", "part-2-2.csv", "part-2-3.csv"].map(str::to_owned);
    assert_eq!(parts(&out), [&hidden(0)[..], &visible].concat());
    let locks = common::files(&out).iter().filter(|name| name.ends_with(".lock")).count();
    assert_eq!(locks, 1, "of the owner that does not start again");
}

/// The only file that is hidden.
fn hidden(out: &Path) -> PathBuf {
    let files = common::files(out);
    let mut hidden = files.iter().filter(|name| name.ends_with(".inprogress"));
    let name = hidden.next().unwrap();
    assert_eq!(hidden.next(), None);
    out.join(name)
}

#[test]
fn commits_that_cannot_be() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let settings = json!({"path": "out", "format": "csv"});
    let first = sink("file", settings.clone(), folder.path());
    let mut writer = first.open(0, 1, batch(0..0).schema()).unwrap();
    writer.write(&batch(0..2)).unwrap();
    let prepared = writer.prepare(1).unwrap();
    fs::OpenOptions::new().write(true).open(hidden(&out)).unwrap().set_len(5).unwrap();
    let fault = first.commit(&prepared).unwrap_err();
    assert!(fault.message.contains("has 5 bytes, but 16 were written"), "{fault}");
    assert!(fault.message.contains(hidden(&out).to_str().unwrap()), "{fault}");
    fs::remove_file(hidden(&out)).unwrap();
    let again = sink("file", settings.clone(), folder.path());
    for sink in [&first, &again] {
        let fault = sink.commit(&prepared).unwrap_err();
        assert!(fault.message.contains("its data is gone"), "{fault}");
        assert!(fault.help.unwrap().contains("`missing_files: ignore`"));
    }
    let mut forgiving = settings;
    forgiving["missing_files"] = json!("ignore");
    let again = sink("file", forgiving.clone(), folder.path());
    again.commit(&prepared).unwrap();
    fs::remove_dir_all(&out).unwrap();
    again.commit(&prepared).unwrap();
    // What this run has written it can't have committed before, unless it did.
    let mut writer = again.open(0, 1, batch(0..0).schema()).unwrap();
    writer.write(&batch(0..2)).unwrap();
    let prepared = writer.prepare(1).unwrap();
    writer.write(&batch(2..3)).unwrap();
    again.commit(&prepared).unwrap();
    fs::remove_file(out.join("part-0-0.csv")).unwrap();
    again.commit(&prepared).unwrap();
    let prepared = writer.prepare(2).unwrap();
    fs::remove_file(hidden(&out)).unwrap();
    assert!(again.commit(&prepared).unwrap_err().message.contains("its data is gone"));
}

#[test]
fn a_name_that_is_taken_is_not_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let settings = json!({"path": "out", "format": "csv", "header": false});
    let sinks = [(); 2].map(|()| sink("file", settings.clone(), folder.path()));
    let mut writers = sinks.each_ref().map(|sink| sink.open(0, 1, batch(0..0).schema()).unwrap());
    let mut prepared = Vec::new();
    for (writer, id) in writers.iter_mut().zip([1, 2]) {
        writer.write(&batch(id..id + 1)).unwrap();
        prepared.push(writer.prepare(1).unwrap());
    }
    fs::write(out.join("part-0-0.csv"), "somebody else's").unwrap();
    for _ in 0..2 {
        for (sink, prepared) in sinks.iter().zip(&prepared) {
            sink.commit(prepared).unwrap();
        }
        assert_eq!(fs::read_to_string(out.join("part-0-0.csv")).unwrap(), "somebody else's");
        // The second writer saw the hidden file of the first one.
        let names = parts(&out);
        assert!(names[0].starts_with("part-0-0-") && names[1..] == ["part-0-0.csv", "part-0-1.csv"], "{names:?}");
        let rows = [&names[0], "part-0-1.csv"].map(|name| fs::read_to_string(out.join(name)).unwrap());
        assert_eq!(rows, ["1,\n", "2,n2\n"]);
    }
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
    assert_eq!(parts(folder.path()), Vec::<String>::new());
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
    assert_eq!(parts(&folder.path().join("out")), Vec::<String>::new(), "nothing half-written stays");
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
