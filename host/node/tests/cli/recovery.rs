//! What a job goes on from after something has gone wrong: never from less than there was, and never from somewhere else.

use crate::support::{Ended, Folder, Running};

fn run(arguments: &str) -> String {
    format!("export XDG_RUNTIME_DIR=$PWD; exec tidemill {arguments}")
}

/// Counts by key and windows that do not fire, so that all of them are state.
fn pipeline(checkpoints: &str, backend: &str) -> String {
    format!(
        "name: numbers
state: {{ backend: {backend} }}
checkpoints: {{ store: store, {checkpoints} }}
restart: {{ strategy: fixed_delay, attempts: 1, delay: 10ms }}
sources:
  rows: {{ datagen: {{ rate: 20000, columns: {{ id: {{ sequence: {{ start: 1 }} }}, k: {{ hash: {{ modulo: 10 }} }}, t: {{ timestamp: {{ start: 2024-01-01, step: 1ms }} }} }} }}, event_time: {{ column: t, delay: 5s }} }}
operators:
  sums: {{ input: rows, key: [k], window: {{ tumbling: 1h }}, aggregates: {{ rows: count(*) }} }}
  names: {{ input: rows, key: [k], window: {{ tumbling: 2h }}, aggregates: {{ most: max(id) }} }}
sinks:
  kept: {{ input: rows, file: {{ path: out, format: csv, header: false }} }}
  sums_out: {{ input: sums, file: {{ path: sums, format: csv, header: false }} }}
  names_out: {{ input: names, file: {{ path: names, format: csv, header: false }} }}
"
    )
}

fn until(folder: &Folder, checkpoints: u32) {
    let status = "tidemill status numbers --json 2>/dev/null | sed -n 's/.*\"checkpoints\":\\([0-9]*\\).*/\\1/p'";
    let wait = format!(
        "export XDG_RUNTIME_DIR=$PWD; n=0; until [ \"$({status})\" -ge {checkpoints} ] 2>/dev/null; do n=$((n+1)); [ $n -lt 3000 ] || exit 1; done"
    );
    let ended = folder.run(&wait);
    assert_eq!(ended.code(), 0, "no {checkpoints} checkpoints came: {ended:?}");
}

/// A job on one worker, ended by a signal behind so many checkpoints.
fn interrupted(folder: &Folder, checkpoints: u32, signal: &str) -> Ended {
    let job = Running::start(folder.shell(&run("run pipeline.yaml --workers 1 --from none")));
    until(folder, checkpoints);
    job.signal(signal);
    job.end()
}

/// Objects of the store, those that were written last at the end.
fn objects(folder: &Folder) -> Vec<String> {
    let mut objects: Vec<String> = folder.files().into_iter().filter(|f| f.contains("/objects/")).collect();
    let number = |name: &String| name.rsplit('.').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    objects.sort_by_key(number);
    objects
}

fn flip(folder: &Folder, object: &str) -> Vec<u8> {
    let path = folder.path().join(object);
    let whole = std::fs::read(&path).unwrap();
    let mut damaged = whole.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    std::fs::write(&path, damaged).unwrap();
    whole
}

#[test]
fn damage_of_any_one_object_is_found_and_named() {
    for backend in ["heap", "rocksdb"] {
        let folder = Folder::with(&[("pipeline.yaml", &pipeline("interval: 50ms, keep: 1", backend))]);
        let ended = interrupted(&folder, 2, "INT");
        assert_eq!(ended.code(), 0, "{ended:?}");
        let objects = objects(&folder);
        assert!(objects.len() >= 3, "a manifest and tables: {objects:?}");
        for object in objects {
            let whole = flip(&folder, &object);
            let ended = folder.run(&run("run pipeline.yaml --workers 1 --quiet"));
            assert_eq!(ended.code(), 1, "{backend}, {object}: {ended:?}");
            assert!(ended.stderr.contains(&object) && ended.stderr.contains("damaged"), "{object} is named: {ended:?}");
            std::fs::write(folder.path().join(&object), whole).unwrap();
        }
    }
}

#[test]
fn a_damaged_checkpoint_gives_way_to_the_one_before() {
    let text = pipeline("interval: 50ms, keep: 3, fallback: true", "heap");
    let folder = Folder::with(&[("pipeline.yaml", &text)]);
    assert_eq!(interrupted(&folder, 4, "KILL").code(), 137);
    // The last one is the manifest; before it come the tables of the same checkpoint.
    let objects = objects(&folder);
    flip(&folder, &objects[objects.len() - 2]);
    let mut job = Running::start(folder.shell(&run("run pipeline.yaml --workers 1")));
    let first = job.note_of("going on from checkpoint ");
    job.note_of("starting again from the checkpoint before");
    let second = job.note_of("going on from checkpoint ");
    assert_ne!(first, second);
    job.signal("INT");
    assert_eq!(job.end().code(), 0);
}

#[test]
fn a_run_without_a_checkpoint_of_its_own_starts_again_where_it_started() {
    let folder = Folder::with(&[("pipeline.yaml", &pipeline("interval: 50ms", "heap"))]);
    assert_eq!(interrupted(&folder, 2, "INT").code(), 0);
    let failing = pipeline("interval: 1h", "heap").replace("{ input: sums,", "{ input: bad,").replace(
        "sinks:\n",
        "  bad: { input: rows, where: \"cast(concat('x', cast(id as varchar)) as bigint) > 0\", on_error: fail }\nsinks:\n",
    );
    folder.write("pipeline.yaml", failing.as_bytes());
    let ended = folder.run(&run("run pipeline.yaml --workers 1 --from none"));
    assert_eq!(ended.code(), 1, "{ended:?}");
    assert!(ended.stderr.contains("starting again from where it started"), "{ended:?}");
    assert!(!ended.stderr.contains("going on from checkpoint"), "not from where another run ended: {ended:?}");
}

#[test]
fn of_two_starts_of_a_job_the_older_one_ends_for_good() {
    let folder = Folder::with(&[("pipeline.yaml", &pipeline("interval: 50ms", "heap"))]);
    let older = Running::start(folder.shell(&run("run pipeline.yaml --workers 1 --quiet")));
    until(&folder, 1);
    let newer = Running::start(folder.shell(
        "export XDG_RUNTIME_DIR=$PWD/other; mkdir -p other; exec tidemill run pipeline.yaml --workers 1 --quiet",
    ));
    let ended = older.end();
    assert_eq!(ended.code(), 1, "{ended:?}");
    assert!(ended.stderr.contains("belongs to a newer start of this job"), "{ended:?}");
    assert!(!ended.stderr.contains("starting again"), "it leaves the other one alone: {ended:?}");
    newer.signal("INT");
    assert_eq!(newer.end().code(), 0);
}
