//! Savepoints of all versions of the format: what this program restores of them is what it would have written itself.
//!
//! `tests/fixtures/savepoints/VERSION` holds the store with the savepoint, and the rows that came after it. A version that was
//! released is never written anew. `UPDATE=1` writes the present one, for as long as it is not released.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tidemill_model::checkpoint::FORMAT_VERSION;

use crate::support::{Folder, Running, operators};

const SINKS: &[&str] = &["counted", "totals", "windows", "basket", "alarms", "loaded", "known"];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/savepoints")
}

fn folder() -> Folder {
    let pipeline = std::fs::read_to_string(fixtures().join("pipeline.yaml")).expect("the pipeline");
    Folder::with(&[("pipeline.yaml", &pipeline)])
}

fn script(backend: &str, words: &str) -> String {
    let component = operators().display();
    format!("export BACKEND={backend} COMPONENT={component} XDG_RUNTIME_DIR=$PWD; exec tidemill {words}")
}

fn output(folder: &Folder) -> BTreeMap<&'static str, Vec<String>> {
    SINKS.iter().map(|sink| (*sink, folder.rows(&format!("out/{sink}")))).collect()
}

/// All files below, with their names.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder").map(|entry| entry.expect("an entry")) {
        let target = to.join(entry.file_name());
        match entry.file_type().expect("a type").is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).expect("a copy")),
        }
    }
}

/// The rows behind the savepoint are those of one run from beginning to end, less those before it: no code that restores has a say.
fn write(version: &Path) {
    let whole = folder();
    let ended = whole.run(&script("heap", "run pipeline.yaml --quiet --from none --workers 1"));
    assert_eq!(ended.code(), 0, "{ended:?}");
    let part = folder();
    // One worker reads all, so that rows of a key keep their order; two hold what there is.
    let job = Running::start(part.shell(&script("rocksdb", "run pipeline.yaml --quiet --workers 1")));
    let some = "until tidemill status kept --json 2>/dev/null | grep -q '\"rows_in\":[1-9][0-9][0-9]'";
    let wait = format!("export XDG_RUNTIME_DIR=$PWD; n=0; {some}; do n=$((n+1)); [ $n -lt 2000 ] || exit 1; done");
    assert_eq!(part.run(&wait).code(), 0, "the job reads");
    let rescaled = part.run(&script("rocksdb", "rescale kept --workers 2"));
    assert_eq!(rescaled.code(), 0, "{rescaled:?}");
    assert_eq!(part.run(&wait).code(), 0, "the job reads on");
    let stopped = part.run(&script("rocksdb", "stop kept --savepoint middle"));
    assert_eq!(stopped.code(), 0, "{stopped:?}");
    assert_eq!(job.end().code(), 0);
    let mut rows = output(&whole);
    for (sink, before) in output(&part) {
        let left = rows.get_mut(sink).expect("the same sinks");
        for row in before {
            let place = left.iter().position(|other| *other == row).unwrap_or_else(|| panic!("{sink}: {row}"));
            left.remove(place);
        }
    }
    let _ = std::fs::remove_dir_all(version);
    copy(&part.path().join("store"), &version.join("store"));
    for (sink, rows) in rows {
        std::fs::write(
            version.join(format!("{sink}.ndjson")),
            rows.iter().map(|row| format!("{row}\n")).collect::<String>(),
        )
        .expect("a file");
    }
}

#[test]
fn kept_savepoints_are_restored() {
    if std::env::var_os("UPDATE").is_some() {
        write(&fixtures().join(FORMAT_VERSION.to_string()));
    }
    let mut versions = 0;
    for entry in std::fs::read_dir(fixtures()).expect("savepoints").map(|entry| entry.expect("an entry").path()) {
        if !entry.is_dir() {
            continue;
        }
        versions += 1;
        let expected = SINKS.iter().map(|sink| {
            let text = std::fs::read_to_string(entry.join(format!("{sink}.ndjson"))).expect("rows");
            (*sink, text.lines().map(str::to_owned).collect::<Vec<_>>())
        });
        let expected: BTreeMap<&str, Vec<String>> = expected.collect();
        for (backend, workers) in [("heap", 1), ("heap", 3), ("rocksdb", 1), ("rocksdb", 3)] {
            let folder = folder();
            copy(&entry.join("store"), &folder.path().join("store"));
            let words = format!("run pipeline.yaml --quiet --from middle --workers {workers}");
            let ended = folder.run(&script(backend, &words));
            assert_eq!(ended.code(), 0, "{}, {backend}, {workers} workers: {ended:?}", entry.display());
            for (sink, rows) in output(&folder) {
                assert!(
                    !rows.is_empty() && rows == expected[sink],
                    "{}, {backend}, {workers} workers, {sink}",
                    entry.display()
                );
            }
        }
    }
    assert!(versions as u32 >= FORMAT_VERSION, "a savepoint of each version is kept");
}
