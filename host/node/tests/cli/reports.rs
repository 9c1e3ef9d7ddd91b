//! What a run reports: the summary for programs, the summary for people, progress where there is no terminal.

use serde_json::Value;

use crate::support::{Folder, Running};

const PIPELINE: &str = "\
dead_letter: { file: { path: dead, format: ndjson } }
sources:
  rows: { file: { path: rows.csv, columns: { id: int64 } } }
sinks:
  out: { input: rows, stdout: {} }
";

#[test]
fn the_summary_for_programs_is_the_last_line_and_has_these_fields() {
    let folder = Folder::with(&[("pipeline.yaml", PIPELINE), ("rows.csv", "id\n1\ntwo\n3\n")]);
    let ended = folder.run("tidemill run pipeline.yaml --summary json --quiet");
    assert_eq!((ended.code(), ended.stderr.as_str()), (0, ""));
    let lines: Vec<&str> = ended.stdout.lines().collect();
    assert_eq!(lines[..2], [r#"{"id":1}"#, r#"{"id":3}"#]);
    let names = ["rows_in", "rows_out", "rows_dead", "wall_s", "cpu_s", "peak_rss_bytes", "p50_ms", "p99_ms"];
    let starts: Vec<usize> = names.iter().map(|name| lines[2].find(&format!("\"{name}\":")).unwrap()).collect();
    assert!(starts.is_sorted(), "in this order: {}", lines[2]);
    let Value::Object(summary) = serde_json::from_str(lines[2]).unwrap() else { panic!("{}", lines[2]) };
    assert_eq!(summary.len(), names.len(), "{summary:?}");
    assert_eq!(["rows_in", "rows_out", "rows_dead"].map(|name| summary[name].as_u64().unwrap()), [3, 2, 1]);
    for name in ["wall_s", "cpu_s", "p50_ms", "p99_ms"] {
        let value = summary[name].as_f64().unwrap();
        assert!((1e-6..1e5).contains(&value), "{name}: {value}");
    }
    // A process that holds a WebAssembly engine has more than 10 MB and less than this machine.
    assert!((10_000_000..10_000_000_000).contains(&summary["peak_rss_bytes"].as_u64().unwrap()), "{summary:?}");
}

#[test]
fn without_rows_there_are_no_latencies() {
    let folder = Folder::with(&[("pipeline.yaml", PIPELINE), ("rows.csv", "id\n")]);
    let ended = folder.run("tidemill run pipeline.yaml --summary json --quiet");
    let summary: Value = serde_json::from_str(ended.stdout.trim_end()).unwrap();
    assert!(summary["p50_ms"].is_null() && summary["p99_ms"].is_null(), "{summary}");
}

#[test]
fn the_summary_for_people_counts_rows_at_each_node() {
    let folder = Folder::with(&[("pipeline.yaml", PIPELINE), ("rows.csv", "id\n1\ntwo\n3\n")]);
    let ended = folder.run("tidemill run pipeline.yaml");
    assert_eq!(ended.code(), 0, "{ended:?}");
    let said: Vec<&str> = ended.stderr.lines().collect();
    assert!(said[0].starts_with("finished: 3 rows in, 2 out, 1 dead in "), "{said:?}");
    assert!(said[1].starts_with("first row after ") && said[1].ends_with(" ms"), "{said:?}");
    assert!(said[2].starts_with("latency from source to sink: p50 "), "{said:?}");
    assert!(said[3].starts_with("  rows  3 rows read, ") && said[3].ends_with(" s busy, 1 dead"), "{said:?}");
    assert!(said[4].starts_with("  out   2 rows written, "), "{said:?}");
    assert_eq!(said.len(), 5);
}

/// Takes 10 s, the distance of such lines.
#[test]
fn progress_is_a_line_now_and_then_where_there_is_no_terminal() {
    let pipeline = "\
sources:
  rows: { datagen: { rows: 100000, rate: 1000, columns: { id: { sequence: {} } } } }
sinks:
  none: { input: rows, blackhole: {} }
";
    let folder = Folder::with(&[("pipeline.yaml", pipeline)]);
    let mut job = Running::start(folder.shell("exec tidemill run pipeline.yaml --workers 2"));
    let line = job.note();
    job.signal("INT");
    let ended = job.end();
    assert_eq!((ended.code(), ended.stdout.as_str()), (0, ""));
    let parts: Vec<&str> = line.split([':', ',']).map(str::trim).collect();
    let [time, rows_in, rows_out, held, share] = parts[..] else { panic!("{line}") };
    let number = |text: &str, unit: &str| -> f64 {
        let digits = text.split(unit).next().unwrap().replace(' ', "");
        digits.parse().unwrap_or_else(|error| panic!("{line}: {error}"))
    };
    let seconds = number(time, "s");
    assert!(seconds >= 10.0, "{line}");
    let (rows_in, rows_out) = (number(rows_in, "rows in"), number(rows_out, "out"));
    assert!(rows_in > 0.0 && rows_in <= 1010.0 * (seconds + 1.0) && rows_out <= rows_in, "{line}");
    assert_eq!(held, "0 held");
    assert!((number(share, "%") - rows_in / 1000.0).abs() <= 1.0, "{line}");
}
