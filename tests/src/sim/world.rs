//! What outlives a crash: the store's objects, what sinks have written, what readers of the sinks see, and the trace.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tempfile::TempDir;
use tidemill_model::Fault;
use tidemill_store::testing::Memory;

use crate::matrix::scratch;

/// Rows by sink, as lines of JSON.
pub type Rows = BTreeMap<String, Vec<String>>;

pub struct World {
    folder: TempDir,
    pub objects: Arc<Memory>,
    /// The store is broken: it says of half of an object that all is there.
    pub accepts_torn: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Rows of everything that sinks have prepared, by sink and committable.
    prepared: BTreeMap<(String, Vec<u8>), Vec<String>>,
    committed: BTreeSet<(String, Vec<u8>)>,
    /// Visible rows, in the order in which they became so.
    visible: Rows,
    /// The newest life that has claimed its generation.
    newest: usize,
    /// Requests to the store that come later.
    late: Vec<Late>,
    trace: Vec<String>,
    violations: Vec<String>,
    now_ms: i64,
}

type Late = Box<dyn FnOnce(&Memory) + Send>;

impl World {
    pub fn new(accepts_torn: bool) -> Arc<Self> {
        Arc::new(Self { folder: scratch(), objects: Arc::default(), accepts_torn, state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn note(&self, line: impl Into<String>) {
        self.state().trace.push(line.into());
    }

    /// A fault in the trace: the part of its text that no random name is in.
    pub fn note_fault(&self, what: &str, fault: &Fault) {
        let text = fault.message.split('`').next().unwrap_or_default();
        self.note(format!("{what}: {:?} {} {text}", fault.kind, fault.operator));
    }

    pub fn trace(&self) -> Vec<String> {
        self.state().trace.clone()
    }

    /// Something that must never be.
    pub fn violation(&self, what: impl Into<String>) {
        self.state().violations.push(what.into());
    }

    /// The first violation, if there was one.
    pub fn check(&self) -> Result<(), String> {
        self.state().violations.first().map_or(Ok(()), |what| Err(what.clone()))
    }

    /// A life has claimed its generation: no older one may have an effect.
    pub fn begin(&self, life: usize) {
        let mut state = self.state();
        state.newest = state.newest.max(life);
    }

    pub fn now_ms(&self) -> i64 {
        self.state().now_ms
    }

    /// The virtual clock goes on from life to life.
    pub fn see_time(&self, now_ms: i64) {
        let mut state = self.state();
        state.now_ms = state.now_ms.max(now_ms);
    }

    pub fn later(&self, request: impl FnOnce(&Memory) + Send + 'static) {
        self.state().late.push(Box::new(request));
    }

    /// Lets everything happen that is still to come.
    pub fn settle(&self) {
        let late = std::mem::take(&mut self.state().late);
        if !late.is_empty() {
            self.note(format!("{} requests come late", late.len()));
        }
        late.into_iter().for_each(|request| request(&self.objects));
    }

    pub fn prepared(&self, sink: &str, committable: &[u8], rows: Vec<String>) {
        self.state().prepared.insert((sink.to_owned(), committable.to_vec()), rows);
    }

    /// A sink has made visible what it had prepared, perhaps not for the first time.
    pub fn committed(&self, sink: &str, committable: &[u8], life: usize) {
        let place = (sink.to_owned(), committable.to_vec());
        let mut state = self.state();
        if !state.committed.insert(place.clone()) {
            return;
        }
        if life < state.newest {
            let newest = state.newest;
            state.violations.push(format!("life {life} commits rows of `{sink}` though life {newest} has begun"));
        }
        let rows = state.prepared.get(&place).cloned().unwrap_or_default();
        state.visible.entry(sink.to_owned()).or_default().extend(rows);
    }

    pub fn visible(&self) -> Rows {
        self.state().visible.clone()
    }

    /// What is visible, and what a manifest names beside.
    pub fn visible_with<'a>(&self, named: impl Iterator<Item = (&'a str, &'a Vec<u8>)>) -> Rows {
        let state = self.state();
        let mut rows = state.visible.clone();
        let more: BTreeSet<(String, Vec<u8>)> = named.map(|(sink, c)| (sink.to_owned(), c.clone())).collect();
        for place in more.difference(&state.committed) {
            let prepared = state.prepared.get(place).cloned().unwrap_or_default();
            rows.entry(place.0.clone()).or_default().extend(prepared);
        }
        rows
    }

    /// Number and hash of the visible rows of each sink.
    pub fn note_visible(&self) {
        let summary =
            |(sink, rows): (&String, &Vec<String>)| format!("{sink} {} {:08x}", rows.len(), hash(rows) as u32);
        let line = self.state().visible.iter().map(summary).collect::<Vec<_>>().join(", ");
        self.note(format!("  visible: {line}"));
    }

    /// What the files that anybody can see hold.
    pub fn files(&self) -> Result<Rows, String> {
        let mut rows = Rows::new();
        let out = self.folder().join("out");
        for sink in entries(&out)? {
            let name = sink.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let lines = rows.entry(name).or_default();
            for part in entries(&sink)?.into_iter().filter(|part| !is_hidden(part)) {
                let text = std::fs::read_to_string(&part).map_err(|e| format!("{}: {e}", part.display()))?;
                lines.extend(text.lines().map(str::to_owned));
            }
        }
        Ok(rows)
    }

    /// Names of hidden files of sinks that nobody will ever make visible or remove: `named` is all that is in manifests. And whether a
    /// file of what they name is gone.
    pub fn lost(&self, named: &[Vec<u8>]) -> Result<Vec<String>, String> {
        let mut all = Vec::new();
        for sink in entries(&self.folder().join("out"))? {
            let names = entries(&sink)?.into_iter();
            all.extend(names.filter_map(|part| Some(part.file_name()?.to_string_lossy().into_owned())));
        }
        let names_it = |c: &[u8], name: &str| c.windows(name.len()).any(|part| part == name.as_bytes());
        if let Some(gone) = named.iter().find(|c| !all.iter().any(|name| names_it(c, name))) {
            return Err(format!("no file is there of {}", String::from_utf8_lossy(gone)));
        }
        let hidden: Vec<String> = all.into_iter().filter(|name| name.starts_with('.')).collect();
        let is_named = |name: &String| named.iter().any(|c| names_it(c, name));
        let (named, rest): (Vec<String>, Vec<String>) = hidden.into_iter().partition(is_named);
        // A lock says that there are hidden files with its tag.
        let locks = |name: &String| {
            let tag = name.strip_prefix('.').and_then(|name| name.strip_suffix(".lock"));
            tag.is_some_and(|tag| named.iter().any(|name| name.contains(tag)))
        };
        Ok(rest.into_iter().filter(|name| !locks(name)).collect())
    }
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>, String> {
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    let listed = std::fs::read_dir(dir).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let mut paths: Vec<PathBuf> =
        listed.map_err(|e| format!("{}: {e}", dir.display()))?.into_iter().map(|entry| entry.path()).collect();
    paths.sort();
    Ok(paths)
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'))
}

/// The same in each run and on each machine.
fn hash(rows: &[String]) -> u64 {
    // Without random keys.
    let mut hasher = std::hash::DefaultHasher::new();
    rows.iter().for_each(|row| hasher.write(row.as_bytes()));
    hasher.finish()
}
