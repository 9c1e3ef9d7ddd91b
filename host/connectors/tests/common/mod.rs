//! Builds connectors from settings, and reads sources to their end.
#![allow(dead_code)] // Each test binary uses its part of this.

use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use serde_json::Value;
use tidemill_formats::BuiltIn;
use tidemill_model::config::ConfigContext;
use tidemill_model::dead::row_json;
use tidemill_model::sink::Sink;
use tidemill_model::source::{Polled, Position, ReadBudget, Source, Split};
use tidemill_model::{ConfigError, DeadRow, Fault};

pub fn context(base: &Path) -> ConfigContext {
    ConfigContext::new(base, Arc::new(BuiltIn))
}

pub fn source(kind: &str, settings: Value, base: &Path) -> Arc<dyn Source> {
    tidemill_connectors::source(kind, &settings, &context(base)).unwrap()
}

pub fn source_error(kind: &str, settings: Value, base: &Path) -> ConfigError {
    tidemill_connectors::source(kind, &settings, &context(base)).map(drop).unwrap_err()
}

pub fn sink(kind: &str, settings: Value, base: &Path) -> Arc<dyn Sink> {
    tidemill_connectors::sink(kind, &settings, &context(base)).unwrap()
}

pub fn sink_error(kind: &str, settings: Value, base: &Path) -> ConfigError {
    tidemill_connectors::sink(kind, &settings, &context(base)).map(drop).unwrap_err()
}

pub const BUDGET: ReadBudget = ReadBudget { rows: 1000, bytes: 1 << 20, now_ms: 0 };

/// What a split has from `position` on, read with a new reader every `reads` polls.
pub fn read_split(
    source: &dyn Source,
    split: &Split,
    budget: ReadBudget,
    reads: usize,
) -> Result<(Vec<RecordBatch>, Vec<DeadRow>), Fault> {
    let (mut batches, mut rejected, mut position) = (Vec::new(), Vec::new(), Position::default());
    loop {
        let mut reader = source.open(split, &position)?;
        for _ in 0..reads {
            match reader.poll(budget)? {
                Polled::Rows { rows, rejected: more } => {
                    assert!(rows.num_rows() <= budget.rows);
                    batches.push(rows);
                    rejected.extend(more);
                }
                Polled::Pending { .. } => panic!("no limit was set"),
                Polled::End => {
                    assert_eq!(split.size, Some(reader.progress()), "all is done at the end");
                    assert!(matches!(reader.poll(budget)?, Polled::End), "the end stays");
                    return Ok((batches, rejected));
                }
            }
        }
        position = reader.position();
    }
}

/// All splits for `workers`, one after the other.
pub fn read_all(source: &dyn Source, workers: usize) -> Result<(RecordBatch, Vec<DeadRow>), Fault> {
    let (mut batches, mut rejected) = (Vec::new(), Vec::new());
    for split in source.splits(workers)? {
        let (rows, more) = read_split(source, &split, BUDGET, usize::MAX)?;
        batches.extend(rows);
        rejected.extend(more);
    }
    Ok((concat_batches(&source.schema(), &batches).unwrap(), rejected))
}

pub fn lines(rows: &RecordBatch) -> Vec<String> {
    (0..rows.num_rows()).map(|i| row_json(rows, i)).collect()
}

pub fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort();
    lines
}

/// Files below a folder, sorted, as paths relative to it.
pub fn files(folder: &Path) -> Vec<String> {
    let (mut open, mut files) = (vec![folder.to_owned()], Vec::new());
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
            match entry.is_dir() {
                true => open.push(entry),
                false => files.push(entry.strip_prefix(folder).unwrap().to_str().unwrap().to_owned()),
            }
        }
    }
    sorted(files)
}

/// The same without locks, and without the tags of hidden files.
pub fn parts(folder: &Path) -> Vec<String> {
    let files = files(folder).into_iter().filter(|name| !name.ends_with(".lock"));
    let plain = |name: String| match name.strip_suffix(".inprogress").and_then(|rest| rest.rsplit_once('.')) {
        Some((name, _tag)) => format!("{name}.inprogress"),
        None => name,
    };
    sorted(files.map(plain).collect())
}
