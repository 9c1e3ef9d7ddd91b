//! `where:` and `select:`: SQL expressions evaluated natively, a batch at a time.
//!
//! Laws: `where` comes first, and drops rows whose condition is null; rows keep their order, event time and kind;
//! a row for which an expression fails (division by zero, a cast) is rejected alone.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion_common::DataFusionError;
use datafusion_physical_expr::PhysicalExpr;
use tidemill_model::fault::OnError;
use tidemill_model::logic::LogicError;
use tidemill_model::plan::Built;
use tidemill_model::{
    Batch, Collector, ConfigError, Fault, FaultKind, Operator, OperatorContext, OperatorFactory, Progress,
};

use crate::poison::{Attempt, Rejects, search};
use crate::sql::{Item, Planner, evaluate, message};

/// A node with a condition, a select list, or both. Error paths: `where`, `select`, `select` and index.
pub fn node(
    where_: Option<&str>,
    select: Option<&[String]>,
    input: &SchemaRef,
    on_error: OnError,
) -> Result<Built, ConfigError> {
    let planner = Planner::new(input)?;
    let condition = where_.map(|w| planner.condition(w)).transpose().map_err(|e| e.inside("where"))?;
    let projection = select.map(|items| Projection::new(&planner, items, input)).transpose();
    let projection = projection.map_err(|e| e.inside("select"))?;
    let schema = projection.as_ref().map_or(input, |p| &p.schema).clone();
    let factory = Arc::new(Factory { steps: Steps { condition, projection }, on_error });
    Ok(Built { factory, outputs: vec![("out".to_owned(), schema)] })
}

#[derive(Clone)]
struct Steps {
    condition: Option<Arc<dyn PhysicalExpr>>,
    projection: Option<Projection>,
}

#[derive(Clone)]
struct Projection {
    columns: Vec<Column>,
    schema: SchemaRef,
}

#[derive(Clone)]
enum Column {
    /// Taken over as it is.
    Input(usize),
    Computed(Arc<dyn PhysicalExpr>),
}

impl Projection {
    fn new(planner: &Planner, items: &[String], input: &SchemaRef) -> Result<Self, ConfigError> {
        let (mut columns, mut fields): (Vec<Column>, Vec<Arc<Field>>) = (Vec::new(), Vec::new());
        for (index, item) in items.iter().enumerate() {
            let at = index.to_string();
            let start = fields.len();
            match planner.item(item).map_err(|e| e.inside(&at))? {
                Item::All => {
                    columns.extend((0..input.fields().len()).map(Column::Input));
                    fields.extend(input.fields().iter().cloned());
                }
                Item::One { name, expr } => {
                    let field = expr.return_field(input).map_err(|e| ConfigError::new(&[&at], message(&e)))?;
                    fields.push(Arc::new(Field::new(name, field.data_type().clone(), field.is_nullable())));
                    columns.push(Column::Computed(expr));
                }
            }
            no_duplicates(&fields, start).map_err(|e| e.inside(&at))?;
        }
        if columns.is_empty() {
            return Err(ConfigError::new(&[], "the select list is empty"));
        }
        Ok(Self { columns, schema: Arc::new(Schema::new(fields)) })
    }

    fn apply(&self, rows: &RecordBatch) -> Result<RecordBatch, DataFusionError> {
        let columns: Result<Vec<ArrayRef>, DataFusionError> = self
            .columns
            .iter()
            .map(|column| match column {
                Column::Input(index) => Ok(rows.column(*index).clone()),
                Column::Computed(expr) => evaluate(expr.as_ref(), rows),
            })
            .collect();
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        Ok(RecordBatch::try_new_with_options(self.schema.clone(), columns?, &options)?)
    }
}

/// Names from `start` on must differ from all before them.
fn no_duplicates(fields: &[Arc<Field>], start: usize) -> Result<(), ConfigError> {
    for (index, field) in fields.iter().enumerate().skip(start) {
        if fields[..index].iter().any(|f| f.name() == field.name()) {
            let message = format!("the column `{}` would come out twice", field.name());
            return Err(ConfigError::new(&[], message).with_help("give it another name with `AS`"));
        }
    }
    Ok(())
}

impl Steps {
    fn apply(&self, batch: &Batch) -> Result<Batch, DataFusionError> {
        let mut kept = match &self.condition {
            None => batch.clone(),
            Some(condition) => filter(condition.as_ref(), batch)?,
        };
        // Hashes belong to the exchange in front of this node.
        kept.hashes = None;
        if let Some(projection) = &self.projection {
            kept.set_rows(projection.apply(kept.rows())?);
        }
        Ok(kept)
    }
}

fn filter(condition: &dyn PhysicalExpr, batch: &Batch) -> Result<Batch, DataFusionError> {
    let mask = evaluate(condition, batch.rows())?;
    let mask = mask.as_boolean();
    let all = mask.null_count() == 0 && !mask.has_false();
    Ok(if all { batch.clone() } else { batch.filter(mask)? })
}

struct Factory {
    steps: Steps,
    on_error: OnError,
}

impl OperatorFactory for Factory {
    fn build(&self, context: &OperatorContext) -> Result<Box<dyn Operator>, Fault> {
        let rejects = Rejects {
            node: context.node.clone(),
            worker: context.worker,
            on_error: self.on_error,
            kind: FaultKind::Data,
        };
        Ok(Box::new(ExprOperator { steps: self.steps.clone(), rejects }))
    }
    fn uses_time(&self) -> bool {
        false
    }
}

struct ExprOperator {
    steps: Steps,
    rejects: Rejects,
}

impl Operator for ExprOperator {
    fn on_batch(&mut self, _input: usize, batch: Batch, out: &mut dyn Collector) -> Result<Progress, Fault> {
        let rows = batch.num_rows();
        if rows == 0 {
            return Ok(Progress::Done);
        }
        let mut task = Task { operator: &*self, batch: &batch, out, parts: Vec::new() };
        // Expressions are deterministic: no use in trying twice.
        search(&mut task, 0..rows, 0, &self.rejects.node)?;
        let mut whole = match task.parts.len() {
            0 => return Ok(Progress::Done),
            1 => task.parts.remove(0),
            // The search for bad rows shall not leave crumbs.
            _ => Batch::concat(&task.parts)?,
        };
        whole.permit.clone_from(&batch.permit);
        out.emit(0, whole);
        Ok(Progress::Done)
    }
}

struct Task<'a> {
    operator: &'a ExprOperator,
    batch: &'a Batch,
    out: &'a mut dyn Collector,
    parts: Vec<Batch>,
}

impl Attempt for Task<'_> {
    fn attempt(&mut self, rows: Range<usize>) -> Result<Result<(), LogicError>, Fault> {
        let part = if rows.len() == self.batch.num_rows() {
            self.batch.clone()
        } else {
            self.batch.slice(rows.start, rows.len())
        };
        match self.operator.steps.apply(&part) {
            Ok(batch) if batch.is_empty() => Ok(Ok(())),
            Ok(batch) => {
                self.parts.push(batch);
                Ok(Ok(()))
            }
            Err(error) => Ok(Err(LogicError::Trap(message(&error)))),
        }
    }

    fn condemn(&mut self, row: usize, error: String) -> Result<(), Fault> {
        self.operator.rejects.reject_row(self.out, self.batch, row, error)
    }
}
