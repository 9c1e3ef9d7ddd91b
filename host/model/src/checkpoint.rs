//! Checkpoints and savepoints as they are stored: the manifest, and the ports to stores.
//!
//! Laws: a checkpoint without its manifest does not exist; a manifest names every object that it needs, with length and
//! SHA-256; objects are named by their content and never change; each start of a job claims a *generation*, and what an
//! older generation wants to publish is refused.

use std::ops::Range;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::component::{StateDescriptor, StateScope};
use crate::fault::Fault;
use crate::sink::Committable;
use crate::snapshot::{Chunks, NativeFile, Snapshot, Table};
use crate::time::Now;

/// Version of the manifest and of the tables. Raised when an older reader would misread them.
pub const FORMAT_VERSION: u32 = 1;

/// Settings of checkpoints, as the pipeline file has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointOptions {
    /// A directory, or `s3://BUCKET/PREFIX`.
    pub store: String,
    /// Of a server that speaks S3 and is not AWS.
    pub endpoint: Option<String>,
    pub region: Option<String>,
    /// From the beginning of one to the beginning of the next.
    pub interval_ms: u64,
    /// From the end of one to the beginning of the next, at least.
    pub min_pause_ms: u64,
    /// A checkpoint that takes longer has failed.
    pub timeout_ms: u64,
    /// So many may fail in a row before the job does.
    pub tolerated_failures: u32,
    /// Finished ones that stay.
    pub keep: usize,
    /// They stay also when the job is stopped, so that the next run goes on from there.
    pub retain: bool,
    /// If the newest is damaged, an older one may be used.
    pub fallback: bool,
}

impl Default for CheckpointOptions {
    fn default() -> Self {
        Self {
            store: String::new(),
            endpoint: None,
            region: None,
            interval_ms: 10_000,
            min_pause_ms: 0,
            timeout_ms: 600_000,
            tolerated_failures: 0,
            keep: 1,
            retain: true,
            fallback: false,
        }
    }
}

/// Why a manifest was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// For recovery; removed when newer ones are there.
    Checkpoint,
    /// By a user, kept until deleted, portable.
    Savepoint { name: String },
    /// The last one of a job whose input has ended: there is nothing left to do but to commit.
    End,
}

/// All of a job at one boundary.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub format_version: u32,
    /// Ascending within a job, over all generations.
    pub id: u64,
    pub generation: u64,
    pub purpose: Purpose,
    pub pipeline: String,
    /// ms since the epoch.
    pub created_ms: i64,
    pub workers: usize,
    /// Number of key groups; state can only be restored with the same.
    pub key_groups: u32,
    /// In the order of the plan.
    pub nodes: Vec<NodeManifest>,
    /// One per node and worker that had something to say.
    pub parts: Vec<PartManifest>,
}

/// What was known of a node: for people, and for the check whether it fits.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeManifest {
    pub name: String,
    /// `source`, `operator` or `sink`.
    pub kind: String,
    /// Operator within its component, empty for built-in ones.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub operator: String,
    /// SHA-256 of the component in hex, empty for built-in ones.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub component: String,
    /// Types of the key columns, as people write them; empty for nodes whose state says so itself, or that have none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub key: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub states: Vec<StateManifest>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateManifest {
    pub name: String,
    /// `broadcast`, `split` or `union`; empty for the state of a key.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub scope: String,
    /// As people write types.
    #[serde(rename = "type")]
    pub data_type: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub codec: String,
    pub version: u32,
}

impl StateManifest {
    pub fn of(state: &StateDescriptor) -> Self {
        let StateDescriptor { name, codec, version, .. } = state;
        let (data_type, scope) = (state.type_text(), if state.is_shared() { state.scope.name() } else { "" });
        Self { name: name.clone(), scope: scope.to_owned(), data_type, codec: codec.clone(), version: *version }
    }

    /// Err: it has a type that this version of the program does not know.
    pub fn descriptor(&self) -> Result<StateDescriptor, Fault> {
        let Self { name, scope, data_type, codec, version } = self;
        let unknown = |e: String| Fault::data(format!("state `{name}` was stored as: {e}"));
        let described = StateDescriptor::of_text(name, data_type).map_err(unknown)?;
        let scope = match scope.as_str() {
            "" => StateScope::Key,
            name => StateScope::of_name(name).ok_or_else(|| unknown(format!("the scope `{name}` is not known")))?,
        };
        Ok(StateDescriptor { scope, codec: codec.clone(), version: *version, ..described })
    }

    /// What it keeps, for people: `list of int64 (split)`.
    pub fn type_text(&self) -> String {
        let Self { data_type, scope, .. } = self;
        if scope.is_empty() { data_type.clone() } else { format!("{data_type} ({scope})") }
    }
}

/// What one node held on one worker.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PartManifest {
    pub node: String,
    pub worker: usize,
    /// Clocks of an operator: event time and processing time in ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watermark: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processing_ms: Option<i64>,
    /// States of which it holds values.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub states: Vec<StateManifest>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<StoredTable>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<StoredFile>,
    /// Of a source: what it has still to read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub splits: Vec<SplitState>,
    /// Of a sink: what is to be committed with this checkpoint, in the connector's encoding.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "byte_strings")]
    pub committables: Vec<Vec<u8>>,
}

/// What a node held on a worker when it came to the boundary of a checkpoint: not stored yet.
#[derive(Debug)]
pub struct Part {
    /// By its place in the plan. The dead-letter sink comes behind the last node.
    pub node: usize,
    pub worker: usize,
    pub content: Content,
}

#[derive(Debug)]
pub enum Content {
    /// Of a source.
    Splits(Vec<SplitState>),
    /// Of an operator that uses time.
    State(Now, Snapshot),
    /// Of a sink.
    Committables(Vec<Committable>),
}

/// A split and how far it has been read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitState {
    pub id: String,
    #[serde(with = "bytes")]
    pub spec: Vec<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Empty: nothing was read.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "bytes")]
    pub position: Vec<u8>,
    /// Largest event time seen, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_time: Option<i64>,
    /// It was being read, though perhaps nothing had come of it: side by side with others that were. Those that are read one
    /// behind the other after a restart have late rows.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub open: bool,
}

/// An object of the store: immutable, named by its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRef {
    /// SHA-256 of the content in hex; with it the store finds the object.
    pub sha256: String,
    pub bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredTable {
    pub name: String,
    pub rows: u64,
    /// In the order of key groups. At least one, so that the schema is known.
    pub segments: Vec<Segment>,
}

/// A piece of a table: an Arrow IPC stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    #[serde(flatten)]
    pub object: ObjectRef,
    pub rows: u64,
    /// First and last key group in it.
    pub groups: (u16, u16),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredFile {
    pub name: String,
    #[serde(flatten)]
    pub object: ObjectRef,
}

/// What a store tells of a checkpoint or savepoint without opening it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub id: u64,
    pub generation: u64,
    /// Name of a savepoint.
    pub savepoint: Option<String>,
}

/// Checkpoints and savepoints of one job. Calls block and may take long: not for worker threads. Shared by threads.
pub trait CheckpointStore: Send + Sync {
    /// Where it is, for people.
    fn location(&self) -> String;
    /// Claims the next generation: from now on older ones can't publish.
    fn begin_generation(&self) -> Result<u64, Fault>;
    /// From now on this process, one of several of the start that has claimed `generation`, writes objects for it. It never
    /// publishes. Fault if a newer generation has begun.
    fn join_generation(&self, generation: u64, process: usize) -> Result<(), Fault>;
    /// For such a process: others may have removed all but these objects. Fault if a newer generation has begun.
    fn rely_on(&self, objects: &[ObjectRef]) -> Result<(), Fault>;
    /// Writes a table. Objects that the store has already are not written again. The second value: bytes that were.
    fn write_table(&self, table: Table) -> Result<(StoredTable, u64), Fault>;
    fn write_file(&self, file: &NativeFile) -> Result<(StoredFile, u64), Fault>;
    /// Makes the checkpoint exist. Fault if a newer generation has begun, one with this id or name exists, or one of its
    /// objects was removed meanwhile: then it does not exist, and the next one may. If the store gave no answer, nobody
    /// knows, and all further calls are faults: the job has to start again.
    fn publish(&self, manifest: &Manifest) -> Result<(), Fault>;
    /// All that exist, by id; savepoints among them.
    fn list(&self) -> Result<Vec<Listed>, Fault>;
    /// Reads a manifest and checks its checksum. Does not check the objects.
    fn load(&self, listed: &Listed) -> Result<Manifest, Fault>;
    /// Checks that all objects are there with the right length: the first that is not, by name.
    fn verify(&self, manifest: &Manifest) -> Result<(), Fault>;
    /// Rows of a table in these key groups, checked against the checksums.
    fn read_table(&self, table: &StoredTable, groups: Range<u32>) -> Result<Chunks, Fault>;
    /// The schema of a table.
    fn table_schema(&self, table: &StoredTable) -> Result<arrow::datatypes::SchemaRef, Fault>;
    /// Brings a file to `path`, checked. A link where the store is on the same file system.
    fn read_file(&self, file: &StoredFile, path: &Path) -> Result<(), Fault>;
    /// Removes all checkpoints (not savepoints) but the newest `keep`, then objects that nobody names any more.
    fn retain(&self, keep: usize) -> Result<(), Fault>;
    /// Removes a savepoint or checkpoint.
    fn delete(&self, listed: &Listed) -> Result<(), Fault>;
}

/// Objects by name, in a directory or a bucket. Calls block.
pub trait ObjectStore: Send + Sync {
    /// Where an object is, for people.
    fn location(&self, name: &str) -> String;
    /// Writes an object, durable and visible as a whole when this returns.
    fn put(&self, name: &str, content: &[u8]) -> Result<(), Fault>;
    /// The same with the content of a file.
    fn put_file(&self, name: &str, path: &Path) -> Result<(), Fault>;
    /// Writes an object unless there is one of this name: then false, and that one is as it was.
    fn create(&self, name: &str, content: &[u8]) -> Result<bool, Fault>;
    /// The content; `None` if there is no such object.
    fn get(&self, name: &str) -> Result<Option<Vec<u8>>, Fault>;
    /// The content as a file (perhaps a link to the object itself: not to be written to). False if there is no such object.
    fn get_file(&self, name: &str, path: &Path) -> Result<bool, Fault>;
    /// Bytes of an object; `None` if there is none.
    fn size(&self, name: &str) -> Result<Option<u64>, Fault>;
    /// Names that begin with `prefix` and their sizes, sorted by name.
    fn list(&self, prefix: &str) -> Result<Vec<(String, u64)>, Fault>;
    /// Removes objects; those that are not there are no error.
    fn delete(&self, names: &[String]) -> Result<(), Fault>;
}

/// Bytes in JSON: text as text behind `=`, others in hex behind `0x`.
mod bytes {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn text(bytes: &[u8]) -> String {
        match std::str::from_utf8(bytes) {
            Ok(text) => format!("={text}"),
            Err(_) => bytes.iter().fold(String::from("0x"), |hex, b| hex + &format!("{b:02x}")),
        }
    }

    pub fn parse(text: &str) -> Option<Vec<u8>> {
        if let Some(text) = text.strip_prefix('=') {
            return Some(text.as_bytes().to_vec());
        }
        let hex = text.strip_prefix("0x").filter(|hex| hex.is_ascii() && hex.len() % 2 == 0)?;
        (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).ok()).collect()
    }

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&text(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse(&text).ok_or_else(|| D::Error::custom("neither `=text` nor `0xhex`"))
    }
}

/// The same for a list.
mod byte_strings {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    pub fn serialize<S: Serializer>(list: &[Vec<u8>], serializer: S) -> Result<S::Ok, S::Error> {
        list.iter().map(|b| super::bytes::text(b)).collect::<Vec<_>>().serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Vec<u8>>, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        let parse =
            |text: &String| super::bytes::parse(text).ok_or_else(|| D::Error::custom("neither `=text` nor `0xhex`"));
        texts.iter().map(parse).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_comes_back_from_json() {
        let part = PartManifest {
            node: "in".into(),
            worker: 1,
            watermark: Some(-1),
            splits: vec![SplitState {
                id: "a".into(),
                spec: b"{\"x\":1}".to_vec(),
                size: None,
                position: vec![0xff, 0],
                max_time: Some(7),
                open: true,
            }],
            committables: vec![b"text".to_vec(), vec![0x80]],
            ..PartManifest::default()
        };
        let json = serde_json::to_string(&part).unwrap();
        assert_eq!(serde_json::from_str::<PartManifest>(&json).unwrap(), part);
        for broken in ["text", "0x1", "0xzz", "0xé"] {
            let json = format!(r#"{{"node":"n","worker":0,"committables":["{broken}"]}}"#);
            assert!(serde_json::from_str::<PartManifest>(&json).is_err(), "{broken}");
        }
    }
}
