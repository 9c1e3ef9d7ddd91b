//! Chaos: jobs that are killed at random moments and at each phase of a checkpoint, and run again, until they have read all
//! their input. What their sinks show then is what one run without a fault shows, row for row.
//!
//! `TIDEMILL_CHAOS_ROUNDS` is the number of kills over all kinds of jobs (default: 48), `TIDEMILL_CHAOS_SEED` what is random,
//! `TIDEMILL_CHAOS_KIND` the only kind to run, counted from 0.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use tidemill_model::checkpoint::ObjectStore;
use tidemill_store::s3::Bucket;
use tidemill_store::testing::S3Server;

/// Rows of the generator; at `RATE` a run lasts some seconds.
const ROWS: u64 = 240_000;
const RATE: u64 = 120_000;
/// Of one job.
const KILLS_MAX: u64 = 12;
const PHASES: &[&str] = &["upload", "manifest", "commit", "committing", "restore"];
/// Those that are not the leader's alone.
const FOLLOWER_PHASES: &[&str] = &["upload", "committing", "restore"];
/// A run that takes longer hangs.
const DEADLINE: Duration = Duration::from_secs(120);

/// The operators of the cases, as a component.
static OPERATORS: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let out = folder.join("chaos-operators.wasm");
    let operators = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/operators");
    let built = Command::new(env!("CARGO_BIN_EXE_tidemill"))
        .arg("build")
        .arg(operators)
        .arg("--out")
        .arg(&out)
        .args(["--", "--locked", "--target-dir"])
        .arg(folder.join("cli-guests"))
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .output()
        .expect("tidemill starts");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    out
});

/// What differs between jobs.
#[derive(Clone, Copy, Debug)]
struct Kind {
    backend: &'static str,
    /// Checkpoints and the files of sinks.
    s3: bool,
    processes: u64,
}

const KINDS: &[Kind] = &[
    Kind { backend: "heap", s3: false, processes: 1 },
    Kind { backend: "rocksdb", s3: false, processes: 1 },
    Kind { backend: "heap", s3: true, processes: 1 },
    Kind { backend: "rocksdb", s3: true, processes: 1 },
    Kind { backend: "heap", s3: false, processes: 2 },
    Kind { backend: "rocksdb", s3: false, processes: 2 },
    Kind { backend: "heap", s3: true, processes: 2 },
    Kind { backend: "rocksdb", s3: true, processes: 2 },
];

/// A server that speaks S3, for all jobs.
static S3: LazyLock<S3Server> = LazyLock::new(|| {
    let server = S3Server::start();
    Bucket::open(BUCKET, "", &server.options()).and_then(|bucket| bucket.create_bucket()).expect("a bucket");
    server
});
const BUCKET: &str = "chaos";

/// Windows, state with timers, a count per row, and the rows themselves. What comes out depends on no order of rows.
fn pipeline(kind: Kind, durable: bool, life: u64) -> String {
    let component = OPERATORS.display();
    let store = if kind.s3 && durable { format!("s3://{BUCKET}/life-{life}") } else { "store".into() };
    let durability = match durable {
        true => format!(
            "state: {{ backend: {}, directory: work }}\ncheckpoints: {{ store: '{store}', interval: 60ms, keep: 2 }}\nrestart: {{ {} }}",
            kind.backend,
            // A job that has lost another process goes on by itself.
            if kind.processes > 1 { "strategy: fixed_delay, attempts: 3, delay: 10ms" } else { "strategy: none" }
        ),
        false => String::new(),
    };
    let out = if kind.s3 && durable { format!("s3://{BUCKET}/out-{life}") } else { "out".into() };
    let rate = if durable { format!("rate: {RATE}, ") } else { String::new() };
    format!(
        "name: chaos\n{durability}\n\
         sources:\n\
         \x20 numbers:\n\
         \x20   datagen: {{ rows: {ROWS}, {rate}columns: {{ n: {{ sequence: {{ start: 1 }} }}, k: {{ hash: {{ modulo: 500 }} }}, t: {{ timestamp: {{ start: 2024-01-01, step: 1ms }} }} }} }}\n\
         \x20   event_time: {{ column: t, delay: 2s }}\n\
         operators:\n\
         \x20 sliced: {{ input: numbers, select: [k, n, 'cast(t as bigint) / 3000 as slice'] }}\n\
         \x20 totals: {{ input: sliced, key: [k, slice], component: '{component}', operator: totals, config: {{ size: 3s }} }}\n\
         \x20 counts: {{ input: numbers, key: [k], component: '{component}', operator: count }}\n\
         \x20 counted: {{ input: counts, select: [k, count] }}\n\
         \x20 windows: {{ input: numbers, key: [k], window: {{ tumbling: 5s }}, aggregates: {{ rows: count(*), sum: sum(n), mean: avg(n) }} }}\n\
         sinks:\n\
         \x20 rows: {{ input: numbers, file: {{ path: '{out}/rows', format: ndjson }} }}\n\
         \x20 counted_out: {{ input: counted, file: {{ path: '{out}/counted', format: ndjson, roll_rows: 5000 }} }}\n\
         \x20 totals_out: {{ input: totals, file: {{ path: '{out}/totals', format: ndjson }} }}\n\
         \x20 windows_out: {{ input: windows, file: {{ path: '{out}/windows', format: ndjson }} }}\n"
    )
}

/// Visible rows by sink, sorted, of a life on S3.
fn remote_output(life: u64) -> BTreeMap<String, Vec<String>> {
    let bucket = Bucket::open(BUCKET, &format!("out-{life}"), &S3.options()).expect("a bucket");
    let mut output: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, _) in bucket.list("").expect("objects") {
        let (sink, _) = name.split_once('/').expect("an object of a sink");
        let bytes = bucket.get(&name).expect("an object can be read").expect("it is there");
        let text = String::from_utf8(bytes).expect("text");
        output.entry(sink.to_owned()).or_default().extend(text.lines().map(str::to_owned));
    }
    output.values_mut().for_each(|rows| rows.sort());
    output
}

/// The same in a folder.
fn output(folder: &Path) -> BTreeMap<String, Vec<String>> {
    let mut output = BTreeMap::new();
    for sink in std::fs::read_dir(folder.join("out")).expect("sinks have written") {
        let sink = sink.expect("a folder").path();
        let mut rows = Vec::new();
        for part in std::fs::read_dir(&sink).expect("a folder").map(|part| part.expect("a file").path()) {
            if !part.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')) {
                let text = std::fs::read_to_string(&part).expect("a part file can be read");
                rows.extend(text.lines().map(str::to_owned));
            }
        }
        rows.sort();
        output.insert(sink.file_name().unwrap_or_default().to_string_lossy().into_owned(), rows);
    }
    output
}

/// The first difference, in words.
fn difference(expected: &BTreeMap<String, Vec<String>>, got: &BTreeMap<String, Vec<String>>) -> Option<String> {
    for (sink, rows) in expected {
        let have = got.get(sink).map_or(&[][..], Vec::as_slice);
        if rows != have {
            let mut counts: BTreeMap<&str, i64> = BTreeMap::new();
            rows.iter().for_each(|row| *counts.entry(row).or_default() -= 1);
            have.iter().for_each(|row| *counts.entry(row).or_default() += 1);
            let wrong: Vec<_> = counts.iter().filter(|(_, n)| **n != 0).collect();
            let shown: Vec<String> = wrong.iter().take(5).map(|(row, n)| format!("{n:+} {row}")).collect();
            return Some(format!(
                "{sink}: {} rows, expected {}; {} differ:\n{}",
                have.len(),
                rows.len(),
                wrong.len(),
                shown.join("\n")
            ));
        }
    }
    None
}

fn tidemill(folder: &Path, kind: Kind, workers: usize) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
    command.args(["run", "pipeline.yaml", "--quiet", "--workers", &workers.to_string()]).current_dir(folder);
    command.args(["--processes", &kind.processes.to_string()]);
    command.env("XDG_CACHE_HOME", Path::new(env!("CARGO_TARGET_TMPDIR")).join("cli-cache"));
    command.env("XDG_RUNTIME_DIR", folder).env("TIDEMILL_LOG", "warn");
    if kind.s3 {
        command.envs(S3.environment());
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        // A linear congruential generator's high bits are good enough to choose moments.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Leader,
    Follower,
}

/// How a run went.
struct Ran {
    /// None: the leader was killed, by us or by itself at a phase.
    status: Option<ExitStatus>,
    stderr: String,
    /// We have killed another process of it.
    follower_killed: bool,
}

/// Runs until the end or, if the leader is to be killed, until then.
fn run(mut command: Command, kill_after: Option<(Duration, Victim)>) -> Ran {
    let mut child = command.spawn().expect("tidemill starts");
    let (began, mut kill_after, mut follower_killed) = (Instant::now(), kill_after, false);
    loop {
        if let Some(status) = child.try_wait().expect("the process can be waited for") {
            let mut stderr = String::new();
            std::io::Read::read_to_string(&mut child.stderr.take().expect("piped"), &mut stderr).expect("text");
            return Ran { status: status.code().map(|_| status), stderr, follower_killed };
        }
        if let Some((after, victim)) = kill_after
            && began.elapsed() >= after
        {
            if victim == Victim::Leader {
                child.kill().expect("it is ours");
                child.wait().expect("it ends");
                return Ran { status: None, stderr: String::new(), follower_killed };
            }
            follower_killed = kill_children(child.id());
            kill_after = None;
        }
        assert!(began.elapsed() < DEADLINE, "a run hangs");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// False: there was none.
fn kill_children(parent: u32) -> bool {
    let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
    let kill = |child: &str| Command::new("sh").args(["-c", &format!("kill -KILL {child}")]).status();
    children.split_whitespace().filter(|child| kill(child).is_ok_and(|status| status.success())).count() > 0
}

/// A whole number from the environment.
fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

#[test]
fn nothing_is_lost_and_nothing_comes_twice() {
    let reference = tempfile::tempdir().expect("a folder");
    std::fs::write(reference.path().join("pipeline.yaml"), pipeline(KINDS[0], false, 0)).expect("a file");
    let Ran { status, stderr, .. } = run(tidemill(reference.path(), KINDS[0], 2), None);
    assert!(status.is_some_and(|s| s.success()), "the run without a fault: {stderr}");
    let expected = output(reference.path());
    assert_eq!(expected["rows"].len() as u64, ROWS);

    let seed = setting("TIDEMILL_CHAOS_SEED", 1);
    let rounds = setting("TIDEMILL_CHAOS_ROUNDS", 48);
    let kinds = KINDS.iter().enumerate();
    let only = std::env::var("TIDEMILL_CHAOS_KIND").ok();
    for (number, kind) in kinds.filter(|(number, _)| only.as_ref().is_none_or(|only| *only == number.to_string())) {
        let mut random = Random(seed.wrapping_add(number as u64 * 1000));
        let mut kills = 0;
        while kills < rounds.div_ceil(KINDS.len() as u64) {
            kills += one_life(*kind, &expected, &mut random);
        }
    }
}

/// A job from its beginning to its end, through kills. Their number.
fn one_life(kind: Kind, expected: &BTreeMap<String, Vec<String>>, random: &mut Random) -> u64 {
    let folder = tempfile::tempdir().expect("a folder");
    let life = random.below(u64::MAX >> 32);
    std::fs::write(folder.path().join("pipeline.yaml"), pipeline(kind, true, life)).expect("a file");
    let (mut story, mut kills) = (Vec::new(), 0);
    loop {
        let workers = 1 + random.below(4 - kind.processes) as usize;
        let mut command = tidemill(folder.path(), kind, workers);
        let mut after = None;
        // Lives end: from some kill on nobody disturbs it.
        if kills < KILLS_MAX {
            let victim = [Victim::Leader, Victim::Follower][random.below(kind.processes) as usize];
            if random.below(2) == 0 {
                let phases = if victim == Victim::Leader { PHASES } else { FOLLOWER_PHASES };
                let phase = phases[random.below(phases.len() as u64) as usize];
                let nth = 1 + random.below(6);
                command.env("TIDEMILL_KILL_AT", format!("{phase}:{nth}"));
                command.env("TIDEMILL_KILL_PROCESS", (victim as u8).to_string());
                story.push(format!("{workers} workers, {victim:?} {phase}:{nth}"));
            } else {
                let ms = 20 + random.below(700);
                after = Some((Duration::from_millis(ms), victim));
                story.push(format!("{workers} workers, {victim:?} {ms} ms"));
            }
        } else {
            story.push(format!("{workers} workers"));
        }
        let ran = run(command, after);
        // At a phase it may kill itself more often than the job is started again.
        let lost = ran.stderr.contains("process 1 was lost: ") || ran.stderr.contains("process 1 ended before");
        kills += u64::from(ran.follower_killed || lost);
        match (ran.status, ran.stderr) {
            (None, _) => kills += 1,
            (Some(status), _) if !status.success() && lost => {}
            (Some(status), stderr) => {
                assert!(status.success(), "{kind:?}, {story:?}: {stderr}");
                let output = if kind.s3 { remote_output(life) } else { output(folder.path()) };
                if let Some(difference) = difference(expected, &output) {
                    panic!("{kind:?}, {story:?} (in {}): {difference}", folder.keep().display());
                }
                return kills.max(1);
            }
        }
    }
}

#[test]
fn what_a_sink_has_written_to_s3_a_source_reads_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = format!("s3://{BUCKET}/files-{}", std::process::id());
    let write = format!(
        "name: writing
sources:
  numbers: {{ datagen: {{ rows: 20000, columns: {{ n: {{ sequence: {{ start: 1 }} }}, k: {{ hash: {{ modulo: 3 }} }} }} }} }}
sinks:
  out: {{ input: numbers, file: {{ path: '{place}/in', format: csv, compression: gzip, roll_rows: 5000, bucket: {{ columns: [k] }} }} }}
"
    );
    let read = |path: &str| {
        format!(
            "name: reading
sources:
  numbers: {{ file: {{ path: '{path}', format: csv }} }}
operators:
  ours: {{ input: numbers, select: [n] }}
sinks:
  out: {{ input: ours, file: {{ path: out, format: csv, header: false }} }}
"
        )
    };
    let run_it = |text: &str| {
        let _ = std::fs::remove_dir_all(folder.path().join("out"));
        std::fs::write(folder.path().join("pipeline.yaml"), text).expect("a file");
        run(tidemill(folder.path(), KINDS[2], 2), None)
    };
    let Ran { status, stderr, .. } = run_it(&write);
    assert!(status.is_some_and(|s| s.success()), "{stderr}");
    let rows = |path: &str| {
        let Ran { status, stderr, .. } = run_it(&read(path));
        assert!(status.is_some_and(|s| s.success()), "{path}: {stderr}");
        let parts = std::fs::read_dir(folder.path().join("out")).expect("a folder").map(|part| part.expect("a file"));
        let text = parts.map(|part| std::fs::read_to_string(part.path()).expect("text")).collect::<String>();
        let mut rows: Vec<u64> = text.lines().map(|row| row.parse().expect("a number")).collect();
        rows.sort_unstable();
        rows
    };
    let all: Vec<u64> = (1..=20_000).collect();
    assert_eq!(rows(&format!("{place}/in")), all, "a folder");
    assert_eq!(rows(&format!("{place}/in/**/*.csv.gz")), all, "a glob");
    let some = rows(&format!("{place}/in/k=[12]/*.csv.gz"));
    assert!(some.len() < all.len() && !some.is_empty(), "{} rows", some.len());
    for (path, words) in [
        (format!("{place}/nothing/*.csv"), "no object matches"),
        ("s3://no-such-bucket/x.csv".into(), "no-such-bucket"),
        ("s3:///x.csv".into(), "names no bucket"),
    ] {
        let Ran { status, stderr, .. } = run_it(&read(&path));
        assert!(status.is_some_and(|s| !s.success()) && stderr.contains(words), "{path}: {stderr}");
    }
}
