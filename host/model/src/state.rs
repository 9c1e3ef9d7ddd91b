//! Keyed state behind a port: one value per key and state descriptor, or many ([`EntryStore`]).
//!
//! A call works on *slots*: `resolve` maps the keys of a batch to slots, which stay valid until the
//! next `release`. Laws: equal keys have equal slots; a slot whose key has neither values nor pins is
//! forgotten; keys of one worker only; what has outlived its [`Ttl`](crate::component::Ttl) is never seen again.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, Int64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::row::{RowConverter, Rows, SortField};

use crate::component::{StateDescriptor, StateKind};
use crate::entries::EntryStore;
use crate::fault::Fault;
use crate::snapshot::{Form, Restore, Snapshot, key_group_field};

/// Handle of a key inside one backend.
pub type Slot = u32;

/// State of one keyed operator on one worker.
pub trait StateBackend: EntryStore + Send {
    /// Slots of the keys in `slots` (cleared first), creating those that are new. `hashes[i]` is xxh3 of `keys.row(i)`.
    fn resolve(&mut self, keys: &Rows, hashes: &[u64], slots: &mut Vec<Slot>) -> Result<(), Fault>;
    /// `resolve` for keys of one int64 column without nulls: same slots as for their encoding, but the
    /// encoding need not be made.
    fn resolve_i64(&mut self, keys: &[i64], hashes: &[u64], slots: &mut Vec<Slot>) -> Result<(), Fault> {
        let column: ArrayRef = Arc::new(Int64Array::from(keys.to_vec()));
        let rows = RowConverter::new(vec![SortField::new(DataType::Int64)])?.convert_columns(&[column])?;
        self.resolve(&rows, hashes, slots)
    }
    /// Bytes of the key of a slot.
    fn key(&self, slot: Slot) -> &[u8];
    /// One value per slot, null where there is none. Of a list or map: whether the slot has entries.
    fn gather(&mut self, state: usize, slots: &[Slot]) -> Result<ArrayRef, Fault>;
    /// Stores one value per slot; null deletes. `values` has the descriptor's type.
    fn scatter(&mut self, state: usize, slots: &[Slot], values: &ArrayRef) -> Result<(), Fault>;
    /// Keeps a key alive (a timer waits for it) or lets it go; counts.
    fn pin(&mut self, slot: Slot);
    fn unpin(&mut self, slot: Slot);
    /// The call is over: forgets those of `slots` that have no value and no pin.
    fn release(&mut self, slots: &[Slot]);
    /// What is read from now on is read at this time of the wall clock, and what is written is written then. Between calls, while
    /// no slots are held but pinned ones. Also removes some of what has expired and nobody asks for: a bounded amount of work.
    fn set_now(&mut self, processing_ms: i64) -> Result<(), Fault>;
    /// Keys held. Some may hold nothing but expired values.
    fn keys(&self) -> usize;
    /// `resolve` for keys by their bytes, as `key` gave them out.
    fn resolve_bytes(&mut self, keys: &BinaryArray, slots: &mut Vec<Slot>) -> Result<(), Fault>;
    /// From now on it holds these states, between two calls. One that it had, with the same name and version, keeps its values;
    /// others start empty; the values of those that are not among them are given up. Types of what is kept stay.
    fn redescribe(&mut self, states: &[StateDescriptor]) -> Result<(), Fault>;
    /// Slots of some keys that have a value of `state`, about `count`, resolved as for a call: they are to be released. `place` is
    /// where the walk stands, empty at its beginning. False: that were all. Keys that get a value while the walk goes on may be
    /// missed, others not.
    fn walk(&mut self, state: usize, place: &mut Vec<u8>, count: usize, slots: &mut Vec<Slot>) -> Result<bool, Fault>;
    /// Freezes all values. Tables are named [`table_name`] and have the columns of [`table_schema`]; a key without a value
    /// has no row. Native files are the backend's own.
    fn snapshot(&mut self, form: Form) -> Result<Snapshot, Fault>;
    /// Takes in tables `state/...` of descriptors that it has, or the files of its own kind. Others stay unread: whether they
    /// may be missing was decided before. Called once, on an empty backend.
    fn restore(&mut self, from: &dyn Restore) -> Result<(), Fault>;
}

/// Where a backend is.
#[derive(Clone, Debug)]
pub struct StateContext<'a> {
    /// Name of the node in the pipeline.
    pub node: &'a str,
    pub worker: usize,
    pub workers: usize,
    pub states: &'a [StateDescriptor],
}

/// The snapshot table of a state: `state/NAME@VERSION`, or `shared/NAME@VERSION` if it belongs to no key. While values are migrated a
/// state has a table for either version.
pub fn table_name(state: &StateDescriptor) -> String {
    let folder = if state.is_shared() { SHARED } else { OF_KEYS };
    format!("{folder}{}@{}", state.name, state.version)
}

const OF_KEYS: &str = "state/";
const SHARED: &str = "shared/";

/// Name and version of the state whose table has this name; none if it is no state's.
pub fn state_of_table(table: &str) -> Option<(&str, u32)> {
    let (name, version) = table.strip_prefix(OF_KEYS).or_else(|| table.strip_prefix(SHARED))?.rsplit_once('@')?;
    Some((name, version.parse().ok()?))
}

/// The column of a table that says when a value was last written; null: nobody knows.
pub const WRITTEN: &str = "written";

/// The column of a table of entries with the entry key, in the encoding that [`crate::entries`] tells.
pub const ENTRY: &str = "entry";

/// Columns of a state's table: key group, key (binary; empty if the state belongs to none), of a list or map the entry key (binary),
/// value, and when it was written if the state has a time to live; version, codec, kind and scope as metadata.
pub fn table_schema(state: &StateDescriptor) -> SchemaRef {
    let pair = |name: &str, text: String| (name.to_owned(), text);
    let kind = (state.kind != StateKind::Value).then(|| pair("kind", state.type_text()));
    let metadata = [pair("version", state.version.to_string()), pair("codec", state.codec.clone())];
    let scope = state.is_shared().then(|| pair("scope", state.scope.name().to_owned()));
    let metadata: HashMap<String, String> = metadata.into_iter().chain(kind).chain(scope).collect();
    let value = Field::new("value", state.field.data_type().clone(), false);
    let mut fields = vec![key_group_field(), Field::new("key", DataType::Binary, false)];
    if state.kind != StateKind::Value {
        fields.push(Field::new(ENTRY, DataType::Binary, false));
    }
    fields.push(value);
    if state.ttl.is_some() {
        fields.push(Field::new(WRITTEN, DataType::Timestamp(TimeUnit::Millisecond, None), true));
    }
    Arc::new(Schema::new_with_metadata(fields, metadata))
}

/// Makes the backend of an operator on a worker.
pub trait StateBackendFactory: Send + Sync {
    fn open(&self, context: &StateContext) -> Result<Box<dyn StateBackend>, Fault>;
}
