//! Whatever happens to a file of a stored checkpoint is found and named: never a panic, never other rows.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use crate::common::{collect, manifest, rows, table};
use proptest::prelude::*;
use tidemill_model::Fault;
use tidemill_model::checkpoint::{CheckpointStore, Listed, Manifest, ObjectStore};
use tidemill_model::snapshot::NativeFile;
use tidemill_store::testing::Memory;
use tidemill_store::{Directory, Snapshots};

const ROWS: usize = 300;
const FILE: &[u8] = b"a file of a backend";

/// What is done to a file.
#[derive(Clone, Debug)]
enum Damage {
    Flip { at: usize, bit: u8 },
    Cut { to: usize },
    Grow { by: u8 },
    Remove,
}

/// Every object of one small checkpoint, and what a reader must find.
struct Stored {
    objects: Vec<(String, Vec<u8>)>,
    manifest: Manifest,
    listed: Listed,
}

static STORED: LazyLock<Stored> = LazyLock::new(|| {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("file");
    fs::write(&path, FILE).unwrap();
    let objects: Arc<dyn ObjectStore> = Arc::new(Memory::default());
    let store = Snapshots::new(objects.clone(), "job");
    let generation = store.begin_generation().unwrap();
    let tables = ["state/count", "timers/event"]
        .map(|name| store.write_table(table(name, &rows(ROWS, name.len() as i64), 100)).unwrap().0);
    let file = store.write_file(&NativeFile { name: "1.sst".into(), path, guard: Arc::new(()) }).unwrap().0;
    let manifest = manifest(1, generation, tables.to_vec(), vec![file]);
    store.publish(&manifest).unwrap();
    let names = objects.list("").unwrap().into_iter().map(|(name, _)| name);
    let objects: Vec<(String, Vec<u8>)> =
        names.map(|name| (name.clone(), objects.get(&name).unwrap().unwrap())).collect();
    Stored { objects, manifest, listed: Listed { id: 1, generation, savepoint: None } }
});

/// Everything that a restore does.
fn restore(store: &dyn CheckpointStore, scratch: &Path) -> Result<(), Fault> {
    let stored = &*STORED;
    assert!(store.list()?.contains(&stored.listed) || store.load(&stored.listed).is_err());
    let manifest = store.load(&stored.listed)?;
    assert_eq!(manifest, stored.manifest, "another manifest than was written");
    store.verify(&manifest)?;
    for table in &manifest.parts[0].tables {
        store.table_schema(table)?;
        let found = collect(store.read_table(table, 0..1024)?)?;
        assert_eq!(found, rows(ROWS, table.name.len() as i64), "other rows than were written");
    }
    let path = scratch.join("restored");
    let read = store.read_file(&manifest.parts[0].files[0], &path);
    assert_eq!(path.exists(), read.is_ok(), "a file that is not whole is not left behind");
    read?;
    assert_eq!(fs::read(&path).unwrap(), FILE);
    Ok(())
}

/// True if the content is another one now; `None` if it is gone.
fn damaged(content: &[u8], damage: &Damage) -> Option<Vec<u8>> {
    let mut content = content.to_vec();
    match damage {
        Damage::Flip { at, bit } => {
            let at = at % content.len();
            content[at] ^= 1 << (bit % 8);
        }
        Damage::Cut { to } => content.truncate(to % content.len()),
        Damage::Grow { by } => content.push(*by),
        Damage::Remove => return None,
    }
    Some(content)
}

/// The name by which a fault must call this object: objects are called by their hash when they are gone.
fn called(name: &str) -> &str {
    let file = name.rsplit('/').next().unwrap_or(name);
    file.split_once('-').map_or(file, |(hash, _)| hash)
}

fn check(objects: &dyn ObjectStore, store: &dyn CheckpointStore, scratch: &Path, which: usize, damage: &Damage) {
    for (name, content) in &STORED.objects {
        objects.put(name, content).unwrap();
    }
    let (name, content) = &STORED.objects[which % STORED.objects.len()];
    match damaged(content, damage) {
        Some(content) => objects.put(name, &content).unwrap(),
        None => objects.delete(std::slice::from_ref(name)).unwrap(),
    }
    match restore(store, scratch) {
        Err(fault) if name.contains("/index/") && matches!(damage, Damage::Remove) => {
            assert!(fault.message.contains("checkpoint 1"), "{fault}");
        }
        Err(fault) => assert!(fault.message.contains(called(name)), "{name}, {damage:?}: {fault}"),
        // Versions of the index before the newest are read by nobody.
        Ok(()) => {
            assert!(name.contains("/index/") && which % STORED.objects.len() != newest_index(), "{name}, {damage:?}")
        }
    }
}

fn newest_index() -> usize {
    STORED.objects.iter().rposition(|(name, _)| name.contains("/index/")).unwrap()
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        4 => (any::<usize>(), any::<u8>()).prop_map(|(at, bit)| Damage::Flip { at, bit }),
        2 => any::<usize>().prop_map(|to| Damage::Cut { to }),
        1 => any::<u8>().prop_map(|by| Damage::Grow { by }),
        1 => Just(Damage::Remove),
    ]
}

proptest! {
    #[test]
    fn any_damage_is_found_and_named(which in any::<usize>(), damage in damage()) {
        let objects: Arc<dyn ObjectStore> = Arc::new(Memory::default());
        let scratch = tempfile::tempdir().unwrap();
        check(&*objects, &Snapshots::new(objects.clone(), "job"), scratch.path(), which, &damage);
    }
}

#[test]
fn every_flipped_byte_is_found() {
    let objects: Arc<dyn ObjectStore> = Arc::new(Memory::default());
    let scratch = tempfile::tempdir().unwrap();
    for (which, (_, content)) in STORED.objects.iter().enumerate() {
        for at in 0..content.len() {
            let store = Snapshots::new(objects.clone(), "job");
            check(&*objects, &store, scratch.path(), which, &Damage::Flip { at, bit: (at % 8) as u8 });
        }
    }
}

#[test]
fn damage_in_a_directory_is_called_by_its_path() {
    let root = tempfile::tempdir().unwrap();
    let objects: Arc<dyn ObjectStore> = Arc::new(Directory::open(root.path()).unwrap());
    let store = Snapshots::new(objects.clone(), "job");
    let generation = store.begin_generation().unwrap();
    let (stored, _) = store.write_table(table("t", &rows(ROWS, 0), 100)).unwrap();
    let written = manifest(1, generation, vec![stored.clone()], Vec::new());
    store.publish(&written).unwrap();
    let hash = &stored.segments[0].object.sha256;
    let name = objects.list("").unwrap().into_iter().map(|(name, _)| name).find(|name| name.contains(hash)).unwrap();
    let path: PathBuf = root.path().canonicalize().unwrap().join(name);
    fs::write(&path, "short").unwrap();
    let fault = store.verify(&written).unwrap_err();
    let place = path.display().to_string();
    assert!(fault.message.contains(&place) && fault.message.contains("5 bytes"), "{fault}");
    let fault = collect(store.read_table(&stored, 0..1024).unwrap()).unwrap_err();
    assert!(fault.message.contains(&place) && fault.help.is_some(), "{fault}");
}
