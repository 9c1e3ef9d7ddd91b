//! A snapshot is cut by a thread of its own: it writes what the cache held, then lets RocksDB link its files.
//!
//! Law: until a cut is done, nobody else writes to its databases.

use std::any::Any;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

use tidemill_model::snapshot::NativeFile;
use tidemill_model::{Fault, panics};

use super::directory::{self, Directory};
use super::overlay::Overlay;
use super::records::Records;
use super::shard::{Database, Metadata};

/// Name of the file with the metadata.
pub(super) const METADATA: &str = "METADATA.json";

/// What is to be done for one database.
pub(super) struct Job {
    pub database: Arc<Database>,
    pub records: Records,
    /// Entries that are newer, and which of them are this database's.
    pub entries: (Arc<Overlay>, Range<u32>),
    pub metadata: Metadata,
    pub directory: Directory,
}

/// The frozen files of one database.
#[derive(Debug)]
pub(super) struct Frozen {
    pub metadata: Metadata,
    /// A directory in `directory`, which goes with this.
    pub path: PathBuf,
    _directory: Directory,
}

/// All of a snapshot, one per database.
pub(super) type Parts = Arc<Vec<Frozen>>;

/// A snapshot in the making.
#[derive(Default)]
pub(super) struct Cut {
    outcome: Mutex<Option<Result<Parts, Fault>>>,
    done: Condvar,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Cut {
    pub fn start(jobs: Vec<Job>) -> Result<Arc<Self>, Fault> {
        let cut = Arc::new(Self::default());
        let own = cut.clone();
        let run = move || {
            let outcome = panics::caught(|| jobs.into_iter().map(Job::run).collect::<Result<Vec<_>, _>>());
            let outcome = outcome.unwrap_or_else(|panic| Err(Fault::internal(format!("a snapshot panicked: {panic}"))));
            *own.outcome.lock().expect("no panic while held") = Some(outcome.map(Arc::new));
            own.done.notify_all();
        };
        let thread = std::thread::Builder::new().name("state-snapshot".to_owned()).spawn(run);
        let thread = thread.map_err(|error| Fault::io(format!("no thread for a snapshot: {error}")))?;
        *cut.thread.lock().expect("no panic while held") = Some(thread);
        Ok(cut)
    }

    /// Waits until the thread has let go of the databases: RocksDB does not bear a process that ends while somebody uses it.
    pub fn end(&self) {
        let thread = self.thread.lock().expect("no panic while held").take();
        // What it has to say is in the outcome.
        let _ = thread.map(JoinHandle::join);
    }

    pub fn is_done(&self) -> bool {
        self.outcome.lock().expect("no panic while held").is_some()
    }

    /// The files, as soon as they are there.
    pub fn wait(&self) -> Result<Parts, Fault> {
        let outcome = self.outcome.lock().expect("no panic while held");
        let outcome = self.done.wait_while(outcome, |o| o.is_none()).expect("no panic while held");
        outcome.clone().expect("it was waited for")
    }
}

impl Job {
    fn run(self) -> Result<Frozen, Fault> {
        self.database.write(&self.records)?;
        let (overlay, groups) = &self.entries;
        self.database.write_entries(overlay.groups(groups))?;
        let path = self.directory.path().join("files");
        self.database.checkpoint(&path)?;
        let text = serde_json::to_vec(&self.metadata);
        let text = text.map_err(|error| Fault::internal(format!("metadata of a snapshot: {error}")))?;
        let file = path.join(METADATA);
        std::fs::write(&file, text).map_err(|error| directory::fault(&file, "can't be written", &error))?;
        Ok(Frozen { metadata: self.metadata, path, _directory: self.directory })
    }
}

/// The files of a snapshot. A name is the number of the database, a dot, and its name there.
pub(super) fn native_files(parts: &Parts) -> Result<Vec<NativeFile>, Fault> {
    let mut files = Vec::new();
    for (number, part) in parts.iter().enumerate() {
        for name in names(&part.path)? {
            let guard: Arc<dyn Any + Send + Sync> = parts.clone();
            files.push(NativeFile { name: format!("{number}.{name}"), path: part.path.join(name), guard });
        }
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

/// Files that a database needs. Options are the program's, and the log is empty.
fn names(path: &Path) -> Result<Vec<String>, Fault> {
    let failed = |error| directory::fault(path, "can't be listed", &error);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
        if !name.starts_with("OPTIONS") && !name.ends_with(".log") {
            names.push(name);
        }
    }
    Ok(names)
}
