//! Sources: splits that are read independently, each with a position that can be stored.
//!
//! Laws: reading a split from a position yields the same rows in the same order as reading on
//! (within what the outside world keeps); `poll` never blocks for long; a row is returned or
//! rejected with its place, never dropped.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use crate::dead::DeadRow;
use crate::fault::Fault;

/// A part of a source that one worker reads: a file, a byte range, a partition, a shard.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Split {
    /// Stable across restarts; unique within the source.
    pub id: String,
    /// What the connector needs to open it, in its own encoding.
    pub spec: Vec<u8>,
    /// How much there is to read, in the unit of [`SplitReader::progress`] (bytes, or rows of a generator), as far
    /// as it is known when the job starts.
    pub size: Option<u64>,
}

/// A place in a split, in the connector's own encoding. Empty = the beginning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position(pub Vec<u8>);

/// How much may be read in one `poll`.
#[derive(Clone, Copy, Debug)]
pub struct ReadBudget {
    pub rows: usize,
    pub bytes: usize,
    /// Processing time in ms since the epoch, for rate limits.
    pub now_ms: i64,
}

/// What a `poll` found.
#[derive(Debug)]
pub enum Polled {
    /// Rows (perhaps none, if all were rejected) and the rows that could not be read.
    Rows { rows: RecordBatch, rejected: Vec<DeadRow> },
    /// Nothing now; ask again, at the latest at this processing time in ms.
    Pending { until_ms: i64 },
    /// No row will ever come from this split.
    End,
}

/// Reads one split.
pub trait SplitReader: Send {
    fn poll(&mut self, budget: ReadBudget) -> Result<Polled, Fault>;
    /// Behind the last row returned.
    fn position(&self) -> Position;
    /// How much of the split's `size` has been read: for the share done. Never less than before.
    fn progress(&self) -> u64 {
        0
    }
}

/// A configured source.
pub trait Source: Send + Sync {
    fn schema(&self) -> SchemaRef;
    /// All splits, found when the job starts. `workers` is a hint for sources that can be cut at will.
    fn splits(&self, workers: usize) -> Result<Vec<Split>, Fault>;
    fn open(&self, split: &Split, position: &Position) -> Result<Box<dyn SplitReader>, Fault>;
    /// Whether the input ends by itself.
    fn bounded(&self) -> bool;
}
