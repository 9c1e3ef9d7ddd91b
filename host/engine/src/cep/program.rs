//! A pattern with its conditions and its select list, planned once for all workers.
//!
//! Conditions of an event alone are evaluated on whole batches, when they come. Conditions that ask for earlier events are
//! evaluated for one event and one partial match at a time.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion_common::DataFusionError;
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::utils::{collect_columns, reassign_expr_columns};
use datafusion_sql::sqlparser::ast::SelectItem;
use serde_json::Value;
use tidemill_cep::{Automaton, Condition};
use tidemill_model::ConfigError;

use super::looked::{Look, Looked};
use super::settings::{Described, described};
use crate::sql::{Item, Planner, evaluate, message, parse_expression, parse_item};

/// What a pattern node does.
pub(super) struct Program {
    pub automaton: Arc<Automaton>,
    simple: Vec<(Condition, Arc<dyn PhysicalExpr>)>,
    /// By number of the condition.
    pub iterative: Vec<Option<Iterative>>,
    /// Columns of the input that a match keeps of its events.
    pub kept: Vec<usize>,
    pub select: Select,
}

/// A condition that asks for earlier events.
pub(super) struct Iterative {
    expr: Arc<dyn PhysicalExpr>,
    /// Places among the kept columns, of the event itself; then come the questions.
    pub columns: Vec<usize>,
    pub looks: Vec<Look>,
    schema: SchemaRef,
}

/// What comes out for a match: the key, then the select list.
pub(super) struct Select {
    pub looks: Vec<Look>,
    /// Key columns, then the questions.
    pub schema: SchemaRef,
    items: Vec<Arc<dyn PhysicalExpr>>,
    pub output: SchemaRef,
}

impl Program {
    /// Error paths: `pattern` and below, `select` and index.
    pub fn new(settings: &Value, select: &[String], key: &[usize], input: &SchemaRef) -> Result<Self, ConfigError> {
        let mut described = described(settings).map_err(|e| e.inside("pattern"))?;
        let stages = Automaton::new(&described.pattern);
        let stages = stages.map_err(|refused| described.refused(&refused).inside("pattern"))?.stages().to_vec();
        let select = Select::new(select, &stages, key, input).map_err(|e| e.inside("select"))?;
        let planner = Planner::new(input)?;
        let (mut simple, mut iterative) = (Vec::new(), Vec::new());
        for (number, (text, path)) in described.conditions.iter().enumerate() {
            let number = number as Condition;
            let planned = condition(text, &planner, &stages, input);
            let planned = planned.map_err(|e| ConfigError { path: [path.clone(), e.path].concat(), ..e });
            match planned.map_err(|e| e.inside("pattern"))? {
                Planned::Simple(expr) => {
                    simple.push((number, expr));
                    iterative.push(None);
                }
                Planned::Iterative(planned) => {
                    described.pattern.iterative |= 1 << number;
                    iterative.push(Some(planned));
                }
            }
        }
        let kept = keep(&mut iterative, &select, key);
        let automaton = automaton(&described)?;
        Ok(Self { automaton, simple, iterative, kept, select })
    }

    /// The answers of conditions that look at an event alone, as bits, for each row.
    pub fn answers(&self, rows: &RecordBatch) -> Result<Vec<u64>, DataFusionError> {
        let mut words = vec![0; rows.num_rows()];
        for (number, expr) in &self.simple {
            let holds = evaluate(expr.as_ref(), rows)?;
            let holds = holds.as_boolean();
            for (row, word) in words.iter_mut().enumerate() {
                *word |= u64::from(holds.is_valid(row) && holds.value(row)) << number;
            }
        }
        Ok(words)
    }
}

fn automaton(described: &Described) -> Result<Arc<Automaton>, ConfigError> {
    let automaton = Automaton::new(&described.pattern);
    Ok(Arc::new(automaton.map_err(|refused| described.refused(&refused).inside("pattern"))?))
}

enum Planned {
    Simple(Arc<dyn PhysicalExpr>),
    Iterative(Iterative),
}

fn condition(text: &str, planner: &Planner, stages: &[String], input: &SchemaRef) -> Result<Planned, ConfigError> {
    let mut ast = parse_expression(text)?;
    let mut looked = Looked::new(stages, input);
    if !looked.replace(&mut ast)? {
        return Ok(Planned::Simple(planner.parsed_condition(text, ast)?));
    }
    let fields = input.fields().iter().map(|field| field.as_ref().clone()).chain(looked.fields());
    let schema: SchemaRef = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let expr = Planner::new(&schema)?.parsed_condition(text, ast)?;
    let own = collect_columns(&expr).into_iter().map(|column| column.index());
    let columns: Vec<usize> =
        own.filter(|column| *column < input.fields().len()).collect::<BTreeSet<_>>().into_iter().collect();
    let fields = columns.iter().map(|column| input.field(*column).clone()).chain(looked.fields());
    let schema: SchemaRef = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let expr = reassign_expr_columns(expr, &schema).map_err(|e| ConfigError::new(&[], message(&e)))?;
    Ok(Planned::Iterative(Iterative { expr, columns, looks: looked.asked, schema }))
}

/// The columns that matches need of their events. Columns of conditions become places among them.
fn keep(iterative: &mut [Option<Iterative>], select: &Select, key: &[usize]) -> Vec<usize> {
    let conditions = || iterative.iter().flatten();
    let looks = conditions().flat_map(|condition| &condition.looks).chain(&select.looks);
    let looked = looks.filter_map(|look| match look {
        Look::First(_, column) | Look::Last(_, column) => Some(*column),
        Look::Count(_) => None,
    });
    let own = conditions().flat_map(|condition| condition.columns.iter().copied());
    // Rows without columns can't be told from none.
    let first = key.first().copied();
    let kept: BTreeSet<usize> = looked.chain(own).chain(first).collect();
    let kept: Vec<usize> = kept.into_iter().collect();
    for condition in iterative.iter_mut().flatten() {
        for column in &mut condition.columns {
            *column = kept.partition_point(|kept| kept < column);
        }
    }
    kept
}

impl Iterative {
    /// Whether it holds, given its columns: of the event, then of the questions.
    pub fn holds(&self, columns: Vec<ArrayRef>) -> Result<bool, DataFusionError> {
        let row = RecordBatch::try_new(self.schema.clone(), columns)?;
        let holds = evaluate(self.expr.as_ref(), &row)?;
        let holds = holds.as_boolean();
        Ok(holds.is_valid(0) && holds.value(0))
    }
}

impl Select {
    fn new(items: &[String], stages: &[String], key: &[usize], input: &SchemaRef) -> Result<Self, ConfigError> {
        let mut looked = Looked::new(stages, input);
        let mut parsed = Vec::new();
        for (index, text) in items.iter().enumerate() {
            let inside = |e: ConfigError| e.inside(&index.to_string());
            let mut item = parse_item(text).map_err(inside)?;
            let found = match &mut item {
                SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => looked.replace(expr),
                _ => Err(ConfigError::new(&[], format!("`{text}` is no item of a match"))
                    .with_help("write `STAGE.COLUMN AS name`, or another expression with a name")),
            };
            if found.map_err(inside)? && matches!(item, SelectItem::UnnamedExpr(_)) {
                let error = ConfigError::new(&[], format!("`{text}` needs a name"));
                return Err(inside(error.with_help(format!("write `{text} AS name`"))));
            }
            parsed.push((text, item));
        }
        let keys: Vec<Field> = key.iter().map(|&column| input.field(column).clone()).collect();
        let schema: SchemaRef = Arc::new(Schema::new([keys.clone(), looked.fields()].concat()));
        let planner = Planner::new(&schema)?;
        let (mut fields, mut planned) = (keys, Vec::new());
        for (index, (text, item)) in parsed.into_iter().enumerate() {
            let inside = |e: ConfigError| e.inside(&index.to_string());
            let Item::One { name, expr } = planner.parsed_item(text, item).map_err(inside)? else { continue };
            if fields.iter().any(|field| *field.name() == name) {
                let error = ConfigError::new(&[], format!("the column `{name}` would come out twice"));
                return Err(inside(error.with_help("give it another name with `AS`; the key comes out by itself")));
            }
            let field = expr.return_field(&schema).map_err(|e| inside(ConfigError::new(&[], message(&e))))?;
            fields.push(Field::new(name, field.data_type().clone(), field.is_nullable()));
            planned.push(expr);
        }
        Ok(Self { looks: looked.asked, schema, items: planned, output: Arc::new(Schema::new(fields)) })
    }

    /// The rows that come out for matches: `columns` are those of the schema, of which the first are the `keys`.
    pub fn apply(&self, matches: &RecordBatch, keys: usize) -> Result<RecordBatch, DataFusionError> {
        let mut columns: Vec<ArrayRef> = matches.columns()[..keys].to_vec();
        for item in &self.items {
            columns.push(evaluate(item.as_ref(), matches)?);
        }
        Ok(RecordBatch::try_new(self.output.clone(), columns)?)
    }
}
