//! Whose hidden files are whose, and which of them nobody will ever commit.
//!
//! A hidden name ends in a tag, `OWNER-TOKEN`: the owner is the same in each run of a job, the token is not. While a run has
//! hidden files, a file `.OWNER-TOKEN.lock` lies in the sink's directory, locked by the process.
//!
//! Laws: a file is removed only if it has the owner's tag, nobody holds the lock of that tag, and no manifest names it;
//! what cannot be removed stays hidden. A run without hidden files leaves no lock behind.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use xxhash_rust::xxh3::xxh3_64;

use super::part::{Part, tag_of};

const LOCK_ENDING: &str = ".lock";

/// The hidden files of a sink in this process.
pub(super) struct Run {
    directory: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Hash of the owner's name; 0 until somebody tells it.
    owner: u64,
    /// Files of the current tag that are being made, and the names of those that were.
    making: usize,
    hidden: BTreeSet<OsString>,
    mark: Option<Mark>,
}

/// The tag and its lock.
struct Mark {
    tag: String,
    path: PathBuf,
    _lock: File,
}

impl Run {
    pub(super) fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }

    /// A hidden file is about to be made: the tag for its name. The directory exists.
    pub(super) fn enter(&self) -> io::Result<String> {
        let mut state = self.lock();
        let tag = match &state.mark {
            Some(mark) => mark.tag.clone(),
            None => {
                let mark = mark(&self.directory, state.owner)?;
                state.mark.insert(mark).tag.clone()
            }
        };
        state.making += 1;
        Ok(tag)
    }

    /// It was made, or it was not.
    pub(super) fn made(&self, part: Option<&Part>) {
        let mut state = self.lock();
        state.making = state.making.saturating_sub(1);
        // Another start may have begun in between.
        let own = |part: &&Part| part.tag().is_some_and(|tag| state.mark.as_ref().is_some_and(|mark| mark.tag == tag));
        if let Some(name) = part.filter(own).and_then(|part| part.hidden.file_name()) {
            state.hidden.insert(name.to_owned());
        }
        state.unmark();
    }

    /// A hidden file was removed, or is visible now.
    pub(super) fn leave(&self, part: &Part) {
        let mut state = self.lock();
        if part.hidden.file_name().is_some_and(|name| state.hidden.remove(name)) {
            state.unmark();
        }
    }

    /// Whether this run has made the file, and has not seen it leave.
    pub(super) fn has(&self, part: &Part) -> bool {
        part.hidden.file_name().is_some_and(|name| self.lock().hidden.contains(name))
    }

    /// A job begins, whose files later runs of the same owner can remove. The hash of the owner's name.
    pub(super) fn begin(&self, owner: &str) -> u64 {
        let owner = xxh3_64(owner.as_bytes());
        // An earlier job with this sink, in this process, has ended, too.
        *self.lock() = State { owner, ..State::default() };
        owner
    }

    /// A job begins: removes what dead runs of the same owner left, but for files of these names.
    pub(super) fn recover(&self, owner: &str, named: &BTreeSet<OsString>) {
        let owner = self.begin(owner);
        let dead = dead_runs(&self.directory, owner);
        if dead.is_empty() {
            return;
        }
        let mut kept = BTreeSet::new();
        sweep(&self.directory, &dead, named, &mut kept);
        for (tag, (path, _lock)) in &dead {
            if !kept.contains(tag) {
                let _ = fs::remove_file(path);
            }
        }
    }
}

impl State {
    /// Without hidden files no lock is needed.
    fn unmark(&mut self) {
        if self.making == 0
            && self.hidden.is_empty()
            && let Some(mark) = self.mark.take()
        {
            // One that stays says nothing but that there may be something to remove.
            let _ = fs::remove_file(mark.path);
        }
    }
}

/// A tag that nobody else has, with its lock.
fn mark(directory: &Path, owner: u64) -> io::Result<Mark> {
    loop {
        // Random keys, from the operating system.
        let tag = format!("{owner:016x}-{:016x}", RandomState::new().hash_one(()));
        let path = directory.join(format!(".{tag}{LOCK_ENDING}"));
        let lock = match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(lock) => lock,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
            Err(e) => return Err(e),
        };
        // Whoever starts at this moment may have taken it for a dead run's. Where there are no locks, nobody gets one.
        let taken = matches!(lock.try_lock(), Err(TryLockError::WouldBlock));
        if !taken && path.try_exists()? {
            return Ok(Mark { tag, path, _lock: lock });
        }
    }
}

/// Tags of this owner whose process has ended, with their lock files, locked.
fn dead_runs(directory: &Path, owner: u64) -> BTreeMap<String, (PathBuf, File)> {
    let prefix = format!("{owner:016x}-");
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let dead = entries.filter_map(|entry| {
        let name = entry.file_name();
        let tag = name.to_str()?.strip_prefix('.')?.strip_suffix(LOCK_ENDING)?;
        let file = if tag.starts_with(&prefix) { File::open(entry.path()).ok()? } else { return None };
        file.try_lock().ok()?;
        Some((tag.to_owned(), (entry.path(), file)))
    });
    dead.collect()
}

/// Removes hidden files of dead runs here and below; `kept` gets the tags of those that stay.
fn sweep(
    directory: &Path,
    dead: &BTreeMap<String, (PathBuf, File)>,
    named: &BTreeSet<OsString>,
    kept: &mut BTreeSet<String>,
) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        // Links are not followed.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            sweep(&entry.path(), dead, named, kept);
            continue;
        }
        let name = entry.file_name();
        let Some(tag) = name.to_str().and_then(tag_of).filter(|tag| dead.contains_key(*tag)) else { continue };
        if named.contains(&name) || fs::remove_file(entry.path()).is_err() {
            kept.insert(tag.to_owned());
        }
    }
}
