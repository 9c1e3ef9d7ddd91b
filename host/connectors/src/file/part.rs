//! A part file on its way from its hidden to its final name.
//!
//! Laws: a visible file is complete and never changes; a file that exists is never overwritten; showing a file can be
//! repeated, also by another process, also by two at once.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tidemill_model::Fault;
use tidemill_model::sink::Committable;

use super::disk::parent;

/// Of files that are being written or wait for their commit.
const HIDDEN_ENDING: &str = ".inprogress";

/// A file under its hidden and under its final name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Part {
    pub hidden: PathBuf,
    pub visible: PathBuf,
    /// Final name if the other one is taken by then.
    spare: PathBuf,
    /// Length of the file when it was complete.
    pub bytes: u64,
}

/// What became of a part at its commit.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Shown {
    Now,
    /// By an earlier commit.
    Before,
    /// Neither the hidden nor the visible file is there.
    Gone,
}

impl Part {
    /// `tag`: of the run that writes it, see [`super::run`].
    pub(super) fn new(directory: &Path, worker: usize, number: u64, ending: &str, tag: &str) -> Self {
        let name = format!("part-{worker}-{number}");
        let token = tag.rsplit('-').next().unwrap_or(tag);
        Self {
            hidden: directory.join(format!(".{name}.{ending}.{tag}{HIDDEN_ENDING}")),
            visible: directory.join(format!("{name}.{ending}")),
            spare: directory.join(format!("{name}-{token}.{ending}")),
            bytes: 0,
        }
    }

    /// Paths become absolute: whoever commits it may run in another directory.
    pub(super) fn encode(&self) -> Result<Committable, Fault> {
        let absolute = |path: &Path| {
            std::path::absolute(path).map_err(|e| Fault::io(format!("no absolute path for `{}`: {e}", path.display())))
        };
        let (hidden, visible, spare) = (absolute(&self.hidden)?, absolute(&self.visible)?, absolute(&self.spare)?);
        let part = Self { hidden, visible, spare, bytes: self.bytes };
        serde_json::to_vec(&part).map(Committable).map_err(|_| {
            Fault::config(format!("the path `{}` is not UTF-8", part.visible.display()))
                .with_help("rename the directory")
        })
    }

    pub(super) fn decode(committable: &Committable) -> Result<Self, Fault> {
        serde_json::from_slice(&committable.0)
            .map_err(|e| Fault::internal(format!("a stored file name is damaged: {e}")))
    }

    /// The run that wrote it.
    pub(super) fn tag(&self) -> Option<&str> {
        tag_of(self.hidden.file_name()?.to_str()?)
    }

    pub(super) fn number(&self) -> Option<u64> {
        number_of(self.visible.file_name()?.to_str()?).map(|(_, number)| number)
    }

    /// Makes the file visible, unless that was done before. The caller holds the lock of its directory.
    fn show(&self) -> Result<Shown, Fault> {
        match fs::metadata(&self.hidden) {
            Ok(found) if found.len() != self.bytes => {
                let (hidden, was, is) = (self.hidden.display(), self.bytes, found.len());
                Err(self.fault(&format!("`{hidden}` has {is} bytes, but {was} were written")).with_help(
                    "somebody has changed the file, or the disk has lost some of it: its rows can only be had \
                     from an earlier checkpoint",
                ))
            }
            Ok(_) => self.rename(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => self.absent(),
            Err(e) => Err(self.fault(&e.to_string())),
        }
    }

    fn rename(&self) -> Result<Shown, Fault> {
        let exists = |path: &Path| path.try_exists().map_err(|e| self.fault(&e.to_string()));
        let target = match (exists(&self.visible)?, exists(&self.spare)?) {
            (false, _) => &self.visible,
            (true, false) => &self.spare,
            (true, true) => return Err(self.fault("files of its names are there")),
        };
        match fs::rename(&self.hidden, target) {
            Ok(()) => Ok(Shown::Now),
            // Somebody else has just committed it, or the file system has no locks.
            Err(e) if e.kind() == io::ErrorKind::NotFound => self.absent(),
            Err(e) => Err(self.fault(&e.to_string())),
        }
    }

    fn absent(&self) -> Result<Shown, Fault> {
        let exists = |path: &Path| path.try_exists().map_err(|e| self.fault(&e.to_string()));
        Ok(if exists(&self.visible)? || exists(&self.spare)? { Shown::Before } else { Shown::Gone })
    }

    pub(super) fn fault(&self, why: &str) -> Fault {
        Fault::io(format!("cannot commit `{}`: {why}", self.visible.display()))
    }
}

/// Shows parts, directory by directory; `each` hears what became of them. Then their names are durable.
pub(super) fn show_all(parts: &[Part], mut each: impl FnMut(&Part, Shown) -> Result<(), Fault>) -> Result<(), Fault> {
    let mut directories: BTreeMap<&Path, Vec<&Part>> = BTreeMap::new();
    for part in parts {
        directories.entry(parent(&part.visible)).or_default().push(part);
    }
    for (path, parts) in directories {
        let fault = |e: &io::Error| directory_fault(path, e);
        let directory = match File::open(path) {
            Ok(directory) => directory,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                parts.into_iter().try_for_each(|part| each(part, Shown::Gone))?;
                continue;
            }
            Err(e) => return Err(fault(&e)),
        };
        // Commits take turns, so that a name that was free is free when it is taken. Where there are no locks, a
        // moment remains in which two jobs may choose the same.
        let _ = directory.lock();
        parts.into_iter().try_for_each(|part| each(part, part.show()?))?;
        directory.sync_all().map_err(|e| fault(&e))?;
    }
    Ok(())
}

/// Tag of a hidden name.
pub(super) fn tag_of(name: &str) -> Option<&str> {
    name.strip_prefix(".part-")?.strip_suffix(HIDDEN_ENDING)?.rsplit_once('.').map(|(_, tag)| tag)
}

/// Worker and number of a name, hidden or not.
fn number_of(name: &str) -> Option<(usize, u64)> {
    let mut numbers = name.trim_start_matches('.').strip_prefix("part-")?.split(['-', '.']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Larger than the number of any file that this worker has in the directory.
pub(super) fn next_number(directory: &Path, worker: usize) -> Result<u64, Fault> {
    let mut next = 0;
    for entry in fs::read_dir(directory).map_err(|e| directory_fault(directory, &e))? {
        let name = entry.map_err(|e| directory_fault(directory, &e))?.file_name();
        if let Some((of, number)) = name.to_str().and_then(number_of)
            && of == worker
        {
            next = next.max(number.saturating_add(1));
        }
    }
    Ok(next)
}

pub(super) fn directory_fault(directory: &Path, error: &io::Error) -> Fault {
    let fault = Fault::io(format!("cannot write to the directory `{}`: {error}", directory.display()));
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            fault.with_help("the user that runs the job may not write there")
        }
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            fault.with_help("the `path` of a file sink names a directory, not a file")
        }
        _ => fault,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart() {
        let part = Part::new(Path::new("out"), 3, 17, "csv.gz", "aa-bb");
        assert_eq!(part.hidden, Path::new("out/.part-3-17.csv.gz.aa-bb.inprogress"));
        assert_eq!(part.spare, Path::new("out/part-3-17-bb.csv.gz"));
        assert_eq!((part.tag(), part.number()), (Some("aa-bb"), Some(17)));
        for name in [".part-3-17.csv.gz.aa-bb.inprogress", "part-3-17.csv.gz", "part-3-17-bb.csv.gz"] {
            assert_eq!(number_of(name), Some((3, 17)));
        }
        for name in ["part-3", "part-x-1.csv", "other-3-17.csv", ".part-3-17.csv.aa-bb", "part-3-17.csv.inprogress"] {
            assert_eq!(tag_of(name), None, "{name}");
        }
        let decoded = Part::decode(&part.encode().unwrap()).unwrap();
        assert!(decoded.hidden.is_absolute() && decoded.hidden.ends_with(&part.hidden));
        assert!(Part::decode(&Committable(b"{}".to_vec())).is_err());
    }
}
