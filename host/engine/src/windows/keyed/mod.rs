//! Windows of a key: sessions, global windows, and windows of any kind that do not simply fire at their end.
//!
//! Flink's rules (`WindowOperator`, `MergingWindowSet` and the triggers): a session is `[ts, ts + gap)` of each row, and those that touch are one; a
//! row is late if the session that it ends up in is; a window that is merged away leaves its rows to the one that stays. A row within the allowed
//! lateness fires its window again, here once per batch.
//!
//! One difference: where gaps are of the rows' own, Flink forgets the rows of a merged session when the window of one row alone is the same.

mod contents;
mod fire;
mod keys;
mod operator;
mod place;
mod slots;
mod store;
mod stored;

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion_common::DataFusionError;
use datafusion_physical_expr::PhysicalExpr;
use tidemill_model::logic::TimeDomain;
use tidemill_model::plan::Built;
use tidemill_model::window::{Fires, Gap, Trigger, WindowSpec, Windows};
use tidemill_model::{ConfigError, Fault, Operator, OperatorContext, OperatorFactory};

use super::aggregate::Aggregates;
use super::groups::KeyReader;
use super::{check_key, output_schema};
use crate::sql::{Planner, message};

/// See [`super::window`], which has checked the times.
pub(super) fn keyed(spec: WindowSpec, input: &SchemaRef) -> Result<Built, ConfigError> {
    check_key(&spec.key, input)?;
    let aggregates = Aggregates::new(input, &spec.aggregates).map_err(|e| e.inside("aggregates"))?;
    let schema = output_schema(&spec.key, spec.windows.bounded(), input, &aggregates)?;
    let planner = Planner::new(input)?;
    let number = |text: &str, data_type: &DataType, path: &[&str]| {
        let expr = planner.number(text, data_type);
        expr.map_err(|e| path.iter().rev().fold(e, |e, part| e.inside(part)))
    };
    let gap = match &spec.windows {
        Windows::Session(Gap::Of(text)) => Some(number(text, &DataType::Int64, &["window", "session_gap"])?),
        _ => None,
    };
    let trigger = spec.trigger.clone().unwrap_or(Trigger { fires: Fires::AtEnd, purge: false });
    let delta = match &trigger.fires {
        Fires::Delta { value, .. } => Some(number(value, &DataType::Float64, &["window", "trigger", "delta"])?),
        _ => None,
    };
    let key: Vec<DataType> = spec.key.iter().map(|&c| input.field(c).data_type().clone()).collect();
    let stored = stored::schema(&aggregates, stored::settings(&spec, &key));
    let stored = stored.map_err(|e| ConfigError::new(&["aggregates"], message(&e)))?;
    let outputs = vec![("out".to_owned(), schema.clone()), ("late".to_owned(), input.clone())];
    let every = match trigger.fires {
        Fires::Every(domain, ms) => Some((domain, ms)),
        Fires::Early(ms) => Some((TimeDomain::Processing, ms)),
        _ => None,
    };
    let fires_at_end = match trigger.fires {
        Fires::AtEnd | Fires::Early(_) => true,
        // As the rows of a window may end before its next firing.
        Fires::Every(domain, _) => domain == spec.time,
        Fires::Count(_) | Fires::Delta { .. } => false,
    };
    let bounded = spec.windows.bounded();
    let plan = Plan {
        by_rows: !bounded || trigger.fires != Fires::AtEnd,
        bounded,
        fires_at_end,
        every,
        spec,
        trigger,
        input: input.clone(),
        aggregates: Arc::new(aggregates),
        gap,
        delta,
        schema,
        stored: Arc::new(stored),
    };
    Ok(Built { factory: Arc::new(Factory(Arc::new(plan))), outputs })
}

/// What was planned of a node, for all workers.
struct Plan {
    spec: WindowSpec,
    trigger: Trigger,
    /// Windows have an end.
    bounded: bool,
    /// A window fires at its end.
    fires_at_end: bool,
    /// Each row is told to the trigger.
    by_rows: bool,
    /// The clock of a trigger that fires again and again, and how often, ms.
    every: Option<(TimeDomain, i64)>,
    input: SchemaRef,
    aggregates: Arc<Aggregates>,
    /// Of each row, where it depends on the row: int64, ms.
    gap: Option<Arc<dyn PhysicalExpr>>,
    /// What the trigger compares: float64.
    delta: Option<Arc<dyn PhysicalExpr>>,
    schema: SchemaRef,
    /// Of the table in a snapshot.
    stored: SchemaRef,
}

impl Plan {
    /// Whether windows end by this clock.
    fn ends_by(&self, domain: TimeDomain) -> bool {
        self.bounded && self.spec.time == domain
    }
}

struct Factory(Arc<Plan>);

impl OperatorFactory for Factory {
    fn build(&self, context: &OperatorContext) -> Result<Box<dyn Operator>, Fault> {
        let broken = |e: DataFusionError| Fault::internal(message(&e)).at(&context.node);
        let reader = KeyReader::new(&self.0.input, &self.0.spec.key)?;
        Ok(Box::new(operator::Keyed::new(self.0.clone(), reader, context).map_err(broken)?))
    }
    fn uses_time(&self) -> bool {
        true
    }
}

/// The name and type of a field of the stored table.
fn field(name: &str, data_type: DataType, nullable: bool) -> Field {
    Field::new(name, data_type, nullable)
}

/// Fields with what is to be known of them.
fn with_settings(fields: Vec<Field>, settings: std::collections::BTreeMap<String, String>) -> Schema {
    Schema::new_with_metadata(fields, settings.into_iter().collect())
}
