//! Tables, manifests and stores for the tests of this crate.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, UInt16Array};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use tidemill_model::Fault;
use tidemill_model::checkpoint::{
    CheckpointStore, FORMAT_VERSION, Manifest, NodeManifest, PartManifest, Purpose, StoredFile, StoredTable,
};
use tidemill_model::limits::KEY_GROUPS;
use tidemill_model::snapshot::{Chunks, Table, key_group_field};

pub fn schema() -> SchemaRef {
    let fields =
        vec![key_group_field(), Field::new("key", DataType::Int64, false), Field::new("value", DataType::Utf8, true)];
    let metadata = [("version".to_owned(), "3".to_owned())].into_iter().collect();
    Arc::new(Schema::new_with_metadata(fields, metadata))
}

/// `rows` rows, key groups ascending over all of them; `seed` tells tables apart.
pub fn rows(rows: usize, seed: i64) -> RecordBatch {
    let groups = (0..rows).map(|i| (i * KEY_GROUPS as usize / rows.max(1)) as u16);
    let values = (0..rows).map(|i| (i % 7 != 0).then(|| format!("value {} {seed}", i % 100)));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(UInt16Array::from_iter_values(groups)),
        Arc::new(Int64Array::from_iter_values((0..rows as i64).map(|i| i * 1_000_003 + seed))),
        Arc::new(values.collect::<StringArray>()),
    ];
    RecordBatch::try_new(schema(), columns).unwrap()
}

/// A table of these rows in chunks.
pub fn table(name: &str, rows: &RecordBatch, chunk_rows: usize) -> Table {
    let starts = (0..rows.num_rows()).step_by(chunk_rows);
    let chunks: Vec<Result<RecordBatch, Fault>> =
        starts.map(|start| Ok(rows.slice(start, chunk_rows.min(rows.num_rows() - start)))).collect();
    Table { name: name.into(), schema: rows.schema(), chunks: Box::new(chunks.into_iter()) }
}

pub fn collect(chunks: Chunks) -> Result<RecordBatch, Fault> {
    let chunks: Vec<RecordBatch> = chunks.collect::<Result<_, _>>()?;
    Ok(concat_batches(&schema(), &chunks)?)
}

pub fn manifest(id: u64, generation: u64, tables: Vec<StoredTable>, files: Vec<StoredFile>) -> Manifest {
    Manifest {
        format_version: FORMAT_VERSION,
        id,
        generation,
        purpose: Purpose::Checkpoint,
        pipeline: "test".into(),
        created_ms: 1_700_000_000_000,
        workers: 1,
        key_groups: KEY_GROUPS,
        nodes: vec![NodeManifest { name: "count".into(), kind: "operator".into(), ..NodeManifest::default() }],
        parts: vec![PartManifest { node: "count".into(), tables, files, ..PartManifest::default() }],
    }
}

/// Writes a checkpoint with one table of `rows` rows, which `seed` makes its own.
pub fn write(store: &dyn CheckpointStore, id: u64, generation: u64, rows: usize, seed: i64) -> Result<Manifest, Fault> {
    let (stored, _) = store.write_table(table("state/count", &self::rows(rows, seed), 1000))?;
    let manifest = manifest(id, generation, vec![stored], Vec::new());
    store.publish(&manifest)?;
    Ok(manifest)
}
