//! The rules of the house: who may know whom, how files look, and that ARCHITECTURE.md is true.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Lines of a source file; most have a quarter of that.
const LINES_MAX: usize = 600;

/// Libraries with a large surface, and the only host crate that may depend on each (by the beginning of the name).
const HOMES: &[(&str, &str)] =
    &[("timely", "tidemill-runtime"), ("wasmtime", "tidemill-wasm"), ("datafusion", "tidemill-engine")];

/// Clocks, threads, files and sockets, which `model` and `engine` must not know.
const WORLD: &[&str] =
    &["std::time::Instant", "SystemTime", "std::thread", "std::fs", "std::net", "std::process", "std::env"];

/// Kinds of files whose text is checked.
const TEXTS: &[&str] = &["rs", "md", "toml", "yaml", "yml", "py", "sh", "wit", "java", "in"];

#[test]
fn crates_below_host_know_the_model_only() {
    for (name, package) in packages() {
        let (dir, known) = (dir_of(&package), known(&package));
        if name == "tidemill-model" {
            assert!(known.is_empty(), "model knows nobody, but it depends on {known:?}");
        } else if dir.starts_with("host/") && dir != "host/node" {
            let may =
                |k: &str| k == "tidemill-model" && dir != "host/cep" || k == "tidemill-cep" && dir == "host/engine";
            let others: Vec<&String> = known.iter().filter(|k| !may(k)).collect();
            assert!(others.is_empty(), "{dir} depends on {others:?}: crates below host/ meet in host/node only");
        } else if dir.starts_with("guest-sdk/") || dir.starts_with("examples/") {
            let hosts: Vec<&String> = known.iter().filter(|k| !k.starts_with("tidemill-sdk")).collect();
            assert!(hosts.is_empty(), "{dir} runs inside of a component, but depends on {hosts:?}");
        }
    }
}

#[test]
fn large_libraries_have_one_home() {
    for (name, package) in packages() {
        if !dir_of(&package).starts_with("host/") {
            continue;
        }
        for dependency in dependencies(&package) {
            let mut strangers = HOMES.iter().filter(|(library, home)| dependency.starts_with(library) && *home != name);
            if let Some((library, home)) = strangers.next() {
                panic!("{name} depends on {dependency}, but {library} belongs into {home}");
            }
        }
    }
}

#[test]
fn the_code_map_is_complete_and_true() {
    let text = read(&root().join("ARCHITECTURE.md"));
    for (name, package) in packages() {
        let dir = dir_of(&package);
        assert!(text.contains(&format!("**`{dir}`**")), "the code map of ARCHITECTURE.md does not name {dir} ({name})");
    }
    let tops = ["host/", "wit/", "guest-sdk/", "examples/", "benches/", "tests/"];
    let quoted = text.split('`').skip(1).step_by(2);
    for path in quoted.filter(|quoted| tops.iter().any(|top| quoted.starts_with(top))) {
        assert!(root().join(path).exists(), "ARCHITECTURE.md names {path}, which does not exist");
    }
}

#[test]
fn the_readme_shows_the_operator_of_the_example() {
    let readme = read(&root().join("README.md"));
    let shown = readme.split("```rust\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a Rust block");
    assert!(shown.lines().filter(|line| !line.trim().is_empty()).count() <= 20, "an operator in 20 lines");
    let example = read(&root().join("examples/orders/operators/src/lib.rs"));
    let example = example.split("#[cfg(test)]").next().unwrap_or_default();
    assert_eq!(essence(shown), essence(example), "README.md and examples/orders differ");
    for command in ["./dev demo", "./dev test", "./dev bench peers"] {
        assert!(readme.contains(command), "README.md does not name {command}");
    }
}

#[test]
fn every_source_file_says_what_it_is_and_is_short() {
    for file in files().into_iter().filter(|file| extension(file) == "rs") {
        let text = read(&file);
        let name = file.strip_prefix(root()).unwrap_or(&file).display();
        assert!(text.starts_with("//!"), "{name} does not open with `//!`");
        assert!(text.lines().count() <= LINES_MAX, "{name} has more than {LINES_MAX} lines");
        let pure = ["host/model/src", "host/engine/src"].iter().any(|dir| file.starts_with(root().join(dir)));
        for word in WORLD.iter().filter(|_| pure) {
            assert!(!text.contains(word), "{name} knows `{word}`: model and engine have no I/O, clock or threads");
        }
    }
}

#[test]
fn nothing_names_the_machine_or_the_place_it_was_made_at() {
    // In two parts, so that this file does not name them either.
    let words: Vec<String> =
        [("cra", "tes.io"), ("py", "pi.org"), ("python", "hosted"), ("/wo", "rk/"), ("/ro", "ot/"), ("issue", " #")]
            .iter()
            .map(|(a, b)| format!("{a}{b}"))
            .collect();
    for file in files() {
        let named = TEXTS.contains(&extension(&file)) || ["dev", "run"].iter().any(|name| file.ends_with(name));
        if !named {
            continue;
        }
        // Some cases are not UTF-8 on purpose.
        let bytes = std::fs::read(&file).expect("a file can be read");
        let text = String::from_utf8_lossy(&bytes);
        if let Some(word) = words.iter().find(|word| text.contains(word.as_str())) {
            panic!("{} mentions `{word}`", file.display());
        }
    }
}

#[test]
fn what_is_fuzzed_exists_and_obeys_the_number_of_cases() {
    let dev = read(&root().join("dev"));
    let names = dev.split("\nFUZZ=(").nth(1).and_then(|rest| rest.split(')').next()).expect("dev has a list FUZZ");
    let sources: Vec<(PathBuf, String)> =
        files().into_iter().filter(|file| extension(file) == "rs").map(|file| (file.clone(), read(&file))).collect();
    for name in names.split_whitespace() {
        assert!(sources.iter().any(|(_, text)| text.contains(&format!("fn {name}("))), "there is no test `{name}`");
    }
    // In two parts, so that this file does not hold it.
    let fixed = ["with_", "cases("].concat();
    for (file, text) in &sources {
        assert!(!text.contains(&fixed), "{}: PROPTEST_CASES has no effect on `{fixed}`", file.display());
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the root").to_owned()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn extension(path: &Path) -> &str {
    path.extension().and_then(|e| e.to_str()).unwrap_or_default()
}

/// Code without what a formatter may change, and without the `//!` lines that open a file.
fn essence(code: &str) -> String {
    let lines = code.lines().filter(|line| !line.starts_with("//!"));
    let squeezed: String = lines.flat_map(|line| line.chars().filter(|c| !c.is_whitespace())).collect();
    squeezed.replace(",}", "}")
}

/// Files of the tree, without build output, data and what programs wrote.
fn files() -> Vec<PathBuf> {
    let (mut open, mut files) = (vec![root()], Vec::new());
    while let Some(dir) = open.pop() {
        for entry in
            std::fs::read_dir(&dir).expect("the tree can be listed").map(|entry| entry.expect("an entry").path())
        {
            let name = entry.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            if !entry.is_dir() {
                files.push(entry);
            } else if name == ".ci"
                || !(name.starts_with('.') || ["target", "out", "data", "__pycache__"].contains(&name))
            {
                open.push(entry);
            }
        }
    }
    files.sort();
    files
}

/// The packages of the workspace by name, as `cargo metadata` tells them.
fn packages() -> BTreeMap<String, Value> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    let packages = metadata["packages"].as_array().expect("a list").iter();
    packages.map(|package| (package["name"].as_str().expect("a name").to_owned(), package.clone())).collect()
}

/// Folder of a package, relative to the root.
fn dir_of(package: &Value) -> String {
    let manifest = Path::new(package["manifest_path"].as_str().expect("a path"));
    let root = root().canonicalize().expect("the root exists");
    let dir = manifest.parent().expect("a folder").canonicalize().expect("the folder exists");
    dir.strip_prefix(root).expect("in the tree").display().to_string()
}

/// Dependencies of the program itself: not those of its tests.
fn dependencies(package: &Value) -> BTreeSet<String> {
    let all = package["dependencies"].as_array().expect("a list").iter();
    let own = all.filter(|d| d["kind"].as_str() != Some("dev"));
    own.map(|d| d["name"].as_str().expect("a name").to_owned()).collect()
}

/// Packages of the workspace among the dependencies.
fn known(package: &Value) -> BTreeSet<String> {
    let all = package["dependencies"].as_array().expect("a list").iter();
    let own = all.filter(|d| d["kind"].as_str() != Some("dev") && d["path"].is_string());
    own.map(|d| d["name"].as_str().expect("a name").to_owned()).collect()
}
