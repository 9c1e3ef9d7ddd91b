//! The timely side of a sink: writes batches, holds their ticks until they are written.
//!
//! Laws: a writer that may block on the outside world has a thread and a bounded queue, so that a
//! worker never waits for it; a tick retires only when its rows are written; what was written is
//! prepared when all input has ended and committed only if the whole job succeeded.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use crossbeam_channel::{Receiver, TrySendError, bounded};
use hdrhistogram::Histogram;
use tidemill_model::plan::Edge;
use tidemill_model::sink::{Committable, Sink, SinkWriter};
use tidemill_model::{Batch, Fault, panics};
use timely::dataflow::Scope;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::probe::Probe;
use timely::progress::frontier::MutableAntichain;
use timely::scheduling::SyncActivator;
use timely::scheduling::activate::Activator;

use crate::barrier::{Content, Part};
use crate::frame::Rows;
use crate::job::Shared;
use crate::operator::{Input, connect};
use crate::worker::{RowStream, WorkerContext};

/// Batches between a worker and a sink's thread: enough to keep it busy, few enough to feel it stall.
const QUEUE_BATCHES: usize = 8;
/// Wait before asking a busy sink again; its thread wakes the worker earlier when it has written.
const BUSY_MS: u64 = 5;

/// A sink's writer on this worker, opened before the dataflow is built.
pub struct Writer {
    writer: Box<dyn SinkWriter>,
    blocks: bool,
}

impl Writer {
    pub fn open(context: &WorkerContext, sink: &Arc<dyn Sink>, schema: SchemaRef) -> Result<Self, Fault> {
        let writer = sink.open(context.worker, context.shared.workers, schema)?;
        Ok(Self { writer, blocks: sink.blocks() })
    }
}

pub fn sink<'s>(
    scope: Scope<'s, u64>,
    context: &WorkerContext,
    node: usize,
    writer: Writer,
    inputs: Vec<(&Edge, RowStream<'s>)>,
) {
    let mut builder = OperatorBuilder::new(format!("sink {node}"), scope);
    let mut faults = Vec::new();
    let mut data: Vec<Input> =
        inputs.into_iter().map(|(edge, stream)| connect(&mut builder, edge, stream, context, &mut faults)).collect();
    // Nothing is ever sent here: the output carries progress to the probe.
    let (_out, progress) = builder.new_output::<Rows>();
    let address = builder.operator_info().address;
    let activator = scope.activator_for(address.clone());
    let wake = scope.worker().sync_activator_for(address.to_vec());
    let books = Books { shared: context.shared.clone(), worker: context.worker, node, latency: histogram() };
    let mut state = SinkState {
        end: if writer.blocks {
            End::Thread(WriterThread::start(writer.writer, books, wake))
        } else {
            End::Inline(Some(Inline { writer: writer.writer, books }))
        },
        queue: VecDeque::new(),
        held: VecDeque::new(),
        passed: 0,
        in_flight: VecDeque::new(),
        activator,
    };
    let probe = context.probe.clone();
    let shared = context.shared.clone();
    builder.build_reschedule(move |_caps| {
        move |frontiers: &[MutableAntichain<u64>]| {
            for read in &mut data {
                read(&mut |tick, retain, rows| {
                    let held = shared.barriers.holds(tick, state.passed);
                    let queue = if held { &mut state.held } else { &mut state.queue };
                    queue.extend(rows.0.drain(..).map(|batch| (retain(0), batch)));
                });
            }
            if shared.is_aborted() {
                return false;
            }
            for fault in &faults {
                if let Some(fault) = fault.borrow_mut().take() {
                    shared.fail(fault);
                }
            }
            let frontier = frontiers.iter().filter_map(|f| f.frontier().first().copied()).min();
            let barrier = shared.barriers.pending(state.passed);
            if let Some(barrier) = barrier.filter(|b| frontier.is_none_or(|f| f > b.tick)) {
                state.pass(barrier.number);
            }
            let behind = shared.barriers.pending(state.passed).is_some();
            !state.work(frontier.is_none() && !behind)
        }
    });
    progress.probe_with(&probe);
}

struct SinkState {
    end: End,
    queue: VecDeque<(Capability<u64>, Batch)>,
    /// Rows behind a barrier that is not passed.
    held: VecDeque<(Capability<u64>, Batch)>,
    /// Number of the barrier that was passed last.
    passed: u64,
    /// Handed to the thread, in order: number and what holds its tick.
    in_flight: VecDeque<(u64, Capability<u64>)>,
    activator: Activator,
}

enum End {
    /// Taken when all input is prepared.
    Inline(Option<Inline>),
    Thread(WriterThread),
}

impl SinkState {
    /// No row up to the barrier is to come: prepares what was written, as soon as all of it is.
    fn pass(&mut self, number: u64) {
        self.work(false);
        let prepared = self.queue.is_empty()
            && match &mut self.end {
                End::Inline(None) => true,
                End::Inline(Some(inline)) => {
                    let Inline { writer, books } = inline;
                    books.attempt(|books| books.prepare(&mut **writer, number))
                }
                End::Thread(thread) => thread.prepare(number),
            };
        if prepared {
            self.passed = number;
            self.queue.append(&mut self.held);
        }
    }

    /// Writes what can be written. True when all input has ended and is prepared.
    fn work(&mut self, ended: bool) -> bool {
        match &mut self.end {
            End::Inline(None) => true,
            End::Inline(Some(inline)) => {
                for (_cap, batch) in self.queue.drain(..) {
                    inline.books.attempt(|books| books.write(&mut *inline.writer, &batch));
                }
                if ended {
                    inline.finish();
                    self.end = End::Inline(None);
                }
                ended
            }
            End::Thread(thread) => {
                let written = thread.written.load(Ordering::Acquire);
                while self.in_flight.front().is_some_and(|(number, _)| *number <= written) {
                    self.in_flight.pop_front();
                }
                while let Some((cap, batch)) = self.queue.pop_front() {
                    if let Err(batch) = thread.offer(batch) {
                        self.queue.push_front((cap, batch));
                        break;
                    }
                    self.in_flight.push_back((thread.offered, cap));
                }
                if ended && self.queue.is_empty() {
                    thread.finish();
                }
                let busy = !self.queue.is_empty() || !self.held.is_empty() || !self.in_flight.is_empty();
                let done = thread.done.load(Ordering::Acquire);
                if !done && (busy || ended) {
                    self.activator.activate_after(Duration::from_millis(BUSY_MS));
                }
                done
            }
        }
    }
}

/// Metrics of a sink on a worker, and where its faults and committables go.
struct Books {
    shared: Arc<Shared>,
    worker: usize,
    node: usize,
    latency: Histogram<u64>,
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000, 2).expect("bounds are valid")
}

impl Books {
    fn write(&mut self, writer: &mut dyn SinkWriter, batch: &Batch) -> Result<(), Fault> {
        writer.write(batch)?;
        let shared = &self.shared;
        let rows = batch.num_rows() as u64;
        shared.metrics.first_row_ns.compare_exchange(0, shared.elapsed_ns().max(1), Relaxed, Relaxed).ok();
        if batch.entered_ns > 0 {
            let us = shared.elapsed_ns().saturating_sub(batch.entered_ns) / 1000;
            self.latency.saturating_record_n(us.max(1), rows);
        }
        if let Some(node) = shared.metrics.nodes.get(self.node) {
            let metrics = &node.workers[self.worker];
            metrics.rows_in.fetch_add(rows, Relaxed);
            metrics.batches.fetch_add(1, Relaxed);
        }
        Ok(())
    }

    /// Runs a step; its fault is the job's.
    fn attempt(&mut self, step: impl FnOnce(&mut Self) -> Result<(), Fault>) -> bool {
        let shared = self.shared.clone();
        match step(self) {
            Ok(()) => true,
            Err(fault) => {
                let name = shared.plan.nodes.get(self.node).map_or("dead_letter", |n| n.name.as_str());
                shared.fail(fault.at(name).on_worker(self.worker));
                false
            }
        }
    }

    /// What was written becomes part of a checkpoint.
    fn prepare(&mut self, writer: &mut dyn SinkWriter, checkpoint: u64) -> Result<(), Fault> {
        let part = self.part(writer.prepare(checkpoint)?);
        self.shared.barriers.deliver(part);
        Ok(())
    }

    /// All input has ended.
    fn finish(&mut self, writer: &mut dyn SinkWriter) -> Result<(), Fault> {
        let part = self.part(writer.prepare(u64::MAX)?);
        let shared = &self.shared;
        let mut all = shared.metrics.latency.lock().expect("no panic while held");
        all.add(&self.latency).map_err(|e| Fault::internal(format!("latencies do not add up: {e}")))?;
        shared.barriers.leave(self.node, self.worker, Some(part));
        Ok(())
    }

    fn part(&self, committables: Vec<Committable>) -> Part {
        Part { node: self.node, worker: self.worker, content: Content::Committables(committables) }
    }
}

struct Inline {
    writer: Box<dyn SinkWriter>,
    books: Books,
}

impl Inline {
    fn finish(&mut self) {
        let Self { writer, books } = self;
        books.attempt(|books| books.finish(&mut **writer));
    }
}

enum Task {
    Write(Batch),
    /// Everything so far, for this checkpoint.
    Prepare(u64),
    Finish,
}

/// A writer on a thread of its own.
struct WriterThread {
    tasks: Option<crossbeam_channel::Sender<Task>>,
    /// Number of the last batch offered; they are numbered from 1.
    offered: u64,
    written: Arc<AtomicU64>,
    done: Arc<AtomicBool>,
    finishing: bool,
}

impl WriterThread {
    fn start(writer: Box<dyn SinkWriter>, books: Books, wake: SyncActivator) -> Self {
        let (tasks, received) = bounded(QUEUE_BATCHES);
        let (written, done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let shared = books.shared.clone();
        let spawned = std::thread::Builder::new().name("tidemill-sink".into()).spawn({
            let (written, done, failed) = (written.clone(), done.clone(), shared.clone());
            move || {
                let run = || run_writer(writer, books, &received, &written, &wake);
                if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
                    failed.fail(Fault::internal(format!("a sink panicked: {}", panics::text(&*panic))));
                }
                done.store(true, Ordering::Release);
                let _ = wake.activate();
            }
        });
        match spawned {
            Ok(thread) => shared.writers.lock().expect("no panic while held").push(thread),
            Err(error) => shared.fail(Fault::io(format!("no thread for a sink: {error}"))),
        }
        Self { tasks: Some(tasks), offered: 0, written, done, finishing: false }
    }

    fn offer(&mut self, batch: Batch) -> Result<(), Batch> {
        let Some(tasks) = &self.tasks else { return Err(batch) };
        match tasks.try_send(Task::Write(batch)) {
            Ok(()) => {
                self.offered += 1;
                Ok(())
            }
            Err(TrySendError::Full(Task::Write(batch)) | TrySendError::Disconnected(Task::Write(batch))) => Err(batch),
            Err(_) => unreachable!("only writes are offered"),
        }
    }

    /// False: the queue is full.
    fn prepare(&self, checkpoint: u64) -> bool {
        self.tasks.as_ref().is_some_and(|tasks| tasks.try_send(Task::Prepare(checkpoint)).is_ok())
    }

    fn finish(&mut self) {
        if !self.finishing
            && let Some(tasks) = &self.tasks
        {
            self.finishing = tasks.try_send(Task::Finish).is_ok();
        }
    }
}

/// Writes until told to finish; without that the job has failed and what was written is thrown away.
fn run_writer(
    mut writer: Box<dyn SinkWriter>,
    mut books: Books,
    tasks: &Receiver<Task>,
    written: &AtomicU64,
    wake: &SyncActivator,
) {
    loop {
        // Nothing to do: let readers see what there is.
        if tasks.is_empty() && !books.attempt(|_| writer.flush()) {
            break;
        }
        match tasks.recv() {
            Ok(_) if books.shared.is_aborted() => break,
            Ok(Task::Write(batch)) => {
                if !books.attempt(|books| books.write(&mut *writer, &batch)) {
                    break;
                }
                drop(batch);
                written.fetch_add(1, Ordering::Release);
                let _ = wake.activate();
            }
            Ok(Task::Prepare(checkpoint)) => {
                if !books.attempt(|books| books.prepare(&mut *writer, checkpoint)) {
                    break;
                }
            }
            Ok(Task::Finish) => {
                books.attempt(|books| books.finish(&mut *writer));
                return;
            }
            Err(_) => break,
        }
    }
    writer.abort();
}
