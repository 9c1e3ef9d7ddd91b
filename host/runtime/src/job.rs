//! A job: the workers that run one plan in this process, how they are stopped, and how it ended.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::bounded;
use tidemill_model::checkpoint::{Purpose, SplitState};
use tidemill_model::plan::{JobOptions, NodeKind, TickMode};
use tidemill_model::sink::Sink;
use tidemill_model::source::Split;
use tidemill_model::{Fault, Plan, limits, panics};

use crate::barrier::{Barriers, Content, Part, PartId};
use crate::checkpoint::{CheckpointStats, Checkpointer, Checkpoints, Command, Durability, Phase, Taken};
use crate::metrics::JobMetrics;
use crate::restore::{self, DEAD_LETTER, StartFrom};
use crate::upgrade::Upgrades;

/// How long a job that has failed waits for the threads of its sinks: a batch may be on its way to a slow disk.
const WRITERS_END: Duration = Duration::from_secs(2);

/// What all workers of a job share.
pub(crate) struct Shared {
    pub plan: Plan,
    pub workers: usize,
    /// Limit of each node's output on each worker.
    pub edge_bytes: usize,
    /// What is to be read of each node, empty for others than sources.
    pub splits: Vec<Vec<SplitState>>,
    /// What operators go on with.
    pub from: Option<StartFrom>,
    pub barriers: Barriers,
    /// None: the job takes no checkpoints.
    pub checkpoints: Option<Checkpoints>,
    phases: Option<PhaseHook>,
    pub metrics: JobMetrics,
    pub start: Instant,
    /// Wall time at `start`, ms since the epoch.
    pub start_ms: i64,
    /// Sources end at this tick; `u64::MAX` until someone asks.
    pub stop_at: AtomicU64,
    pub upgrades: Upgrades,
    aborted: AtomicBool,
    /// Ended at a checkpoint, to go on from there another time.
    halted: AtomicBool,
    fault: Mutex<Option<Fault>>,
    /// Threads of sinks.
    pub writers: Mutex<Vec<JoinHandle<()>>>,
}

impl Shared {
    /// The first fault counts: those that follow are its echoes.
    pub fn fail(&self, fault: Fault) {
        self.fault.lock().expect("no panic while held").get_or_insert(fault);
        self.aborted.store(true, Ordering::SeqCst);
        self.barriers.end();
    }

    /// Ends the job where it is: a checkpoint holds all that it did.
    pub fn halt(&self) {
        self.halted.store(true, Ordering::SeqCst);
        self.aborted.store(true, Ordering::SeqCst);
        self.barriers.end();
    }

    /// The workers shall end, since the job has failed or was halted.
    pub fn is_aborted(&self) -> bool {
        self.aborted.load(Ordering::Relaxed)
    }

    pub fn elapsed_ns(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    pub fn processing_ms(&self) -> i64 {
        self.start_ms + self.start.elapsed().as_millis() as i64
    }

    /// For the checkpointer, which exists only if these do.
    pub fn checkpoints(&self) -> &Checkpoints {
        self.checkpoints.as_ref().expect("the job takes checkpoints")
    }

    /// Tells the hook, if there is one.
    pub fn reach(&self, phase: Phase) {
        if let Some(hook) = &self.phases {
            hook(phase);
        }
    }

    pub fn has_phases(&self) -> bool {
        self.phases.is_some()
    }

    /// Name and sink of a node that has one.
    pub fn sink_of(&self, node: usize) -> (String, &Arc<dyn Sink>) {
        match self.plan.nodes.get(node).map(|n| (&n.name, &n.kind)) {
            Some((name, NodeKind::Sink { sink, .. })) => (name.clone(), sink),
            _ => (DEAD_LETTER.into(), self.plan.dead_letter.as_ref().expect("only sinks prepare")),
        }
    }

    /// The dead-letter sink's number in metrics and barriers.
    pub fn dead_node(&self) -> usize {
        self.plan.nodes.len()
    }
}

/// How a job came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All input was read.
    Finished,
    /// It was asked to stop: sources ended early, all that they had read was processed.
    Stopped,
    /// It ended at a checkpoint or savepoint, and can go on from there.
    Halted,
}

#[derive(Clone, Debug)]
pub struct JobSummary {
    pub ending: Ending,
    pub rows_in: u64,
    pub rows_out: u64,
    pub rows_dead: u64,
    pub wall: Duration,
    /// Latency from source to sink in ms: median and 99th percentile of rows; `None` without any.
    pub p50_ms: Option<f64>,
    pub p99_ms: Option<f64>,
}

/// A running job.
pub struct JobHandle {
    shared: Arc<Shared>,
    supervisor: JoinHandle<()>,
}

/// Called at each phase of a checkpoint, on the thread that reaches it.
pub type PhaseHook = Arc<dyn Fn(Phase) + Send + Sync>;

/// How a job is run.
#[derive(Clone, Default)]
pub struct StartOptions {
    pub workers: usize,
    /// None: a failure loses all that the job did.
    pub durability: Option<Durability>,
    /// None: from the beginning.
    pub from: Option<StartFrom>,
    /// For tests.
    pub phases: Option<PhaseHook>,
}

/// Starts a plan on `workers` threads, without checkpoints. Faults of the start (a source that finds no file) come back
/// at once, all others from [`JobHandle::wait`].
pub fn start(plan: Plan, workers: usize) -> Result<JobHandle, Fault> {
    start_with(plan, StartOptions { workers, ..StartOptions::default() })
}

/// Starts a plan. Before anything else, what a checkpoint had prepared is committed, and what nobody will commit removed.
pub fn start_with(plan: Plan, options: StartOptions) -> Result<JobHandle, Fault> {
    let (shared, checkpointer) = set_up(plan, options)?;
    let for_workers = shared.clone();
    let supervisor = std::thread::Builder::new()
        .name("tidemill-job".into())
        .spawn(move || supervise(&for_workers, checkpointer.as_ref()))
        .map_err(|e| Fault::io(format!("no thread for the job: {e}")))?;
    Ok(JobHandle { shared, supervisor })
}

/// All of a start but the threads.
pub(crate) fn set_up(plan: Plan, options: StartOptions) -> Result<(Arc<Shared>, Option<Checkpointer>), Fault> {
    let StartOptions { workers, durability, from, phases } = options;
    if let Some(from) = &from {
        from.check(&plan)?;
        restore::commit(from, &plan)?;
    }
    restore::recover(&plan, durability.as_ref().map(|durability| &durability.store), from.as_ref())?;
    let splits = splits(&plan, workers, from.as_ref())?;
    let next_id = match &durability {
        Some(durability) => durability.store.list()?.iter().map(|l| l.id + 1).max().unwrap_or(1),
        None => 1,
    };
    let (checkpoints, commands) = Checkpoints::new(next_id);
    let edge_bytes = plan.edge_bytes(workers)?;
    let metrics = JobMetrics::new(&plan, &splits, workers);
    let epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let shared = Arc::new(Shared {
        barriers: Barriers::new(parts(&plan, workers)),
        checkpoints: durability.is_some().then_some(checkpoints),
        plan,
        workers,
        edge_bytes,
        splits,
        from,
        phases,
        metrics,
        start: Instant::now(),
        start_ms: epoch.as_millis() as i64,
        stop_at: AtomicU64::new(u64::MAX),
        upgrades: Upgrades::default(),
        aborted: AtomicBool::new(false),
        halted: AtomicBool::new(false),
        fault: Mutex::new(None),
        writers: Mutex::new(Vec::new()),
    });
    let checkpointer =
        durability.map(|durability| Checkpointer { shared: shared.clone(), durability, commands: commands.clone() });
    Ok((shared, checkpointer))
}

/// What each source has to read: what a checkpoint left, or everything.
fn splits(plan: &Plan, workers: usize, from: Option<&StartFrom>) -> Result<Vec<Vec<SplitState>>, Fault> {
    let fresh = |split: Split| SplitState {
        id: split.id,
        spec: split.spec,
        size: split.size,
        position: Vec::new(),
        max_time: None,
        open: false,
    };
    let of_node = |node: &tidemill_model::plan::Node| match &node.kind {
        NodeKind::Source { source, .. } => match from.and_then(|from| from.splits(&node.name)) {
            Some(left) => Ok(left),
            None => Ok(source.splits(workers).map_err(|f| f.at(&node.name))?.into_iter().map(fresh).collect()),
        },
        _ => Ok(Vec::new()),
    };
    plan.nodes.iter().map(of_node).collect()
}

/// Everything that takes part in barriers.
fn parts(plan: &Plan, workers: usize) -> Vec<PartId> {
    let takes_part = |node: &tidemill_model::plan::Node| match &node.kind {
        NodeKind::Operator { factory } => factory.uses_time(),
        NodeKind::Source { .. } | NodeKind::Sink { .. } => true,
    };
    let nodes = plan.nodes.iter().enumerate().filter(|(_, node)| takes_part(node)).map(|(id, _)| id);
    let nodes = nodes.chain(plan.dead_letter.iter().map(|_| plan.nodes.len()));
    nodes.flat_map(|node| (0..workers).map(move |worker| (node, worker))).collect()
}

/// Runs the workers to their end, then makes visible what sinks have prepared, or throws it away.
fn supervise(shared: &Arc<Shared>, checkpointer: Option<&Checkpointer>) {
    std::thread::scope(|scope| {
        if let Some(checkpointer) = checkpointer {
            let run = || {
                if let Err(panic) = catch_unwind(AssertUnwindSafe(|| checkpointer.run())) {
                    shared.fail(Fault::internal(format!("the checkpointer panicked: {}", panics::text(&*panic))));
                }
            };
            if let Err(error) = std::thread::Builder::new().name("tidemill-checkpoint".into()).spawn_scoped(scope, run)
            {
                shared.fail(Fault::io(format!("no thread for checkpoints: {error}")));
            }
        }
        work(shared);
        shared.barriers.end();
        if let Some(checkpoints) = &shared.checkpoints {
            // It is there to receive, or it has failed.
            let _ = checkpoints.commands.send(Command::End);
        }
    });
    match checkpointer {
        None => end_sinks(shared),
        Some(_) if shared.is_aborted() => {}
        Some(checkpointer) => {
            let stopped = shared.stop_at.load(Ordering::SeqCst) != u64::MAX;
            if let Err(fault) = checkpointer.end(stopped) {
                shared.fail(fault);
            }
        }
    }
}

fn work(shared: &Arc<Shared>) {
    let on_workers = shared.clone();
    match timely::execute(timely::Config::process(shared.workers), move |w| crate::worker::run(w, &on_workers)) {
        Ok(guards) => {
            for result in guards.join() {
                if let Err(panic) = result {
                    shared.fail(Fault::internal(format!("a worker panicked: {panic}")));
                }
            }
        }
        Err(error) => shared.fail(Fault::internal(format!("the workers did not start: {error}"))),
    }
    wait_for_writers(shared);
}

/// Writers of a job that has failed remove what they wrote. One that is stuck in a write is left alone.
fn wait_for_writers(shared: &Shared) {
    let deadline = Instant::now() + WRITERS_END;
    for writer in shared.writers.lock().expect("no panic while held").drain(..) {
        while !writer.is_finished() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Without checkpoints: commits what was prepared, or throws it away if the job or a commit has failed.
fn end_sinks(shared: &Shared) {
    for Part { node, content, .. } in shared.barriers.take_last() {
        let Content::Committables(committables) = content else { continue };
        let (name, sink) = shared.sink_of(node);
        if !shared.is_aborted()
            && let Err(fault) = sink.commit(&committables)
        {
            shared.fail(fault.at(&name));
        }
        if shared.is_aborted() {
            sink.discard(&committables);
        }
    }
}

/// What can be seen and asked of a job by anyone, also after its end.
#[derive(Clone)]
pub struct JobControl(pub(crate) Arc<Shared>);

impl JobControl {
    pub fn metrics(&self) -> &JobMetrics {
        &self.0.metrics
    }

    pub fn options(&self) -> &JobOptions {
        &self.0.plan.options
    }

    /// Whether it takes checkpoints.
    pub fn is_durable(&self) -> bool {
        self.0.checkpoints.is_some()
    }

    pub fn checkpoint_stats(&self) -> Option<CheckpointStats> {
        let checkpoints = self.0.checkpoints.as_ref()?;
        Some(checkpoints.stats.lock().expect("no panic while held").clone())
    }

    /// Takes a savepoint; waits until it is stored. With `stop` the job ends at it: nothing fires, and what was
    /// written up to there is committed.
    pub fn savepoint(&self, name: &str, stop: bool) -> Result<Taken, Fault> {
        self.take(Purpose::Savepoint { name: name.to_owned() }, stop)
    }

    /// Takes a checkpoint now. With `stop` the job ends at it, to go on another time.
    pub fn checkpoint(&self, stop: bool) -> Result<Taken, Fault> {
        self.take(Purpose::Checkpoint, stop)
    }

    fn take(&self, purpose: Purpose, stop: bool) -> Result<Taken, Fault> {
        let Some(checkpoints) = &self.0.checkpoints else {
            let help = "give the pipeline `checkpoints:` with a `store`";
            return Err(Fault::config("the job takes no checkpoints").with_help(help));
        };
        let over = || Fault::config("the job has ended");
        let (reply, answer) = bounded(1);
        checkpoints.commands.send(Command::Take { purpose, stop, reply }).map_err(|_| over())?;
        answer.recv().map_err(|_| over())?
    }

    /// Asks for a checkpoint at which the job ends; does not wait.
    pub fn halt(&self) {
        if let Some(checkpoints) = &self.0.checkpoints {
            let (reply, _) = bounded(1);
            let _ = checkpoints.commands.send(Command::Take { purpose: Purpose::Checkpoint, stop: true, reply });
        }
    }
}

impl JobHandle {
    pub fn metrics(&self) -> &JobMetrics {
        &self.shared.metrics
    }

    /// For other threads, and for after the end.
    pub fn control(&self) -> JobControl {
        JobControl(self.shared.clone())
    }

    /// Asks for a checkpoint at which the job ends; does not wait.
    pub fn halt(&self) {
        self.control().halt();
    }

    pub fn elapsed(&self) -> Duration {
        self.shared.start.elapsed()
    }

    pub fn is_finished(&self) -> bool {
        self.supervisor.is_finished()
    }

    /// Asks all sources to end at the next boundary. What they have read is processed, timers and
    /// windows fire as at the end of input, sinks are flushed.
    pub fn stop(&self) {
        let tick = match self.shared.plan.options.ticks {
            TickMode::Wall => {
                let now = self.shared.start.elapsed().as_millis() as u64 / self.shared.plan.options.tick_ms;
                (now / limits::BOUNDARY_TICKS + 1) * limits::BOUNDARY_TICKS
            }
            TickMode::Batch => 0,
        };
        self.shared.stop_at.fetch_min(tick, Ordering::SeqCst);
    }

    /// Ends the job now; nothing that sinks have written becomes visible.
    pub fn abort(&self, reason: &str) {
        self.shared.fail(Fault::config(reason));
    }

    /// Waits for the end.
    pub fn wait(self) -> Result<JobSummary, Fault> {
        let wall_end = |shared: &Shared| shared.start.elapsed();
        if self.supervisor.join().is_err() {
            return Err(Fault::internal("the job's supervisor panicked"));
        }
        let shared = self.shared;
        let wall = wall_end(&shared);
        if let Some(fault) = shared.fault.lock().expect("no panic while held").take() {
            return Err(fault);
        }
        let latency = shared.metrics.latency.lock().expect("no panic while held");
        let quantile = |q| (!latency.is_empty()).then(|| latency.value_at_quantile(q) as f64 / 1000.0);
        let ending = if shared.halted.load(Ordering::SeqCst) {
            Ending::Halted
        } else if shared.stop_at.load(Ordering::SeqCst) != u64::MAX {
            Ending::Stopped
        } else {
            Ending::Finished
        };
        Ok(JobSummary {
            ending,
            rows_in: shared.metrics.rows_in(),
            rows_out: shared.metrics.rows_out(),
            rows_dead: shared.metrics.rows_dead(),
            wall,
            p50_ms: quantile(0.5),
            p99_ms: quantile(0.99),
        })
    }
}
