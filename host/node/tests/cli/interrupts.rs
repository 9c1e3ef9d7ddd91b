//! Ctrl-C and SIGTERM: once drains, twice ends at once; and what is visible then.

use serde_json::Value;

use crate::support::{EVIL, Folder, Running};

const STOPPING: &str =
    "stopping: sources end at the next boundary, what they have read is processed (Ctrl-C again ends at once)";
const AT_ONCE: &str = "ended at once on request; nothing that sinks had not committed is visible";

/// Rows without end, shown and kept.
fn endless(options: &str) -> String {
    format!(
        "options: {{ {options} }}
sources:
  rows: {{ datagen: {{ rate: 2000, columns: {{ id: {{ sequence: {{}} }} }} }} }}
sinks:
  shown: {{ input: rows, stdout: {{}} }}
  kept: {{ input: rows, file: {{ path: out, format: csv, header: false, roll_rows: 100 }} }}
"
    )
}

#[test]
fn one_signal_drains_and_keeps_every_row_that_was_read() {
    for (signal, options) in [("INT", ""), ("TERM", ""), ("INT", "ticks: batch")] {
        let folder = Folder::with(&[("pipeline.yaml", &endless(options))]);
        let mut job = Running::start(folder.shell("exec tidemill run pipeline.yaml --workers 2 --summary json"));
        job.line();
        job.signal(signal);
        let ended = job.end();
        assert_eq!(ended.code(), 0, "{ended:?}");
        let said: Vec<&str> = ended.stderr.lines().collect();
        assert_eq!(said[0], STOPPING);
        assert!(said[1].starts_with("stopped on request: what had been read was processed, "), "{said:?}");
        let mut shown: Vec<&str> = ended.stdout.lines().collect();
        let summary: Value = serde_json::from_str(shown.pop().unwrap()).unwrap();
        let rows = summary["rows_in"].as_u64().unwrap() as usize;
        assert!(rows > 0);
        assert_eq!((shown.len(), folder.rows("out").len()), (rows, rows), "{signal}, {options}");
        assert!(folder.files().iter().all(|name| !name.contains("/.")), "{:?}", folder.files());
    }
}

/// Starts a job, waits until it has shown a row, interrupts it, waits until it has understood, interrupts it again.
fn interrupt_twice(folder: &Folder, script: &str) {
    let mut job = Running::start(folder.shell(script));
    job.line();
    job.signal("INT");
    assert_eq!(job.note(), STOPPING);
    job.signal("INT");
    let ended = job.end();
    assert_eq!(ended.code(), 130, "{ended:?}");
    assert_eq!(ended.stderr, format!("{STOPPING}\n{AT_ONCE}\n"));
    assert_eq!(folder.rows("out"), [""; 0], "something is visible: {:?}", folder.files());
}

#[test]
fn two_signals_end_a_job_whose_source_is_stuck() {
    let stuck = endless("")
        .replace("sources:", "sources:\n  pipe: { file: { path: pipe, format: csv, columns: { id: int64 } } }");
    let stuck = stuck.replace("input: rows, file", "input: [rows, pipe], file");
    let folder = Folder::with(&[("pipeline.yaml", &stuck)]);
    // The shell keeps the pipe open and writes nothing into it; one worker reads it, the other shows rows.
    interrupt_twice(&folder, "mkfifo pipe; exec 9<> pipe; exec tidemill run pipeline.yaml --workers 2");
}

#[test]
fn two_signals_end_a_job_whose_sink_is_stuck() {
    let folder = Folder::with(&[("pipeline.yaml", &endless("").replace("rate: 2000, ", ""))]);
    // The first row is read, and then nothing more.
    let script = "mkfifo shown; exec 9<> shown; { read row <&9; echo \"$row\"; } & \
        exec tidemill run pipeline.yaml --workers 2 > shown";
    interrupt_twice(&folder, script);
}

#[test]
fn two_signals_end_a_job_whose_component_is_stuck() {
    let stuck = endless("call_time: 10m").replace(
        "sinks:",
        "operators:
  work: { input: once, component: evil.wasm, operator: map, config: { do: loop } }
  plain: { input: work, select: [n] }
sinks:
  none: { input: plain, blackhole: {} }",
    );
    let stuck = stuck.replace("sources:", "sources:\n  once: { file: { path: rows.csv, columns: { n: int64 } } }");
    let folder = Folder::with(&[("pipeline.yaml", &stuck), ("rows.csv", "n\n1\n")]);
    std::os::unix::fs::symlink(&*EVIL, folder.path().join("evil.wasm")).unwrap();
    interrupt_twice(&folder, "exec tidemill run pipeline.yaml --workers 2");
}
