//! A job: the workers that run one plan in this process, how they are stopped, and how it ended. The process leads the job, if there
//! are several.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tidemill_model::checkpoint::SplitState;
use tidemill_model::plan::NodeKind;
use tidemill_model::sink::Sink;
use tidemill_model::source::Split;
use tidemill_model::{Fault, Plan, panics};

use crate::barrier::{Barriers, PartId};
use crate::checkpoint::{Checkpointer, Checkpoints, Command, Durability, Phase};
use crate::cluster::{Follower, Leader, Mesh, Order, Report, Start, Team};
use crate::job_control::{Halting, JobControl};
use crate::keeper::Keeper;
use crate::metrics::JobMetrics;
use crate::restore::{self, DEAD_LETTER, StartFrom};
use crate::stepped::SetUp;
use crate::upgrade::{NewComponent, Upgrades};

/// How long a job that has failed waits for the threads of its sinks: a batch may be on its way to a slow disk.
const WRITERS_END: Duration = Duration::from_secs(2);

/// How long a connection that has broken is only suspicious: whoever broke it may still say why.
const SUSPICION: Duration = Duration::from_secs(1);

/// What a process is to its job.
pub(crate) enum Role {
    Alone,
    Leader(Arc<Leader>),
    Follower(Arc<Follower>),
}

/// What all workers of a process share.
pub(crate) struct Shared {
    pub plan: Plan,
    /// Of all processes.
    pub workers: usize,
    /// Those of this process.
    pub local: Range<usize>,
    /// Number of this process.
    pub process: usize,
    role: Role,
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
    /// What would be the fault if nobody knew better.
    suspicion: Mutex<Option<(Instant, Fault)>>,
    /// Threads of sinks.
    pub writers: Mutex<Vec<JoinHandle<()>>>,
}

/// What a process knows when its part of a job begins.
pub(crate) struct Setup {
    pub plan: Plan,
    pub process: usize,
    pub local: Range<usize>,
    pub workers: usize,
    pub barriers: Barriers,
    pub splits: Vec<Vec<SplitState>>,
    pub from: Option<StartFrom>,
    pub phases: Option<PhaseHook>,
    pub checkpoints: Option<Checkpoints>,
    pub start_ms: i64,
    pub team: Role,
}

impl Shared {
    pub fn new(setup: Setup) -> Result<Self, Fault> {
        let Setup { plan, process, local, workers, barriers, splits, from, phases, checkpoints, start_ms, team } =
            setup;
        Ok(Self {
            edge_bytes: plan.edge_bytes(local.len())?,
            metrics: JobMetrics::new(&plan, &splits, workers),
            barriers,
            checkpoints,
            plan,
            workers,
            local,
            process,
            role: team,
            splits,
            from,
            phases,
            start: Instant::now(),
            start_ms,
            stop_at: AtomicU64::new(u64::MAX),
            upgrades: Upgrades::default(),
            aborted: AtomicBool::new(false),
            halted: AtomicBool::new(false),
            fault: Mutex::new(None),
            suspicion: Mutex::new(None),
            writers: Mutex::new(Vec::new()),
        })
    }

    /// Where this process leads others.
    pub fn leader(&self) -> Option<&Arc<Leader>> {
        match &self.role {
            Role::Leader(leader) => Some(leader),
            Role::Alone | Role::Follower(_) => None,
        }
    }

    /// The first fault counts: those that follow are its echoes.
    pub fn fail(&self, fault: Fault) {
        let fault = self.fault.lock().expect("no panic while held").get_or_insert(fault).clone();
        let before = self.aborted.swap(true, Ordering::SeqCst);
        self.barriers.end();
        match &self.role {
            _ if before => {}
            Role::Alone => {}
            Role::Leader(leader) => {
                leader.order(&Order::Abort(fault.into()));
                leader.wake();
            }
            Role::Follower(follower) => follower.report(Report::Failed(fault.into())),
        }
    }

    /// Something has broken that need not be the cause: it is the job's fault if no other comes.
    pub fn suspect(&self, fault: Fault) {
        self.suspicion.lock().expect("no panic while held").get_or_insert((Instant::now(), fault));
    }

    /// Called now and then, where there are several processes.
    pub fn look_at_suspicion(&self) {
        let old = |(since, _): &mut (Instant, Fault)| since.elapsed() > SUSPICION;
        let suspicion = self.suspicion.lock().expect("no panic while held").take_if(old);
        if let Some((_, fault)) = suspicion.filter(|_| !self.is_aborted()) {
            self.fail(fault);
        }
    }

    /// Why the job has failed.
    pub fn fault(&self) -> Option<Fault> {
        self.fault.lock().expect("no panic while held").clone()
    }

    /// Ends the job where it is: a checkpoint holds all that it did.
    pub fn halt(&self) {
        self.halted.store(true, Ordering::SeqCst);
        let before = self.aborted.swap(true, Ordering::SeqCst);
        self.barriers.end();
        if let (Role::Leader(leader), false) = (&self.role, before) {
            leader.order(&Order::Halt);
            leader.wake();
        }
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
    /// Other processes that take part, each with as many workers.
    pub team: Option<Team>,
    /// Components that the plan has and the pipeline file has not, for the other processes.
    pub components: Vec<NewComponent>,
}

/// Starts a plan on `workers` threads, without checkpoints. Faults of the start (a source that finds no file) come back
/// at once, all others from [`JobHandle::wait`].
pub fn start(plan: Plan, workers: usize) -> Result<JobHandle, Fault> {
    start_with(plan, StartOptions { workers, ..StartOptions::default() })
}

/// Starts a plan. Before anything else, what a checkpoint had prepared is committed, and what nobody will commit removed.
pub fn start_with(plan: Plan, options: StartOptions) -> Result<JobHandle, Fault> {
    let SetUp { shared, keeper, checkpointer, leader } = set_up(plan, options)?;
    let for_workers = shared.clone();
    let run = move || match leader {
        None => supervise(&for_workers, &keeper, checkpointer.as_ref()),
        Some(leader) => lead(&leader, &for_workers, &keeper, checkpointer.as_ref()),
    };
    let supervisor = std::thread::Builder::new()
        .name("tidemill-job".into())
        .spawn(run)
        .map_err(|e| Fault::io(format!("no thread for the job: {e}")))?;
    Ok(JobHandle { shared, supervisor })
}

/// All of a start but the threads.
pub(crate) fn set_up(plan: Plan, options: StartOptions) -> Result<SetUp, Fault> {
    let StartOptions { workers: threads, durability, from, phases, team, components } = options;
    if let Some(from) = &from {
        from.check(&plan)?;
        restore::commit(from, &plan)?;
    }
    restore::recover(&plan, durability.as_ref().map(|durability| &durability.store), from.as_ref())?;
    let workers = threads * (1 + team.as_ref().map_or(0, |team| team.members.len()));
    let splits = splits(&plan, workers, from.as_ref())?;
    let next_id = match &durability {
        Some(durability) => durability.store.list()?.iter().map(|l| l.id + 1).max().unwrap_or(1),
        None => 1,
    };
    let (checkpoints, commands) = Checkpoints::new(next_id);
    let epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let start_ms = epoch.as_millis() as i64;
    // Where no store counts starts, the clock does.
    let generation = durability.as_ref().map_or(start_ms as u64, |durability| durability.generation);
    let leader = team.map(|team| Leader::new(team, generation, from.as_ref().map(|from| from.manifest.id), components));
    let shared = Arc::new(Shared::new(Setup {
        barriers: Barriers::new(parts(&plan, 0..threads)),
        process: 0,
        local: 0..threads,
        checkpoints: durability.is_some().then_some(checkpoints),
        plan,
        workers,
        splits,
        from,
        phases,
        start_ms,
        team: leader.clone().map_or(Role::Alone, Role::Leader),
    })?);
    let keeper = Arc::new(Keeper::new(shared.clone()));
    let checkpointer = durability.map(|durability| Checkpointer {
        shared: shared.clone(),
        keeper: keeper.clone(),
        durability,
        commands: commands.clone(),
    });
    Ok(SetUp { shared, keeper, checkpointer, leader })
}

/// Tells the other processes to begin, runs the job, and tells them of its end.
fn lead(leader: &Leader, shared: &Arc<Shared>, keeper: &Keeper, checkpointer: Option<&Checkpointer>) {
    leader.team.gate.begin(leader.generation);
    leader.order(&Order::Start(Box::new(Start {
        generation: leader.generation,
        addresses: leader.addresses(),
        threads: shared.local.len(),
        splits: shared.splits.clone(),
        from: shared.from.as_ref().map(|from| (*from.manifest).clone()),
        components: leader.components.iter().map(Into::into).collect(),
        dropped: shared.from.as_ref().map(|from| from.dropped.clone()).unwrap_or_default(),
        start_ms: shared.start_ms,
        silence_ms: leader.team.silence_ms(),
    })));
    leader.attend(shared, || {
        supervise(shared, keeper, checkpointer);
        if !shared.is_aborted() {
            leader.finish();
        }
    });
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

/// Everything that takes part in barriers, of these workers.
pub(crate) fn parts(plan: &Plan, workers: Range<usize>) -> Vec<PartId> {
    let takes_part = |node: &tidemill_model::plan::Node| match &node.kind {
        NodeKind::Operator { factory } => factory.uses_time(),
        NodeKind::Source { .. } | NodeKind::Sink { .. } => true,
    };
    let nodes = plan.nodes.iter().enumerate().filter(|(_, node)| takes_part(node)).map(|(id, _)| id);
    let nodes = nodes.chain(plan.dead_letter.iter().map(|_| plan.nodes.len()));
    nodes.flat_map(|node| workers.clone().map(move |worker| (node, worker))).collect()
}

/// Runs the workers to their end, then makes visible what sinks have prepared, or throws it away.
fn supervise(shared: &Arc<Shared>, keeper: &Keeper, checkpointer: Option<&Checkpointer>) {
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
        if let Some(leader) = shared.leader() {
            leader.wait_for_end(shared);
        }
        shared.barriers.end();
        if let Some(checkpoints) = &shared.checkpoints {
            // It is there to receive, or it has failed.
            let _ = checkpoints.commands.send(Command::End);
        }
    });
    match checkpointer {
        None => end_sinks(shared, keeper),
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
    if let Some(leader) = shared.leader() {
        match Mesh::connect(&leader.team.gate, leader.generation, &leader.addresses(), shared) {
            Ok(mesh) => work_in(&mesh, shared, || {}),
            Err(fault) => shared.fail(fault),
        }
        return;
    }
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

/// The same, as one of several processes.
pub(crate) fn work_in(mesh: &Mesh, shared: &Arc<Shared>, before_parting: impl FnOnce()) {
    mesh.run(shared, before_parting);
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
fn end_sinks(shared: &Shared, keeper: &Keeper) {
    keeper.remember(shared.barriers.take_last());
    if !shared.is_aborted() {
        let others = || shared.leader().map_or(Ok(()), |leader| leader.commit(shared, 0));
        if let Err(fault) = keeper.commit().and_then(|()| others()) {
            shared.fail(fault);
        }
    }
    if shared.is_aborted() {
        keeper.discard();
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
    pub fn halt(&self) -> Halting {
        self.control().halt()
    }

    pub fn elapsed(&self) -> Duration {
        self.shared.start.elapsed()
    }

    pub fn is_finished(&self) -> bool {
        self.supervisor.is_finished()
    }

    /// As [`JobControl::stop`].
    pub fn stop(&self) {
        self.control().stop();
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
