//! The timely side of an operator: feeds it rows and time, sends on what it emits.
//!
//! Laws: an operator that uses time sees ticks close in order, each with the watermark that all its
//! sources had reached by then; what it emits when tick t closes is sent at t, before t is released;
//! while its output is above its limit it is not called.

mod sender;
mod trial;

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use tidemill_model::key::{KeyEncoder, Partitioner};
use tidemill_model::plan::{Edge, Exchange, TickMode};
use tidemill_model::time::{Now, WatermarkTracker};
use tidemill_model::{Batch, Fault, Operator, Progress};
use timely::communication::Pull;
use timely::dataflow::Scope;
use timely::dataflow::channels::Message;
use timely::dataflow::channels::pact::{DistributorPact, Exchange as ExchangePact, Pipeline};
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::generic::operator::Operator as _;
use timely::dataflow::operators::generic::{InputHandleCore, OutputBuilder};
use timely::progress::frontier::MutableAntichain;
use timely::progress::operate::FrontierInterest;
use timely::scheduling::Activator;

use crate::barrier::{Barrier, Content, Part};
use crate::control::ControlMsg;
use crate::exchange::{ByKey, RoundRobin, copies};
use crate::frame::Rows;
use crate::shadow::{Shadow, Tell, Told};
use crate::worker::{ControlStream, EdgeFault, RowStream, WorkerContext};
use sender::{Buffer, Sender};
use trial::{Call, TRIAL_CALLS_MAX, Trial, What};

/// Longest time in one activation: other operators and progress tracking want their turn.
const ACTIVATION_BUDGET: Duration = Duration::from_millis(2);
/// Wait before trying again when the output is above its limit.
const BLOCKED_US: u64 = 200;

/// Any data input, whatever its exchange.
pub(crate) type Input = Box<dyn FnMut(&mut dyn FnMut(u64, &dyn Fn(usize) -> Capability<u64>, &mut Rows))>;

/// Brings every worker's control messages to this worker.
pub fn relay<'s>(controls: ControlStream<'s>) -> ControlStream<'s> {
    controls.unary(ExchangePact::new(|m: &ControlMsg| m.target), "control", |_cap, _info| {
        |input, output| {
            input.for_each(|cap, messages| {
                output.session(&cap).give_container(messages);
            });
        }
    })
}

/// Connects one edge; the input yields its containers with the means to retain capabilities.
pub(crate) fn connect<'s>(
    builder: &mut OperatorBuilder<'s, u64>,
    edge: &Edge,
    stream: RowStream<'s>,
    context: &WorkerContext,
    faults: &mut Vec<EdgeFault>,
) -> Input {
    match &edge.exchange {
        Exchange::Forward => boxed(builder.new_input(stream, Pipeline)),
        Exchange::Rebalance => {
            let next = context.worker;
            boxed(builder.new_input(stream, DistributorPact(move |_| RoundRobin { next })))
        }
        Exchange::Broadcast => {
            let all = copies(stream, context.shared.workers);
            boxed(builder.new_input(all, DistributorPact(|_| RoundRobin { next: 0 })))
        }
        Exchange::Key(columns) => {
            let schema = &context.shared.plan.nodes[edge.from].outputs[edge.port];
            let fault: EdgeFault = Rc::new(RefCell::new(None));
            faults.push(fault.clone());
            // The plan was checked: key columns exist and have types that rows can encode.
            let encoder = KeyEncoder::new(schema, columns).expect("the plan's keys can be encoded");
            let pact = move |workers| ByKey { partitioner: Partitioner::new(encoder, workers), fault };
            boxed(builder.new_input(stream, DistributorPact(pact)))
        }
    }
}

fn boxed<P: Pull<Message<u64, Rows>> + 'static>(mut input: InputHandleCore<u64, Rows, P>) -> Input {
    Box::new(move |take| {
        input.for_each(|cap, rows| take(*cap.time(), &|port| cap.retain(port), rows));
    })
}

/// What an operator that uses time is told of it.
pub struct Control<'s, 'a> {
    pub stream: ControlStream<'s>,
    /// The sources above it.
    pub sources: &'a [usize],
    /// Where its clocks stand.
    pub now: Now,
}

/// Returns the streams of the node's ports and, last, of its dead rows.
pub fn operator<'s>(
    scope: Scope<'s, u64>,
    context: &WorkerContext,
    node: usize,
    operator: Box<dyn Operator>,
    inputs: Vec<(&Edge, RowStream<'s>)>,
    control: Option<Control<'s, '_>>,
) -> Vec<RowStream<'s>> {
    let plan = &context.shared.plan;
    let mut builder = OperatorBuilder::new(plan.nodes[node].name.clone(), scope);
    let mut faults = Vec::new();
    let uses_time = control.is_some();
    let mut data: Vec<(usize, Input)> = Vec::new();
    for (index, (edge, stream)) in inputs.into_iter().enumerate() {
        data.push((edge.input, connect(&mut builder, edge, stream, context, &mut faults)));
        if !uses_time {
            builder.set_notify_for(index, FrontierInterest::Never);
        }
    }
    let clock = control.map(|Control { stream, sources, now }| {
        let mut input = builder.new_input(stream, Pipeline);
        let read = move |take: &mut dyn FnMut(u64, &mut Vec<ControlMsg>)| input.for_each(|cap, m| take(*cap.time(), m));
        Clock::new(Box::new(read), sources, now, context)
    });
    let (outs, streams): (Vec<_>, Vec<_>) = (0..=plan.nodes[node].outputs.len()).map(|_| builder.new_output()).unzip();
    let activator = scope.activator_for(builder.operator_info().address);
    let context = context.clone();
    context.wakers.borrow_mut().push((node, scope.activator_for(builder.operator_info().address)));
    builder.build(move |caps| {
        let strict = uses_time && context.shared.plan.options.ticks == TickMode::Batch;
        let mut state = OperatorState {
            sender: Sender::new(&context, node, outs.into_iter().map(OutputBuilder::from).collect()),
            time_caps: if uses_time { caps } else { Vec::new() },
            context,
            operator,
            data,
            clock,
            faults,
            queue: BTreeMap::new(),
            held: VecDeque::new(),
            trial: None,
            shadow: None,
            repeat: VecDeque::new(),
            passed: 0,
            has_left: false,
            strict,
            unfinished: None,
            activator,
        };
        move |frontiers: &[MutableAntichain<u64>]| state.activate(frontiers)
    });
    streams
}

type ControlIn = Box<dyn FnMut(&mut dyn FnMut(u64, &mut Vec<ControlMsg>))>;

/// What an operator knows of time: control messages by tick, and the watermark they add up to.
struct Clock {
    input: ControlIn,
    pending: BTreeMap<u64, Vec<ControlMsg>>,
    /// Position of each ancestor source in the tracker, by node.
    parts: Vec<Option<usize>>,
    workers: usize,
    tracker: WatermarkTracker,
    now: Now,
    /// All ticks below are closed.
    closed: u64,
    ended: bool,
}

impl Clock {
    fn new(input: ControlIn, sources: &[usize], now: Now, context: &WorkerContext) -> Self {
        let mut parts = vec![None; context.shared.plan.nodes.len()];
        for (position, &source) in sources.iter().enumerate() {
            parts[source] = Some(position);
        }
        let workers = context.shared.workers;
        let mut tracker = WatermarkTracker::new(sources.len() * workers);
        tracker.resume(now.watermark);
        Self { input, pending: BTreeMap::new(), parts, workers, tracker, now, closed: 0, ended: false }
    }

    fn read(&mut self) {
        let pending = &mut self.pending;
        (self.input)(&mut |tick, messages| pending.entry(tick).or_default().append(messages));
    }

    /// Takes in what was said in ticks below `end`.
    fn close_below(&mut self, end: u64) {
        let rest = self.pending.split_off(&end);
        for message in std::mem::replace(&mut self.pending, rest).into_values().flatten() {
            self.now.processing_ms = self.now.processing_ms.max(message.processing_ms);
            if let Some(position) = self.parts[message.source as usize] {
                self.tracker.update(position * self.workers + message.worker as usize, message.time());
            }
        }
        self.now.watermark = self.tracker.advance();
        self.closed = end;
    }
}

/// A batch that waits for its turn.
struct Waiting {
    input: usize,
    caps: Vec<Capability<u64>>,
    batch: Batch,
}

struct OperatorState {
    context: WorkerContext,
    operator: Box<dyn Operator>,
    data: Vec<(usize, Input)>,
    clock: Option<Clock>,
    faults: Vec<EdgeFault>,
    sender: Sender,
    /// By tick in order of arrival; without strict ticks all stand under tick 0.
    queue: BTreeMap<u64, VecDeque<Waiting>>,
    /// Rows behind a barrier that this operator has not passed, with their ticks.
    held: VecDeque<(u64, Waiting)>,
    /// New logic that may have to go.
    trial: Option<Trial>,
    /// Told of each call and of what came out.
    shadow: Option<(Arc<Shadow>, Tell)>,
    /// Calls that the logic from before a trial has still to do.
    repeat: VecDeque<Call>,
    /// Number of the barrier that was passed last.
    passed: u64,
    has_left: bool,
    /// Rows of a tick wait until the ticks before it have closed.
    strict: bool,
    /// For what is emitted as ticks close; at the first tick that is still open.
    time_caps: Vec<Capability<u64>>,
    /// Capabilities of the call that said `More`; `None` inside stands for the clock's.
    unfinished: Option<Option<Vec<Capability<u64>>>>,
    activator: Activator,
}

/// Whether there is something left to do.
enum Turn {
    Worked,
    Blocked,
    Idle,
}

impl OperatorState {
    fn activate(&mut self, frontiers: &[MutableAntichain<u64>]) {
        self.receive();
        if self.context.shared.is_aborted() {
            return;
        }
        let frontier = frontiers.iter().filter_map(|f| f.frontier().first().copied()).min();
        let started = Instant::now();
        loop {
            match self.turn(frontier) {
                Ok(Turn::Worked) if started.elapsed() < ACTIVATION_BUDGET => {}
                Ok(Turn::Worked) => break self.activator.activate(),
                Ok(Turn::Blocked) => {
                    self.sender.metrics().blocked.fetch_add(1, Relaxed);
                    break self.activator.activate_after(Duration::from_micros(BLOCKED_US));
                }
                Ok(Turn::Idle) => break,
                Err(fault) => break self.sender.fail(fault),
            }
        }
        if !self.has_left && self.has_ended() {
            self.has_left = true;
            self.context.shared.barriers.leave(self.sender.node, self.context.worker, None);
        }
        let metrics = self.sender.metrics();
        metrics.busy_ns.fetch_add(started.elapsed().as_nanos() as u64, Relaxed);
        metrics.held.store(self.operator.held(), Relaxed);
    }

    /// Moves everything that has arrived into the queue.
    fn receive(&mut self) {
        let (ports, strict, queue) = (self.sender.outputs.len(), self.strict, &mut self.queue);
        let (barriers, held, passed) = (&self.context.shared.barriers, &mut self.held, self.passed);
        let takes_part = self.clock.is_some();
        let mut rows_in = 0;
        for (input, read) in &mut self.data {
            read(&mut |tick, retain, rows| {
                let is_held = takes_part && barriers.holds(tick, passed);
                for batch in rows.0.drain(..) {
                    rows_in += batch.num_rows() as u64;
                    let caps = (0..ports).map(retain).collect();
                    let waiting = Waiting { input: *input, caps, batch };
                    if is_held {
                        held.push_back((tick, waiting));
                    } else {
                        queue.entry(if strict { tick } else { 0 }).or_default().push_back(waiting);
                    }
                }
            });
        }
        if rows_in > 0 {
            self.sender.metrics().rows_in.fetch_add(rows_in, Relaxed);
        }
        if let Some(clock) = &mut self.clock {
            clock.read();
        }
    }

    fn turn(&mut self, frontier: Option<u64>) -> Result<Turn, Fault> {
        for fault in &self.faults {
            if let Some(fault) = fault.borrow_mut().take() {
                return Err(fault);
            }
        }
        if self.context.shared.swapping().is_some_and(|node| node == self.sender.node) || self.trial.is_some() {
            if self.shadow.as_ref().is_some_and(|(shadow, _)| shadow.is_over()) {
                self.shadow = None;
            }
            if self.unfinished.is_none() {
                self.shadow()?;
            }
            if (self.unfinished.is_none() || self.trial.is_some())
                && let Some(turn) = self.swap()?
            {
                return Ok(turn);
            }
        }
        match &self.trial {
            // What is held back takes no room below, and is bounded by the number of calls.
            Some(trial) if trial.has_failed || trial.calls.len() >= TRIAL_CALLS_MAX => Ok(Turn::Idle),
            Some(trial) if !trial.swap.begin_call(self.context.worker) => Ok(Turn::Idle),
            Some(_) => {
                let turn = self.call(frontier);
                self.on_trial(turn)
            }
            None if self.sender.gauge.has_room() => self.call(frontier),
            None => Ok(if self.has_work(frontier) { Turn::Blocked } else { Turn::Idle }),
        }
    }

    /// The next call, if there is one to make.
    fn call(&mut self, frontier: Option<u64>) -> Result<Turn, Fault> {
        if let Some(caps) = self.unfinished.take() {
            let progress = self.operator.resume(&mut self.sender.buffer)?;
            return self.sent(caps, progress);
        }
        if let Some(Call { what, caps }) = self.repeat.pop_front() {
            let progress = match what {
                What::Batch(input, batch) => self.operator.on_batch(input, batch, &mut self.sender.buffer)?,
                What::Time(now) => self.operator.on_time(now, &mut self.sender.buffer)?,
            };
            return self.sent(Some(caps), progress);
        }
        if let Some(waiting) = self.next_batch() {
            if let Some(trial) = &mut self.trial {
                let what = What::Batch(waiting.input, waiting.batch.clone());
                trial.calls.push(Call { what, caps: waiting.caps.clone() });
            }
            self.tell(|| Told::Batch(waiting.input, waiting.batch.clone()));
            let progress = self.operator.on_batch(waiting.input, waiting.batch, &mut self.sender.buffer)?;
            self.sender.metrics().batches.fetch_add(1, Relaxed);
            return self.sent(Some(waiting.caps), progress);
        }
        self.close_ticks(frontier)
    }

    fn has_work(&self, frontier: Option<u64>) -> bool {
        let ticks = self.clock.as_ref().is_some_and(|c| !c.ended && frontier.is_none_or(|f| f > c.closed));
        self.unfinished.is_some()
            || self.trial.is_some()
            || !self.repeat.is_empty()
            || !self.queue.is_empty()
            || !self.held.is_empty()
            || ticks
            || self.barrier().is_some()
    }

    /// All input was taken, and everything that it gave was sent.
    fn has_ended(&self) -> bool {
        self.clock.as_ref().is_some_and(|c| c.ended)
            && self.unfinished.is_none()
            && self.trial.is_none()
            && self.repeat.is_empty()
            && self.queue.is_empty()
            && self.held.is_empty()
    }

    /// The barrier that is still to be passed.
    fn barrier(&self) -> Option<Barrier> {
        if self.clock.is_none() || self.has_left {
            return None;
        }
        self.context.shared.barriers.pending(self.passed)
    }

    /// Everything up to the barrier has been taken: freezes what the operator holds, and lets the rows behind it in.
    fn pass(&mut self, barrier: Barrier) -> Result<Turn, Fault> {
        let now = self.clock.as_ref().expect("only operators with time take part").now;
        let snapshot = self.operator.snapshot(barrier.form)?;
        self.passed = barrier.number;
        for (tick, waiting) in self.held.drain(..) {
            self.queue.entry(if self.strict { tick } else { 0 }).or_default().push_back(waiting);
        }
        let content = Content::State(now, snapshot);
        self.context.shared.barriers.deliver(Part { node: self.sender.node, worker: self.context.worker, content });
        Ok(Turn::Worked)
    }

    /// The next batch whose turn has come.
    fn next_batch(&mut self) -> Option<Waiting> {
        let mut entry = self.queue.first_entry()?;
        if self.strict && self.clock.as_ref().is_some_and(|c| *entry.key() > c.closed) {
            return None;
        }
        let waiting = entry.get_mut().pop_front();
        if entry.get().is_empty() {
            entry.remove();
        }
        waiting
    }

    /// Sends what a call emitted, at the time of its batch or of the tick that closes.
    fn sent(&mut self, caps: Option<Vec<Capability<u64>>>, progress: Progress) -> Result<Turn, Fault> {
        if self.shadow.is_some() {
            let Buffer { rows, dead, .. } = &self.sender.buffer;
            let emitted = Told::Emitted(rows.clone(), dead.clone());
            self.tell(|| emitted);
        }
        match &mut self.trial {
            None => self.sender.send(caps.as_deref().unwrap_or(&self.time_caps))?,
            Some(trial) => {
                let caps = caps.clone().unwrap_or_else(|| self.time_caps.clone());
                trial.emitted.push((caps, std::mem::take(&mut self.sender.buffer)));
            }
        }
        match progress {
            Progress::More => self.unfinished = Some(caps),
            Progress::Done => self.release_closed(),
        }
        Ok(Turn::Worked)
    }

    /// Lets go of the ticks that have closed and whose output is sent.
    fn release_closed(&mut self) {
        let Some(clock) = &self.clock else { return };
        if clock.ended {
            self.time_caps.clear();
            return;
        }
        for cap in &mut self.time_caps {
            if *cap.time() < clock.closed {
                cap.downgrade(&clock.closed);
            }
        }
    }

    /// All rows below the frontier have been taken: tells the operator how far time has come.
    fn close_ticks(&mut self, frontier: Option<u64>) -> Result<Turn, Fault> {
        let barrier = self.barrier();
        let Some(clock) = &mut self.clock else { return Ok(Turn::Idle) };
        let mut limit = frontier.unwrap_or(u64::MAX);
        if let Some(barrier) = barrier {
            if clock.closed > barrier.tick {
                return self.pass(barrier);
            }
            limit = limit.min(barrier.tick + 1);
        }
        if clock.ended || limit <= clock.closed {
            return Ok(Turn::Idle);
        }
        let mut end = limit;
        if self.strict {
            // One tick at a time: the first of which anything is known.
            let first_rows = self.queue.keys().next().copied().unwrap_or(u64::MAX);
            let first_time = clock.pending.keys().next().copied().unwrap_or(u64::MAX);
            let next = first_rows.min(first_time);
            if next < limit && first_rows == next && clock.closed < next {
                clock.closed = next;
                self.release_closed();
                return Ok(Turn::Worked);
            }
            end = limit.min(next.saturating_add(1));
        }
        clock.ended = end == u64::MAX && frontier.is_none();
        let at = if end == u64::MAX { clock.closed } else { end - 1 };
        clock.close_below(end);
        for cap in &mut self.time_caps {
            if *cap.time() < at {
                cap.downgrade(&at);
            }
        }
        let now = clock.now;
        if let Some((_, tell)) = &self.shadow
            && !tell.tell(Told::Time(now))
        {
            self.shadow = None;
        }
        if let Some(trial) = &mut self.trial {
            trial.calls.push(Call { what: What::Time(now), caps: self.time_caps.clone() });
        }
        self.sender.metrics().watermark.store(now.watermark, Relaxed);
        let progress = self.operator.on_time(now, &mut self.sender.buffer)?;
        self.sent(None, progress)
    }
}
