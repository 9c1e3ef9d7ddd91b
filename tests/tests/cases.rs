//! All cases of `tests/cases/pipelines`, each in the whole matrix.
//!
//! `UPDATE=1` rewrites goldens; `CASE=late` runs the cases whose names contain `late`.

use std::path::Path;
use std::time::Instant;

use tidemill_tests::matrix::{Lab, Mode, find, run_all};

#[test]
fn every_case_gives_its_golden_in_every_cell() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let cases = find(&root.join("cases/pipelines"), &std::env::var("CASE").unwrap_or_default());
    assert!(!cases.is_empty(), "no case has such a name");
    let lab = Lab::new(&root.join("operators"));
    let mode = if std::env::var_os("UPDATE").is_some() { Mode::Update } else { Mode::Compare };
    let began = Instant::now();
    let (failures, runs) = run_all(&lab, &cases, mode);
    println!("{} cases, {runs} runs in {:.1} s", cases.len(), began.elapsed().as_secs_f64());
    assert!(failures.is_empty(), "{} of {} cases fail\n\n{}", failures.len(), cases.len(), failures.join("\n"));
}
