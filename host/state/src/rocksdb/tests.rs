//! The backend as a whole: the conformance suite, and the heap as an oracle while keys leave the cache all the time.

mod oracle;
mod restoring;

use std::path::Path;

use arrow::array::{ArrayRef, BinaryArray};
use arrow::datatypes::{DataType, SchemaRef};
use std::ops::Range;
use std::sync::{Arc, Mutex};
use tempfile::TempDir;
use tidemill_model::Fault;
use tidemill_model::component::StateDescriptor;
use tidemill_model::key::groups_of;
use tidemill_model::snapshot::{Chunks, FileSet, NativeFile, Restore, Snapshot, Table};
use tidemill_model::state::{Slot, StateBackend, StateBackendFactory, StateContext};
use tidemill_model::time::Now;

use super::memory::Memory;
use super::{RocksFactory, RocksSettings};
use crate::conformance::conformance;

/// In memory where that is possible: RocksDB waits for the disk with each file, and there are thousands.
fn scratch() -> TempDir {
    TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap()
}

/// A backend whose cache holds next to nothing.
fn factory(directory: &Path, cache_bytes: usize) -> RocksFactory {
    let settings = RocksSettings { memory_bytes: 0, directory: directory.to_owned() };
    let memory = Memory::with_cache(RocksSettings::MEMORY_BYTES_MIN, cache_bytes);
    RocksFactory { memory, ..RocksFactory::new(settings) }
}

#[test]
fn rocksdb_conforms() {
    let directory = scratch();
    let settings = RocksSettings { memory_bytes: 0, directory: directory.path().to_owned() };
    conformance(&RocksFactory::new(settings));
}

#[test]
fn it_conforms_when_keys_leave_the_cache_at_each_call() {
    let directory = scratch();
    conformance(&factory(directory.path(), 0));
}

fn descriptor(name: &str, data_type: DataType) -> StateDescriptor {
    StateDescriptor::value(name, data_type)
}

fn open(
    factory: &dyn StateBackendFactory,
    states: &[StateDescriptor],
    worker: usize,
    workers: usize,
) -> Box<dyn StateBackend> {
    factory.open(&StateContext { node: "node", worker, workers, states }).unwrap()
}

fn resolve(backend: &mut dyn StateBackend, keys: &[Vec<u8>]) -> Vec<Slot> {
    let keys: BinaryArray = keys.iter().map(|key| Some(key.as_slice())).collect();
    let mut slots = Vec::new();
    backend.resolve_bytes(&keys, &mut slots).unwrap();
    slots
}

fn write(backend: &mut dyn StateBackend, state: usize, keys: &[Vec<u8>], values: &ArrayRef) {
    let slots = resolve(backend, keys);
    backend.scatter(state, &slots, values).unwrap();
    backend.release(&slots);
}

fn read(backend: &mut dyn StateBackend, state: usize, keys: &[Vec<u8>]) -> ArrayRef {
    let slots = resolve(backend, keys);
    let values = backend.gather(state, &slots).unwrap();
    backend.release(&slots);
    values
}

/// What workers have written, for a worker among others.
struct Written {
    groups: Range<u32>,
    parts: Arc<Vec<Part>>,
    dropped: Vec<String>,
}

/// What one worker has written.
struct Part {
    groups: Range<u32>,
    files: Vec<NativeFile>,
    tables: Vec<(String, SchemaRef, Vec<arrow::array::RecordBatch>)>,
}

/// Drives a snapshot as the thread does that stores it.
fn drive(snapshot: Snapshot, groups: Range<u32>) -> Part {
    let files = snapshot.files.map_or_else(|| Ok(Vec::new()), |files| files()).unwrap();
    let rows = |table: Table| (table.name, table.schema, table.chunks.map(Result::unwrap).collect());
    Part { groups, files, tables: snapshot.tables.into_iter().map(rows).collect() }
}

fn restore(
    factory: &dyn StateBackendFactory,
    states: &[StateDescriptor],
    parts: &Arc<Vec<Part>>,
    workers: usize,
) -> Result<Vec<Box<dyn StateBackend>>, Fault> {
    let one = |worker| {
        let mut backend = open(factory, states, worker, workers);
        backend.restore(&Written { groups: groups_of(worker, workers), parts: parts.clone(), dropped: Vec::new() })?;
        Ok(backend)
    };
    (0..workers).map(one).collect()
}

impl Restore for Written {
    fn groups(&self) -> Range<u32> {
        self.groups.clone()
    }

    fn now(&self) -> Now {
        Now::START
    }

    fn tables(&self) -> Vec<(String, SchemaRef)> {
        self.parts[0].tables.iter().map(|(name, schema, _)| (name.clone(), schema.clone())).collect()
    }

    fn chunks(&self, table: &str) -> Result<Chunks, Fault> {
        let mut chunks = Vec::new();
        for (_, _, rows) in self.parts.iter().flat_map(|part| &part.tables).filter(|(name, ..)| name == table) {
            for chunk in rows {
                let groups = tidemill_model::snapshot::key_groups(chunk)?.values().clone();
                assert!(groups.is_sorted(), "key groups ascend");
                let from = groups.partition_point(|&group| u32::from(group) < self.groups.start);
                let to = groups.partition_point(|&group| u32::from(group) < self.groups.end);
                chunks.push(Ok(chunk.slice(from, to - from)));
            }
        }
        Ok(Box::new(chunks.into_iter()))
    }

    fn all_chunks(&self, table: &str) -> Result<Chunks, Fault> {
        self.chunks(table)
    }

    fn dropped(&self) -> &[String] {
        &self.dropped
    }

    fn files(&self) -> Result<Vec<FileSet>, Fault> {
        let overlap = |part: &&Part| part.groups.start < self.groups.end && self.groups.start < part.groups.end;
        let set = |part: &Part| FileSet {
            groups: part.groups.clone(),
            files: part.files.iter().map(|file| (file.name.clone(), file.path.clone())).collect(),
        };
        Ok(self.parts.iter().filter(overlap).map(set).collect())
    }
}

/// Names in a directory, below it as well.
fn names(directory: &Path) -> Vec<String> {
    let (mut open, mut names) = (vec![directory.to_owned()], Vec::new());
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).unwrap().map(Result::unwrap) {
            names.push(entry.file_name().into_string().unwrap());
            if entry.file_type().unwrap().is_dir() {
                open.push(entry.path());
            }
        }
    }
    names
}

#[test]
fn nothing_stays_on_the_disk() {
    let directory = scratch();
    let states = [descriptor("n", DataType::Int64)];
    let factory = factory(directory.path(), 0);
    let mut backend = open(&factory, &states, 0, 1);
    let keys: Vec<Vec<u8>> = (0..100).map(|n| vec![n]).collect();
    write(backend.as_mut(), 0, &keys, &(Arc::new(arrow::array::Int64Array::from(vec![1; 100])) as ArrayRef));
    let part = drive(backend.snapshot(tidemill_model::snapshot::Form::Native).unwrap(), 0..1024);
    drop((backend, factory));
    assert!(part.files.iter().all(|file| file.path.is_file()), "files outlive the backend");
    assert!(part.files.iter().any(|file| file.name.ends_with(".sst")));
    drop(part);
    // The thread of the snapshot may still be about to let go of it.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while names(directory.path()) != ["tidemill-state.lock"] {
        assert!(std::time::Instant::now() < deadline, "these stay: {:?}", names(directory.path()));
        std::thread::yield_now();
    }
}

#[test]
fn a_disk_that_fails_is_named() {
    let directory = scratch();
    let states = [descriptor("n", DataType::Int64)];
    let mut backend = open(&factory(directory.path(), 0), &states, 0, 1);
    for entry in std::fs::read_dir(directory.path()).unwrap().map(Result::unwrap) {
        let _ = std::fs::remove_dir_all(entry.path());
    }
    // Whether RocksDB or the directory of the snapshot is the first to notice.
    let failed = backend.snapshot(tidemill_model::snapshot::Form::Native).map(|s| s.files.map(|files| files()));
    let fault = match failed {
        Ok(files) => files.unwrap().unwrap_err(),
        Err(fault) => fault,
    };
    assert!(fault.message.contains(directory.path().to_str().unwrap()), "{fault}");
    assert!(fault.help.is_some());
    let mut slots = Vec::new();
    assert!(backend.resolve_i64(&[1], &[0], &mut slots).is_err(), "it does not go on as if nothing had happened");
}

#[test]
fn files_of_tables_stay_the_same_until_their_rows_change() {
    let directory = scratch();
    let states = [descriptor("n", DataType::Int64)];
    let mut backend = open(&factory(directory.path(), 1 << 20), &states, 0, 1);
    let tables = Mutex::new(Vec::new());
    for round in 0..2u8 {
        let keys: Vec<Vec<u8>> = (0..100).map(|n| vec![round, n]).collect();
        write(backend.as_mut(), 0, &keys, &(Arc::new(arrow::array::Int64Array::from(vec![1; 100])) as ArrayRef));
        let part = drive(backend.snapshot(tidemill_model::snapshot::Form::Native).unwrap(), 0..1024);
        let contents = part.files.iter().filter(|file| file.name.ends_with(".sst"));
        let contents: Vec<(String, Vec<u8>)> =
            contents.map(|file| (file.name.clone(), std::fs::read(&file.path).unwrap())).collect();
        tables.lock().unwrap().push(contents);
    }
    let tables = tables.into_inner().unwrap();
    assert_eq!((tables[0].len(), tables[1].len()), (1, 2));
    assert!(tables[1].contains(&tables[0][0]), "the first file is part of the second snapshot");
}
