//! A plan: the graph of nodes that runs, with everything resolved. Built once, the same on all workers.
//!
//! Laws: nodes are in topological order; an input names an earlier node; schemas have been checked.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;

use crate::checkpoint::CheckpointOptions;
use crate::fault::{Fault, OnError};
use crate::limits::EDGE_BYTES_MIN;
use crate::logic::GuestLimits;
use crate::operator::OperatorFactory;
use crate::sink::Sink;
use crate::source::Source;
use crate::time::WatermarkStrategy;

pub type NodeId = usize;

/// How rows reach an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exchange {
    /// Stay on their worker.
    Forward,
    /// Go to the worker that owns their key; indices of the key columns.
    Key(Vec<usize>),
    /// Batches are dealt to the workers in turn.
    Rebalance,
    /// Every worker gets every row.
    Broadcast,
}

/// One edge. Several edges with the same `input` number are a union.
#[derive(Clone, Debug)]
pub struct Edge {
    pub from: NodeId,
    pub port: usize,
    /// The input of this node that the rows arrive at.
    pub input: usize,
    pub exchange: Exchange,
}

/// Event time of a source.
#[derive(Clone, Copy, Debug)]
pub struct EventTimeSpec {
    /// Index of the column: int64 (ms) or timestamp of any unit, ms after conversion.
    pub column: usize,
    pub strategy: WatermarkStrategy,
}

#[derive(Clone)]
pub enum NodeKind {
    Source { source: Arc<dyn Source>, event_time: Option<EventTimeSpec>, on_error: OnError },
    Operator { factory: Arc<dyn OperatorFactory> },
    Sink { sink: Arc<dyn Sink>, schema: SchemaRef },
}

#[derive(Clone)]
pub struct Node {
    /// Unique in the pipeline.
    pub name: String,
    pub kind: NodeKind,
    pub inputs: Vec<Edge>,
    /// Schema of each output port; none for sinks.
    pub outputs: Vec<SchemaRef>,
}

/// What a part of the engine makes of its settings: how to build it, and what it puts out.
#[derive(Clone)]
pub struct Built {
    pub factory: Arc<dyn OperatorFactory>,
    /// Name and schema of each output port; port 0 is the main output.
    pub outputs: Vec<(String, SchemaRef)>,
}

/// What closes a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TickMode {
    /// The clock, every `tick_ms`: lowest latency and overhead.
    #[default]
    Wall,
    /// Each batch of a source is a tick, and operators with time take rows of a tick only after the
    /// ticks before it have closed. What is late then depends on the input and the batch size alone:
    /// for replays that must give the same result each time.
    Batch,
}

/// Where keyed state lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
pub enum Backend {
    /// In memory.
    #[default]
    Heap,
    /// On disk, with a cache in front.
    RocksDb,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StateOptions {
    pub backend: Backend,
    /// What caches and buffers of a backend on disk take, over all nodes and workers of the process.
    pub memory_bytes: usize,
    /// Where a backend on disk works. None: beside the checkpoints, if they are in a directory.
    pub directory: Option<String>,
}

impl Default for StateOptions {
    fn default() -> Self {
        Self { backend: Backend::Heap, memory_bytes: 256 << 20, directory: None }
    }
}

/// What becomes of a job that has failed, and has a checkpoint (Flink's strategies and defaults).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RestartStrategy {
    Never,
    FixedDelay {
        attempts: u32,
        delay_ms: u64,
    },
    /// The delay grows with each failure, and starts anew after `reset_ms` without one.
    ExponentialDelay {
        initial_ms: u64,
        max_ms: u64,
        multiplier: f64,
        reset_ms: u64,
    },
    /// Until more than `failures` come within `interval_ms`.
    FailureRate {
        failures: u32,
        interval_ms: u64,
        delay_ms: u64,
    },
}

impl Default for RestartStrategy {
    fn default() -> Self {
        Self::ExponentialDelay { initial_ms: 1000, max_ms: 60_000, multiplier: 1.5, reset_ms: 3_600_000 }
    }
}

/// Settings of a job. All have defaults.
#[derive(Clone, Debug)]
pub struct JobOptions {
    pub ticks: TickMode,
    pub tick_ms: u64,
    pub ticks_in_flight: u64,
    pub tick_bytes: usize,
    pub edge_bytes: usize,
    /// See [`Plan::edge_bytes`].
    pub buffer_bytes: usize,
    pub batch_rows: usize,
    /// For every component of the pipeline.
    pub guest: GuestLimits,
    pub state: StateOptions,
    /// None: the job takes no checkpoints.
    pub checkpoints: Option<CheckpointOptions>,
    pub restart: RestartStrategy,
}

impl Default for JobOptions {
    fn default() -> Self {
        use crate::limits::*;
        Self {
            ticks: TickMode::Wall,
            tick_ms: TICK_MS,
            ticks_in_flight: TICKS_IN_FLIGHT,
            tick_bytes: TICK_BYTES_MAX,
            edge_bytes: EDGE_BYTES_MAX,
            buffer_bytes: BUFFER_BYTES_MAX,
            batch_rows: BATCH_ROWS_MAX,
            guest: GuestLimits::default(),
            state: StateOptions::default(),
            checkpoints: None,
            restart: RestartStrategy::default(),
        }
    }
}

#[derive(Clone)]
pub struct Plan {
    pub name: String,
    pub nodes: Vec<Node>,
    /// Where rows go that could not be processed, if the pipeline names a sink for them.
    /// Not a node of the graph: every node has an implied edge to it.
    pub dead_letter: Option<Arc<dyn Sink>>,
    pub options: JobOptions,
}

impl Plan {
    /// Bytes that one node's output may hold in flight on one of `workers` workers: no more than `edge_bytes`, and
    /// together no more than `buffer_bytes`. Each may be passed by one batch.
    pub fn edge_bytes(&self, workers: usize) -> Result<usize, Fault> {
        let shares = self.nodes.len() * workers;
        let JobOptions { edge_bytes, buffer_bytes, .. } = self.options;
        if buffer_bytes / shares.max(1) < EDGE_BYTES_MIN {
            let least = (EDGE_BYTES_MIN * shares) >> 10;
            let nodes = self.nodes.len();
            let message = format!(
                "`buffer_memory` of {} KiB is too little for {nodes} nodes on {workers} workers",
                buffer_bytes >> 10
            );
            return Err(Fault::config(message).with_help(format!("set it to {least}KiB or more, or use fewer workers")));
        }
        Ok(edge_bytes.min(buffer_bytes / shares.max(1)))
    }

    /// The sources above each node, by id: the ones whose watermarks it waits for.
    pub fn ancestor_sources(&self) -> Vec<Vec<NodeId>> {
        let mut above: Vec<Vec<NodeId>> = Vec::with_capacity(self.nodes.len());
        for (id, node) in self.nodes.iter().enumerate() {
            let mut sources: Vec<NodeId> = match node.kind {
                NodeKind::Source { .. } => vec![id],
                _ => node.inputs.iter().flat_map(|e| above[e.from].iter().copied()).collect(),
            };
            sources.sort_unstable();
            sources.dedup();
            above.push(sources);
        }
        above
    }
}
