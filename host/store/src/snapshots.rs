//! Checkpoints and savepoints in a store of objects.
//!
//! Below the name of the pipeline lie `index/` (what exists, see [`crate::index`]) and `objects/` (everything else, see
//! [`crate::objects`]); CHECKPOINTS.md has the format. Laws: those of [`CheckpointStore`]. After a fault of `publish` the
//! checkpoint does not exist, or, if the store gave no answer, this process can publish nothing any more: only a new
//! start can find out.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use sha2::{Digest, Sha256};
use tidemill_model::Fault;
use tidemill_model::checkpoint::{
    CheckpointStore, FORMAT_VERSION, Listed, Manifest, ObjectRef, ObjectStore, Purpose, Segment, StoredFile,
    StoredTable,
};
use tidemill_model::snapshot::{Chunks, NativeFile, Table};

use crate::ahead::Ahead;
use crate::index::{Entry, Index, Refused, Register};
use crate::names;
use crate::objects::Objects;
use crate::sealed::{damaged, hex};
use crate::tables::{self, Buffers, Encoded};

/// Of a file that is hashed.
const READ_BYTES: usize = 1 << 20;
/// Segments that are fetched while one is taken in.
const READS_AHEAD: usize = 2;

pub struct Snapshots {
    store: Arc<dyn ObjectStore>,
    /// Ends with `/`.
    prefix: String,
    register: Register,
    objects: Arc<Objects>,
    own: Mutex<Own>,
}

/// What this process has done.
#[derive(Default)]
struct Own {
    /// 0 before it has begun one.
    generation: u64,
    /// The checkpoint of which nobody knows whether it exists.
    unknown: Option<u64>,
    /// Named under `removing` in the index, and removed.
    removed: BTreeSet<String>,
    /// Hashes of the objects that a manifest names, by its own.
    named: HashMap<String, Arc<HashSet<String>>>,
    /// By hash of the segment that was read.
    schemas: HashMap<String, SchemaRef>,
}

impl Snapshots {
    /// The checkpoints of the pipeline of this name.
    pub fn new(store: Arc<dyn ObjectStore>, pipeline: &str) -> Self {
        let prefix = format!("{}/", names::safe(pipeline));
        Self {
            register: Register::new(store.clone(), format!("{prefix}index/")),
            objects: Arc::new(Objects::new(store.clone(), format!("{prefix}objects/"))),
            own: Mutex::default(),
            store,
            prefix,
        }
    }

    fn own(&self) -> MutexGuard<'_, Own> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn entry(&self, index: &Index, listed: &Listed) -> Result<Entry, Fault> {
        let found = index.checkpoints.iter().find(|entry| entry.listed() == *listed);
        found.cloned().ok_or_else(|| {
            Fault::data(format!("{} is not in `{}`", describe(listed), self.location()))
                .with_help("it was removed meanwhile, or never was there: list what there is")
        })
    }

    fn manifest(&self, entry: &Entry) -> Result<Manifest, Fault> {
        let about = |fault: Fault| Fault {
            message: format!("the manifest of {}: {}", describe(&entry.listed()), fault.message),
            ..fault
        };
        let content = self.objects.read(&entry.manifest).map_err(about)?;
        let manifest: Manifest = serde_json::from_slice(&content).map_err(|e| {
            about(Fault::data(format!("cannot be read: {e}")).with_help("use the version of Tidemill that wrote it"))
        })?;
        if manifest.format_version > FORMAT_VERSION {
            return Err(about(
                Fault::data(format!("has the format {}; this program knows {FORMAT_VERSION}", manifest.format_version))
                    .with_help("use the version of Tidemill that wrote it, or a newer one"),
            ));
        }
        Ok(manifest)
    }

    /// Hashes of everything that the checkpoints of an index need.
    fn live(&self, index: &Index) -> Result<HashSet<String>, Fault> {
        let mut live = HashSet::new();
        for entry in &index.checkpoints {
            live.extend(self.named(entry)?.iter().cloned());
        }
        Ok(live)
    }

    fn named(&self, entry: &Entry) -> Result<Arc<HashSet<String>>, Fault> {
        if let Some(known) = self.own().named.get(&entry.manifest.sha256) {
            return Ok(known.clone());
        }
        let manifest = self.manifest(entry)?;
        let all = objects_of(&manifest).chain([&entry.manifest]).map(|object| object.sha256.clone());
        let named = Arc::new(all.collect::<HashSet<_>>());
        self.own().named.insert(entry.manifest.sha256.clone(), named.clone());
        Ok(named)
    }

    /// The second value: bytes that were written.
    fn write_segment(&self, segment: &Encoded) -> Result<(Segment, u64), Fault> {
        let (object, bytes) = self.objects.write(&segment.content)?;
        Ok((Segment { object, rows: segment.rows, groups: segment.groups }, bytes))
    }

    /// Fault if a newer generation has begun.
    fn check_owner(&self, index: &Index, generation: u64) -> Result<(), Fault> {
        if index.generation == generation && generation > 0 {
            return Ok(());
        }
        let text = format!(
            "`{}` belongs to a newer start of this job (generation {}; this one is {generation})",
            self.location(),
            index.generation
        );
        // No attempt mends it: the next one would stop the other start, and so on for ever.
        Err(Fault::config(text).with_help("the job runs somewhere else: stop one of the two"))
    }

    /// Removes objects that the index names under `removing`.
    fn remove(&self, names: &BTreeSet<String>) -> Result<(), Fault> {
        let names: Vec<String> = names.difference(&self.own().removed).cloned().collect();
        if !names.is_empty() {
            self.objects.remove(&names)?;
            self.own().removed.extend(names);
        }
        Ok(())
    }
}

impl CheckpointStore for Snapshots {
    fn location(&self) -> String {
        self.store.location(self.prefix.trim_end_matches('/'))
    }

    fn begin_generation(&self) -> Result<u64, Fault> {
        let owner = crate::unique();
        let change = |index: &mut Index| {
            index.start(&owner);
            Ok(())
        };
        let index = self.register.update(change, |index| index.started(&owner).is_some());
        let index = index.map_err(|refused| refused.fault)?;
        let generation = index.started(&owner).unwrap_or(index.generation);
        // What an older generation is removing right now stands in the index, so what is left of the list is safe.
        self.objects.begin(generation, index.removing)?;
        *self.own() = Own { generation, ..Own::default() };
        Ok(generation)
    }

    fn join_generation(&self, generation: u64, process: usize) -> Result<(), Fault> {
        let index = self.register.newest()?;
        self.check_owner(&index, generation)?;
        self.objects.begin_as(process, generation, index.removing)?;
        *self.own() = Own { generation, ..Own::default() };
        Ok(())
    }

    fn rely_on(&self, objects: &[ObjectRef]) -> Result<(), Fault> {
        let generation = self.own().generation;
        self.check_owner(&self.register.newest()?, generation)?;
        self.objects.rely_on(objects);
        Ok(())
    }

    fn write_table(&self, table: Table) -> Result<(StoredTable, u64), Fault> {
        let buffers = Buffers::default();
        let written = std::thread::scope(|scope| {
            let (mut ahead, buffers) = (Ahead::new(scope), &buffers);
            tables::encode(&table.schema, table.chunks, buffers, |segment| {
                let is_large = segment.content.len() >= tables::SEGMENT_BYTES;
                let write = move || {
                    let written = self.write_segment(&segment)?;
                    buffers.give_back(segment.content);
                    Ok(written)
                };
                // Only the last one is small, and most often the only one.
                if is_large { ahead.beside(write) } else { ahead.here(write) }
            })?;
            ahead.finish()
        })?;
        let bytes = written.iter().map(|(_, bytes)| bytes).sum();
        let segments: Vec<Segment> = written.into_iter().map(|(segment, _)| segment).collect();
        let rows = segments.iter().map(|segment| segment.rows).sum();
        Ok((StoredTable { name: table.name, rows, segments }, bytes))
    }

    fn write_file(&self, file: &NativeFile) -> Result<(StoredFile, u64), Fault> {
        let object = hash_file(&file.path)?;
        let written = self.objects.write_file(&object, &file.path)?;
        Ok((StoredFile { name: file.name.clone(), object }, written))
    }

    fn publish(&self, manifest: &Manifest) -> Result<(), Fault> {
        let generation = self.own().generation;
        if let Some(id) = self.own().unknown {
            return Err(Fault::io(format!("`{}` did not say whether checkpoint {id} was written", self.location()))
                .with_help("the job has to start again, to find out"));
        }
        if manifest.generation != generation {
            return Err(Fault::internal(format!("generation {} publishes as {generation}", manifest.generation)));
        }
        let content =
            serde_json::to_vec(manifest).map_err(|e| Fault::internal(format!("a manifest can't be written: {e}")))?;
        let entry = Entry {
            id: manifest.id,
            generation,
            savepoint: savepoint(&manifest.purpose),
            manifest: self.objects.write(&content)?.0,
        };
        let needed = || objects_of(manifest).chain([&entry.manifest]);
        self.objects.learn(needed())?;
        let change = |index: &mut Index| {
            self.check_owner(index, generation)?;
            check_new(index, &entry)?;
            self.objects.check_known(&index.removing, needed())?;
            index.checkpoints.push(entry.clone());
            index.checkpoints.sort_by_key(|entry| entry.id);
            Ok(())
        };
        self.register.update(change, |index| index.checkpoints.contains(&entry)).map_err(
            |Refused { fault, unknown }| {
                self.own().unknown = unknown.then_some(manifest.id);
                fault
            },
        )?;
        self.objects.published(needed());
        Ok(())
    }

    fn list(&self) -> Result<Vec<Listed>, Fault> {
        Ok(self.register.newest()?.checkpoints.iter().map(Entry::listed).collect())
    }

    fn load(&self, listed: &Listed) -> Result<Manifest, Fault> {
        self.manifest(&self.entry(&self.register.newest()?, listed)?)
    }

    fn verify(&self, manifest: &Manifest) -> Result<(), Fault> {
        self.objects.verify(objects_of(manifest))
    }

    fn read_table(&self, table: &StoredTable, groups: Range<u32>) -> Result<Chunks, Fault> {
        let wanted = table.segments.iter().filter(|segment| tables::overlaps(segment, &groups)).cloned();
        let segments = wanted.collect::<Vec<_>>().into_iter();
        let (objects, table) = (self.objects.clone(), table.name.clone());
        Ok(Box::new(Reader {
            objects,
            table,
            segments,
            groups,
            ahead: VecDeque::new(),
            chunks: Vec::new().into_iter(),
        }))
    }

    fn table_schema(&self, table: &StoredTable) -> Result<SchemaRef, Fault> {
        let segment = table.segments.first();
        let object = &segment.ok_or_else(|| damaged(&table.name, "a table without segments"))?.object;
        if let Some(known) = self.own().schemas.get(&object.sha256) {
            return Ok(known.clone());
        }
        let (schema, _) = tables::decode(self.objects.read(object)?, &object.sha256)?;
        self.own().schemas.insert(object.sha256.clone(), schema.clone());
        Ok(schema)
    }

    fn read_file(&self, file: &StoredFile, path: &Path) -> Result<(), Fault> {
        self.objects.read_file(&file.object, path, hash_file)
    }

    fn retain(&self, keep: usize) -> Result<(), Fault> {
        let generation = self.own().generation;
        let change = |index: &mut Index| {
            self.check_owner(index, generation)?;
            forget_old(index, keep);
            let removed = self.own().removed.clone();
            index.removing.retain(|name| !removed.contains(name));
            let live = self.live(index)?;
            index.removing.extend(self.objects.doom(&index.removing, &live));
            Ok(())
        };
        // What holds already, `change` does not change again.
        let index = self.register.update(change, |_| false).map_err(|refused| refused.fault)?;
        {
            let mut own = self.own();
            own.removed.retain(|name| index.removing.contains(name));
            own.named.retain(|hash, _| index.checkpoints.iter().any(|entry| entry.manifest.sha256 == *hash));
        }
        self.remove(&index.removing)
    }

    fn delete(&self, listed: &Listed) -> Result<(), Fault> {
        self.entry(&self.register.newest()?, listed)?;
        let change = |index: &mut Index| {
            let entry = self.entry(index, listed)?;
            index.checkpoints.retain(|other| *other != entry);
            // Where a manifest is damaged, nobody knows what it needs: its objects stay until the job runs again.
            if let (Ok(named), Ok(live)) = (self.named(&entry), self.live(index)) {
                index.removing.extend(self.objects.names_of(named.difference(&live))?);
            }
            Ok(())
        };
        let gone = |index: &Index| index.checkpoints.iter().all(|entry| entry.listed() != *listed);
        let index = self.register.update(change, gone).map_err(|refused| refused.fault)?;
        self.remove(&index.removing)
    }
}

/// Rows of a table, a segment at a time; the next ones are fetched and checked meanwhile. Ends with the first fault.
struct Reader {
    objects: Arc<Objects>,
    table: String,
    segments: std::vec::IntoIter<Segment>,
    groups: Range<u32>,
    ahead: VecDeque<JoinHandle<Result<Vec<RecordBatch>, Fault>>>,
    chunks: std::vec::IntoIter<RecordBatch>,
}

impl Reader {
    fn read(&mut self) -> Result<Option<RecordBatch>, Fault> {
        loop {
            if let Some(chunk) = self.chunks.next() {
                let rows = tables::select(&chunk, &self.groups)?;
                if rows.num_rows() > 0 {
                    return Ok(Some(rows));
                }
            } else {
                let Some(chunks) = self.next_segment()? else { return Ok(None) };
                self.chunks = chunks.into_iter();
            }
        }
    }

    fn next_segment(&mut self) -> Result<Option<Vec<RecordBatch>>, Fault> {
        while self.ahead.len() < READS_AHEAD {
            let Some(segment) = self.segments.as_slice().first() else { break };
            let fetch = fetch(self.objects.clone(), &self.table, segment.clone());
            // A thread that can't be had is done without.
            let Ok(thread) = Builder::new().name("tidemill-read".into()).spawn(fetch) else { break };
            self.ahead.push_back(thread);
            self.segments.next();
        }
        if let Some(first) = self.ahead.pop_front() {
            return first.join().unwrap_or_else(|panic| resume_unwind(panic)).map(Some);
        }
        self.segments.next().map(|segment| fetch(self.objects.clone(), &self.table, segment)()).transpose()
    }
}

/// Reads a segment when it is called.
fn fetch(
    objects: Arc<Objects>,
    table: &str,
    segment: Segment,
) -> impl FnOnce() -> Result<Vec<RecordBatch>, Fault> + use<> {
    let place = format!("{} of table {table}", segment.object.sha256);
    move || Ok(tables::decode(objects.read(&segment.object)?, &place)?.1)
}

impl Iterator for Reader {
    type Item = Result<RecordBatch, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        let read = self.read();
        if read.is_err() {
            (self.segments, self.chunks) = (Vec::new().into_iter(), Vec::new().into_iter());
            self.ahead.clear();
        }
        read.transpose()
    }
}

/// Everything that a manifest names, each as often as it does.
fn objects_of(manifest: &Manifest) -> impl Iterator<Item = &ObjectRef> {
    let tables = manifest.parts.iter().flat_map(|part| &part.tables).flat_map(|table| &table.segments);
    let files = manifest.parts.iter().flat_map(|part| &part.files);
    tables.map(|segment| &segment.object).chain(files.map(|file| &file.object))
}

/// Drops all checkpoints but the newest; savepoints stay.
fn forget_old(index: &mut Index, keep: usize) {
    let checkpoints = index.checkpoints.iter().filter(|entry| entry.savepoint.is_none()).count();
    let mut old = checkpoints.saturating_sub(keep);
    index.checkpoints.retain(|entry| {
        let goes = old > 0 && entry.savepoint.is_none();
        old -= usize::from(goes);
        !goes
    });
}

/// Fault if the id or the name is taken.
fn check_new(index: &Index, entry: &Entry) -> Result<(), Fault> {
    if index.checkpoints.iter().any(|other| other.id == entry.id) {
        return Err(Fault::internal(format!("there is a checkpoint {} already", entry.id)));
    }
    match &entry.savepoint {
        Some(name) if index.checkpoints.iter().any(|other| other.savepoint.as_ref() == Some(name)) => {
            Err(Fault::config(format!("there is a savepoint `{name}` already"))
                .with_help("choose another name, or delete that one first"))
        }
        _ => Ok(()),
    }
}

fn savepoint(purpose: &Purpose) -> Option<String> {
    match purpose {
        Purpose::Savepoint { name } => Some(name.clone()),
        Purpose::Checkpoint | Purpose::End => None,
    }
}

fn describe(listed: &Listed) -> String {
    match &listed.savepoint {
        Some(name) => format!("savepoint `{name}`"),
        None => format!("checkpoint {}", listed.id),
    }
}

fn hash_file(path: &Path) -> Result<ObjectRef, Fault> {
    let failed = |e: std::io::Error| {
        Fault::io(format!("cannot read `{}`: {e}", path.display())).with_help("see whether somebody removed it")
    };
    let mut file = File::open(path).map_err(failed)?;
    let (mut hash, mut bytes, mut buffer) = (Sha256::new(), 0, vec![0; READ_BYTES]);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(ObjectRef { sha256: hex(hash.finalize().as_slice()), bytes }),
            Ok(read) => {
                hash.update(&buffer[..read]);
                bytes += read as u64;
            }
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(failed(e)),
        }
    }
}
