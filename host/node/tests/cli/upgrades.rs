//! A running job gets other components: good ones, and bad ones that it must survive without losing a row.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use crate::support::{Ended, Folder, Running, build};

const VERSION_NAMES: [&str; 14] = [
    "first",
    "more",
    "text",
    "number",
    "bad-open",
    "bad-call",
    "bad-migration",
    "forgetful",
    "other-output",
    "entries",
    "entries-text",
    "entries-bad-call",
    "entries-bad-migration",
    "entries-list",
];

/// Versions of one operator by feature of `tests/guests/versions`, built once.
static VERSIONS: LazyLock<PathBuf> = LazyLock::new(|| {
    for version in VERSION_NAMES {
        let features = if version == "first" { &[][..] } else { &["--features", version] };
        build("guests/versions", &format!("versions/{version}.wasm"), &["--profile", "dev"], features);
    }
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("versions")
});

const WAIT: Duration = Duration::from_secs(60);

fn component(version: &str) -> String {
    VERSIONS.join(format!("{version}.wasm")).display().to_string()
}

/// Counts rows of keys; what is counted is also written as it is, to compare.
fn pipeline(backend: &str, rate: u64, keys: u64, durable: bool) -> String {
    let checkpoints = match durable {
        true => format!(
            "state: {{ backend: {backend} }}\ncheckpoints: {{ store: store, interval: 500ms }}\n\
             restart: {{ strategy: fixed_delay, attempts: 3, delay: 10ms }}\n"
        ),
        false => String::new(),
    };
    let first = component("first");
    format!(
        "name: counting
{checkpoints}sources:
  numbers: {{ datagen: {{ rate: {rate}, columns: {{ n: {{ sequence: {{ start: 1 }} }}, k: {{ hash: {{ modulo: {keys} }} }} }} }} }}
operators:
  counts: {{ input: numbers, key: [k], component: '{first}' }}
sinks:
  numbers_out: {{ input: numbers, file: {{ path: numbers, format: csv, header: false }} }}
  counts_out: {{ input: counts, file: {{ path: counts, format: csv, header: false }} }}
"
    )
}

fn shell(arguments: &str) -> String {
    format!("export XDG_RUNTIME_DIR=$PWD; exec tidemill {arguments}")
}

/// Asks the job to upgrade.
fn upgrade(folder: &Folder, version: &str, options: &str) -> Ended {
    folder.run(&shell(&format!("upgrade counting --operator counts --component '{}' {options}", component(version))))
}

/// The same, until values of an earlier migration are all migrated.
fn upgrade_in_time(folder: &Folder, version: &str, options: &str) -> Ended {
    let deadline = Instant::now() + WAIT;
    loop {
        let ended = upgrade(folder, version, options);
        if !ended.stderr.contains("are still being migrated") {
            return ended;
        }
        assert!(Instant::now() < deadline, "a migration does not end: {ended:?}");
    }
}

/// Starts the job and waits until it answers.
fn start(folder: &Folder, options: &str) -> Running {
    let job = Running::start(folder.shell(&shell(&format!("run pipeline.yaml --quiet --workers 2 {options}"))));
    let deadline = Instant::now() + WAIT;
    loop {
        let status = folder.run(&shell("status counting --json"));
        if status.code() == 0 && !status.stdout.contains("\"rows_in\":0,") {
            return job;
        }
        assert!(Instant::now() < deadline, "the job does not start: {status:?}");
    }
}

/// Who has made rows. Each number that came in is counted once, and the counts of a key are 1, 2, 3, ...
fn check(folder: &Folder) -> Vec<i64> {
    let numbers = folder.rows("numbers");
    let mut seen = Vec::new();
    let mut by_key: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
    let mut makers = std::collections::BTreeSet::new();
    for row in folder.rows("counts") {
        let [k, n, count, made_by] = row.split(',').map(|v| v.parse().unwrap()).collect::<Vec<i64>>()[..] else {
            panic!("{row}")
        };
        seen.push(format!("{k},{n}"));
        by_key.entry(k).or_default().push(count);
        makers.insert(made_by);
    }
    seen.sort();
    assert_eq!(seen.len(), numbers.len(), "as many rows come out as come in");
    assert!(seen == numbers, "other rows come out than come in");
    for (key, mut counts) in by_key {
        counts.sort_unstable();
        assert!(counts.iter().copied().eq(1..=counts.len() as i64), "key {key} was counted as {counts:?}");
    }
    makers.into_iter().collect()
}

enum Outcome {
    Good(&'static str),
    Refused(&'static str),
}
use Outcome::{Good, Refused};

impl Outcome {
    fn check(&self, ended: &Ended, what: &str) {
        let is_so = match self {
            Good(words) => ended.code() == 0 && ended.stdout.contains(words),
            Refused(words) => ended.code() == 1 && ended.stderr.contains(words),
        };
        assert!(is_so, "{what}: {ended:?}");
    }
}

#[test]
fn twenty_upgrades_under_load_lose_nothing() {
    let steps = [
        ("more", "", Good("state count: kept\nstate calls: new, starts empty\n")),
        ("first", "", Refused("it does not declare the state `calls`, which has values")),
        ("first", "--drop-state calls", Good("state count: kept\nstate calls: dropped\n")),
        ("bad-open", "", Refused("this version does not open")),
        ("bad-call", "", Refused("this version does not work")),
        ("bad-migration", "", Refused("state `count` can't be migrated from version 1: ")),
        ("more", "", Good("state count: kept")),
        ("forgetful", "--drop-state calls", Refused("it does not declare the state `count`")),
        ("other-output", "--drop-state calls", Refused("its outputs are (")),
        ("first", "--drop-state other", Refused("`calls`")),
        ("text", "--drop-state calls", Good("state count: migrated from version 1 to 2\n")),
        ("more", "", Refused("state `count` has version 2, but it declares version 1")),
        ("bad-call", "", Refused("this version does not work")),
        ("bad-migration", "", Refused("state `count` can't be migrated from version 2: ")),
        ("number", "", Good("state count: migrated from version 2 to 3\n")),
        ("number", "", Good("state count: kept\n")),
        ("bad-call", "", Refused("this version does not work")),
        ("text", "", Refused("state `count` has version 3, but it declares version 2")),
        ("bad-open", "", Refused("this version does not open")),
        ("number", "--dry-run", Good("nothing was changed\n")),
    ];
    for backend in ["heap", "rocksdb"] {
        let folder = Folder::with(&[("pipeline.yaml", &pipeline(backend, 50_000, 20_000, true))]);
        let job = start(&folder, "");
        for (version, options, expected) in &steps {
            let ended = upgrade_in_time(&folder, version, options);
            expected.check(&ended, &format!("{backend}: {version} {options}"));
        }
        let stopped = folder.run(&shell("stop counting"));
        assert_eq!(stopped.code(), 0, "{stopped:?}");
        let ended = job.end();
        assert_eq!(ended.code(), 0, "{ended:?}");
        assert_eq!(check(&folder), [1, 2, 3, 4], "{backend}: each good version has worked");
    }
}

#[test]
fn a_job_without_checkpoints_is_upgraded_as_well() {
    let folder = Folder::with(&[("pipeline.yaml", &pipeline("heap", 20_000, 100, false))]);
    let job = start(&folder, "");
    for version in ["more", "bad-call", "number"] {
        let ended = upgrade_in_time(&folder, version, if version == "more" { "" } else { "--drop-state calls" });
        assert_eq!(ended.code(), i32::from(version == "bad-call"), "{ended:?}");
    }
    job.signal("INT");
    let ended = job.end();
    assert_eq!(ended.code(), 0, "{ended:?}");
    assert_eq!(check(&folder), [1, 2, 4]);
}

#[test]
fn upgrades_hold_in_several_processes_and_when_their_number_changes() {
    let folder = Folder::with(&[("pipeline.yaml", &pipeline("rocksdb", 20_000, 2_000, true))]);
    let job = start(&folder, "--processes 2");
    let rescale = |processes: u32| {
        let ended = folder.run(&shell(&format!("rescale counting --workers 1 --processes {processes}")));
        assert_eq!(ended.code(), 0, "{ended:?}");
    };
    let go_over = |version: &str, options: &str, words: &str| {
        let ended = upgrade_in_time(&folder, version, options);
        let said = format!("{}{}", ended.stdout, ended.stderr);
        assert!((ended.code() == 0) == words.starts_with("state") && said.contains(words), "{version}: {ended:?}");
    };
    go_over("more", "", "state count: kept");
    go_over("bad-open", "--drop-state calls", "this version does not open");
    go_over("bad-call", "--drop-state calls", "this version does not work");
    go_over("text", "--drop-state calls", "state count: migrated from version 1 to 2");
    rescale(1);
    rescale(2);
    go_over("more", "", "has version 2, but it declares version 1");
    go_over("number", "", "state count: migrated from version 2 to 3");
    let stopped = folder.run(&shell("stop counting"));
    assert_eq!(stopped.code(), 0, "{stopped:?}");
    let ended = job.end();
    assert_eq!(ended.code(), 0, "{ended:?}");
    assert_eq!(check(&folder), [1, 2, 3, 4]);
}

#[test]
fn one_upgrade_is_under_way_at_a_time() {
    let folder = Folder::with(&[("pipeline.yaml", &pipeline("heap", 2000, 100, true))]);
    let job = start(&folder, "");
    let words = format!("upgrade counting --operator counts --component '{}' --shadow 20s", component("text"));
    let shadow = Running::start(folder.shell(&shell(&words)));
    let deadline = Instant::now() + WAIT;
    // As soon as the first request is there.
    let refused = loop {
        let asked = upgrade(&folder, "more", "--dry-run");
        if asked.code() != 0 {
            break asked;
        }
        assert!(Instant::now() < deadline, "a second request is answered beside the first: {asked:?}");
    };
    Refused("another upgrade of the job is under way").check(&refused, "the second request");
    job.signal("INT");
    assert_eq!(job.end().code(), 0);
    assert_eq!(shadow.end().code(), 1, "the job has ended before");
}

#[test]
fn a_shadow_shows_what_would_differ_before_anything_changes() {
    for backend in ["heap", "rocksdb"] {
        let folder = Folder::with(&[("pipeline.yaml", &pipeline(backend, 20_000, 500, true))]);
        let job = start(&folder, "");
        let same = upgrade(&folder, "first", "--shadow 1s --dry-run");
        assert!(same.code() == 0 && same.stdout.contains(" rows compared, none differs\n"), "{same:?}");
        assert!(!same.stdout.contains("shadow: 0 rows"), "there was something to compare: {same:?}");
        let other = upgrade(&folder, "text", "--shadow 1s");
        assert!(other.code() == 1 && other.stderr.contains("operator counts stays as it is"), "{other:?}");
        // They agree on the counts, the migrated ones too, but each says who it is.
        let lines: Vec<&str> = other.stdout.lines().filter(|line| line.starts_with("  ")).collect();
        let (ours, theirs) = (lines[0].replace("\"made_by\":1", ""), lines[1].replace("\"made_by\":3", ""));
        assert!(ours.starts_with("  - {") && theirs.starts_with("  + {"), "{other:?}");
        assert_eq!(ours[4..], theirs[4..], "{other:?}");
        let failing = upgrade(&folder, "bad-call", "--shadow 1s --accept-differences");
        assert!(failing.code() == 1 && failing.stderr.contains("this version does not work"), "{failing:?}");
        let accepted = upgrade(&folder, "text", "--shadow 200ms --accept-differences");
        assert_eq!(accepted.code(), 0, "{accepted:?}");
        let stopped = folder.run(&shell("stop counting"));
        assert_eq!(stopped.code(), 0, "{stopped:?}");
        assert_eq!(job.end().code(), 0);
        assert_eq!(check(&folder), [1, 3]);
    }
}

#[test]
fn a_restart_migrates_what_an_earlier_version_has_written() {
    for backend in ["heap", "rocksdb"] {
        let folder = Folder::with(&[("pipeline.yaml", &pipeline(backend, 20_000, 5_000, true))]);
        for version in ["first", "text", "number"] {
            let text = pipeline(backend, 20_000, 5_000, true).replace(&component("first"), &component(version));
            folder.write("pipeline.yaml", text.as_bytes());
            let job = start(&folder, "");
            // It ends in the middle of a migration, or behind it.
            let stopped = folder.run(&shell("stop counting"));
            assert_eq!(stopped.code(), 0, "{stopped:?}");
            let ended = job.end();
            assert_eq!(ended.code(), 0, "{ended:?}");
        }
        let back = pipeline(backend, 20_000, 5_000, true);
        folder.write("pipeline.yaml", back.as_bytes());
        let ended = folder.run(&shell("run pipeline.yaml --quiet"));
        assert!(ended.code() == 1 && ended.stderr.contains("version 3"), "{ended:?}");
        assert_eq!(check(&folder), [1, 3, 4], "{backend}");
    }
}

#[test]
fn lists_and_maps_come_through_upgrades_and_restarts() {
    let steps = [
        ("entries", "", Good("state last: kept\nstate by_rest: kept\n")),
        ("entries-list", "", Refused("state `by_rest` is map of int64 to int64 in version 1, but list of int64 in")),
        ("entries-bad-migration", "", Refused("state `last` can't be migrated from version 1: ")),
        ("entries-bad-call", "", Refused("this version does not work")),
        ("entries-text", "--shadow 200ms --accept-differences", Good("migrated from version 1 to 2\n")),
        ("entries-text", "", Good("state last: kept\nstate by_rest: kept\n")),
        ("entries-bad-call", "", Refused("this version does not work")),
        ("entries", "", Refused("state `last` has version 2, but it declares version 1")),
    ];
    for backend in ["heap", "rocksdb"] {
        let text = pipeline(backend, 20_000, 2_000, true);
        let with = |version: &str| text.replace(&component("first"), &component(version));
        let folder = Folder::with(&[("pipeline.yaml", &with("entries"))]);
        let job = start(&folder, "");
        for (version, options, expected) in &steps {
            expected.check(&upgrade_in_time(&folder, version, options), &format!("{backend}: {version} {options}"));
        }
        let stopped = folder.run(&shell("stop counting"));
        assert_eq!(stopped.code(), 0, "{stopped:?}");
        assert_eq!(job.end().code(), 0);
        assert_eq!(check(&folder), [5, 6], "{backend}: each good version has worked");
        // From the beginning once more: the next version takes over at a restart, which may end in the middle of its migration.
        let folder = Folder::with(&[("pipeline.yaml", &with("entries"))]);
        for (version, from, stop) in [
            ("entries", "", "stop counting"),
            ("entries-text", "", "stop counting --savepoint next"),
            ("entries-text", "--from next", "stop counting"),
        ] {
            folder.write("pipeline.yaml", with(version).as_bytes());
            let job = start(&folder, from);
            let stopped = folder.run(&shell(stop));
            assert_eq!(stopped.code(), 0, "{stopped:?}");
            assert_eq!(job.end().code(), 0);
        }
        assert_eq!(check(&folder), [5, 6], "{backend}");
    }
}

#[test]
fn who_asks_for_what_does_not_exist_is_told() {
    let folder =
        Folder::with(&[("pipeline.yaml", &pipeline("heap", 20_000, 100, true)), ("text.wasm", "no component")]);
    let job = start(&folder, "");
    let first = component("first");
    for (arguments, words) in [
        (format!("--operator counter --component '{first}'"), "the job has no operator `counter`"),
        (format!("--operator numbers --component '{first}'"), "the job has no operator `numbers`"),
        ("--operator counts --component text.wasm".into(), "text.wasm"),
        ("--operator counts --component missing.wasm".into(), "missing.wasm"),
        (format!("--operator counts --component '{first}' --drop-state nothing"), "there is no state `nothing`"),
    ] {
        let ended = folder.run(&shell(&format!("upgrade counting {arguments}")));
        assert!(ended.code() == 1 && ended.stderr.contains(words), "{arguments}: {ended:?}");
    }
    let stopped = folder.run(&shell("stop counting"));
    assert_eq!(stopped.code(), 0, "{stopped:?}");
    assert_eq!(job.end().code(), 0);
    assert_eq!(check(&folder), [1]);
}
