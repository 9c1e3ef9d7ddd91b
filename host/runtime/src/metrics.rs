//! Numbers about a running job, updated per batch with relaxed atomics and read by anyone.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tidemill_model::checkpoint::SplitState;
use tidemill_model::plan::{Node, NodeKind, Plan};
use tidemill_model::time::WATERMARK_MIN;

use crate::cluster::NodeNumbers;

/// One node on one worker.
#[derive(Debug)]
pub struct NodeMetrics {
    pub rows_in: AtomicU64,
    pub rows_out: AtomicU64,
    pub rows_dead: AtomicU64,
    pub batches: AtomicU64,
    /// Time spent in the node's own code, ns.
    pub busy_ns: AtomicU64,
    /// Times that the node found no room for its output, ...
    pub blocked: AtomicU64,
    /// Rows, keys or groups held in state.
    pub held: AtomicU64,
    /// Event-time watermark in ms.
    pub watermark: AtomicI64,
    /// Sources: how much of [`NodeInfo::size`] has been read.
    pub progress: AtomicU64,
    /// Sources: what keeps the watermark where it is.
    holder: Mutex<Option<Holder>>,
    /// The operator's own counters.
    pub counters: Mutex<BTreeMap<String, u64>>,
}

/// The part of a source that keeps its watermark back on one worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// None: splits that are not open yet.
    pub split: Option<String>,
    /// Whether it has had rows.
    pub rows: bool,
}

/// What keeps the watermark of a job back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldBack {
    pub source: String,
    /// The source has event time; one without says nothing about time until it has ended.
    pub timed: bool,
    pub holder: Holder,
}

impl std::fmt::Display for HeldBack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let source = &self.source;
        match (self.timed, &self.holder.split, self.holder.rows) {
            (false, ..) => write!(f, "`{source}`, which has no event time and has not ended"),
            (true, None, _) => write!(f, "`{source}`, which has opened no split yet"),
            (true, Some(split), false) => write!(f, "`{source}`, which has had no row of {split} yet"),
            (true, Some(split), true) => write!(f, "`{source}`, by the rows of {split}"),
        }
    }
}

impl Default for NodeMetrics {
    fn default() -> Self {
        let zero = AtomicU64::default;
        Self {
            rows_in: zero(),
            rows_out: zero(),
            rows_dead: zero(),
            batches: zero(),
            busy_ns: zero(),
            blocked: zero(),
            held: zero(),
            watermark: AtomicI64::new(WATERMARK_MIN),
            progress: zero(),
            holder: Mutex::default(),
            counters: Mutex::default(),
        }
    }
}

impl NodeMetrics {
    /// Adds to one of the operator's own counters.
    pub(crate) fn count(&self, name: &str, n: u64) {
        let mut counters = self.counters.lock().expect("no panic while held");
        match counters.get_mut(name) {
            Some(sum) => *sum += n,
            None => drop(counters.insert(name.to_owned(), n)),
        }
    }

    /// Sources: who keeps the watermark back. None: nobody, since all splits have ended or are idle.
    pub(crate) fn held_by(&self, split: Option<Option<(&str, bool)>>) {
        let mut holder = self.holder.lock().expect("no panic while held");
        let same = match (&*holder, split) {
            (None, None) => true,
            (Some(now), Some(split)) => {
                (now.split.as_deref(), now.rows) == split.map_or((None, false), |s| (Some(s.0), s.1))
            }
            _ => false,
        };
        if !same {
            *holder = split.map(|split| Holder {
                split: split.map(|split| split.0.to_owned()),
                rows: split.is_some_and(|split| split.1),
            });
        }
    }

    /// Those that are plain numbers, in the order in which processes tell each other of them.
    fn numbers(&self) -> [&AtomicU64; 8] {
        let Self { rows_in, rows_out, rows_dead, batches, busy_ns, blocked, held, progress, .. } = self;
        [rows_in, rows_out, rows_dead, batches, busy_ns, blocked, held, progress]
    }
}

/// What a node is, for those who show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeRole {
    Source,
    Operator,
    Sink,
}

/// All nodes of a job on all workers.
#[derive(Debug)]
pub struct JobMetrics {
    pub nodes: Vec<NodeInfo>,
    /// Time from source to sink in µs, weighted by rows.
    pub latency: Mutex<Histogram<u64>>,
    /// ns from start until the first row reached a sink; 0 = none yet.
    pub first_row_ns: AtomicU64,
}

#[derive(Debug)]
pub struct NodeInfo {
    pub name: String,
    pub role: NodeRole,
    /// Sources: how much there is to read in all splits, in the source's unit; `None` without end, or if a split
    /// does not say.
    pub size: Option<u64>,
    /// Sources: whether rows have event times.
    pub timed: bool,
    /// By worker.
    pub workers: Vec<NodeMetrics>,
}

impl NodeInfo {
    pub fn sum(&self, get: fn(&NodeMetrics) -> &AtomicU64) -> u64 {
        self.workers.iter().map(|w| get(w).load(Relaxed)).sum()
    }

    /// The lowest watermark over the workers.
    pub fn watermark(&self) -> i64 {
        self.workers.iter().map(|w| w.watermark.load(Relaxed)).min().unwrap_or(WATERMARK_MIN)
    }

    pub fn counters(&self) -> BTreeMap<String, u64> {
        let mut all: BTreeMap<String, u64> = BTreeMap::new();
        for worker in &self.workers {
            for (name, n) in worker.counters.lock().expect("no panic while held").iter() {
                *all.entry(name.clone()).or_default() += n;
            }
        }
        all
    }
}

impl JobMetrics {
    /// `splits`: of each node.
    pub(crate) fn new(plan: &Plan, splits: &[Vec<SplitState>], workers: usize) -> Self {
        let info = |(node, splits): (&Node, &Vec<SplitState>)| NodeInfo {
            name: node.name.clone(),
            role: match node.kind {
                NodeKind::Source { .. } => NodeRole::Source,
                NodeKind::Operator { .. } => NodeRole::Operator,
                NodeKind::Sink { .. } => NodeRole::Sink,
            },
            size: match &node.kind {
                NodeKind::Source { source, .. } if source.bounded() => splits.iter().map(|split| split.size).sum(),
                _ => None,
            },
            timed: matches!(node.kind, NodeKind::Source { event_time: Some(_), .. }),
            workers: (0..workers).map(|_| NodeMetrics::default()).collect(),
        };
        Self {
            nodes: plan.nodes.iter().zip(splits).map(info).collect(),
            // 1 µs to 10 min with two digits: 60 kB, enough to tell 19 ms from 20.
            latency: Mutex::new(Histogram::new_with_bounds(1, 600_000_000, 2).expect("bounds are valid")),
            first_row_ns: AtomicU64::new(0),
        }
    }

    /// What the workers of a process have to say.
    pub(crate) fn of_workers(&self, workers: Range<usize>) -> Vec<NodeNumbers> {
        let of_worker = |node: usize, worker: usize| {
            let metrics = &self.nodes[node].workers[worker];
            let counters = metrics.counters.lock().expect("no panic while held");
            NodeNumbers {
                node,
                worker,
                numbers: metrics.numbers().map(|number| number.load(Relaxed)),
                watermark: metrics.watermark.load(Relaxed),
                holder: metrics.holder.lock().expect("no panic while held").clone(),
                counters: counters.iter().map(|(name, n)| (name.clone(), *n)).collect(),
            }
        };
        (0..self.nodes.len()).flat_map(|node| workers.clone().map(move |worker| of_worker(node, worker))).collect()
    }

    /// What another process says of its workers.
    pub(crate) fn take_in(&self, said: Vec<NodeNumbers>, first_row_ns: u64) {
        for NodeNumbers { node, worker, numbers, watermark, holder, counters } in said {
            let Some(metrics) = self.nodes.get(node).and_then(|node| node.workers.get(worker)) else { continue };
            metrics.numbers().into_iter().zip(numbers).for_each(|(ours, number)| ours.store(number, Relaxed));
            metrics.watermark.store(watermark, Relaxed);
            *metrics.holder.lock().expect("no panic while held") = holder;
            *metrics.counters.lock().expect("no panic while held") = counters.into_iter().collect();
        }
        if first_row_ns > 0 {
            let earlier = |ours| (ours == 0 || first_row_ns < ours).then_some(first_row_ns);
            // It stays as it is where ours is earlier.
            let _ = self.first_row_ns.fetch_update(Relaxed, Relaxed, earlier);
        }
    }

    fn role_sum(&self, role: NodeRole, get: fn(&NodeMetrics) -> &AtomicU64) -> u64 {
        self.nodes.iter().filter(|n| n.role == role).map(|n| n.sum(get)).sum()
    }

    /// Rows read by sources, those among them that were rejected at once included.
    pub fn rows_in(&self) -> u64 {
        self.role_sum(NodeRole::Source, |n| &n.rows_out) + self.role_sum(NodeRole::Source, |n| &n.rows_dead)
    }

    /// Rows written by sinks.
    pub fn rows_out(&self) -> u64 {
        self.role_sum(NodeRole::Sink, |n| &n.rows_in)
    }

    /// Rows that went to the dead-letter output.
    pub fn rows_dead(&self) -> u64 {
        self.nodes.iter().map(|n| n.sum(|m| &m.rows_dead)).sum()
    }

    /// Rows, keys and groups held by operators.
    pub fn held(&self) -> u64 {
        self.nodes.iter().map(|n| n.sum(|m| &m.held)).sum()
    }

    /// Lowest watermark of the sources that have event time and have seen rows.
    pub fn watermark(&self) -> Option<i64> {
        let seen = |n: &&NodeInfo| n.role == NodeRole::Source && n.watermark() != WATERMARK_MIN;
        self.nodes.iter().filter(seen).map(NodeInfo::watermark).min()
    }

    /// The part of a source that keeps the watermark back, if there is more than one that could: of those that have neither ended nor are
    /// idle, the one whose watermark is the lowest.
    pub fn held_back(&self) -> Option<HeldBack> {
        let holders = self.nodes.iter().filter(|node| node.role == NodeRole::Source).flat_map(|node| {
            let of_worker = |worker: &NodeMetrics| {
                let holder = worker.holder.lock().expect("no panic while held").clone()?;
                let back = HeldBack { source: node.name.clone(), timed: node.timed, holder };
                Some((worker.watermark.load(Relaxed), back))
            };
            node.workers.iter().filter_map(of_worker)
        });
        let mut holders: Vec<(i64, HeldBack)> = holders.collect();
        // Sources without event time matter beside others only.
        if holders.len() < 2 || !self.nodes.iter().any(|node| node.timed) {
            return None;
        }
        holders.sort_by_key(|(watermark, back)| (*watermark, back.timed));
        holders.into_iter().next().map(|(_, back)| back)
    }

    /// Share of the input read, 0 to 1: of the source that is furthest behind, since sources count in units of their
    /// own. `None` if a source has no end, or does not know how much it will read.
    pub fn share_done(&self) -> Option<f64> {
        let sources = self.nodes.iter().filter(|n| n.role == NodeRole::Source);
        let share = |node: &NodeInfo| match node.size? {
            0 => Some(1.0),
            size => Some((node.sum(|m| &m.progress) as f64 / size as f64).min(1.0)),
        };
        sources.map(share).try_fold(1.0, |least: f64, share| Some(least.min(share?)))
    }
}
