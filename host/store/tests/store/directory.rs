//! The store in a directory: the conformance suite, and what is special about files.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tidemill_model::checkpoint::ObjectStore;
use tidemill_store::Directory;
use tidemill_store::conformance::conformance;

#[test]
fn a_directory_conforms() {
    let root = tempfile::tempdir().unwrap();
    let store = Directory::open(&root.path().join("new/store")).unwrap();
    conformance(&store, root.path());
    assert_eq!(temporary(&root.path().join("new/store")), [] as [PathBuf; 0], "nothing temporary is left");
}

#[test]
fn files_are_linked_both_ways() {
    let root = tempfile::tempdir().unwrap();
    let store = Directory::open(&root.path().join("store")).unwrap();
    let (from, to) = (root.path().join("from"), root.path().join("to"));
    fs::write(&from, "x").unwrap();
    store.put_file("a/b", &from).unwrap();
    assert!(store.get_file("a/b", &to).unwrap());
    let inode = |path: &Path| fs::metadata(path).unwrap().ino();
    assert_eq!(inode(&from), inode(&root.path().join("store/a/b")));
    assert_eq!(inode(&from), inode(&to));
}

#[test]
fn what_dead_processes_left_is_removed_and_what_the_living_write_is_not() {
    let root = tempfile::tempdir().unwrap();
    let living = Directory::open(root.path()).unwrap();
    let dead = root.path().join(".tmp/dead");
    fs::create_dir(&dead).unwrap();
    fs::write(dead.join("7"), "half of").unwrap();
    fs::write(dead.with_extension("lock"), "").unwrap();
    let next = Directory::open(root.path()).unwrap();
    assert!(!dead.exists() && !dead.with_extension("lock").exists());
    living.put("a", b"1").unwrap();
    next.put("b", b"2").unwrap();
    assert_eq!(next.list("").unwrap(), [("a".into(), 1), ("b".into(), 1)]);
    drop((living, next));
    assert_eq!(fs::read_dir(root.path().join(".tmp")).unwrap().count(), 0, "the living tidy up behind themselves");
}

#[test]
fn names_below_the_temporary_folder_are_taken() {
    let root = tempfile::tempdir().unwrap();
    let store = Directory::open(root.path()).unwrap();
    assert!(store.put(".tmp/a", b"x").is_err());
    assert!(store.list(".tmp/").unwrap().is_empty());
}

#[test]
fn errors_name_the_path_and_what_to_do() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("file"), "").unwrap();
    let Err(fault) = Directory::open(&root.path().join("file/store")) else { panic!("a file is no directory") };
    assert!(fault.message.contains("/file`") && fault.help.is_some(), "{fault}");
    let store = Directory::open(&root.path().join("store")).unwrap();
    store.put("a", b"x").unwrap();
    let fault = store.put("a/b", b"x").unwrap_err();
    assert!(fault.message.contains("store/a") && fault.help.is_some(), "{fault}");
    fs::remove_dir_all(root.path().join("store/.tmp")).unwrap();
    let fault = store.put("b", b"x").unwrap_err();
    assert!(fault.message.contains("store/b") && fault.help.is_some(), "{fault}");
}

/// Files below the temporary folder but for the locks.
fn temporary(root: &Path) -> Vec<PathBuf> {
    let folders = fs::read_dir(root.join(".tmp")).unwrap().map(|entry| entry.unwrap().path());
    let files = folders.filter(|path| path.is_dir()).flat_map(|folder| fs::read_dir(folder).unwrap());
    files.map(|entry| entry.unwrap().path()).collect()
}
