//! Runs a plan on one thread: virtual workers, virtual time, and an order of events that a seed decides.
//!
//! The semantics are the runtime's. Sources stamp rows with their tick; a node closes tick t when all above it have
//! and no row of t is on its way to it; then its clocks move to what its sources said at the end of t, and timers and windows
//! fire. Laws: the same plan, workers and seed give the same run, bit for bit; rows between two workers of an edge
//! keep their order, everything else may overtake.
//!
//! Tests feed rows by hand with [`Driver::by_hand`], or let the sources run with [`Driver::new`].

mod checkpoint;
mod edges;
mod harness;
mod node;
mod parts;
mod rng;
mod source;

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use tidemill_model::checkpoint::SplitState;
use tidemill_model::dead::{self, DeadRow};
use tidemill_model::plan::{NodeId, NodeKind, Plan, TickMode};
use tidemill_model::sink::SinkWriter;
use tidemill_model::source::Split;
use tidemill_model::time::Now;
use tidemill_model::{Batch, Fault, OperatorContext, Progress};

use edges::Edges;
use node::{Emitted, Instance, Unfinished, Work};
use rng::Rng;
use source::SourceWorker;

pub use checkpoint::{Checkpoint, OperatorState};
pub use harness::{HandFed, Input, one_operator};
pub use parts::Start;

/// Batches on their way beyond which sources wait: bounds memory, and how far rows may overtake.
const IN_FLIGHT_MAX: usize = 64;

/// Counters by node and name.
pub type Counters = BTreeMap<(String, String), u64>;

/// A run of one plan.
pub struct Driver {
    plan: Plan,
    workers: usize,
    by_hand: bool,
    rng: Rng,
    now_ms: i64,
    /// By node and worker; empty for nodes that are no source.
    sources: Vec<Vec<SourceWorker>>,
    /// By node and worker; empty for sources.
    instances: Vec<Vec<Instance>>,
    edges: Edges,
    dead_writer: Option<Box<dyn SinkWriter>>,
    outputs: BTreeMap<String, Vec<Batch>>,
    dead: Vec<DeadRow>,
    counters: Counters,
    committed: bool,
    /// Number of the last checkpoint.
    checkpoints: u64,
    /// No row of this tick or later is read for now.
    boundary: Option<usize>,
    /// A node whose turn comes so many times less often than that of others.
    slow: Option<(NodeId, usize)>,
}

/// Something that can happen next.
#[derive(Clone, Copy, Debug)]
enum Event {
    Poll(NodeId, usize),
    EndTick(NodeId, usize),
    Deliver(usize),
    Close(NodeId, usize),
    Resume(NodeId, usize),
    PassTime,
}

impl Driver {
    /// Opens the sources' splits. `run` then does everything.
    pub fn new(plan: &Plan, workers: usize, seed: u64) -> Result<Self, Fault> {
        let mut driver = Self::build(plan, workers, seed, false)?;
        (0..plan.nodes.len()).try_for_each(|id| driver.open_new(id))?;
        Ok(driver)
    }

    /// Opens what a source lists, if the node is one.
    fn open_new(&mut self, id: NodeId) -> Result<(), Fault> {
        let NodeKind::Source { source, .. } = &self.plan.nodes[id].kind else { return Ok(()) };
        let splits = source.splits(self.workers).map_err(|f| f.at(&self.plan.nodes[id].name))?.into_iter();
        let new =
            |Split { id, spec, size }| SplitState { id, spec, size, position: Vec::new(), max_time: None, open: false };
        self.open_splits(id, &splits.map(new).collect::<Vec<_>>())
    }

    /// Deals a source's splits to its workers.
    fn open_splits(&mut self, id: NodeId, splits: &[SplitState]) -> Result<(), Fault> {
        let node = &self.plan.nodes[id];
        let NodeKind::Source { source, .. } = &node.kind else {
            return Err(Fault::config(format!("`{}` was a source, and is none any more", node.name)));
        };
        for (worker, reader) in self.sources[id].iter_mut().enumerate() {
            let own = splits.iter().cloned().enumerate().skip(worker).step_by(self.workers).collect();
            reader.open(source, own, self.now_ms).map_err(|f| f.at(&node.name).on_worker(worker))?;
        }
        Ok(())
    }

    /// Opens no splits: rows and time come from `push`, `advance_event_time` and `advance_processing_time`.
    pub fn by_hand(plan: &Plan, workers: usize, seed: u64) -> Result<Self, Fault> {
        let mut driver = Self::build(plan, workers, seed, true)?;
        driver.sources.iter_mut().flatten().for_each(SourceWorker::feed_by_hand);
        Ok(driver)
    }

    fn build(plan: &Plan, workers: usize, seed: u64, by_hand: bool) -> Result<Self, Fault> {
        let above = plan.ancestor_sources();
        let (mut sources, mut instances) = (Vec::new(), Vec::new());
        let mut outputs = BTreeMap::new();
        for (id, node) in plan.nodes.iter().enumerate() {
            let (mut own_sources, mut own_instances) = (Vec::new(), Vec::new());
            for worker in 0..workers {
                let context = OperatorContext { node: node.name.clone(), worker, workers, processing_ms: 0 };
                let at = |fault: Fault| fault.at(&node.name).on_worker(worker);
                let work = match &node.kind {
                    NodeKind::Source { event_time, on_error, .. } => {
                        own_sources.push(SourceWorker::new(&node.name, *event_time, *on_error));
                        continue;
                    }
                    NodeKind::Operator { factory } => {
                        Work::Operator(factory.build(&context).map_err(at)?, factory.uses_time())
                    }
                    NodeKind::Sink { sink, schema } => {
                        outputs.insert(node.name.clone(), Vec::new());
                        Work::Sink(sink.open(worker, workers, schema.clone()).map_err(at)?)
                    }
                };
                own_instances.push(Instance::new(work, above[id].len() * workers));
            }
            sources.push(own_sources);
            instances.push(own_instances);
        }
        let dead_writer = match &plan.dead_letter {
            Some(sink) => Some(sink.open(0, 1, dead::DEAD_SCHEMA.clone())?),
            None => None,
        };
        Ok(Self {
            edges: Edges::new(plan, workers)?,
            plan: plan.clone(),
            workers,
            by_hand,
            rng: Rng::new(seed),
            now_ms: 0,
            sources,
            instances,
            dead_writer,
            outputs,
            dead: Vec::new(),
            counters: Counters::new(),
            committed: false,
            checkpoints: 0,
            boundary: None,
            slow: None,
        })
    }

    /// Runs until all sources have ended, all ticks have closed and all sinks have committed.
    pub fn run(&mut self) -> Result<(), Fault> {
        for node in &self.plan.nodes {
            if let NodeKind::Source { source, .. } = &node.kind
                && !self.by_hand
                && !source.bounded()
            {
                return Err(Fault::config("the source never ends: use `run_for`").at(&node.name));
            }
        }
        while self.step(i64::MAX)? {}
        self.commit()
    }

    /// Runs until the virtual clock has come this many ms further, or everything has ended.
    pub fn run_for(&mut self, ms: i64) -> Result<(), Fault> {
        let until = self.now_ms.saturating_add(ms);
        while self.now_ms < until && self.step(until)? {}
        Ok(())
    }

    /// Lets at most so many things happen. Whether more is to come.
    pub fn run_steps(&mut self, steps: usize) -> Result<bool, Fault> {
        for _ in 0..steps {
            if !self.step(i64::MAX)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Rows for a source, in the tick that is open. Event times come from its event-time column, if it has one.
    pub fn push(&mut self, source: &str, rows: RecordBatch) -> Result<(), Fault> {
        self.push_at(source, rows, None)
    }

    /// The same with an event time in ms for each row.
    pub fn push_timed(&mut self, source: &str, rows: RecordBatch, times: Vec<i64>) -> Result<(), Fault> {
        self.push_at(source, rows, Some(times))
    }

    /// No row with an event time at or below `watermark` will come from this source. Closes the tick.
    pub fn advance_event_time(&mut self, source: &str, watermark: i64) -> Result<(), Fault> {
        let id = self.source_id(source)?;
        self.sources[id].iter_mut().for_each(|s| s.set_watermark(watermark));
        self.tick()
    }

    /// Moves the virtual wall clock. Closes the tick.
    pub fn advance_processing_time(&mut self, ms: i64) -> Result<(), Fault> {
        self.now_ms = self.now_ms.saturating_add(ms);
        self.tick()
    }

    /// Closes the tick: everything pushed is processed, in an order that the seed decides.
    pub fn tick(&mut self) -> Result<(), Fault> {
        let now_ms = self.now_ms;
        self.sources.iter_mut().flatten().filter(|s| !s.has_ended()).for_each(|s| s.say(now_ms));
        while self.step(now_ms)? {}
        Ok(())
    }

    /// Ends all sources: event time runs to its end, sinks commit.
    pub fn finish(&mut self) -> Result<(), Fault> {
        self.sources.iter_mut().flatten().for_each(SourceWorker::finish);
        self.tick()?;
        self.commit()
    }

    /// Batches that have reached a sink, in order of arrival.
    pub fn output(&self, sink: &str) -> &[Batch] {
        self.outputs.get(sink).map_or(&[], Vec::as_slice)
    }

    /// The same, and forgets them.
    pub fn take_output(&mut self, sink: &str) -> Vec<Batch> {
        self.outputs.get_mut(sink).map(std::mem::take).unwrap_or_default()
    }

    pub fn dead(&self) -> &[DeadRow] {
        &self.dead
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    pub fn counter(&self, node: &str, name: &str) -> u64 {
        self.counters.get(&(node.to_owned(), name.to_owned())).copied().unwrap_or(0)
    }

    /// Rows, groups or keys that a node holds on all workers.
    pub fn held(&self, node: &str) -> u64 {
        let id = self.plan.nodes.iter().position(|n| n.name == node);
        id.map_or(0, |id| self.instances[id].iter().map(Instance::held).sum())
    }

    /// The watermark that each operator and sink has seen, by node and worker.
    pub fn watermarks(&self) -> impl Iterator<Item = (&str, usize, i64)> {
        let name = |id: NodeId| self.plan.nodes[id].name.as_str();
        each(&self.instances).map(move |(id, worker, instance)| (name(id), worker, instance.tracker.watermark()))
    }

    /// Batches on their way, and ticks that are open somewhere.
    pub fn in_flight(&self) -> (usize, usize) {
        let oldest = self.instances.iter().flatten().map(|i| i.closed).min().unwrap_or(0);
        let newest = each(&self.sources).map(|(_, _, s)| s.tick()).max().unwrap_or(0);
        (self.edges.in_flight(), newest.saturating_sub(oldest))
    }

    /// From now on this node's turn comes so many times less often.
    pub fn slow_down(&mut self, node: &str, times: usize) -> Result<(), Fault> {
        self.slow = Some((self.node_id(node)?, times.max(1)));
        Ok(())
    }

    /// Virtual processing time in ms; starts at 0.
    pub fn now_ms(&self) -> i64 {
        self.now_ms
    }

    fn node_id(&self, name: &str) -> Result<NodeId, Fault> {
        let found = self.plan.nodes.iter().position(|n| n.name == name);
        found.ok_or_else(|| Fault::config(format!("the checkpoint holds `{name}`, but there is no such node")))
    }

    fn source_id(&self, name: &str) -> Result<NodeId, Fault> {
        let found = self.plan.nodes.iter().position(|n| n.name == name && matches!(n.kind, NodeKind::Source { .. }));
        found.ok_or_else(|| Fault::config(format!("there is no source `{name}`")))
    }

    fn push_at(&mut self, source: &str, rows: RecordBatch, times: Option<Vec<i64>>) -> Result<(), Fault> {
        let id = self.source_id(source)?;
        let worker = self.rng.below(self.workers);
        let now_ms = self.now_ms;
        let (batch, dead) = self.sources[id][worker].push(rows, times).map_err(|f| f.at(source))?;
        // All workers of a source fed by hand agree on time, as if each had seen the rows.
        if let Some(times) = batch.times.clone() {
            self.sources[id].iter_mut().for_each(|s| s.see(&times, now_ms));
        }
        self.bury(dead)?;
        if !batch.is_empty() {
            let tick = self.sources[id][worker].tick();
            self.edges.route(id, worker, tick, 0, batch, &mut self.rng)?;
        }
        Ok(())
    }

    /// Lets one thing happen, if anything can. Time does not pass beyond `until_ms`.
    fn step(&mut self, until_ms: i64) -> Result<bool, Fault> {
        let events = self.events(until_ms);
        if events.is_empty() {
            return Ok(false);
        }
        let mut event = events[self.rng.below(events.len())];
        if let Some((slow, times)) = self.slow
            && self.node_of(event) == Some(slow)
            && self.rng.below(times) > 0
        {
            event = events[self.rng.below(events.len())];
        }
        match event {
            Event::Poll(id, worker) => self.poll(id, worker)?,
            Event::EndTick(id, worker) => self.sources[id][worker].say(self.now_ms),
            Event::Deliver(queue) => self.deliver(queue)?,
            Event::Close(id, worker) => self.close(id, worker)?,
            Event::Resume(id, worker) => self.resume(id, worker)?,
            Event::PassTime => self.pass_time(until_ms, events.len() == 1),
        }
        Ok(true)
    }

    /// The operator or sink whose turn it would be.
    fn node_of(&self, event: Event) -> Option<NodeId> {
        match event {
            Event::Deliver(queue) => Some(self.edges.receiver(queue)),
            Event::Close(id, _) | Event::Resume(id, _) => Some(id),
            Event::Poll(..) | Event::EndTick(..) | Event::PassTime => None,
        }
    }

    fn events(&self, until_ms: i64) -> Vec<Event> {
        let mut events = Vec::new();
        let room = self.edges.in_flight() < IN_FLIGHT_MAX;
        let oldest = self.instances.iter().flatten().map(|i| i.closed).min().unwrap_or(0);
        let limit = oldest + self.plan.options.ticks_in_flight.max(1) as usize;
        let batch_ticks = self.plan.options.ticks == TickMode::Batch;
        for (id, worker, source) in each(&self.sources) {
            if self.by_hand || source.has_ended() || self.boundary.is_some_and(|boundary| source.tick() >= boundary) {
                continue;
            }
            let has_rows = self.edges.last_tick(id, worker) == Some(source.tick());
            if room && source.is_ready(self.now_ms) && !(batch_ticks && has_rows) {
                events.push(Event::Poll(id, worker));
            }
            // On the way to a boundary nobody waits for rows that are far away.
            let in_haste = self.boundary.is_some() && !source.is_ready(self.now_ms);
            let may_end = if batch_ticks { has_rows || in_haste } else { source.opened_ms() < self.now_ms };
            if source.is_finished() || may_end && source.tick() < limit {
                events.push(Event::EndTick(id, worker));
            }
        }
        for (queue, to, worker, tick) in self.edges.heads() {
            let instance = &self.instances[to][worker];
            let in_turn = !(batch_ticks && instance.uses_time()) || tick <= instance.closed;
            if in_turn && instance.unfinished.is_none() {
                events.push(Event::Deliver(queue));
            }
        }
        for (id, worker, instance) in each(&self.instances) {
            if instance.unfinished.is_some() {
                events.push(Event::Resume(id, worker));
            } else if self.can_close(id, worker, instance.closed) {
                events.push(Event::Close(id, worker));
            }
        }
        let waits = each(&self.sources).any(|(_, _, s)| !s.has_ended());
        if !self.by_hand && waits && self.now_ms < until_ms {
            events.push(Event::PassTime);
        }
        events
    }

    fn can_close(&self, id: NodeId, worker: usize, tick: usize) -> bool {
        let all_above = self.plan.nodes[id].inputs.iter().all(|edge| {
            self.sources[edge.from].iter().all(|s| s.has_closed(tick))
                && self.instances[edge.from].iter().all(|i| i.closed > tick)
        });
        // Below sources that have ended, ticks could be closed that nobody has opened, one after the other.
        let last = each(&self.sources).map(|(_, _, s)| s.tick()).max().unwrap_or(0);
        let beyond = self.boundary.is_some_and(|boundary| tick >= boundary);
        all_above && !beyond && tick < last && !self.edges.has_rows(id, worker, tick)
    }

    fn poll(&mut self, id: NodeId, worker: usize) -> Result<(), Fault> {
        let source = &mut self.sources[id][worker];
        let polled = source.poll(self.plan.options.batch_rows, self.now_ms, &mut self.rng);
        let (batch, dead) = polled.map_err(|f| f.at(&self.plan.nodes[id].name).on_worker(worker))?;
        let tick = source.tick();
        self.bury(dead)?;
        if let Some(batch) = batch {
            self.edges.route(id, worker, tick, 0, batch, &mut self.rng)?;
        }
        Ok(())
    }

    fn deliver(&mut self, queue: usize) -> Result<(), Fault> {
        let (edge, worker, tick, batch) = self.edges.pop(queue);
        let (id, input) = (edge.to, edge.input);
        let at = |f: Fault| f.at(&self.plan.nodes[id].name).on_worker(worker);
        let mut emitted = Emitted::default();
        match &mut self.instances[id][worker].work {
            Work::Sink(writer) => {
                writer.write(&batch).map_err(at)?;
                self.outputs.entry(self.plan.nodes[id].name.clone()).or_default().push(batch);
            }
            Work::Operator(operator, _) => {
                let progress = operator.on_batch(input, batch, &mut emitted).map_err(at)?;
                self.instances[id][worker].goes_on(progress, Unfinished { tick, closes: false });
            }
        }
        self.route(id, worker, tick, emitted)
    }

    fn close(&mut self, id: NodeId, worker: usize) -> Result<(), Fault> {
        let tick = self.instances[id][worker].closed;
        let now = self.clocks(id, worker, tick);
        let at = |f: Fault| f.at(&self.plan.nodes[id].name).on_worker(worker);
        let (mut emitted, mut progress) = (Emitted::default(), Progress::Done);
        if let Work::Operator(operator, true) = &mut self.instances[id][worker].work {
            progress = operator.on_time(now, &mut emitted).map_err(at)?;
        }
        self.instances[id][worker].goes_on(progress, Unfinished { tick, closes: true });
        self.route(id, worker, tick, emitted)
    }

    /// Goes on after `More`.
    fn resume(&mut self, id: NodeId, worker: usize) -> Result<(), Fault> {
        let instance = &mut self.instances[id][worker];
        let (Some(unfinished), Work::Operator(operator, _)) = (instance.unfinished, &mut instance.work) else {
            return Ok(());
        };
        let mut emitted = Emitted::default();
        let at = |f: Fault| f.at(&self.plan.nodes[id].name).on_worker(worker);
        let progress = operator.resume(&mut emitted).map_err(at)?;
        instance.goes_on(progress, unfinished);
        self.route(id, worker, unfinished.tick, emitted)
    }

    /// Both clocks of a node at the end of a tick.
    fn clocks(&mut self, id: NodeId, worker: usize, tick: usize) -> Now {
        let above = self.plan.ancestor_sources();
        let instance = &mut self.instances[id][worker];
        let said = above[id].iter().flat_map(|&s| &self.sources[s]).map(|s| s.at(tick));
        for (part, (time, processing_ms)) in said.enumerate() {
            instance.tracker.update(part, time);
            instance.processing_ms = instance.processing_ms.max(processing_ms);
        }
        Now { watermark: instance.tracker.advance(), processing_ms: instance.processing_ms }
    }

    fn route(&mut self, id: NodeId, worker: usize, tick: usize, emitted: Emitted) -> Result<(), Fault> {
        let name = &self.plan.nodes[id].name;
        for (counter, n) in emitted.counts {
            *self.counters.entry((name.clone(), counter.to_owned())).or_default() += n;
        }
        for (port, batch) in emitted.batches {
            self.edges.route(id, worker, tick, port, batch, &mut self.rng)?;
        }
        self.bury(emitted.dead)
    }

    fn bury(&mut self, dead: Vec<DeadRow>) -> Result<(), Fault> {
        if let Some(writer) = self.dead_writer.as_mut().filter(|_| !dead.is_empty()) {
            writer.write(&Batch::new(dead::to_rows(&dead)))?;
        }
        self.dead.extend(dead);
        Ok(())
    }

    /// The wall clock goes on by a tick, or to where a waiting source wants it. `stuck`: nothing else can happen now.
    fn pass_time(&mut self, until_ms: i64, stuck: bool) {
        // A tick that is a batch does not end because time passes.
        let stuck = stuck && self.plan.options.ticks == TickMode::Batch;
        let next = self.now_ms.saturating_add(self.plan.options.tick_ms.max(1) as i64);
        let ready = each(&self.sources).any(|(_, _, s)| s.is_ready(self.now_ms));
        let wanted = each(&self.sources).filter_map(|(_, _, s)| s.next_ready()).min();
        let jump = wanted.filter(|_| !ready && (stuck || self.edges.in_flight() == 0)).unwrap_or(next);
        let before_ms = std::mem::replace(&mut self.now_ms, next.max(jump).min(until_ms));
        let now_ms = self.now_ms;
        self.sources.iter_mut().flatten().for_each(|source| source.held_up(before_ms, now_ms));
    }

    /// Two-phase commit of all sinks, once.
    fn commit(&mut self) -> Result<(), Fault> {
        if std::mem::replace(&mut self.committed, true) {
            return Ok(());
        }
        self.checkpoints += 1;
        let (id_of_commit, mut prepared) = (self.checkpoints, Vec::new());
        for (id, instances) in self.instances.iter_mut().enumerate() {
            let NodeKind::Sink { sink, .. } = &self.plan.nodes[id].kind else { continue };
            let mut committables = Vec::new();
            for instance in instances {
                if let Work::Sink(writer) = &mut instance.work {
                    committables.extend(writer.prepare(id_of_commit).map_err(|f| f.at(&self.plan.nodes[id].name))?);
                }
            }
            prepared.push((sink.clone(), committables));
        }
        if let (Some(writer), Some(sink)) = (&mut self.dead_writer, &self.plan.dead_letter) {
            prepared.push((sink.clone(), writer.prepare(id_of_commit)?));
        }
        prepared.iter().try_for_each(|(sink, committables)| sink.commit(committables))
    }
}

/// Everything by node and worker.
fn each<T>(lists: &[Vec<T>]) -> impl Iterator<Item = (NodeId, usize, &T)> {
    let indexed = lists.iter().enumerate();
    indexed.flat_map(|(id, list)| list.iter().enumerate().map(move |(worker, item)| (id, worker, item)))
}
