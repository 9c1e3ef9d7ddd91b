//! Sends what an operator emits.

use std::sync::atomic::Ordering::Relaxed;

use tidemill_model::dead::{self, DeadRow};
use tidemill_model::{Batch, Collector, Fault};
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;

use crate::flow::Gauge;
use crate::frame::RowsBuilder;
use crate::worker::WorkerContext;

/// Sends what an operator emits and keeps its books.
pub(super) struct Sender {
    pub(super) context: WorkerContext,
    pub(super) node: usize,
    /// One per port and, last, the dead-letter port.
    pub(super) outputs: Vec<OutputBuilder<u64, RowsBuilder>>,
    pub(super) gauge: Gauge,
    pub(super) buffer: Buffer,
}

impl Sender {
    pub(super) fn new(context: &WorkerContext, node: usize, outputs: Vec<OutputBuilder<u64, RowsBuilder>>) -> Self {
        let gauge = Gauge::new(context.shared.edge_bytes);
        Self { context: context.clone(), node, outputs, gauge, buffer: Buffer::default() }
    }

    pub(super) fn metrics(&self) -> &crate::NodeMetrics {
        &self.context.shared.metrics.nodes[self.node].workers[self.context.worker]
    }

    pub(super) fn fail(&self, fault: Fault) {
        let shared = &self.context.shared;
        shared.fail(fault.at(&shared.plan.nodes[self.node].name).on_worker(self.context.worker));
    }

    pub(super) fn send(&mut self, caps: &[Capability<u64>]) -> Result<(), Fault> {
        let mut rows_out = 0;
        for (port, mut batch) in self.buffer.rows.drain(..) {
            if batch.is_empty() {
                continue;
            }
            rows_out += batch.num_rows() as u64;
            self.gauge.charge(&mut batch);
            self.outputs[port].activate().session_with_builder(&caps[port]).give(batch);
        }
        self.metrics().rows_out.fetch_add(rows_out, Relaxed);
        self.send_dead(caps)?;
        for (name, n) in std::mem::take(&mut self.buffer.counts) {
            self.metrics().count(name, n);
        }
        Ok(())
    }

    fn send_dead(&mut self, caps: &[Capability<u64>]) -> Result<(), Fault> {
        if self.buffer.dead.is_empty() {
            return Ok(());
        }
        let name = &self.context.shared.plan.nodes[self.node].name;
        let mut rows = std::mem::take(&mut self.buffer.dead);
        for row in rows.iter_mut().filter(|r| r.operator.is_empty()) {
            row.operator.clone_from(name);
        }
        if self.context.shared.plan.dead_letter.is_none() {
            let help = "add a `dead_letter:` sink to the pipeline";
            return Err(Fault::data(rows[0].error.clone()).with_row(rows[0].row.clone()).with_help(help));
        }
        self.metrics().rows_dead.fetch_add(rows.len() as u64, Relaxed);
        let port = self.outputs.len() - 1;
        let batch = Batch::new(dead::to_rows(&rows));
        self.outputs[port].activate().session_with_builder(&caps[port]).give(batch);
        Ok(())
    }
}

/// What one call emitted.
#[derive(Default)]
pub(super) struct Buffer {
    pub(super) rows: Vec<(usize, Batch)>,
    pub(super) dead: Vec<DeadRow>,
    pub(super) counts: Vec<(&'static str, u64)>,
}

impl Collector for Buffer {
    fn emit(&mut self, port: usize, batch: Batch) {
        self.rows.push((port, batch));
    }
    fn dead(&mut self, row: DeadRow) {
        self.dead.push(row);
    }
    fn count(&mut self, counter: &'static str, n: u64) {
        self.counts.push((counter, n));
    }
}
