//! Snapshots: what an operator holds at a boundary, frozen at once and written out while the operator goes on; and
//! the way back.
//!
//! Laws: `snapshot` takes milliseconds, whatever the size of the state: the work is in the iterators and in [`Files`], which
//! other threads drive; tables are *portable*: any backend and any number of workers can restore them. A keyed table's first column is
//! [`KEY_GROUP`], and its rows ascend by it. Files are a backend's own form: only the same backend restores them.

use std::any::Any;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{RecordBatch, UInt16Array};
use arrow::datatypes::{DataType, Field, SchemaRef};

use crate::component::{StateDescriptor, StateScope};
use crate::fault::Fault;
use crate::limits::KEY_GROUPS;
use crate::state::state_of_table;
use crate::time::Now;

/// First column of every keyed table: uint16, not null.
pub const KEY_GROUP: &str = "key_group";
/// Rows in a chunk, at most: what a writer holds in memory at a time.
pub const CHUNK_ROWS_MAX: usize = 64 << 10;
/// Bytes of keys and values in a chunk, about: it may be passed by one row.
pub const CHUNK_BYTES_MAX: usize = 16 << 20;

/// Rows of a table in pieces, each of at most [`CHUNK_ROWS_MAX`] rows.
pub type Chunks = Box<dyn Iterator<Item = Result<RecordBatch, Fault>> + Send>;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Tables only: a savepoint.
    Portable,
    /// Files where the backend has some of its own, tables for the rest: a checkpoint.
    Native,
}

/// Names the files of a backend as soon as they are written: for the thread that stores them, since it may wait.
pub type Files = Box<dyn FnOnce() -> Result<Vec<NativeFile>, Fault> + Send>;

/// What one operator on one worker holds, frozen.
#[derive(Default)]
pub struct Snapshot {
    /// States that it holds; a state that is being migrated is there in both versions.
    pub states: Vec<StateDescriptor>,
    pub tables: Vec<Table>,
    /// None: there are only tables.
    pub files: Option<Files>,
}

/// Rows of one kind: the values of a state, timers, panes.
pub struct Table {
    /// Unique within the operator: `state/NAME@VERSION`, `shared/NAME@VERSION`, `timers/event`, `panes`.
    pub name: String,
    /// With what is to be known of the rows as metadata (`version`, `codec`).
    pub schema: SchemaRef,
    pub chunks: Chunks,
}

/// An immutable file of a backend.
#[derive(Clone)]
pub struct NativeFile {
    /// Unique within the operator and worker; how the backend knows it when it comes back.
    pub name: String,
    pub path: PathBuf,
    /// The file stays until this is dropped.
    pub guard: Arc<dyn Any + Send + Sync>,
}

/// What there is to restore for one operator on one worker.
pub trait Restore {
    /// Key groups that this worker owns.
    fn groups(&self) -> Range<u32>;
    /// Where the clocks of the operator stood at the boundary.
    fn now(&self) -> Now;
    /// Name and schema of each table, in the order of names.
    fn tables(&self) -> Vec<(String, SchemaRef)>;
    /// About how many rows of a table belong to [`Restore::groups`]: a hint for whoever makes room.
    fn rows(&self, _table: &str) -> u64 {
        0
    }
    /// States that it holds, those left out that the user gives up.
    fn states(&self) -> Vec<StateDescriptor> {
        self.tables().iter().filter_map(|(table, schema)| state_in(table, schema)).collect()
    }
    /// Rows of a table that belong to [`Restore::groups`]; key groups ascend within what one worker has written, of
    /// which there may be several. None if there is no such table.
    fn chunks(&self, table: &str) -> Result<Chunks, Fault>;
    /// All rows of a table, whatever their key group, in the order of the workers that have written them.
    fn all_chunks(&self, table: &str) -> Result<Chunks, Fault>;
    /// Names of states that the user gives up (`--drop-state`): their tables are in [`Restore::tables`] no more.
    fn dropped(&self) -> &[String] {
        &[]
    }
    /// The files that each earlier worker wrote whose key groups overlap with these.
    fn files(&self) -> Result<Vec<FileSet>, Fault>;
}

/// Native files of one earlier worker, on this machine. They are never changed; they may be linked.
#[derive(Clone, Debug)]
pub struct FileSet {
    /// Key groups that the earlier worker owned.
    pub groups: Range<u32>,
    /// Name and path.
    pub files: Vec<(String, PathBuf)>,
}

/// The state that a table holds; none if it holds something else.
pub fn state_in(table: &str, schema: &SchemaRef) -> Option<StateDescriptor> {
    let (name, version) = state_of_table(table)?;
    let data_type = schema.field_with_name("value").ok()?.data_type().clone();
    let codec = schema.metadata().get("codec").cloned().unwrap_or_default();
    let described = match schema.metadata().get("kind") {
        Some(kind) => StateDescriptor::of_text(name, kind).ok()?,
        None => StateDescriptor::value(name, data_type),
    };
    let scope = schema.metadata().get("scope").map_or(Some(StateScope::Key), |scope| StateScope::of_name(scope))?;
    Some(StateDescriptor { scope, codec, version, ..described })
}

/// The field of [`KEY_GROUP`].
pub fn key_group_field() -> Field {
    Field::new(KEY_GROUP, DataType::UInt16, false)
}

/// The key groups of a chunk's rows.
pub fn key_groups(chunk: &RecordBatch) -> Result<&UInt16Array, Fault> {
    let column = chunk.columns().first().and_then(|c| c.as_any().downcast_ref::<UInt16Array>());
    column.ok_or_else(|| Fault::data("a table of a snapshot does not begin with the key group"))
}

/// Items in the order of their key groups, those of one group as they came.
#[derive(Debug, Default)]
pub struct ByGroup {
    pub items: Vec<u32>,
    /// By group, the place behind its last item.
    ends: Vec<usize>,
}

impl ByGroup {
    /// Sorts what `items` gives, which is asked twice; `group` is asked once per item. A counting sort: beside its result it needs two
    /// bytes per item.
    pub fn sort<I: Iterator<Item = u32>>(items: impl Fn() -> I, group: impl Fn(u32) -> u32) -> Self {
        let groups: Vec<u16> = items().map(|item| group(item) as u16).collect();
        let mut next = vec![0; KEY_GROUPS as usize];
        groups.iter().for_each(|&group| next[usize::from(group)] += 1);
        let mut before = 0;
        for next in &mut next {
            (before, *next) = (before + *next, before);
        }
        let mut sorted = vec![0; groups.len()];
        for (item, group) in items().zip(groups) {
            let place = &mut next[usize::from(group)];
            sorted[*place] = item;
            *place += 1;
        }
        Self { items: sorted, ends: next }
    }

    /// The group of the item at each place; places ascend.
    pub fn groups(&self, places: impl IntoIterator<Item = usize>) -> UInt16Array {
        let mut places = places.into_iter().peekable();
        let first = places.peek().map_or(0, |&place| self.ends.partition_point(|&end| end <= place));
        let mut group = first;
        UInt16Array::from_iter_values(places.map(|place| {
            while self.ends[group] <= place {
                group += 1;
            }
            group as u16
        }))
    }
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table").field("name", &self.name).field("schema", &self.schema).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for NativeFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NativeFile").field("name", &self.name).field("path", &self.path).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot").field("tables", &self.tables).field("files", &self.files.is_some()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::ByGroup;

    #[test]
    fn items_are_sorted_by_group_and_stay_in_order_within() {
        let groups = [(7, 1023), (1, 5), (9, 0), (3, 5), (2, 1023), (0, 4)];
        let group = |item| groups.iter().find(|pair| pair.0 == item).unwrap().1;
        let sorted = ByGroup::sort(|| groups.iter().map(|pair| pair.0), group);
        assert_eq!(sorted.items, [9, 0, 1, 3, 7, 2]);
        assert_eq!(sorted.groups(0..6).values(), &[0, 4, 5, 5, 1023, 1023]);
        assert_eq!(sorted.groups([2, 5]).values(), &[5, 1023]);
        assert_eq!(sorted.groups([]).values(), &[] as &[u16]);
        assert_eq!(ByGroup::sort(std::iter::empty, group).items, [0u32; 0]);
    }
}
