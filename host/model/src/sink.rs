//! Sinks with two-phase commit: what is written becomes visible at `commit` and not before.
//!
//! Laws: `prepare` makes all rows written so far durable and returns what `commit` needs; `commit` is
//! idempotent, also for another run of the job; a committable that is never committed leaves nothing that a reader would see.

use crate::batch::Batch;
use crate::fault::Fault;
use arrow::datatypes::SchemaRef;

/// What makes prepared rows visible, in the connector's own encoding. Stored in checkpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committable(pub Vec<u8>);

/// One worker's end of a sink.
pub trait SinkWriter: Send {
    /// May block on the outside world: the runtime gives such writers a thread and a bounded queue.
    fn write(&mut self, batch: &Batch) -> Result<(), Fault>;
    /// Flushes what readers may see early (stdout); called at ticks without rows.
    fn flush(&mut self) -> Result<(), Fault> {
        Ok(())
    }
    /// Everything written since the last `prepare`.
    fn prepare(&mut self, checkpoint: u64) -> Result<Vec<Committable>, Fault>;
    /// Throws away what was not prepared.
    fn abort(&mut self);
}

/// A configured sink.
pub trait Sink: Send + Sync {
    /// Whether `write` may block: file systems, pipes, sockets.
    fn blocks(&self) -> bool;
    /// Checked before anything runs; the message names what does not fit.
    fn accepts(&self, schema: &SchemaRef) -> Result<(), Fault>;
    fn open(&self, worker: usize, workers: usize, schema: SchemaRef) -> Result<Box<dyn SinkWriter>, Fault>;
    fn commit(&self, committables: &[Committable]) -> Result<(), Fault>;
    /// Throws away what was prepared and will never be committed, as far as that can be done.
    fn discard(&self, _committables: &[Committable]) {}
    /// A job begins: called behind the `commit` of what the checkpoint holds that it starts from, before any `open`. Throws
    /// away what earlier runs of the same owner have left, unless they still live or `named` has it. `owner`: pipeline,
    /// node and checkpoint store, the same in each run. `named`: what all checkpoints and savepoints of that store hold; `None`
    /// if nobody knows, and then everything stays.
    fn recover(&self, _owner: &str, _named: Option<&[Committable]>) -> Result<(), Fault> {
        Ok(())
    }
    /// Whether it can only take rows with event times.
    fn needs_times(&self) -> bool {
        false
    }
}
