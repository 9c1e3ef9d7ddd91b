//! The examples give what they promise. Each folder of `examples/` with `expected/` is run as its README says: `pipeline.yaml`,
//! then `check.yaml` if it is there, with one worker and with three. `expected/NAME.ENDING` holds the rows of `out/NAME`, sorted,
//! behind the header if they are CSV; no output in text may be without. `UPDATE=1` writes them.
//!
//! An example with a `check.py` is compared by that: `examples/flights`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::support::{Folder, build};

/// The crate with the operators of the examples, and what `tidemill build` makes of it: where the pipelines look for it.
const CRATE: &str = "examples/operators";
const COMPONENT: &str = "examples/operators/target/example-operators.wasm";

#[test]
fn every_example_gives_the_rows_that_it_promises() {
    let component = build(&format!("../{CRATE}"), "example-operators.wasm", &[], &[]);
    let examples = examples();
    assert!(examples.len() >= 9, "examples are missing: only {examples:?}");
    let mut failures = String::new();
    for example in &examples {
        for workers in [1, 3] {
            failures += &check(example, &component, workers);
        }
    }
    assert!(failures.is_empty(), "{failures}");
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Their names.
fn examples() -> Vec<String> {
    let mut names = list(&root().join("examples"));
    names.retain(|name| {
        let folder = root().join("examples").join(name);
        folder.join("expected").is_dir() && !folder.join("check.py").exists()
    });
    names
}

/// Names in a folder, sorted.
fn list(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = entries.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}

/// What is wrong with it, if anything.
fn check(example: &str, component: &Path, workers: usize) -> String {
    let folder = run(example, component, workers);
    let expected = root().join("examples").join(example).join("expected");
    let mut failures = String::new();
    let promised: BTreeSet<String> = list(&expected).into_iter().collect();
    for name in promised.union(&outputs(&folder, example)) {
        let text = written(&folder, example, name);
        if std::env::var_os("UPDATE").is_some() && workers == 1 {
            std::fs::write(expected.join(name), &text).unwrap();
        }
        let golden = std::fs::read_to_string(expected.join(name)).unwrap_or_default();
        if text != golden {
            let _ =
                writeln!(failures, "== {example}, {workers} workers: {name} is\n{text}\n-- but expected is\n{golden}");
        }
    }
    failures
}

/// Runs a copy that lies as in the tree, without what a user's own run has left there.
fn run(example: &str, component: &Path, workers: usize) -> Folder {
    let folder = Folder::new();
    folder.write(COMPONENT, &std::fs::read(component).unwrap());
    let from = root().join("examples").join(example);
    let mut pipelines = Vec::new();
    for pipeline in ["pipeline.yaml", "check.yaml"].into_iter().filter(|name| from.join(name).exists()) {
        folder.write(&format!("examples/{example}/{pipeline}"), &std::fs::read(from.join(pipeline)).unwrap());
        pipelines.push(pipeline);
    }
    for name in list(&from.join("data")) {
        folder
            .write(&format!("examples/{example}/data/{name}"), &std::fs::read(from.join("data").join(&name)).unwrap());
    }
    for pipeline in pipelines {
        let ended =
            folder.run(&format!("cd examples/{example} && tidemill run {pipeline} --workers {workers} --quiet"));
        assert_eq!(ended.code(), 0, "{example}, {pipeline}: {ended:?}");
    }
    folder
}

/// What was written as text, as the files of `expected/` are named.
fn outputs(folder: &Folder, example: &str) -> BTreeSet<String> {
    let files = folder.files().into_iter();
    let parts = files.filter_map(|file| {
        let (output, part) = file.strip_prefix(&format!("examples/{example}/out/"))?.split_once("/part-")?;
        let (_, ending) = part.split_once('.')?;
        ["csv", "ndjson"].contains(&ending).then(|| format!("{output}.{ending}"))
    });
    parts.collect()
}

/// All rows of an output, sorted, behind the header that each of its files has if they are CSV.
fn written(folder: &Folder, example: &str, name: &str) -> String {
    let (output, ending) = name.split_once('.').unwrap();
    let (mut header, mut rows) = (String::new(), Vec::new());
    let place = format!("examples/{example}/out/{output}/part-");
    for file in folder.files().iter().filter(|file| file.starts_with(&place)) {
        let text = std::fs::read_to_string(folder.path().join(file)).unwrap();
        let mut lines = text.split_inclusive('\n').map(str::to_owned);
        if ending == "csv" {
            header = lines.next().unwrap_or_default();
        }
        rows.extend(lines);
    }
    rows.sort();
    header + &rows.concat()
}
