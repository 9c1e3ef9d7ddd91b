//! The checkpointer: a thread that begins checkpoints, stores what the parts of the job hold, and lets sinks commit.
//!
//! Laws: nothing is committed before the manifest that names it is published; committables of a checkpoint that failed go into the next
//! one; a savepoint of a job that goes on commits nothing, so that recovery never depends on it. With several processes each
//! stores what its own workers hold and commits what its own sinks have prepared; the leader's checkpointer says when.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use tidemill_model::checkpoint::{
    CheckpointOptions, CheckpointStore, FORMAT_VERSION, Manifest, NodeManifest, PartManifest, Purpose,
};
use tidemill_model::limits::KEY_GROUPS;
use tidemill_model::plan::NodeKind;
use tidemill_model::snapshot::Form;
use tidemill_model::{Fault, FaultKind};

use crate::barrier::{Part, Reached};
use crate::job::Shared;
use crate::keeper::{Keeper, Urgency};

/// Where and when.
#[derive(Clone)]
pub struct Durability {
    pub store: Arc<dyn CheckpointStore>,
    pub options: CheckpointOptions,
    /// Claimed from the store for this run.
    pub generation: u64,
}

/// What is known of the checkpoints of a run.
#[derive(Clone, Debug, Default)]
pub struct CheckpointStats {
    pub completed: u64,
    pub failed: u64,
    pub last: Option<LastCheckpoint>,
    /// Why the last failed one did.
    pub last_failure: Option<String>,
}

#[derive(Clone, Debug)]
pub struct LastCheckpoint {
    pub id: u64,
    /// From the announcement until all parts had frozen what they hold, and until the sinks had committed.
    pub aligned: Duration,
    pub took: Duration,
    /// Of everything it names, and of what had to be written.
    pub bytes: u64,
    pub written: u64,
}

/// A savepoint or checkpoint that was asked for.
#[derive(Clone, Debug)]
pub struct Taken {
    pub id: u64,
    pub bytes: u64,
    pub took: Duration,
}

pub(crate) enum Command {
    Take {
        purpose: Purpose,
        stop: bool,
        reply: Sender<Result<Taken, Fault>>,
    },
    /// The job has ended: finish what is under way.
    End,
}

/// What the other threads know of the checkpointer.
pub(crate) struct Checkpoints {
    pub commands: Sender<Command>,
    pub stats: Mutex<CheckpointStats>,
    next_id: AtomicU64,
    /// A checkpoint of this run exists: a restart begins there, whether or not all of it was committed.
    has_published: AtomicBool,
}

impl Checkpoints {
    /// The number of the next checkpoint: those from it on hold what there is now.
    pub fn next_id(&self) -> u64 {
        self.next_id.load(Ordering::SeqCst)
    }

    pub fn has_published(&self) -> bool {
        self.has_published.load(Ordering::SeqCst)
    }

    pub fn new(next_id: u64) -> (Self, Receiver<Command>) {
        let (commands, received) = bounded(64);
        (
            Self {
                commands,
                stats: Mutex::default(),
                next_id: AtomicU64::new(next_id),
                has_published: AtomicBool::new(false),
            },
            received,
        )
    }
}

pub(crate) struct Checkpointer {
    pub shared: Arc<Shared>,
    pub keeper: Arc<Keeper>,
    pub durability: Durability,
    pub commands: Receiver<Command>,
}

impl Checkpointer {
    /// Until the job ends.
    pub fn run(&self) {
        let options = &self.durability.options;
        let (interval, pause) =
            (Duration::from_millis(options.interval_ms), Duration::from_millis(options.min_pause_ms));
        let mut due = Instant::now() + interval;
        let mut failures = 0;
        loop {
            let began = match self.commands.recv_deadline(due) {
                Err(RecvTimeoutError::Timeout) => {
                    let began = Instant::now();
                    let mut failed = |fault| {
                        failures += 1;
                        self.failed(&fault, failures);
                    };
                    if self.take(&Purpose::Checkpoint, false, &mut failed).is_some() {
                        failures = 0;
                    }
                    began
                }
                Ok(Command::Take { purpose, stop, reply }) => {
                    let began = Instant::now();
                    let mut answer = Some(reply);
                    let mut failed = |fault| {
                        tracing::warn!("what was asked for failed, the job goes on: {fault}");
                        let _ = answer.take().map(|reply| reply.send(Err(fault)));
                    };
                    let taken = self.take(&purpose, stop, &mut failed);
                    if stop && taken.is_some() {
                        self.shared.halt();
                    }
                    // Without an answer: the job has ended before.
                    let _ = answer.zip(taken).map(|(reply, taken)| reply.send(Ok(taken)));
                    began
                }
                Ok(Command::End) | Err(RecvTimeoutError::Disconnected) => break,
            };
            due = (began + interval).max(Instant::now() + pause);
        }
        // Nobody shall wait for an answer.
        while self.commands.try_recv().is_ok() {}
    }

    fn failed(&self, fault: &Fault, failures: u32) {
        if self.shared.is_aborted() {
            // An echo of why the job has failed.
            return;
        }
        tracing::warn!("a checkpoint failed: {fault}");
        // What nobody can mend (another start has taken over) is no bad luck to be tolerated.
        if failures > self.durability.options.tolerated_failures || fault.kind == FaultKind::Config {
            let mut fault = fault.clone();
            fault.message = format!("a checkpoint failed: {}", fault.message);
            self.shared.fail(fault);
        }
    }

    /// One checkpoint or savepoint from its barrier to its commit. None: it failed, and `failed` was told why, as soon as that was clear,
    /// though a barrier can't be taken back and has to be waited for; or the job ended before.
    pub fn take(&self, purpose: &Purpose, stop: bool, failed: &mut dyn FnMut(Fault)) -> Option<Taken> {
        let mut is_told = false;
        let mut failed = |fault: Fault| {
            if !std::mem::replace(&mut is_told, true) {
                let mut stats = self.shared.checkpoints().stats.lock().expect("no panic while held");
                stats.failed += 1;
                stats.last_failure = Some(fault.to_string());
                drop(stats);
                failed(fault);
            }
        };
        match self.try_take(purpose, stop, &mut failed) {
            Ok(taken) => Some(taken),
            Err(fault) => {
                fault.map(failed);
                None
            }
        }
    }

    /// `Err(None)`: the job ended before. `late` is told of what does not come in time.
    fn try_take(&self, purpose: &Purpose, stop: bool, late: &mut dyn FnMut(Fault)) -> Result<Taken, Option<Fault>> {
        let _turn = self.shared.turn();
        let began = Instant::now();
        let checkpoints = self.shared.checkpoints();
        let id = checkpoints.next_id.fetch_add(1, Ordering::SeqCst);
        let form = if matches!(purpose, Purpose::Savepoint { .. }) { Form::Portable } else { Form::Native };
        match self.shared.leader() {
            None => self.shared.barriers.announce(id, form),
            Some(leader) => leader.announce(&self.shared, id, form).ok_or(None)?,
        }
        let parts = self.wait(began, late);
        let aligned = began.elapsed();
        // What would come behind the end of the job would be thrown away: the processor has better things to do.
        let pauses = stop && parts.is_ok() && self.shared.leader().is_none();
        if pauses {
            self.shared.barriers.freeze();
        }
        let urgency = if stop { Urgency::Stop } else { Urgency::Behind };
        let own = parts.and_then(|parts| self.store(parts, urgency, began).map_err(Some));
        // Whatever became of our own part: the next barrier may not begin before all others are done with this one.
        let all = self.with_others(id, own, began, late)?;
        let result = all.and_then(|(parts, written)| Ok((self.publish(id, purpose, stop, parts)?, written)));
        if pauses && result.is_err() {
            self.shared.barriers.thaw();
        }
        match result {
            Ok((bytes, written)) => {
                let mut stats = checkpoints.stats.lock().expect("no panic while held");
                stats.completed += 1;
                let took = began.elapsed();
                stats.last = Some(LastCheckpoint { id, aligned, took, bytes, written });
                Ok(Taken { id, bytes, took })
            }
            Err(fault) => {
                if let Some(leader) = self.shared.leader() {
                    // Something may be gone on which they rely.
                    leader.set_base(None);
                }
                Err(Some(fault))
            }
        }
    }

    /// Waits for all parts. What is late is waited for nevertheless: a barrier can't be taken back.
    fn wait(&self, began: Instant, late: &mut dyn FnMut(Fault)) -> Result<Vec<Part>, Option<Fault>> {
        let timeout = self.timeout();
        match self.shared.barriers.wait(timeout) {
            Reached::All(parts) => Ok(parts),
            Reached::Ended => Err(None),
            Reached::Late((node, worker)) => {
                let name = self.keeper.node_name(node);
                let message = format!("no snapshot after {} s", began.elapsed().as_secs());
                let help = "something below it takes rows too slowly: see which node is busy, or raise `timeout`";
                let fault = Fault::io(message).at(&name).on_worker(worker).with_help(help);
                late(fault.clone());
                loop {
                    match self.shared.barriers.wait(timeout) {
                        Reached::All(parts) => {
                            self.keeper.remember(parts);
                            return Err(Some(fault));
                        }
                        Reached::Ended => return Err(None),
                        Reached::Late(_) => {}
                    }
                }
            }
        }
    }

    /// What this process holds, and the bytes written.
    fn store(&self, parts: Vec<Part>, urgency: Urgency, began: Instant) -> Result<(Vec<PartManifest>, u64), Fault> {
        self.keeper.store(&*self.durability.store, parts, urgency, || self.in_time(began))
    }

    fn timeout(&self) -> Duration {
        Duration::from_millis(self.durability.options.timeout_ms)
    }

    fn in_time(&self, began: Instant) -> Result<(), Fault> {
        if began.elapsed() > self.timeout() {
            let fault = Fault::io(format!("not stored after {} s", began.elapsed().as_secs()));
            return Err(fault.with_help("raise `timeout`, or give the store more bandwidth"));
        }
        Ok(())
    }

    /// The same, with what the other processes hold. Outer `Err`: the job has ended.
    #[allow(clippy::type_complexity)]
    fn with_others(
        &self,
        id: u64,
        own: Result<(Vec<PartManifest>, u64), Option<Fault>>,
        began: Instant,
        late: &mut dyn FnMut(Fault),
    ) -> Result<Result<(Vec<PartManifest>, u64), Fault>, Option<Fault>> {
        // What was told to have failed must not come about after all.
        let mut overdue = None;
        let mut tell = |fault: Fault| {
            overdue = Some(fault.clone());
            late(fault);
        };
        let others = match self.shared.leader() {
            None => Ok((Vec::new(), 0)),
            Some(leader) => leader.stored(&self.shared, id, began + self.timeout(), &mut tell).ok_or(None)?,
        };
        let others = overdue.map_or(others, Err);
        let (mut parts, written) = match own {
            Ok(own) => own,
            Err(None) => return Err(None),
            Err(Some(fault)) => return Ok(Err(fault)),
        };
        Ok(others.map(|(others, more)| {
            parts.extend(others);
            (parts, written + more)
        }))
    }

    /// Publishes, and then commits what sinks have prepared. Returns the bytes of all that it names.
    fn publish(&self, id: u64, purpose: &Purpose, stop: bool, mut parts: Vec<PartManifest>) -> Result<u64, Fault> {
        parts.extend(self.keeper.prepared());
        let bytes = parts.iter().map(bytes_of).sum();
        let mut manifest = self.manifest(id, purpose.clone(), parts);
        self.shared.reach(Phase::Manifest);
        self.durability.store.publish(&manifest)?;
        if stop && matches!(purpose, Purpose::Savepoint { .. }) {
            // What is committed now must be known to whoever starts the pipeline again without naming the savepoint.
            manifest.id += 1;
            manifest.purpose = Purpose::Checkpoint;
            self.shared.checkpoints().next_id.fetch_add(1, Ordering::SeqCst);
            self.durability.store.publish(&manifest)?;
        }
        if !matches!(manifest.purpose, Purpose::Savepoint { .. }) {
            self.shared.checkpoints().has_published.store(true, Ordering::SeqCst);
        }
        if stop || !matches!(purpose, Purpose::Savepoint { .. }) {
            self.shared.reach(Phase::Commit);
            self.keeper.commit()?;
            if let Some(leader) = self.shared.leader() {
                leader.commit(&self.shared, id)?;
            }
        }
        if *purpose == Purpose::Checkpoint {
            if let Some(leader) = self.shared.leader() {
                leader.set_base(Some(id));
            }
            if let Err(fault) = self.durability.store.retain(self.durability.options.keep) {
                tracing::warn!("old checkpoints stay: {fault}");
            }
        }
        Ok(bytes)
    }

    fn manifest(&self, id: u64, purpose: Purpose, parts: Vec<PartManifest>) -> Manifest {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let plan = &self.shared.plan;
        let node = |(id, node): (usize, &tidemill_model::plan::Node)| {
            let kind = match &node.kind {
                NodeKind::Source { .. } => "source",
                NodeKind::Operator { .. } => "operator",
                NodeKind::Sink { .. } => "sink",
            };
            let mut about = self.shared.factory(id).map_or_else(NodeManifest::default, |factory| factory.about());
            // While values are migrated there are more states than the operator declares.
            for state in parts.iter().filter(|part| part.node == node.name).flat_map(|part| &part.states) {
                if !about.states.contains(state) {
                    about.states.push(state.clone());
                }
            }
            NodeManifest { name: node.name.clone(), kind: kind.into(), ..about }
        };
        Manifest {
            format_version: FORMAT_VERSION,
            id,
            generation: self.durability.generation,
            purpose,
            pipeline: plan.name.clone(),
            created_ms: now.as_millis() as i64,
            workers: self.shared.workers,
            key_groups: KEY_GROUPS,
            nodes: plan.nodes.iter().enumerate().map(node).collect(),
            parts,
        }
    }

    /// The job's input has ended and all parts have left: the last manifest, the last commit. The manifest stays, so that
    /// whoever starts the job once more (it may have been killed just behind its commit) finds it done. `stopped`: someone
    /// asked for the end and wants nothing to come back to.
    pub fn end(&self, stopped: bool) -> Result<(), Fault> {
        self.keeper.remember(self.shared.barriers.take_last());
        let id = self.shared.checkpoints().next_id.fetch_add(1, Ordering::SeqCst);
        let others = self.shared.leader().map(|leader| leader.prepared()).unwrap_or_default();
        self.publish(id, &Purpose::End, false, others)?;
        if let Err(fault) = self.durability.store.retain(usize::from(!stopped)) {
            tracing::warn!("checkpoints of a job that has ended stay: {fault}");
        }
        Ok(())
    }
}

/// Points of a checkpoint at which tests end the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// A part is frozen, but not stored.
    Upload,
    /// All is stored, but the manifest is not.
    Manifest,
    /// The manifest is published, but nothing is committed.
    Commit,
    /// Some is committed.
    Committing,
    /// State is about to be restored.
    Restore,
}

fn bytes_of(part: &PartManifest) -> u64 {
    let tables = part.tables.iter().flat_map(|t| &t.segments).map(|s| s.object.bytes).sum::<u64>();
    tables + part.files.iter().map(|f| f.object.bytes).sum::<u64>()
}

pub(crate) fn ended() -> Fault {
    let help = "if the job goes on, after a restart or with other workers, ask again";
    Fault::config("this run of the job has ended before").with_help(help)
}
