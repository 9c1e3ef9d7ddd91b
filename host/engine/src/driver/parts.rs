//! What the driver holds at a boundary, part by part, for somebody who stores it as the runtime does; a start from there; and other logic
//! for a node in between.
//!
//! Laws: those of `checkpoint.rs`; nothing is encoded, stored or committed here.

use tidemill_model::checkpoint::{Content, Part, SplitState};
use tidemill_model::operator::Successor;
use tidemill_model::plan::Plan;
use tidemill_model::snapshot::{Form, Restore};
use tidemill_model::time::Now;
use tidemill_model::{Fault, OperatorContext};

use super::node::Work;
use super::source::SourceWorker;
use super::{Driver, each};

/// What an operator on a worker takes in.
pub type StateOf<'a> = dyn Fn(&str, usize) -> Result<Option<Box<dyn Restore + 'a>>, Fault> + 'a;

/// What a run goes on with.
pub struct Start<'a> {
    /// Where the virtual clock stands.
    pub now_ms: i64,
    /// What is to be read, by node.
    pub splits: &'a [Vec<SplitState>],
    /// What an operator on a worker held, if there is something.
    #[allow(clippy::type_complexity)]
    pub state: &'a StateOf<'a>,
}

impl Driver {
    /// A run that begins with these splits and this state.
    pub fn start(plan: &Plan, workers: usize, seed: u64, start: &Start) -> Result<Self, Fault> {
        let mut driver = Self::build(plan, workers, seed, false)?;
        driver.now_ms = start.now_ms;
        for (id, node) in plan.nodes.iter().enumerate() {
            for worker in 0..driver.instances[id].len() {
                if let Some(state) = (start.state)(&node.name, worker)? {
                    driver.take_in(id, worker, &*state).map_err(|f| f.at(&node.name).on_worker(worker))?;
                }
            }
            if !driver.sources[id].is_empty() {
                driver.open_splits(id, &start.splits[id])?;
            }
        }
        Ok(driver)
    }

    fn take_in(&mut self, id: usize, worker: usize, state: &dyn Restore) -> Result<(), Fault> {
        let instance = &mut self.instances[id][worker];
        let Work::Operator(operator, _) = &mut instance.work else { return Ok(()) };
        let now = state.now();
        instance.tracker.resume(now.watermark);
        instance.processing_ms = now.processing_ms;
        operator.restore(state)
    }

    /// Goes on to a boundary and freezes everything there.
    pub fn freeze(&mut self, form: Form) -> Result<Vec<Part>, Fault> {
        self.go_to_boundary()?;
        self.checkpoints += 1;
        let mut parts = Vec::new();
        for (id, worker, source) in each(&self.sources) {
            let splits = SourceWorker::splits(source).into_iter().map(|(_, split)| split).collect();
            parts.push(Part { node: id, worker, content: Content::Splits(splits) });
        }
        for id in 0..self.instances.len() {
            for worker in 0..self.instances[id].len() {
                let content = self.hold(id, worker, form).map_err(|f| f.at(&self.plan.nodes[id].name))?;
                parts.extend(content.map(|content| Part { node: id, worker, content }));
            }
        }
        parts.extend(self.prepare_dead()?);
        Ok(parts)
    }

    /// Where all input was read: what the sinks have still to say.
    pub fn last_parts(&mut self) -> Result<Vec<Part>, Fault> {
        let all = self.freeze(Form::Portable)?;
        Ok(all.into_iter().filter(|part| matches!(part.content, Content::Committables(_))).collect())
    }

    /// Puts other logic of a node on trial, on all workers. False: one of them is in the middle of a call.
    pub fn swap(&mut self, node: &str, successor: &dyn Successor) -> Result<bool, Fault> {
        let id = self.node_id(node)?;
        if self.instances[id].iter().any(|instance| instance.unfinished.is_some()) {
            return Ok(false);
        }
        for (worker, instance) in self.instances[id].iter_mut().enumerate() {
            let place = OperatorContext {
                node: node.to_owned(),
                worker,
                workers: self.workers,
                processing_ms: instance.processing_ms,
            };
            if let Work::Operator(operator, _) = &mut instance.work {
                operator.swap(successor.open(&place)?)?;
            }
        }
        Ok(true)
    }

    /// Ends the trial on all workers.
    pub fn settle(&mut self, node: &str, keep: bool) -> Result<(), Fault> {
        let id = self.node_id(node)?;
        for instance in &mut self.instances[id] {
            if let Work::Operator(operator, _) = &mut instance.work {
                operator.settle(keep)?;
            }
        }
        Ok(())
    }

    fn hold(&mut self, id: usize, worker: usize, form: Form) -> Result<Option<Content>, Fault> {
        let number = self.checkpoints;
        let instance = &mut self.instances[id][worker];
        let now = Now { watermark: instance.tracker.watermark(), processing_ms: instance.processing_ms };
        Ok(match &mut instance.work {
            Work::Operator(operator, true) => Some(Content::State(now, operator.snapshot(form)?)),
            Work::Operator(_, false) => None,
            Work::Sink(writer) => Some(Content::Committables(writer.prepare(number)?)),
        })
    }

    fn prepare_dead(&mut self) -> Result<Option<Part>, Fault> {
        let (node, number) = (self.plan.nodes.len(), self.checkpoints);
        let Some(writer) = &mut self.dead_writer else { return Ok(None) };
        Ok(Some(Part { node, worker: 0, content: Content::Committables(writer.prepare(number)?) }))
    }
}
