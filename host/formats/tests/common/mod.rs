//! Reads and writes whole files in memory.
#![allow(dead_code)] // Each test binary uses its part of this.

use std::io::{Cursor, Write};
use std::sync::{Arc, Mutex};

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::{Schema, SchemaRef};
use serde_json::Value;
use tidemill_formats::BuiltIn;
use tidemill_model::config::Formats;
use tidemill_model::format::{Compression, FormatRef, RowReader, Section};
use tidemill_model::schema::parse_field;
use tidemill_model::{DeadRow, Fault};

pub fn format(name: &str, options: Value) -> FormatRef {
    BuiltIn.make(name, &options).unwrap()
}

/// `a: int64, b: utf8?`
pub fn schema(columns: &str) -> SchemaRef {
    let field = |column: &str| {
        let (name, data_type) = column.split_once(": ").unwrap();
        parse_field(name.trim(), data_type).unwrap()
    };
    Arc::new(Schema::new(columns.split("; ").map(field).collect::<Vec<_>>()))
}

pub fn section(bytes: &[u8], start: u64, end: u64, compression: Compression) -> Section {
    Section { name: "in.txt".into(), input: Box::new(Cursor::new(bytes.to_vec())), start, end, compression }
}

pub fn whole(bytes: &[u8]) -> Section {
    section(bytes, 0, bytes.len() as u64, Compression::None)
}

/// All that is left, `rows` at a time.
pub fn drain(
    reader: &mut dyn RowReader,
    schema: &SchemaRef,
    rows: usize,
) -> Result<(RecordBatch, Vec<DeadRow>), Fault> {
    let (mut batches, mut rejected) = (Vec::new(), Vec::new());
    while let Some(decoded) = reader.read(rows)? {
        assert!(decoded.rows.num_rows() + decoded.rejected.len() <= rows);
        batches.push(decoded.rows);
        rejected.extend(decoded.rejected);
    }
    Ok((concat_batches(schema, &batches).unwrap(), rejected))
}

pub fn read(format: &FormatRef, section: Section, schema: &SchemaRef) -> Result<(RecordBatch, Vec<DeadRow>), Fault> {
    drain(&mut *format.reader(section, schema.clone(), 0)?, schema, 1000)
}

#[derive(Clone, Default)]
pub struct Shared(Arc<Mutex<Vec<u8>>>);

impl Shared {
    pub fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().clone()
    }
}

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

pub fn write(format: &FormatRef, rows: &[RecordBatch]) -> Vec<u8> {
    let out = Shared::default();
    let mut writer = format.writer(Box::new(out.clone()), rows[0].schema()).unwrap();
    rows.iter().for_each(|batch| writer.write(batch).unwrap());
    writer.finish().unwrap();
    drop(writer);
    out.bytes()
}

/// Rows as JSON lines, for comparison.
pub fn lines(rows: &RecordBatch) -> Vec<String> {
    (0..rows.num_rows()).map(|i| tidemill_model::dead::row_json(rows, i)).collect()
}
