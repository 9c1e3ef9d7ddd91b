//! Where a job's checkpoints are, and from which of them it starts.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use tidemill_model::Fault;
use tidemill_model::checkpoint::{CheckpointStore, Listed, Manifest, ObjectStore};
use tidemill_model::plan::{JobOptions, Plan};
use tidemill_runtime::{Durability, StartFrom};
use tidemill_store::{Snapshots, StoreOptions, temporary_folder};

/// What `--from` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum From {
    /// The newest checkpoint, if there is one.
    Latest,
    Nothing,
    /// A savepoint by name.
    Savepoint(String),
    /// A checkpoint by number.
    Checkpoint(u64),
}

impl std::str::FromStr for From {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "latest" => Self::Latest,
            "none" => Self::Nothing,
            number if number.bytes().all(|b| b.is_ascii_digit()) => {
                Self::Checkpoint(number.parse().map_err(|_| format!("there is no checkpoint {number}"))?)
            }
            name => Self::Savepoint(name.to_owned()),
        })
    }
}

/// The checkpoints of one pipeline.
pub struct Durable {
    pub store: Arc<dyn CheckpointStore>,
    /// For files on their way into a state backend.
    scratch: PathBuf,
    /// A damaged checkpoint gives way to the one before it.
    fallback: bool,
    /// Of this run: its first start.
    first: OnceLock<u64>,
}

impl Durable {
    /// None: the pipeline takes no checkpoints. `base`: the folder of the pipeline file.
    pub fn open(plan: &Plan, base: &Path) -> Result<Option<Self>, Fault> {
        let Some(options) = &plan.options.checkpoints else { return Ok(None) };
        let place = StoreOptions {
            endpoint: options.endpoint.clone(),
            region: options.region.clone(),
            ..StoreOptions::default()
        };
        let objects = tidemill_store::open(&options.store, base, &place)?;
        Self::over(objects, plan, base).map(Some)
    }

    /// The same, in this store.
    pub fn over(objects: Arc<dyn ObjectStore>, plan: &Plan, base: &Path) -> Result<Self, Fault> {
        let store = Arc::new(Snapshots::new(objects, &plan.name));
        let fallback = plan.options.checkpoints.as_ref().is_some_and(|options| options.fallback);
        Ok(Self { store, scratch: work_directory(&plan.options, base)?, fallback, first: OnceLock::new() })
    }

    /// Claims the next generation: from now on nobody else publishes checkpoints of this pipeline.
    pub fn begin(&self, plan: &Plan) -> Result<Durability, Fault> {
        let generation = self.store.begin_generation()?;
        self.first.get_or_init(|| generation);
        Ok(Durability { generation, ..self.idle(plan) })
    }

    /// For a run that only reads: it can publish nothing.
    pub fn idle(&self, plan: &Plan) -> Durability {
        let options = plan.options.checkpoints.clone().unwrap_or_default();
        Durability { store: self.store.clone(), options, generation: 0 }
    }

    /// The manifest to start from, checked; None: from the beginning.
    pub fn find(&self, from: &From, fallback: bool) -> Result<Option<Manifest>, Fault> {
        let all = self.store.list()?;
        let one = match from {
            From::Nothing => return Ok(None),
            From::Latest => return self.latest(all, fallback),
            From::Savepoint(name) => all.iter().find(|l| l.savepoint.as_ref() == Some(name)),
            From::Checkpoint(id) => all.iter().find(|l| l.savepoint.is_none() && l.id == *id),
        };
        match one {
            Some(listed) => self.checked(listed).map(Some),
            None => Err(self.missing(from, &all)),
        }
    }

    fn latest(&self, mut all: Vec<Listed>, fallback: bool) -> Result<Option<Manifest>, Fault> {
        all.retain(|listed| listed.savepoint.is_none());
        all.sort_by_key(|listed| listed.id);
        let mut first_damage = None;
        while let Some(listed) = all.pop() {
            match self.checked(&listed) {
                Ok(manifest) => return Ok(Some(manifest)),
                Err(fault) if fallback => {
                    tracing::warn!("checkpoint {} can't be used: {fault}", listed.id);
                    first_damage.get_or_insert(fault);
                }
                Err(fault) => {
                    let help = "with `checkpoints: { fallback: true }` the one before it is used, if `keep` left one; \
                                `--from none` starts from the beginning";
                    return Err(fault.with_help(help));
                }
            }
        }
        // All that there were are damaged: starting from the beginning is not what was asked for.
        first_damage.map_or(Ok(None), |fault| {
            Err(fault.with_help("no checkpoint is left; `--from none` starts from the beginning"))
        })
    }

    fn checked(&self, listed: &Listed) -> Result<Manifest, Fault> {
        let manifest = self.store.load(listed)?;
        self.store.verify(&manifest)?;
        Ok(manifest)
    }

    /// Whether this checkpoint is known to be damaged, and the pipeline lets the one before it take its place.
    pub fn gives_way(&self, manifest: &Option<Manifest>) -> bool {
        self.fallback && manifest.as_ref().is_some_and(|manifest| self.store.verify(manifest).is_err())
    }

    fn missing(&self, from: &From, all: &[Listed]) -> Fault {
        let what = match from {
            From::Savepoint(name) => format!("savepoint `{name}`"),
            From::Checkpoint(id) => format!("checkpoint {id}"),
            From::Latest | From::Nothing => "checkpoint".into(),
        };
        let have: Vec<String> = all.iter().map(|l| l.savepoint.clone().unwrap_or_else(|| l.id.to_string())).collect();
        let have = if have.is_empty() { "nothing".to_owned() } else { have.join(", ") };
        Fault::config(format!("there is no {what} in {}", self.store.location())).with_help(format!("there is {have}"))
    }

    /// Deletes a savepoint.
    pub fn delete(&self, name: &From) -> Result<(), Fault> {
        let all = self.store.list()?;
        let found = all.iter().find(|l| matches!(name, From::Savepoint(name) if l.savepoint.as_ref() == Some(name)));
        match found {
            Some(listed) => self.store.delete(listed),
            None => Err(self.missing(name, &all)),
        }
    }

    /// `dropped`: what the user gives up of what earlier runs have left.
    pub fn start_from(&self, manifest: Manifest, dropped: &[String]) -> StartFrom {
        let (store, scratch) = (self.store.clone(), self.scratch.clone());
        // What this run has stored itself lacks what was given up, and what came since is not.
        let is_own = self.first.get().is_some_and(|first| manifest.generation >= *first);
        let dropped = if is_own { Vec::new() } else { dropped.to_vec() };
        StartFrom { store, manifest: Arc::new(manifest), dropped, scratch }
    }
}

/// Where state backends work: beside the checkpoints, so that files can be linked, or in this user's folder of temporary files.
pub fn work_directory(options: &JobOptions, base: &Path) -> Result<PathBuf, Fault> {
    let store = options.checkpoints.as_ref().map(|c| c.store.as_str());
    match (&options.state.directory, store) {
        (Some(directory), _) => Ok(base.join(directory)),
        (None, Some(store)) if !store.contains("://") => Ok(base.join(store).join(".work")),
        _ => temporary_folder(),
    }
}
