//! The timely side of a source: polls splits, stamps ticks, tells the control stream about time.
//!
//! Laws: a tick is opened only while the one `ticks_in_flight` before it has retired; within a tick no
//! more than `tick_bytes` are emitted; nothing is read while the source's own output is above its
//! limit; nobody waits here, the operator comes back later instead.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use tidemill_model::checkpoint::SplitState;
use tidemill_model::dead::{self, DeadRow};
use tidemill_model::plan::{EventTimeSpec, NodeKind, TickMode};
use tidemill_model::source::{Polled, Position, ReadBudget, Source, Split, SplitReader};
use tidemill_model::time::{SourceTime, SplitWatermark, WATERMARK_MIN, WatermarkStrategy, combine};
use tidemill_model::{Batch, Fault, event_time, fault::OnError, limits};
use timely::dataflow::Scope;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::scheduling::Activator;

use crate::barrier::{Content, Opening, Part};
use crate::control::ControlMsg;
use crate::flow::Gauge;
use crate::frame::RowsBuilder;
use crate::worker::{ControlStream, RowStream, WorkerContext};

/// Batches per activation: enough to amortise a scheduling round, few enough to keep caches warm.
const BURST: usize = 4;
/// Wait before asking again when blocked by flow control.
const BLOCKED_US: u64 = 200;
/// Wait after a batch that was not full, so that a slow source makes batches and not single rows.
const LINGER_US: u64 = 1000;
/// A batch of this size is worth sending however few rows it has.
const LINGER_BYTES: usize = 64 << 10;

pub struct SourceStreams<'s> {
    pub rows: RowStream<'s>,
    pub dead: RowStream<'s>,
    pub control: ControlStream<'s>,
}

type RowsOut = OutputBuilder<u64, RowsBuilder>;
type ControlOut = OutputBuilder<u64, timely::container::CapacityContainerBuilder<Vec<ControlMsg>>>;

pub fn source<'s>(
    scope: Scope<'s, u64>,
    context: &WorkerContext,
    node: usize,
    readers: SplitReaders,
) -> SourceStreams<'s> {
    let name = context.shared.plan.nodes[node].name.clone();
    let mut builder = OperatorBuilder::new(name, scope);
    let (rows_out, rows) = builder.new_output();
    let (dead_out, dead) = builder.new_output();
    let (control_out, control) = builder.new_output();
    let activator = scope.activator_for(builder.operator_info().address);
    let context = context.clone();
    builder.build(move |caps| {
        let mut state = SourceState {
            gauge: Gauge::new(context.shared.edge_bytes),
            rows_out: RowsOut::from(rows_out),
            dead_out: RowsOut::from(dead_out),
            control_out: ControlOut::from(control_out),
            caps,
            opened: VecDeque::from([0]),
            passed: 0,
            tick_bytes: 0,
            node,
            readers,
            context,
            activator,
        };
        move |_frontiers| state.activate()
    });
    SourceStreams { rows, dead, control }
}

struct SourceState {
    context: WorkerContext,
    node: usize,
    readers: SplitReaders,
    rows_out: RowsOut,
    dead_out: RowsOut,
    control_out: ControlOut,
    /// For rows, dead rows, control; empty when the source has ended.
    caps: Vec<Capability<u64>>,
    /// The ticks opened last, the current one at the back.
    opened: VecDeque<u64>,
    /// Number of the barrier that was passed last.
    passed: u64,
    tick_bytes: usize,
    gauge: Gauge,
    activator: Activator,
}

impl SourceState {
    fn activate(&mut self) {
        if self.caps.is_empty() || self.context.shared.is_aborted() {
            return;
        }
        let wait = self.work().unwrap_or_else(|fault| {
            let shared = &self.context.shared;
            shared.fail(fault.at(&shared.plan.nodes[self.node].name).on_worker(self.context.worker));
            None
        });
        match wait {
            Some(Duration::ZERO) => self.activator.activate(),
            Some(delay) => self.activator.activate_after(delay),
            None => {}
        }
    }

    fn tick(&self) -> u64 {
        *self.opened.back().expect("a tick is always open")
    }

    /// Works for a while; returns when to come back, `None` for never.
    fn work(&mut self) -> Result<Option<Duration>, Fault> {
        let blocked = Some(Duration::from_micros(BLOCKED_US));
        let batch_ticks = self.context.shared.plan.options.ticks == TickMode::Batch;
        if !batch_ticks && !self.follow_clock() {
            return Ok(self.blocked(blocked));
        }
        if self.tick() >= self.context.shared.stop_at.load(Relaxed) {
            self.end();
            return Ok(None);
        }
        for _ in 0..BURST {
            if !self.gauge.has_room() || self.tick_bytes >= self.context.shared.plan.options.tick_bytes {
                return Ok(self.blocked(blocked));
            }
            if batch_ticks && self.tick_bytes > 0 && !self.open_tick(self.tick() + 1) {
                return Ok(self.blocked(blocked));
            }
            match self.readers.poll()? {
                Read::Rows { batch, dead, full } => {
                    self.emit(batch, dead);
                    if !full && !batch_ticks {
                        return Ok(Some(Duration::from_micros(LINGER_US)));
                    }
                }
                Read::Pending { wait_ms } => {
                    if batch_ticks && self.context.shared.barriers.pending(self.passed).is_some() {
                        // A barrier is passed between ticks, and no row comes to begin the next one.
                        self.open_tick(self.tick() + 1);
                    }
                    let tick_ms = self.context.shared.plan.options.tick_ms;
                    return Ok(Some(Duration::from_millis(wait_ms.clamp(1, tick_ms))));
                }
                Read::End => {
                    self.end();
                    return Ok(None);
                }
            }
        }
        Ok(Some(Duration::ZERO))
    }

    fn blocked(&mut self, wait: Option<Duration>) -> Option<Duration> {
        self.readers.held_up();
        self.metrics().blocked.fetch_add(1, Relaxed);
        wait
    }

    fn metrics(&self) -> &crate::NodeMetrics {
        &self.context.shared.metrics.nodes[self.node].workers[self.context.worker]
    }

    /// Opens the tick that the clock shows. False if too many are in flight.
    fn follow_clock(&mut self) -> bool {
        let shared = &self.context.shared;
        let wall = shared.start.elapsed().as_millis() as u64 / shared.plan.options.tick_ms;
        wall <= self.tick() || self.open_tick(wall)
    }

    fn open_tick(&mut self, tick: u64) -> bool {
        let depth = self.context.shared.plan.options.ticks_in_flight as usize;
        if self.opened.len() >= depth {
            let oldest = self.opened[self.opened.len() - depth];
            if self.context.probe.less_equal(&oldest) {
                return false;
            }
            self.opened.pop_front();
        }
        let barriers = &self.context.shared.barriers;
        loop {
            let barrier = match barriers.open_tick(tick, self.passed) {
                Opening::Opened => break,
                Opening::Frozen => return false,
                Opening::Before(barrier) => barrier,
            };
            self.passed = barrier.number;
            let content = Content::Splits(self.readers.states());
            barriers.deliver(Part { node: self.node, worker: self.context.worker, content });
        }
        let time = self.readers.time();
        self.metrics().held_by(self.readers.holder());
        self.say_time(time);
        for cap in &mut self.caps {
            cap.downgrade(&tick);
        }
        self.opened.push_back(tick);
        self.tick_bytes = 0;
        true
    }

    fn say_time(&mut self, time: SourceTime) {
        let shared = self.context.shared.clone();
        let watermark = match time {
            SourceTime::Active(w) | SourceTime::Idle(w) => w,
            SourceTime::Finished => i64::MAX,
        };
        self.metrics().watermark.fetch_max(watermark, Relaxed);
        let messages =
            ControlMsg::broadcast(shared.workers, self.node, self.context.worker, time, shared.processing_ms());
        let mut output = self.control_out.activate();
        output.session(&self.caps[2]).give_iterator(messages);
    }

    fn emit(&mut self, batch: Option<Batch>, dead: Vec<DeadRow>) {
        // A batch of rejected rows only is a tick too, so count at least one byte.
        self.tick_bytes += 1;
        if !dead.is_empty() {
            self.metrics().rows_dead.fetch_add(dead.len() as u64, Relaxed);
            let rows = Batch::new(dead::to_rows(&dead));
            self.dead_out.activate().session_with_builder(&self.caps[1]).give(rows);
        }
        let Some(mut batch) = batch else { return };
        batch.entered_ns = self.context.shared.elapsed_ns();
        self.gauge.charge(&mut batch);
        self.tick_bytes += batch.bytes();
        self.metrics().rows_out.fetch_add(batch.num_rows() as u64, Relaxed);
        self.metrics().batches.fetch_add(1, Relaxed);
        self.rows_out.activate().session_with_builder(&self.caps[0]).give(batch);
    }

    fn end(&mut self) {
        self.metrics().held_by(None);
        self.say_time(SourceTime::Finished);
        self.context.shared.barriers.leave(self.node, self.context.worker, None);
        self.caps.clear();
    }
}

/// What one poll of a source brought.
pub enum Read {
    Rows { batch: Option<Batch>, dead: Vec<DeadRow>, full: bool },
    Pending { wait_ms: u64 },
    End,
}

/// The splits of one source on one worker. Bounded splits are read one after the other, so that
/// files keep their order; unbounded ones are all open and read in turn.
pub struct SplitReaders {
    context: WorkerContext,
    node: usize,
    source: Arc<dyn Source>,
    event_time: Option<EventTimeSpec>,
    on_error: OnError,
    waiting: VecDeque<SplitState>,
    open: VecDeque<OpenSplit>,
    /// Progress of the splits that have ended.
    ended: u64,
}

struct OpenSplit {
    split: Split,
    reader: Box<dyn SplitReader>,
    /// The last batch was small.
    trickles: bool,
    watermark: SplitWatermark,
}

impl SplitReaders {
    pub fn new(context: &WorkerContext, node: usize) -> Self {
        let shared = &context.shared;
        let NodeKind::Source { source, event_time, on_error } = &shared.plan.nodes[node].kind else {
            unreachable!("node {node} is a source");
        };
        let own = shared.splits[node].iter().skip(context.worker).step_by(shared.workers);
        let (begun, fresh): (Vec<&SplitState>, Vec<_>) = own.partition(|split| split.open);
        Self {
            context: context.clone(),
            node,
            source: source.clone(),
            event_time: *event_time,
            on_error: *on_error,
            waiting: begun.into_iter().chain(fresh).cloned().collect(),
            open: VecDeque::new(),
            ended: 0,
        }
    }

    fn poll(&mut self) -> Result<Read, Fault> {
        let started = Instant::now();
        let read = self.poll_splits();
        let metrics = &self.context.shared.metrics.nodes[self.node].workers[self.context.worker];
        metrics.busy_ns.fetch_add(started.elapsed().as_nanos() as u64, Relaxed);
        metrics.progress.store(self.ended + self.open.iter().map(|s| s.reader.progress()).sum::<u64>(), Relaxed);
        read
    }

    fn poll_splits(&mut self) -> Result<Read, Fault> {
        loop {
            self.open_splits()?;
            match self.poll_open()? {
                Some(read) => return Ok(read),
                None if self.waiting.is_empty() => return Ok(Read::End),
                // The splits that were open have ended: on with the next ones.
                None => {}
            }
        }
    }

    /// Asks each open split once; `None` if none is left.
    fn poll_open(&mut self) -> Result<Option<Read>, Fault> {
        let now_ms = self.context.shared.processing_ms();
        let rows = self.context.shared.plan.options.batch_rows;
        let budget = ReadBudget { rows, bytes: limits::BATCH_BYTES_MAX, now_ms };
        let mut wait_ms = u64::MAX;
        for _ in 0..self.open.len() {
            let Some(mut split) = self.open.pop_front() else { break };
            match split.reader.poll(budget)? {
                Polled::Rows { rows: read, rejected } => {
                    let large = read.num_rows() * 8 >= rows || read.get_array_memory_size() >= LINGER_BYTES;
                    // One small batch may be the end of a file, and there are files of a few rows.
                    let full = large || !split.trickles;
                    split.trickles = !large;
                    let read = self.receive(&mut split, read, rejected, now_ms)?;
                    self.open.push_back(split);
                    return Ok(Some(Read::Rows { batch: read.0, dead: read.1, full }));
                }
                Polled::Pending { until_ms } => {
                    wait_ms = wait_ms.min((until_ms - now_ms).max(1) as u64);
                    self.open.push_back(split);
                }
                Polled::End => self.ended += split.reader.progress(),
            }
        }
        Ok((!self.open.is_empty()).then_some(Read::Pending { wait_ms }))
    }

    /// What is left to read.
    fn states(&self) -> Vec<SplitState> {
        let open = self.open.iter().map(|open| SplitState {
            id: open.split.id.clone(),
            spec: open.split.spec.clone(),
            size: open.split.size,
            position: open.reader.position().0,
            max_time: open.watermark.max_time(),
            open: true,
        });
        // Where none is open yet, the first is next.
        let next = usize::from(self.open.is_empty());
        let waiting = self.waiting.iter().enumerate();
        open.chain(waiting.map(|(i, split)| SplitState { open: split.open || i < next, ..split.clone() })).collect()
    }

    /// Time in which nobody may read is no time without rows.
    fn held_up(&mut self) {
        let now_ms = self.context.shared.processing_ms();
        self.open.iter_mut().for_each(|split| split.watermark.held_up(now_ms));
    }

    fn open_splits(&mut self) -> Result<(), Fault> {
        let at_once = if self.source.bounded() { 1 } else { usize::MAX };
        // Splits that were read side by side before a restart go on so.
        while self.open.len() < at_once || self.waiting.front().is_some_and(|split| split.open) {
            let Some(split) = self.waiting.pop_front() else { break };
            let SplitState { id, spec, size, position, max_time, .. } = split;
            let split = Split { id, spec, size };
            let reader = self.source.open(&split, &Position(position))?;
            let strategy =
                self.event_time.map_or(WatermarkStrategy { delay_ms: 0, idle_after_ms: None }, |e| e.strategy);
            let mut watermark = SplitWatermark::new(strategy, self.context.shared.processing_ms());
            watermark.resume(max_time);
            self.open.push_back(OpenSplit { split, reader, trickles: false, watermark });
        }
        Ok(())
    }

    /// Assigns event times and applies the error policy.
    fn receive(
        &self,
        split: &mut OpenSplit,
        rows: arrow::array::RecordBatch,
        mut dead: Vec<DeadRow>,
        now_ms: i64,
    ) -> Result<(Option<Batch>, Vec<DeadRow>), Fault> {
        let name = &self.context.shared.plan.nodes[self.node].name;
        let batch = match self.event_time {
            Some(spec) => {
                let (rows, times, without) = event_time::extract(rows, spec.column, name)?;
                dead.extend(without);
                split.watermark.on_rows(&times, now_ms);
                Batch::new(rows).with_times(Some(times))
            }
            None => Batch::new(rows),
        };
        for row in &mut dead {
            row.operator.clone_from(name);
            row.file.get_or_insert_with(|| split.split.id.clone());
        }
        match dead.first() {
            Some(row) if self.on_error == OnError::Fail => Err(row.fault()),
            _ => Ok(((!batch.is_empty()).then_some(batch), dead)),
        }
    }

    /// The split that keeps the watermark of this worker's splits back, and whether it has had rows; `Some(None)`: none is open yet.
    fn holder(&self) -> Option<Option<(&str, bool)>> {
        if self.open.is_empty() {
            return (!self.waiting.is_empty()).then_some(None);
        }
        let now_ms = self.context.shared.processing_ms();
        let active = |split: &&OpenSplit| matches!(split.watermark.at(now_ms), SourceTime::Active(_));
        let last = self.open.iter().filter(active).min_by_key(|split| split.watermark.max_time())?;
        Some(Some((&last.split.id, last.watermark.max_time().is_some())))
    }

    /// Where time stands on this worker's splits.
    fn time(&self) -> SourceTime {
        if self.open.is_empty() && self.waiting.is_empty() {
            return SourceTime::Finished;
        }
        let now_ms = self.context.shared.processing_ms();
        if self.open.is_empty() {
            return SourceTime::Active(WATERMARK_MIN);
        }
        combine(self.open.iter().map(|s| s.watermark.at(now_ms)))
    }
}
