//! The files that a run's sinks have made visible, in the order in which they became so.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub(super) struct Written {
    /// With a folder for each sink.
    out: PathBuf,
    sinks: BTreeMap<String, Vec<PathBuf>>,
}

impl Written {
    pub fn new(out: PathBuf) -> Self {
        Self { out, sinks: BTreeMap::new() }
    }

    /// Looks for files that are new since the last call.
    pub fn note(&mut self) -> Result<(), String> {
        if !self.out.is_dir() {
            return Ok(());
        }
        for dir in entries(&self.out)? {
            let sink = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let parts = self.sinks.entry(sink).or_default();
            let visible = entries(&dir)?.into_iter().filter(|part| !is_hidden(part));
            let new: Vec<PathBuf> = visible.filter(|part| !parts.contains(part)).collect();
            parts.extend(new);
        }
        Ok(())
    }

    /// Each sink with its files.
    pub fn sinks(&self) -> impl Iterator<Item = (&String, &Vec<PathBuf>)> {
        self.sinks.iter()
    }
}

/// What lies in a folder: sorted, and a file with a longer number behind those with shorter ones.
fn entries(dir: &Path) -> Result<Vec<PathBuf>, String> {
    let listed = std::fs::read_dir(dir).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let listed = listed.map_err(|e| format!("{}: {e}", dir.display()))?;
    let mut paths: Vec<PathBuf> = listed.into_iter().map(|entry| entry.path()).collect();
    paths.sort_by_cached_key(|path| (path.as_os_str().len(), path.clone()));
    Ok(paths)
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'))
}
