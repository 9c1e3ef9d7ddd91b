//! One life of a job: from its start, from the newest checkpoint if there is one, to its end or its crash.
//!
//! Law: whatever is stored, published, committed and restored goes the way that it goes in the runtime; only workers and threads
//! are the driver's.

use std::sync::Arc;

use tidemill::durable::{Durable, From};
use tidemill_engine::driver::{Driver, Start};
use tidemill_model::checkpoint::{CheckpointStore, Manifest, Purpose};
use tidemill_model::plan::{Backend, NodeKind, Plan};
use tidemill_model::snapshot::Form;
use tidemill_model::{Fault, OperatorFactory};
use tidemill_runtime::{DEAD_LETTER, StartOptions, Stepped};

use super::catalog;
use super::shape::Shape;
use super::sink::lines;
use super::store::WiredStore;
use super::version::Version;
use super::wire::Wire;
use super::world::{Rows, World};

/// Sources wait while so many batches are on their way; what is on its way may become more on each edge to each worker.
const IN_FLIGHT: usize = 64;

pub struct Life {
    pub wire: Arc<Wire>,
    pub plan: Plan,
    pub store: Arc<dyn CheckpointStore>,
    pub driver: Driver,
    stepped: Stepped,
    workers: usize,
}

impl Life {
    /// Claims the next generation and goes on from the newest checkpoint.
    pub fn start(shape: &Shape, wire: &Arc<Wire>, workers: usize, backend: Backend, seed: u64) -> Result<Self, Fault> {
        let world = wire.world.clone();
        let plan = catalog::plan(shape, wire, backend, true)?;
        let durable = Durable::over(Arc::new(WiredStore(wire.clone())), &plan, world.folder())?;
        let durability = durable.begin(&plan)?;
        world.begin(wire.life);
        let manifest = durable.find(&From::Latest, false)?;
        let from = manifest.as_ref().map_or_else(|| "the beginning".to_owned(), describe);
        world.note(format!("  generation {}, {workers} workers, {backend:?}, from {from}", durability.generation));
        let from = manifest.map(|manifest| durable.start_from(manifest, &[]));
        let options = StartOptions { workers, durability: Some(durability), from, ..StartOptions::default() };
        let stepped = Stepped::begin(plan.clone(), options)?;
        let mut driver = drive(&plan, workers, seed, &stepped, world.now_ms())?;
        if let Some((node, times)) = &shape.slow {
            driver.slow_down(node, *times)?;
        }
        Ok(Self { wire: wire.clone(), plan, store: durable.store.clone(), driver, stepped, workers })
    }

    pub fn world(&self) -> &World {
        &self.wire.world
    }

    /// Lets so many things happen; false: there is nothing left to happen.
    pub fn steps(&mut self, steps: usize) -> Result<bool, Fault> {
        let (edges, ticks) =
            (self.plan.nodes.iter().map(|node| node.inputs.len()).sum::<usize>(), self.plan.options.ticks_in_flight);
        let bound = IN_FLIGHT * edges.max(1) * self.workers;
        let mut more = true;
        for _ in 0..steps {
            more = self.driver.run_steps(1)?;
            let (batches, open) = self.driver.in_flight();
            if batches > bound {
                self.world().violation(format!("{batches} batches are on their way, and no more than {bound} may be"));
            }
            if open > ticks as usize + 1 {
                self.world().violation(format!("{open} ticks are open, and no more than {ticks} may be"));
            }
            if !more {
                break;
            }
        }
        self.world().see_time(self.driver.now_ms());
        Ok(more)
    }

    /// Puts a version of an operator on trial; none: its node is in the middle of a call. A fault: it can't be.
    pub fn swap(
        &mut self,
        shape: &Shape,
        (node, operator): (&str, &str),
        version: Version,
    ) -> Result<Option<Arc<dyn OperatorFactory>>, Fault> {
        let limits = self.plan.options.guest;
        let logic = catalog::logic(shape, &self.wire, operator, limits, version)?;
        let successor = self.factory(node)?.successor(logic, &[])?;
        let begun = self.driver.swap(node, successor.as_ref());
        if begun.is_err() {
            // Some may have it already.
            self.driver.settle(node, false)?;
        }
        Ok(begun?.then(|| successor.factory()))
    }

    /// What a node is made of from now on.
    pub fn replace(&mut self, node: &str, factory: Arc<dyn OperatorFactory>) {
        if let Some(node) = self.plan.nodes.iter_mut().find(|known| known.name == node) {
            node.kind = NodeKind::Operator { factory };
        }
    }

    fn factory(&self, node: &str) -> Result<Arc<dyn OperatorFactory>, Fault> {
        match self.plan.nodes.iter().find(|known| known.name == node).map(|node| &node.kind) {
            Some(NodeKind::Operator { factory }) => Ok(factory.clone()),
            _ => Err(Fault::internal(format!("`{node}` is no operator"))),
        }
    }

    /// A checkpoint or savepoint. The outer fault is one of the job, the inner one of the checkpoint alone.
    pub fn checkpoint(&mut self, purpose: &Purpose, stop: bool) -> Result<Result<u64, Fault>, Fault> {
        let form = if matches!(purpose, Purpose::Savepoint { .. }) { Form::Portable } else { Form::Native };
        let parts = self.driver.freeze(form)?;
        self.world().see_time(self.driver.now_ms());
        Ok(self.stepped.checkpoint(purpose, stop, parts).map(|taken| taken.id))
    }

    /// All input was read: the last checkpoint and the last commit.
    pub fn end(&mut self) -> Result<(), Fault> {
        let parts = self.driver.last_parts()?;
        self.stepped.end(parts)
    }
}

/// What runs the operators of a job.
fn drive(plan: &Plan, workers: usize, seed: u64, stepped: &Stepped, now_ms: i64) -> Result<Driver, Fault> {
    let state = |node: &str, worker: usize| stepped.state(node, worker);
    Driver::start(plan, workers, seed, &Start { now_ms, splits: stepped.splits(), state: &state })
}

/// A run from the beginning without any fault, or the rest of one behind a checkpoint: the rows that its sinks get.
pub fn undisturbed(
    shape: &Shape,
    world: &Arc<World>,
    workers: usize,
    backend: Backend,
    from: Option<(&Manifest, u64)>,
) -> Result<Rows, Fault> {
    let wire = Wire::new(usize::MAX, world);
    let plan = catalog::plan(shape, &wire, backend, false)?;
    let seed = from.map_or(0, |(_, seed)| seed);
    let mut driver = match from {
        None => Driver::new(&plan, workers, seed)?,
        Some((manifest, _)) => {
            let durable = Durable::over(world.objects.clone(), &plan, world.folder())?;
            durable.store.verify(manifest)?;
            let start = durable.start_from(manifest.clone(), &[]);
            let options = StartOptions {
                workers,
                durability: Some(durable.idle(&plan)),
                from: Some(start),
                ..StartOptions::default()
            };
            drive(&plan, workers, seed, &Stepped::begin(plan.clone(), options)?, world.now_ms())?
        }
    };
    while driver.run_steps(1000)? {}
    let mut rows = Rows::new();
    for node in plan.nodes.iter().filter(|node| node.outputs.is_empty()) {
        let batches = driver.output(&node.name).iter().map(|batch| lines(batch.rows()));
        rows.insert(node.name.clone(), batches.collect::<Result<Vec<_>, _>>()?.concat());
    }
    if plan.dead_letter.is_some() {
        rows.insert(DEAD_LETTER.into(), lines(&tidemill_model::dead::to_rows(driver.dead()))?);
    }
    Ok(rows)
}

fn describe(manifest: &Manifest) -> String {
    let Manifest { id, generation, purpose, workers, .. } = manifest;
    format!("{id} of generation {generation} by {workers} workers ({purpose:?})")
}
