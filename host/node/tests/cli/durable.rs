//! Jobs with checkpoints: stopped, killed, rescaled, restarted, from savepoints, with damaged stores.

use crate::support::{EVIL, Ended, Folder, Running, operators};

/// So many rows that whatever interrupts the job finds it in the middle, on any machine: most of a minute.
const ROWS: u64 = 1_000_000;
const LONG: &str = "rows: 1000000,";

/// Numbers from 1 on: `limit` of them, or without end.
fn numbers(limit: &str, checkpoints: &str) -> String {
    format!(
        "name: numbers
checkpoints: {{ store: store, {checkpoints} }}
sources:
  rows: {{ datagen: {{ {limit} rate: 20000, columns: {{ id: {{ sequence: {{ start: 1 }} }}, k: {{ hash: {{ modulo: 10 }} }}, t: {{ timestamp: {{ start: 2024-01-01, step: 1ms }} }} }} }}, event_time: {{ column: t, delay: 5s }} }}
operators:
  sums: {{ input: rows, key: [k], window: {{ tumbling: 1m }}, aggregates: {{ rows: count(*) }} }}
sinks:
  kept: {{ input: rows, file: {{ path: out, format: csv, header: false }} }}
  sums_out: {{ input: sums, file: {{ path: sums, format: csv, header: false }} }}
"
    )
}

/// The job's own runtime folder, so that jobs of other tests are not seen.
fn run(arguments: &str) -> String {
    format!("export XDG_RUNTIME_DIR=$PWD; exec tidemill {arguments}")
}

fn ids(folder: &Folder) -> Vec<u64> {
    let id = |row: &String| row.split(',').next().and_then(|id| id.parse().ok());
    let mut ids: Vec<u64> = folder.rows("out").iter().map(|row| id(row).unwrap_or_else(|| panic!("{row}"))).collect();
    ids.sort_unstable();
    ids
}

/// What the one job here answers to a request.
fn said_on_the_socket(folder: &Folder, request: &str) -> String {
    use std::io::{BufRead, BufReader, Write};
    let socket = std::fs::read_dir(folder.path().join("tidemill")).unwrap().next().unwrap().unwrap().path();
    let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
    writeln!(stream, "{request}").unwrap();
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).unwrap();
    answer
}

/// Waits until a checkpoint is complete.
fn until_checkpoint(folder: &Folder) {
    let script = run("status numbers").replace("exec ", "");
    let wait = format!(
        "n=0; until {script} 2>/dev/null | grep -q '^[1-9][0-9]* checkpoints'; do n=$((n+1)); [ $n -lt 2000 ] || exit 1; done"
    );
    let ended = folder.run(&wait);
    assert_eq!(ended.code(), 0, "no checkpoint came: {ended:?}");
}

fn well(ended: &Ended) {
    assert_eq!(ended.code(), 0, "{ended:?}");
}

/// The job that is stopped or killed by `script` in the middle, and what it had shown then.
fn interrupted(folder: &Folder, workers: usize, by: impl FnOnce(&Folder, &mut Running)) -> Ended {
    let mut job = Running::start(folder.shell(&run(&format!("run pipeline.yaml --workers {workers}"))));
    until_checkpoint(folder);
    by(folder, &mut job);
    job.end()
}

/// Lets the next run read as fast as it can.
fn hurry(folder: &Folder) {
    let pipeline = std::fs::read_to_string(folder.path().join("pipeline.yaml")).unwrap();
    folder.write("pipeline.yaml", pipeline.replace(" rate: 20000,", "").as_bytes());
}

/// Runs it to its end, and compares.
fn finish(folder: &Folder, arguments: &str, rows: u64) {
    hurry(folder);
    let ended = folder.run(&run(&format!("run pipeline.yaml {arguments}")));
    well(&ended);
    assert_eq!(ids(folder), (1..=rows).collect::<Vec<_>>(), "each number once");
    let counted: u64 = folder.rows("sums").iter().filter_map(|row| row.rsplit(',').next()?.parse::<u64>().ok()).sum();
    assert_eq!(counted, rows, "each number is in one window");
    let listed = folder.run(&run("savepoint list pipeline.yaml"));
    let checkpoints = listed.stdout.lines().filter(|line| line.starts_with("checkpoint ")).count();
    assert_eq!(checkpoints, 1, "a job that has ended leaves the word that it has: {listed:?}");
}

#[test]
fn a_stop_is_a_checkpoint_and_the_next_run_goes_on() {
    for signal in ["INT", "TERM"] {
        let folder = Folder::with(&[("pipeline.yaml", &numbers(LONG, "interval: 50ms"))]);
        let ended = interrupted(&folder, 2, |_, job| job.signal(signal));
        well(&ended);
        assert!(ended.stderr.contains("stopped at a checkpoint"), "{ended:?}");
        let before = ids(&folder);
        assert!((before.len() as u64) < ROWS && !before.is_empty(), "{} rows", before.len());
        assert_eq!(folder.rows("sums"), [""; 0], "no window fires because of a stop");
        finish(&folder, "--workers 3", ROWS);
    }
}

#[test]
fn a_job_says_which_source_holds_the_watermark_back() {
    let timed = |name: &str, rate: u32, step: &str| {
        format!(
            "  {name}: {{ datagen: {{ rate: {rate}, columns: {{ k: {{ hash: {{ modulo: 10 }} }}, t: {{ timestamp: {{ start: 2024-01-01, step: {step} }} }} }} }}, event_time: {{ column: t }} }}\n"
        )
    };
    let (fast, slow) = (timed("fast", 20_000, "1s"), timed("slow", 1000, "1ms"));
    let pipeline = format!(
        "name: numbers\ncheckpoints: {{ store: store, interval: 50ms }}\nsources:\n{fast}{slow}operators:\n  \
         sums: {{ input: [fast, slow], key: [k], window: {{ tumbling: 1d }}, aggregates: {{ rows: count(*) }} }}\n\
         sinks:\n  out: {{ input: sums, blackhole: }}\n"
    );
    let folder = Folder::with(&[("pipeline.yaml", &pipeline)]);
    let ended = interrupted(&folder, 1, |_, job| job.signal("INT"));
    well(&ended);
    let told = ended.stderr.lines().find(|line| line.contains("held back by")).unwrap_or_else(|| panic!("{ended:?}"));
    assert!(told.contains("held back by `slow`"), "{told}");
}

#[test]
fn a_killed_job_goes_on() {
    let folder = Folder::with(&[("pipeline.yaml", &numbers(LONG, "interval: 50ms"))]);
    let ended = interrupted(&folder, 1, |_, job| job.signal("KILL"));
    assert_eq!(ended.code(), 137, "{ended:?}");
    finish(&folder, "--workers 2", ROWS);
}

#[test]
fn a_job_that_has_read_all_is_done_until_someone_wants_it_again() {
    let folder = Folder::with(&[("pipeline.yaml", &numbers("rows: 3000,", "interval: 50ms"))]);
    finish(&folder, "--workers 2", 3000);
    // A supervisor that saw it die between its last commit and its exit starts it again.
    let again = folder.run(&run("run pipeline.yaml --workers 1"));
    well(&again);
    assert!(again.stderr.contains("nothing left to do (`--from none` starts from the beginning)"), "{again:?}");
    assert_eq!(ids(&folder).len(), 3000, "nothing comes twice");
    well(&folder.run(&run("run pipeline.yaml --quiet --from none")));
    assert_eq!(ids(&folder).len(), 6000, "all of it once more, since that was asked for");
}

#[test]
fn without_retain_a_stop_is_an_end() {
    type Stop = fn(&Folder, &mut Running);
    let stops: [Stop; 2] = [
        |_, job| job.signal("INT"),
        |folder, _| {
            let stopped = folder.run(&run("stop numbers"));
            well(&stopped);
            assert!(stopped.stdout.contains("what had been read was processed"), "{stopped:?}");
        },
    ];
    for stop in stops {
        let folder = Folder::with(&[("pipeline.yaml", &numbers("", "interval: 50ms, retain: false"))]);
        well(&interrupted(&folder, 2, stop));
        let rows = ids(&folder).len() as u64;
        let counted: u64 =
            folder.rows("sums").iter().filter_map(|row| row.rsplit(',').next()?.parse::<u64>().ok()).sum();
        assert_eq!((rows, counted > 0), (counted, true), "windows fire as at the end of input");
        let listed = folder.run(&run("savepoint list pipeline.yaml"));
        assert_eq!(listed.stdout, "", "nothing is left to go on from");
    }
}

#[test]
fn savepoints_are_taken_listed_described_started_from_and_deleted() {
    let folder = Folder::with(&[("pipeline.yaml", &numbers(LONG, "interval: 50ms"))]);
    let ended = interrupted(&folder, 2, |folder, _| {
        well(&folder.run(&run("savepoint take numbers first")));
        let again = folder.run(&run("savepoint take numbers first"));
        assert!(again.code() == 1 && again.stderr.contains("first"), "a name is taken once: {again:?}");
        for bad in ["12", "latest", "a/b", "''"] {
            let refused = folder.run(&run(&format!("savepoint take numbers {bad}")));
            assert!(refused.code() == 1 && refused.stderr.contains("can't be the name"), "{refused:?}");
        }
        let said = said_on_the_socket(folder, r#"{"do":"savepoint","name":"a/b","stop":true}"#);
        assert!(said.contains("can't be the name"), "whoever asks: {said}");
        let stopped = folder.run(&run("stop pipeline.yaml --savepoint last"));
        well(&stopped);
        assert!(stopped.stdout.starts_with("stopped at savepoint `last` in "), "{stopped:?}");
    });
    well(&ended);
    let listed = folder.run(&run("savepoint list pipeline.yaml"));
    assert!(listed.stdout.contains("savepoint first\n") && listed.stdout.contains("savepoint last\n"), "{listed:?}");
    let described = folder.run(&run("savepoint describe pipeline.yaml last"));
    for part in ["pipeline numbers", "2 workers", "source rows: 2 splits left", "operator sums", "panes"] {
        assert!(described.stdout.contains(part), "no {part}: {described:?}");
    }
    let missing = folder.run(&run("run pipeline.yaml --from frist"));
    assert!(missing.code() == 1 && missing.stderr.contains("there is no savepoint `frist`"), "{missing:?}");
    assert!(missing.stderr.contains("first"), "it says what there is: {missing:?}");
    finish(&folder, "--from last --workers 1", ROWS);
    well(&folder.run(&run("savepoint delete pipeline.yaml first")));
    let listed = folder.run(&run("savepoint list pipeline.yaml"));
    let savepoints: Vec<_> = listed.stdout.lines().filter(|line| line.starts_with("savepoint")).collect();
    assert_eq!(savepoints, ["savepoint last"], "savepoints outlive the job");
}

#[test]
fn a_job_is_rescaled_while_it_runs() {
    let folder = Folder::with(&[("pipeline.yaml", &numbers(LONG, "interval: 50ms"))]);
    let ended = interrupted(&folder, 1, |folder, _| {
        for workers in [3, 2] {
            let rescaled = folder.run(&run(&format!("rescale numbers --workers {workers}")));
            well(&rescaled);
            assert!(rescaled.stdout.starts_with(&format!("runs with {workers} workers, ")), "{rescaled:?}");
        }
        let status = folder.run(&run("status numbers --json"));
        assert!(status.stdout.contains("\"workers\":2,\"runs\":3"), "{status:?}");
        well(&folder.run(&run("stop numbers")));
    });
    well(&ended);
    finish(&folder, "", ROWS);
}

#[test]
fn of_requests_that_end_a_run_one_is_done_at_a_time() {
    let folder = Folder::with(&[("pipeline.yaml", &numbers("", "interval: 50ms"))]);
    let ended = interrupted(&folder, 1, |folder, _| {
        for _ in 0..3 {
            let all = folder.run(
                "export XDG_RUNTIME_DIR=$PWD; for n in 1 2 3 4; do tidemill rescale numbers -w $n >said-$n 2>&1 & done; wait; cat said-*",
            );
            let outcomes =
                ["runs with ", "error: the job is being rescaled already", "error: the job is being started"];
            for line in all.stdout.lines().filter(|line| !line.starts_with("  ")) {
                assert!(outcomes.iter().any(|outcome| line.starts_with(outcome)), "{all:?}");
            }
            assert!(all.stdout.contains("runs with "), "{all:?}");
        }
        let status = folder.run(&run("status numbers --json"));
        well(&status);
        let runs = status.stdout.split("\"runs\":").nth(1).and_then(|rest| rest.split(',').next()?.parse::<u32>().ok());
        assert!(runs.is_some_and(|runs| runs >= 4), "{status:?}");
        well(&folder.run(&run("stop numbers")));
    });
    well(&ended);
    let ids = ids(&folder);
    assert_eq!(ids, (1..=ids.len() as u64).collect::<Vec<_>>(), "each number once");
}

#[test]
fn a_signal_is_not_forgotten_when_its_checkpoint_fails() {
    let pipeline = numbers("", "interval: 50ms, tolerated_failures: 1000000");
    let folder = Folder::with(&[("pipeline.yaml", &pipeline)]);
    let ended = interrupted(&folder, 1, |folder, job| {
        let objects = folder.path().join("store/numbers/objects");
        let aside = folder.path().join("aside");
        std::fs::rename(&objects, &aside).unwrap();
        std::fs::write(&objects, "in the way").unwrap();
        job.signal("TERM");
        job.note_of("not stopped, since the checkpoint failed; it is tried again: ");
        std::fs::remove_file(&objects).unwrap();
        std::fs::rename(&aside, &objects).unwrap();
    });
    well(&ended);
    assert!(ended.stderr.contains("stopped at a checkpoint"), "{ended:?}");
    let ids = ids(&folder);
    assert_eq!(ids, (1..=ids.len() as u64).collect::<Vec<_>>(), "each number once");
}

#[test]
fn a_sink_that_takes_no_rows_makes_checkpoints_fail() {
    let pipeline = "name: numbers
checkpoints: { store: store, interval: 50ms, timeout: 200ms }
restart: { strategy: none }
sources: { rows: { datagen: { rate: 20000, columns: { n: { sequence: {} }, text: { random: { length: 200 } } } } } }
sinks: { out: { input: rows, stdout: } }
";
    let folder = Folder::with(&[("pipeline.yaml", pipeline)]);
    // The shell holds the pipe open, and reads nothing.
    let ended =
        folder.run("export XDG_RUNTIME_DIR=$PWD; mkfifo pipe; exec 3<>pipe; tidemill run pipeline.yaml -q >pipe");
    assert_eq!(ended.code(), 1, "{ended:?}");
    assert!(ended.stderr.contains("out (worker "), "{ended:?}");
    assert!(ended.stderr.contains("a checkpoint failed: no snapshot after 0 s"), "{ended:?}");
}

#[test]
fn a_job_that_fails_is_started_again_as_often_as_its_strategy_says() {
    let pipeline = format!(
        "checkpoints: {{ store: store, interval: 20ms }}
restart: {{ strategy: fixed_delay, attempts: 2, delay: 10ms }}
sources:
  rows: {{ datagen: {{ rows: 10, columns: {{ n: {{ sequence: {{}} }} }} }} }}
operators:
  bad: {{ input: rows, component: '{}', operator: map, config: {{ do: panic }} }}
sinks:
  out: {{ input: bad, file: {{ path: out, format: ndjson }} }}
",
        EVIL.display()
    );
    let folder = Folder::with(&[("pipeline.yaml", &pipeline)]);
    let ended = folder.run(&run("run pipeline.yaml --workers 1"));
    assert_eq!(ended.code(), 1, "{ended:?}");
    assert_eq!(ended.stderr.matches("starting again from the last checkpoint in 0.0 s").count(), 2, "{ended:?}");
    assert_eq!(ended.stderr.matches("error: bad (worker 0): ").count(), 3, "the cause, each time: {ended:?}");
}

#[test]
fn what_cannot_be_is_said() {
    let folder = Folder::with(&[
        ("pipeline.yaml", &numbers("rows: 10,", "interval: 50ms").replace("checkpoints:", "#")),
        ("lost.yaml", &numbers("rows: 10,", "interval: 50ms").replace("store: store", "store: /proc/nowhere")),
        ("scheme.yaml", &numbers("rows: 10,", "interval: 50ms").replace("store: store", "store: 'ftp://x/y'")),
    ]);
    for (arguments, word) in [
        ("run pipeline.yaml --from latest", "takes no checkpoints"),
        ("savepoint list pipeline.yaml", "takes no checkpoints"),
        ("status nobody", "no job `nobody` runs here"),
        ("stop nobody", "no job `nobody` runs here"),
        ("rescale nobody --workers 2", "no job `nobody` runs here"),
        ("run lost.yaml", "/proc/nowhere"),
        ("run scheme.yaml", "ftp://"),
    ] {
        let ended = folder.run(&run(arguments));
        assert_eq!(ended.code(), 1, "{arguments}: {ended:?}");
        assert!(ended.stderr.contains(word), "{arguments}: {ended:?}");
    }
}

/// The largest file below the store's objects, damaged.
fn damage(folder: &Folder, how: impl Fn(&mut Vec<u8>)) {
    let objects: Vec<String> = folder.files().into_iter().filter(|f| f.contains("/objects/")).collect();
    assert!(!objects.is_empty(), "{:?}", folder.files());
    for object in objects {
        let mut bytes = std::fs::read(folder.path().join(&object)).unwrap();
        how(&mut bytes);
        std::fs::write(folder.path().join(&object), bytes).unwrap();
    }
}

#[test]
fn damage_is_found_and_named() {
    for (what, how) in [
        (
            "flipped",
            (|bytes: &mut Vec<u8>| bytes.iter_mut().skip(40).take(1).for_each(|b| *b ^= 1)) as fn(&mut Vec<u8>),
        ),
        ("cut", |bytes| bytes.truncate(bytes.len() / 2)),
        ("emptied", Vec::clear),
    ] {
        let folder = Folder::with(&[("pipeline.yaml", &numbers(LONG, "interval: 50ms"))]);
        well(&interrupted(&folder, 1, |_, job| job.signal("INT")));
        damage(&folder, how);
        let ended = folder.run(&run("run pipeline.yaml"));
        assert_eq!(ended.code(), 1, "{what}: {ended:?}");
        assert!(ended.stderr.contains("store/numbers/objects/"), "{what}: the file is named: {ended:?}");
        hurry(&folder);
        let fresh = folder.run(&run("run pipeline.yaml --from none"));
        well(&fresh);
    }
}

#[test]
fn state_without_a_place_is_refused_unless_it_is_given_up() {
    let before = numbers(LONG, "interval: 50ms");
    let folder = Folder::with(&[("pipeline.yaml", &before)]);
    well(&interrupted(&folder, 1, |_, job| job.signal("INT")));
    folder.write(
        "pipeline.yaml",
        before.replace("sums:", "totals:").replace("input: sums,", "input: totals,").as_bytes(),
    );
    let refused = folder.run(&run("run pipeline.yaml"));
    assert_eq!(refused.code(), 1, "{refused:?}");
    for word in ["the pipeline has no node `sums`", "--drop-state sums"] {
        assert!(refused.stderr.contains(word), "{refused:?}");
    }
    assert!(!refused.stderr.contains("starting again"), "no attempt mends that: {refused:?}");
    hurry(&folder);
    well(&folder.run(&run("run pipeline.yaml --drop-state sums")));
    assert_eq!(ids(&folder), (1..=ROWS).collect::<Vec<_>>());
}

/// Counts rows by this key.
fn counted(key: &str) -> String {
    format!(
        "name: numbers
checkpoints: {{ store: store, interval: 50ms }}
sources:
  rows: {{ datagen: {{ {LONG} rate: 20000, columns: {{ id: {{ sequence: {{ start: 1 }} }}, k: {{ hash: {{ modulo: 10 }} }} }} }} }}
operators:
  named: {{ input: rows, select: [id, k, k AS j, \"concat('k', k) AS text\"] }}
  counts: {{ input: named, key: [{key}], component: '{}', operator: count }}
sinks:
  kept: {{ input: counts, file: {{ path: out, format: csv, header: false }} }}
",
        operators().display()
    )
}

#[test]
fn a_key_of_other_types_is_refused_and_other_names_are_not() {
    let folder = Folder::with(&[("pipeline.yaml", &counted("k"))]);
    well(&interrupted(&folder, 1, |_, job| job.signal("INT")));
    for (key, now) in [("text", "its key is utf8"), ("k, id", "its key is int64, int64")] {
        folder.write("pipeline.yaml", counted(key).as_bytes());
        let refused = folder.run(&run("run pipeline.yaml"));
        assert_eq!(refused.code(), 1, "{refused:?}");
        for word in ["the state of `counts` was stored by a key of int64, but now", now, "--drop-state counts"] {
            assert!(refused.stderr.contains(word), "no {word}: {refused:?}");
        }
    }
    folder.write("pipeline.yaml", counted("j").as_bytes());
    hurry(&folder);
    well(&folder.run(&run("run pipeline.yaml")));
    let firsts = folder.rows("out").iter().filter(|row| row.ends_with(",1")).count();
    assert_eq!((folder.rows("out").len() as u64, firsts), (ROWS, 10), "each key has one first row");
}

#[test]
fn positions_are_given_up_once_and_unknown_names_are_refused() {
    let folder = Folder::with(&[("pipeline.yaml", &numbers(LONG, "interval: 50ms"))]);
    well(&interrupted(&folder, 1, |_, job| job.signal("INT")));
    for name in ["sms", "sums.rows", "rows.sums"] {
        let refused = folder.run(&run(&format!("run pipeline.yaml --drop-state {name}")));
        assert_eq!(refused.code(), 1, "{refused:?}");
        for word in [&format!("has a node or state `{name}`"), "rows, sums"] {
            assert!(refused.stderr.contains(word), "no {word}: {refused:?}");
        }
    }
    let before = ids(&folder);
    let mut job = Running::start(folder.shell(&run("run pipeline.yaml --workers 1 --drop-state rows")));
    // Another start of the same run goes on from its own checkpoint.
    until_checkpoint(&folder);
    well(&folder.run(&run("rescale numbers --workers 2")));
    assert!(!job.note_of("going on").is_empty());
    well(&folder.run(&run("stop numbers")));
    well(&job.end());
    hurry(&folder);
    well(&folder.run(&run("run pipeline.yaml")));
    let mut expected: Vec<u64> = before.into_iter().chain(1..=ROWS).collect();
    expected.sort_unstable();
    assert_eq!(ids(&folder), expected, "all of it once more, and only once");
}
