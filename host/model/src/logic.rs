//! The user's logic behind a port: implemented by components (WASM) and, for tests and comparison,
//! natively. One call takes a batch and returns its effects; a failed call has had none.

use std::ops::Range;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::SchemaRef;

use crate::component::Descriptor;
use crate::entries::{EntryReads, EntryUpdate};
use crate::fault::Fault;
use crate::limits;
use crate::time::Now;

/// Which clock a timer waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum TimeDomain {
    Event = 0,
    Processing = 1,
}

/// Rows for the guest: the columns of the input port, in its order.
#[derive(Clone, Debug)]
pub struct RowsIn {
    pub input: usize,
    pub rows: RecordBatch,
    /// Event times, if the descriptor reads them and the stream has them.
    pub times: Option<ScalarBuffer<i64>>,
    pub kinds: Option<ScalarBuffer<u8>>,
    pub now: Now,
}

/// Rows of a keyed operator with the state of their keys.
#[derive(Clone, Debug)]
pub struct KeyedIn {
    pub rows: RowsIn,
    /// For each row the index of its key in `0..key_count`. Same length as the rows.
    pub key_index: ScalarBuffer<u32>,
    pub key_count: usize,
    /// Key columns of the distinct keys, if the descriptor reads them.
    pub keys: Option<RecordBatch>,
    /// Per state descriptor one value per distinct key, null = no value; of a list or map whether there are entries.
    pub states: Vec<ArrayRef>,
}

/// Timers that are due, in firing order, with the state of their keys.
#[derive(Clone, Debug)]
pub struct TimersIn {
    pub key_index: ScalarBuffer<u32>,
    /// ms since the epoch, one per timer.
    pub times: ScalarBuffer<i64>,
    pub domain: TimeDomain,
    pub key_count: usize,
    pub keys: Option<RecordBatch>,
    pub states: Vec<ArrayRef>,
    pub now: Now,
}

/// Rows that the guest returned for one port. Already validated against the port's schema.
#[derive(Clone, Debug)]
pub struct RowsOut {
    pub port: usize,
    pub rows: RecordBatch,
    /// Index of the input row (or due timer) that each row comes from; `None` means row i comes from row i.
    pub parents: Option<ScalarBuffer<u32>>,
    /// Event times; `None` means that each row has its parent's.
    pub times: Option<ScalarBuffer<i64>>,
    pub kinds: Option<ScalarBuffer<u8>>,
}

/// New values of one state.
#[derive(Clone, Debug)]
pub struct StateUpdate {
    /// Index of the descriptor.
    pub state: usize,
    /// The keys concerned; `None` means all keys of the call in order.
    pub keys: Option<ScalarBuffer<u32>>,
    /// One value per key concerned; null deletes.
    pub values: ArrayRef,
}

/// Set or delete one timer. Timers are unique per (key, domain, time).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimerChange {
    pub key: u32,
    pub domain: TimeDomain,
    pub time: i64,
    pub delete: bool,
}

/// A row (or due timer) that the guest could not process; the others of the batch are not affected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowError {
    pub row: u32,
    pub message: String,
}

/// All that a call did.
#[derive(Clone, Debug, Default)]
pub struct Effects {
    pub outputs: Vec<RowsOut>,
    pub updates: Vec<StateUpdate>,
    pub entries: Vec<EntryUpdate>,
    pub timers: Vec<TimerChange>,
    pub errors: Vec<RowError>,
}

/// Why a call failed. It had no effect.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LogicError {
    /// A trap, a broken limit or a malformed answer. The instance is gone; the next call gets a fresh
    /// one. Worth a retry, and then a search for the row.
    #[error("{0}")]
    Trap(String),
    /// The component said that it can't go on, or can't be opened again. Not worth a retry.
    #[error("{0}")]
    Fatal(String),
}

/// What one call and one instance of a component may use; a user may change it in the pipeline file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestLimits {
    /// Linear memory of one instance.
    pub memory_bytes: usize,
    /// Wall time of one call, in steps of 10 ms.
    pub call_ms: u64,
}

impl Default for GuestLimits {
    fn default() -> Self {
        Self { memory_bytes: limits::GUEST_MEMORY_BYTES_MAX, call_ms: limits::GUEST_CALL_MS_MAX }
    }
}

/// What the operator is told when it is opened.
#[derive(Clone, Debug)]
pub struct OpenContext {
    /// Name of the operator within the component.
    pub operator: String,
    /// Name of the node in the pipeline.
    pub node: String,
    /// Settings of the pipeline file; nested values as JSON text.
    pub config: Vec<(String, String)>,
    /// Key columns of the node, empty if it is not keyed.
    pub key_schema: Option<SchemaRef>,
    pub worker: usize,
    pub workers: usize,
}

/// One opened operator on one worker. It is opened on one thread and called on another.
pub trait Logic: Send {
    fn descriptor(&self) -> &Descriptor;
    /// Stateless, kind `Map`.
    fn process(&mut self, input: &RowsIn) -> Result<Effects, LogicError>;
    /// Kind `Filter`: which rows stay. Same length as the rows, no nulls. Row errors beside it.
    fn keep(&mut self, input: &RowsIn) -> Result<(BooleanArray, Vec<RowError>), LogicError>;
    /// `reads`: lists and maps of the keys of the call, for as long as it takes.
    fn process_keyed(&mut self, input: &KeyedIn, reads: &mut dyn EntryReads) -> Result<Effects, LogicError>;
    fn on_timers(&mut self, due: &TimersIn, reads: &mut dyn EntryReads) -> Result<Effects, LogicError>;
    /// Values of a state as version `from` has written them, in that version's type and without nulls; the same values as the
    /// present version has them, as many, in its type. Of a list or map those of entries. No values: whether it could.
    fn migrate_state(&mut self, name: &str, from: u32, _values: &ArrayRef) -> Result<ArrayRef, LogicError> {
        Err(LogicError::Fatal(format!("state `{name}` can't be migrated from version {from}")))
    }
}

/// Supplies opened operators: one per node and worker.
pub trait LogicFactory: Send + Sync {
    fn descriptor(&self) -> &Descriptor;
    /// SHA-256 in hex of the component that it comes from; empty if it comes from none.
    fn digest(&self) -> &str {
        ""
    }
    /// Errors are the component's own words for a bad configuration, or a trap in `open`.
    fn open(&self, context: &OpenContext) -> Result<Box<dyn Logic>, Fault>;
}

impl RowsIn {
    /// Some of the rows.
    pub fn slice(&self, range: Range<usize>) -> Self {
        let (offset, length) = (range.start, range.len());
        Self {
            input: self.input,
            rows: self.rows.slice(offset, length),
            times: self.times.as_ref().map(|t| t.slice(offset, length)),
            kinds: self.kinds.as_ref().map(|k| k.slice(offset, length)),
            now: self.now,
        }
    }
}
