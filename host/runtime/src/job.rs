//! A job: the workers that run one plan in this process, how they are stopped, and how it ended.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tidemill_model::plan::{NodeKind, TickMode};
use tidemill_model::sink::{Committable, Sink};
use tidemill_model::source::Split;
use tidemill_model::{Fault, Plan, limits};

use crate::metrics::JobMetrics;

/// How long a job that has failed waits for the threads of its sinks: a batch may be on its way to a slow disk.
const WRITERS_END: Duration = Duration::from_secs(2);

/// What all workers of a job share.
pub(crate) struct Shared {
    pub plan: Plan,
    pub workers: usize,
    /// Limit of each node's output on each worker.
    pub edge_bytes: usize,
    /// Splits of each node, empty for others than sources.
    pub splits: Vec<Vec<Split>>,
    pub metrics: JobMetrics,
    pub start: Instant,
    /// Wall time at `start`, ms since the epoch.
    pub start_ms: i64,
    /// Sources end at this tick; `u64::MAX` until someone asks.
    pub stop_at: AtomicU64,
    aborted: AtomicBool,
    fault: Mutex<Option<Fault>>,
    /// What sinks have prepared, by node (the dead-letter sink has the number after the last node).
    pub prepared: Mutex<Vec<(usize, Vec<Committable>)>>,
    /// Threads of sinks.
    pub writers: Mutex<Vec<JoinHandle<()>>>,
}

impl Shared {
    /// The first fault counts: those that follow are its echoes.
    pub fn fail(&self, fault: Fault) {
        self.fault.lock().expect("no panic while held").get_or_insert(fault);
        self.aborted.store(true, Ordering::SeqCst);
    }

    pub fn is_aborted(&self) -> bool {
        self.aborted.load(Ordering::Relaxed)
    }

    pub fn elapsed_ns(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    pub fn processing_ms(&self) -> i64 {
        self.start_ms + self.start.elapsed().as_millis() as i64
    }

    /// The dead-letter sink's number in metrics and `prepared`.
    pub fn dead_node(&self) -> usize {
        self.plan.nodes.len()
    }
}

/// How a job came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All input was read.
    Finished,
    /// It was asked to stop: sources ended early, all that they had read was processed.
    Stopped,
}

#[derive(Clone, Debug)]
pub struct JobSummary {
    pub ending: Ending,
    pub rows_in: u64,
    pub rows_out: u64,
    pub rows_dead: u64,
    pub wall: Duration,
    /// Latency from source to sink in ms: median and 99th percentile of rows; `None` without any.
    pub p50_ms: Option<f64>,
    pub p99_ms: Option<f64>,
}

/// A running job.
pub struct JobHandle {
    shared: Arc<Shared>,
    supervisor: JoinHandle<()>,
}

/// Starts a plan on `workers` threads. Faults of the start (a source that finds no file) come back
/// at once, all others from [`JobHandle::wait`].
pub fn start(plan: Plan, workers: usize) -> Result<JobHandle, Fault> {
    let mut splits = Vec::new();
    for node in &plan.nodes {
        splits.push(match &node.kind {
            NodeKind::Source { source, .. } => source.splits(workers).map_err(|f| f.at(&node.name))?,
            _ => Vec::new(),
        });
    }
    let edge_bytes = plan.edge_bytes(workers)?;
    let metrics = JobMetrics::new(&plan, &splits, workers);
    let epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let shared = Arc::new(Shared {
        plan,
        workers,
        edge_bytes,
        splits,
        metrics,
        start: Instant::now(),
        start_ms: epoch.as_millis() as i64,
        stop_at: AtomicU64::new(u64::MAX),
        aborted: AtomicBool::new(false),
        fault: Mutex::new(None),
        prepared: Mutex::new(Vec::new()),
        writers: Mutex::new(Vec::new()),
    });
    let for_workers = shared.clone();
    let supervisor = std::thread::Builder::new()
        .name("tidemill-job".into())
        .spawn(move || supervise(&for_workers))
        .map_err(|e| Fault::io(format!("no thread for the job: {e}")))?;
    Ok(JobHandle { shared, supervisor })
}

/// Runs the workers to their end, then makes visible what sinks have prepared, or throws it away.
fn supervise(shared: &Arc<Shared>) {
    let on_workers = shared.clone();
    match timely::execute(timely::Config::process(shared.workers), move |w| crate::worker::run(w, &on_workers)) {
        Ok(guards) => {
            for result in guards.join() {
                if let Err(panic) = result {
                    shared.fail(Fault::internal(format!("a worker panicked: {panic}")));
                }
            }
        }
        Err(error) => shared.fail(Fault::internal(format!("the workers did not start: {error}"))),
    }
    wait_for_writers(shared);
    end_sinks(shared);
}

/// Writers of a job that has failed remove what they wrote. One that is stuck in a write is left alone.
fn wait_for_writers(shared: &Shared) {
    let deadline = Instant::now() + WRITERS_END;
    for writer in shared.writers.lock().expect("no panic while held").drain(..) {
        while !writer.is_finished() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Commits what was prepared, or throws it away if the job or a commit has failed.
fn end_sinks(shared: &Shared) {
    let prepared = std::mem::take(&mut *shared.prepared.lock().expect("no panic while held"));
    for (node, committables) in prepared {
        let (name, sink) = sink_of(shared, node);
        if !shared.is_aborted()
            && let Err(fault) = sink.commit(&committables)
        {
            shared.fail(fault.at(&name));
        }
        if shared.is_aborted() {
            sink.discard(&committables);
        }
    }
}

fn sink_of(shared: &Shared, node: usize) -> (String, &Arc<dyn Sink>) {
    match shared.plan.nodes.get(node).map(|n| (&n.name, &n.kind)) {
        Some((name, NodeKind::Sink { sink, .. })) => (name.clone(), sink),
        _ => ("dead_letter".into(), shared.plan.dead_letter.as_ref().expect("only sinks prepare")),
    }
}

/// The metrics of a job that may have ended.
#[derive(Clone)]
pub struct MetricsHandle(Arc<Shared>);

impl MetricsHandle {
    pub fn metrics(&self) -> &JobMetrics {
        &self.0.metrics
    }
}

impl JobHandle {
    pub fn metrics(&self) -> &JobMetrics {
        &self.shared.metrics
    }

    /// Metrics that outlive the handle.
    pub fn metrics_handle(&self) -> MetricsHandle {
        MetricsHandle(self.shared.clone())
    }

    pub fn elapsed(&self) -> Duration {
        self.shared.start.elapsed()
    }

    pub fn is_finished(&self) -> bool {
        self.supervisor.is_finished()
    }

    /// Asks all sources to end at the next boundary. What they have read is processed, timers and
    /// windows fire as at the end of input, sinks are flushed.
    pub fn stop(&self) {
        let tick = match self.shared.plan.options.ticks {
            TickMode::Wall => {
                let now = self.shared.start.elapsed().as_millis() as u64 / self.shared.plan.options.tick_ms;
                (now / limits::BOUNDARY_TICKS + 1) * limits::BOUNDARY_TICKS
            }
            TickMode::Batch => 0,
        };
        self.shared.stop_at.fetch_min(tick, Ordering::SeqCst);
    }

    /// Ends the job now; nothing that sinks have written becomes visible.
    pub fn abort(&self, reason: &str) {
        self.shared.fail(Fault::config(reason));
    }

    /// Waits for the end.
    pub fn wait(self) -> Result<JobSummary, Fault> {
        let wall_end = |shared: &Shared| shared.start.elapsed();
        if self.supervisor.join().is_err() {
            return Err(Fault::internal("the job's supervisor panicked"));
        }
        let shared = self.shared;
        let wall = wall_end(&shared);
        if let Some(fault) = shared.fault.lock().expect("no panic while held").take() {
            return Err(fault);
        }
        let latency = shared.metrics.latency.lock().expect("no panic while held");
        let quantile = |q| (!latency.is_empty()).then(|| latency.value_at_quantile(q) as f64 / 1000.0);
        let stopped = shared.stop_at.load(Ordering::SeqCst) != u64::MAX;
        Ok(JobSummary {
            ending: if stopped { Ending::Stopped } else { Ending::Finished },
            rows_in: shared.metrics.rows_in(),
            rows_out: shared.metrics.rows_out(),
            rows_dead: shared.metrics.rows_dead(),
            wall,
            p50_ms: quantile(0.5),
            p99_ms: quantile(0.99),
        })
    }
}
