//! What snapshots must keep: the part of the conformance suite that freezes and restores.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Int64Array, RecordBatch, StringArray};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Int64Type, SchemaRef};
use tidemill_model::component::StateDescriptor;
use tidemill_model::key::{groups_of, hash_key, hash_rows, key_group, worker_of};
use tidemill_model::limits::KEY_GROUPS;
use tidemill_model::snapshot::{CHUNK_ROWS_MAX, Chunks, FileSet, Form, NativeFile, Restore, Snapshot, key_groups};
use tidemill_model::state::{StateBackend, StateBackendFactory, StateContext, table_name, table_schema};
use tidemill_model::time::Now;
use tidemill_model::{Fault, FaultKind};

use super::{Key, columns_of_every_type, descriptor, encode, resolve};

/// Runs these checks.
pub(super) fn snapshots(factory: &dyn StateBackendFactory) {
    for form in [Form::Portable, Form::Native] {
        every_type_is_kept(factory, form);
        writes_do_not_disturb_a_snapshot(factory, form);
        for before in 1..4 {
            for after in 1..4 {
                keys_move_between_workers(factory, form, before, after);
            }
        }
    }
    large_tables_come_in_chunks(factory);
    a_table_is_taken_by_its_state_only(factory);
    files_of_another_backend_are_refused(factory);
}

/// What one worker has written, read to its end.
pub(super) struct Written {
    tables: Vec<(String, SchemaRef, Vec<RecordBatch>)>,
    files: FileSet,
    /// Kept as long as the files are used.
    _files: Vec<NativeFile>,
}

impl Written {
    /// Reads a snapshot, on another thread as a writer does, and checks its form.
    pub fn read(snapshot: Snapshot, groups: Range<u32>) -> Self {
        let Snapshot { tables, files, .. } = snapshot;
        let read = std::thread::spawn(move || {
            let files = files.map_or(Ok(Vec::new()), |name| name()).expect("files are written");
            let tables = tables.into_iter().map(|table| {
                let chunks: Result<Vec<RecordBatch>, Fault> = table.chunks.collect();
                (table.name, table.schema, chunks.expect("a table can be read"))
            });
            (tables.collect::<Vec<_>>(), files)
        });
        let (tables, files) = read.join().expect("a snapshot can be read on another thread");
        tables.iter().for_each(|(name, schema, chunks)| check_table(name, schema, chunks, &groups));
        let set = FileSet { groups, files: files.iter().map(|f| (f.name.clone(), f.path.clone())).collect() };
        Self { tables, files: set, _files: files }
    }

    fn rows(&self, table: &str) -> usize {
        let chunks = self.tables.iter().filter(|(name, _, _)| name == table).flat_map(|(_, _, chunks)| chunks);
        chunks.map(RecordBatch::num_rows).sum()
    }
}

fn check_table(name: &str, schema: &SchemaRef, chunks: &[RecordBatch], own: &Range<u32>) {
    let mut last = 0;
    for chunk in chunks {
        assert_eq!(&chunk.schema(), schema, "{name}: chunks have the schema of their table");
        assert!((1..=CHUNK_ROWS_MAX).contains(&chunk.num_rows()), "{name}: a chunk of {} rows", chunk.num_rows());
        let keys = chunk.column(1).as_binary::<i32>();
        for (group, key) in key_groups(chunk).expect("key groups").iter().zip(keys) {
            let (group, key) = (group.expect("not null"), key.expect("not null"));
            assert_eq!(u32::from(group), key_group(hash_key(key)), "{name}: the group is that of the key");
            assert!(own.contains(&u32::from(group)), "{name}: keys of this worker only");
            assert!(group >= last, "{name}: key groups ascend");
            last = group;
        }
    }
}

/// What one worker restores from.
pub(super) struct Stored<'a> {
    pub from: &'a [Written],
    pub groups: Range<u32>,
}

impl Restore for Stored<'_> {
    fn groups(&self) -> Range<u32> {
        self.groups.clone()
    }

    fn now(&self) -> Now {
        Now::START
    }

    fn tables(&self) -> Vec<(String, SchemaRef)> {
        let all = self.from.iter().flat_map(|w| &w.tables);
        all.map(|(name, schema, _)| (name.clone(), schema.clone())).collect::<BTreeMap<_, _>>().into_iter().collect()
    }

    fn chunks(&self, table: &str) -> Result<Chunks, Fault> {
        let chunks = self.from.iter().flat_map(|w| &w.tables).filter(|(name, _, _)| name == table);
        let own = |chunk: &RecordBatch| {
            let mask = key_groups(chunk)?.iter().map(|g| Some(self.groups.contains(&u32::from(g.unwrap_or(0)))));
            Ok(filter_record_batch(chunk, &mask.collect::<BooleanArray>())?)
        };
        let own: Vec<Result<RecordBatch, Fault>> = chunks.flat_map(|(_, _, chunks)| chunks).map(own).collect();
        Ok(Box::new(own.into_iter()))
    }

    fn all_chunks(&self, table: &str) -> Result<Chunks, Fault> {
        Stored { from: self.from, groups: 0..KEY_GROUPS }.chunks(table)
    }

    fn files(&self) -> Result<Vec<FileSet>, Fault> {
        let overlaps = |set: &&FileSet| set.groups.start < self.groups.end && self.groups.start < set.groups.end;
        let sets = self.from.iter().map(|w| &w.files).filter(overlaps).filter(|set| !set.files.is_empty());
        Ok(sets.cloned().collect())
    }
}

/// The same at some time of the wall clock.
struct StoredAt<'a>(Stored<'a>, i64);

impl Restore for StoredAt<'_> {
    fn groups(&self) -> Range<u32> {
        self.0.groups()
    }

    fn now(&self) -> Now {
        Now { processing_ms: self.1, ..Now::START }
    }

    fn tables(&self) -> Vec<(String, SchemaRef)> {
        self.0.tables()
    }

    fn chunks(&self, table: &str) -> Result<Chunks, Fault> {
        self.0.chunks(table)
    }

    fn all_chunks(&self, table: &str) -> Result<Chunks, Fault> {
        self.0.all_chunks(table)
    }

    fn files(&self) -> Result<Vec<FileSet>, Fault> {
        self.0.files()
    }
}

/// Freezes a backend with these states, and opens another one with other states in its place, the clock being at `now`.
pub(super) fn move_on(
    factory: &dyn StateBackendFactory,
    backend: &mut dyn StateBackend,
    form: Form,
    states: &[StateDescriptor],
    now: i64,
) -> Box<dyn StateBackend> {
    let written = [Written::read(backend.snapshot(form).expect("snapshot"), groups_of(0, 1))];
    let place = StateContext { node: "restored", worker: 0, workers: 1, states };
    let mut backend = factory.open(&place).expect("open");
    backend.restore(&StoredAt(Stored { from: &written, groups: groups_of(0, 1) }, now)).expect("restore");
    backend
}

/// A backend with states of these types, named `state0`, `state1`, ...
fn open(
    factory: &dyn StateBackendFactory,
    node: &str,
    types: &[DataType],
    (worker, workers): (usize, usize),
) -> Box<dyn StateBackend> {
    let states: Vec<_> = types.iter().enumerate().map(|(i, t)| descriptor(i, t)).collect();
    factory.open(&StateContext { node, worker, workers, states: &states }).expect("open")
}

/// The same, with what one worker finds of `from`.
pub(super) fn reopen(
    factory: &dyn StateBackendFactory,
    types: &[DataType],
    from: &[Written],
    (worker, workers): (usize, usize),
) -> Box<dyn StateBackend> {
    let mut backend = open(factory, "restored", types, (worker, workers));
    backend.restore(&Stored { from, groups: groups_of(worker, workers) }).expect("restore");
    backend
}

fn number(value: Option<i64>) -> ArrayRef {
    Arc::new(Int64Array::from(vec![value]))
}

/// Writes one value for one key.
fn write(backend: &mut dyn StateBackend, key: Key, value: Option<i64>) {
    let slots = resolve(backend, &[key]);
    backend.scatter(0, &slots, &number(value)).expect("scatter");
    backend.release(&slots);
}

/// The values of state 0.
fn read(backend: &mut dyn StateBackend, keys: &[Key]) -> Vec<Option<i64>> {
    let slots = resolve(backend, keys);
    let values = backend.gather(0, &slots).expect("gather").as_primitive::<Int64Type>().iter().collect();
    backend.release(&slots);
    values
}

fn every_type_is_kept(factory: &dyn StateBackendFactory, form: Form) {
    for column in columns_of_every_type() {
        let types = [column.data_type().clone()];
        let mut backend = open(factory, "node", &types, (0, 1));
        let keys = [Some(7), Some(8), None, Some(-9)];
        let slots = resolve(backend.as_mut(), &keys);
        backend.scatter(0, &slots, &column).expect("scatter");
        backend.release(&slots);
        let written = [Written::read(backend.snapshot(form).expect("snapshot"), groups_of(0, 1))];
        drop(backend);
        let mut backend = reopen(factory, &types, &written, (0, 1));
        assert_eq!(backend.keys(), column.len() - column.null_count(), "{types:?}: keys");
        let slots = resolve(backend.as_mut(), &keys);
        assert_eq!(&backend.gather(0, &slots).expect("gather"), &column, "{types:?}");
    }
}

fn keys_move_between_workers(factory: &dyn StateBackendFactory, form: Form, before: usize, after: usize) {
    let types = [DataType::Int64, DataType::Utf8];
    let all: Vec<Key> = (0..300).map(Some).chain([None]).collect();
    let owner = |key: Key, workers| worker_of(key_group(hash_rows(&encode(&[key]))[0]), workers);
    // Each third key has no number, each second a text; some are pinned and nothing else; some are deleted again.
    let number_of = |key: Key| key.filter(|k| k % 3 > 0 && k % 10 > 0);
    let text_of = |key: Key| key.filter(|k| k % 2 == 0 && k % 10 > 0).map(|k| "t".repeat(k as usize % 50));
    let written: Vec<Written> = (0..before)
        .map(|worker| {
            let mut backend = open(factory, "node", &types, (worker, before));
            for &key in all.iter().filter(|&&key| owner(key, before) == worker) {
                let slots = resolve(backend.as_mut(), &[key]);
                if key.is_some_and(|k| k % 10 == 0) {
                    backend.scatter(0, &slots, &number(Some(1))).expect("scatter");
                    if key == Some(20) {
                        backend.pin(slots[0]);
                    }
                }
                backend.scatter(0, &slots, &number(number_of(key))).expect("scatter");
                let text: ArrayRef = Arc::new(StringArray::from(vec![text_of(key)]));
                backend.scatter(1, &slots, &text).expect("scatter");
                backend.release(&slots);
            }
            Written::read(backend.snapshot(form).expect("snapshot"), groups_of(worker, before))
        })
        .collect();
    for worker in 0..after {
        let mut backend = reopen(factory, &types, &written, (worker, after));
        let own: Vec<Key> = all.iter().copied().filter(|&key| owner(key, after) == worker).collect();
        let held = |key: &&Key| number_of(**key).is_some() || text_of(**key).is_some();
        let live = own.iter().filter(held).count();
        assert_eq!(backend.keys(), live, "{form:?}, from {before} to {after} workers: forgotten keys stay forgotten");
        assert_eq!(read(backend.as_mut(), &own), own.iter().map(|&key| number_of(key)).collect::<Vec<_>>());
        let slots = resolve(backend.as_mut(), &own);
        let texts = backend.gather(1, &slots).expect("gather");
        let expected: ArrayRef = Arc::new(own.iter().map(|&key| text_of(key)).collect::<StringArray>());
        assert_eq!(&texts, &expected);
        backend.release(&slots);
        timers_pin_their_keys_again(backend.as_mut(), &own, live);
    }
}

/// As a keyed operator does with the timers of a snapshot.
fn timers_pin_their_keys_again(backend: &mut dyn StateBackend, own: &[Key], live: usize) {
    let rows = encode(own);
    let keys: BinaryArray = rows.iter().map(|row| Some(row.data().to_vec())).collect();
    let mut slots = vec![9; 2];
    backend.resolve_bytes(&keys, &mut slots).expect("resolve");
    assert_eq!(slots, resolve(backend, own), "keys by their bytes are the same keys");
    slots.iter().for_each(|&slot| backend.pin(slot));
    backend.release(&slots);
    assert_eq!(backend.keys(), own.len(), "pins keep keys");
    slots.iter().for_each(|&slot| backend.unpin(slot));
    backend.release(&slots);
    assert_eq!(backend.keys(), live);
}

fn writes_do_not_disturb_a_snapshot(factory: &dyn StateBackendFactory, form: Form) {
    let types = [DataType::Int64];
    let keys: Vec<Key> = (0..5000).map(Some).collect();
    let mut backend = open(factory, "node", &types, (0, 1));
    let mut model = BTreeMap::<i64, i64>::new();
    let mut frozen = Vec::new();
    for round in 0..4i64 {
        for key in (0..5000).filter(|key| key % 4 >= round) {
            let value = Some(key * 10 + round).filter(|_| (key + round) % 5 > 0);
            write(backend.as_mut(), Some(key), value);
            match value {
                Some(value) => model.insert(key, value),
                None => model.remove(&key),
            };
        }
        frozen.push((backend.snapshot(form).expect("snapshot"), model.clone()));
    }
    // Then all keys are forgotten, and others take their place.
    for &key in &keys {
        write(backend.as_mut(), key, None);
        write(backend.as_mut(), key.map(|key| -1 - key), Some(0));
    }
    for (snapshot, then) in frozen {
        let written = [Written::read(snapshot, groups_of(0, 1))];
        let mut restored = reopen(factory, &types, &written, (0, 1));
        assert_eq!(restored.keys(), then.len(), "{form:?}");
        let expected: Vec<Option<i64>> = keys.iter().map(|key| then.get(&key.unwrap_or(-1)).copied()).collect();
        assert_eq!(read(restored.as_mut(), &keys), expected, "{form:?}: what was frozen stays");
    }
    assert_eq!(backend.keys(), keys.len());
    assert!(read(backend.as_mut(), &keys).iter().all(Option::is_none));
}

fn large_tables_come_in_chunks(factory: &dyn StateBackendFactory) {
    let count = CHUNK_ROWS_MAX as i64 + 5000;
    let mut backend = open(factory, "node", &[DataType::Int64], (0, 1));
    for first in (0..count).step_by(8192) {
        let keys: Vec<i64> = (first..count.min(first + 8192)).collect();
        let hashes = hash_rows(&encode(&keys.iter().copied().map(Some).collect::<Vec<_>>()));
        let mut slots = Vec::new();
        backend.resolve_i64(&keys, &hashes, &mut slots).expect("resolve");
        let values: ArrayRef = Arc::new(Int64Array::from(keys));
        backend.scatter(0, &slots, &values).expect("scatter");
        backend.release(&slots);
    }
    let written = [Written::read(backend.snapshot(Form::Portable).expect("snapshot"), groups_of(0, 1))];
    let name = table_name(&descriptor(0, &DataType::Int64));
    assert_eq!(written[0].rows(&name), count as usize);
    let mut restored = reopen(factory, &[DataType::Int64], &written, (0, 1));
    assert_eq!(read(restored.as_mut(), &[Some(0), Some(count - 1), Some(count)]), [Some(0), Some(count - 1), None]);
}

fn a_table_is_taken_by_its_state_only(factory: &dyn StateBackendFactory) {
    let types = [DataType::Int64, DataType::Int64];
    let mut backend = open(factory, "node", &types, (0, 1));
    let snapshot = backend.snapshot(Form::Portable).expect("snapshot of nothing");
    let names: BTreeSet<&String> = snapshot.tables.iter().map(|table| &table.name).collect();
    assert_eq!(names.into_iter().collect::<Vec<_>>(), ["state/state0@1", "state/state1@1"]);
    for (index, table) in snapshot.tables.iter().enumerate() {
        assert_eq!(table.schema, table_schema(&descriptor(index, &types[index])));
    }
    write(backend.as_mut(), Some(1), Some(1));
    let written = [Written::read(backend.snapshot(Form::Portable).expect("snapshot"), groups_of(0, 1))];
    // One state fewer: its table stays unread. Another type: refused, with the name.
    let mut fewer = reopen(factory, &types[..1], &written, (0, 1));
    assert_eq!(read(fewer.as_mut(), &[Some(1)]), [Some(1)]);
    let mut other = open(factory, "other", &[DataType::Utf8], (0, 1));
    let fault = other.restore(&Stored { from: &written, groups: groups_of(0, 1) }).expect_err("another type");
    assert!(fault.message.contains("`state0` was stored as int64"), "{fault}");
}

/// Whoever ignores them starts empty without a word.
fn files_of_another_backend_are_refused(factory: &dyn StateBackendFactory) {
    let files = FileSet { groups: groups_of(0, 1), files: vec![("foreign".to_owned(), "foreign".into())] };
    let written = [Written { tables: Vec::new(), files, _files: Vec::new() }];
    let mut backend = open(factory, "restored", &[DataType::Int64], (0, 1));
    let fault = backend.restore(&Stored { from: &written, groups: groups_of(0, 1) }).expect_err("foreign files");
    assert_eq!(fault.kind, FaultKind::Config);
    assert!(fault.message.starts_with("a checkpoint has a file `foreign`, which the state backend `"), "{fault}");
    assert_eq!(fault.help.as_deref(), Some("restore with the backend that wrote the checkpoint, or from a savepoint"));
}
