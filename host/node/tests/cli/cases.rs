//! Every file in `tests/cases/run` against its golden: exit code, all that is said, all that is written.
//!
//! A case is a text with sections, `-- NAME --`: files, and if they are there `-- setup --` (a shell script that prepares
//! the folder) and `-- run --` (the command; by default [`COMMAND`]). Lines in front of the first section say what the
//! case is for. `evil.wasm` is there if the case names it. Each case runs with one worker and with three, and one golden
//! holds for both. Where there is a summary, rows in = rows out + rows dead: no case makes rows or drops them.
//! `UPDATE=1` rewrites goldens.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

use crate::support::{EVIL, Ended, Folder};

const COMMAND: &str = "tidemill run pipeline.yaml --workers $WORKERS --quiet --summary json";
/// Cases that run at the same time.
const THREADS: usize = 4;

#[test]
fn every_case_ends_as_its_golden_says() {
    let cases = cases();
    assert!(cases.len() >= 40, "cases are missing: only {}", cases.len());
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(String::new()));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let wrong = check(case);
                    failures.lock().unwrap().push_str(&wrong);
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{failures}");
}

fn cases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/cases/run");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|ending| ending == "case"));
    files.sort();
    files
}

/// What is wrong with it, if anything.
fn check(file: &Path) -> String {
    let case = Case::read(&std::fs::read(file).unwrap());
    let golden = file.with_extension("txt");
    let mut failures = String::new();
    for workers in [1, 3] {
        let said = case.run(workers);
        if std::env::var_os("UPDATE").is_some() && workers == 1 {
            std::fs::write(&golden, &said).unwrap();
        }
        let expected = std::fs::read_to_string(&golden).unwrap_or_default();
        if said != expected || said.contains("ROWS ARE") {
            let name = file.file_name().unwrap_or_default().display();
            let _ = writeln!(failures, "== {name}, {workers} workers\n{said}\n-- but the golden is\n{expected}");
        }
    }
    failures
}

struct Case {
    files: Vec<(String, Vec<u8>)>,
    setup: String,
    command: String,
    evil: bool,
}

impl Case {
    fn read(bytes: &[u8]) -> Self {
        let mut case = Self { files: Vec::new(), setup: String::new(), command: COMMAND.into(), evil: false };
        case.evil = String::from_utf8_lossy(bytes).contains("evil.wasm");
        for line in bytes.split_inclusive(|b| *b == b'\n') {
            let text = std::str::from_utf8(line).unwrap_or_default().trim_end();
            let name = text.strip_prefix("-- ").and_then(|rest| rest.strip_suffix(" --"));
            match (name, case.files.last_mut()) {
                (Some(name), _) => case.files.push((name.to_owned(), Vec::new())),
                (None, Some((_, content))) => content.extend(line),
                (None, None) => {}
            }
        }
        for (section, text) in [("setup", &mut case.setup), ("run", &mut case.command)] {
            if let Some(at) = case.files.iter().position(|(name, _)| name == section) {
                *text = String::from_utf8(case.files.remove(at).1).unwrap();
            }
        }
        case
    }

    fn run(&self, workers: usize) -> String {
        let folder = Folder::new();
        self.files.iter().for_each(|(name, bytes)| folder.write(name, bytes));
        if self.evil {
            std::os::unix::fs::symlink(&*EVIL, folder.path().join("evil.wasm")).unwrap();
        }
        let setup = folder.run(&self.setup);
        assert!(setup.status.success(), "setup: {}", setup.stderr);
        let before = folder.files();
        let ended = folder.run(&format!("WORKERS={workers}\n{}", self.command));
        let mut said = normal(&ended, &folder);
        for name in folder.files().iter().filter(|name| !before.contains(name)) {
            match name.rsplit_once('/') {
                Some((_, file)) if file.starts_with("part-") => {}
                _ => said += &format!("left behind: {name}\n"),
            }
        }
        for place in ["out", "dead"] {
            for row in folder.rows(place) {
                said += &format!("{place}: {}\n", without_stack(&row));
            }
        }
        said
    }
}

/// What was said, without what differs from run to run.
fn normal(ended: &Ended, folder: &Folder) -> String {
    let mut text = format!("exit {}\n", ended.code());
    for line in without_stacks(&ended.stderr) {
        let _ = writeln!(text, "stderr: {line}");
    }
    for line in ended.stdout.lines() {
        match summary(line) {
            Some((rows_in, rows_out, rows_dead)) => {
                let verdict = if rows_in == rows_out + rows_dead { "" } else { ": ROWS ARE LOST OR MADE" };
                let _ = writeln!(text, "summary: {rows_in} rows in, {rows_out} out, {rows_dead} dead{verdict}");
            }
            None => {
                let _ = writeln!(text, "stdout: {}", without_stack(line));
            }
        }
    }
    let mut text = text.replace(&folder.path().display().to_string(), "FOLDER");
    for worker in 0..3 {
        text =
            text.replace(&format!("(worker {worker})"), "(worker N)").replace(&format!("/part-{worker}-"), "/part-N-");
    }
    text.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// Rows in, out and dead.
fn summary(line: &str) -> Option<(u64, u64, u64)> {
    let summary: Value = serde_json::from_str(line).ok()?;
    let count = |name: &str| summary.get(name)?.as_u64();
    Some((count("rows_in")?, count("rows_out")?, count("rows_dead")?))
}

/// The functions on a guest's stack are the compiler's business.
fn without_stacks(text: &str) -> Vec<&str> {
    let frame = |line: &str| line.trim_start().split_once(": ").is_some_and(|(n, _)| n.parse::<u32>().is_ok());
    let mut in_stack = false;
    let mut lines = Vec::new();
    for line in text.lines() {
        in_stack = line.ends_with("guest stack:") || in_stack && (frame(line) || line.ends_with(" more"));
        if !in_stack {
            lines.push(line);
        }
    }
    lines
}

/// The same in one line of JSON.
fn without_stack(line: &str) -> String {
    match (line.find(r"\n  guest stack:"), line.find(r#"","row":"#)) {
        (Some(from), Some(to)) if from < to => format!("{}{}", &line[..from], &line[to..]),
        _ => line.to_owned(),
    }
}
