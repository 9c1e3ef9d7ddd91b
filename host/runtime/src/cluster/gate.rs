//! The port at which a process takes connections of the others, and from which it dials them.
//!
//! Laws: a connection that has not passed the handshake is never seen by anyone else; of a generation that is over none is taken; the
//! secret is shown to nobody; who has not shown that he knows it holds little, and not for long.

use std::collections::BTreeMap;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tidemill_model::Fault;

use super::handshake::{self, Hello, Identity, Kind, Refused};
use super::messages::{self, Order};
use super::tls::{Encryption, TlsFiles};
use super::wire::Wire;

/// How often processes that wait for the job to begin hear that the leader is still there.
const PING_EVERY: Duration = Duration::from_millis(500);
/// Between looks at what has come and whether somebody wants to go on waiting.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// So many callers may be about to show that they know the secret: more than a job has processes. Each costs a thread and files.
const STRANGERS_MAX: usize = 64;

/// Who this process is.
pub struct GateOptions {
    pub identity: Identity,
    /// Number of this process; 0 leads.
    pub process: usize,
    /// Where to take connections, `host:port`; port 0: any.
    pub address: String,
    pub secret: Vec<u8>,
    pub tls: Option<TlsFiles>,
}

pub struct Gate {
    door: Arc<Door>,
    address: SocketAddr,
}

struct Door {
    identity: Identity,
    process: usize,
    secret: Vec<u8>,
    encryption: Option<Encryption>,
    /// The newest that this process knows.
    generation: AtomicU64,
    arrived: Mutex<Vec<(Hello, Wire)>>,
    changed: Condvar,
    strangers: Mutex<Strangers>,
    /// How long a stranger may stay.
    patience: Duration,
    closed: AtomicBool,
}

/// Callers that have not shown yet that they know the secret, and when each has to be done.
#[derive(Default)]
struct Strangers {
    next: u64,
    here: BTreeMap<u64, (Instant, TcpStream)>,
}

/// A place among the strangers.
struct Place<'a>(&'a Door, u64);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.strangers().here.remove(&self.1);
    }
}

/// A process that has come to take part.
#[derive(Clone)]
pub struct Member {
    pub(crate) wire: Wire,
    /// Where it takes connections.
    pub(crate) address: String,
}

impl Gate {
    pub fn open(options: GateOptions) -> Result<Self, Fault> {
        Self::patient(options, handshake::HANDSHAKE_TIMEOUT)
    }

    fn patient(options: GateOptions, patience: Duration) -> Result<Self, Fault> {
        let GateOptions { identity, process, address, secret, tls } = options;
        let encryption = tls.map(|files| Encryption::load(&files)).transpose()?;
        let taken = |e| {
            Fault::io(format!("cannot take connections at `{address}`: {e}"))
                .with_help("the address has to be one of this machine, and its port free")
        };
        let listener = TcpListener::bind(&address).map_err(taken)?;
        let address = listener.local_addr().map_err(taken)?;
        let door = Arc::new(Door {
            identity,
            process,
            secret,
            encryption,
            generation: AtomicU64::new(0),
            arrived: Mutex::default(),
            changed: Condvar::new(),
            strangers: Mutex::default(),
            patience,
            closed: AtomicBool::new(false),
        });
        let (takes, pings) = (door.clone(), door.clone());
        thread("tidemill-gate", move || takes.take_all(&listener))?;
        thread("tidemill-ping", move || pings.ping_all())?;
        Ok(Self { door, address })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn process(&self) -> usize {
        self.door.process
    }

    /// From now on connections of earlier generations are refused.
    pub(crate) fn begin(&self, generation: u64) {
        self.door.generation.store(generation, Ordering::SeqCst);
        // Who is told of a generation has come for it: the rest is of earlier ones.
        self.door.lock().retain(|(hello, _)| hello.kind == Kind::Control || hello.generation >= generation);
    }

    /// Dials another process.
    pub(crate) fn dial(
        &self,
        to: usize,
        address: &str,
        own: &str,
        kind: Kind,
        generation: u64,
    ) -> Result<Wire, Refused> {
        let wire = Wire::dial(address, self.door.encryption.as_ref()).map_err(|fault| {
            // What TLS does not like today it will not like tomorrow.
            let again = fault.kind == tidemill_model::FaultKind::Io;
            Refused { fault, again }
        })?;
        let hello = Hello::new(&self.door.identity, kind, generation, self.door.process, to, own);
        handshake::call(&wire, hello, &self.door.secret)?;
        Ok(wire)
    }

    /// Waits until all of `processes` are there, but for this one. None: `go_on` has said no. `missing` is told, once, who is not
    /// there at once.
    pub fn gather(
        &self,
        processes: usize,
        mut go_on: impl FnMut() -> bool,
        missing: impl FnOnce(&[usize]),
    ) -> Option<Vec<Member>> {
        let (mut here, mut missing, began) = (BTreeMap::new(), Some(missing), Instant::now());
        loop {
            for (hello, wire) in self.door.lock().extract_if(.., |(hello, _)| hello.kind == Kind::Control) {
                here.insert(hello.from, Member { wire, address: hello.address });
            }
            here.retain(|process, member| *process < processes && member.wire.is_open());
            if here.len() + 1 == processes {
                return Some(here.into_values().collect());
            }
            if !go_on() {
                return None;
            }
            if began.elapsed() > PING_EVERY * 2
                && let Some(missing) = missing.take()
            {
                missing(&(1..processes).filter(|process| !here.contains_key(process)).collect::<Vec<_>>());
            }
            // Those that are here already must not take the silence for the leader's end.
            for member in here.values() {
                let _ = messages::send(&member.wire, &Order::Ping);
            }
            let arrived = self.door.lock();
            drop(self.door.changed.wait_timeout(arrived, LOOK_EVERY));
        }
    }

    /// Waits for a connection of another process. None: `go_on` has said no.
    pub(crate) fn expect(
        &self,
        from: usize,
        kind: Kind,
        generation: u64,
        mut go_on: impl FnMut() -> bool,
    ) -> Option<Wire> {
        let wanted = |hello: &Hello| (hello.from, hello.kind, hello.generation) == (from, kind, generation);
        let mut arrived = self.door.lock();
        loop {
            if let Some(found) = arrived.iter().position(|(hello, _)| wanted(hello)) {
                return Some(arrived.swap_remove(found).1);
            }
            drop(arrived);
            if !go_on() {
                return None;
            }
            arrived = self.door.lock();
            arrived = self.door.changed.wait_timeout(arrived, LOOK_EVERY).expect("no panic while held").0;
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.door.closed.store(true, Ordering::SeqCst);
        self.door.lock().clear();
        // Wakes the thread that waits for connections.
        let _ = TcpStream::connect_timeout(&self.address, PING_EVERY);
    }
}

impl Door {
    fn lock(&self) -> MutexGuard<'_, Vec<(Hello, Wire)>> {
        self.arrived.lock().expect("no panic while held")
    }

    fn strangers(&self) -> MutexGuard<'_, Strangers> {
        self.strangers.lock().expect("no panic while held")
    }

    fn take_all(self: &Arc<Self>, listener: &TcpListener) {
        for socket in listener.incoming() {
            if self.closed.load(Ordering::SeqCst) {
                return;
            }
            // A caller that has gone again is no reason to take no others.
            let Ok(socket) = socket else { continue };
            let Some(place) = self.admit(&socket) else { continue };
            let door = self.clone();
            // Where there is no thread for it, the caller sees the connection end, and tries again.
            let spawned = thread("tidemill-greet", move || match door.greet(socket, place) {
                Err(Refused { fault, again: false }) => tracing::warn!("{fault}"),
                Err(Refused { fault, .. }) => tracing::debug!("{fault}"),
                Ok(()) => {}
            });
            if spawned.is_err() {
                self.strangers().here.remove(&place);
            }
        }
    }

    /// A place for a caller. None: he has to come again, when others have gone.
    fn admit(&self, socket: &TcpStream) -> Option<u64> {
        let mut strangers = self.strangers();
        if strangers.here.len() >= STRANGERS_MAX || self.closed.load(Ordering::SeqCst) {
            return None;
        }
        let (place, deadline) = (strangers.next, Instant::now() + self.patience);
        strangers.next += 1;
        strangers.here.insert(place, (deadline, socket.try_clone().ok()?));
        Some(place)
    }

    /// Sends away those that had to be done before `now`: their threads see the connection end. However often they speak.
    fn send_away(&self, now: Instant) {
        for (_, socket) in self.strangers().here.extract_if(.., |_, (deadline, _)| *deadline <= now) {
            // He may have gone.
            let _ = socket.1.shutdown(Shutdown::Both);
        }
    }

    fn greet(&self, socket: TcpStream, place: u64) -> Result<(), Refused> {
        let place = Place(self, place);
        let wire = Wire::accept(socket, self.encryption.as_ref()).map_err(Refused::finally)?;
        let hello = handshake::listen(&wire, &self.secret, |hello| self.judge(hello))?;
        drop(place);
        let mut arrived = self.lock();
        // A process that comes again has lost its earlier connection.
        arrived.retain(|(other, _)| (other.from, other.kind) != (hello.from, hello.kind));
        arrived.push((hello, wire));
        self.changed.notify_all();
        Ok(())
    }

    /// What is wrong with a caller.
    fn judge(&self, hello: &Hello) -> Result<(), Refused> {
        self.same_job(&hello.identity).map_err(Refused::finally)?;
        if hello.to != self.process || hello.from == self.process {
            let text = format!("this is process {}, and it looks for process {}", self.process, hello.to);
            return Err(Refused::finally(Fault::config(text).with_help("give all processes the same hosts file")));
        }
        if hello.kind == Kind::Control {
            return match self.process {
                0 => Ok(()),
                _ => Err(Refused::finally(Fault::config("this process does not lead the job"))),
            };
        }
        let (theirs, ours) = (hello.generation, self.generation.load(Ordering::SeqCst));
        if theirs < ours {
            let text = format!("its generation {theirs} of the job is over: this is generation {ours}");
            return Err(Refused::finally(Fault::io(text)));
        }
        if theirs > ours {
            return Err(Refused::for_now(Fault::io(format!("generation {theirs} has not begun here"))));
        }
        Ok(())
    }

    fn same_job(&self, theirs: &Identity) -> Result<(), Fault> {
        let ours = &self.identity;
        if theirs.pipeline != ours.pipeline {
            let text = format!("it runs pipeline `{}`, this is `{}`", theirs.pipeline, ours.pipeline);
            return Err(Fault::config(text));
        }
        if theirs.file != ours.file {
            let text = format!("its pipeline file of `{}` is not the same as here", ours.pipeline);
            return Err(Fault::config(text).with_help("bring the same file to all hosts"));
        }
        if let Some((node, _)) = ours.components.iter().find(|component| !theirs.components.contains(component)) {
            let text = format!("its component of `{node}` is not the same as here");
            return Err(Fault::config(text).with_help("bring the same components to all hosts"));
        }
        Ok(())
    }

    /// Keeps those company that wait for the next generation, and sends away those that stay too long.
    fn ping_all(&self) {
        while !self.closed.load(Ordering::SeqCst) {
            self.send_away(Instant::now());
            let waiting: Vec<Wire> = {
                let arrived = self.lock();
                arrived.iter().filter(|(hello, _)| hello.kind == Kind::Control).map(|(_, wire)| wire.clone()).collect()
            };
            for wire in waiting {
                // One that has gone is found out when it is needed.
                let _ = messages::send(&wire, &Order::Ping);
            }
            std::thread::sleep(PING_EVERY);
        }
        self.strangers().here.values().for_each(|(_, socket)| drop(socket.shutdown(Shutdown::Both)));
    }
}

fn thread(name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), Fault> {
    let spawned = std::thread::Builder::new().name(name.into()).spawn(run);
    spawned.map(drop).map_err(|e| Fault::io(format!("no thread for connections: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(process: usize, secret: &str) -> Gate {
        patient(process, secret, handshake::HANDSHAKE_TIMEOUT)
    }

    fn patient(process: usize, secret: &str, patience: Duration) -> Gate {
        let identity = Identity { pipeline: "p".into(), file: "f".into(), components: Vec::new() };
        let address = "127.0.0.1:0".into();
        let options = GateOptions { identity, process, address, secret: secret.into(), tls: None };
        Gate::patient(options, patience).unwrap()
    }

    #[test]
    fn generations_processes_and_secrets_decide_who_comes_in() {
        /// Generation here and there, the process looked for, what it is for, the secret; what is said, and whether to try again.
        type Case = (u64, u64, usize, Kind, &'static str, Option<(&'static str, bool)>);
        let cases: &[Case] = &[
            (5, 5, 0, Kind::Data, "same", None),
            (5, 5, 0, Kind::Credit, "same", None),
            (5, 0, 0, Kind::Control, "same", None),
            (5, 4, 0, Kind::Data, "same", Some(("its generation 4 of the job is over: this is generation 5", false))),
            (5, 6, 0, Kind::Data, "same", Some(("generation 6 has not begun here", true))),
            (5, 5, 2, Kind::Data, "same", Some(("this is process 0, and it looks for process 2", false))),
            (5, 5, 0, Kind::Data, "another", Some(("the secrets of the two processes differ", false))),
        ];
        for (here, there, to, kind, secret, expected) in cases {
            let (listener, caller) = (gate(0, "same"), gate(1, secret));
            listener.begin(*here);
            let dialled = caller.dial(*to, &listener.address().to_string(), "own", *kind, *there);
            match (dialled, expected) {
                (Ok(_), None) => {
                    let arrived =
                        || listener.door.lock().iter().any(|(hello, _)| (hello.from, hello.kind) == (1, *kind));
                    let deadline = Instant::now() + Duration::from_secs(10);
                    while !arrived() {
                        assert!(Instant::now() < deadline, "it does not arrive");
                        std::thread::yield_now();
                    }
                }
                (Err(refused), Some((why, again))) => {
                    assert!(refused.fault.message.contains(why), "{}", refused.fault);
                    assert_eq!(refused.again, *again, "{}", refused.fault);
                    assert!(listener.door.lock().is_empty(), "nobody sees it");
                }
                (got, _) => panic!("{here} {there} {kind:?}: {:?}, expected {expected:?}", got.map(|_| ())),
            }
        }
    }

    #[test]
    fn connections_of_earlier_generations_are_dropped_when_a_new_one_begins() {
        let (listener, caller) = (gate(0, "same"), gate(1, "same"));
        listener.begin(3);
        let address = listener.address().to_string();
        let _data = caller.dial(0, &address, "own", Kind::Data, 3).unwrap();
        let _control = caller.dial(0, &address, "own", Kind::Control, 0).unwrap();
        assert!(listener.expect(1, Kind::Data, 4, || false).is_none());
        let deadline = Instant::now() + Duration::from_secs(10);
        while listener.door.lock().len() < 2 {
            assert!(Instant::now() < deadline, "they do not arrive");
            std::thread::yield_now();
        }
        listener.begin(4);
        let left: Vec<Kind> = listener.door.lock().iter().map(|(hello, _)| hello.kind).collect();
        assert_eq!(left, [Kind::Control], "who waits for a generation takes part in the next one");
        assert_eq!(listener.gather(2, || true, |_| {}).map(|members| members.len()), Some(1));
    }

    #[test]
    fn whoever_speaks_otherwise_is_not_let_in() {
        use std::io::{Read, Write};
        let listener = gate(0, "same");
        for words in ["GET / HTTP/1.1\r\n\r\n", "tidemill {}\n", "tidemill \n", "\n"] {
            let mut socket = TcpStream::connect(listener.address()).unwrap();
            socket.write_all(words.as_bytes()).unwrap();
            let mut said = Vec::new();
            // It may be reset, with what was said in it.
            let _ = socket.read_to_end(&mut said);
            assert_eq!(String::from_utf8_lossy(&said), "", "{words:?} is told nothing");
        }
        assert!(listener.door.lock().is_empty());
    }

    /// Callers that say a part of what a process of Tidemill says.
    fn slow(listener: &Gate, callers: usize) -> Vec<TcpStream> {
        use std::io::Write;
        let caller = |_| {
            let mut socket = TcpStream::connect(listener.address()).unwrap();
            // Those beyond the limit are closed already.
            let _ = socket.write_all(b"tidemill {");
            socket
        };
        (0..callers).map(caller).collect()
    }

    #[test]
    fn strangers_beyond_the_limit_are_closed_and_who_goes_makes_room() {
        use std::io::Read;
        let (listener, caller) = (patient(0, "same", Duration::from_secs(3600)), gate(1, "same"));
        listener.begin(1);
        let mut strangers = slow(&listener, STRANGERS_MAX + 10);
        for socket in strangers.drain(STRANGERS_MAX..) {
            socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            let closed = match { &socket }.read(&mut [0]) {
                Ok(bytes) => bytes == 0,
                Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
            };
            assert!(closed, "the newest are closed");
        }
        let dial = || caller.dial(0, &listener.address().to_string(), "own", Kind::Data, 1);
        assert!(dial().err().unwrap().again, "it may come again");
        strangers.truncate(STRANGERS_MAX / 2);
        let deadline = Instant::now() + Duration::from_secs(20);
        while let Err(refused) = dial() {
            assert!(refused.again && Instant::now() < deadline, "{}", refused.fault);
        }
    }

    #[test]
    fn who_speaks_slowly_for_ever_is_sent_away_and_the_partner_gets_in() {
        use std::io::Write;
        let (listener, caller) = (patient(0, "same", Duration::from_millis(100)), gate(1, "same"));
        listener.begin(1);
        let mut strangers = slow(&listener, STRANGERS_MAX);
        let deadline = Instant::now() + Duration::from_secs(20);
        // A byte of each at a time: no read takes long. They end when they are written to once they were sent away.
        while !strangers.is_empty() {
            assert!(Instant::now() < deadline, "{} callers stay", strangers.len());
            strangers.retain_mut(|socket| socket.write_all(b" ").is_ok());
            std::thread::yield_now();
        }
        while let Err(refused) = caller.dial(0, &listener.address().to_string(), "own", Kind::Data, 1) {
            assert!(refused.again && Instant::now() < deadline, "{}", refused.fault);
        }
    }
}
