//! Rows as JSON objects, one per line.

use std::io::Write;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use arrow::json::LineDelimitedWriter;
use tidemill_model::Fault;
use tidemill_model::format::{Compression, RowWriter};

use crate::column::Column;
use crate::writing::{TextOutput, check_times};

pub(super) fn open(
    output: Box<dyn Write + Send>,
    schema: &Schema,
    compression: Compression,
) -> Result<Box<dyn RowWriter>, Fault> {
    for field in schema.fields() {
        // What cannot be read back is not written.
        Column::new(field.data_type()).map_err(|_| {
            Fault::config(format!("ndjson cannot hold column `{}`: {}", field.name(), field.data_type()))
        })?;
    }
    Ok(Box::new(NdjsonWriter(TextOutput::new(output, compression)?)))
}

struct NdjsonWriter(TextOutput);

impl RowWriter for NdjsonWriter {
    fn write(&mut self, rows: &RecordBatch) -> Result<(), Fault> {
        for (field, column) in rows.schema_ref().fields().iter().zip(rows.columns()) {
            check_times(field.name(), column)?;
        }
        if rows.num_columns() == 0 {
            (0..rows.num_rows()).for_each(|_| self.0.text.extend_from_slice(b"{}\n"));
            return self.0.settle();
        }
        let mut writer = LineDelimitedWriter::new(&mut self.0.text);
        writer
            .write(rows)
            .and_then(|()| writer.finish())
            .map_err(|e| Fault::data(format!("cannot write JSON: {e}")))?;
        self.0.settle()
    }

    fn flush(&mut self) -> Result<(), Fault> {
        self.0.flush()
    }

    fn finish(&mut self) -> Result<(), Fault> {
        self.0.finish()
    }
}
