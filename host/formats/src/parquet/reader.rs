//! Rows of the row groups that begin in a section.

use std::io;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::compute;
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use tidemill_model::dead::row_json;
use tidemill_model::format::{Decoded, RowReader, Section};
use tidemill_model::limits::BATCH_ROWS_MAX;
use tidemill_model::schema::type_name;
use tidemill_model::{DeadRow, Fault, panics};

use super::chunks::Chunks;
use super::fit::{allowed, both, can_fit, fit, plain_type, tighten};
use crate::csv::no_column;
use crate::lines::read_fault;
use crate::reject::{Flaw, dead_row};

pub(super) fn infer(section: Section) -> Result<SchemaRef, Fault> {
    let name = section.name.clone();
    let builder = builder(section)?;
    let fields = builder.schema().fields().iter().map(|field| match plain_type(field.data_type()) {
        Some(plain) => Ok(Field::new(field.name(), plain, field.is_nullable())),
        None => {
            let (column, data_type) = (field.name(), field.data_type());
            Err(Fault::config(format!(
                "`{name}`: column `{column}` has type {data_type}, which a pipeline cannot hold"
            ))
            .with_help("name the columns that you want under `columns`"))
        }
    });
    Ok(Arc::new(Schema::new(fields.collect::<Result<Vec<_>, _>>()?)))
}

pub(super) fn open(section: Section, schema: SchemaRef, skip: u64) -> Result<Box<dyn RowReader>, Fault> {
    let (name, start, end) = (section.name.clone(), section.start, section.end);
    let builder = builder(section)?;
    let order = place_columns(&name, builder.schema(), &schema)?;
    let (groups, rows_before) = guarded(&name, || groups_in(builder.metadata(), start, end))?;
    let mask = ProjectionMask::roots(builder.parquet_schema(), order.iter().copied());
    // The decoder gives the columns in the order of the file.
    let mut in_file: Vec<usize> = order.clone();
    in_file.sort_unstable();
    let places = order.iter().map(|root| in_file.binary_search(root).unwrap_or_default()).collect();
    let skip_rows = usize::try_from(skip).map_err(|_| Fault::internal("a position beyond the address space"))?;
    let reader = guarded(&name, || {
        builder
            .with_row_groups(groups)
            .with_projection(mask)
            .with_offset(skip_rows)
            .with_batch_size(BATCH_ROWS_MAX)
            .build()
    })?;
    Ok(Box::new(ParquetReader { name, schema, places, reader, buffer: None, rows_before, rows: skip }))
}

fn builder(section: Section) -> Result<ParquetRecordBatchReaderBuilder<Chunks>, Fault> {
    let Section { name, input, .. } = section;
    let chunks = Chunks::new(input).map_err(|e| read_fault(&name, &e))?;
    // The schema that Arrow writers hide in the metadata would only bring exotic types back.
    let options = ArrowReaderOptions::new();
    guarded(&name, || ParquetRecordBatchReaderBuilder::try_new_with_options(chunks, options))
}

/// Which root column of the file each declared column is.
fn place_columns(file: &str, have: &Schema, want: &Schema) -> Result<Vec<usize>, Fault> {
    let place = |field: &Arc<Field>| {
        let Some((root, found)) = have.column_with_name(field.name()) else {
            let names: Vec<String> = have.fields().iter().map(|f| f.name().clone()).collect();
            return Err(no_column(file, field.name(), &names));
        };
        if can_fit(found.data_type(), field.data_type()) {
            return Ok(root);
        }
        let (column, have, want) = (field.name(), type_name(found.data_type()), type_name(field.data_type()));
        Err(Fault::config(format!("`{file}`: column `{column}` is {have}, which cannot be read as {want}")))
    };
    want.fields().iter().map(place).collect()
}

/// The row groups that begin in `start..end`, and the rows in front of them.
fn groups_in(metadata: &ParquetMetaData, start: u64, end: u64) -> Result<(Vec<usize>, u64), ParquetError> {
    let (mut groups, mut rows_before) = (Vec::new(), 0u64);
    for (i, group) in metadata.row_groups().iter().enumerate() {
        // Panics if the offset in a damaged footer is negative.
        let first = group.columns().iter().map(|c| c.byte_range().0).min().unwrap_or(0);
        if first < start {
            rows_before = rows_before.saturating_add(group.num_rows().max(0) as u64);
        } else if first < end {
            groups.push(i);
        }
    }
    Ok((groups, rows_before))
}

struct ParquetReader {
    name: String,
    schema: SchemaRef,
    /// For each declared column its place among the columns that are decoded.
    places: Vec<usize>,
    reader: ParquetRecordBatchReader,
    /// Rows decoded and not yet returned.
    buffer: Option<RecordBatch>,
    rows_before: u64,
    rows: u64,
}

impl RowReader for ParquetReader {
    fn read(&mut self, rows: usize) -> Result<Option<Decoded>, Fault> {
        let batch = match self.buffer.take() {
            Some(batch) => batch,
            None => match guarded(&self.name, || self.reader.next().transpose())? {
                Some(batch) => batch,
                None => return Ok(None),
            },
        };
        let now = batch.num_rows().min(rows);
        if now < batch.num_rows() {
            self.buffer = Some(batch.slice(now, batch.num_rows() - now));
        }
        let decoded = self.fit_rows(&batch.slice(0, now))?;
        self.rows += now as u64;
        Ok(Some(decoded))
    }

    fn position(&self) -> u64 {
        self.rows
    }
}

impl ParquetReader {
    fn fit_rows(&self, batch: &RecordBatch) -> Result<Decoded, Fault> {
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.places.len());
        let mut fine: Option<BooleanArray> = None;
        let mut misfits = Vec::new();
        for (&place, field) in self.places.iter().zip(self.schema.fields()) {
            let before = batch.column(place);
            let column = fit(before, field.data_type())?;
            let ok =
                [lossless(before, &column)?, allowed(&column, field)].into_iter().flatten().reduce(|a, b| both(&a, &b));
            if let Some(ok) = ok.filter(|ok| ok.false_count() > 0) {
                fine = Some(fine.map_or_else(|| ok.clone(), |all| both(&all, &ok)));
                misfits.push((place, field.clone(), ok));
            }
            columns.push(column);
        }
        let mut rejected = Vec::new();
        if let Some(fine) = &fine {
            rejected = self.dead_rows(batch, fine, &misfits);
            columns = columns.iter().map(|c| compute::filter(c, fine)).collect::<Result<_, _>>()?;
        }
        let count = fine.map_or(batch.num_rows(), |fine| fine.true_count());
        let columns = columns.iter().zip(self.schema.fields()).map(|(c, f)| tighten(c, f.data_type()));
        let columns = columns.collect::<Result<Vec<_>, ArrowError>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(count));
        let rows = RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)?;
        Ok(Decoded { rows, rejected })
    }

    fn dead_rows(
        &self,
        batch: &RecordBatch,
        fine: &BooleanArray,
        misfits: &[(usize, Arc<Field>, BooleanArray)],
    ) -> Vec<DeadRow> {
        let dead = |row: usize| {
            let first = misfits.iter().find(|(_, _, ok)| !ok.value(row));
            let flaw = first.map_or_else(Flaw::null, |(place, field, _)| {
                let value = batch.column(*place);
                let shown = arrow::util::display::array_value_to_string(value, row).unwrap_or_default();
                let flaw = match value.is_null(row) {
                    true => Flaw::null(),
                    false => Flaw::value(shown.as_bytes(), &type_name(field.data_type())),
                };
                flaw.within(field.name())
            });
            let line = self.rows_before + self.rows + row as u64 + 1;
            dead_row(&self.name, Some(line), row_json(batch, row).as_bytes(), &flaw)
        };
        (0..batch.num_rows()).filter(|&row| !fine.value(row)).map(dead).collect()
    }
}

/// Rows in which converting has made a value null; `None` if there is none.
fn lossless(before: &ArrayRef, after: &ArrayRef) -> Result<Option<BooleanArray>, ArrowError> {
    if nulls_inside(after) == nulls_inside(before) {
        return Ok(None);
    }
    let kept = |row: usize| nulls_inside(&after.slice(row, 1)) == nulls_inside(&before.slice(row, 1));
    Ok(Some((0..before.len()).map(|row| Some(kept(row))).collect()))
}

/// Values that are null, at any depth below the ones that are not.
fn nulls_inside(column: &ArrayRef) -> usize {
    use arrow::array::AsArray;
    use arrow::datatypes::DataType;
    let inner = match column.data_type() {
        DataType::List(_) => {
            let list = column.as_list::<i32>();
            let (from, to) = (list.offsets()[0] as usize, list.offsets()[list.len()] as usize);
            nulls_inside(&list.values().slice(from, to - from))
        }
        DataType::Struct(_) => column.as_struct().columns().iter().map(nulls_inside).sum(),
        _ => 0,
    };
    column.logical_null_count() + inner
}

/// Runs the decoder, whose asserts must not take the job down: a damaged file is the user's, not our, bug.
fn guarded<T, E: Into<ParquetReadError>>(name: &str, decode: impl FnOnce() -> Result<T, E>) -> Result<T, Fault> {
    match panics::caught(decode) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(error.into().fault(name)),
        Err(_) => Err(damaged(name, "the decoder gave up on it")),
    }
}

struct ParquetReadError(Box<dyn std::error::Error + Send + Sync>);

impl From<ParquetError> for ParquetReadError {
    fn from(error: ParquetError) -> Self {
        match error {
            ParquetError::External(inner) => Self(inner),
            other => Self(Box::new(other)),
        }
    }
}

impl From<ArrowError> for ParquetReadError {
    fn from(error: ArrowError) -> Self {
        Self(Box::new(error))
    }
}

impl ParquetReadError {
    fn fault(&self, name: &str) -> Fault {
        match self.0.downcast_ref::<io::Error>() {
            Some(error) => read_fault(name, error),
            None => damaged(name, &self.0.to_string()),
        }
    }
}

fn damaged(name: &str, why: &str) -> Fault {
    Fault::io(format!("cannot read `{name}` as Parquet: {why}"))
        .with_help("the file is damaged, cut off, or of another format")
}
