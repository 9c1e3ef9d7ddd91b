//! Process nodes: the user's logic, opened once per worker, fed with batches, its effects applied.
//!
//! Laws: a call's effects are applied as a whole or not at all; rows are never lost: each is in a successful call or
//! rejected; a batch with row kinds never reaches logic that does not know them.

mod distinct;
mod entries;
mod keyed;
mod migrate;
mod outputs;
mod shared;
mod stateless;
mod stored;
mod swap;
mod trial;
mod undo;

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::row::{RowConverter, SortField};
use tidemill_model::checkpoint::{NodeManifest, StateManifest};
use tidemill_model::component::{Descriptor, LogicKind, Port};
use tidemill_model::fault::OnError;
use tidemill_model::key::KeyEncoder;
use tidemill_model::logic::{Logic, LogicFactory, OpenContext};
use tidemill_model::operator::Successor;
use tidemill_model::plan::Built;
use tidemill_model::schema::{Mismatch, carry, project, type_name};
use tidemill_model::state::{StateBackendFactory, StateContext};
use tidemill_model::{Batch, ConfigError, Fault, FaultKind, Operator, OperatorContext, OperatorFactory};

use crate::poison::Rejects;
use outputs::{OutPort, Outputs};

/// The user's logic and what it is connected to.
#[derive(Clone)]
pub struct ProcessSpec {
    pub logic: Arc<dyn LogicFactory>,
    /// Schema of what reaches each input port.
    pub inputs: Vec<SchemaRef>,
    /// Per input the indices of the key columns; empty if the node is not keyed.
    pub keys: Vec<Vec<usize>>,
    /// Settings for the logic.
    pub config: Vec<(String, String)>,
    pub on_error: OnError,
    /// Where keyed state lives.
    pub state: Arc<dyn StateBackendFactory>,
    /// Where states live that belong to no key: in memory.
    pub shared: Arc<dyn StateBackendFactory>,
}

/// A map, filter or keyed node, by the kind in the logic's descriptor. Error paths: `input` (of one) or `inputs` and the
/// port's name, `key`.
pub fn node(spec: ProcessSpec) -> Result<Built, ConfigError> {
    let factory = Factory::new(spec)?;
    let outputs = factory.ports.iter().map(|p| (p.name.clone(), p.schema.clone())).collect();
    Ok(Built { factory: Arc::new(factory), outputs })
}

/// What crosses of one input.
#[derive(Clone)]
struct InputPlan {
    /// Columns that the port declares.
    projection: Vec<usize>,
    schema: SchemaRef,
    keys: Vec<usize>,
}

impl InputPlan {
    /// The columns that cross.
    fn project(&self, batch: &Batch) -> Result<RecordBatch, Fault> {
        Ok(batch.project(&self.projection, self.schema.clone())?)
    }
}

fn inputs(spec: &ProcessSpec, descriptor: &Descriptor) -> Result<Vec<InputPlan>, ConfigError> {
    if spec.inputs.len() != descriptor.inputs.len() {
        let names: Vec<&str> = descriptor.inputs.iter().map(|p| p.name.as_str()).collect();
        let message = format!(
            "the operator `{}` has {} inputs ({}), but {} are connected",
            descriptor.name,
            names.len(),
            names.join(", "),
            spec.inputs.len()
        );
        return Err(ConfigError::new(&["inputs"], message));
    }
    let plan = |(index, (have, port)): (usize, (&SchemaRef, &Port))| {
        let projection = project(have, &port.schema).map_err(|wrong| {
            let error = mismatch(&wrong, descriptor, port, have);
            if spec.inputs.len() == 1 { error.inside("input") } else { error.inside(&port.name).inside("inputs") }
        })?;
        let fields: Vec<Arc<Field>> = projection.iter().map(|&c| have.fields()[c].clone()).collect();
        let same = fields.iter().zip(port.schema.fields()).all(|(h, w)| h.data_type() == w.data_type());
        let schema = if same { port.schema.clone() } else { Arc::new(Schema::new(fields)) };
        let keys = spec.keys.get(index).cloned().unwrap_or_default();
        Ok(InputPlan { projection, schema, keys })
    };
    spec.inputs.iter().zip(&descriptor.inputs).enumerate().map(plan).collect()
}

fn mismatch(wrong: &[Mismatch], descriptor: &Descriptor, port: &Port, have: &Schema) -> ConfigError {
    let list: Vec<String> = wrong.iter().map(ToString::to_string).collect();
    let message =
        format!("what reaches input `{}` of `{}` does not fit: {}", port.name, descriptor.name, list.join("; "));
    let mut error = ConfigError::new(&[], message);
    if let Some(column) = wrong.iter().find_map(|w| match w {
        Mismatch::Missing { column } => Some(column.clone()),
        _ => None,
    }) {
        error.name = Some(column);
        error.candidates = have.fields().iter().map(|f| f.name().clone()).collect();
    }
    error.with_help("a `select:` in front of the operator can rename and convert columns")
}

/// Key columns as the logic sees them: names of the first input with a key.
fn key_schema(spec: &ProcessSpec, descriptor: &Descriptor) -> Result<Option<SchemaRef>, ConfigError> {
    let given = spec.keys.iter().any(|k| !k.is_empty());
    if descriptor.kind != LogicKind::Keyed {
        let message = format!("the operator `{}` is not keyed", descriptor.name);
        return if given { Err(ConfigError::new(&["key"], message).with_help("leave out `key:`")) } else { Ok(None) };
    }
    if !given && !descriptor.needs_key() {
        return Ok(None);
    }
    let (broadcast, keyed): (Vec<usize>, Vec<usize>) =
        (0..spec.inputs.len()).partition(|&input| descriptor.inputs[input].broadcast);
    let has_key = |input: &usize| spec.keys.get(*input).is_some_and(|key| !key.is_empty());
    if let Some(&input) = broadcast.iter().find(|input| has_key(input)) {
        let message = format!("the input `{}` is broadcast: its rows have no key", descriptor.inputs[input].name);
        return Err(ConfigError::new(&["key"], message).with_help("name the key columns of the other inputs only"));
    }
    let Some(&first) = keyed.first().filter(|_| keyed.iter().all(has_key)) else {
        let message = format!("the operator `{}` is keyed, but has no key", descriptor.name);
        return Err(ConfigError::new(&["key"], message).with_help("name the key columns: `key: [column]`"));
    };
    let fields_of = |input: usize| spec.keys[input].iter().map(move |&c| spec.inputs[input].field(c));
    let types = |input: usize| fields_of(input).map(|f| f.data_type().clone()).collect::<Vec<DataType>>();
    for &input in &keyed {
        if types(input) != types(first) {
            let names = |t: Vec<DataType>| t.iter().map(type_name).collect::<Vec<_>>().join(", ");
            let message = format!(
                "the key is ({}) on input `{}`, but ({}) on input `{}`",
                names(types(first)),
                descriptor.inputs[first].name,
                names(types(input)),
                descriptor.inputs[input].name
            );
            return Err(ConfigError::new(&["key"], message).with_help("keys of one operator have the same types"));
        }
    }
    RowConverter::new(types(first).into_iter().map(SortField::new).collect())
        .map_err(|e| ConfigError::new(&["key"], format!("these columns can't be a key: {e}")))?;
    let nullable = |i: usize| keyed.iter().any(|&n| spec.inputs[n].field(spec.keys[n][i]).is_nullable());
    let fields = fields_of(first).enumerate().map(|(i, f)| f.clone().with_nullable(nullable(i)));
    Ok(Some(Arc::new(Schema::new(fields.collect::<Vec<_>>()))))
}

fn ports(spec: &ProcessSpec, descriptor: &Descriptor) -> Result<Vec<OutPort>, ConfigError> {
    if descriptor.kind == LogicKind::Filter {
        // A filter's output is its input.
        return Ok(vec![OutPort { name: "out".into(), schema: spec.inputs[0].clone(), carry: None }]);
    }
    let port = |port: &Port| {
        let (name, own) = (port.name.clone(), port.schema.clone());
        if !port.carry {
            return Ok(OutPort { name, schema: own, carry: None });
        }
        // Rows of a broadcast input are not carried.
        let carried = || spec.inputs.iter().zip(&descriptor.inputs).filter(|(_, p)| !p.broadcast).map(|(i, _)| i);
        let Some(first) = carried().next() else {
            let message = format!("output `{name}` carries the columns of its input, but all inputs are broadcast");
            return Err(ConfigError::new(&["inputs"], message).with_help("let the operator declare all its columns"));
        };
        if carried().any(|i| i.fields() != first.fields()) {
            let message = format!("output `{name}` carries the columns of its input, but the inputs differ in theirs");
            return Err(ConfigError::new(&["inputs"], message).with_help("bring them to one schema with `select:`"));
        }
        let (schema, from) = carry(first, &own);
        Ok(OutPort { name, schema: Arc::new(schema), carry: Some(from) })
    };
    descriptor.outputs.iter().map(port).collect()
}

struct Factory {
    spec: ProcessSpec,
    descriptor: Arc<Descriptor>,
    inputs: Vec<InputPlan>,
    ports: Arc<[OutPort]>,
    key_schema: Option<SchemaRef>,
}

impl Factory {
    fn new(spec: ProcessSpec) -> Result<Self, ConfigError> {
        let descriptor = spec.logic.descriptor().clone();
        let inputs = inputs(&spec, &descriptor)?;
        let key_schema = key_schema(&spec, &descriptor)?;
        let ports = ports(&spec, &descriptor)?;
        Ok(Self { spec, descriptor: Arc::new(descriptor), inputs, ports: ports.into(), key_schema })
    }

    /// The logic of one worker, and what it is connected to.
    fn open(&self, context: &OperatorContext) -> Result<(Common, Box<dyn Logic>), Fault> {
        let at = |fault: Fault| fault.at(&context.node).on_worker(context.worker);
        let open = OpenContext {
            operator: self.descriptor.name.clone(),
            node: context.node.clone(),
            config: self.spec.config.clone(),
            key_schema: self.key_schema.clone(),
            worker: context.worker,
            workers: context.workers,
        };
        let logic = self.spec.logic.open(&open).map_err(at)?;
        let rejects = Rejects {
            node: context.node.clone(),
            worker: context.worker,
            on_error: self.spec.on_error,
            kind: FaultKind::Component,
        };
        let common = Common {
            descriptor: self.descriptor.clone(),
            inputs: self.inputs.clone(),
            outputs: Outputs::new(self.ports.clone()),
            rejects,
        };
        Ok((common, logic))
    }

    fn open_shared(&self, context: &OperatorContext) -> Result<Option<Box<shared::Shared>>, Fault> {
        shared::Shared::open(&self.descriptor, self.spec.shared.as_ref(), context)
    }
}

impl OperatorFactory for Factory {
    fn build(&self, context: &OperatorContext) -> Result<Box<dyn Operator>, Fault> {
        let at = |fault: Fault| fault.at(&context.node).on_worker(context.worker);
        let (common, logic) = self.open(context)?;
        if self.descriptor.kind != LogicKind::Keyed {
            return Ok(Box::new(stateless::Stateless::new(common, logic, context.start())));
        }
        let shared = self.open_shared(context).map_err(at)?;
        let place = StateContext {
            node: &context.node,
            worker: context.worker,
            workers: context.workers,
            states: shared.as_ref().map_or(&self.descriptor.states, |shared| shared.of_keys()),
        };
        // Without a key there is nothing that would be worth a disk.
        let backend = if self.key_schema.is_some() { &self.spec.state } else { &self.spec.shared };
        let state = backend.open(&place).map_err(at)?;
        let encoder = |(schema, plan): (&SchemaRef, &InputPlan)| {
            let has_key = !plan.keys.is_empty();
            has_key.then(|| KeyEncoder::new(schema, &plan.keys)).transpose()
        };
        let encoders = self.spec.inputs.iter().zip(&self.inputs).map(encoder).collect::<Result<Vec<_>, _>>()?;
        let key_schema = self.key_schema.clone().unwrap_or_else(|| Arc::new(Schema::empty()));
        let keyed =
            keyed::Keyed::new(common, logic, state, shared, encoders, key_schema, context.start()).map_err(at)?;
        Ok(Box::new(keyed))
    }

    fn about(&self) -> NodeManifest {
        NodeManifest {
            operator: self.descriptor.name.clone(),
            component: self.spec.logic.digest().to_owned(),
            key: self.key_schema.iter().flat_map(|key| key.fields()).map(|f| type_name(f.data_type())).collect(),
            states: self.descriptor.states.iter().map(StateManifest::of).collect(),
            ..NodeManifest::default()
        }
    }

    fn successor(&self, logic: Arc<dyn LogicFactory>, dropped: &[String]) -> Result<Arc<dyn Successor>, Fault> {
        let after = Self::new(ProcessSpec { logic, ..self.spec.clone() }).map_err(|error| {
            let fault = Fault::config(error.message);
            error.help.into_iter().fold(fault, Fault::with_help)
        })?;
        Ok(Arc::new(swap::Replacement::new(self, after, dropped)?))
    }

    /// Timers need time, and logic that reads event times is also told the clocks.
    fn uses_time(&self) -> bool {
        self.descriptor.kind == LogicKind::Keyed || self.descriptor.reads_time
    }
}

/// What stateless and keyed operators share.
struct Common {
    descriptor: Arc<Descriptor>,
    inputs: Vec<InputPlan>,
    outputs: Outputs,
    rejects: Rejects,
}

impl Common {
    /// Refuses changes for logic that does not know them.
    fn admit(&self, batch: &Batch) -> Result<(), Fault> {
        if batch.kinds.is_none() || self.descriptor.changes {
            return Ok(());
        }
        let message =
            format!("the stream has updates and deletes, but `{}` understands inserts only", self.descriptor.name);
        Err(Fault::config(message).at(&self.rejects.node).with_help(
            "declare in the component that the operator takes changes, or put it in front of what makes them",
        ))
    }

    fn malformed(&self, what: String) -> Fault {
        Fault::component(format!("malformed answer of `{}`: {what}", self.descriptor.name)).at(&self.rejects.node)
    }
}

/// Rows of a batch that are still to be processed.
struct Work {
    input: usize,
    batch: Batch,
    done: usize,
}

/// How many rows come out per row in, to size the next call.
#[derive(Default)]
struct Amplification {
    rows_out_per_in: Option<f64>,
}

/// Assumed before the first call: a flat-map's first call shall not bring a million rows.
const FIRST_GUESS: f64 = 32.0;

impl Amplification {
    /// Rows for one call, so that about one batch comes out of it.
    fn rows_per_call(&self) -> usize {
        let rows_max = tidemill_model::limits::BATCH_ROWS_MAX;
        let per_row = self.rows_out_per_in.unwrap_or(FIRST_GUESS).max(1.0);
        ((rows_max as f64 / per_row) as usize).clamp(1, rows_max)
    }

    fn observe(&mut self, rows_in: usize, rows_out: usize) {
        let now = rows_out as f64 / rows_in.max(1) as f64;
        // Up at once, since large outputs hurt; down by halves.
        self.rows_out_per_in = Some(self.rows_out_per_in.map_or(now, |before| now.max((before + now) / 2.0)));
    }
}
