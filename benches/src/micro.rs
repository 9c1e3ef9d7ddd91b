//! What criterion measured last, in the form of the other benchmarks: ns per row from its estimates.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::report::Figure;

pub fn run() -> anyhow::Result<Vec<Figure>> {
    let target = std::env::current_exe()?.parent().and_then(Path::parent).map(Path::to_owned).unwrap_or_default();
    let mut found = Vec::new();
    collect(&target.join("criterion"), &mut found);
    found.sort();
    Ok(found.iter().filter_map(|dir| figure(dir)).collect())
}

/// Folders that hold a finished measurement.
fn collect(dir: &Path, found: &mut Vec<PathBuf>) {
    if dir.join("new/estimates.json").exists() {
        found.push(dir.join("new"));
        return;
    }
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            collect(&entry.path(), found);
        }
    }
}

fn figure(dir: &Path) -> Option<Figure> {
    let read = |name: &str| serde_json::from_slice::<Value>(&std::fs::read(dir.join(name)).ok()?).ok();
    let (benchmark, estimates) = (read("benchmark.json")?, read("estimates.json")?);
    let ns = estimates["median"]["point_estimate"].as_f64()?;
    let rows = benchmark["throughput"]["Elements"].as_f64()?;
    let more = [("ns_per_row".to_owned(), ns / rows)].into();
    let work = benchmark["full_id"].as_str()?.to_owned();
    Some(Figure { work, engine: "tidemill".into(), rows_per_s: Some(rows / ns * 1e9), more, ..Figure::default() })
}
