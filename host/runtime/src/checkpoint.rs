//! The checkpointer: a thread that begins checkpoints, stores what the parts of the job hold, and lets sinks commit.
//!
//! Laws: nothing is committed before the manifest that names it is published; committables of a checkpoint that failed go into the next
//! one; a savepoint of a job that goes on commits nothing, so that recovery never depends on it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use tidemill_model::Fault;
use tidemill_model::checkpoint::{
    CheckpointOptions, CheckpointStore, FORMAT_VERSION, Manifest, NodeManifest, PartManifest, Purpose, StateManifest,
};
use tidemill_model::limits::KEY_GROUPS;
use tidemill_model::plan::NodeKind;
use tidemill_model::sink::Committable;
use tidemill_model::snapshot::Form;

use crate::barrier::{Content, Part, Reached};
use crate::job::Shared;
use crate::restore::DEAD_LETTER;

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
    /// Committables that no published manifest names yet, by node and worker; and the number of the next checkpoint.
    rest: Mutex<Rest>,
}

#[derive(Default)]
struct Rest {
    committables: BTreeMap<(usize, usize), Vec<Vec<u8>>>,
    next_id: u64,
}

impl Checkpoints {
    pub fn new(next_id: u64) -> (Self, Receiver<Command>) {
        let (commands, received) = bounded(64);
        let rest = Mutex::new(Rest { next_id, ..Rest::default() });
        (Self { commands, stats: Mutex::default(), rest }, received)
    }
}

pub(crate) struct Checkpointer {
    pub shared: Arc<Shared>,
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
                    match self.take(&Purpose::Checkpoint, false) {
                        Ok(_) => failures = 0,
                        Err(None) => {}
                        Err(Some(fault)) => {
                            failures += 1;
                            self.failed(&fault, failures);
                        }
                    }
                    began
                }
                Ok(Command::Take { purpose, stop, reply }) => {
                    let began = Instant::now();
                    let taken = self.take(&purpose, stop);
                    if stop && taken.is_ok() {
                        self.shared.halt();
                    }
                    if let Err(Some(fault)) = &taken {
                        tracing::warn!("what was asked for failed, the job goes on: {fault}");
                    }
                    let _ = reply.send(taken.map_err(|fault| fault.unwrap_or_else(ended)));
                    began
                }
                Ok(Command::End) | Err(RecvTimeoutError::Disconnected) => break,
            };
            due = (began + interval).max(Instant::now() + pause);
        }
        // Nobody shall wait for an answer.
        while let Ok(Command::Take { reply, .. }) = self.commands.try_recv() {
            let _ = reply.send(Err(ended()));
        }
    }

    fn failed(&self, fault: &Fault, failures: u32) {
        tracing::warn!("a checkpoint failed: {fault}");
        if failures > self.durability.options.tolerated_failures {
            let mut fault = fault.clone();
            fault.message = format!("a checkpoint failed: {}", fault.message);
            self.shared.fail(fault);
        }
    }

    /// One checkpoint or savepoint from its barrier to its commit. `Err(None)`: the job ended before.
    pub fn take(&self, purpose: &Purpose, stop: bool) -> Result<Taken, Option<Fault>> {
        let _turn = self.shared.turn();
        let began = Instant::now();
        let checkpoints = self.shared.checkpoints();
        let id = {
            let mut rest = checkpoints.rest.lock().expect("no panic while held");
            rest.next_id += 1;
            rest.next_id - 1
        };
        let form = if matches!(purpose, Purpose::Savepoint { .. }) { Form::Portable } else { Form::Native };
        self.shared.barriers.announce(id, form);
        let parts = self.wait(began)?;
        let aligned = began.elapsed();
        let result = self.store(id, purpose, stop, parts, began);
        let mut stats = checkpoints.stats.lock().expect("no panic while held");
        match result {
            Ok((bytes, written)) => {
                stats.completed += 1;
                let took = began.elapsed();
                stats.last = Some(LastCheckpoint { id, aligned, took, bytes, written });
                Ok(Taken { id, bytes, took })
            }
            Err(fault) => {
                stats.failed += 1;
                stats.last_failure = Some(fault.to_string());
                Err(Some(fault))
            }
        }
    }

    /// Waits for all parts. What is late is waited for nevertheless: a barrier can't be taken back.
    fn wait(&self, began: Instant) -> Result<Vec<Part>, Option<Fault>> {
        let timeout = Duration::from_millis(self.durability.options.timeout_ms);
        match self.shared.barriers.wait(timeout) {
            Reached::All(parts) => Ok(parts),
            Reached::Ended => Err(None),
            Reached::Late((node, worker)) => {
                let name = self.node_name(node);
                let message = format!("no snapshot after {} s", began.elapsed().as_secs());
                let help = "something below it takes rows too slowly: see which node is busy, or raise `timeout`";
                let fault = Fault::io(message).at(&name).on_worker(worker).with_help(help);
                loop {
                    match self.shared.barriers.wait(timeout) {
                        Reached::All(parts) => {
                            self.keep_committables(parts);
                            return Err(Some(fault));
                        }
                        Reached::Ended => return Err(None),
                        Reached::Late(_) => {}
                    }
                }
            }
        }
    }

    fn node_name(&self, node: usize) -> String {
        self.shared.plan.nodes.get(node).map_or_else(|| DEAD_LETTER.to_owned(), |n| n.name.clone())
    }

    /// Committables outlive a checkpoint that fails.
    fn keep_committables(&self, parts: Vec<Part>) {
        let mut rest = self.shared.checkpoints().rest.lock().expect("no panic while held");
        for part in parts {
            if let Content::Committables(list) = part.content {
                rest.committables.entry((part.node, part.worker)).or_default().extend(list.into_iter().map(|c| c.0));
            }
        }
    }

    /// Bytes that it names, and bytes written.
    fn store(
        &self,
        id: u64,
        purpose: &Purpose,
        stop: bool,
        parts: Vec<Part>,
        began: Instant,
    ) -> Result<(u64, u64), Fault> {
        let (states, others): (Vec<Part>, Vec<Part>) =
            parts.into_iter().partition(|part| matches!(part.content, Content::State(..)));
        let mut stored: Vec<PartManifest> = Vec::new();
        let splits = others.iter().filter_map(|part| match &part.content {
            Content::Splits(splits) => {
                Some(PartManifest { splits: splits.clone(), ..self.part(part.node, part.worker) })
            }
            _ => None,
        });
        stored.extend(splits);
        self.keep_committables(others);
        let mut written = 0;
        for part in states {
            self.shared.reach(Phase::Upload);
            let (manifest, bytes) = self.store_state(part)?;
            written += bytes;
            stored.push(manifest);
            if began.elapsed().as_millis() as u64 > self.durability.options.timeout_ms {
                return Err(Fault::io(format!("not stored after {} s", began.elapsed().as_secs()))
                    .with_help("raise `timeout`, or give the store more bandwidth"));
            }
        }
        let committing = stop || !matches!(purpose, Purpose::Savepoint { .. });
        self.publish(id, purpose, stop, stored, committing).map(|bytes| (bytes, written))
    }

    fn part(&self, node: usize, worker: usize) -> PartManifest {
        PartManifest { node: self.node_name(node), worker, ..PartManifest::default() }
    }

    fn store_state(&self, part: Part) -> Result<(PartManifest, u64), Fault> {
        let mut manifest = self.part(part.node, part.worker);
        let Content::State(now, snapshot) = part.content else { return Ok((manifest, 0)) };
        manifest.watermark = Some(now.watermark);
        manifest.processing_ms = Some(now.processing_ms);
        manifest.states = snapshot.states.iter().map(StateManifest::of).collect();
        let mut written = 0;
        for table in snapshot.tables {
            let (stored, bytes) = self.durability.store.write_table(table)?;
            manifest.tables.push(stored);
            written += bytes;
        }
        let files = snapshot.files.map_or_else(|| Ok(Vec::new()), |files| files())?;
        for file in &files {
            let (stored, bytes) = self.durability.store.write_file(file)?;
            manifest.files.push(stored);
            written += bytes;
        }
        Ok((manifest, written))
    }

    /// Publishes, and then commits what sinks have prepared. Returns the bytes of all that it names.
    fn publish(
        &self,
        id: u64,
        purpose: &Purpose,
        stop: bool,
        mut parts: Vec<PartManifest>,
        committing: bool,
    ) -> Result<u64, Fault> {
        let committables = self.shared.checkpoints().rest.lock().expect("no panic while held").committables.clone();
        for ((node, worker), list) in &committables {
            parts.push(PartManifest { committables: list.clone(), ..self.part(*node, *worker) });
        }
        let bytes = parts.iter().map(bytes_of).sum();
        let mut manifest = self.manifest(id, purpose.clone(), parts);
        self.shared.reach(Phase::Manifest);
        self.durability.store.publish(&manifest)?;
        if stop && matches!(purpose, Purpose::Savepoint { .. }) {
            // What is committed now must be known to whoever starts the pipeline again without naming the savepoint.
            manifest.id += 1;
            manifest.purpose = Purpose::Checkpoint;
            self.shared.checkpoints().rest.lock().expect("no panic while held").next_id += 1;
            self.durability.store.publish(&manifest)?;
        }
        if committing {
            self.shared.reach(Phase::Commit);
            self.commit(&committables)?;
            self.shared.checkpoints().rest.lock().expect("no panic while held").committables.clear();
        }
        if *purpose == Purpose::Checkpoint
            && let Err(fault) = self.durability.store.retain(self.durability.options.keep)
        {
            tracing::warn!("old checkpoints stay: {fault}");
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

    fn commit(&self, committables: &BTreeMap<(usize, usize), Vec<Vec<u8>>>) -> Result<(), Fault> {
        let mut by_node: BTreeMap<usize, Vec<Committable>> = BTreeMap::new();
        for ((node, _), list) in committables {
            by_node.entry(*node).or_default().extend(list.iter().cloned().map(Committable));
        }
        for (node, list) in by_node {
            let (name, sink) = self.shared.sink_of(node);
            // Where somebody wants to see the middle of a commit, it has one.
            let step = if self.shared.has_phases() { 1 } else { list.len() };
            for some in list.chunks(step.max(1)) {
                self.shared.reach(Phase::Committing);
                sink.commit(some).map_err(|fault| fault.at(&name))?;
            }
        }
        Ok(())
    }

    /// The job's input has ended and all parts have left: the last manifest, the last commit. The manifest stays, so that
    /// whoever starts the job once more (it may have been killed just behind its commit) finds it done. `stopped`: someone
    /// asked for the end and wants nothing to come back to.
    pub fn end(&self, stopped: bool) -> Result<(), Fault> {
        self.keep_committables(self.shared.barriers.take_last());
        let id = self.shared.checkpoints().rest.lock().expect("no panic while held").next_id;
        self.publish(id, &Purpose::End, false, Vec::new(), true)?;
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
    Fault::config("the job has ended before")
}
