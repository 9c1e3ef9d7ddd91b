//! A connection between two processes, plain or encrypted, read by one thread and written by another.
//!
//! Law: nobody waits for the network while holding the session's lock, so that a reader never holds up a writer.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tidemill_model::Fault;

use super::handshake::HANDSHAKE_TIMEOUT;
use super::tls::{Encryption, Session};

/// A host that does not answer is down or behind a wall: the next attempt comes soon enough.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Both directions; clones are the same connection.
#[derive(Clone)]
pub struct Wire(Arc<Ends>);

struct Ends {
    socket: TcpStream,
    session: Option<Session>,
    /// Held while a message is written: several threads may speak.
    turn: Mutex<()>,
}

impl Wire {
    /// Dials `address` (`host:port`).
    pub fn dial(address: &str, encryption: Option<&Encryption>) -> Result<Self, Fault> {
        let lost = |e| Fault::io(format!("cannot reach `{address}`: {e}"));
        let socket = connect(address).map_err(lost)?;
        // Something else may listen there, and say nothing.
        limit(&socket, Some(HANDSHAKE_TIMEOUT)).map_err(lost)?;
        let session = match encryption {
            Some(encryption) => {
                let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
                let session = encryption.dial(host.trim_matches(['[', ']']), &socket);
                Some(session.map_err(|fault| Fault { message: format!("{address}: {}", fault.message), ..fault })?)
            }
            None => None,
        };
        Ok(Self::new(socket, session))
    }

    /// The other end of a connection that was taken.
    pub fn accept(socket: TcpStream, encryption: Option<&Encryption>) -> Result<Self, Fault> {
        let useless = |e| Fault::io(format!("a connection can't be used: {e}"));
        socket.set_nodelay(true).map_err(useless)?;
        // A caller that never speaks must not stay.
        limit(&socket, Some(HANDSHAKE_TIMEOUT)).map_err(useless)?;
        let session = encryption.map(|encryption| encryption.accept(&socket)).transpose()?;
        Ok(Self::new(socket, session))
    }

    fn new(socket: TcpStream, session: Option<Session>) -> Self {
        Self(Arc::new(Ends { socket, session, turn: Mutex::default() }))
    }

    /// Writes a message as a whole.
    pub fn say(&self, message: &[u8]) -> io::Result<()> {
        let _turn = self.0.turn.lock().unwrap_or_else(PoisonError::into_inner);
        { self }.write_all(message)
    }

    pub fn peer(&self) -> String {
        self.0.socket.peer_addr().map_or_else(|_| "a closed connection".into(), |address| address.to_string())
    }

    /// Reads and writes that take longer fail; `None`: they may take for ever.
    pub fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        limit(&self.0.socket, timeout)
    }

    /// Whoever waits for this connection, here or there, is told that it has ended.
    pub fn shut(&self, how: Shutdown) {
        // Where it has ended already there is nothing to do.
        let _ = self.0.socket.shutdown(how);
    }

    /// False: the other side has closed it.
    pub fn is_open(&self) -> bool {
        let socket = &self.0.socket;
        let looked = socket.set_nonblocking(true).and_then(|()| socket.peek(&mut [0]));
        let open = match looked {
            Ok(bytes) => bytes > 0,
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        };
        socket.set_nonblocking(false).is_ok() && open
    }
}

fn limit(socket: &TcpStream, timeout: Option<Duration>) -> io::Result<()> {
    socket.set_read_timeout(timeout)?;
    socket.set_write_timeout(timeout)
}

fn connect(address: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(socket) => {
                socket.set_nodelay(true)?;
                return Ok(socket);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

impl Read for &Wire {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match &self.0.session {
            Some(session) => session.read(&self.0.socket, into),
            None => (&self.0.socket).read(into),
        }
    }
}

impl Write for &Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &self.0.session {
            Some(session) => session.write(&self.0.socket, bytes),
            None => (&self.0.socket).write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
