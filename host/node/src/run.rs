//! `tidemill run`: runs a pipeline until its input ends or someone stops it, in this process and in others that it leads.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::ValueEnum;
use signal_hook::consts::{SIGINT, SIGTERM};
use tidemill_model::checkpoint::{Manifest, Purpose};
use tidemill_model::plan::{Plan, RestartStrategy};
use tidemill_model::{Fault, FaultKind};
use tidemill_runtime::cluster::Team;
use tidemill_runtime::{
    Ending, Halting, JobControl, JobHandle, JobSummary, NewComponent, PhaseHook, StartOptions, start_with,
};

use crate::check::{EXIT_BAD_PIPELINE, load_or_report};
use crate::cluster::{Cluster, HostsArgs};
use crate::control_socket::{ControlSocket, Desk, Size};
use crate::durable::{Durable, From};
use crate::guest_metrics::GuestMetrics;
use crate::progress::{Progress, first_row_ms};
use crate::restarts::Restarts;
use crate::summary::{Summary, text};
use crate::terminal::{EXIT_CLOSED, note, print};

#[derive(clap::Args)]
pub struct Args {
    /// The pipeline file (YAML)
    file: PathBuf,
    /// Worker threads of each process [default: the number of processors, divided by that of `--processes`]
    #[arg(short, long, value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: Option<u16>,
    /// Processes on this machine; what ends one of them does not end the others
    #[arg(short, long, value_parser = clap::value_parser!(u16).range(1..=64), conflicts_with = "hosts")]
    processes: Option<u16>,
    #[command(flatten)]
    hosts: HostsArgs,
    /// Seconds after which a process that says nothing is lost
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    heartbeat_timeout: u64,
    /// What to print at the end
    #[arg(long, value_enum, default_value_t = Style::Text)]
    summary: Style,
    /// No progress and no text summary
    #[arg(short, long)]
    quiet: bool,
    /// Where to start: `latest` checkpoint, `none` (from the beginning), the number of a checkpoint, or the name of a
    /// savepoint [default: latest]
    #[arg(long, value_name = "FROM")]
    from: Option<From>,
    /// Give up what the checkpoint holds of a node, or of one state as NODE.STATE; may be repeated
    #[arg(long, value_name = "NAME")]
    drop_state: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Style {
    /// For people, on standard error
    Text,
    /// One line of JSON, the last on standard output
    Json,
}

/// How often the job is looked at.
const POLL: Duration = Duration::from_millis(2);
/// How long a job that shall end at once may take to clean up. What is stuck then (in a read of a pipe, in a write to
/// one, in a call of a component) ends with the process.
const CLEAN_UP: Duration = Duration::from_millis(500);
/// What a job is told that shall end at once.
const AT_ONCE: &str = "ended at once on request";
/// What the shell shows for a process that Ctrl-C ended.
const EXIT_INTERRUPTED: u8 = 130;

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let began = Instant::now();
    let signals = count_signals()?;
    let Some(loaded) = load_or_report(&args.file)? else { return Ok(ExitCode::from(EXIT_BAD_PIPELINE)) };
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let base = args.file.parent().unwrap_or(Path::new("")).to_owned();
    let cluster = match open_cluster(args, &loaded.plan) {
        Ok(cluster) => cluster,
        Err(fault) => return Ok(failed(&fault)),
    };
    let processes = match &cluster {
        Some(cluster) => cluster.fixed().unwrap_or(usize::from(args.processes.unwrap_or(1))),
        None => 1,
    };
    let runner = Runner {
        began,
        signals,
        quiet: args.quiet,
        style: args.summary,
        dropped: args.drop_state.clone(),
        guests: GuestMetrics::install(),
        desk: Arc::new(Desk::default()),
        cluster: RefCell::new(cluster),
        file: args.file.clone(),
        silence: Duration::from_secs(args.heartbeat_timeout),
    };
    let local = args.processes.map_or(1, usize::from);
    let workers = args.workers.map_or((processors / local).max(1), usize::from);
    let size = Size { workers, processes };
    let ended = match Durable::open(&loaded.plan, &base) {
        Err(fault) => Ok(failed(&fault)),
        Ok(None) if args.from.is_some() => {
            let help = "give the pipeline `checkpoints:` with a `store`";
            Ok(failed(
                &Fault::config("the pipeline takes no checkpoints, so there is none to start from").with_help(help),
            ))
        }
        Ok(durable) => {
            let _socket = listen(&loaded.plan.name, &runner.desk, durable.is_some());
            runner.run(&loaded.plan, size, durable.as_ref(), args.from.clone())
        }
    };
    runner.desk.ended();
    ended
}

fn open_cluster(args: &Args, plan: &Plan) -> Result<Option<Cluster>, Fault> {
    let silence = Duration::from_secs(args.heartbeat_timeout);
    match (&args.hosts.hosts, args.processes) {
        (Some(hosts), _) => Cluster::of_hosts(&args.hosts, hosts, plan, &args.file, silence).map(Some),
        (None, Some(2..)) => Cluster::of_children(plan, &args.file, silence).map(Some),
        (None, _) => Ok(None),
    }
}

/// A job that can't be asked for something runs nevertheless. One without checkpoints has little to be asked for.
fn listen(pipeline: &str, desk: &Arc<Desk>, durable: bool) -> Option<ControlSocket> {
    let lost = |error| {
        if durable {
            note(format_args!("this run can't be asked for savepoints or a stop by name: {error:#}"));
        }
    };
    ControlSocket::serve(pipeline, desk).map_err(lost).ok()
}

/// What is run: the plan of the pipeline file, and what has become of it by upgrades.
struct Work<'a> {
    of_file: &'a Plan,
    plan: Plan,
    components: Vec<NewComponent>,
    /// The run before this one, which may have been upgraded.
    before: Option<JobControl>,
    /// The checkpoint that the last start took.
    started_from: Option<Manifest>,
}

impl Work<'_> {
    /// The next start takes this checkpoint, and with it the components that it knows.
    fn go_back_to(&mut self, manifest: Option<&Manifest>) {
        self.started_from = manifest.cloned();
        let Some(before) = self.before.take() else { return };
        let new;
        let back;
        (self.plan, new, back) = before.plan_for_restart(manifest.map(|manifest| manifest.id));
        // Those of earlier starts are in the plan already.
        self.components.extend(new);
        for name in back {
            note(format_args!(
                "operator {name} goes back to its earlier component: the checkpoint does not know the new one"
            ));
        }
    }
}

/// Runs a job, and runs it again when it has failed.
struct Runner {
    began: Instant,
    signals: Arc<AtomicUsize>,
    quiet: bool,
    style: Style,
    dropped: Vec<String>,
    guests: GuestMetrics,
    desk: Arc<Desk>,
    /// The other processes. None: there never were any.
    cluster: RefCell<Option<Cluster>>,
    file: PathBuf,
    silence: Duration,
}

impl Runner {
    fn run(
        &self,
        plan: &Plan,
        mut size: Size,
        durable: Option<&Durable>,
        from: Option<From>,
    ) -> anyhow::Result<ExitCode> {
        let strategy = if durable.is_some() { plan.options.restart } else { RestartStrategy::Never };
        let mut restarts = Restarts::new(strategy);
        let mut from = from.unwrap_or(From::Latest);
        let mut has_run = false;
        let mut job_now =
            Work { of_file: plan, plan: plan.clone(), components: Vec::new(), before: None, started_from: None };
        loop {
            let before_job = self.began.elapsed();
            let mut control: Option<JobControl> = None;
            let outcome = match self.start(&mut job_now, size, durable, &from) {
                Err(fault) if fault.message == AT_ONCE => return Ok(interrupted()),
                // What is wrong with the first start, or with what is stored, no other attempt mends.
                Err(fault) if !has_run || fault.kind == FaultKind::Data => return Ok(failed(&fault)),
                Err(fault) => Err(fault),
                Ok(job) => {
                    has_run = true;
                    let fixed = self.cluster.borrow().as_ref().is_some_and(|cluster| cluster.fixed().is_some());
                    self.desk.started(&plan.name, job.control(), size, fixed);
                    if !watch(&job, &self.signals, self.quiet, plan) {
                        return Ok(interrupted());
                    }
                    let first_row = first_row_ms(&job).map(|ms| ms + before_job.as_secs_f64() * 1e3);
                    let of_job = control.insert(job.control()).clone();
                    job.wait().map(|done| (done, first_row, of_job))
                }
            };
            let rescaled = self.desk.paused();
            // Until there is a checkpoint of this run, the next start begins where this one did.
            if control.as_ref().is_some_and(JobControl::has_published) {
                from = From::Latest;
            }
            job_now.before = control.or(job_now.before);
            let fault = match outcome {
                Ok((done, _, _)) if done.ending == Ending::Halted && rescaled.is_some() => {
                    size = rescaled.unwrap_or(size);
                    continue;
                }
                Ok((done, first_row, control)) => return self.report(&done, first_row, &control),
                Err(fault) if fault.message == AT_ONCE => return Ok(interrupted()),
                // As other programs in a pipe: without a word.
                Err(fault) if fault.kind == FaultKind::Closed => return Ok(ExitCode::from(EXIT_CLOSED)),
                Err(fault) => fault,
            };
            if fault.kind == FaultKind::Data && durable.is_some_and(|durable| durable.gives_way(&job_now.started_from))
            {
                // The checkpoint is damaged, as only reading it has shown.
                note(format_args!("error: {fault}\nstarting again from the checkpoint before"));
                continue;
            }
            let Some(delay) = restarts.after_failure(fault.kind, Instant::now()) else { return Ok(failed(&fault)) };
            note(format_args!(
                "error: {fault}\nstarting again {} in {:.1} s",
                match from {
                    From::Latest => "from the last checkpoint",
                    _ => "from where it started, since it has no checkpoint yet,",
                },
                delay.as_secs_f64()
            ));
            if !self.pause(delay) {
                return Ok(failed(&fault));
            }
        }
    }

    fn start(
        &self,
        job: &mut Work<'_>,
        size: Size,
        durable: Option<&Durable>,
        from: &From,
    ) -> Result<JobHandle, Fault> {
        let workers = size.workers;
        // Others know the pipeline by its file.
        let team = self.gather(job.of_file, size)?;
        let Some(durable) = durable else {
            let (plan, components) = (&job.plan, job.components.clone());
            return start_with(plan.clone(), StartOptions { workers, team, components, ..StartOptions::default() });
        };
        // In this order: nobody can publish another checkpoint once ours is claimed.
        let durability = durable.begin(&job.plan)?;
        let manifest = durable.find(from, durability.options.fallback)?;
        job.go_back_to(manifest.as_ref());
        let (plan, components) = (&job.plan, job.components.clone());
        if let Some(manifest) = &manifest
            && !self.quiet
        {
            note(origin(manifest));
        }
        let from = manifest.map(|manifest| durable.start_from(manifest, &self.dropped));
        let phases = kill_at(0);
        start_with(plan.clone(), StartOptions { workers, durability: Some(durability), from, phases, team, components })
    }

    /// Waits until all processes are there.
    fn gather(&self, plan: &Plan, size: Size) -> Result<Option<Team>, Fault> {
        let mut cluster = self.cluster.borrow_mut();
        if cluster.is_none() && size.processes > 1 {
            *cluster = Some(Cluster::of_children(plan, &self.file, self.silence)?);
        }
        let Some(cluster) = cluster.as_mut() else { return Ok(None) };
        let go_on = || self.signals.load(Ordering::SeqCst) == 0;
        cluster.gather(size.processes, go_on)?.map(Some).ok_or_else(|| Fault::config(AT_ONCE))
    }

    fn report(&self, done: &JobSummary, first_row: Option<f64>, control: &JobControl) -> anyhow::Result<ExitCode> {
        // What children have written stands before it.
        *self.cluster.borrow_mut() = None;
        let summary = Summary::new(done);
        if !self.quiet {
            note(text(&summary, first_row, done.ending, control.metrics(), &self.guests).trim_end());
        }
        if self.style == Style::Json {
            print(serde_json::to_string(&summary)? + "\n")?;
        }
        Ok(ExitCode::SUCCESS)
    }

    /// False: someone wants it to end.
    fn pause(&self, delay: Duration) -> bool {
        let end = Instant::now() + delay;
        while Instant::now() < end {
            if self.signals.load(Ordering::SeqCst) > 0 {
                return false;
            }
            std::thread::sleep(POLL);
        }
        self.signals.load(Ordering::SeqCst) == 0
    }
}

/// From where a job starts, for people.
fn origin(manifest: &Manifest) -> String {
    let id = manifest.id;
    match &manifest.purpose {
        Purpose::End => {
            "an earlier run has read all input, what it wrote is committed: there is nothing left to do (`--from none` \
                         starts from the beginning)"
                .into()
        }
        Purpose::Savepoint { name } => format!("starting from savepoint `{name}`"),
        Purpose::Checkpoint => format!("going on from checkpoint {id} (`--from none` starts from the beginning)"),
    }
}

/// `TIDEMILL_KILL_AT=PHASE:N`: this process ends, as if killed, when it reaches a phase of a checkpoint for the Nth time; another
/// process of the job, where `TIDEMILL_KILL_PROCESS` says so. It is how tests see to it that no moment is a bad one.
pub fn kill_at(process: usize) -> Option<PhaseHook> {
    let wanted = std::env::var("TIDEMILL_KILL_AT").ok()?;
    let victim = std::env::var("TIDEMILL_KILL_PROCESS").map_or(Ok(0), |text| text.parse());
    if victim != Ok(process) {
        return None;
    }
    let (name, count) = wanted.split_once(':').unwrap_or((&wanted, "1"));
    let (name, left) = (name.to_owned(), AtomicUsize::new(count.parse().ok()?));
    Some(Arc::new(move |phase| {
        if format!("{phase:?}").eq_ignore_ascii_case(&name) && left.fetch_sub(1, Ordering::SeqCst) == 1 {
            std::process::abort();
        }
    }))
}

pub fn failed(fault: &Fault) -> ExitCode {
    note(format_args!("error: {fault}"));
    ExitCode::FAILURE
}

fn interrupted() -> ExitCode {
    note(format_args!("{AT_ONCE}; nothing that sinks had not committed is visible"));
    ExitCode::from(EXIT_INTERRUPTED)
}

/// Counts Ctrl-C and SIGTERM.
fn count_signals() -> anyhow::Result<Arc<AtomicUsize>> {
    let signals = Arc::new(AtomicUsize::new(0));
    for signal in [SIGINT, SIGTERM] {
        let counter = signals.clone();
        // Sound: the handler does nothing but add to an atomic.
        let count = move || {
            counter.fetch_add(1, Ordering::SeqCst);
        };
        unsafe { signal_hook::low_level::register(signal, count) }.context("cannot listen to Ctrl-C")?;
    }
    Ok(signals)
}

/// Shows progress and passes signals on until the job has ended. False: it was told to end at once, and did not.
/// The wish that a job ends at a checkpoint.
#[derive(Default)]
struct Halt {
    asked: Option<Halting>,
    again: Option<Instant>,
}

/// How soon another checkpoint is tried.
const HALT_AGAIN: Duration = Duration::from_secs(1);

impl Halt {
    fn ask(&mut self, job: &JobHandle) {
        (self.asked, self.again) = (Some(job.halt()), None);
    }

    /// A checkpoint that failed does not end the job: the next one shall.
    fn insist(&mut self, job: &JobHandle) {
        if let Some(fault) = self.asked.as_ref().and_then(Halting::failure) {
            note(format_args!("not stopped, since the checkpoint failed; it is tried again: {fault}"));
            (self.asked, self.again) = (None, Some(Instant::now() + HALT_AGAIN));
        }
        if self.again.is_some_and(|again| Instant::now() > again) {
            self.ask(job);
        }
    }
}

fn watch(job: &JobHandle, signals: &AtomicUsize, quiet: bool, plan: &Plan) -> bool {
    let retain = plan.options.checkpoints.as_ref().is_some_and(|c| c.retain);
    let mut progress = Progress::new(quiet);
    let mut heard = 0;
    let mut end_by: Option<Instant> = None;
    let mut halt = Halt::default();
    while !job.is_finished() {
        let now = signals.load(Ordering::SeqCst);
        if now > 0 && heard == 0 {
            progress.finish();
            if retain {
                note("stopping at a checkpoint: the next run goes on from there (Ctrl-C again ends at once)");
                halt.ask(job);
            } else {
                note(
                    "stopping: sources end at the next boundary, what they have read is processed (Ctrl-C again ends at once)",
                );
                job.stop();
            }
        }
        if now > 1 && heard <= 1 {
            job.abort(AT_ONCE);
            end_by = Some(Instant::now() + CLEAN_UP);
        }
        if end_by.is_some_and(|end| Instant::now() > end) {
            return false;
        }
        heard = now;
        halt.insist(job);
        if !quiet {
            progress.update(job);
        }
        std::thread::sleep(POLL);
    }
    progress.finish();
    true
}
