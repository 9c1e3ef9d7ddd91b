//! Runs the program `tidemill` that lies beside this one, as a user would.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use serde_json::Value;

/// The folder of the benchmarks in the source tree.
pub fn benches_dir() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub fn tidemill() -> anyhow::Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name("tidemill");
    if !path.exists() {
        bail!("{} is missing: build it with `cargo build -p tidemill`", path.display());
    }
    Ok(path)
}

/// The benchmark operators as a component, built if it is missing.
pub fn component() -> anyhow::Result<PathBuf> {
    let path = benches_dir().join("peers/target/operators.wasm");
    let crate_dir = benches_dir().join("operators");
    let status = Command::new(tidemill()?).arg("build").arg(crate_dir).arg("--out").arg(&path).status()?;
    if !status.success() {
        bail!("the benchmark operators could not be built");
    }
    Ok(path)
}

/// Runs a pipeline of `benches/pipelines` and returns its summary.
pub fn run(pipeline: &str, variables: &[(&str, String)]) -> anyhow::Result<Value> {
    let mut command = Command::new(tidemill()?);
    command.arg("run").arg(benches_dir().join("pipelines").join(pipeline));
    command.args(["--workers", "2", "--quiet", "--summary", "json"]);
    for (name, value) in variables {
        command.env(name, value);
    }
    let output = command.stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        bail!("{pipeline} failed");
    }
    let text = String::from_utf8(output.stdout)?;
    serde_json::from_str(text.lines().last().unwrap_or_default()).context("no summary in the last line")
}

/// Runs a pipeline of `benches/pipelines`; ms from its start until a row reached a sink, as its summary for people says.
pub fn first_row_ms(pipeline: &str) -> anyhow::Result<f64> {
    let mut command = Command::new(tidemill()?);
    command.arg("run").arg(benches_dir().join("pipelines").join(pipeline)).args(["--workers", "2"]);
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("{pipeline} failed: {text}");
    }
    let said = text.lines().find_map(|line| line.strip_prefix("first row after ")?.strip_suffix(" ms"));
    Ok(said.context("no row reached a sink")?.parse()?)
}

pub fn number(summary: &Value, name: &str) -> anyhow::Result<f64> {
    summary[name].as_f64().with_context(|| format!("the summary has no `{name}`"))
}
