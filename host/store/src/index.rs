//! The index of a job's checkpoints: a small document that is replaced as a whole, by compare-and-swap.
//!
//! Version n of the document is the object `index/n.json`; the largest n counts. To change it, a writer reads version n,
//! and *creates* version n + 1, which succeeds for one writer only; then it reads again whether its change holds.
//!
//! Why that is right, with stores that know no more than "create unless it is there" and lists that show what was there
//! when they began: versions are removed from below, [`KEPT`] behind the largest, so the largest never falls. If a
//! writer creates n + 1 while n is the largest, nobody else can have; what it wrote follows what it has read. If the
//! largest has become larger meanwhile, then either n + 1 is there and the creation fails, or it was there and has been
//! removed: then it is created anew, below the largest, where no reader looks, and the writer sees that its change is
//! not in the largest and starts over. So all changes happen one after the other, each knowing all before it.
//!
//! What follows from it: a generation begins with a change; the change that publishes a checkpoint is refused if a newer
//! generation is in the index. So a publication that succeeded is in the index that the newer generation reads when it
//! has begun, and one that comes later fails: there is no third case.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tidemill_model::Fault;
use tidemill_model::checkpoint::{FORMAT_VERSION, Listed, ObjectRef, ObjectStore};

use crate::sealed;

/// Versions behind the newest that stay, for those who have just listed them.
const KEPT: u64 = 16;
/// So many starts at once see that they began, even if the others begin at the same time.
const STARTS_MAX: usize = 16;
/// Writers that come in between are a few; each of them has made progress.
const ATTEMPTS_MAX: usize = 100;
/// A store retries by itself; this is for the answer that got lost.
const ERRORS_MAX: usize = 3;

/// What to do about a newest version that can't be read. The one before may name less, and nothing that is wrong.
const DAMAGED: &str = "restore this file from a copy; or see that no run of the job is left and delete it: the next run starts from \
                       what the file before it names (from the beginning, if there is none), and rows committed since come again";

/// What exists of a job.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Index {
    pub format_version: u32,
    /// The newest that has begun.
    pub generation: u64,
    /// Who began the last ones.
    pub starts: Vec<Start>,
    /// By id.
    pub checkpoints: Vec<Entry>,
    /// Objects that may be gone already: nobody may rely on them. The newest generation takes them out when they are.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub removing: BTreeSet<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Start {
    pub generation: u64,
    /// A text that is used once.
    pub owner: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    pub id: u64,
    pub generation: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub savepoint: Option<String>,
    pub manifest: ObjectRef,
}

impl Index {
    /// Begins the next generation.
    pub fn start(&mut self, owner: &str) {
        self.generation += 1;
        self.starts.push(Start { generation: self.generation, owner: owner.to_owned() });
        self.starts.drain(..self.starts.len().saturating_sub(STARTS_MAX));
    }

    /// The generation that `owner` has begun, perhaps not the newest any more.
    pub fn started(&self, owner: &str) -> Option<u64> {
        self.starts.iter().find(|start| start.owner == owner).map(|start| start.generation)
    }
}

impl Entry {
    pub fn listed(&self) -> Listed {
        Listed { id: self.id, generation: self.generation, savepoint: self.savepoint.clone() }
    }
}

/// The place of the index in a store.
pub struct Register {
    store: Arc<dyn ObjectStore>,
    /// Ends with `/`.
    folder: String,
    /// The version read last: versions never change.
    read: Mutex<(u64, Index)>,
}

/// Why a change did not happen.
pub struct Refused {
    pub fault: Fault,
    /// Perhaps it did happen: the store gave no answer.
    pub unknown: bool,
}

impl Register {
    pub fn new(store: Arc<dyn ObjectStore>, folder: String) -> Self {
        Self { store, folder, read: Mutex::new((0, Index::default())) }
    }

    pub fn newest(&self) -> Result<Index, Fault> {
        self.read().map(|read| read.index)
    }

    /// Changes the index until `done` holds. Both are called several times if others change it, too.
    pub fn update(
        &self,
        mut change: impl FnMut(&mut Index) -> Result<(), Fault>,
        done: impl Fn(&Index) -> bool,
    ) -> Result<Index, Refused> {
        // A version whose creation had no answer, and which has not been seen to be decided.
        let (mut open, mut errors) = (None::<u64>, 0);
        for _ in 0..ATTEMPTS_MAX {
            let read = self.read().map_err(|fault| Refused { fault, unknown: open.is_some() })?;
            open = open.filter(|version| *version > read.version);
            if done(&read.index) {
                self.tidy(&read);
                return Ok(read.index);
            }
            let mut next = read.index.clone();
            change(&mut next).map_err(|fault| Refused { fault, unknown: open.is_some() })?;
            if next == read.index {
                self.tidy(&read);
                return Ok(next);
            }
            next.format_version = FORMAT_VERSION;
            match self.create(read.version + 1, next) {
                Ok(()) => {}
                Err(fault) if errors == ERRORS_MAX => return Err(Refused { fault, unknown: true }),
                Err(_) => (open, errors) = (Some(read.version + 1), errors + 1),
            }
        }
        let fault = Fault::io(format!("`{}` is changed by others all the time", self.store.location(&self.folder)))
            .with_help("see that not many copies of this job are being started");
        Err(Refused { fault, unknown: open.is_some() })
    }

    fn create(&self, version: u64, index: Index) -> Result<(), Fault> {
        if self.store.create(&self.name(version), &sealed::seal(&index)?)? {
            *self.read.lock().unwrap_or_else(PoisonError::into_inner) = (version, index);
        }
        Ok(())
    }

    fn read(&self) -> Result<Read, Fault> {
        for _ in 0..ATTEMPTS_MAX {
            let versions = self.versions()?;
            let Some(&version) = versions.last() else {
                return Ok(Read { version: 0, index: Index::default(), versions });
            };
            let cached = self.read.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if cached.0 == version {
                return Ok(Read { version, index: cached.1, versions });
            }
            // Nothing there: it was the largest, and has been removed since.
            if let Some(document) = self.store.get(&self.name(version))? {
                let index = self.open(version, &document)?;
                *self.read.lock().unwrap_or_else(PoisonError::into_inner) = (version, index.clone());
                return Ok(Read { version, index, versions });
            }
        }
        Err(Fault::io(format!("`{}` can be listed but not read", self.store.location(&self.folder)))
            .with_help("see whether others remove files there"))
    }

    fn open(&self, version: u64, document: &[u8]) -> Result<Index, Fault> {
        let place = self.store.location(&self.name(version));
        let damaged = |fault: Fault| fault.with_help(DAMAGED);
        /// What every version of the format has.
        #[derive(Deserialize)]
        struct Version {
            format_version: u32,
        }
        let Version { format_version } = sealed::open(document, &place).map_err(damaged)?;
        if format_version > FORMAT_VERSION {
            return Err(Fault::data(format!(
                "`{place}` has the format {format_version}; this program knows {FORMAT_VERSION}"
            ))
            .with_help("use the version of Tidemill that wrote it, or a newer one"));
        }
        sealed::open(document, &place).map_err(damaged)
    }

    /// Ascending.
    fn versions(&self) -> Result<Vec<u64>, Fault> {
        let listed = self.store.list(&self.folder)?;
        let version = |name: &str| name.strip_prefix(&self.folder)?.strip_suffix(".json")?.parse::<u64>().ok();
        let mut versions: Vec<u64> =
            listed.iter().filter_map(|(name, _)| version(name).filter(|v| self.name(*v) == *name)).collect();
        versions.sort_unstable();
        Ok(versions)
    }

    /// Removes old versions, several at a time. What stays is removed the next time.
    fn tidy(&self, read: &Read) {
        let old = read.versions.iter().filter(|version| **version + KEPT <= read.version);
        let old: Vec<String> = old.map(|version| self.name(*version)).collect();
        if old.len() as u64 >= KEPT
            && let Err(fault) = self.store.delete(&old)
        {
            tracing::warn!("old versions of an index stay: {fault}");
        }
    }

    fn name(&self, version: u64) -> String {
        format!("{}{version:012}.json", self.folder)
    }
}

struct Read {
    version: u64,
    index: Index,
    /// All that were listed, ascending.
    versions: Vec<u64>,
}
