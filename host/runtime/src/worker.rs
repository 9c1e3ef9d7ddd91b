//! One worker thread: builds the dataflow of the plan and steps it to its end.
//!
//! Law: all workers build the same operators in the same order. What can fail is built before, so that
//! a failure leaves no worker with half a dataflow.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tidemill_model::dead::DEAD_SCHEMA;
use tidemill_model::plan::{Edge, Exchange, NodeKind};
use tidemill_model::snapshot::Restore;
use tidemill_model::time::Now;
use tidemill_model::{Fault, Operator, OperatorContext, OperatorFactory, panics};
use timely::dataflow::operators::core::concat::Concatenate;
use timely::dataflow::operators::probe::Handle;
use timely::dataflow::{Scope, Stream};
use timely::scheduling::Activator;
use timely::worker::Worker;

use crate::checkpoint::Phase;
use crate::control::ControlMsg;
use crate::frame::Rows;
use crate::job::Shared;
use crate::{operator, sink, source};

/// Longest sleep of a worker without work: how late it sees that the job was aborted.
const PARK_MS: u64 = 5;
/// The same while logic is being replaced.
const SWAP_PARK: Duration = Duration::from_micros(200);

pub type RowStream<'s> = Stream<'s, u64, Rows>;
pub type ControlStream<'s> = Stream<'s, u64, Vec<ControlMsg>>;
/// First fault of a keyed edge's distributor.
pub type EdgeFault = Rc<RefCell<Option<Fault>>>;

/// What the nodes of one worker share.
#[derive(Clone)]
pub struct WorkerContext {
    pub shared: Arc<Shared>,
    pub worker: usize,
    /// Stands behind all sinks.
    pub probe: Handle<u64>,
    /// To wake operators, by node.
    pub wakers: Rc<RefCell<Vec<(usize, Activator)>>>,
}

/// A node on this worker, built and ready.
enum Part {
    Source(source::SplitReaders),
    /// `now`: where its clocks stand.
    Operator {
        operator: Box<dyn Operator>,
        uses_time: bool,
        now: Now,
    },
    Sink(sink::Writer),
}

pub fn run(worker: &mut Worker, shared: &Arc<Shared>) {
    let context = WorkerContext {
        shared: shared.clone(),
        worker: worker.index(),
        probe: Handle::new(),
        wakers: Rc::new(RefCell::new(Vec::new())),
    };
    let outcome = catch_unwind(AssertUnwindSafe(|| match build_parts(&context) {
        Ok((parts, dead)) => {
            worker.dataflow::<u64, _, _>(|scope| build(scope, &context, parts, dead));
            step(worker, &context);
        }
        Err(fault) => shared.fail(fault.on_worker(context.worker)),
    }));
    if let Err(panic) = outcome {
        shared.fail(Fault::internal(format!("worker {} panicked: {}", context.worker, panics::text(&*panic))));
        drop_all(worker);
    }
}

fn step(worker: &mut Worker, context: &WorkerContext) {
    let shared = &context.shared;
    while worker.has_dataflows() {
        if shared.is_aborted() {
            drop_all(worker);
            return;
        }
        let mut park = Duration::from_millis(PARK_MS);
        if let Some(node) = shared.swapping() {
            // Whoever waits for a verdict, or has no rows, is not woken by any other.
            context.wakers.borrow().iter().filter(|(of, _)| *of == node).for_each(|(_, waker)| waker.activate());
            park = SWAP_PARK;
        }
        worker.step_or_park(Some(park));
    }
}

fn drop_all(worker: &mut Worker) {
    for id in worker.installed_dataflows() {
        worker.drop_dataflow(id);
    }
}

fn build_parts(context: &WorkerContext) -> Result<(Vec<Part>, Option<sink::Writer>), Fault> {
    let (shared, worker) = (&context.shared, context.worker);
    let mut parts = Vec::new();
    for (id, node) in shared.plan.nodes.iter().enumerate() {
        let part = match &node.kind {
            NodeKind::Source { .. } => Ok(Part::Source(source::SplitReaders::new(context, id))),
            NodeKind::Operator { factory } => {
                let place = shared.place(id, worker);
                build_operator(shared, &place, factory.as_ref())
            }
            NodeKind::Sink { sink, schema } => sink::Writer::open(context, sink, schema.clone()).map(Part::Sink),
        };
        parts.push(part.map_err(|fault| fault.at(&node.name))?);
    }
    let dead = shared.plan.dead_letter.as_ref();
    let dead = dead.map(|sink| sink::Writer::open(context, sink, DEAD_SCHEMA.clone()));
    Ok((parts, dead.transpose().map_err(|fault| fault.at("dead_letter"))?))
}

fn build_operator(shared: &Shared, place: &OperatorContext, factory: &dyn OperatorFactory) -> Result<Part, Fault> {
    let mut operator = factory.build(place)?;
    let from = shared.from.as_ref().map(|from| from.operator(&place.node, place.worker, place.workers));
    let from = from.transpose()?.flatten();
    let before = from.as_ref().map_or(Now::START, |from| from.now());
    let now = Now { processing_ms: before.processing_ms.max(place.processing_ms), ..before };
    if let Some(from) = &from {
        shared.reach(Phase::Restore);
        operator.restore(from)?;
    }
    Ok(Part::Operator { operator, uses_time: factory.uses_time(), now })
}

fn build(scope: Scope<'_, u64>, context: &WorkerContext, parts: Vec<Part>, dead_writer: Option<sink::Writer>) {
    let plan = &context.shared.plan;
    let timed = parts.iter().any(|p| matches!(p, Part::Operator { uses_time: true, .. }));
    let mut ports: Vec<Vec<RowStream>> = Vec::new();
    let (mut dead, mut controls) = (Vec::new(), Vec::new());
    let mut rest = Vec::new();
    for (id, part) in parts.into_iter().enumerate() {
        ports.push(Vec::new());
        if let Part::Source(readers) = part {
            let streams = source::source(scope, context, id, readers);
            ports[id].push(streams.rows);
            dead.push(streams.dead);
            controls.push(streams.control);
        } else {
            rest.push((id, part));
        }
    }
    // Without operators that use time nobody reads the control stream, and then it costs nothing.
    let control = timed.then(|| operator::relay(scope.concatenate(controls)));
    let above = plan.ancestor_sources();
    for (id, part) in rest {
        let inputs: Vec<(&Edge, RowStream)> =
            plan.nodes[id].inputs.iter().map(|e| (e, ports[e.from][e.port].clone())).collect();
        match part {
            Part::Operator { operator, uses_time, now } => {
                let control = control.clone().filter(|_| uses_time);
                let control = control.map(|c| operator::Control { stream: c, sources: &above[id], now });
                let mut outputs = operator::operator(scope, context, id, operator, inputs, control);
                dead.push(outputs.pop().expect("the last output is the dead-letter port"));
                ports[id] = outputs;
            }
            Part::Sink(writer) => sink::sink(scope, context, id, writer, inputs),
            Part::Source(_) => unreachable!("sources were built first"),
        }
    }
    if let Some(writer) = dead_writer {
        let edge = Edge { from: 0, port: 0, input: 0, exchange: Exchange::Forward };
        let inputs = dead.into_iter().map(|stream| (&edge, stream)).collect();
        sink::sink(scope, context, context.shared.dead_node(), writer, inputs);
    }
}
