//! Every file in `tests/cases/check` against its golden: what `tidemill check` says about it.
//!
//! `UPDATE=1` rewrites the goldens.

mod fake;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use tidemill_control::{describe, load};

#[test]
fn every_case_says_what_its_golden_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/cases/check");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|ending| ending == "yaml"));
    files.sort();
    assert!(files.len() >= 40, "cases are missing: only {}", files.len());
    let mut failures = String::new();
    for file in &files {
        let golden = file.with_extension("txt");
        let said = outcome(file);
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&golden, &said).unwrap();
        }
        let expected = std::fs::read_to_string(&golden).unwrap_or_default();
        if said != expected {
            let _ = writeln!(failures, "== {}\n{said}\n-- but the golden is\n{expected}", file.display());
        }
    }
    assert!(failures.is_empty(), "{failures}");
}

/// What a user sees, with the file's name instead of its path.
fn outcome(file: &Path) -> String {
    let text = match load(file, &fake::Fake) {
        Ok(loaded) => {
            let warnings: String = loaded.warnings.iter().map(|warning| warning.render(false) + "\n").collect();
            warnings + &describe(&loaded)
        }
        Err(diagnostics) => {
            assert!(!diagnostics.items.is_empty());
            diagnostics.render(false)
        }
    };
    text.replace(&format!("{}/", file.parent().unwrap().display()), "")
}
