//! Joins of two streams by key and event time: one module per kind, over shared panes of rows.
//!
//! Laws: input 0 is `left`, input 1 `right`; a key with a null has no partner; port 0 has the joined rows, ports 1 and 2 the late rows of
//! each side as they came. A row is held as columns and never alone.

mod interval;
mod output;
mod pane;
mod rows;
mod side;
mod stored;
mod temporal;
mod versions;
mod windowed;

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use tidemill_model::join::{JoinKind, JoinSpec, SIDES};
use tidemill_model::plan::Built;
use tidemill_model::schema::type_name;
use tidemill_model::{ConfigError, Fault, FaultKind, Operator, OperatorContext, OperatorFactory};

use crate::poison::Rejects;
use interval::Interval;
use output::Output;
use side::Side;
use stored::Stored;
use temporal::Temporal;
use windowed::{Windowed, Windows};

/// A join of these two inputs. Error paths: `join` and the setting, `key`, `where`, `select` and index.
pub fn join(spec: JoinSpec, inputs: [&SchemaRef; 2]) -> Result<Built, ConfigError> {
    check_kind(&spec).map_err(|e| e.inside("join"))?;
    let (condition, select) = (spec.condition.as_deref(), spec.select.as_deref());
    let own = match spec.kind {
        JoinKind::Interval { .. } | JoinKind::Temporal => Vec::new(),
        JoinKind::Window { .. } => windowed::own_columns(),
    };
    let output = Output::new(inputs, &own, spec.join_type, condition, select)?;
    for (number, input) in inputs.into_iter().enumerate() {
        Side::new(number, &spec, input, &output).map_err(|e| not_a_key(&spec, number, input, &e.to_string()))?;
    }
    let mut outputs = vec![("out".to_owned(), output.schema.clone())];
    outputs.extend(SIDES.iter().zip(inputs).map(|(side, input)| (format!("late_{side}"), input.clone())));
    let inputs = inputs.map(Arc::clone);
    Ok(Built { factory: Arc::new(Factory { spec, inputs, output: Arc::new(output) }), outputs })
}

fn check_kind(spec: &JoinSpec) -> Result<(), ConfigError> {
    match spec.kind {
        JoinKind::Interval { lower_ms, upper_ms } if lower_ms > upper_ms => {
            let message = format!("no time is between {lower_ms} ms and {upper_ms} ms: the interval is empty");
            Err(ConfigError::new(&["interval"], message))
        }
        JoinKind::Temporal if spec.join_type.keeps(1) => Err(ConfigError::new(
            &["type"],
            "a temporal join is `inner` or `left`: a version is nobody's partner by itself",
        )),
        JoinKind::Interval { .. } | JoinKind::Temporal => Ok(()),
        JoinKind::Window { size_ms, slide_ms, offset_ms } => {
            windowed::check(size_ms, slide_ms, offset_ms).map_err(|e| e.inside("window"))
        }
    }
}

fn not_a_key(spec: &JoinSpec, side: usize, input: &SchemaRef, error: &str) -> ConfigError {
    let types: Vec<String> = spec.keys[side].iter().map(|&c| type_name(input.field(c).data_type())).collect();
    ConfigError::new(&["key"], format!("({}) can't be a key: {error}", types.join(", ")))
}

struct Factory {
    spec: JoinSpec,
    inputs: [SchemaRef; 2],
    output: Arc<Output>,
}

impl OperatorFactory for Factory {
    fn build(&self, context: &OperatorContext) -> Result<Box<dyn Operator>, Fault> {
        let rejects = Rejects {
            node: context.node.clone(),
            worker: context.worker,
            on_error: self.spec.on_error,
            kind: FaultKind::Data,
        };
        let side = |number: usize| Side::new(number, &self.spec, &self.inputs[number], &self.output);
        let sides = [side(0)?, side(1)?];
        let stored = [Stored::new(0, &self.spec, &sides[0]), Stored::new(1, &self.spec, &sides[1])];
        let output = self.output.clone();
        Ok(match self.spec.kind {
            JoinKind::Interval { lower_ms, upper_ms } => {
                Box::new(Interval::new(rejects, output, stored, sides, (lower_ms, upper_ms)))
            }
            JoinKind::Temporal => Box::new(Temporal::new(rejects, output, stored, sides)),
            JoinKind::Window { size_ms, slide_ms, offset_ms } => {
                let windows = Windows::new(size_ms, slide_ms, offset_ms);
                Box::new(Windowed::new(rejects, output, stored, sides, windows))
            }
        })
    }
    fn uses_time(&self) -> bool {
        true
    }
}
