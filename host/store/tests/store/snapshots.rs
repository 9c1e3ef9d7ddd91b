//! Checkpoints in a store: what was published comes back, one generation at a time, and what nobody needs goes.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use crate::common::{collect, manifest, rows, schema, table, write};
use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use tidemill_model::checkpoint::{CheckpointStore, Listed, Manifest, ObjectRef, ObjectStore, Purpose, StoredTable};
use tidemill_model::snapshot::{NativeFile, key_groups};
use tidemill_store::{Directory, Snapshots};

struct Place {
    root: tempfile::TempDir,
    objects: Arc<dyn ObjectStore>,
}

impl Place {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let objects = Arc::new(Directory::open(&root.path().join("store")).unwrap());
        Self { root, objects }
    }
    /// As another process sees it.
    fn open(&self) -> Snapshots {
        Snapshots::new(self.objects.clone(), "my job")
    }
    fn start(&self) -> (Snapshots, u64) {
        let store = self.open();
        let generation = store.begin_generation().unwrap();
        (store, generation)
    }
    fn names(&self) -> Vec<String> {
        self.objects.list("my%20job/objects/").unwrap().into_iter().map(|(name, _)| name).collect()
    }
    fn file(&self, name: &str, content: &str) -> NativeFile {
        let path = self.root.path().join(name);
        fs::write(&path, content).unwrap();
        NativeFile { name: name.into(), path, guard: Arc::new(()) }
    }
}

fn ids(store: &Snapshots) -> Vec<u64> {
    store.list().unwrap().iter().map(|listed| listed.id).collect()
}

fn restored(store: &Snapshots, manifest: &Manifest) -> RecordBatch {
    store.verify(manifest).unwrap();
    collect(store.read_table(&manifest.parts[0].tables[0], 0..1024).unwrap()).unwrap()
}

#[test]
fn a_checkpoint_comes_back_in_another_process() {
    let place = Place::new();
    let (store, generation) = place.start();
    assert_eq!(generation, 1);
    let rows = rows(450_000, 0);
    let (stored, written) = store.write_table(table("state/count", &rows, 10_000)).unwrap();
    assert!(stored.segments.len() > 1 && stored.rows == 450_000, "{stored:?}");
    assert_eq!(written, stored.segments.iter().map(|s| s.object.bytes).sum::<u64>());
    assert!(stored.segments.iter().all(|s| s.object.bytes < 16 << 20));
    let (empty, _) = store.write_table(table("timers/event", &rows.slice(0, 0), 1)).unwrap();
    let (file, _) = store.write_file(&place.file("7.sst", "a file")).unwrap();
    let written = manifest(5, generation, vec![stored, empty], vec![file]);
    assert_eq!(ids(&place.open()), [] as [u64; 0], "without its manifest it does not exist");
    store.publish(&written).unwrap();

    let store = place.open();
    let listed = store.list().unwrap();
    assert_eq!(listed, [Listed { id: 5, generation, savepoint: None }]);
    let loaded = store.load(&listed[0]).unwrap();
    assert_eq!(loaded, written);
    assert_eq!(restored(&store, &loaded), rows);
    let [count, timers] = &loaded.parts[0].tables[..] else { panic!("two tables") };
    assert_eq!(*store.table_schema(count).unwrap(), *schema());
    assert_eq!(*store.table_schema(timers).unwrap(), *schema());
    assert_eq!(store.read_table(timers, 0..1024).unwrap().count(), 0);
    let path = place.root.path().join("restored.sst");
    store.read_file(&loaded.parts[0].files[0], &path).unwrap();
    assert_eq!(fs::read_to_string(path).unwrap(), "a file");
}

#[test]
fn key_groups_select_rows() {
    let place = Place::new();
    let (store, _) = place.start();
    let all = rows(250_000, 0);
    let (stored, _) = store.write_table(table("t", &all, 64 << 10)).unwrap();
    for groups in [0..1024, 0..512, 512..1024, 100..101, 1000..1000, 1023..1024] {
        let found = collect(store.read_table(&stored, groups.clone()).unwrap()).unwrap();
        let wanted = key_groups(&all).unwrap().values().iter().map(|g| groups.contains(&u32::from(*g)));
        let expected = arrow::compute::filter_record_batch(&all, &wanted.map(Some).collect()).unwrap();
        assert_eq!(found, concat_batches(&schema(), [&expected]).unwrap(), "{groups:?}");
    }
}

#[test]
fn reading_is_lazy() {
    let place = Place::new();
    let (store, _) = place.start();
    let (stored, _) = store.write_table(table("t", &rows(1_000_000, 0), 64 << 10)).unwrap();
    let (first, last) = (&stored.segments[0], stored.segments.last().unwrap());
    assert!(stored.segments.len() > 2 && first.groups.1 < last.groups.0, "{stored:?}");
    let lost: Vec<String> = place.names().into_iter().filter(|name| name.contains(&last.object.sha256)).collect();
    place.objects.delete(&lost).unwrap();
    let mut chunks = store.read_table(&stored, 0..1024).unwrap();
    assert!(chunks.next().unwrap().is_ok(), "the first segment needs no other");
    let fault = chunks.find_map(Result::err).unwrap();
    assert!(fault.message.contains(&last.object.sha256), "{fault}");
    assert!(chunks.next().is_none(), "a fault is the end");
    let before = u32::from(last.groups.0);
    assert!(store.read_table(&stored, 0..before).unwrap().all(|chunk| chunk.is_ok()), "others are not touched");
}

#[test]
fn what_is_there_is_not_written_again() {
    let place = Place::new();
    let (store, generation) = place.start();
    let rows = rows(1000, 0);
    let (stored, written) = store.write_table(table("t", &rows, 100)).unwrap();
    assert!(written > 0);
    let again = store.write_table(table("t", &rows, 100)).unwrap();
    assert_eq!(again, (stored.clone(), 0));
    let (file, bytes) = store.write_file(&place.file("a", "12345")).unwrap();
    assert_eq!(bytes, 5);
    assert_eq!(store.write_file(&place.file("b", "12345")).unwrap().1, 0);
    store.publish(&manifest(1, generation, vec![stored.clone()], vec![file])).unwrap();
    // The next start knows it as well.
    let (store, _) = place.start();
    assert_eq!(store.write_table(table("t", &rows, 100)).unwrap(), (stored, 0));
    assert_eq!(place.names().len(), 3, "a segment, a file and a manifest");
}

#[test]
fn a_newer_generation_shuts_out_the_older() {
    let place = Place::new();
    let (old, first) = place.start();
    let kept = write(&old, 1, first, 100, 1).unwrap();
    let (new, second) = place.start();
    assert!(second > first);
    let fault = write(&old, 2, first, 100, 2).unwrap_err();
    assert!(fault.message.contains("generation 2") && fault.help.is_some(), "{fault}");
    assert!(old.retain(0).is_err(), "nor does it remove anything");
    assert_eq!(ids(&new), [1]);
    assert_eq!(new.load(&new.list().unwrap()[0]).unwrap(), kept);
    write(&new, 2, second, 100, 3).unwrap();
    assert_eq!(ids(&new), [1, 2]);
    assert!(write(&new, 3, first, 100, 4).is_err(), "a manifest names its own generation");
    assert!(write(&place.open(), 3, 0, 100, 4).is_err(), "who has begun no generation publishes nothing");
}

#[test]
fn generations_that_begin_at_once_are_all_different() {
    let place = Place::new();
    let mut generations: Vec<u64> = std::thread::scope(|scope| {
        let begin = || place.start().1;
        let all: Vec<_> = (0..8).map(|_| scope.spawn(begin)).collect();
        all.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    generations.sort_unstable();
    assert_eq!(generations, (1..=8).collect::<Vec<u64>>());
}

#[test]
fn an_id_and_a_name_are_used_once() {
    let place = Place::new();
    let (store, generation) = place.start();
    write(&store, 1, generation, 10, 1).unwrap();
    assert!(write(&store, 1, generation, 10, 2).is_err());
    let savepoint = |id| Manifest {
        purpose: Purpose::Savepoint { name: "before: the/upgrade".into() },
        ..manifest(id, generation, Vec::new(), Vec::new())
    };
    store.publish(&savepoint(2)).unwrap();
    let fault = store.publish(&savepoint(3)).unwrap_err();
    assert!(fault.message.contains("before: the/upgrade") && fault.help.is_some(), "{fault}");
    write(&store, 3, generation, 10, 3).unwrap();
    assert_eq!(ids(&store), [1, 2, 3]);
    assert_eq!(store.list().unwrap()[1].savepoint.as_deref(), Some("before: the/upgrade"));
}

#[test]
fn old_checkpoints_go_with_what_only_they_need() {
    let place = Place::new();
    let (store, generation) = place.start();
    let shared = rows(500, 0);
    let mut kept = Vec::new();
    for id in 1..=5 {
        let (always, _) = store.write_table(table("shared", &shared, 100)).unwrap();
        let (own, _) = store.write_table(table("own", &rows(500, id as i64), 100)).unwrap();
        let mut manifest = manifest(id, generation, vec![always, own], Vec::new());
        if id == 2 {
            manifest.purpose = Purpose::Savepoint { name: "s".into() };
        }
        store.publish(&manifest).unwrap();
        store.retain(2).unwrap();
        kept.push(manifest);
    }
    assert_eq!(ids(&store), [2, 4, 5]);
    assert_eq!(place.names().len(), 1 + 3 + 3, "a shared table, three own ones, three manifests");
    let reader = place.open();
    for (listed, expected) in reader.list().unwrap().iter().zip([&kept[1], &kept[3], &kept[4]]) {
        let manifest = reader.load(listed).unwrap();
        assert_eq!(manifest, *expected);
        assert_eq!(restored(&reader, &manifest), shared);
    }
    store.retain(1).unwrap();
    let savepoint = store.list().unwrap()[0].clone();
    store.delete(&savepoint).unwrap();
    assert!(store.delete(&savepoint).is_err(), "it is gone");
    assert_eq!((ids(&store), place.names().len()), (vec![5], 3));
    assert!(place.objects.list("my%20job/index/").unwrap().len() < 40, "old versions of the index go, too");
}

#[test]
fn what_is_in_flight_stays() {
    let place = Place::new();
    let (store, generation) = place.start();
    write(&store, 1, generation, 100, 1).unwrap();
    // One that is new, and one that exists because of a checkpoint that goes.
    let (new, _) = store.write_table(table("new", &rows(100, 7), 100)).unwrap();
    let (found, written) = store.write_table(table("found", &rows(100, 1), 1000)).unwrap();
    assert_eq!(written, 0);
    write(&store, 2, generation, 100, 2).unwrap();
    store.retain(1).unwrap();
    let slow = manifest(3, generation, vec![found, new], Vec::new());
    store.publish(&slow).unwrap();
    store.retain(1).unwrap();
    assert_eq!(ids(&store), [3]);
    assert_eq!(restored(&place.open(), &slow), rows(100, 1));
    assert_eq!(place.names().len(), 3);
}

#[test]
fn a_savepoint_deleted_by_hand_takes_nothing_from_a_running_job() {
    let place = Place::new();
    let (store, generation) = place.start();
    let (shared, _) = store.write_table(table("t", &rows(100, 1), 100)).unwrap();
    let savepoint = Manifest {
        purpose: Purpose::Savepoint { name: "s".into() },
        ..manifest(1, generation, vec![shared.clone()], Vec::new())
    };
    store.publish(&savepoint).unwrap();
    // The job relies on what the savepoint has brought, when somebody deletes the savepoint from outside.
    let (found, written) = store.write_table(table("t", &rows(100, 1), 100)).unwrap();
    assert_eq!((written, &found), (0, &shared));
    let other = place.open();
    other.delete(&other.list().unwrap()[0]).unwrap();
    let fault = store.publish(&manifest(2, generation, vec![found], Vec::new())).unwrap_err();
    assert!(fault.message.contains("missing"), "{fault}");
    // The next checkpoint writes it again, and nothing of it is removed by what was begun before.
    let again = write(&store, 3, generation, 100, 1).unwrap();
    store.retain(1).unwrap();
    store.retain(1).unwrap();
    assert_eq!(restored(&place.open(), &again), rows(100, 1));
}

#[test]
fn what_a_dead_process_left_goes_with_the_next() {
    let place = Place::new();
    let (store, _) = place.start();
    store.write_table(table("t", &rows(100, 1), 100)).unwrap();
    store.write_file(&place.file("a", "x")).unwrap();
    let (store, generation) = place.start();
    write(&store, 1, generation, 100, 2).unwrap();
    store.retain(3).unwrap();
    assert_eq!(place.names().len(), 2);
}

#[test]
fn pipelines_do_not_see_each_other() {
    let place = Place::new();
    let (store, generation) = place.start();
    write(&store, 1, generation, 10, 1).unwrap();
    let other = Snapshots::new(place.objects.clone(), "my");
    assert!(other.list().unwrap().is_empty());
    assert_eq!(other.begin_generation().unwrap(), 1);
    other.retain(0).unwrap();
    assert_eq!(ids(&store), [1]);
    assert!(Path::new(&store.location()).is_dir(), "{}", store.location());
}

#[test]
fn several_processes_write_for_one_start_and_none_of_them_after_it() {
    let place = Place::new();
    let (leader, generation) = place.start();
    let helper = place.open();
    helper.join_generation(generation, 1).unwrap();
    let objects = |tables: &[StoredTable]| -> Vec<ObjectRef> {
        tables.iter().flat_map(|t| &t.segments).map(|segment| segment.object.clone()).collect()
    };
    let part = |store: &Snapshots, seed| store.write_table(table("state/count", &rows(100, seed), 1000)).unwrap();
    // The same content from both, at the same moment: two names.
    let (ours, theirs) = (part(&leader, 1), part(&helper, 1));
    assert_eq!((ours.0, ours.1), (theirs.0.clone(), theirs.1));
    let first = [part(&leader, 2).0, part(&helper, 3).0, theirs.0];
    leader.publish(&manifest(1, generation, first.to_vec(), Vec::new())).unwrap();
    leader.retain(1).unwrap();
    // The helper relies on what it has stored for the last checkpoint, and only on that.
    helper.rely_on(&objects(&first[1..2])).unwrap();
    assert_eq!(part(&helper, 3).1, 0, "it is there");
    assert!(part(&helper, 2).1 > 0, "of what others have written it knows nothing");
    let second = manifest(2, generation, vec![part(&helper, 3).0], Vec::new());
    leader.publish(&second).unwrap();
    leader.retain(1).unwrap();
    helper.rely_on(&objects(&second.parts[0].tables)).unwrap();
    let again = part(&helper, 1);
    assert!(again.1 > 0, "what was removed is written again");
    leader.publish(&manifest(3, generation, vec![again.0, part(&helper, 3).0], Vec::new())).unwrap();
    leader.list().unwrap().iter().for_each(|listed| leader.verify(&leader.load(listed).unwrap()).unwrap());
    // Another start takes over.
    let _newer = place.start();
    let late = [helper.rely_on(&[]), place.open().join_generation(generation, 1)];
    for fault in late.map(Result::unwrap_err) {
        assert!(
            fault.message.contains("belongs to a newer start of this job (generation 2; this one is 1)"),
            "{fault}"
        );
    }
}
