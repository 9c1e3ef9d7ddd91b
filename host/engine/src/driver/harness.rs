//! Plans around a single operator, for its tests.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use tidemill_model::fault::OnError;
use tidemill_model::plan::{Built, Edge, EventTimeSpec, Exchange, JobOptions, Node, NodeKind, Plan};
use tidemill_model::sink::{Committable, Sink, SinkWriter};
use tidemill_model::source::{Position, Source, Split, SplitReader};
use tidemill_model::{Batch, Fault};

/// A source without splits: its rows are pushed.
#[derive(Clone, Debug)]
pub struct HandFed(pub SchemaRef);

impl Source for HandFed {
    fn schema(&self) -> SchemaRef {
        self.0.clone()
    }
    fn splits(&self, _workers: usize) -> Result<Vec<Split>, Fault> {
        Ok(Vec::new())
    }
    fn open(&self, split: &Split, _position: &Position) -> Result<Box<dyn SplitReader>, Fault> {
        Err(Fault::internal(format!("split {} of a source that has none", split.id)))
    }
    fn bounded(&self) -> bool {
        true
    }
}

/// A sink that keeps nothing: the driver records what reaches it.
struct Recorded;

impl Sink for Recorded {
    fn blocks(&self) -> bool {
        false
    }
    fn accepts(&self, _schema: &SchemaRef) -> Result<(), Fault> {
        Ok(())
    }
    fn open(&self, _worker: usize, _workers: usize, _schema: SchemaRef) -> Result<Box<dyn SinkWriter>, Fault> {
        Ok(Box::new(Recorded))
    }
    fn commit(&self, _committables: &[Committable]) -> Result<(), Fault> {
        Ok(())
    }
}

impl SinkWriter for Recorded {
    fn write(&mut self, _batch: &Batch) -> Result<(), Fault> {
        Ok(())
    }
    fn prepare(&mut self, _checkpoint: u64) -> Result<Vec<Committable>, Fault> {
        Ok(Vec::new())
    }
    fn abort(&mut self) {}
}

/// What feeds one input of the operator.
#[derive(Clone, Debug)]
pub struct Input {
    /// Name of the source.
    pub name: String,
    pub schema: SchemaRef,
    /// Key columns; empty: rows stay on the worker that they are pushed to.
    pub key: Vec<usize>,
    /// All workers get the rows.
    pub broadcast: bool,
    pub event_time: Option<EventTimeSpec>,
}

impl Input {
    pub fn new(name: &str, schema: &SchemaRef) -> Self {
        Self { name: name.to_owned(), schema: schema.clone(), key: Vec::new(), broadcast: false, event_time: None }
    }
}

/// Hand-fed sources, the operator, and one sink per output port, named as the port.
pub fn one_operator(name: &str, operator: &Built, inputs: &[Input]) -> Plan {
    let source = |input: &Input| Node {
        name: input.name.clone(),
        kind: NodeKind::Source {
            source: Arc::new(HandFed(input.schema.clone())),
            event_time: input.event_time,
            on_error: OnError::DeadLetter,
        },
        inputs: Vec::new(),
        outputs: vec![input.schema.clone()],
    };
    let edge = |(index, input): (usize, &Input)| {
        let exchange = match (input.broadcast, input.key.is_empty()) {
            (true, _) => Exchange::Broadcast,
            (false, true) => Exchange::Forward,
            (false, false) => Exchange::Key(input.key.clone()),
        };
        Edge { from: index, port: 0, input: index, exchange }
    };
    let mut nodes: Vec<Node> = inputs.iter().map(source).collect();
    let id = nodes.len();
    nodes.push(Node {
        name: name.to_owned(),
        kind: NodeKind::Operator { factory: operator.factory.clone() },
        inputs: inputs.iter().enumerate().map(edge).collect(),
        outputs: operator.outputs.iter().map(|(_, schema)| schema.clone()).collect(),
    });
    for (port, (name, schema)) in operator.outputs.iter().enumerate() {
        nodes.push(Node {
            name: name.clone(),
            kind: NodeKind::Sink { sink: Arc::new(Recorded), schema: schema.clone() },
            inputs: vec![Edge { from: id, port, input: 0, exchange: Exchange::Forward }],
            outputs: Vec::new(),
        });
    }
    Plan { name: name.to_owned(), nodes, dead_letter: None, options: JobOptions::default() }
}
