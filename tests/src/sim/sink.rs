//! A sink of a life: a real one, behind a wire on which writes and commits fail. It tells the world which rows each committable holds.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use serde_json::json;
use tidemill_model::config::Formats;
use tidemill_model::sink::{Committable, Sink, SinkWriter};
use tidemill_model::{Batch, Fault};

use super::wire::{SinkFault, Wire, crashed};
use crate::matrix::Text;

pub struct WiredSink {
    pub name: String,
    pub inner: Arc<dyn Sink>,
    pub wire: Arc<Wire>,
}

impl WiredSink {
    fn commit_one(&self, committable: &Committable) -> Result<(), Fault> {
        let fault = self.wire.sink(true)?;
        match fault {
            Some(SinkFault::CommitFails) => return Err(Fault::io("a commit fails").with_help("this is a test")),
            Some(SinkFault::CrashBeforeCommit) => self.wire.cut(),
            Some(SinkFault::CrashAfterCommit | SinkFault::WriteFails) | None => {
                self.inner.commit(std::slice::from_ref(committable))?;
                self.wire.world.committed(&self.name, &committable.0, self.wire.life);
            }
        }
        if fault.is_some() {
            self.wire.cut();
            return Err(crashed());
        }
        Ok(())
    }
}

impl Sink for WiredSink {
    fn blocks(&self) -> bool {
        false
    }

    fn accepts(&self, schema: &SchemaRef) -> Result<(), Fault> {
        self.inner.accepts(schema)
    }

    fn open(&self, worker: usize, workers: usize, schema: SchemaRef) -> Result<Box<dyn SinkWriter>, Fault> {
        let (name, wire) = (self.name.clone(), self.wire.clone());
        Ok(Box::new(Writer { inner: self.inner.open(worker, workers, schema)?, name, wire, rows: Vec::new() }))
    }

    fn commit(&self, committables: &[Committable]) -> Result<(), Fault> {
        committables.iter().try_for_each(|committable| self.commit_one(committable))
    }

    fn discard(&self, committables: &[Committable]) {
        self.inner.discard(committables);
    }

    fn recover(&self, owner: &str, named: Option<&[Committable]>) -> Result<(), Fault> {
        if self.wire.is_cut() {
            return Err(crashed());
        }
        self.inner.recover(owner, named)
    }
}

struct Writer {
    name: String,
    inner: Box<dyn SinkWriter>,
    wire: Arc<Wire>,
    /// Since the last `prepare`.
    rows: Vec<String>,
}

impl SinkWriter for Writer {
    fn write(&mut self, batch: &Batch) -> Result<(), Fault> {
        if self.wire.sink(false)?.is_some() {
            return Err(Fault::io("a write fails").with_help("this is a test"));
        }
        self.rows.extend(lines(batch.rows())?);
        self.inner.write(batch)
    }

    fn prepare(&mut self, checkpoint: u64) -> Result<Vec<Committable>, Fault> {
        let prepared = self.inner.prepare(checkpoint)?;
        let mut rows = std::mem::take(&mut self.rows);
        if prepared.is_empty() && !rows.is_empty() {
            self.wire.world.violation(format!("sink `{}` prepares nothing of {} rows", self.name, rows.len()));
        }
        // Which of several files a row is in does not matter: they belong to one checkpoint.
        for committable in &prepared {
            self.wire.world.prepared(&self.name, &committable.0, std::mem::take(&mut rows));
        }
        Ok(prepared)
    }

    fn abort(&mut self) {
        self.inner.abort();
    }
}

/// Rows as the NDJSON that a sink writes.
pub fn lines(rows: &RecordBatch) -> Result<Vec<String>, Fault> {
    let text = Text::default();
    let format = tidemill_formats::BuiltIn.make("ndjson", &json!({})).map_err(|e| Fault::config(e.to_string()))?;
    let mut writer = format.writer(Box::new(text.clone()), rows.schema())?;
    writer.write(rows)?;
    writer.finish()?;
    Ok(text.text().lines().map(str::to_owned).collect())
}

/// A sink of which the driver records what reaches it.
pub struct Nowhere;

impl Sink for Nowhere {
    fn blocks(&self) -> bool {
        false
    }

    fn accepts(&self, _schema: &SchemaRef) -> Result<(), Fault> {
        Ok(())
    }

    fn open(&self, _worker: usize, _workers: usize, _schema: SchemaRef) -> Result<Box<dyn SinkWriter>, Fault> {
        Ok(Box::new(Self))
    }

    fn commit(&self, _committables: &[Committable]) -> Result<(), Fault> {
        Ok(())
    }
}

impl SinkWriter for Nowhere {
    fn write(&mut self, _batch: &Batch) -> Result<(), Fault> {
        Ok(())
    }

    fn prepare(&mut self, _checkpoint: u64) -> Result<Vec<Committable>, Fault> {
        Ok(Vec::new())
    }

    fn abort(&mut self) {}
}
