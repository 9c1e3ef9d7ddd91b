//! What comes out of a join: the condition over both sides and the select list.
//!
//! Laws: only columns that are read are kept and copied; a pair for which an expression fails is rejected alone, and its rows count as
//! partners.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::buffer::ScalarBuffer;
use arrow::compute::{FilterBuilder, prep_null_mask_filter};
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion_common::DataFusionError;
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::utils::{collect_columns, reassign_expr_columns};
use tidemill_model::join::{JoinType, SIDES};
use tidemill_model::logic::LogicError;
use tidemill_model::{Batch, Collector, ConfigError, Fault};

use crate::poison::{Attempt, Rejects, search};
use crate::sql::sides::plain_name;
use crate::sql::{Item, Planner, evaluate, message};

pub(super) struct Output {
    /// The columns of each side that are read, by their indices.
    pub read: [Vec<usize>; 2],
    /// The columns that are read, left before right, then those of the join itself.
    joined: SchemaRef,
    condition: Option<Arc<dyn PhysicalExpr>>,
    columns: Vec<Arc<dyn PhysicalExpr>>,
    pub schema: SchemaRef,
}

impl Output {
    /// `own`: columns that the join itself has. Error paths: `where`, `select` and index, `join`.
    pub fn new(
        inputs: [&SchemaRef; 2],
        own: &[Field],
        join_type: JoinType,
        condition: Option<&str>,
        select: Option<&[String]>,
    ) -> Result<Self, ConfigError> {
        let all: SchemaRef = Arc::new(both(inputs, own, join_type));
        let planner = Planner::of_sides(&all)?;
        let condition = condition.map(|text| planner.condition(text)).transpose().map_err(|e| e.inside("where"))?;
        let items = match select {
            Some(items) => selected(&planner, items, &all, inputs).map_err(|e| e.inside("select"))?,
            None => {
                let items = items_of(&all, inputs, "*").ok_or_else(|| ConfigError::new(&["join"], "no columns"))?;
                no_name_twice(inputs)?;
                items
            }
        };
        Self::pruned(&all, inputs, condition, items)
    }

    /// Leaves out the columns that nobody reads.
    fn pruned(
        all: &SchemaRef,
        inputs: [&SchemaRef; 2],
        condition: Option<Arc<dyn PhysicalExpr>>,
        items: Vec<(String, Arc<dyn PhysicalExpr>)>,
    ) -> Result<Self, ConfigError> {
        let wrong = |e: &DataFusionError| ConfigError::new(&["select"], message(e));
        let read = items.iter().map(|(_, expr)| expr).chain(&condition).flat_map(collect_columns);
        let mut read: BTreeSet<usize> = read.map(|column| column.index()).collect();
        let (left, right) = (inputs[0].fields().len(), inputs[1].fields().len());
        let of_side = |range: Range<usize>| read.range(range.clone()).map(|column| column - range.start).collect();
        let sides = [of_side(0..left), of_side(left..left + right)];
        read.extend(left + right..all.fields().len());
        let read: Vec<usize> = read.into_iter().collect();
        let joined: SchemaRef = Arc::new(all.project(&read).map_err(|e| ConfigError::new(&[], e.to_string()))?);
        let moved = |expr: Arc<dyn PhysicalExpr>| reassign_expr_columns(expr, &joined).map_err(|e| wrong(&e));
        let condition = condition.map(moved).transpose()?;
        let (mut fields, mut columns) = (Vec::new(), Vec::new());
        for (name, expr) in items {
            let expr = moved(expr)?;
            let field = expr.return_field(&joined).map_err(|e| wrong(&e))?;
            fields.push(Field::new(name, field.data_type().clone(), field.is_nullable()));
            columns.push(expr);
        }
        Ok(Self { read: sides, joined, condition, columns, schema: Arc::new(Schema::new(fields)) })
    }

    /// Rows of both sides next to each other: the columns that are read, left before right, then those of the join.
    pub fn join(&self, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch, Fault> {
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(RecordBatch::try_new_with_options(self.joined.clone(), columns, &options)?)
    }

    /// A side without rows.
    pub fn nulls(&self, side: usize, rows: usize) -> Vec<ArrayRef> {
        let from = if side == 0 { 0 } else { self.read[0].len() };
        let fields = &self.joined.fields()[from..from + self.read[side].len()];
        fields.iter().map(|field| arrow::array::new_null_array(field.data_type(), rows)).collect()
    }

    /// Emits the rows that pass, with `times`. Which have passed; none: all.
    pub fn emit_pairs(
        &self,
        joined: &RecordBatch,
        times: &ScalarBuffer<i64>,
        entered_ns: u64,
        rejects: &Rejects,
        out: &mut dyn Collector,
    ) -> Result<Option<Vec<bool>>, Fault> {
        self.emit(joined, times, entered_ns, self.condition.as_deref(), rejects, out)
    }

    /// Emits rows that have no partner.
    pub fn emit_unmatched(
        &self,
        joined: &RecordBatch,
        times: &ScalarBuffer<i64>,
        rejects: &Rejects,
        out: &mut dyn Collector,
    ) -> Result<(), Fault> {
        self.emit(joined, times, 0, None, rejects, out).map(drop)
    }

    fn emit(
        &self,
        joined: &RecordBatch,
        times: &ScalarBuffer<i64>,
        entered_ns: u64,
        condition: Option<&dyn PhysicalExpr>,
        rejects: &Rejects,
        out: &mut dyn Collector,
    ) -> Result<Option<Vec<bool>>, Fault> {
        let rows = joined.num_rows();
        if rows == 0 {
            return Ok(None);
        }
        let passed = condition.map(|_| vec![false; rows]);
        let mut task = Task { output: self, condition, joined, times, rejects, out, parts: Vec::new(), passed };
        // Expressions are deterministic: no use in trying twice.
        search(&mut task, 0..rows, 0, &rejects.node)?;
        let Task { mut parts, passed, .. } = task;
        let whole = match parts.len() {
            0 => None,
            1 => parts.pop(),
            // The search for bad rows shall not leave crumbs.
            _ => Some(Batch::concat(&parts)?),
        };
        if let Some(mut whole) = whole {
            whole.entered_ns = entered_ns;
            out.emit(0, whole);
        }
        Ok(passed)
    }

    fn project(&self, rows: &RecordBatch) -> Result<RecordBatch, DataFusionError> {
        let columns: Result<Vec<ArrayRef>, _> = self.columns.iter().map(|expr| evaluate(expr.as_ref(), rows)).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        Ok(RecordBatch::try_new_with_options(self.schema.clone(), columns?, &options)?)
    }
}

/// All columns of both sides by their whole names, then those of the join. A side that may have no row may be null.
fn both(inputs: [&SchemaRef; 2], own: &[Field], join_type: JoinType) -> Schema {
    let mut fields = Vec::new();
    for (side, schema) in inputs.into_iter().enumerate() {
        let may_lack = join_type.keeps(1 - side);
        fields.extend(schema.fields().iter().map(|field| {
            let name = format!("{}.{}", SIDES[side], field.name());
            Field::new(name, field.data_type().clone(), field.is_nullable() || may_lack)
        }));
    }
    fields.extend(own.iter().cloned());
    Schema::new(fields)
}

type Named = (String, Arc<dyn PhysicalExpr>);

fn selected(
    planner: &Planner,
    items: &[String],
    all: &SchemaRef,
    inputs: [&SchemaRef; 2],
) -> Result<Vec<Named>, ConfigError> {
    let mut named: Vec<Named> = Vec::new();
    for (index, text) in items.iter().enumerate() {
        let at = index.to_string();
        let from = named.len();
        match items_of(all, inputs, text.trim()) {
            Some(columns) => named.extend(columns),
            None => match planner.item(text).map_err(|e| e.inside(&at))? {
                Item::All => named.extend(items_of(all, inputs, "*").unwrap_or_default()),
                Item::One { name, expr } => named.push((name, expr)),
            },
        }
        for later in from..named.len() {
            let name = &named[later].0;
            if named[..later].iter().any(|(earlier, _)| earlier == name) {
                let error = ConfigError::new(&[&at], format!("the column `{name}` would come out twice"));
                return Err(error.with_help(format!("give it another name: `right.{name} AS right_{name}`")));
            }
        }
    }
    Ok(named)
}

/// The columns of `*`, `left.*` and `right.*`.
fn items_of(all: &SchemaRef, inputs: [&SchemaRef; 2], text: &str) -> Option<Vec<Named>> {
    let (left, right) = (inputs[0].fields().len(), inputs[1].fields().len());
    let range = match text {
        "*" => 0..left + right,
        "left.*" => 0..left,
        "right.*" => left..left + right,
        _ => return None,
    };
    let column = |index: usize| {
        let name = all.field(index).name();
        let column = datafusion_physical_expr::expressions::Column::new(name, index);
        (plain_name(name).to_owned(), Arc::new(column) as Arc<dyn PhysicalExpr>)
    };
    Some(range.map(column).collect())
}

/// Without a select list, all columns come out under their own names.
fn no_name_twice(inputs: [&SchemaRef; 2]) -> Result<(), ConfigError> {
    let Some(twice) = inputs[1].fields().iter().find(|field| inputs[0].column_with_name(field.name()).is_some()) else {
        return Ok(());
    };
    let name = twice.name();
    let others = inputs[1].fields().iter().filter(|field| inputs[0].column_with_name(field.name()).is_none());
    let others: Vec<String> = others.take(4).map(|field| format!("right.{}", field.name())).collect();
    let message = format!("both sides have a column `{name}`, and all columns would come out");
    let select = ["\"left.*\"".to_owned()].into_iter().chain(others).collect::<Vec<_>>().join(", ");
    let help = format!("say which ones do: `select: [{select}]`; `right.{name} AS NAME` gives it another name");
    Err(ConfigError::new(&["join"], message).with_help(help))
}

struct Task<'a> {
    output: &'a Output,
    condition: Option<&'a dyn PhysicalExpr>,
    joined: &'a RecordBatch,
    times: &'a ScalarBuffer<i64>,
    rejects: &'a Rejects,
    out: &'a mut dyn Collector,
    parts: Vec<Batch>,
    passed: Option<Vec<bool>>,
}

impl Task<'_> {
    fn apply(
        &self,
        rows: &RecordBatch,
        times: ScalarBuffer<i64>,
    ) -> Result<(Batch, Option<BooleanArray>), DataFusionError> {
        let whole = || Batch::new(rows.clone()).with_times(Some(times.clone()));
        let Some(condition) = self.condition else {
            return Ok((self.projected(whole())?, None));
        };
        let mask = evaluate(condition, rows)?;
        // A null condition does not pass.
        let mask = match mask.null_count() {
            0 => mask.as_boolean().clone(),
            _ => prep_null_mask_filter(mask.as_boolean()),
        };
        if !mask.has_false() {
            return Ok((self.projected(whole())?, Some(mask)));
        }
        let predicate = FilterBuilder::new(&mask).optimize().build();
        let kept = predicate.filter_record_batch(rows)?;
        let times = times.iter().zip(mask.values().iter()).filter(|(_, passes)| *passes).map(|(&time, _)| time);
        let kept = Batch::new(kept).with_times(Some(times.collect()));
        Ok((self.projected(kept)?, Some(mask)))
    }

    fn projected(&self, batch: Batch) -> Result<Batch, DataFusionError> {
        let rows = self.output.project(batch.rows())?;
        Ok(Batch::new(rows).with_times(batch.times))
    }
}

impl Attempt for Task<'_> {
    fn attempt(&mut self, rows: Range<usize>) -> Result<Result<(), LogicError>, Fault> {
        let (from, len) = (rows.start, rows.len());
        match self.apply(&self.joined.slice(from, len), self.times.slice(from, len)) {
            Ok((batch, mask)) => {
                if let (Some(passed), Some(mask)) = (&mut self.passed, mask) {
                    mask.values().set_indices().for_each(|row| passed[from + row] = true);
                }
                if !batch.is_empty() {
                    self.parts.push(batch);
                }
                Ok(Ok(()))
            }
            Err(error) => Ok(Err(LogicError::Trap(message(&error)))),
        }
    }

    fn condemn(&mut self, row: usize, error: String) -> Result<(), Fault> {
        self.out.count("row_errors", 1);
        if let Some(passed) = &mut self.passed {
            passed[row] = true;
        }
        self.rejects.reject(self.out, self.joined, row, Some(self.times[row]), None, error)
    }
}
