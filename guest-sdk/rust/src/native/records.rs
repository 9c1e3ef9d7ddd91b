//! The records of `wit/` as plain Rust: what crosses, with input columns borrowed and output columns owned.
//!
//! Law: one record here per record there, with the same names and the same meaning; see `wit/` for it.

/// One column in Arrow layout, borrowed. Buffers may be unaligned: the SDK reads them byte-wise.
#[derive(Clone, Copy, Debug, Default)]
pub struct ColumnRef<'a> {
    pub validity: &'a [u8],
    pub offsets: &'a [u8],
    pub data: &'a [u8],
}

/// One column in Arrow layout, owned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Column {
    pub validity: Vec<u8>,
    pub offsets: Vec<u8>,
    pub data: Vec<u8>,
}

impl Column {
    pub fn borrow(&self) -> ColumnRef<'_> {
        ColumnRef { validity: &self.validity, offsets: &self.offsets, data: &self.data }
    }
}

/// Rows that come in.
#[derive(Clone, Debug, Default)]
pub struct BatchRef<'a> {
    pub rows: u32,
    pub times: &'a [u8],
    pub kinds: &'a [u8],
    pub columns: Vec<ColumnRef<'a>>,
}

/// Rows that go out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    pub rows: u32,
    pub times: Vec<u8>,
    pub kinds: Vec<u8>,
    pub columns: Vec<Column>,
}

impl Batch {
    pub fn borrow(&self) -> BatchRef<'_> {
        let columns = self.columns.iter().map(Column::borrow).collect();
        BatchRef { rows: self.rows, times: &self.times, kinds: &self.kinds, columns }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// ms; the least `i64` before the first watermark.
    pub watermark: i64,
    /// ms since the epoch.
    pub processing: i64,
}

/// The distinct keys of a call. States are owned: the operator changes them in place.
#[derive(Clone, Debug, Default)]
pub struct Keys<'a> {
    pub count: u32,
    pub columns: Vec<ColumnRef<'a>>,
    pub states: Vec<Column>,
}

/// Which clock a timer waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Domain {
    Event,
    Processing,
}

#[derive(Clone, Debug)]
pub struct KeyedBatch<'a> {
    pub input: u16,
    pub rows: BatchRef<'a>,
    pub key_index: &'a [u8],
    pub keys: Keys<'a>,
    pub now: Now,
}

#[derive(Clone, Debug)]
pub struct DueTimers<'a> {
    pub domain: Domain,
    pub key_index: &'a [u8],
    pub times: &'a [u8],
    pub keys: Keys<'a>,
    pub now: Now,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    pub port: u16,
    pub rows: Batch,
    pub parents: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateUpdate {
    pub state: u16,
    pub key_index: Vec<u8>,
    pub values: Column,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryUpdate {
    pub state: u16,
    pub clears: Vec<u8>,
    pub key_index: Vec<u8>,
    pub entry_keys: Vec<Column>,
    pub values: Column,
}

/// Entries of lists and maps that were asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entries {
    pub index: Vec<u8>,
    pub entry_keys: Column,
    pub values: Column,
    pub more: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimerChanges {
    pub domain: Domain,
    pub key_index: Vec<u8>,
    pub times: Vec<u8>,
    pub deletes: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowError {
    pub row: u32,
    pub message: String,
}

/// All that a call did. Operators without state leave all but outputs and errors empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    pub outputs: Vec<Output>,
    pub updates: Vec<StateUpdate>,
    pub entries: Vec<EntryUpdate>,
    pub timers: Vec<TimerChanges>,
    pub errors: Vec<RowError>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    pub bitmap: Vec<u8>,
    pub errors: Vec<RowError>,
}

/// Why a call as a whole failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpError {
    Config(String),
    Fatal(String),
}

impl std::fmt::Display for OpError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            OpError::Config(message) | OpError::Fatal(message) => f.write_str(message),
        }
    }
}

impl std::error::Error for OpError {}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    pub name: String,
    pub type_name: String,
    pub nullable: bool,
    pub children: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    pub name: String,
    pub fields: Vec<Field>,
    pub carry: bool,
    pub broadcast: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateDescriptor {
    pub name: String,
    pub scope: &'static str,
    pub kind: &'static str,
    pub entry_key: Vec<Field>,
    pub value: Field,
    pub codec: String,
    pub version: u32,
    pub ttl: u64,
    pub ttl_on_read: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    pub name: String,
    pub doc: String,
    pub kind: &'static str,
    pub inputs: Vec<Port>,
    pub outputs: Vec<Port>,
    pub states: Vec<StateDescriptor>,
    pub reads_time: bool,
    pub reads_keys: bool,
    pub changes: bool,
}

#[derive(Clone, Debug, Default)]
pub struct OpenContext {
    pub operator: String,
    pub node: String,
    pub config: Vec<(String, String)>,
    pub key_fields: Vec<Field>,
    pub worker: u32,
    pub workers: u32,
}
