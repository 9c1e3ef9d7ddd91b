//! Processes with a network between them that is slow, or that breaks: through a relay in the test, and on hosts in network namespaces.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::cluster::{LONG, SLOWLY, STORED, finish, is_complete, numbers, start, until_checkpoint, well};
use crate::support::{Folder, Running};

/// What a slow link does with each piece: 8 KiB in 2 ms are 4 MB/s, with some delay.
const SLOW_PIECE_BYTES: usize = 8 << 10;
const SLOW_PIECE: Duration = Duration::from_millis(2);

/// A port that passes on what it gets to another, both ways.
struct Relay {
    address: String,
    link: Arc<Link>,
}

#[derive(Default)]
struct Link {
    slow: AtomicBool,
    /// Nothing comes through, and nobody is told.
    cut: AtomicBool,
    passing: Mutex<Vec<TcpStream>>,
}

impl Relay {
    fn to(target: String, slow: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let link = Arc::new(Link { slow: slow.into(), ..Link::default() });
        let passes = link.clone();
        std::thread::spawn(move || {
            for here in listener.incoming().flatten() {
                let Ok(there) = TcpStream::connect(&target) else { continue };
                passes.pass(&here, &there);
                passes.pass(&there, &here);
            }
        });
        Self { address, link }
    }

    fn cut(&self) {
        self.link.cut.store(true, Ordering::SeqCst);
    }

    /// The link is there again; what was on its way is lost.
    fn mend(&self) {
        self.link.passing.lock().unwrap().drain(..).for_each(|end| drop(end.shutdown(Shutdown::Both)));
        self.link.cut.store(false, Ordering::SeqCst);
    }
}

impl Link {
    fn pass(self: &Arc<Self>, from: &TcpStream, to: &TcpStream) {
        let (mut from, mut to, link) = (from.try_clone().unwrap(), to.try_clone().unwrap(), self.clone());
        self.passing.lock().unwrap().push(from.try_clone().unwrap());
        std::thread::spawn(move || {
            let mut piece = vec![0; SLOW_PIECE_BYTES];
            while let Ok(bytes @ 1..) = from.read(&mut piece) {
                if link.slow.load(Ordering::SeqCst) {
                    // It is the link that takes its time.
                    std::thread::sleep(SLOW_PIECE);
                }
                if !link.cut.load(Ordering::SeqCst) && to.write_all(&piece[..bytes]).is_err() {
                    break;
                }
            }
            let _ = to.shutdown(Shutdown::Both);
        });
    }
}

/// Two hosts, the second of which reaches the first over a relay.
fn over_a_relay(pipeline: &str, slow: bool) -> (Folder, Relay) {
    let ports: Vec<TcpListener> = (0..2).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let [first, second] = [0, 1].map(|i: usize| ports[i].local_addr().unwrap().to_string());
    let relay = Relay::to(first.clone(), slow);
    let folder = Folder::with(&[
        ("pipeline.yaml", pipeline),
        ("hosts", &format!("{first}\n{second}\n")),
        ("hosts-seen", &format!("{}\n{second}\n", relay.address)),
        ("secret", "0123456789abcdef-of-the-test"),
    ]);
    (folder, relay)
}

const LEAD: &str = "run pipeline.yaml -w 1 --hosts hosts --secret-file secret --heartbeat-timeout 2";
const WORK: &str = "worker pipeline.yaml --process 1 --hosts hosts-seen --secret-file secret";

#[test]
fn a_slow_link_makes_the_job_slower_and_nothing_else() {
    for checkpoints in ["", STORED] {
        let (folder, _relay) = over_a_relay(&numbers(300_000, "", checkpoints), true);
        let (leader, worker) = (start(&folder, LEAD), start(&folder, WORK));
        well(&leader.end());
        well(&worker.end());
        is_complete(&folder, 300_000);
    }
}

#[test]
fn a_link_that_is_cut_costs_a_restart_when_it_is_mended() {
    let (folder, relay) = over_a_relay(&numbers(LONG, SLOWLY, STORED), false);
    let (mut leader, worker) = (start(&folder, LEAD), start(&folder, WORK));
    until_checkpoint(&folder);
    relay.cut();
    let lost = leader.note_of("error: ");
    assert!(lost.starts_with("error: process 1 was lost: nothing was heard of it for 2 s"), "{lost}");
    leader.note_of("waiting for process 1");
    relay.mend();
    leader.note_of("going on from checkpoint");
    leader.signal("INT");
    let ended = leader.end();
    well(&ended);
    let mut errors = ended.stderr.lines().filter(|line| line.starts_with("error: "));
    assert!(errors.all(|line| line.contains("process 1 was lost: ")), "no echoes: {ended:?}");
    let ended = worker.end();
    well(&ended);
    assert!(
        ended.stderr.contains("error: process 0, which leads the job, was lost: nothing was heard of it"),
        "{ended:?}"
    );
    finish(&folder, "");
}

/// Two hosts with a cable between them. Removed when it is dropped.
struct Hosts {
    names: [String; 2],
}

impl Hosts {
    /// None, with the reason on standard output: this machine can't have any.
    fn new() -> Option<Self> {
        let names = ["a", "b"].map(|host| format!("tm{}{host}", std::process::id()));
        let hosts = Self { names };
        let [a, b] = &hosts.names;
        let steps = [
            format!("ip netns add {a}"),
            format!("ip netns add {b}"),
            format!("ip link add {a}0 netns {a} type veth peer name {b}0 netns {b}"),
            format!("ip -n {a} addr add 10.91.0.1/24 dev {a}0"),
            format!("ip -n {b} addr add 10.91.0.2/24 dev {b}0"),
            format!("ip -n {a} link set {a}0 up"),
            format!("ip -n {b} link set {b}0 up"),
        ];
        for step in steps {
            if let Err(why) = command(&step) {
                println!("not tried on hosts in network namespaces, which need root and `ip`: {step}: {why}");
                return None;
            }
        }
        Some(hosts)
    }

    fn start(&self, host: usize, folder: &Folder, arguments: &str) -> Running {
        let script = crate::cluster::tidemill(arguments);
        Running::start(folder.shell(&script.replace("exec ", &format!("exec ip netns exec {} ", self.names[host]))))
    }

    fn cable(&self, state: &str) {
        let host = &self.names[1];
        command(&format!("ip -n {host} link set {host}0 {state}")).unwrap();
    }

    /// Makes the cable slow, by one of the ways that kernels have.
    fn slow_down(&self) {
        let host = &self.names[1];
        let ways = ["netem delay 20ms rate 40mbit", "tbf rate 40mbit burst 64kbit latency 50ms"];
        let tried: Vec<_> =
            ways.iter().map(|way| command(&format!("tc -n {host} qdisc add dev {host}0 root {way}"))).collect();
        if let (Err(why), true) = (&tried[0], tried.iter().all(Result::is_err)) {
            println!("not tried with a slow link, for which this kernel has no way: {why}");
        }
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for host in &self.names {
            // One that was not made need not be removed.
            let _ = command(&format!("ip netns del {host}"));
        }
    }
}

fn command(line: &str) -> Result<(), String> {
    let mut words = line.split(' ');
    let ended = Command::new(words.next().unwrap()).args(words).output().map_err(|e| e.to_string())?;
    match ended.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&ended.stderr).trim().to_owned()),
    }
}

#[test]
fn hosts_are_killed_and_cut_off_and_slowed_down() {
    let Some(hosts) = Hosts::new() else { return };
    let folder = Folder::with(&[
        ("pipeline.yaml", &numbers(LONG, SLOWLY, STORED)),
        ("hosts", "10.91.0.1:7101\n10.91.0.2:7102\n"),
        ("hosts-seen", "10.91.0.1:7101\n10.91.0.2:7102\n"),
        ("secret", "0123456789abcdef-of-the-test"),
    ]);
    let mut leader = hosts.start(0, &folder, LEAD);
    let worker = hosts.start(1, &folder, WORK);
    until_checkpoint(&folder);
    worker.signal("KILL");
    worker.end();
    leader.note_of("error: process 1 was lost");
    let worker = hosts.start(1, &folder, WORK);
    leader.note_of("going on from checkpoint");
    hosts.cable("down");
    leader.note_of("error: process 1 was lost");
    hosts.cable("up");
    hosts.slow_down();
    leader.note_of("going on from checkpoint");
    leader.signal("INT");
    well(&leader.end());
    well(&worker.end());
    finish(&folder, "");
}
