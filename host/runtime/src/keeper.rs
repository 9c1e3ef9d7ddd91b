//! What a process keeps of a checkpoint: it stores what its operators hold, and remembers what its sinks have prepared until that is
//! committed.
//!
//! Law: committables outlive a checkpoint that fails; they are forgotten when they are committed, and not before.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::thread::Builder;

use tidemill_model::Fault;
use tidemill_model::checkpoint::{CheckpointStore, PartManifest, StateManifest};
use tidemill_model::sink::Committable;

use crate::barrier::{Content, Part};
use crate::checkpoint::Phase;
use crate::job::Shared;
use crate::priority;
use crate::restore::DEAD_LETTER;

/// Committables by node and worker.
pub(crate) type Prepared = BTreeMap<(usize, usize), Vec<Vec<u8>>>;

/// Who waits for a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// Nobody: the job goes on, and comes first.
    Behind,
    /// The job does: it ends there.
    Stop,
}

pub(crate) struct Keeper {
    pub shared: Arc<Shared>,
    prepared: Mutex<Prepared>,
}

impl Keeper {
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared, prepared: Mutex::default() }
    }

    pub fn node_name(&self, node: usize) -> String {
        self.shared.plan.nodes.get(node).map_or_else(|| DEAD_LETTER.to_owned(), |n| n.name.clone())
    }

    /// Remembers what sinks have prepared.
    pub fn remember(&self, parts: Vec<Part>) {
        let mut prepared = self.prepared.lock().expect("no panic while held");
        for part in parts {
            if let Content::Committables(list) = part.content {
                prepared.entry((part.node, part.worker)).or_default().extend(list.into_iter().map(|c| c.0));
            }
        }
    }

    /// All that is to be committed, as parts of a manifest.
    pub fn prepared(&self) -> Vec<PartManifest> {
        let prepared = self.prepared.lock().expect("no panic while held");
        let part = |(&(node, worker), list): (&(usize, usize), &Vec<Vec<u8>>)| PartManifest {
            committables: list.clone(),
            ..self.part(node, worker)
        };
        prepared.iter().map(part).collect()
    }

    fn part(&self, node: usize, worker: usize) -> PartManifest {
        PartManifest { node: self.node_name(node), worker, ..PartManifest::default() }
    }

    /// Stores states; with what the sources have to read, and the bytes written. `in_time` is asked after each.
    pub fn store(
        &self,
        store: &dyn CheckpointStore,
        parts: Vec<Part>,
        urgency: Urgency,
        in_time: impl Fn() -> Result<(), Fault> + Sync,
    ) -> Result<(Vec<PartManifest>, u64), Fault> {
        let (states, others): (Vec<Part>, Vec<Part>) =
            parts.into_iter().partition(|part| matches!(part.content, Content::State(..)));
        let splits = others.iter().filter_map(|part| match &part.content {
            Content::Splits(splits) => {
                Some(PartManifest { splits: splits.clone(), ..self.part(part.node, part.worker) })
            }
            _ => None,
        });
        let mut stored: Vec<PartManifest> = splits.collect();
        // Before anything can fail.
        self.remember(others);
        let mut written = 0;
        for (manifest, bytes) in self.store_states(store, states, urgency, &in_time)? {
            written += bytes;
            stored.push(manifest);
        }
        Ok((stored, written))
    }

    /// On several threads: sorting, encoding and hashing take their time. In the order of the parts; the first fault ends all.
    fn store_states(
        &self,
        store: &dyn CheckpointStore,
        states: Vec<Part>,
        urgency: Urgency,
        in_time: &(impl Fn() -> Result<(), Fault> + Sync),
    ) -> Result<Vec<(PartManifest, u64)>, Fault> {
        let count = states.len();
        let left = Mutex::new(states.into_iter().enumerate());
        let done = Mutex::new((0..count).map(|_| None).collect::<Vec<_>>());
        let failed: Mutex<Option<Fault>> = Mutex::new(None);
        let work = || {
            while failed.lock().expect("no panic while held").is_none() {
                let Some((index, part)) = left.lock().expect("no panic while held").next() else { break };
                self.shared.reach(Phase::Upload);
                match self.store_state(store, part).and_then(|stored| in_time().map(|()| stored)) {
                    Ok(stored) => done.lock().expect("no panic while held")[index] = Some(stored),
                    Err(fault) => {
                        failed.lock().expect("no panic while held").get_or_insert(fault);
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            let upload = || Builder::new().name("tidemill-upload".into());
            let behind = || {
                if urgency == Urgency::Behind {
                    priority::lower();
                }
                work();
            };
            // A thread that can't be had is done without.
            let threads =
                (0..count.min(self.shared.local.len())).filter(|_| upload().spawn_scoped(scope, behind).is_ok());
            if threads.count() == 0 {
                work();
            }
        });
        match failed.into_inner().expect("no panic while held") {
            Some(fault) => Err(fault),
            None => Ok(done.into_inner().expect("no panic while held").into_iter().flatten().collect()),
        }
    }

    fn store_state(&self, store: &dyn CheckpointStore, part: Part) -> Result<(PartManifest, u64), Fault> {
        let mut manifest = self.part(part.node, part.worker);
        let Content::State(now, snapshot) = part.content else { return Ok((manifest, 0)) };
        manifest.watermark = Some(now.watermark);
        manifest.processing_ms = Some(now.processing_ms);
        manifest.states = snapshot.states.iter().map(StateManifest::of).collect();
        let mut written = 0;
        for table in snapshot.tables {
            let (stored, bytes) = store.write_table(table)?;
            manifest.tables.push(stored);
            written += bytes;
        }
        let files = snapshot.files.map_or_else(|| Ok(Vec::new()), |files| files())?;
        for file in &files {
            let (stored, bytes) = store.write_file(file)?;
            manifest.files.push(stored);
            written += bytes;
        }
        Ok((manifest, written))
    }

    /// Makes visible what sinks have prepared.
    pub fn commit(&self) -> Result<(), Fault> {
        self.commit_of(&self.all_prepared())
    }

    /// All that is prepared now, to be committed as it is when it has been published. What sinks prepare later is not part
    /// of it.
    pub fn all_prepared(&self) -> Prepared {
        self.prepared.lock().expect("no panic while held").clone()
    }

    /// Makes visible what was prepared then.
    pub fn commit_of(&self, published: &Prepared) -> Result<(), Fault> {
        for (node, list) in by_node(published) {
            let (name, sink) = self.shared.sink_of(node);
            // Where somebody wants to see the middle of a commit, it has one.
            let step = if self.shared.has_phases() { 1 } else { list.len() };
            for some in list.chunks(step.max(1)) {
                self.shared.reach(Phase::Committing);
                sink.commit(some).map_err(|fault| fault.at(&name))?;
            }
        }
        let mut prepared = self.prepared.lock().expect("no panic while held");
        for (part, committed) in published {
            if let Some(list) = prepared.get_mut(part) {
                list.retain(|one| !committed.contains(one));
            }
        }
        prepared.retain(|_, list| !list.is_empty());
        Ok(())
    }

    /// Throws away what sinks have prepared.
    pub fn discard(&self) {
        for (node, list) in by_node(&self.all_prepared()) {
            self.shared.sink_of(node).1.discard(&list);
        }
        self.prepared.lock().expect("no panic while held").clear();
    }
}

fn by_node(prepared: &Prepared) -> BTreeMap<usize, Vec<Committable>> {
    let mut by_node: BTreeMap<usize, Vec<Committable>> = BTreeMap::new();
    for ((node, _), list) in prepared {
        by_node.entry(*node).or_default().extend(list.iter().cloned().map(Committable));
    }
    by_node
}
