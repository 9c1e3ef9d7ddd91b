//! The first words on a connection: who is calling, for which job and generation, and the proof that both know the secret.
//!
//! The caller says hello with a nonce; the listener answers with a nonce of its own and the HMAC-SHA256 of both under
//! the secret; the caller checks that and proves itself in the same way; then the listener accepts or refuses, in words.
//! Laws: nothing but the protocol's version is believed, and nothing about the job is told, before the proof; a label
//! per side keeps one side's proof from serving as the other's. Without TLS nothing protects what follows.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit, Mac};
use hmac_sha2::{Digest, Sha256};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tidemill_model::plan::{Node, NodeKind};
use tidemill_model::{Fault, Plan};

use super::wire::Wire;

/// Raised when processes of two versions would misunderstand each other.
const PROTOCOL: u32 = 1;
/// What a line begins with, so that whoever dialled the wrong port is recognised.
const GREETING: &str = "tidemill ";
/// Longest line: a pipeline has some hundred components at most.
const LINE_BYTES_MAX: usize = 256 << 10;
/// What to do about somebody who does not speak like a process of Tidemill.
const STRANGE: &str = "see that the hosts file names the right port, and that all processes use TLS, or none; with TLS, each \
                       needs a certificate signed by the others' `--tls-ca`";
/// The whole of it takes a few round trips.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Between the leader and another process; for one generation, of which the leader tells.
    Control,
    /// What timely sends.
    Data,
    /// What gives memory back to the process that has sent rows.
    Credit,
}

/// What all processes of a job must have in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub pipeline: String,
    /// SHA-256 of the pipeline file.
    pub file: String,
    /// Node and SHA-256 of its component.
    pub components: Vec<(String, String)>,
}

impl Identity {
    /// `file`: the text of the pipeline file, as it is.
    pub fn new(plan: &Plan, file: &[u8]) -> Self {
        let component = |node: &Node| match &node.kind {
            NodeKind::Operator { factory } => Some((node.name.clone(), factory.about().component)),
            NodeKind::Source { .. } | NodeKind::Sink { .. } => None,
        };
        let components = plan.nodes.iter().filter_map(component).filter(|(_, digest)| !digest.is_empty());
        Self { pipeline: plan.name.clone(), file: hex(&Sha256::digest(file)), components: components.collect() }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Hello {
    pub protocol: u32,
    /// Of the program.
    pub version: String,
    pub identity: Identity,
    /// 0 for control connections: it is told on them.
    pub generation: u64,
    pub from: usize,
    pub to: usize,
    pub kind: Kind,
    /// Where the caller takes connections.
    pub address: String,
    pub nonce: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    Welcome {
        nonce: String,
        proof: String,
    },
    Proof(String),
    Accepted,
    /// `again`: another attempt may succeed.
    Refused {
        why: String,
        help: Option<String>,
        again: bool,
    },
}

/// Why there is no connection.
#[derive(Debug)]
pub struct Refused {
    pub fault: Fault,
    /// Another attempt may succeed.
    pub again: bool,
}

impl Refused {
    fn lost(error: &std::io::Error, peer: &str) -> Self {
        let fault = Fault::io(format!("{peer}: {error}"));
        // What makes no sense now will make none later.
        match error.kind() {
            std::io::ErrorKind::InvalidData => Self::finally(fault.with_help(STRANGE)),
            std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::UnexpectedEof => {
                Self::for_now(fault.with_help("it has ended, or only one of the two uses TLS: see what it says itself"))
            }
            _ => Self::for_now(fault),
        }
    }

    pub fn finally(fault: Fault) -> Self {
        Self { fault, again: false }
    }

    pub fn for_now(fault: Fault) -> Self {
        Self { fault, again: true }
    }
}

impl Hello {
    pub fn new(identity: &Identity, kind: Kind, generation: u64, from: usize, to: usize, address: &str) -> Self {
        Self {
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").into(),
            identity: identity.clone(),
            generation,
            from,
            to,
            kind,
            address: address.to_owned(),
            nonce: String::new(),
        }
    }
}

/// The caller's side.
pub fn call(wire: &Wire, mut hello: Hello, secret: &[u8]) -> Result<(), Refused> {
    let peer = wire.peer();
    let lost = |error: std::io::Error| Refused::lost(&error, &peer);
    wire.set_timeout(Some(HANDSHAKE_TIMEOUT)).map_err(lost)?;
    let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
    hello.nonce = nonce().map_err(Refused::finally)?;
    let said = send(wire, &hello).map_err(lost)?;
    let (nonce, proof) = match receive(wire, deadline).map_err(lost)?.0 {
        Word::Welcome { nonce, proof } => (nonce, proof),
        word => return Err(refusal(word, &peer)),
    };
    if !is_proof(secret, "listener", &[&said, &nonce], &proof) {
        let why = "the secrets of the two processes differ";
        let _ = send(wire, &Word::Refused { why: why.into(), help: None, again: false });
        let help = "give all processes of a job the same `--secret-file`";
        return Err(Refused::finally(Fault::config(format!("{peer}: {why}")).with_help(help)));
    }
    send(wire, &Word::Proof(prove(secret, "caller", &[&said, &nonce]))).map_err(lost)?;
    match receive(wire, deadline).map_err(lost)?.0 {
        Word::Accepted => wire.set_timeout(None).map_err(lost),
        word => Err(refusal(word, &peer)),
    }
}

fn refusal(word: Word, peer: &str) -> Refused {
    match word {
        Word::Refused { why, help, again } => {
            let mut fault = Fault::config(format!("{peer} refuses this process: {why}"));
            fault.help = help;
            Refused { fault, again }
        }
        _ => Refused::finally(Fault::config(format!("{peer} is no process of Tidemill, or of another version"))),
    }
}

/// The listener's side. `judge` says what is wrong with a caller that knows the secret.
pub fn listen(wire: &Wire, secret: &[u8], judge: impl FnOnce(&Hello) -> Result<(), Refused>) -> Result<Hello, Refused> {
    let peer = wire.peer();
    let lost = |error: std::io::Error| Refused::lost(&error, &peer);
    wire.set_timeout(Some(HANDSHAKE_TIMEOUT)).map_err(lost)?;
    let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
    let (hello, said) = receive::<Hello>(wire, deadline).map_err(lost)?;
    if hello.protocol != PROTOCOL {
        let (we, version) = (env!("CARGO_PKG_VERSION"), &hello.version);
        let why = format!("it is Tidemill {version}, which speaks another protocol than {we} here");
        return Err(refuse(wire, &peer, &Refused::finally(Fault::config(why))));
    }
    let nonce = nonce().map_err(Refused::finally)?;
    let proof = prove(secret, "listener", &[&said, &nonce]);
    send(wire, &Word::Welcome { nonce: nonce.clone(), proof }).map_err(lost)?;
    match receive(wire, deadline).map_err(lost)?.0 {
        Word::Proof(proof) if is_proof(secret, "caller", &[&said, &nonce], &proof) => {}
        Word::Refused { why, .. } => {
            return Err(Refused::finally(Fault::config(format!("{peer} has hung up: {why}"))));
        }
        _ => {
            let why = Fault::config("it does not know the secret");
            return Err(refuse(wire, &peer, &Refused::finally(why)));
        }
    }
    if let Err(refused) = judge(&hello) {
        return Err(refuse(wire, &peer, &refused));
    }
    send(wire, &Word::Accepted).map_err(lost)?;
    wire.set_timeout(None).map_err(lost)?;
    Ok(hello)
}

/// Tells the caller, and returns what this side says.
fn refuse(wire: &Wire, peer: &str, refused: &Refused) -> Refused {
    let Refused { fault, again } = refused;
    let word = Word::Refused { why: fault.message.clone(), help: fault.help.clone(), again: *again };
    // It may have gone.
    let _ = send(wire, &word);
    let fault = Fault { message: format!("{peer} was refused: {}", fault.message), ..fault.clone() };
    Refused { fault, again: *again }
}

fn nonce() -> Result<String, Fault> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|e| Fault::io(format!("the system gives no random numbers: {e}")))?;
    Ok(hex(&bytes))
}

/// A secret that nobody can guess.
pub fn random_secret() -> Result<Vec<u8>, Fault> {
    nonce().map(String::into_bytes)
}

fn mac(secret: &[u8], side: &str, parts: &[&str]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("a key of any length will do");
    for part in [side].iter().chain(parts) {
        mac.update(&(part.len() as u64).to_le_bytes());
        mac.update(part.as_bytes());
    }
    mac
}

fn prove(secret: &[u8], side: &str, parts: &[&str]) -> String {
    hex(&mac(secret, side, parts).finalize().into_bytes())
}

/// Takes as long for a wrong proof as for the right one.
fn is_proof(secret: &[u8], side: &str, parts: &[&str], proof: &str) -> bool {
    let digits = proof.as_bytes().chunks(2).map(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok());
    digits.collect::<Option<Vec<u8>>>().is_some_and(|proof| mac(secret, side, parts).verify_slice(&proof).is_ok())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns what was said.
fn send(mut wire: &Wire, word: &impl Serialize) -> std::io::Result<String> {
    let line = format!("{GREETING}{}\n", serde_json::to_string(word)?);
    wire.write_all(line.as_bytes())?;
    Ok(line)
}

fn strange() -> std::io::Error {
    let text = "this is not what a process of Tidemill says";
    std::io::Error::new(std::io::ErrorKind::InvalidData, text)
}

/// A byte at a time: what follows the line is not ours. Each byte may come in time, and the line never end: hence the deadline.
fn receive<T: DeserializeOwned>(mut wire: &Wire, deadline: Instant) -> std::io::Result<(T, String)> {
    let (mut line, mut byte) = (Vec::new(), [0]);
    while line.last() != Some(&b'\n') {
        if line.len() >= LINE_BYTES_MAX {
            return Err(strange());
        }
        if Instant::now() > deadline {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        wire.read_exact(&mut byte)?;
        line.push(byte[0]);
        // Others are told apart at once: they may never send a line.
        if line.len() <= GREETING.len() && !GREETING.as_bytes().starts_with(&line) {
            return Err(strange());
        }
    }
    let line = String::from_utf8(line).map_err(std::io::Error::other)?;
    let word = serde_json::from_str(&line[GREETING.len()..])?;
    Ok((word, line))
}
