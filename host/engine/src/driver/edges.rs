//! The queues between the nodes of the driver: one per edge, sender and receiver.
//!
//! Law: a queue keeps its order; nothing is said about the order between queues.

use std::collections::VecDeque;

use tidemill_model::key::{KeyEncoder, Partitioner};
use tidemill_model::plan::{Exchange, NodeId, Plan};
use tidemill_model::{Batch, Fault};

use super::rng::Rng;

pub(super) struct Edge {
    from: NodeId,
    port: usize,
    pub to: NodeId,
    pub input: usize,
    kind: Kind,
}

enum Kind {
    Forward,
    Key(Partitioner),
    Rebalance,
    Broadcast,
}

pub(super) struct Edges {
    workers: usize,
    edges: Vec<Edge>,
    /// By edge, sender and receiver.
    queues: Vec<VecDeque<(usize, Batch)>>,
    /// By node and worker: the tick of the last rows sent.
    last_ticks: Vec<Option<usize>>,
}

impl Edges {
    pub fn new(plan: &Plan, workers: usize) -> Result<Self, Fault> {
        let mut edges = Vec::new();
        for (to, node) in plan.nodes.iter().enumerate() {
            for edge in &node.inputs {
                let kind = match &edge.exchange {
                    Exchange::Forward => Kind::Forward,
                    Exchange::Rebalance => Kind::Rebalance,
                    Exchange::Broadcast => Kind::Broadcast,
                    Exchange::Key(columns) => {
                        let schema = &plan.nodes[edge.from].outputs[edge.port];
                        Kind::Key(Partitioner::new(KeyEncoder::new(schema, columns)?, workers))
                    }
                };
                edges.push(Edge { from: edge.from, port: edge.port, to, input: edge.input, kind });
            }
        }
        let queues = (0..edges.len() * workers * workers).map(|_| VecDeque::new()).collect();
        Ok(Self { workers, edges, queues, last_ticks: vec![None; plan.nodes.len() * workers] })
    }

    /// Sends rows of a port along all its edges.
    pub fn route(
        &mut self,
        from: NodeId,
        worker: usize,
        tick: usize,
        port: usize,
        batch: Batch,
        rng: &mut Rng,
    ) -> Result<(), Fault> {
        self.last_ticks[from * self.workers + worker] = Some(tick);
        let (workers, queues) = (self.workers, &mut self.queues);
        for (index, edge) in self.edges.iter_mut().enumerate().filter(|(_, e)| e.from == from && e.port == port) {
            let mut send =
                |to: usize, part: Batch| queues[(index * workers + worker) * workers + to].push_back((tick, part));
            match &mut edge.kind {
                Kind::Forward => send(worker, batch.clone()),
                Kind::Rebalance => send(rng.below(workers), batch.clone()),
                Kind::Broadcast => (0..workers).for_each(|to| send(to, batch.clone())),
                Kind::Key(partitioner) => partitioner.partition(batch.clone(), send)?,
            }
        }
        Ok(())
    }

    /// The batches that could be delivered next: queue, node, worker, tick.
    pub fn heads(&self) -> impl Iterator<Item = (usize, NodeId, usize, usize)> {
        self.queues.iter().enumerate().filter_map(|(queue, batches)| {
            let (tick, _) = batches.front()?;
            Some((queue, self.edge(queue).to, queue % self.workers, *tick))
        })
    }

    /// The node at the end of a queue.
    pub fn receiver(&self, queue: usize) -> NodeId {
        self.edge(queue).to
    }

    fn edge(&self, queue: usize) -> &Edge {
        &self.edges[queue / (self.workers * self.workers)]
    }

    /// Takes the first batch of a queue that has one: edge, receiver, tick, rows.
    pub fn pop(&mut self, queue: usize) -> (&Edge, usize, usize, Batch) {
        let (tick, batch) = self.queues[queue].pop_front().expect("a head was there");
        (self.edge(queue), queue % self.workers, tick, batch)
    }

    /// Whether rows of this tick or before are on their way to a node.
    pub fn has_rows(&self, to: NodeId, worker: usize, tick: usize) -> bool {
        self.heads().any(|(_, id, receiver, head)| id == to && receiver == worker && head <= tick)
    }

    pub fn in_flight(&self) -> usize {
        self.queues.iter().map(VecDeque::len).sum()
    }

    /// Tick of the last rows that a node has sent from a worker.
    pub fn last_tick(&self, from: NodeId, worker: usize) -> Option<usize> {
        self.last_ticks[from * self.workers + worker]
    }
}
