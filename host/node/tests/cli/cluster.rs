//! Jobs on several processes: the same output, whatever is killed; who may take part, and who is refused, in which words.

use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::{EVIL, Ended, Folder, Running};

/// Waiting for what other processes do.
const DEADLINE: Duration = Duration::from_secs(60);

/// Numbers from 1 on, counted in windows by key.
pub fn numbers(rows: u64, rate: &str, checkpoints: &str) -> String {
    format!(
        "name: numbers
{checkpoints}
restart: {{ strategy: fixed_delay, attempts: 20, delay: 10ms }}
sources:
  rows: {{ datagen: {{ rows: {rows}, {rate} columns: {{ id: {{ sequence: {{ start: 1 }} }}, k: {{ hash: {{ modulo: 10 }} }}, t: {{ timestamp: {{ start: 2024-01-01, step: 1ms }} }} }} }}, event_time: {{ column: t, delay: 5s }} }}
operators:
  sums: {{ input: rows, key: [k], window: {{ tumbling: 10s }}, aggregates: {{ rows: count(*), sum: sum(id) }} }}
sinks:
  kept: {{ input: rows, file: {{ path: out, format: csv, header: false }} }}
  sums_out: {{ input: sums, file: {{ path: sums, format: csv, header: false }} }}
"
    )
}

pub const STORED: &str = "checkpoints: { store: store, interval: 50ms }";
/// So many rows that, read slowly, whatever happens to the job happens in the middle of it, on any machine.
pub const LONG: u64 = 1_000_000;
pub const SLOWLY: &str = "rate: 20000,";

pub fn tidemill(arguments: &str) -> String {
    format!("export XDG_RUNTIME_DIR=$PWD TIDEMILL_LOG=warn; exec tidemill {arguments}")
}

pub fn start(folder: &Folder, arguments: &str) -> Running {
    Running::start(folder.shell(&tidemill(arguments)))
}

pub fn well(ended: &Ended) {
    assert_eq!(ended.code(), 0, "{ended:?}");
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !done() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::yield_now();
    }
}

pub fn is_complete(folder: &Folder, rows: u64) {
    let mut ids: Vec<u64> =
        folder.rows("out").iter().map(|row| row.split(',').next().unwrap().parse().unwrap()).collect();
    ids.sort_unstable();
    assert!(ids.iter().copied().eq(1..=rows), "{} rows of {rows}", ids.len());
    let counted: u64 =
        folder.rows("sums").iter().map(|row| row.split(',').nth(3).unwrap().parse::<u64>().unwrap()).sum();
    assert_eq!(counted, rows, "each number is in one window");
    let hidden: Vec<String> = folder.files().into_iter().filter(|f| f.contains("/.") && !f.contains("store")).collect();
    assert_eq!(hidden, [""; 0], "nothing is left behind");
}

/// Runs a job that read slowly to its end, as fast as it can.
pub fn finish(folder: &Folder, arguments: &str) {
    let pipeline = std::fs::read_to_string(folder.path().join("pipeline.yaml")).unwrap();
    folder.write("pipeline.yaml", pipeline.replace(SLOWLY, "").as_bytes());
    well(&folder.run(&tidemill(&format!("run pipeline.yaml {arguments}"))));
    is_complete(folder, LONG);
}

/// Processes of this folder that do not lead, but for those that have ended and were not waited for.
fn workers(folder: &Folder) -> Vec<u32> {
    processes(folder, b"worker")
}

/// Processes of this folder that run this command.
fn processes(folder: &Folder, command: &[u8]) -> Vec<u32> {
    let is_ours = |process: &Path| {
        let arguments = std::fs::read(process.join("cmdline")).unwrap_or_default();
        let here = std::fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd == folder.path());
        here && arguments.split(|byte| *byte == 0).nth(1) == Some(command)
    };
    let all = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    all.filter(|path| is_ours(path)).filter_map(|path| path.file_name()?.to_str()?.parse().ok()).collect()
}

fn kill(process: u32) {
    let sent = std::process::Command::new("sh").args(["-c", &format!("kill -KILL {process}")]).status().unwrap();
    assert!(sent.success());
}

pub fn until_checkpoint(folder: &Folder) {
    let status = tidemill("status numbers").replace("exec ", "");
    wait_for("a checkpoint", || {
        folder
            .run(&status)
            .stdout
            .lines()
            .any(|line| line.starts_with(|c| ('1'..='9').contains(&c)) && line.contains("checkpoints,"))
    });
}

#[test]
fn the_output_is_that_of_one_process() {
    for checkpoints in ["", STORED] {
        let folder = Folder::with(&[("pipeline.yaml", &numbers(100_000, "", checkpoints))]);
        well(&folder.run(&tidemill("run pipeline.yaml --workers 1")));
        let expected = folder.rows("sums");
        for (processes, workers) in [(2, 1), (2, 2), (3, 1)] {
            let folder = Folder::with(&[("pipeline.yaml", &numbers(100_000, "", checkpoints))]);
            let ended = folder.run(&tidemill(&format!("run pipeline.yaml -p {processes} -w {workers} --summary json")));
            well(&ended);
            is_complete(&folder, 100_000);
            assert_eq!(folder.rows("sums"), expected, "{processes} processes of {workers} workers");
            assert!(ended.stdout.contains("\"rows_in\":100000,"), "the summary counts all processes: {ended:?}");
            wait_for("the children's end", || self::workers(&folder).is_empty());
        }
    }
}

#[test]
fn rows_on_standard_output_come_in_whole_lines_before_the_summary() {
    let pipeline = "name: lines
sources:
  rows: { datagen: { rows: 50000, columns: { id: { sequence: { start: 1 } } } } }
sinks:
  out: { input: rows, stdout: { format: ndjson } }
";
    let folder = Folder::with(&[("pipeline.yaml", pipeline)]);
    let ended = folder.run(&tidemill("run pipeline.yaml -p 3 -w 1 -q --summary json"));
    well(&ended);
    let lines: Vec<&str> = ended.stdout.lines().collect();
    let (summary, rows) = lines.split_last().unwrap();
    assert!(summary.contains("\"rows_out\":50000"), "{summary}");
    let mut ids: Vec<u64> = rows.iter().map(|row| row[6..row.len() - 1].parse().unwrap()).collect();
    ids.sort_unstable();
    assert!(ids.into_iter().eq(1..=50_000));
    let cut = folder.run(
        &tidemill("run pipeline.yaml -p 2 -w 1 -q")
            .replace("exec tidemill", "tidemill")
            .replace("-q", "-q | head -n 5"),
    );
    assert_eq!((cut.stdout.lines().count(), cut.stderr.as_str()), (5, ""), "who reads no more ends the job");
}

#[test]
fn a_killed_process_costs_nothing_but_time() {
    for victim in ["child", "leader"] {
        let folder = Folder::with(&[("pipeline.yaml", &numbers(LONG, SLOWLY, STORED))]);
        let mut job = start(&folder, "run pipeline.yaml -p 2 -w 2");
        until_checkpoint(&folder);
        if victim == "child" {
            workers(&folder).into_iter().for_each(kill);
            job.note_of("going on from checkpoint");
            job.signal("INT");
            let ended = job.end();
            well(&ended);
            assert!(ended.stderr.contains("error: process 1 was lost: "), "{ended:?}");
            assert_eq!(ended.stderr.matches("error: ").count(), 1, "no echoes: {ended:?}");
        } else {
            job.signal("KILL");
            let ended = job.end();
            assert_eq!(ended.code(), 137, "{ended:?}");
            wait_for("the children's end", || workers(&folder).is_empty());
        }
        finish(&folder, "-p 3 -w 1");
    }
}

#[test]
fn restarts_leave_no_thread_behind() {
    let folder = Folder::with(&[("pipeline.yaml", &numbers(LONG, SLOWLY, STORED))]);
    let job = start(&folder, "run pipeline.yaml -p 3 -w 1 --from none");
    let threads = |process: u32| std::fs::read_dir(format!("/proc/{process}/task")).map_or(0, Iterator::count);
    let (mut most, mut victims) = (0, Vec::new());
    for round in 0..6 {
        until_checkpoint(&folder);
        // One of them dies, the other one and the leader go on.
        wait_for("two children", || {
            victims = workers(&folder);
            victims.len() == 2
        });
        victims.sort_unstable();
        let stays: Vec<u32> = processes(&folder, b"run").into_iter().chain([victims[0]]).collect();
        let count = || stays.iter().map(|process| threads(*process)).sum::<usize>();
        match round {
            0 => most = count(),
            // Some live for a moment only.
            _ => wait_for("as many threads as before", || count() <= most),
        }
        kill(victims[1]);
        let before = victims[1];
        wait_for("another child", || {
            let now = workers(&folder);
            now.len() == 2 && !now.contains(&before)
        });
    }
    job.signal("KILL");
    job.end();
}

#[test]
fn a_stop_a_savepoint_and_another_size_reach_all_processes() {
    let folder = Folder::with(&[("pipeline.yaml", &numbers(LONG, SLOWLY, STORED))]);
    let job = start(&folder, "run pipeline.yaml -p 2 -w 1");
    until_checkpoint(&folder);
    well(&folder.run(&tidemill("savepoint take numbers one")));
    for (arguments, size) in [
        ("-p 3 -w 1", "3 processes of 1 workers"),
        ("-w 2", "3 processes of 2 workers"),
        ("-p 1 -w 1", "1 workers"),
        ("-p 2 -w 1", "2 processes of 1 workers"),
    ] {
        let rescaled = folder.run(&tidemill(&format!("rescale numbers {arguments}")));
        well(&rescaled);
        assert!(rescaled.stdout.starts_with(&format!("runs with {size}, ")), "{rescaled:?}");
    }
    let status = folder.run(&tidemill("status numbers --json"));
    assert!(status.stdout.contains("\"runs\":5,\"processes\":2"), "{status:?}");
    job.signal("INT");
    let ended = job.end();
    well(&ended);
    assert!(ended.stderr.contains("stopped at a checkpoint"), "{ended:?}");
    wait_for("the children's end", || workers(&folder).is_empty());
    finish(&folder, "-p 2 -w 2");
}

#[test]
fn what_all_workers_know_they_know_in_all_processes_and_after_a_restore() {
    let pipeline = format!(
        "name: shared
checkpoints: {{ store: store, interval: 50ms }}
sources:
  rows: {{ datagen: {{ rows: {LONG}, {SLOWLY} columns: {{ n: {{ sequence: {{ start: 1 }} }} }} }} }}
  all: {{ datagen: {{ rows: 10, columns: {{ n: {{ sequence: {{ start: 1 }} }} }} }} }}
operators:
  shared: {{ inputs: {{ in: rows, all: all }}, key: {{ in: [n] }}, component: '{}', operator: shared }}
sinks:
  out: {{ input: shared.side, file: {{ path: out, format: csv, header: false }} }}
",
        EVIL.display()
    );
    let folder = Folder::with(&[("pipeline.yaml", &pipeline)]);
    let job = start(&folder, "run pipeline.yaml -p 2 -w 2");
    let numbers = || folder.rows("out").iter().map(|row| row.parse().unwrap()).collect::<Vec<i64>>();
    let for_all = || {
        let mut numbers: Vec<i64> = numbers().into_iter().filter(|n| *n > 0).collect();
        numbers.sort_unstable();
        numbers
    };
    wait_for("the rows for all", || for_all().len() == 40);
    assert_eq!(for_all(), (1..=10).flat_map(|n| [n; 4]).collect::<Vec<_>>(), "each worker of each process has them");
    well(&folder.run(&tidemill("stop shared --savepoint sp")));
    well(&job.end());
    let described = folder.run(&tidemill("savepoint describe pipeline.yaml sp"));
    for line in [
        "  shared/total@1: 1 rows,",
        "  shared/rules@1: ",
        "  shared/parked@1: ",
        "  state total int64 (broadcast) version 1\n",
        "  state rules list of int64 (broadcast) version 1\n",
        "  state parked list of int64 (split) version 1\n",
    ] {
        assert!(described.stdout.contains(line), "no {line}: {described:?}");
    }
    let not_known = |numbers: Vec<i64>| numbers.into_iter().filter(|n| *n == 0).count();
    let (before, read) = (not_known(numbers()), numbers().len());
    folder.write("pipeline.yaml", pipeline.replace(SLOWLY, "").as_bytes());
    well(&folder.run(&tidemill("run pipeline.yaml --from sp -p 3 -w 1")));
    let all = LONG as usize + 40;
    assert_eq!(numbers().len(), all);
    assert!(read < all, "there was something left to do");
    assert_eq!(not_known(numbers()), before, "nobody has forgotten what all know");
    // Once more from there, without it.
    well(&folder.run(&tidemill("run pipeline.yaml --from sp --drop-state shared.total -p 2 -w 1")));
    assert_eq!(not_known(numbers()) - before, all - read, "what was given up nobody knows");
}

#[test]
fn the_cause_is_told_from_wherever_it_happens() {
    let pipeline = format!(
        "restart: {{ strategy: none }}
sources:
  rows: {{ datagen: {{ rows: 100000, rate: 50000, columns: {{ n: {{ sequence: {{}} }} }} }} }}
operators:
  bad: {{ input: rows, rebalance: true, component: '{}', operator: map, config: {{ do: panic }} }}
sinks:
  out: {{ input: bad, file: {{ path: out, format: ndjson }} }}
",
        EVIL.display()
    );
    let folder = Folder::with(&[("pipeline.yaml", &pipeline.replace(" rebalance: true,", ""))]);
    let ended = folder.run(&tidemill("run pipeline.yaml -p 2 -w 1"));
    assert_eq!(ended.code(), 1, "{ended:?}");
    assert!(ended.stderr.starts_with("error: bad (worker "), "{ended:?}");
    assert_eq!(ended.stderr.matches("\nerror: ").count(), 0, "no echoes: {ended:?}");
    assert!(!folder.files().iter().any(|file| file.starts_with("out/part")), "nothing is visible");
}

/// A folder with a hosts file of two processes on this machine, whose ports are free.
fn two_hosts(pipeline: &str) -> Folder {
    let ports: Vec<TcpListener> = (0..2).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let hosts: String = ports.iter().map(|port| format!("{}\n", port.local_addr().unwrap())).collect();
    Folder::with(&[
        ("pipeline.yaml", pipeline),
        ("hosts", &format!("# The first one leads.\n\n{hosts}")),
        ("secret", "0123456789abcdef-of-the-test\n"),
    ])
}

const LEAD: &str = "run pipeline.yaml -w 1 --hosts hosts --secret-file secret";
const WORK: &str = "worker pipeline.yaml --hosts hosts --secret-file secret --process 1";

#[test]
fn processes_of_a_hosts_file_wait_for_each_other() {
    for worker_first in [true, false] {
        let folder = two_hosts(&numbers(50_000, "", STORED));
        let (first, second) = if worker_first { (WORK, LEAD) } else { (LEAD, WORK) };
        let mut early = start(&folder, first);
        let waits = early.note();
        let word = if worker_first {
            "waiting for the leader: cannot reach `127.0.0.1:"
        } else {
            "waiting for process 1 (127.0.0.1:"
        };
        assert!(waits.starts_with(word), "{waits}");
        well(&start(&folder, second).end());
        well(&early.end());
        is_complete(&folder, 50_000);
    }
}

#[test]
fn a_worker_that_is_killed_and_one_that_comes_back_take_part() {
    let folder = two_hosts(&numbers(LONG, SLOWLY, STORED));
    let mut leader = start(&folder, LEAD);
    let worker = start(&folder, WORK);
    until_checkpoint(&folder);
    worker.signal("KILL");
    assert_eq!(worker.end().code(), 137);
    let worker = start(&folder, WORK);
    leader.note_of("error: process 1 was lost");
    leader.note_of("going on from checkpoint");
    leader.signal("INT");
    well(&leader.end());
    well(&worker.end());
    finish(&folder, "");
}

#[test]
fn a_leader_that_is_started_again_finds_its_workers() {
    let folder = two_hosts(&numbers(LONG, SLOWLY, STORED));
    let worker = start(&folder, WORK);
    let leader = start(&folder, LEAD);
    until_checkpoint(&folder);
    leader.signal("KILL");
    assert_eq!(leader.end().code(), 137);
    let mut leader = start(&folder, LEAD);
    leader.note_of("going on from checkpoint");
    leader.signal("INT");
    well(&leader.end());
    let ended = worker.end();
    well(&ended);
    assert!(ended.stderr.contains("error: process 0, which leads the job, was lost: "), "{ended:?}");
    finish(&folder, "");
}

#[test]
fn strangers_are_refused_in_words() {
    let component = |name: &str| {
        format!(
            "name: one
sources:
  rows: {{ datagen: {{ columns: {{ n: {{ sequence: {{}} }} }} }} }}
operators:
  some: {{ input: rows, component: {name}.wasm, operator: map, config: {{ do: nothing }} }}
sinks:
  out: {{ input: some, blackhole: {{}} }}
"
        )
    };
    let other_component = std::fs::read(&*EVIL).map(|mut bytes| {
        // A custom section more: the same component with another digest.
        bytes.extend_from_slice(&[0, 2, 1, b'x']);
        bytes
    });
    let folder = two_hosts(&component("evil"));
    folder.write("evil.wasm", &std::fs::read(&*EVIL).unwrap());
    folder.write("there/evil.wasm", &other_component.unwrap());
    folder.write("there/pipeline.yaml", component("evil").as_bytes());
    folder.write("there/edited.yaml", format!("# Edited.\n{}", component("../evil")).as_bytes());
    folder.write("there/other.yaml", component("../evil").replace("name: one", "name: two").as_bytes());
    folder.write("there/secret", b"another secret of the test");
    certificates(&folder, "x", "127.0.0.1");
    let mut leader = start(&folder, LEAD);
    assert!(leader.note().starts_with("waiting for process 1"));
    for (arguments, here, there) in [
        (
            WORK.replace("--secret-file secret", "--secret-file there/secret"),
            "the secrets of the two processes differ",
            "the secrets of the two processes differ",
        ),
        (
            format!("{WORK} --tls-cert x-cert.pem --tls-key x-key.pem --tls-ca x-ca.pem"),
            "no encrypted connection",
            "this is not what a process of Tidemill says",
        ),
        (
            WORK.replace("pipeline.yaml", "there/other.yaml"),
            "refuses this process: it runs pipeline `two`, this is `one`",
            "was refused: it runs pipeline `two`, this is `one`",
        ),
        (
            WORK.replace("pipeline.yaml", "there/edited.yaml"),
            "refuses this process: its pipeline file of `one` is not the same as here",
            "was refused: its pipeline file",
        ),
        (
            WORK.replace("pipeline.yaml", "there/pipeline.yaml"),
            "refuses this process: its component of `some` is not the same as here",
            "was refused: its component of `some`",
        ),
    ] {
        let mut refused = start(&folder, &arguments);
        assert!(refused.note().contains(here), "{arguments}");
        refused.signal("KILL");
        refused.end();
        // Help stands on lines of its own.
        while !leader.note().contains(there) {}
    }
    leader.signal("INT");
    let ended = leader.end();
    assert_eq!(ended.code(), 130, "who waits can be told not to: {ended:?}");
}

#[test]
fn what_cannot_be_is_said() {
    let folder = two_hosts(&numbers(10, "", ""));
    folder.write("empty", b"\n# nobody\n");
    folder.write("one", b"127.0.0.1:7000\n");
    folder.write("twice", b"127.0.0.1:7000\n127.0.0.1:7000\n");
    folder.write("portless", b"127.0.0.1\nb:1\n");
    folder.write("elsewhere", b"192.0.2.1:7000\n192.0.2.2:7000\n");
    folder.write("short", b"abc\n");
    for (arguments, code, word) in [
        ("run pipeline.yaml --hosts empty --secret-file secret", 1, "names 0 processes"),
        ("run pipeline.yaml --hosts one --secret-file secret", 1, "names 1 processes"),
        ("run pipeline.yaml --hosts twice --secret-file secret", 1, "line 2: `127.0.0.1:7000` stands there twice"),
        ("run pipeline.yaml --hosts portless --secret-file secret", 1, "line 1: `127.0.0.1` is not `host:port`"),
        ("run pipeline.yaml --hosts elsewhere --secret-file secret", 1, "cannot take connections at `192.0.2.1:7000`"),
        ("run pipeline.yaml --hosts nowhere --secret-file secret", 1, "cannot read `nowhere`"),
        ("run pipeline.yaml --hosts hosts", 1, "`--hosts` needs `--secret-file`"),
        ("run pipeline.yaml --hosts hosts --secret-file short", 1, "too short: 3 bytes"),
        ("run pipeline.yaml --hosts hosts --secret-file secret --tls-cert a", 2, "--tls-key"),
        (
            "run pipeline.yaml --hosts hosts --secret-file secret --tls-cert a --tls-key b --tls-ca c",
            1,
            "`a` can't be used for TLS",
        ),
        ("run pipeline.yaml --hosts hosts --secret-file secret -p 2", 2, "cannot be used with"),
        ("run pipeline.yaml -p 65", 2, "65"),
        ("worker pipeline.yaml --process 1", 1, "`tidemill worker` needs `--hosts`"),
        ("worker pipeline.yaml --process 0 --hosts hosts --secret-file secret", 2, "0"),
        (
            "worker pipeline.yaml --process 2 --hosts hosts --secret-file secret",
            1,
            "there is no process 2 in `hosts`: it has 2",
        ),
    ] {
        let ended = folder.run(&tidemill(arguments));
        assert_eq!(ended.code(), code, "{arguments}: {ended:?}");
        assert!(ended.stderr.contains(word), "{arguments}: {ended:?}");
    }
}

/// An authority, and a certificate with its key for `127.0.0.1`, as files named after `name`.
fn certificates(folder: &Folder, name: &str, host: &str) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let signed = authority.self_signed(&key).unwrap();
    let issuer = rcgen::Issuer::new(authority, key);
    let own = rcgen::KeyPair::generate().unwrap();
    let cert = rcgen::CertificateParams::new(vec![host.to_owned()]).unwrap().signed_by(&own, &issuer).unwrap();
    folder.write(&format!("{name}-ca.pem"), signed.pem().as_bytes());
    folder.write(&format!("{name}-cert.pem"), cert.pem().as_bytes());
    folder.write(&format!("{name}-key.pem"), own.serialize_pem().as_bytes());
}

#[test]
fn connections_are_encrypted_and_only_for_those_with_certificates() {
    let tls = |name: &str| format!("--tls-cert {name}-cert.pem --tls-key {name}-key.pem --tls-ca {name}-ca.pem");
    let folder = two_hosts(&numbers(100_000, "", STORED));
    certificates(&folder, "ours", "127.0.0.1");
    certificates(&folder, "theirs", "127.0.0.1");
    let leader = start(&folder, &format!("{LEAD} {}", tls("ours")));
    for stranger in [tls("theirs"), tls("theirs").replace("theirs-ca", "ours-ca")] {
        let refused = folder.run(&tidemill(&format!("{WORK} {stranger}")));
        assert_eq!(refused.code(), 1, "{refused:?}");
        assert!(refused.stderr.contains("no encrypted connection: "), "{refused:?}");
    }
    well(&start(&folder, &format!("{WORK} {}", tls("ours"))).end());
    well(&leader.end());
    is_complete(&folder, 100_000);
}

#[test]
fn a_certificate_is_for_one_host() {
    let folder = two_hosts(&numbers(10, "", ""));
    certificates(&folder, "other", "example.org");
    let tls = "--tls-cert other-cert.pem --tls-key other-key.pem --tls-ca other-ca.pem";
    let leader = start(&folder, &format!("{LEAD} {tls}"));
    let mut worker = start(&folder, &format!("{WORK} {tls}"));
    let said = loop {
        let said = worker.note();
        // The leader may not be there yet.
        if !said.starts_with("waiting for the leader: cannot reach") {
            break said;
        }
    };
    assert!(said.contains("no encrypted connection: ") && said.contains("certificate"), "{said}");
    assert_eq!(worker.end().code(), 1);
    leader.signal("INT");
    assert_eq!(leader.end().code(), 130);
}
