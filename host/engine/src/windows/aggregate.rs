//! The aggregates of a window node: planned once, one set of accumulators per pane.
//!
//! Law: `drain` empties the accumulators for the next pane, `state` leaves them as they are.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, UInt32Array};
use arrow::compute::{cast, prep_null_mask_filter, take};
use arrow::datatypes::{Field, FieldRef, SchemaRef};
use datafusion_common::DataFusionError;
use datafusion_expr::{EmitTo, GroupsAccumulator};
use datafusion_physical_expr::GroupsAccumulatorAdapter;
use datafusion_physical_expr::utils::{collect_columns, reassign_expr_columns};
use tidemill_model::{Batch, ConfigError};

use crate::sql::{Aggregate, Planner, evaluate, message};

pub(super) type Result<T> = std::result::Result<T, DataFusionError>;

/// The aggregates, as the pipeline file names them.
pub(super) struct Aggregates {
    calls: Vec<(String, Aggregate)>,
    /// The columns that arguments and filters read, and their schema: that of the expressions.
    columns: Vec<usize>,
    schema: SchemaRef,
}

/// What the aggregates read of one batch.
pub(super) struct Inputs {
    calls: Vec<(Vec<ArrayRef>, Option<BooleanArray>)>,
}

pub(super) type Accumulators = Vec<Box<dyn GroupsAccumulator>>;

impl Aggregates {
    pub fn new(input: &SchemaRef, calls: &[(String, String)]) -> std::result::Result<Self, ConfigError> {
        let planner = Planner::new(input)?;
        let plan = |(name, text): &(String, String)| match planner.aggregate(name, text) {
            Ok(call) => Ok((name.clone(), call)),
            Err(error) => Err(error.inside(name)),
        };
        let mut calls = calls.iter().map(plan).collect::<std::result::Result<Vec<_>, _>>()?;
        let read = calls.iter().flat_map(|(_, call)| call.args.iter().chain(&call.filter)).flat_map(collect_columns);
        let columns: Vec<usize> = read.map(|c| c.index()).collect::<BTreeSet<_>>().into_iter().collect();
        let schema: SchemaRef = Arc::new(input.project(&columns).map_err(|e| ConfigError::new(&[], e.to_string()))?);
        for (name, call) in &mut calls {
            for expr in call.args.iter_mut().chain(&mut call.filter) {
                let moved = reassign_expr_columns(expr.clone(), &schema);
                *expr = moved.map_err(|e| ConfigError::new(&[name], message(&e)))?;
            }
        }
        Ok(Self { calls, columns, schema })
    }

    pub fn fields(&self) -> impl Iterator<Item = Field> {
        self.calls.iter().map(|(name, call)| Field::new(name, call.data_type.clone(), call.nullable))
    }

    pub fn accumulators(&self) -> Result<Accumulators> {
        self.calls.iter().map(|(_, call)| accumulator(call)).collect()
    }

    /// Evaluates arguments and filters on all rows of a batch.
    pub fn read(&self, batch: &Batch) -> Result<Inputs> {
        let rows = &batch.project(&self.columns, self.schema.clone())?;
        let read = |(_, call): &(String, Aggregate)| {
            let args: Result<Vec<ArrayRef>> = call.args.iter().map(|a| evaluate(a.as_ref(), rows)).collect();
            let mask = call.filter.as_ref().map(|f| evaluate(f.as_ref(), rows)).transpose()?;
            // A null condition does not pass.
            let mask = mask.map(|m| match m.null_count() {
                0 => m.as_boolean().clone(),
                _ => prep_null_mask_filter(m.as_boolean()),
            });
            Ok((args?, mask))
        };
        Ok(Inputs { calls: self.calls.iter().map(read).collect::<Result<_>>()? })
    }

    /// The results of all groups; the accumulators are empty afterwards.
    pub fn drain(&self, accumulators: &mut Accumulators) -> Result<Vec<ArrayRef>> {
        let evaluate = |((_, call), acc): (&(String, Aggregate), &mut Box<dyn GroupsAccumulator>)| {
            Ok(cast(&acc.evaluate(EmitTo::All)?, &call.data_type)?)
        };
        self.calls.iter().zip(accumulators).map(evaluate).collect()
    }
}

impl Aggregates {
    /// The columns that a group's state takes, by aggregate; with the call as metadata.
    pub fn state_fields(&self) -> Result<Vec<Vec<Field>>> {
        let fields = |(name, call): &(String, Aggregate)| {
            let types = call.function.state_fields()?;
            let field = |(number, field): (usize, &FieldRef)| {
                Field::new(format!("{name}/{number}"), field.data_type().clone(), true)
            };
            Ok(types.iter().enumerate().map(field).collect())
        };
        self.calls.iter().map(fields).collect()
    }

    /// The state of all groups. The accumulators stay as they are.
    pub fn state(&self, accumulators: &mut Accumulators, groups: usize) -> Result<Vec<ArrayRef>> {
        let all: Vec<usize> = (0..groups).collect();
        let mut columns = Vec::new();
        for acc in accumulators {
            columns.extend(state_of(acc.as_mut(), &all)?);
        }
        Ok(columns)
    }

    /// The same, and the accumulators are empty afterwards.
    pub fn drain_state(&self, accumulators: &mut Accumulators) -> Result<Vec<ArrayRef>> {
        let states = accumulators.iter_mut().map(|acc| acc.state(EmitTo::All));
        Ok(states.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
    }

    /// Adds such a state to the groups in `numbers`, one per row.
    pub fn merge(
        &self,
        accumulators: &mut Accumulators,
        mut state: &[ArrayRef],
        numbers: &[usize],
        groups: usize,
    ) -> Result<()> {
        for ((_, call), acc) in self.calls.iter().zip(accumulators) {
            let (own, others) = state.split_at(call.function.state_fields()?.len());
            acc.merge_batch(own, numbers, groups)?;
            state = others;
        }
        Ok(())
    }
}

/// What is wrong with a row that [`Aggregates::read`] fails for.
pub(super) fn unreadable(error: &DataFusionError) -> String {
    format!("an aggregate's argument fails: {}", message(error))
}

/// Reading the state drains it, so it goes back in. `all`: the numbers of all groups.
fn state_of(acc: &mut dyn GroupsAccumulator, all: &[usize]) -> Result<Vec<ArrayRef>> {
    let state = acc.state(EmitTo::All)?;
    acc.merge_batch(&state, all, all.len())?;
    Ok(state)
}

impl Inputs {
    /// Adds all rows of the batch, or those in `rows`, to the groups in `numbers` (one per row added).
    pub fn update(
        &self,
        accumulators: &mut Accumulators,
        rows: Option<&UInt32Array>,
        numbers: &[usize],
        groups: usize,
    ) -> Result<()> {
        for ((args, mask), acc) in self.calls.iter().zip(accumulators) {
            let Some(rows) = rows else {
                acc.update_batch(args, numbers, mask.as_ref(), groups)?;
                continue;
            };
            let args = args.iter().map(|a| take(a, rows, None)).collect::<std::result::Result<Vec<_>, _>>()?;
            let mask = mask.as_ref().map(|m| take(m, rows, None)).transpose()?;
            acc.update_batch(&args, numbers, mask.as_ref().map(|m| m.as_boolean()), groups)?;
        }
        Ok(())
    }
}

fn accumulator(call: &Aggregate) -> Result<Box<dyn GroupsAccumulator>> {
    if call.function.groups_accumulator_supported() {
        return call.function.create_groups_accumulator();
    }
    let function = Arc::new(call.function.clone());
    Ok(Box::new(GroupsAccumulatorAdapter::new(move || function.create_accumulator())))
}
