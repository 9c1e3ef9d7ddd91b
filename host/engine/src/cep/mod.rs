//! Patterns of events, per key, over event time: Flink's CEP.
//!
//! Laws (Flink's `CepOperator` over event time): rows wait until the watermark reaches them and are then matched in the order
//! of their times, those of one time as they came; a row at or behind the watermark is late and leaves through the port
//! `late` as it came; the clock of a key stands at its rows, and at each moment at which a partial match is over. What a
//! match is, `tidemill_cep` knows.

mod keys;
mod looked;
mod operator;
mod program;
mod rows;
mod settings;
mod stored;

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use tidemill_model::key::KeyEncoder;
use tidemill_model::pattern::PatternSpec;
use tidemill_model::plan::Built;
use tidemill_model::schema::type_name;
use tidemill_model::{ConfigError, Fault, FaultKind, Operator, OperatorContext, OperatorFactory};

use crate::poison::Rejects;
use operator::Cep;
use program::Program;
use rows::Kept;

/// Output columns: key columns, select list; port 1 is `timed_out`, with the same columns, port 2 `late`. Error paths:
/// `pattern` and the setting, `key`, `select` and index.
pub fn pattern(spec: PatternSpec, input: &SchemaRef) -> Result<Built, ConfigError> {
    let program = Program::new(&spec.pattern, &spec.select, &spec.key, input)?;
    let types = |columns: &[usize]| {
        let types: Vec<String> = columns.iter().map(|&c| type_name(input.field(c).data_type())).collect();
        types.join(", ")
    };
    let not = |path: &str, columns: &[usize], what: &str, error: String| {
        ConfigError::new(&[path], format!("({}) can't {what}: {error}", types(columns)))
    };
    KeyEncoder::new(input, &spec.key).map_err(|e| not("key", &spec.key, "be a key", e.to_string()))?;
    Kept::new(input, &program.kept).map_err(|e| not("select", &program.kept, "be kept by a match", e.to_string()))?;
    let output = program.select.output.clone();
    let outputs = [("out", &output), ("timed_out", &output), ("late", input)];
    let outputs = outputs.map(|(name, schema)| (name.to_owned(), schema.clone())).to_vec();
    let stored = stored::Form::new(&spec, input, &program.kept);
    let factory = Factory { program: Arc::new(program), input: input.clone(), spec, stored };
    Ok(Built { factory: Arc::new(factory), outputs })
}

struct Factory {
    spec: PatternSpec,
    input: SchemaRef,
    program: Arc<Program>,
    stored: stored::Form,
}

impl OperatorFactory for Factory {
    fn build(&self, context: &OperatorContext) -> Result<Box<dyn Operator>, Fault> {
        let rejects = Rejects {
            node: context.node.clone(),
            worker: context.worker,
            on_error: self.spec.on_error,
            kind: FaultKind::Data,
        };
        let keys = KeyEncoder::new(&self.input, &self.spec.key)?;
        let kept = Kept::new(&self.input, &self.program.kept)?;
        Ok(Box::new(Cep::new(self.program.clone(), keys, kept, rejects, self.stored.clone())))
    }
    fn uses_time(&self) -> bool {
        true
    }
}
