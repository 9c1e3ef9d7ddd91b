//! The way back: what a manifest holds, dealt to the nodes and workers of a job that starts from it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::datatypes::SchemaRef;
use tidemill_model::checkpoint::{CheckpointStore, Manifest, NodeManifest, PartManifest, SplitState, StateManifest};
use tidemill_model::component::StateDescriptor;
use tidemill_model::key::groups_of;
use tidemill_model::limits::KEY_GROUPS;
use tidemill_model::plan::{NodeKind, Plan};
use tidemill_model::sink::{Committable, Sink};
use tidemill_model::snapshot::{Chunks, FileSet, Restore};
use tidemill_model::state::state_of_table;
use tidemill_model::time::{Now, WATERMARK_MIN};
use tidemill_model::{Fault, snapshot};

/// Where a job starts from.
#[derive(Clone)]
pub struct StartFrom {
    pub store: Arc<dyn CheckpointStore>,
    pub manifest: Arc<Manifest>,
    /// Nodes, or states as `NODE.STATE`, that the user gives up.
    pub dropped: Vec<String>,
    /// For native files on their way to a backend; on the file system of the backend, if they shall be linked.
    pub scratch: PathBuf,
}

impl StartFrom {
    /// Whether the state fits the plan: each node that has some must be there.
    pub fn check(&self, plan: &Plan) -> Result<(), Fault> {
        let manifest = &self.manifest;
        if manifest.key_groups != KEY_GROUPS {
            let message = format!("the state has {} key groups, this version has {KEY_GROUPS}", manifest.key_groups);
            return Err(Fault::config(message).with_help("use the version that wrote it"));
        }
        self.check_dropped(plan)?;
        for part in &manifest.parts {
            let holds = if !part.splits.is_empty() {
                "positions of a source"
            } else if !part.tables.is_empty() || !part.files.is_empty() {
                "state"
            } else if !part.committables.is_empty() {
                "rows that are to be committed"
            } else {
                continue;
            };
            let known = part.node == DEAD_LETTER && plan.dead_letter.is_some()
                || plan.nodes.iter().any(|n| n.name == part.node);
            if !known && !self.dropped.contains(&part.node) {
                let name = &part.node;
                return Err(Fault::config(format!("the pipeline has no node `{name}`, of which there are {holds}"))
                    .with_help(format!(
                        "give the node its name back, or give up what it held with `--drop-state {name}`"
                    )));
            }
        }
        self.check_states(plan)
    }

    /// Whether everything that is given up is something.
    fn check_dropped(&self, plan: &Plan) -> Result<(), Fault> {
        let place = |node: &str, state: &str| format!("{node}.{state}");
        let (mut stored, mut planned) = (BTreeSet::new(), BTreeSet::new());
        for node in &self.manifest.nodes {
            stored.extend(node.states.iter().map(|state| place(&node.name, &state.name)));
            planned.insert(node.name.clone());
        }
        for part in &self.manifest.parts {
            let PartManifest { splits, tables, files, committables, .. } = part;
            let is_empty = splits.is_empty() && tables.is_empty() && files.is_empty() && committables.is_empty();
            if is_empty { &mut planned } else { &mut stored }.insert(part.node.clone());
            stored.extend(part.states.iter().map(|state| place(&part.node, &state.name)));
        }
        for node in &plan.nodes {
            planned.insert(node.name.clone());
            if let NodeKind::Operator { factory } = &node.kind {
                planned.extend(factory.about().states.iter().map(|state| place(&node.name, &state.name)));
            }
        }
        match self.dropped.iter().find(|name| !stored.contains(*name) && !planned.contains(*name)) {
            None => Ok(()),
            Some(name) => {
                let message = format!("neither the pipeline nor what it starts from has a node or state `{name}`");
                let stored: Vec<String> = stored.into_iter().collect();
                Err(Fault::config(message).with_help(format!("what can be given up: {}", stored.join(", "))))
            }
        }
    }

    /// Whether each state that is kept is what the operator of the plan takes it for.
    fn check_states(&self, plan: &Plan) -> Result<(), Fault> {
        for node in &plan.nodes {
            let NodeKind::Operator { factory } = &node.kind else { continue };
            let Some(stored) = self.manifest.nodes.iter().find(|n| n.name == node.name) else { continue };
            self.check_key(stored, &factory.about().key)?;
            for (before, now) in
                stored.states.iter().flat_map(|b| factory.about().states.into_iter().map(move |n| (b, n)))
            {
                let place = format!("{}.{}", node.name, before.name);
                if before.name != now.name || before == &now || self.dropped.contains(&place) {
                    continue;
                }
                // The operator migrates what earlier versions have written.
                if before.version < now.version {
                    before.descriptor().map_err(|fault| fault.at(&node.name))?;
                    continue;
                }
                let message = format!(
                    "state `{}` was stored as {}, but the operator declares {}",
                    before.name,
                    in_words(before),
                    in_words(&now)
                );
                let help =
                    format!("use the component that wrote it, or give up its values with `--drop-state {place}`");
                return Err(Fault::config(message).at(&node.name).with_help(help));
            }
        }
        Ok(())
    }

    /// Values of keys of other types would never be found again. Names of columns may change: they are not stored.
    fn check_key(&self, stored: &NodeManifest, now: &[String]) -> Result<(), Fault> {
        let NodeManifest { name, key: before, .. } = stored;
        let holds = self.parts(name).any(|part| !part.tables.is_empty() || !part.files.is_empty());
        // Nodes without a key, and windows, whose rows say it themselves, name no types.
        if before.is_empty() || before == now || !holds || self.dropped.contains(name) {
            return Ok(());
        }
        let now = if now.is_empty() { "it has no key".to_owned() } else { format!("its key is {}", now.join(", ")) };
        let message = format!("the state of `{name}` was stored by a key of {}, but now {now}", before.join(", "));
        let help = format!("give it back a key of these types, or give up what it held with `--drop-state {name}`");
        Err(Fault::config(message).at(name).with_help(help))
    }

    /// What is left to read of a source. None: the source is new, or its positions are given up.
    pub fn splits(&self, node: &str) -> Option<Vec<SplitState>> {
        if self.dropped.iter().any(|name| name == node) {
            return None;
        }
        self.manifest.nodes.iter().find(|n| n.name == node)?;
        Some(self.parts(node).flat_map(|part| part.splits.iter().cloned()).collect())
    }

    /// What sinks had prepared, by node.
    pub fn committables(&self, node: &str) -> Vec<Committable> {
        self.parts(node).flat_map(|part| part.committables.iter().cloned().map(Committable)).collect()
    }

    fn parts(&self, node: &str) -> impl Iterator<Item = &PartManifest> {
        self.manifest.parts.iter().filter(move |part| part.node == node)
    }

    /// What an operator on a worker is to take in; none if there is nothing.
    pub(crate) fn operator(
        &self,
        node: &str,
        worker: usize,
        workers: usize,
    ) -> Result<Option<OperatorState<'_>>, Fault> {
        let parts: Vec<&PartManifest> = self.parts(node).collect();
        if parts.is_empty() || self.dropped.iter().any(|name| name == node) {
            return Ok(None);
        }
        let dropped: Vec<String> = self.given_up(node).map(str::to_owned).collect();
        // A table that can't be read is a fault here: without it the operator would begin with nothing, and nobody would know.
        let mut schemas = BTreeMap::new();
        for table in parts.iter().flat_map(|part| &part.tables) {
            let given_up = state_of_table(&table.name).is_some_and(|(state, _)| dropped.iter().any(|d| d == state));
            if !given_up && !schemas.contains_key(&table.name) {
                let schema = self.store.table_schema(table).map_err(|fault| fault.at(node).on_worker(worker))?;
                schemas.insert(table.name.clone(), schema);
            }
        }
        Ok(Some(OperatorState {
            from: self,
            parts,
            schemas,
            groups: groups_of(worker, workers),
            dropped,
            scratch: self.scratch.join(format!(
                "restore-{}-{}",
                std::process::id(),
                NEXT.fetch_add(1, Ordering::Relaxed)
            )),
        }))
    }

    /// States of a node that the user gives up.
    fn given_up(&self, node: &str) -> impl Iterator<Item = &str> {
        self.dropped.iter().filter_map(move |name| name.strip_prefix(node)?.strip_prefix('.'))
    }
}

fn in_words(state: &StateManifest) -> String {
    let codec = if state.codec.is_empty() { String::new() } else { format!(" ({})", state.codec) };
    format!("{}{codec}, version {}", state.type_text(), state.version)
}

/// Name of the dead-letter sink in manifests.
pub const DEAD_LETTER: &str = "dead_letter";

static NEXT: AtomicU64 = AtomicU64::new(0);

pub(crate) struct OperatorState<'a> {
    from: &'a StartFrom,
    parts: Vec<&'a PartManifest>,
    schemas: BTreeMap<String, SchemaRef>,
    groups: Range<u32>,
    dropped: Vec<String>,
    scratch: PathBuf,
}

impl Drop for OperatorState<'_> {
    fn drop(&mut self) {
        // What the backend wanted to keep it has linked or copied.
        let _ = std::fs::remove_dir_all(&self.scratch);
    }
}

impl Restore for OperatorState<'_> {
    fn groups(&self) -> Range<u32> {
        self.groups.clone()
    }

    fn now(&self) -> Now {
        let watermark = self.parts.iter().filter_map(|p| p.watermark).min().unwrap_or(WATERMARK_MIN);
        let processing_ms = self.parts.iter().filter_map(|p| p.processing_ms).max();
        Now { watermark, processing_ms: processing_ms.unwrap_or(Now::START.processing_ms) }
    }

    fn tables(&self) -> Vec<(String, SchemaRef)> {
        self.schemas.iter().map(|(name, schema)| (name.clone(), schema.clone())).collect()
    }

    fn rows(&self, table: &str) -> u64 {
        let all: u64 =
            self.parts.iter().flat_map(|part| &part.tables).filter(|t| t.name == table).map(|t| t.rows).sum();
        all.saturating_mul(self.groups.len() as u64) / u64::from(KEY_GROUPS)
    }

    fn states(&self) -> Vec<StateDescriptor> {
        let mut states: Vec<StateDescriptor> = Vec::new();
        for state in self.parts.iter().flat_map(|part| &part.states) {
            // Checked before: all have types that this program knows.
            let Ok(state) = state.descriptor() else { continue };
            if !self.dropped.contains(&state.name) && !states.contains(&state) {
                states.push(state);
            }
        }
        states
    }

    fn chunks(&self, table: &str) -> Result<Chunks, Fault> {
        let stored = self.parts.iter().flat_map(|part| &part.tables).filter(|t| t.name == table);
        let chunks: Result<Vec<Chunks>, Fault> =
            stored.map(|table| self.from.store.read_table(table, self.groups.clone())).collect();
        Ok(Box::new(chunks?.into_iter().flatten()))
    }

    fn all_chunks(&self, table: &str) -> Result<Chunks, Fault> {
        let mut parts: Vec<&&PartManifest> = self.parts.iter().collect();
        parts.sort_by_key(|part| part.worker);
        let stored = parts.into_iter().flat_map(|part| &part.tables).filter(|t| t.name == table);
        let chunks: Result<Vec<Chunks>, Fault> =
            stored.map(|table| self.from.store.read_table(table, 0..KEY_GROUPS)).collect();
        Ok(Box::new(chunks?.into_iter().flatten()))
    }

    fn dropped(&self) -> &[String] {
        &self.dropped
    }

    fn files(&self) -> Result<Vec<FileSet>, Fault> {
        let mut sets = Vec::new();
        for part in self.parts.iter().filter(|part| !part.files.is_empty()) {
            let groups = groups_of(part.worker, self.from.manifest.workers);
            if groups.start >= self.groups.end || groups.end <= self.groups.start {
                continue;
            }
            let dir = self.scratch.join(part.worker.to_string());
            std::fs::create_dir_all(&dir).map_err(|e| Fault::io(format!("cannot create `{}`: {e}", dir.display())))?;
            let mut files = Vec::new();
            for file in &part.files {
                let path = dir.join(&file.name);
                self.from.store.read_file(file, &path)?;
                files.push((file.name.clone(), path));
            }
            sets.push(snapshot::FileSet { groups, files });
        }
        Ok(sets)
    }
}

/// Commits again what the manifest says: the job may have ended before it could.
pub(crate) fn commit(from: &StartFrom, plan: &Plan) -> Result<(), Fault> {
    for (name, sink) in sinks(plan) {
        let committables = from.committables(name);
        if !committables.is_empty() {
            sink.commit(&committables).map_err(|fault| fault.at(name))?;
        }
    }
    Ok(())
}

/// Lets sinks remove what earlier runs of the job have left and no manifest names. The generation is claimed by now, so that
/// no earlier run can publish a manifest that names more. If a manifest can't be read, everything stays.
pub(crate) fn recover(
    plan: &Plan,
    store: Option<&Arc<dyn CheckpointStore>>,
    from: Option<&StartFrom>,
) -> Result<(), Fault> {
    let mut manifests = store.map_or_else(|| Ok(Vec::new()), |store| manifests(&**store));
    match &mut manifests {
        Ok(manifests) => manifests.extend(from.map(|from| Manifest::clone(&from.manifest))),
        Err(fault) => tracing::warn!("what earlier runs have left in sinks stays: {fault}"),
    }
    let location = store.map(|store| store.location()).unwrap_or_default();
    for (name, sink) in sinks(plan) {
        let owner = format!("{}\n{name}\n{location}", plan.name);
        let named = manifests.as_ref().ok().map(|manifests| {
            let parts = manifests.iter().flat_map(|manifest| &manifest.parts).filter(|part| part.node == name);
            parts.flat_map(|part| &part.committables).cloned().map(Committable).collect::<Vec<_>>()
        });
        sink.recover(&owner, named.as_deref()).map_err(|fault| fault.at(name))?;
    }
    Ok(())
}

fn manifests(store: &dyn CheckpointStore) -> Result<Vec<Manifest>, Fault> {
    store.list()?.iter().map(|listed| store.load(listed)).collect()
}

fn sinks(plan: &Plan) -> impl Iterator<Item = (&str, &Arc<dyn Sink>)> {
    let nodes = plan.nodes.iter().filter_map(|node| match &node.kind {
        NodeKind::Sink { sink, .. } => Some((node.name.as_str(), sink)),
        _ => None,
    });
    nodes.chain(plan.dead_letter.iter().map(|sink| (DEAD_LETTER, sink)))
}
