//! Rows as CSV. Null is an empty field, empty text is a pair of quotes: reading tells them apart.

use std::fmt::Write as _;
use std::io::Write;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Schema};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use tidemill_model::Fault;
use tidemill_model::format::RowWriter;
use tidemill_model::schema::type_name;

use super::{Csv, Dialect};
use crate::column::Column;
use crate::writing::{TextOutput, check_times};

pub(super) fn open(csv: &Csv, output: Box<dyn Write + Send>, schema: &Schema) -> Result<Box<dyn RowWriter>, Fault> {
    for field in schema.fields() {
        let flat = !matches!(field.data_type(), DataType::List(_) | DataType::Struct(_));
        if !flat || Column::new(field.data_type()).is_err() {
            let (name, data_type) = (field.name(), type_name(field.data_type()));
            return Err(Fault::config(format!("csv cannot hold column `{name}` of type {data_type}"))
                .with_help("leave it out with `select`, or use ndjson or parquet"));
        }
    }
    let null = csv.options.nulls.first().cloned().unwrap_or_default();
    let mut writer = CsvWriter {
        output: TextOutput::new(output, csv.options.compression.of())?,
        dialect: csv.dialect,
        null,
        nulls: csv.options.nulls.clone(),
        cell: String::new(),
    };
    if csv.options.header {
        writer.header(schema);
    }
    Ok(Box::new(writer))
}

struct CsvWriter {
    output: TextOutput,
    dialect: Dialect,
    null: String,
    /// Texts that must stand in quotes, since without quotes they would be read as null.
    nulls: Vec<String>,
    cell: String,
}

impl RowWriter for CsvWriter {
    fn write(&mut self, rows: &RecordBatch) -> Result<(), Fault> {
        for (field, column) in rows.schema_ref().fields().iter().zip(rows.columns()) {
            check_times(field.name(), column)?;
        }
        let cells = rows.columns().iter().map(Cells::new).collect::<Result<Vec<_>, _>>()?;
        for row in 0..rows.num_rows() {
            for (i, cells) in cells.iter().enumerate() {
                if i > 0 {
                    self.output.text.push(self.dialect.delimiter);
                }
                self.cell(cells, row)?;
            }
            self.output.text.push(b'\n');
        }
        self.output.settle()
    }

    fn flush(&mut self) -> Result<(), Fault> {
        self.output.flush()
    }

    fn finish(&mut self) -> Result<(), Fault> {
        self.output.finish()
    }
}

/// A column with what shows its values.
enum Cells<'a> {
    Text(&'a ArrayRef),
    Other(&'a ArrayRef, ArrayFormatter<'a>),
}

impl<'a> Cells<'a> {
    fn new(column: &'a ArrayRef) -> Result<Self, Fault> {
        const OPTIONS: FormatOptions<'static> = FormatOptions::new().with_display_error(false);
        match column.data_type() {
            DataType::Utf8 => Ok(Self::Text(column)),
            _ => Ok(Self::Other(column, ArrayFormatter::try_new(column, &OPTIONS)?)),
        }
    }
}

impl CsvWriter {
    fn header(&mut self, schema: &Schema) {
        for (i, field) in schema.fields().iter().enumerate() {
            if i > 0 {
                self.output.text.push(self.dialect.delimiter);
            }
            put_text(&mut self.output.text, field.name(), self.dialect, field.name().is_empty());
        }
        self.output.text.push(b'\n');
    }

    fn cell(&mut self, cells: &Cells, row: usize) -> Result<(), Fault> {
        let out = &mut self.output.text;
        match cells {
            Cells::Text(column) | Cells::Other(column, _) if column.is_null(row) => {
                out.extend_from_slice(self.null.as_bytes());
            }
            Cells::Text(column) => {
                let text = column.as_string::<i32>().value(row);
                let looks_null = text.is_empty() || self.nulls.iter().any(|n| n == text);
                put_text(out, text, self.dialect, looks_null);
            }
            Cells::Other(_, formatter) => {
                self.cell.clear();
                write!(self.cell, "{}", formatter.value(row))
                    .map_err(|_| Fault::data("cannot write CSV: a value has no text"))?;
                let looks_null = self.cell.is_empty() || self.nulls.contains(&self.cell);
                put_text(out, &self.cell, self.dialect, looks_null);
            }
        }
        Ok(())
    }
}

fn put_text(out: &mut Vec<u8>, text: &str, dialect: Dialect, always_quote: bool) {
    let structural = |b: u8| b == dialect.delimiter || b == dialect.quote || b == b'\n' || b == b'\r';
    // A line that begins like a byte order mark would lose it.
    if !always_quote && !text.bytes().any(structural) && !text.starts_with('\u{feff}') {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    out.push(dialect.quote);
    for byte in text.bytes() {
        if byte == dialect.quote {
            out.push(byte);
        }
        out.push(byte);
    }
    out.push(dialect.quote);
}
