//! Objects as files below a directory.
//!
//! Laws: a file under its name is whole, durable and never changes; names appear by rename or link only. What is being
//! written lies in `.tmp`, in a folder that its process holds locked; the folders of dead processes are removed when the
//! directory is opened. Directories are never removed, so that none vanishes while a file is put into it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use tidemill_model::Fault;
use tidemill_model::checkpoint::ObjectStore;

use crate::names;

/// Of what is being written. No object may have it as its first part.
const TEMPORARY: &str = ".tmp";

pub struct Directory {
    root: PathBuf,
    scratch: Scratch,
}

impl Directory {
    /// Creates the directory if it is not there, and tidies up behind dead processes.
    pub fn open(root: &Path) -> Result<Self, Fault> {
        create_directories(root)?;
        let root = root.canonicalize().map_err(|e| fault("open", root, &e))?;
        let temporary = root.join(TEMPORARY);
        create_directories(&temporary)?;
        remove_abandoned(&temporary);
        let scratch = Scratch::claim(&temporary).map_err(|e| fault("write into", &temporary, &e))?;
        Ok(Self { root, scratch })
    }

    fn path(&self, name: &str) -> Result<PathBuf, Fault> {
        names::check(name)?;
        if name.split('/').next() == Some(TEMPORARY) {
            return Err(Fault::internal(format!("`{name}`: names below `{TEMPORARY}` are taken")));
        }
        Ok(self.root.join(name))
    }

    /// Brings a file into being by `fill`, under a temporary name, durable; then `place`s it under its own.
    fn write<T>(
        &self,
        path: &Path,
        fill: impl FnOnce(&Path) -> io::Result<()>,
        place: impl FnOnce(&Path, &Path) -> io::Result<T>,
    ) -> Result<T, Fault> {
        let parent = path.parent().unwrap_or(&self.root);
        create_directories(parent)?;
        let temporary = self.scratch.next();
        let placed = fill(&temporary).and_then(|()| sync(&temporary)).and_then(|()| place(&temporary, path));
        // It is there after a link, after an error, and after a rename onto a link to itself, which does nothing.
        let _ = fs::remove_file(&temporary);
        placed.and_then(|done| sync(parent).map(|()| done)).map_err(|e| fault("write", path, &e))
    }
}

impl ObjectStore for Directory {
    fn location(&self, name: &str) -> String {
        self.root.join(name).display().to_string()
    }

    fn put(&self, name: &str, content: &[u8]) -> Result<(), Fault> {
        self.write(&self.path(name)?, |temporary| write_new(temporary, content), |from, to| fs::rename(from, to))
    }

    fn put_file(&self, name: &str, path: &Path) -> Result<(), Fault> {
        if !path.is_file() {
            return Err(fault("read", path, &io::Error::from(ErrorKind::NotFound)));
        }
        self.write(&self.path(name)?, |temporary| link_or_copy(path, temporary), |from, to| fs::rename(from, to))
    }

    fn create(&self, name: &str, content: &[u8]) -> Result<bool, Fault> {
        // Unlike a rename, a link fails if the name is taken.
        let place = |from: &Path, to: &Path| match fs::hard_link(from, to) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(false),
            Err(e) => Err(e),
        };
        self.write(&self.path(name)?, |temporary| write_new(temporary, content), place)
    }

    fn get(&self, name: &str) -> Result<Option<Vec<u8>>, Fault> {
        let path = self.path(name)?;
        found(fs::read(&path)).map_err(|e| fault("read", &path, &e))
    }

    fn get_file(&self, name: &str, path: &Path) -> Result<bool, Fault> {
        let object = self.path(name)?;
        found(fs::remove_file(path)).map_err(|e| fault("replace", path, &e))?;
        if found(fs::metadata(&object)).map_err(|e| fault("read", &object, &e))?.is_none() {
            return Ok(false);
        }
        Ok(found(link_or_copy(&object, path)).map_err(|e| fault("write", path, &e))?.is_some())
    }

    fn size(&self, name: &str) -> Result<Option<u64>, Fault> {
        let path = self.path(name)?;
        let metadata = found(fs::metadata(&path)).map_err(|e| fault("read", &path, &e))?;
        Ok(metadata.filter(|m| m.is_file()).map(|m| m.len()))
    }

    fn list(&self, prefix: &str) -> Result<Vec<(String, u64)>, Fault> {
        let folder = prefix.rsplit_once('/').map_or("", |(folder, _)| folder);
        if folder.split('/').next() == Some(TEMPORARY) {
            return Ok(Vec::new());
        }
        if !folder.is_empty() {
            names::check(folder)?;
        }
        let mut found = Vec::new();
        list_into(&self.root.join(folder), folder, prefix, &mut found)?;
        found.sort();
        Ok(found)
    }

    fn delete(&self, names: &[String]) -> Result<(), Fault> {
        for name in names {
            let path = self.path(name)?;
            found(fs::remove_file(&path)).map_err(|e| fault("remove", &path, &e))?;
        }
        Ok(())
    }
}

/// Adds the files below `directory`, whose own name is `folder`.
fn list_into(directory: &Path, folder: &str, prefix: &str, names: &mut Vec<(String, u64)>) -> Result<(), Fault> {
    let failed = |e: io::Error| fault("list", directory, &e);
    let Some(entries) = found(fs::read_dir(directory)).map_err(failed)? else { return Ok(()) };
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let Ok(part) = entry.file_name().into_string() else { continue };
        let name = if folder.is_empty() { part } else { format!("{folder}/{part}") };
        let Some(metadata) = found(entry.metadata()).map_err(failed)? else { continue };
        if metadata.is_dir() {
            let folder = format!("{name}/");
            if name != TEMPORARY && (folder.starts_with(prefix) || prefix.starts_with(&folder)) {
                list_into(&entry.path(), &name, prefix, names)?;
            }
        } else if metadata.is_file() && name.starts_with(prefix) {
            names.push((name, metadata.len()));
        }
    }
    Ok(())
}

/// A folder for what is being written, locked as long as this lives.
struct Scratch {
    folder: PathBuf,
    lock: PathBuf,
    _locked: File,
    next: AtomicU64,
}

impl Scratch {
    fn claim(temporary: &Path) -> io::Result<Self> {
        loop {
            let id = crate::unique();
            let (folder, lock) = (temporary.join(&id), temporary.join(format!("{id}.lock")));
            let file = OpenOptions::new().create_new(true).write(true).open(&lock)?;
            file.lock()?;
            // Between the two lines above, another process may have taken it for abandoned.
            if lock.try_exists()? {
                fs::create_dir(&folder)?;
                return Ok(Self { folder, lock, _locked: file, next: AtomicU64::new(0) });
            }
        }
    }

    fn next(&self) -> PathBuf {
        self.folder.join(self.next.fetch_add(1, Ordering::Relaxed).to_string())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays is removed by the next process.
        let _ = fs::remove_dir_all(&self.folder);
        let _ = fs::remove_file(&self.lock);
    }
}

/// Removes the folders whose lock nobody holds. What can't be removed harms nobody, so there are no errors.
fn remove_abandoned(temporary: &Path) {
    for entry in fs::read_dir(temporary).into_iter().flatten().flatten() {
        let lock = entry.path();
        if lock.extension().is_none_or(|e| e != "lock") {
            continue;
        }
        let Ok(file) = File::open(&lock) else { continue };
        if !matches!(file.try_lock(), Err(TryLockError::WouldBlock | TryLockError::Error(_))) {
            let _ = fs::remove_dir_all(lock.with_extension(""));
            let _ = fs::remove_file(&lock);
        }
    }
}

fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    OpenOptions::new().create_new(true).write(true).open(path)?.write_all(content)
}

/// A link costs nothing; another file system, or one without links, needs a copy.
fn link_or_copy(from: &Path, to: &Path) -> io::Result<()> {
    match fs::hard_link(from, to) {
        Err(e) if e.kind() != ErrorKind::NotFound => {
            let mut copy = OpenOptions::new().create_new(true).write(true).open(to)?;
            io::copy(&mut File::open(from)?, &mut copy).map(drop)
        }
        done => done,
    }
}

/// Makes a file, or the names in a directory, durable.
fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Like `fs::create_dir_all`, and durable.
fn create_directories(path: &Path) -> Result<(), Fault> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if path.parent().is_some() {
        create_directories(parent)?;
    }
    match fs::create_dir(path) {
        Err(e) if e.kind() != ErrorKind::AlreadyExists || !path.is_dir() => Err(fault("create", path, &e)),
        _ => sync(parent).map_err(|e| fault("create", path, &e)),
    }
}

/// `None` where there is nothing, be it because a file stands where a directory would be.
fn found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        other => other.map(Some),
    }
}

fn fault(action: &str, path: &Path, error: &io::Error) -> Fault {
    let fault = Fault::io(format!("cannot {action} `{}`: {error}", path.display()));
    match error.kind() {
        ErrorKind::PermissionDenied => {
            fault.with_help("give this user the right to write there, or choose another directory")
        }
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            fault.with_help("free space there, or keep fewer checkpoints")
        }
        ErrorKind::ReadOnlyFilesystem => fault.with_help("choose a directory that can be written to"),
        ErrorKind::NotADirectory | ErrorKind::AlreadyExists => {
            fault.with_help("a file is in the way: move it, or choose another directory")
        }
        ErrorKind::Unsupported => {
            fault.with_help("the file system must have hard links: choose a directory on another one")
        }
        _ => fault.with_help("see that the directory is there and that its disk is in order"),
    }
}
