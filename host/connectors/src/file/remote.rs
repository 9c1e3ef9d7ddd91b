//! Part files on S3: written to a folder on this machine (the spool), uploaded when they are complete, visible when they are committed.
//!
//! Laws: an object appears whole, by the completion of its upload, and never before `commit`; uploads of earlier runs that
//! nobody will complete are given up when the job starts the next time; names are new in each run, so nothing is overwritten; a
//! file stays in the spool until its object is visible, since not every server can be relied upon to keep what an upload has
//! brought when somebody is killed while he completes it.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::Mutex;

use arrow::datatypes::SchemaRef;
use serde::{Deserialize, Serialize};
use tidemill_model::config::ConfigContext;
use tidemill_model::remote::{Completed, RemoteFolder, RemotePlace, Remotes, Upload};
use tidemill_model::sink::{Committable, Sink, SinkWriter};
use tidemill_model::{Batch, ConfigError, Fault};
use xxhash_rust::xxh3::xxh3_64;

use super::part::Part;
use super::settings::MissingFiles;
use super::sink::FileSink;

const SCHEME: &str = "s3://";

/// Whether a path is not one of this machine.
pub(super) fn is_remote(path: &str) -> bool {
    path.starts_with(SCHEME)
}

/// Bucket and what is behind it.
pub(super) fn take_apart(path: &str) -> Result<(&str, &str), ConfigError> {
    let (bucket, rest) =
        path.strip_prefix(SCHEME).unwrap_or_default().split_once('/').unwrap_or((&path[SCHEME.len()..], ""));
    if bucket.is_empty() {
        return Err(ConfigError::new(&["path"], format!("`{path}` names no bucket: write s3://BUCKET/FOLDER")));
    }
    Ok((bucket, rest.trim_matches('/')))
}

pub(super) fn open(
    context: &ConfigContext,
    bucket: &str,
    folder: &str,
    place: &RemotePlace,
) -> Result<Arc<dyn RemoteFolder>, ConfigError> {
    remotes(context)?.open(bucket, folder, place).map_err(at_path)
}

pub(super) fn remotes(context: &ConfigContext) -> Result<&Arc<dyn Remotes>, ConfigError> {
    context.remotes.as_ref().ok_or_else(|| {
        ConfigError::new(&["path"], "this program was built without S3")
            .with_help("build it with the feature `s3`, which is on by default, or use a directory")
    })
}

fn at_path(fault: Fault) -> ConfigError {
    let error = ConfigError::new(&["path"], fault.message);
    fault.help.into_iter().fold(error, ConfigError::with_help)
}

/// Where files lie until they are uploaded: the same directory in each run, so that what a killed one left is found.
pub(super) fn spool(path: &str, context: &ConfigContext) -> Result<PathBuf, ConfigError> {
    let temporary = remotes(context)?.temporary().map_err(at_path)?;
    Ok(temporary.join(format!("spool-{:016x}", xxh3_64(path.as_bytes()))))
}

/// Removes the directories in `folder` in which there is nothing, and itself if nothing is left.
fn remove_empty(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_empty(&entry.path());
        }
    }
    // What is not empty stays: files of a run that lives, or that the next start will find.
    let _ = fs::remove_dir(folder);
}

/// A file sink whose directory is a folder of a bucket.
pub(super) struct RemoteSink {
    pub folder: Arc<dyn RemoteFolder>,
    /// Into the spool.
    pub local: FileSink,
    pub spool: PathBuf,
    pub missing_files: MissingFiles,
    pub state: Mutex<State>,
}

#[derive(Default)]
pub(super) struct State {
    /// Hash of the owner's name, in the names of its objects.
    owner: u32,
    /// Uploads of this process that are not completed.
    open: HashSet<String>,
}

impl Drop for RemoteSink {
    fn drop(&mut self) {
        remove_empty(&self.spool);
    }
}

impl RemoteSink {
    /// The object that a part becomes.
    fn name(&self, part: &Part) -> Result<String, Fault> {
        let below = part.visible.strip_prefix(std::path::absolute(&self.spool).unwrap_or_default());
        let below = below.or_else(|_| part.visible.strip_prefix(&self.spool)).ok().and_then(Path::to_str);
        let (Some(below), Some(tag)) = (below, part.tag()) else {
            return Err(Fault::internal(format!("`{}` is no file of a spool", part.visible.display())));
        };
        let (folder, file) = below.rsplit_once('/').map_or((String::new(), below), |(f, file)| (format!("{f}/"), file));
        let (stem, ending) = file.split_once('.').unwrap_or((file, ""));
        let (owner, token) = (self.lock().owner, tag.rsplit('-').next().unwrap_or(tag));
        Ok(format!("{folder}{stem}-{owner:08x}{token}.{ending}"))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }

    fn upload(&self, prepared: &Committable) -> Result<Committable, Fault> {
        let part = Part::decode(prepared)?;
        let upload = self.folder.upload(&self.name(&part)?, &part.hidden)?;
        self.lock().open.insert(upload.id.clone());
        Pending { upload, part }.encode()
    }

    fn completed(&self, Pending { upload, part }: &Pending) -> Result<(), Fault> {
        let mine = self.lock().open.contains(&upload.id);
        match self.folder.complete(upload, Some(&part.hidden))? {
            Completed::Now | Completed::Before => {}
            Completed::Gone if self.missing_files == MissingFiles::Ignore && !mine => {}
            Completed::Gone => {
                let place = self.folder.location(&upload.name);
                return Err(Fault::io(format!("cannot commit `{place}`: neither it nor its upload is there")).with_help(
                    "if readers move or remove files that they have read, set `missing_files: ignore`; if not, a rule of the \
                     bucket has removed an upload before it was completed, and its rows can only be had from an earlier \
                     checkpoint",
                ));
            }
        }
        self.lock().open.remove(&upload.id);
        // It has done its work.
        self.local.discard(&[part.encode()?]);
        Ok(())
    }
}

/// What is committed: an upload, and the file in the spool that it came from.
#[derive(Serialize, Deserialize)]
struct Pending {
    upload: Upload,
    part: Part,
}

impl Pending {
    fn encode(&self) -> Result<Committable, Fault> {
        serde_json::to_vec(self).map(Committable).map_err(|e| Fault::internal(format!("an upload in words: {e}")))
    }

    fn decode(committable: &Committable) -> Result<Self, Fault> {
        serde_json::from_slice(&committable.0).map_err(|e| Fault::internal(format!("a stored upload is damaged: {e}")))
    }
}

/// Owner in the name of an object.
fn owner_of(name: &str) -> Option<u32> {
    let stem = name.rsplit('/').next()?.split('.').next()?.strip_prefix("part-")?;
    u32::from_str_radix(stem.rsplit('-').next()?.get(..8)?, 16).ok()
}

/// The sink as others see it: its writers hold on to it.
pub(super) struct SharedRemoteSink(pub Arc<RemoteSink>);

impl Sink for SharedRemoteSink {
    fn blocks(&self) -> bool {
        true
    }

    fn needs_times(&self) -> bool {
        self.0.local.needs_times()
    }

    fn accepts(&self, schema: &SchemaRef) -> Result<(), Fault> {
        self.0.local.accepts(schema)
    }

    fn open(&self, worker: usize, workers: usize, schema: SchemaRef) -> Result<Box<dyn SinkWriter>, Fault> {
        let local = self.0.local.open(worker, workers, schema)?;
        Ok(Box::new(RemoteWriter { sink: self.0.clone(), local }))
    }

    fn commit(&self, committables: &[Committable]) -> Result<(), Fault> {
        committables.iter().try_for_each(|committable| self.0.completed(&Pending::decode(committable)?))
    }

    fn discard(&self, committables: &[Committable]) {
        for Pending { upload, part } in committables.iter().filter_map(|c| Pending::decode(c).ok()) {
            // One that stays is found at the next start.
            let _ = self.0.folder.abandon(&upload.name, &upload.id);
            self.0.local.discard(&part.encode().into_iter().collect::<Vec<_>>());
        }
    }

    fn recover(&self, owner: &str, named: Option<&[Committable]>) -> Result<(), Fault> {
        let sink = &self.0;
        let named = named.map(|named| named.iter().map(Pending::decode).collect::<Result<Vec<_>, _>>()).transpose()?;
        let parts = named.iter().flatten().map(|pending| pending.part.encode()).collect::<Result<Vec<_>, _>>()?;
        sink.local.recover(owner, named.as_ref().map(|_| parts.as_slice()))?;
        let hash = xxh3_64(owner.as_bytes()) as u32;
        *sink.lock() = State { owner: hash, open: HashSet::new() };
        let Some(named) = named else { return Ok(()) };
        let named: BTreeSet<&str> = named.iter().map(|pending| pending.upload.id.as_str()).collect();
        for (name, id) in sink.folder.uploads()? {
            if owner_of(&name) == Some(hash) && !named.contains(id.as_str()) {
                sink.folder.abandon(&name, &id)?;
            }
        }
        Ok(())
    }
}

struct RemoteWriter {
    sink: Arc<RemoteSink>,
    local: Box<dyn SinkWriter>,
}

impl SinkWriter for RemoteWriter {
    fn write(&mut self, batch: &Batch) -> Result<(), Fault> {
        self.local.write(batch)
    }

    fn flush(&mut self) -> Result<(), Fault> {
        self.local.flush()
    }

    fn prepare(&mut self, checkpoint: u64) -> Result<Vec<Committable>, Fault> {
        let prepared = self.local.prepare(checkpoint)?;
        let uploaded: Result<Vec<_>, Fault> = prepared.iter().map(|part| self.sink.upload(part)).collect();
        // Uploads that nobody will ask for the next start finds.
        uploaded.inspect_err(|_| self.sink.local.discard(&prepared))
    }

    fn abort(&mut self) {
        self.local.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_objects_say_whose_they_are() {
        assert_eq!(owner_of("dt=1/part-0-3-0011aabb0123456789abcdef.csv.gz"), Some(0x0011_aabb));
        for foreign in ["part-0-3.csv", "other-0-3-0011aabb01234567.csv", "part-0-3-xyz.csv", "part-0-3-é.csv", ""] {
            assert_eq!(owner_of(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn only_what_is_empty_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let spool = folder.path().join("spool");
        for below in ["a/b", "c"] {
            fs::create_dir_all(spool.join(below)).unwrap();
        }
        fs::write(spool.join("c/part"), "rows").unwrap();
        remove_empty(&spool);
        assert!(!spool.join("a").exists() && spool.join("c/part").exists());
        fs::remove_file(spool.join("c/part")).unwrap();
        remove_empty(&spool);
        assert!(!spool.exists());
    }

    #[test]
    fn paths_are_taken_apart() {
        for (path, expected) in
            [("s3://b/c/d", ("b", "c/d")), ("s3://b/c/", ("b", "c")), ("s3://b", ("b", "")), ("s3://b/", ("b", ""))]
        {
            assert_eq!(take_apart(path).unwrap(), expected, "{path}");
        }
        assert!(take_apart("s3:///x").is_err());
    }
}
