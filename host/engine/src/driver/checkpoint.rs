//! Checkpoints of the driver: everything as bytes and plain data, nothing alive.
//!
//! Laws: no row of a tick behind the boundary has been read when the operators are frozen; tables go through their
//! encoding, as they do in a store; what a sink has prepared is committed by whoever has the checkpoint, perhaps twice.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Cursor;
use std::ops::Range;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::SchemaRef;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use tidemill_model::checkpoint::SplitState;
use tidemill_model::key::groups_of;
use tidemill_model::plan::{NodeKind, Plan};
use tidemill_model::sink::{Committable, Sink};
use tidemill_model::snapshot::{Chunks, FileSet, Form, Restore, Table, key_groups};
use tidemill_model::time::Now;
use tidemill_model::{Fault, Operator};

use super::node::Work;
use super::source::SourceWorker;
use super::{Driver, each};

/// A run at one boundary.
#[derive(Clone, Debug, Default)]
pub struct Checkpoint {
    pub id: u64,
    pub now_ms: i64,
    /// By source: what is still to be read, in the order in which the source has listed it.
    pub splits: BTreeMap<String, Vec<SplitState>>,
    /// By source that is fed by hand: the largest event time pushed, and the watermark that was set.
    pub hands: BTreeMap<String, (Option<i64>, i64)>,
    /// By operator.
    pub operators: BTreeMap<String, OperatorState>,
    /// By sink.
    pub committables: BTreeMap<String, Vec<Vec<u8>>>,
    /// Of the dead-letter sink.
    pub dead_letter: Vec<Vec<u8>>,
}

/// What one operator held.
#[derive(Clone, Debug)]
pub struct OperatorState {
    pub now: Now,
    /// By worker and table: an Arrow IPC stream.
    pub workers: Vec<BTreeMap<String, Vec<u8>>>,
}

impl Driver {
    /// Goes on to a boundary and freezes everything there. The sinks have prepared, and [`Driver::commit_checkpoint`] is
    /// to follow.
    pub fn checkpoint(&mut self) -> Result<Checkpoint, Fault> {
        self.go_to_boundary()?;
        self.checkpoints += 1;
        let mut checkpoint = Checkpoint { id: self.checkpoints, now_ms: self.now_ms, ..Checkpoint::default() };
        for id in 0..self.plan.nodes.len() {
            let name = self.plan.nodes[id].name.clone();
            match &self.plan.nodes[id].kind {
                NodeKind::Source { .. } if self.by_hand => {
                    let hand = self.sources[id].first().and_then(SourceWorker::hand);
                    checkpoint.hands.extend(hand.map(|hand| (name, hand)));
                }
                NodeKind::Source { .. } => {
                    let mut splits: Vec<(usize, SplitState)> =
                        self.sources[id].iter().flat_map(SourceWorker::splits).collect();
                    splits.sort_by_key(|(order, _)| *order);
                    checkpoint.splits.insert(name, splits.into_iter().map(|(_, split)| split).collect());
                }
                NodeKind::Operator { .. } => {
                    let state = self.freeze_node(id).map_err(|f| f.at(&name))?;
                    checkpoint.operators.insert(name, state);
                }
                NodeKind::Sink { .. } => {
                    let prepared = self.prepare(id).map_err(|f| f.at(&name))?;
                    checkpoint.committables.insert(name, prepared);
                }
            }
        }
        if let Some(writer) = &mut self.dead_writer {
            checkpoint.dead_letter = bytes(writer.prepare(self.checkpoints)?);
        }
        Ok(checkpoint)
    }

    /// Makes visible what the sinks had prepared for a checkpoint. May be repeated.
    pub fn commit_checkpoint(&self, checkpoint: &Checkpoint) -> Result<(), Fault> {
        commit(&self.plan, checkpoint)
    }

    /// Ends the run as a crash does: what was not prepared is thrown away.
    pub fn abort(mut self) {
        for instance in self.instances.iter_mut().flatten() {
            if let Work::Sink(writer) = &mut instance.work {
                writer.abort();
            }
        }
        self.dead_writer.iter_mut().for_each(|writer| writer.abort());
    }

    /// Goes on from a checkpoint, with any number of workers. Commits it, in case nobody could.
    pub fn restore(plan: &Plan, workers: usize, seed: u64, checkpoint: &Checkpoint) -> Result<Self, Fault> {
        commit(plan, checkpoint)?;
        let mut driver = Self::build(plan, workers, seed, !checkpoint.hands.is_empty())?;
        (driver.now_ms, driver.checkpoints) = (checkpoint.now_ms, checkpoint.id);
        for (name, state) in &checkpoint.operators {
            let id = driver.node_id(name)?;
            for worker in 0..workers {
                let from = Stored { groups: groups_of(worker, workers), state };
                let instance = &mut driver.instances[id][worker];
                instance.tracker.resume(state.now.watermark);
                instance.processing_ms = state.now.processing_ms;
                if let Work::Operator(operator, _) = &mut instance.work {
                    operator.restore(&from).map_err(|f| f.at(name).on_worker(worker))?;
                }
            }
        }
        for (name, hand) in &checkpoint.hands {
            let id = driver.node_id(name)?;
            driver.sources[id].iter_mut().for_each(|source| source.resume_by_hand(*hand, checkpoint.now_ms));
        }
        for (name, splits) in &checkpoint.splits {
            let id = driver.node_id(name)?;
            driver.open_splits(id, splits)?;
        }
        for id in 0..plan.nodes.len() {
            if !driver.by_hand && !checkpoint.splits.contains_key(&plan.nodes[id].name) {
                driver.open_new(id)?;
            }
        }
        Ok(driver)
    }

    /// All that was read has been processed, and the tick is closed everywhere.
    pub(super) fn go_to_boundary(&mut self) -> Result<(), Fault> {
        if self.by_hand {
            self.tick()?;
        }
        self.boundary = Some(each(&self.sources).map(|(_, _, s)| s.tick() + 1).max().unwrap_or(0));
        while !self.is_at_boundary() && self.step(i64::MAX)? {}
        self.boundary = None;
        Ok(())
    }

    fn is_at_boundary(&self) -> bool {
        let Some(boundary) = self.boundary else { return true };
        let ended = each(&self.sources).all(|(_, _, s)| s.has_ended());
        let last = each(&self.sources).map(|(_, _, s)| s.tick()).max().unwrap_or(0);
        let target = if ended || self.by_hand { boundary.min(last) } else { boundary };
        self.edges.in_flight() == 0
            && each(&self.sources).all(|(_, _, s)| s.has_closed(target.saturating_sub(1)) || target == 0)
            && self.instances.iter().flatten().all(|i| i.closed >= target)
    }

    fn freeze_node(&mut self, id: usize) -> Result<OperatorState, Fault> {
        let mut state = OperatorState { now: Now::START, workers: Vec::new() };
        for instance in &mut self.instances[id] {
            // All workers have closed the same ticks: their clocks agree.
            state.now = Now { watermark: instance.tracker.watermark(), processing_ms: instance.processing_ms };
            if let Work::Operator(operator, _) = &mut instance.work {
                state.workers.push(tables(operator.as_mut())?);
            }
        }
        Ok(state)
    }

    fn prepare(&mut self, id: usize) -> Result<Vec<Vec<u8>>, Fault> {
        let mut prepared = Vec::new();
        for instance in &mut self.instances[id] {
            if let Work::Sink(writer) = &mut instance.work {
                prepared.extend(bytes(writer.prepare(self.checkpoints)?));
            }
        }
        Ok(prepared)
    }
}

fn commit(plan: &Plan, checkpoint: &Checkpoint) -> Result<(), Fault> {
    let commit = |sink: &dyn Sink, prepared: &[Vec<u8>]| {
        sink.commit(&prepared.iter().cloned().map(Committable).collect::<Vec<_>>())
    };
    for node in &plan.nodes {
        if let (NodeKind::Sink { sink, .. }, Some(prepared)) = (&node.kind, checkpoint.committables.get(&node.name)) {
            commit(sink.as_ref(), prepared).map_err(|f| f.at(&node.name))?;
        }
    }
    plan.dead_letter.as_ref().map_or(Ok(()), |sink| commit(sink.as_ref(), &checkpoint.dead_letter))
}

fn bytes(committables: Vec<Committable>) -> Vec<Vec<u8>> {
    committables.into_iter().map(|committable| committable.0).collect()
}

fn tables(operator: &mut dyn Operator) -> Result<BTreeMap<String, Vec<u8>>, Fault> {
    let snapshot = operator.snapshot(Form::Portable)?;
    if snapshot.files.is_some() {
        return Err(Fault::internal("a portable snapshot with files"));
    }
    snapshot.tables.into_iter().map(|table| Ok((table.name.clone(), encode(table)?))).collect()
}

fn encode(table: Table) -> Result<Vec<u8>, Fault> {
    let mut writer = StreamWriter::try_new(Vec::new(), &table.schema)?;
    for chunk in table.chunks {
        writer.write(&chunk?)?;
    }
    Ok(writer.into_inner()?)
}

/// What there is of one operator for one worker.
struct Stored<'a> {
    groups: Range<u32>,
    state: &'a OperatorState,
}

impl Stored<'_> {
    fn streams(&self, table: &str) -> Result<Vec<StreamReader<Cursor<Vec<u8>>>>, Fault> {
        let stored = self.state.workers.iter().filter_map(|tables| tables.get(table));
        stored.map(|bytes| Ok(StreamReader::try_new(Cursor::new(bytes.clone()), None)?)).collect()
    }
}

impl Restore for Stored<'_> {
    fn groups(&self) -> Range<u32> {
        self.groups.clone()
    }

    fn now(&self) -> Now {
        self.state.now
    }

    fn tables(&self) -> Vec<(String, SchemaRef)> {
        let names: BTreeSet<&String> = self.state.workers.iter().flat_map(BTreeMap::keys).collect();
        let schema = |name: &String| self.streams(name).ok()?.first().map(StreamReader::schema);
        names.into_iter().filter_map(|name| Some((name.clone(), schema(name)?))).collect()
    }

    fn chunks(&self, table: &str) -> Result<Chunks, Fault> {
        let groups = self.groups.clone();
        let own = move |chunk: Result<RecordBatch, arrow::error::ArrowError>| {
            let chunk = chunk?;
            let mask: BooleanArray =
                key_groups(&chunk)?.iter().map(|g| g.map(|g| groups.contains(&u32::from(g)))).collect();
            Ok(filter_record_batch(&chunk, &mask)?)
        };
        Ok(Box::new(self.streams(table)?.into_iter().flatten().map(own)))
    }

    fn all_chunks(&self, table: &str) -> Result<Chunks, Fault> {
        let all = self.streams(table)?.into_iter().flatten();
        Ok(Box::new(all.map(|chunk| Ok(chunk?))))
    }

    fn files(&self) -> Result<Vec<FileSet>, Fault> {
        Ok(Vec::new())
    }
}
