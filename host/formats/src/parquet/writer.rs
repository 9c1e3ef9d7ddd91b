//! Rows into row groups.

use std::io::{self, Write};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use tidemill_model::Fault;
use tidemill_model::format::RowWriter;
use tidemill_model::schema::type_name;

use super::ParquetCompression;
use super::fit::plain_type;
use crate::writing::write_fault;

/// Memory of a row group in the making: bounds what a sink holds per worker.
const GROUP_BYTES_MAX: usize = 64 << 20;

pub(super) fn open(
    compression: ParquetCompression,
    output: Box<dyn Write + Send>,
    schema: SchemaRef,
) -> Result<Box<dyn RowWriter>, Fault> {
    for field in schema.fields() {
        if plain_type(field.data_type()).is_none() {
            let (name, data_type) = (field.name(), type_name(field.data_type()));
            return Err(Fault::config(format!("parquet cannot hold column `{name}` of type {data_type}")));
        }
    }
    if schema.fields().is_empty() {
        return Err(Fault::config("parquet cannot hold rows without columns"));
    }
    let compression = match compression {
        ParquetCompression::Zstd => Compression::ZSTD(ZstdLevel::default()),
        ParquetCompression::Snappy => Compression::SNAPPY,
        ParquetCompression::None => Compression::UNCOMPRESSED,
    };
    let properties = WriterProperties::builder().set_compression(compression).build();
    let writer = ArrowWriter::try_new(output, schema, Some(properties)).map_err(fault)?;
    Ok(Box::new(ParquetWriter { writer, finished: false }))
}

struct ParquetWriter {
    writer: ArrowWriter<Box<dyn Write + Send>>,
    finished: bool,
}

impl RowWriter for ParquetWriter {
    fn write(&mut self, rows: &RecordBatch) -> Result<(), Fault> {
        self.writer.write(rows).map_err(fault)?;
        if self.writer.in_progress_size() >= GROUP_BYTES_MAX {
            self.writer.flush().map_err(fault)?;
        }
        Ok(())
    }

    /// A file can be read only once its footer is written: small row groups would cost space and show nothing.
    fn flush(&mut self) -> Result<(), Fault> {
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Fault> {
        if self.finished {
            return Ok(());
        }
        self.finished = true;
        self.writer.finish().map_err(fault)?;
        self.writer.inner_mut().flush().map_err(|e| write_fault(&e))
    }
}

fn fault(error: ParquetError) -> Fault {
    match error {
        ParquetError::External(inner) => match inner.downcast_ref::<io::Error>() {
            Some(error) => write_fault(error),
            None => Fault::io(format!("cannot write Parquet: {inner}")),
        },
        other => Fault::io(format!("cannot write Parquet: {other}")),
    }
}
