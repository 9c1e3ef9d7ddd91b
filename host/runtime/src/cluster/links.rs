//! What carries timely's messages between two processes, and what gives memory back.
//!
//! Timely panics where a connection breaks, and poisons the workers' queues. So a link that breaks says so to the job, and then lets
//! timely's thread wait until the workers have gone; only then it gets the error, which ends it. Laws: no thread of a
//! generation outlives it; a broken link is a suspicion, since whoever broke it may still tell why.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use tidemill_model::{Fault, panics};
use timely::WorkerConfig;
use timely::communication::allocator::zero_copy::initialize::{CommsGuard, initialize_networking_from_sockets};
use timely::communication::allocator::zero_copy::stream::Stream;
use timely::communication::allocator::{AllocatorBuilder, ProcessBuilder};
use timely::communication::{Hooks, WorkerGuards};

use super::credit::{Ledger, give_back};
use super::gate::Gate;
use super::handshake::Kind;
use super::wire::Wire;
use crate::job::Shared;

/// How long the mesh of connections may take: all processes have been told to begin.
const CONNECT_DEADLINE: Duration = Duration::from_secs(20);
/// Between attempts to reach a process that is about to begin.
const AGAIN: Duration = Duration::from_millis(10);

/// Of a header of timely's.
const HEADER_BYTES: usize = 48;

/// The connections of one process to all others, in one generation.
pub(crate) struct Mesh {
    /// By process; none to itself.
    data: Vec<Option<Wire>>,
    credit: Vec<Option<Wire>>,
}

impl Mesh {
    /// Dials the processes before this one, and waits for those behind it.
    pub fn connect(gate: &Gate, generation: u64, addresses: &[String], shared: &Shared) -> Result<Self, Fault> {
        let (own, deadline) = (gate.process(), Instant::now() + CONNECT_DEADLINE);
        let connect = |other: usize, kind: Kind| -> Result<Option<Wire>, Fault> {
            if other == own {
                return Ok(None);
            }
            let late = || Fault::io(format!("no connection to process {other} ({})", addresses[other]));
            let go_on = || !shared.is_aborted() && Instant::now() < deadline;
            if other > own {
                return gate.expect(other, kind, generation, go_on).map(Some).ok_or_else(late);
            }
            loop {
                match gate.dial(other, &addresses[other], &addresses[own], kind, generation) {
                    Ok(wire) => return Ok(Some(wire)),
                    Err(refused) if !refused.again || !go_on() => return Err(refused.fault),
                    Err(_) => std::thread::sleep(AGAIN),
                }
            }
        };
        let all = |kind| (0..addresses.len()).map(|other| connect(other, kind)).collect::<Result<Vec<_>, Fault>>();
        Ok(Self { data: all(Kind::Data)?, credit: all(Kind::Credit)? })
    }

    /// Runs the workers of this process to their end. `before_parting` is called when they have ended, with the connections still there.
    pub fn run(&self, shared: &Arc<Shared>, before_parting: impl FnOnce()) {
        let (ledger, given) = Ledger::new(shared.process, self.data.len());
        std::thread::scope(|scope| {
            for (wire, given) in self.credit.iter().zip(given) {
                let Some(wire) = wire else { continue };
                let ledger = &ledger;
                scope.spawn(move || ledger.take_back(wire));
                scope.spawn(move || give_back(&given, wire));
            }
            self.run_workers(shared, &ledger, before_parting);
            ledger.close();
            self.credit.iter().flatten().for_each(|wire| wire.shut(Shutdown::Both));
        });
    }

    fn run_workers(&self, shared: &Arc<Shared>, ledger: &Arc<Ledger>, before_parting: impl FnOnce()) {
        let gone = Arc::new(Gone::default());
        let link = |(process, wire): (usize, &Option<Wire>)| {
            let wire = wire.clone()?;
            Some(Link {
                wire,
                process,
                gone: gone.clone(),
                shared: shared.clone(),
                said: Said::default(),
                broken: false,
            })
        };
        let links: Vec<Option<Link>> = self.data.iter().enumerate().map(link).collect();
        match start(links, shared, ledger) {
            Err(message) => {
                shared.fail(Fault::internal(format!("the workers did not start: {message}")));
                before_parting();
                gone.all();
                self.shut();
            }
            Ok((workers, threads)) => {
                for result in workers.join() {
                    if let Err(panic) = result {
                        shared.fail(Fault::internal(format!("a worker panicked: {panic}")));
                    }
                }
                before_parting();
                gone.all();
                self.part(shared, threads);
            }
        }
    }

    /// The threads of timely end when all have read what was sent; those of a job that has failed end now.
    fn part(&self, shared: &Shared, threads: CommsGuard) {
        let parted = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // The sinks of another process may have a while to go.
                while !shared.is_aborted() && !parted.load(Ordering::SeqCst) {
                    std::thread::sleep(AGAIN);
                }
                self.shut();
            });
            // It joins the threads, and panics if one has.
            let _ = panics::caught(|| drop(threads));
            parted.store(true, Ordering::SeqCst);
        });
    }

    fn shut(&self) {
        self.data.iter().flatten().for_each(|wire| wire.shut(Shutdown::Both));
    }
}

fn start(
    links: Vec<Option<Link>>,
    shared: &Arc<Shared>,
    ledger: &Arc<Ledger>,
) -> Result<(WorkerGuards<()>, CommsGuard), String> {
    let threads = shared.local.len();
    let inner = ProcessBuilder::new_typed_vector(threads, Hooks::default().refill, None);
    let (builders, guard) = initialize_networking_from_sockets(inner, links, shared.process, threads, Hooks::default())
        .map_err(|e| e.to_string())?;
    let builders = builders.into_iter().map(AllocatorBuilder::Tcp).collect();
    let (on_workers, ledger) = (shared.clone(), ledger.clone());
    let workers = timely::execute::execute_from(builders, Box::new(()), WorkerConfig::default(), move |worker| {
        super::credit::enter(Some(ledger.clone()));
        crate::worker::run(worker, &on_workers);
    })?;
    Ok((workers, guard))
}

/// The workers of a process have gone: nobody is harmed by an error any more.
#[derive(Default)]
struct Gone {
    gone: Mutex<bool>,
    changed: Condvar,
}

impl Gone {
    fn all(&self) {
        *self.gone.lock().expect("no panic while held") = true;
        self.changed.notify_all();
    }

    fn wait(&self) {
        let gone = self.gone.lock().expect("no panic while held");
        drop(self.changed.wait_while(gone, |gone| !*gone));
    }
}

/// What timely reads from, or writes to.
struct Link {
    wire: Wire,
    /// The other one.
    process: usize,
    gone: Arc<Gone>,
    shared: Arc<Shared>,
    said: Said,
    broken: bool,
}

/// How far timely's messages have been read.
#[derive(Default)]
struct Said {
    /// Of a header that is not complete.
    header: Vec<u8>,
    /// Bytes left of a message.
    rest: usize,
    /// The message was read that ends the stream.
    last: bool,
}

impl Said {
    fn read(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let skipped = self.rest.min(bytes.len());
            (self.rest, bytes) = (self.rest - skipped, &bytes[skipped..]);
            while let (0, Some((&byte, more))) = (self.rest, bytes.split_first()) {
                bytes = more;
                self.header.push(byte);
                if let Some(length) = whole_header(&self.header) {
                    self.header.clear();
                    (self.rest, self.last) = (length, length == 0);
                }
            }
        }
    }
}

/// Length of the message behind a header, once all of the header is there: the fifth of six words.
fn whole_header(bytes: &[u8]) -> Option<usize> {
    (bytes.len() == HEADER_BYTES).then(|| u64::from_be_bytes(bytes[32..40].try_into().expect("8 bytes")) as usize)
}

impl Link {
    /// The connection has broken; returns when nobody needs it any more.
    fn suspect(&mut self, error: &dyn std::fmt::Display) {
        // Timely answers with a panic, which says nothing that was not said.
        panics::expect_on_this_thread();
        if !std::mem::replace(&mut self.broken, true) {
            self.shared.suspect(Fault::io(format!("process {} was lost: {error}", self.process)));
        }
        self.gone.wait();
    }
}

impl Read for Link {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = (&self.wire).read(into);
        match &read {
            Ok(0) if self.said.last => {}
            Ok(0) => self.suspect(&"its connection ended"),
            Ok(n) => self.said.read(&into[..*n]),
            Err(error) => self.suspect(error),
        }
        read
    }
}

impl Write for Link {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = (&self.wire).write(bytes);
        if let Err(error) = &written {
            self.suspect(error);
        }
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for Link {
    fn try_clone(&self) -> io::Result<Self> {
        let (wire, gone, shared) = (self.wire.clone(), self.gone.clone(), self.shared.clone());
        Ok(Self { wire, process: self.process, gone, shared, said: Said::default(), broken: false })
    }

    fn set_nonblocking(&self, _: bool) -> io::Result<()> {
        // It never is.
        Ok(())
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.wire.shut(how);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use timely::communication::networking::MessageHeader;

    #[test]
    fn the_last_message_is_told_from_zeros_however_it_is_cut() {
        let header =
            |length| MessageHeader { channel: 3, source: 1, target_lower: 0, target_upper: 1, length, seqno: 9 };
        let mut stream = Vec::new();
        for length in [1, 200, 48] {
            header(length).write_to(&mut stream).unwrap();
            stream.resize(stream.len() + length, 0);
        }
        let without_end = stream.len();
        header(0).write_to(&mut stream).unwrap();
        for step in [1, 7, 48, 1000] {
            let mut said = Said::default();
            for (at, piece) in stream.chunks(step).enumerate() {
                assert!(!said.last || at * step > without_end);
                said.read(piece);
            }
            assert!(said.last, "in pieces of {step}");
            let mut said = Said::default();
            stream[..without_end].chunks(step).for_each(|piece| said.read(piece));
            assert!(!said.last, "zeros of a message are no end");
        }
    }
}
