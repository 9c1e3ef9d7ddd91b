//! The cache of compiled components: used, keyed by content, and never trusted when damaged.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tidemill_wasm::encode_component;

use crate::support::{core, host};

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder.join("components")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Loads the component in a new host and returns the cached file's modification time.
fn load(folder: &Path) -> std::time::SystemTime {
    let component = encode_component(core()).unwrap();
    let loaded = host(Some(folder.to_owned())).load_bytes("evil.wasm", &component).unwrap();
    assert_eq!(loaded.operators().len(), 6);
    let files = files(folder);
    assert_eq!(files.len(), 1, "one file, and nothing temporary: {files:?}");
    assert!(files[0].file_name().unwrap().to_str().unwrap().starts_with(loaded.digest()));
    fs::metadata(&files[0]).unwrap().modified().unwrap()
}

#[test]
fn a_second_start_takes_the_compiled_component() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(load(folder.path()), load(folder.path()));
}

#[test]
fn a_damaged_file_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    load(folder.path());
    let file = files(folder.path()).remove(0);
    let whole = fs::read(&file).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    for damaged in [&whole[..whole.len() / 2], &flipped, b"", b"TMWASM01", b"something else entirely"] {
        fs::write(&file, damaged).unwrap();
        load(folder.path());
        assert_eq!(fs::read(&file).unwrap().len(), whole.len());
    }
}

#[test]
fn a_folder_that_others_may_write_to_is_not_used() {
    let folder = tempfile::tempdir().unwrap();
    load(folder.path());
    let cache = folder.path().join("components");
    fs::remove_file(&files(folder.path())[0]).unwrap();
    fs::set_permissions(&cache, fs::Permissions::from_mode(0o777)).unwrap();
    let component = encode_component(core()).unwrap();
    host(Some(folder.path().to_owned())).load_bytes("evil.wasm", &component).unwrap();
    assert!(files(folder.path()).is_empty());
}

#[test]
fn a_folder_that_can_not_be_made_is_no_obstacle() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let component = encode_component(core()).unwrap();
    assert!(host(Some(file)).load_bytes("evil.wasm", &component).is_ok());
}
