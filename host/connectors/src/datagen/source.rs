//! The source end of `datagen`.

use std::sync::Arc;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::datatypes::{Field, Schema, SchemaRef};
use serde_json::Value;
use tidemill_model::batch::take_rows;
use tidemill_model::config::{ConfigContext, read};
use tidemill_model::limits::BATCH_ROWS_MAX;
use tidemill_model::source::{Polled, Position, ReadBudget, Source, Split, SplitReader};
use tidemill_model::{Batch, ConfigError, Fault};

use super::elements;
use super::generator::{Column, Run};
use super::repeated::Repeated;
use super::settings::DatagenSettings;
use crate::columns::{Columns, entries};
use crate::rate::RateLimit;
use crate::share::{self, Share};

/// See [`DatagenSettings`].
pub fn source(settings: &Value, _: &ConfigContext) -> Result<Arc<dyn Source>, ConfigError> {
    let settings: DatagenSettings = read(settings)?;
    if settings.rate.is_some_and(|rate| !(rate.is_finite() && rate > 0.0)) {
        return Err(ConfigError::new(&["rate"], "`rate` must be above 0"));
    }
    let (content, rows) = match (&settings.elements, &settings.columns) {
        (Some(_), _) if settings.rows.is_some() => {
            return Err(
                ConfigError::new(&["rows"], "`rows` is how many `elements` there are").with_help("leave it out")
            );
        }
        (Some(given), columns) => {
            let columns = columns.as_ref().map(|c| read::<Columns>(c).map_err(|e| e.inside("columns"))).transpose()?;
            let schema = columns.map(|c| c.schema()).transpose()?;
            let rows = elements::rows(given, schema)?;
            let count = rows.num_rows() as u64;
            (Content::Elements(rows), Some(count))
        }
        (None, Some(columns)) => (Content::Columns(generators(columns, settings.seed)?), settings.rows),
        (None, None) => return Err(ConfigError::new(&[], "`datagen` needs `columns` with generators, or `elements`")),
    };
    let schema = content.schema();
    Ok(Arc::new(Datagen(Arc::new(Shared { content, schema, rows, rate: settings.rate }))))
}

fn generators(columns: &Value, seed: u64) -> Result<Vec<Column>, ConfigError> {
    let wrong = |message: &str| ConfigError::new(&["columns"], message);
    let columns = entries(columns).ok_or_else(|| wrong("expected a map of columns to their generators"))?;
    if columns.is_empty() {
        return Err(wrong("no columns are declared"));
    }
    let column = |(name, settings): &(&str, &Value)| {
        Column::new(name, settings, seed).map_err(|e| e.inside(name).inside("columns"))
    };
    columns.iter().map(column).collect()
}

/// What rows are made of.
enum Content {
    Columns(Vec<Column>),
    Elements(RecordBatch),
}

impl Content {
    fn schema(&self) -> SchemaRef {
        match self {
            Self::Columns(columns) => {
                Arc::new(Schema::new(columns.iter().map(|c| c.field.clone()).collect::<Vec<Field>>()))
            }
            Self::Elements(rows) => rows.schema(),
        }
    }

    /// What of a split need not be made for each batch.
    fn repeated(&self, share: Share) -> Result<Vec<Option<Repeated>>, Fault> {
        let Self::Columns(columns) = self else { return Ok(Vec::new()) };
        columns.iter().map(|c| Repeated::new(c, share.row(0), share.stride())).collect()
    }

    /// The rows of `run`, which begin with the `nth` of the split.
    fn make(
        &self,
        schema: &SchemaRef,
        run: Run,
        repeated: &[Option<Repeated>],
        nth: u64,
    ) -> Result<RecordBatch, Fault> {
        match self {
            Self::Columns(columns) => {
                let column = |(column, repeated): (&Column, &Option<Repeated>)| match repeated {
                    Some(repeated) => Ok(repeated.slice(nth, run.rows)),
                    None => column.make(run),
                };
                let arrays = columns.iter().zip(repeated).map(column).collect::<Result<Vec<_>, _>>()?;
                Ok(RecordBatch::try_new(schema.clone(), arrays)?)
            }
            Self::Elements(rows) => {
                let chosen = (0..run.rows as u64).map(|nth| (run.first + nth * run.stride) as u32);
                Ok(take_rows(rows, &UInt32Array::from_iter_values(chosen))?)
            }
        }
    }
}

struct Shared {
    content: Content,
    schema: SchemaRef,
    /// `None`: without end.
    rows: Option<u64>,
    /// Rows per second over all splits.
    rate: Option<f64>,
}

struct Datagen(Arc<Shared>);

impl Source for Datagen {
    fn schema(&self) -> SchemaRef {
        self.0.schema.clone()
    }

    fn splits(&self, workers: usize) -> Result<Vec<Split>, Fault> {
        Ok(Share::splits(workers, self.0.rows))
    }

    fn open(&self, split: &Split, position: &Position) -> Result<Box<dyn SplitReader>, Fault> {
        let share = Share::decode(&split.spec)?;
        let limit = self.0.rate.map(|rate| RateLimit::new(rate / share.stride() as f64));
        let returned = share::returned(position)?;
        let repeated = self.0.content.repeated(share)?;
        Ok(Box::new(DatagenReader { shared: self.0.clone(), share, repeated, limit, returned, row_bytes: None }))
    }

    fn bounded(&self) -> bool {
        self.0.rows.is_some()
    }
}

struct DatagenReader {
    shared: Arc<Shared>,
    share: Share,
    repeated: Vec<Option<Repeated>>,
    limit: Option<RateLimit>,
    returned: u64,
    /// Of the first rows: none were made yet.
    row_bytes: Option<usize>,
}

impl SplitReader for DatagenReader {
    fn poll(&mut self, budget: ReadBudget) -> Result<Polled, Fault> {
        let left = self.shared.rows.map_or(u64::MAX, |rows| self.share.count(rows).saturating_sub(self.returned));
        if left == 0 {
            return Ok(Polled::End);
        }
        let mut rows = budget
            .rows
            .min(BATCH_ROWS_MAX)
            .min(budget.bytes / self.row_bytes.unwrap_or(1))
            .max(1)
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        if let Some(limit) = &mut self.limit {
            match limit.allowance(budget.now_ms) {
                Ok(allowed) => rows = rows.min(allowed),
                Err(until_ms) => return Ok(Polled::Pending { until_ms }),
            }
            limit.take(rows);
        }
        let run = Run { first: self.share.row(self.returned), stride: self.share.stride(), rows };
        let batch = self.shared.content.make(&self.shared.schema, run, &self.repeated, self.returned)?;
        if self.row_bytes.is_none() {
            self.row_bytes = Some((Batch::new(batch.clone()).bytes() / rows).max(1));
        }
        self.returned += rows as u64;
        Ok(Polled::Rows { rows: batch, rejected: Vec::new() })
    }

    fn position(&self) -> Position {
        share::position(self.returned)
    }

    /// In rows: made-up rows have no bytes outside.
    fn progress(&self) -> u64 {
        self.returned
    }
}
