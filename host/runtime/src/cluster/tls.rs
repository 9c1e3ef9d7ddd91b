//! Encryption between processes: TLS 1.3 by rustls, with certificates on both sides.

use std::net::TcpStream;
use std::path::PathBuf;

use tidemill_model::Fault;

/// Files in PEM: the certificate of this process with its chain, its key, and the authorities that may sign for others.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
    pub ca: PathBuf,
}

#[cfg(feature = "tls")]
pub use with_rustls::{Encryption, Session};

#[cfg(feature = "tls")]
mod with_rustls {
    use std::io::{self, Cursor, Read, Write};
    use std::path::Path;
    use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
    use rustls::server::WebPkiClientVerifier;
    use rustls::{ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection};

    use tidemill_model::FaultKind;

    use super::{Fault, TcpStream, TlsFiles};

    /// Read from the network at a time: a TLS record.
    const RECORD_BYTES: usize = 16 << 10;

    /// How this process shows who it is, and whom it believes.
    #[derive(Clone)]
    pub struct Encryption {
        client: Arc<ClientConfig>,
        server: Arc<ServerConfig>,
    }

    impl Encryption {
        pub fn load(files: &TlsFiles) -> Result<Self, Fault> {
            let chain = certificates(&files.cert)?;
            let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|e| unreadable(&files.key, &e))?;
            let mut roots = RootCertStore::empty();
            for authority in certificates(&files.ca)? {
                roots.add(authority).map_err(|e| unreadable(&files.ca, &e))?;
            }
            let (roots, provider) = (Arc::new(roots), Arc::new(rustls::crypto::ring::default_provider()));
            let wrong = |e: rustls::Error| unreadable(&files.cert, &e);
            let client = ClientConfig::builder_with_provider(provider.clone())
                .with_protocol_versions(&[&rustls::version::TLS13])
                .map_err(wrong)?
                .with_root_certificates(roots.clone())
                .with_client_auth_cert(chain.clone(), key.clone_key())
                .map_err(wrong)?;
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone()).build();
            let verifier = verifier.map_err(|e| unreadable(&files.ca, &e))?;
            let mut server = ServerConfig::builder_with_provider(provider)
                .with_protocol_versions(&[&rustls::version::TLS13])
                .map_err(wrong)?
                .with_client_cert_verifier(verifier)
                .with_single_cert(chain, key)
                .map_err(wrong)?;
            // Connections live as long as the job: nobody resumes one.
            server.send_tls13_tickets = 0;
            Ok(Self { client: Arc::new(client), server: Arc::new(server) })
        }

        pub fn dial(&self, host: &str, socket: &TcpStream) -> Result<Session, Fault> {
            let name = ServerName::try_from(host.to_owned())
                .map_err(|_| Fault::config(format!("`{host}` can't be the name in a certificate")))?;
            let connection = ClientConnection::new(self.client.clone(), name).map_err(|e| refused(&e))?;
            Session::begin(connection.into(), socket)
        }

        pub fn accept(&self, socket: &TcpStream) -> Result<Session, Fault> {
            let connection = ServerConnection::new(self.server.clone()).map_err(|e| refused(&e))?;
            Session::begin(connection.into(), socket)
        }
    }

    fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, Fault> {
        let all = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let all = all.map_err(|e| unreadable(file, &e))?;
        if all.is_empty() {
            return Err(unreadable(file, &"there is no certificate in it"));
        }
        Ok(all)
    }

    fn unreadable(file: &Path, error: &dyn std::fmt::Display) -> Fault {
        Fault::config(format!("`{}` can't be used for TLS: {error}", file.display()))
            .with_help("the files of `--tls-cert`, `--tls-key` and `--tls-ca` are PEM")
    }

    fn refused(error: &dyn std::fmt::Display) -> Fault {
        Fault::config(format!("no encrypted connection: {error}")).with_help(
            "all processes need `--tls-*`, each a certificate for its host as the hosts file has it, signed by the others' `--tls-ca`",
        )
    }

    /// The state of one encrypted connection.
    pub struct Session {
        connection: Mutex<Connection>,
        /// Bytes of the network that the connection has not taken in, and how many of them it has. For the reader only.
        raw: Mutex<Cursor<Vec<u8>>>,
        /// Records go out in the order in which they were sealed.
        sending: Mutex<()>,
    }

    impl Session {
        fn begin(mut connection: Connection, socket: &TcpStream) -> Result<Self, Fault> {
            while connection.is_handshaking() {
                connection.complete_io(&mut { socket }).map_err(|e| match e.kind() {
                    io::ErrorKind::InvalidData => refused(&e),
                    // It may have gone, and come back.
                    _ => Fault { kind: FaultKind::Io, ..refused(&e) },
                })?;
            }
            Ok(Self { connection: Mutex::new(connection), raw: Mutex::default(), sending: Mutex::default() })
        }

        pub fn read(&self, mut socket: &TcpStream, into: &mut [u8]) -> io::Result<usize> {
            let mut raw = lock(&self.raw);
            loop {
                match lock(&self.connection).reader().read(into) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    done => return done,
                }
                if raw.position() == raw.get_ref().len() as u64 {
                    raw.set_position(0);
                    raw.get_mut().resize(RECORD_BYTES, 0);
                    let read = socket.read(raw.get_mut());
                    raw.get_mut().truncate(*read.as_ref().unwrap_or(&0));
                    if read? == 0 {
                        return Ok(0);
                    }
                }
                let mut connection = lock(&self.connection);
                connection.read_tls(&mut *raw)?;
                connection.process_new_packets().map_err(|e| {
                    let text = format!("no encrypted connection: {e}");
                    io::Error::new(io::ErrorKind::InvalidData, text)
                })?;
            }
        }

        pub fn write(&self, mut socket: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
            let _order = lock(&self.sending);
            let mut sealed = Vec::new();
            let taken = {
                let mut connection = lock(&self.connection);
                let taken = connection.writer().write(bytes)?;
                while connection.wants_write() {
                    connection.write_tls(&mut sealed)?;
                }
                taken
            };
            socket.write_all(&sealed)?;
            Ok(taken)
        }
    }

    fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a program without TLS has in its place: nothing.
#[cfg(not(feature = "tls"))]
mod without {
    use std::io;

    use super::{Fault, TcpStream, TlsFiles};

    #[derive(Clone)]
    pub enum Encryption {}
    pub enum Session {}

    impl Encryption {
        pub fn load(_: &TlsFiles) -> Result<Self, Fault> {
            let fault = Fault::config("this program was built without TLS");
            Err(fault.with_help("build it with the feature `tls`, which is on by default"))
        }

        pub fn dial(&self, _: &str, _: &TcpStream) -> Result<Session, Fault> {
            match *self {}
        }

        pub fn accept(&self, _: &TcpStream) -> Result<Session, Fault> {
            match *self {}
        }
    }

    impl Session {
        pub fn read(&self, _: &TcpStream, _: &mut [u8]) -> io::Result<usize> {
            match *self {}
        }

        pub fn write(&self, _: &TcpStream, _: &[u8]) -> io::Result<usize> {
            match *self {}
        }
    }
}

#[cfg(not(feature = "tls"))]
pub use without::{Encryption, Session};
