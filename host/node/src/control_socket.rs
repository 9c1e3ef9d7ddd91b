//! The control socket of a running job: a Unix socket in the user's runtime folder, one line of JSON per request and answer.
//!
//! Laws: a socket is named after its pipeline and process, so that runs of one name do not meet; only the user may connect; a
//! request that fails leaves the job as it was.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use tidemill_model::Fault;
use tidemill_runtime::{JobControl, NewComponent, ShadowReport, Taken};
use tidemill_wasm::WasmHost;

use crate::catalog::{loader, wasm_host};
use crate::check::load_or_report;

/// What can be asked of a running job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Request {
    Status,
    /// A savepoint; with `stop` the job ends at it.
    Savepoint {
        name: String,
        stop: bool,
    },
    /// A checkpoint at which the job ends; or the end of its sources, where checkpoints are not retained.
    Stop,
    /// Another number of workers, by way of a checkpoint; as many processes as before, if nothing is said of them.
    Rescale {
        workers: usize,
        #[serde(default)]
        processes: Option<usize>,
    },
    /// Another component for an operator.
    Upgrade {
        operator: String,
        component: PathBuf,
        /// Say only what would happen.
        dry_run: bool,
        /// Work beside the one that runs for so long, and compare.
        shadow_ms: Option<u64>,
        /// Go over even if the shadow's rows differ.
        accept: bool,
        /// States that are given up.
        dropped: Vec<String>,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    Status(Status),
    Taken {
        id: u64,
        bytes: u64,
        took_ms: u64,
    },
    Rescaled {
        workers: usize,
        processes: usize,
        took_ms: u64,
    },
    /// Sources have ended, and what they had read was processed: there is nothing to go on from.
    Ended {
        took_ms: u64,
    },
    /// What becomes of the states, the component's digest, and how long the job was about it; none: nothing was changed.
    Upgraded {
        changes: Vec<String>,
        digest: String,
        took_ms: Option<f64>,
        shadow: Option<Shadow>,
    },
    Error {
        message: String,
        help: Option<String>,
    },
}

/// What came of a shadow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shadow {
    pub rows: u64,
    pub differing: u64,
    pub examples: Vec<String>,
    pub fell_behind: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub pipeline: String,
    pub process: u32,
    /// Of each process.
    pub workers: usize,
    /// Starts of the job, the first included.
    pub runs: u64,
    pub processes: usize,
    pub rows_in: u64,
    pub rows_out: u64,
    pub rows_dead: u64,
    pub checkpoints: u64,
    pub failed_checkpoints: u64,
    pub last_checkpoint: Option<LastCheckpoint>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LastCheckpoint {
    pub id: u64,
    pub aligned_ms: u64,
    pub took_ms: u64,
    pub bytes: u64,
    pub written_bytes: u64,
}

/// How many a job is run by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Of each process.
    pub workers: usize,
    pub processes: usize,
}

/// Where the job's runner and the socket's threads meet.
#[derive(Default)]
pub struct Desk {
    state: Mutex<DeskState>,
    changed: Condvar,
    /// Compiles components that take over, if there are any.
    wasm: Mutex<Option<Arc<WasmHost>>>,
}

#[derive(Default)]
struct DeskState {
    pipeline: String,
    /// None while it is being started again.
    job: Option<JobControl>,
    size: Size,
    /// The processes are those of a hosts file.
    fixed: bool,
    runs: u64,
    next: Option<Size>,
    /// Somebody has asked for the end of this run: what for.
    leaving: Option<&'static str>,
    ended: bool,
    /// Requests that are being answered.
    asked: usize,
}

/// A request that is being answered.
struct Asked<'a>(&'a Desk);

impl<'a> Asked<'a> {
    fn new(desk: &'a Desk) -> Self {
        desk.lock().asked += 1;
        Self(desk)
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.0.lock().asked -= 1;
        self.0.changed.notify_all();
    }
}

/// The only request that may end the run.
struct Leaving<'a>(&'a Desk);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.lock().leaving = None;
    }
}

/// How long a job that has ended waits for its last answers to be on their way.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

impl Desk {
    fn lock(&self) -> MutexGuard<'_, DeskState> {
        self.state.lock().expect("no panic while held")
    }

    /// The job runs, perhaps again.
    pub fn started(&self, pipeline: &str, job: JobControl, size: Size, fixed: bool) {
        let mut state = self.lock();
        state.pipeline = pipeline.to_owned();
        (state.job, state.size, state.fixed) = (Some(job), size, fixed);
        state.runs += 1;
        self.changed.notify_all();
    }

    /// It has ended, perhaps to be started again: with this many workers and processes, if somebody asked for it.
    pub fn paused(&self) -> Option<Size> {
        let mut state = self.lock();
        state.job = None;
        state.next.take()
    }

    pub fn ended(&self) {
        let mut state = self.lock();
        (state.job, state.ended) = (None, true);
        self.changed.notify_all();
        // Behind this the process ends.
        drop(self.changed.wait_timeout_while(state, LAST_ANSWERS, |state| state.asked > 0));
    }

    fn answer(&self, request: Request) -> Answer {
        let taken = |taken: Result<Taken, Fault>| match taken {
            Ok(Taken { id, bytes, took }) => Answer::Taken { id, bytes, took_ms: took.as_millis() as u64 },
            Err(fault) => Answer::from(fault),
        };
        let job = self.lock().job.clone();
        let Some(job) = job else {
            return Answer::from(Fault::config("the job is being started").with_help("try again in a moment"));
        };
        match request {
            Request::Status => Answer::Status(self.status(&job)),
            Request::Savepoint { name, stop } => {
                let _leaving = match stop.then(|| self.leave("stopped")).transpose() {
                    Ok(leaving) => leaving,
                    Err(fault) => return Answer::from(fault),
                };
                taken(savepoint_name(&name).and_then(|()| job.savepoint(&name, stop)))
            }
            Request::Upgrade { .. } => self.upgrade(&job, &request).unwrap_or_else(Answer::from),
            Request::Stop => match self.leave("stopped") {
                Ok(_leaving) if retains(&job) => taken(job.checkpoint(true)),
                Ok(_leaving) => self.end(&job),
                Err(fault) => Answer::from(fault),
            },
            Request::Rescale { workers, processes } => match self.leave("rescaled") {
                Ok(_leaving) => self.rescale(&job, workers, processes),
                Err(fault) => Answer::from(fault),
            },
        }
    }

    /// One request at a time may end the run: two would take each other's checkpoint for their own.
    fn leave(&self, what: &'static str) -> Result<Leaving<'_>, Fault> {
        let mut state = self.lock();
        if let Some(other) = state.leaving {
            let fault = Fault::config(format!("the job is being {other} already"));
            return Err(fault.with_help("wait until that is done, and ask again"));
        }
        state.leaving = Some(what);
        Ok(Leaving(self))
    }

    fn upgrade(&self, job: &JobControl, request: &Request) -> Result<Answer, Fault> {
        let Request::Upgrade { operator, component, dry_run, shadow_ms, accept, dropped } = request else {
            return Err(Fault::internal("this is no upgrade"));
        };
        let mut wasm = self.wasm.lock().expect("no panic while held");
        let host = match wasm.take() {
            Some(host) => host,
            None => wasm_host()?,
        };
        let host = wasm.insert(host).clone();
        drop(wasm);
        // Read once: the file may be another one a moment later.
        let bytes = Arc::new(host.read(component)?);
        let loaded = host.load_bytes(&component.display().to_string(), &bytes)?;
        let new = NewComponent { node: operator.clone(), bytes, dropped: dropped.clone() };
        let upgrade = job.plan_upgrade(new, &loader(host))?;
        let changes = upgrade.changes().iter().map(ToString::to_string).collect();
        let shadow = shadow_ms.map(|ms| upgrade.shadow(Duration::from_millis(ms))).transpose()?;
        let differs = shadow.as_ref().is_some_and(|report| report.differing > 0) && !accept;
        let took = if *dry_run || differs { None } else { Some(upgrade.run()?) };
        let took_ms = took.map(|took| took.as_secs_f64() * 1e3);
        let shadow = shadow.map(|report| {
            let ShadowReport { rows, differing, examples, fell_behind } = report;
            Shadow { rows, differing, examples, fell_behind }
        });
        Ok(Answer::Upgraded { changes, digest: loaded.digest().to_owned(), took_ms, shadow })
    }

    fn status(&self, job: &JobControl) -> Status {
        let (metrics, stats) = (job.metrics(), job.checkpoint_stats().unwrap_or_default());
        let state = self.lock();
        Status {
            pipeline: state.pipeline.clone(),
            process: std::process::id(),
            workers: state.size.workers,
            processes: state.size.processes,
            runs: state.runs,
            rows_in: metrics.rows_in(),
            rows_out: metrics.rows_out(),
            rows_dead: metrics.rows_dead(),
            checkpoints: stats.completed,
            failed_checkpoints: stats.failed,
            last_checkpoint: stats.last.map(|last| LastCheckpoint {
                id: last.id,
                aligned_ms: last.aligned.as_millis() as u64,
                took_ms: last.took.as_millis() as u64,
                bytes: last.bytes,
                written_bytes: last.written,
            }),
        }
    }

    /// Ends the sources, as Ctrl-C does, and waits for the end of the job.
    fn end(&self, job: &JobControl) -> Answer {
        let (began, runs) = (std::time::Instant::now(), self.lock().runs);
        job.stop();
        if self.next_run(runs) {
            return Answer::from(Fault::config("the job has failed instead, and was started again"));
        }
        match job.is_cut_short() {
            true => Answer::from(Fault::config("the job has failed, or was stopped otherwise, before its end")),
            false => Answer::Ended { took_ms: began.elapsed().as_millis() as u64 },
        }
    }

    /// Waits until the job is started anew, or (false) has ended.
    fn next_run(&self, runs: u64) -> bool {
        let waits = |state: &mut DeskState| state.runs == runs && !state.ended;
        !self.changed.wait_while(self.lock(), waits).expect("no panic while held").ended
    }

    fn rescale(&self, job: &JobControl, workers: usize, processes: Option<usize>) -> Answer {
        if !(1..=256).contains(&workers) || !(1..=64).contains(&processes.unwrap_or(1)) {
            return Answer::from(Fault::config("the number of workers is 1 to 256, that of processes 1 to 64"));
        }
        let DeskState { size, fixed, .. } = *self.lock();
        let next = Size { workers, processes: processes.unwrap_or(size.processes) };
        if fixed && next.processes != size.processes {
            let help = "stop it, change the hosts file, and start it again";
            return Answer::from(Fault::config("the hosts file says how many processes the job has").with_help(help));
        }
        let began = std::time::Instant::now();
        let runs = {
            let mut state = self.lock();
            state.next = Some(next);
            state.runs
        };
        if let Err(fault) = job.checkpoint(true) {
            self.lock().next = None;
            return Answer::from(fault);
        }
        match self.next_run(runs) {
            false => Answer::from(Fault::config("the job has ended instead")),
            true => {
                Answer::Rescaled { workers, processes: next.processes, took_ms: began.elapsed().as_millis() as u64 }
            }
        }
    }
}

/// Whether a stop is a checkpoint. What can't be without checkpoints the job says.
fn retains(job: &JobControl) -> bool {
    job.options().checkpoints.as_ref().is_none_or(|checkpoints| checkpoints.retain)
}

/// Numbers are checkpoints, and two words have a meaning.
pub fn savepoint_name(name: &str) -> Result<(), Fault> {
    let good = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b)) && !name.starts_with('.');
    if !good || name.is_empty() || name.len() > 64 {
        return Err(Fault::config(format!("`{name}` can't be the name of a savepoint"))
            .with_help("at most 64 letters, digits, `_`, `-` and `.`"));
    }
    if name.bytes().all(|b| b.is_ascii_digit()) || ["latest", "none"].contains(&name) {
        let message = format!("`{name}` can't be the name of a savepoint: `--from {name}` means something else");
        return Err(Fault::config(message));
    }
    Ok(())
}

impl From<Fault> for Answer {
    fn from(mut fault: Fault) -> Self {
        let help = fault.help.take();
        Self::Error { message: fault.to_string(), help }
    }
}

/// The socket of this process; removed when it is dropped.
pub struct ControlSocket {
    path: PathBuf,
}

impl ControlSocket {
    /// Answers requests on threads of its own.
    pub fn serve(pipeline: &str, desk: &Arc<Desk>) -> anyhow::Result<Self> {
        let folder = folder()?;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        // Another user may have made it in advance, to answer in our place.
        let (owner, we) = (std::fs::metadata(&folder)?.uid(), std::fs::metadata("/proc/self")?.uid());
        if owner != we {
            bail!("`{}` belongs to another user", folder.display());
        }
        let path = folder.join(format!("{pipeline}.{}.sock", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).with_context(|| format!("cannot listen at `{}`", path.display()))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        let desk = desk.clone();
        std::thread::Builder::new().name("tidemill-control".into()).spawn(move || {
            for stream in listener.incoming().flatten() {
                let desk = desk.clone();
                let served = std::thread::Builder::new().name("tidemill-request".into());
                let _ = served.spawn(move || serve(&stream, &desk));
            }
        })?;
        Ok(Self { path })
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Longest request: a name, and paths.
const REQUEST_BYTES_MAX: u64 = 64 << 10;

fn serve(stream: &UnixStream, desk: &Desk) {
    let mut line = String::new();
    let read = BufReader::new(std::io::Read::take(stream, REQUEST_BYTES_MAX)).read_line(&mut line);
    if read.is_err() || line.trim().is_empty() {
        return;
    }
    let _asked = Asked::new(desk);
    let answer = match serde_json::from_str(&line) {
        Ok(request) => desk.answer(request),
        Err(error) => Answer::from(Fault::config(format!("this is no request: {error}"))),
    };
    if let Ok(text) = serde_json::to_string(&answer) {
        // Who asked may have gone.
        let _ = writeln!({ stream }, "{text}");
    }
}

/// `$XDG_RUNTIME_DIR/tidemill`, or the user's folder among temporary files.
fn folder() -> Result<PathBuf, Fault> {
    match std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|p| p.is_absolute()) {
        Some(runtime) => Ok(runtime.join("tidemill")),
        None => tidemill_store::temporary_folder(),
    }
}

/// Asks the running job `job`: the name of its pipeline (with `.PROCESS` where several run), or a pipeline file.
pub fn ask(job: &str, request: &Request) -> anyhow::Result<Answer> {
    let mut stream = connect(job)?;
    writeln!(stream, "{}", serde_json::to_string(request)?)?;
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line).context("the job has gone")?;
    if line.is_empty() {
        bail!("the job has gone");
    }
    Ok(serde_json::from_str(&line)?)
}

fn connect(job: &str) -> anyhow::Result<UnixStream> {
    let name = match Path::new(job).is_file() {
        true => load_or_report(Path::new(job))?.context("the pipeline file can't be read")?.plan.name,
        false => job.to_owned(),
    };
    let mut live = Vec::new();
    for entry in std::fs::read_dir(folder()?).into_iter().flatten().flatten() {
        let file = entry.file_name().to_string_lossy().into_owned();
        let Some(run) = file.strip_suffix(".sock") else { continue };
        let pipeline = run.rsplit_once('.').map_or(run, |(pipeline, _)| pipeline);
        if run != name && pipeline != name {
            continue;
        }
        match UnixStream::connect(entry.path()) {
            Ok(stream) => live.push((run.to_owned(), stream)),
            // Its process has gone.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                let _ = std::fs::remove_file(entry.path());
            }
            Err(_) => {}
        }
    }
    match live.len() {
        0 => bail!(
            "no job `{name}` runs here\n  help: a job can be asked while `tidemill run` runs it, on this machine and by the same user"
        ),
        1 => {
            let stream = live.remove(0).1;
            stream.set_write_timeout(Some(Duration::from_secs(10)))?;
            Ok(stream)
        }
        _ => {
            let runs: Vec<&str> = live.iter().map(|(run, _)| run.as_str()).collect();
            bail!("several jobs `{name}` run: name one of {}", runs.join(", "))
        }
    }
}
