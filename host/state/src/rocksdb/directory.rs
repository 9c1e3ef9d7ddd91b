//! Directories of databases: who owns them, and that they vanish.
//!
//! Below the working directory each process that uses it has one of its own, whose lock it holds as long as it lives. Laws: a
//! process removes its directory when it is done, and those of processes that are dead when it begins; it touches no other.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tidemill_model::Fault;

const PREFIX: &str = "tidemill-state-";
const LOCK: &str = "lock";

/// The directory of this process.
#[derive(Debug)]
pub(super) struct Home {
    path: PathBuf,
    /// Names directories in it.
    next: AtomicU64,
    _lock: File,
}

impl Home {
    /// Makes one below `base` and removes those of dead processes.
    pub fn claim(base: &Path) -> Result<Arc<Self>, Fault> {
        claim(base).map(Arc::new).map_err(|error| fault(base, "can't be used for state", &error))
    }

    /// A new directory whose name begins with `name`.
    pub fn create(self: &Arc<Self>, name: &str) -> Result<Directory, Fault> {
        let readable: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.path.join(format!("{readable}-{number}"));
        std::fs::create_dir(&path).map_err(|error| fault(&path, "can't be made", &error))?;
        Ok(Directory { path, _home: self.clone() })
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // Nobody is left to be told; the next process tries again.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// A directory that is removed when it is dropped.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    _home: Arc<Home>,
}

impl Directory {
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // As above: what is left is removed with the home.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

fn claim(base: &Path) -> io::Result<Home> {
    std::fs::create_dir_all(base)?;
    // Held while directories come and go, so that nobody takes one without its lock for dead.
    let gate = open_lock(&base.join("tidemill-state.lock"))?;
    gate.lock()?;
    remove_dead(base)?;
    for number in 0u32.. {
        let path = base.join(format!("{PREFIX}{}-{number}", std::process::id()));
        match std::fs::create_dir(&path) {
            Ok(()) => {
                let lock = open_lock(&path.join(LOCK))?;
                lock.lock()?;
                return Ok(Home { path, next: AtomicU64::new(0), _lock: lock });
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

fn open_lock(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).truncate(false).write(true).open(path)
}

/// Removes directories whose lock nobody holds. Those that can't be removed stay: another user's, or one that is just going.
fn remove_dead(base: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(base)? {
        let entry = entry?;
        let ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
        if !ours || !entry.file_type()?.is_dir() {
            continue;
        }
        let lock = open_lock(&entry.path().join(LOCK));
        if lock.is_ok_and(|lock| lock.try_lock().is_ok()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

/// Links a file, or copies it where linking is impossible.
pub(super) fn link(from: &Path, to: &Path) -> Result<(), Fault> {
    if std::fs::hard_link(from, to).is_ok() {
        return Ok(());
    }
    copy(from, to)
}

pub(super) fn copy(from: &Path, to: &Path) -> Result<(), Fault> {
    std::fs::copy(from, to).map(drop).map_err(|error| fault(from, "can't be copied", &error))
}

pub(super) fn fault(path: &Path, what: &str, error: &io::Error) -> Fault {
    Fault::io(format!("`{}` {what}: {error}", path.display())).with_help(
        "check that the directory of the state exists, may be written to and has space left, or choose another one with `directory`",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn homes(base: &Path) -> usize {
        let names = std::fs::read_dir(base).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with(PREFIX)).count()
    }

    #[test]
    fn directories_go_with_their_owners() {
        let base = tempfile::tempdir().unwrap();
        let dead = base.path().join(format!("{PREFIX}1-0"));
        std::fs::create_dir_all(dead.join("node-0")).unwrap();
        std::fs::write(dead.join(LOCK), "").unwrap();
        std::fs::write(base.path().join("other"), "").unwrap();
        let one = Home::claim(base.path()).unwrap();
        assert_eq!(homes(base.path()), 1, "what a dead process left is gone");
        let two = Home::claim(base.path()).unwrap();
        assert_eq!(homes(base.path()), 2, "the living are left alone");
        let directory = one.create("a/../b").unwrap();
        let path = directory.path().to_owned();
        assert!(path.is_dir() && path.starts_with(base.path()));
        drop(one);
        assert!(path.is_dir(), "a directory in use keeps its home");
        drop(directory);
        assert_eq!(homes(base.path()), 1);
        drop(two);
        assert_eq!(homes(base.path()), 0);
        assert!(base.path().join("other").is_file(), "foreign files stay");
    }

    #[test]
    fn a_place_that_is_no_directory_is_named() {
        let base = tempfile::NamedTempFile::new().unwrap();
        let fault = Home::claim(base.path()).unwrap_err();
        assert!(fault.message.contains(base.path().to_str().unwrap()), "{fault}");
        assert!(fault.help.is_some());
    }
}
