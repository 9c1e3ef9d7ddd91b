//! Figures in the one form that all benchmarks share.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

/// One measurement; what a benchmark does not measure is null.
#[derive(Debug, Default, Serialize)]
pub struct Figure {
    pub work: String,
    pub engine: String,
    pub rows_per_s: Option<f64>,
    pub rows_per_cpu_s: Option<f64>,
    pub peak_rss_bytes: Option<u64>,
    /// Against the peer, where there is one.
    pub ratio: Option<f64>,
    /// Figures of this benchmark only, with the unit in the name.
    #[serde(flatten)]
    pub more: BTreeMap<String, f64>,
}

/// Prints the figures and writes them to a file if one is named.
pub fn write(figures: &[Figure], json: Option<&Path>) -> anyhow::Result<()> {
    for figure in figures {
        println!("{}", serde_json::to_string(figure)?);
    }
    if let Some(path) = json {
        std::fs::write(path, serde_json::to_string_pretty(figures)? + "\n")?;
    }
    Ok(())
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
