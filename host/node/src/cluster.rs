//! The processes of a job: children of this one, or those on the machines of a hosts file.
//!
//! Laws: a child ends when its parent does, whatever ends that; the secret stands in no argument and in no environment.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tidemill_model::{Fault, Plan};
use tidemill_runtime::cluster::{Gate, GateOptions, Identity, Team, TlsFiles, random_secret};

use crate::terminal::{leave, note};

/// How long a child may take to end when nobody needs it any more.
const CHILD_END: Duration = Duration::from_secs(3);
/// Shorter secrets can be guessed.
const SECRET_BYTES_MIN: usize = 16;
/// Where children and their parent meet.
const HERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// What `run` and `worker` are told about other machines.
#[derive(clap::Args)]
pub struct HostsArgs {
    /// The job's processes on several machines: a file with one `host:port` a line. The first one leads, and is the one that is run by
    /// `tidemill run`; on the others run `tidemill worker`
    #[arg(long, value_name = "FILE")]
    pub hosts: Option<PathBuf>,
    /// What all processes of the job know and nobody else does: a file of 16 bytes or more, for `--hosts`
    #[arg(long, value_name = "FILE", requires = "hosts")]
    secret_file: Option<PathBuf>,
    /// Certificate of this host with its chain (PEM), to encrypt what the processes say to each other
    #[arg(long, value_name = "FILE", requires_all = ["hosts", "tls_key", "tls_ca"])]
    tls_cert: Option<PathBuf>,
    /// Its key (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Who may sign the others' certificates (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_ca: Option<PathBuf>,
}

impl HostsArgs {
    fn tls(&self) -> Option<TlsFiles> {
        let (cert, key, ca) = (self.tls_cert.clone()?, self.tls_key.clone()?, self.tls_ca.clone()?);
        Some(TlsFiles { cert, key, ca })
    }

    /// The gate of a process, and where all processes are.
    pub fn open(&self, hosts: &Path, process: usize, plan: &Plan, file: &Path) -> Result<(Gate, Vec<String>), Fault> {
        let addresses = read_hosts(hosts)?;
        let Some(address) = addresses.get(process) else {
            let text = format!("there is no process {process} in `{}`: it has {}", hosts.display(), addresses.len());
            return Err(Fault::config(text).with_help("processes are counted from 0, one a line"));
        };
        let secret = self.secret()?;
        let identity = identity(plan, file)?;
        let gate = Gate::open(GateOptions { identity, process, address: address.clone(), secret, tls: self.tls() })?;
        Ok((gate, addresses))
    }

    fn secret(&self) -> Result<Vec<u8>, Fault> {
        let help = "for example `head -c 32 /dev/urandom | base64 > secret`, the same file on all machines";
        let Some(file) = &self.secret_file else {
            return Err(Fault::config("`--hosts` needs `--secret-file`").with_help(help));
        };
        let secret = read(file)?.trim_ascii().to_owned();
        if secret.len() < SECRET_BYTES_MIN {
            let text = format!("the secret in `{}` is too short: {} bytes", file.display(), secret.len());
            return Err(Fault::config(text).with_help(help));
        }
        Ok(secret)
    }
}

fn read(file: &Path) -> Result<Vec<u8>, Fault> {
    std::fs::read(file).map_err(|e| Fault::config(format!("cannot read `{}`: {e}", file.display())))
}

pub fn identity(plan: &Plan, file: &Path) -> Result<Identity, Fault> {
    Ok(Identity::new(plan, &read(file)?))
}

fn read_hosts(file: &Path) -> Result<Vec<String>, Fault> {
    let text = String::from_utf8_lossy(&read(file)?).into_owned();
    let mut addresses: Vec<String> = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |what: &str| {
            Fault::config(format!("`{}`, line {number}: {what}", file.display()))
                .with_help("a hosts file has one `host:port` a line; the first one leads")
        };
        match line.rsplit_once(':').map(|(host, port)| (host, port.parse::<u16>())) {
            Some((host, Ok(port))) if !host.is_empty() && port > 0 => {}
            _ => return Err(wrong(&format!("`{line}` is not `host:port`"))),
        }
        if addresses.iter().any(|other| other == line) {
            return Err(wrong(&format!("`{line}` stands there twice")));
        }
        addresses.push(line.to_owned());
    }
    match addresses.len() {
        0 | 1 => Err(Fault::config(format!("`{}` names {} processes", file.display(), addresses.len()))
            .with_help("for a job of one process leave `--hosts` away")),
        _ => Ok(addresses),
    }
}

/// The processes of the job that this one leads.
pub struct Cluster {
    gate: Arc<Gate>,
    crew: Crew,
    silence: Duration,
}

enum Crew {
    Children(Children),
    /// By process.
    Hosts(Vec<String>),
}

impl Cluster {
    /// Processes on this machine; none is there before they are gathered.
    pub fn of_children(plan: &Plan, file: &Path, silence: Duration) -> Result<Self, Fault> {
        let secret = random_secret()?;
        let identity = identity(plan, file)?;
        let options =
            GateOptions { identity, process: 0, address: HERE.to_string(), secret: secret.clone(), tls: None };
        let gate = Arc::new(Gate::open(options)?);
        let children = Children { file: file.to_owned(), leader: gate.address(), secret, running: Vec::new() };
        Ok(Self { gate, crew: Crew::Children(children), silence })
    }

    /// Processes that others start.
    pub fn of_hosts(
        args: &HostsArgs,
        hosts: &Path,
        plan: &Plan,
        file: &Path,
        silence: Duration,
    ) -> Result<Self, Fault> {
        let (gate, addresses) = args.open(hosts, 0, plan, file)?;
        Ok(Self { gate: Arc::new(gate), crew: Crew::Hosts(addresses), silence })
    }

    /// Number of processes, if the hosts file says it.
    pub fn fixed(&self) -> Option<usize> {
        match &self.crew {
            Crew::Children(_) => None,
            Crew::Hosts(addresses) => Some(addresses.len()),
        }
    }

    /// Waits until all processes are there. None: `go_on` has said no.
    pub fn gather(&mut self, processes: usize, go_on: impl Fn() -> bool) -> Result<Option<Team>, Fault> {
        let mut fault = None;
        let members = match &mut self.crew {
            Crew::Hosts(addresses) => {
                let missing = |missing: &[usize]| {
                    let names: Vec<String> = missing.iter().map(|i| format!("{i} ({})", addresses[*i])).collect();
                    note(format_args!("waiting for process {}", names.join(", ")));
                };
                self.gate.gather(processes, go_on, missing)
            }
            Crew::Children(children) => {
                children.be(processes - 1)?;
                let watch = || {
                    fault = children.ended();
                    fault.is_none() && go_on()
                };
                self.gate.gather(processes, watch, |_| {})
            }
        };
        match fault {
            Some(fault) => Err(fault),
            None => members.map(|members| Team::new(self.gate.clone(), members, self.silence)).transpose(),
        }
    }
}

/// Processes of this program that take part in the job.
struct Children {
    file: PathBuf,
    leader: SocketAddr,
    secret: Vec<u8>,
    /// Process 1 first.
    running: Vec<Running>,
}

/// A child; dropped, it ends.
struct Running {
    child: Child,
    /// It ends when this is closed.
    stdin: Option<ChildStdin>,
    output: Option<JoinHandle<()>>,
}

impl Children {
    /// As many as that are running.
    fn be(&mut self, wanted: usize) -> Result<(), Fault> {
        self.running.truncate(wanted);
        for index in 0..wanted {
            if self.running.get_mut(index).is_none_or(|running| !running.is_alive()) {
                let process = index + 1;
                let child =
                    self.start(process).map_err(|e| Fault::io(format!("cannot start process {process}: {e}")))?;
                match self.running.get_mut(index) {
                    Some(dead) => *dead = child,
                    None => self.running.push(child),
                }
            }
        }
        Ok(())
    }

    fn start(&self, process: usize) -> std::io::Result<Running> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("worker").arg(&self.file).args(["--process", &process.to_string()]);
        command.args(["--leader", &self.leader.to_string()]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (mut stdin, stdout) = (child.stdin.take(), child.stdout.take());
        if let Some(stdin) = &mut stdin {
            stdin.write_all(&[&self.secret[..], b"\n"].concat())?;
        }
        let copy = |stdout| std::thread::Builder::new().name("tidemill-output".into()).spawn(move || forward(stdout));
        Ok(Running { child, stdin, output: stdout.map(copy).transpose()? })
    }

    /// What became of a child that has ended before its time.
    fn ended(&mut self) -> Option<Fault> {
        for (process, running) in (1..).zip(&mut self.running) {
            if let Ok(Some(status)) = running.child.try_wait() {
                return Some(Fault::io(format!("process {process} ended before the job began: {status}")));
            }
        }
        None
    }
}

impl Running {
    fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stdin = None;
        let deadline = Instant::now() + CHILD_END;
        while self.is_alive() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        // It has ended, or does it now.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(output) = self.output.take() {
            let _ = output.join();
        }
    }
}

/// Copies what a child writes to our own output, in whole lines, so that rows of several processes don't mix.
fn forward(from: ChildStdout) {
    let mut from = BufReader::with_capacity(64 << 10, from);
    let mut lines = Vec::new();
    loop {
        let there = match from.fill_buf() {
            Ok(there) if !there.is_empty() => there,
            _ => break,
        };
        lines.extend_from_slice(there);
        let read = there.len();
        from.consume(read);
        let whole = lines.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        let mut out = std::io::stdout().lock();
        if out.write_all(&lines[..whole]).and_then(|()| out.flush()).is_err() {
            // Nobody reads: the child learns it when it writes the next time.
            return;
        }
        lines.drain(..whole);
    }
    let _ = std::io::stdout().lock().write_all(&lines);
}

/// The secret, as a parent hands it over.
pub fn secret_from_parent() -> std::io::Result<Vec<u8>> {
    let mut secret = Vec::new();
    let (mut stdin, mut byte) = (std::io::stdin().lock(), [0]);
    while stdin.read(&mut byte)? > 0 && byte != *b"\n" {
        secret.push(byte[0]);
    }
    Ok(secret)
}

/// Ends this process when its parent has gone.
pub fn end_with_parent() -> std::io::Result<()> {
    let wait = || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        leave(ExitCode::SUCCESS);
    };
    std::thread::Builder::new().name("tidemill-parent".into()).spawn(wait).map(drop)
}
