//! One worker's share of a source in the driver: its splits, its watermark, and what it said at each tick.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::buffer::ScalarBuffer;
use tidemill_model::checkpoint::SplitState;
use tidemill_model::dead::DeadRow;
use tidemill_model::fault::OnError;
use tidemill_model::limits::BATCH_BYTES_MAX;
use tidemill_model::plan::EventTimeSpec;
use tidemill_model::source::{Polled, Position, ReadBudget, Source, Split, SplitReader};
use tidemill_model::time::{SourceTime, SplitWatermark, WATERMARK_MIN, WatermarkStrategy, combine};
use tidemill_model::{Batch, Fault, event_time};

use super::rng::Rng;

/// A split with its place in the source's list.
pub(super) type Listed = (usize, SplitState);

struct OpenSplit {
    order: usize,
    split: Split,
    reader: Box<dyn SplitReader>,
    watermark: SplitWatermark,
    /// Asked again at this time.
    until_ms: i64,
}

pub(super) struct SourceWorker {
    name: String,
    event_time: Option<EventTimeSpec>,
    on_error: OnError,
    splits: Vec<OpenSplit>,
    /// Bounded splits are read one after the other, so that files keep their order.
    waiting: VecDeque<Listed>,
    source: Option<Arc<dyn Source>>,
    /// Rows that tests push have their own watermark.
    by_hand: Option<ByHand>,
    /// What was said at the end of each tick: the source's time and the wall clock in ms.
    said: Vec<(SourceTime, i64)>,
    finished: bool,
}

struct ByHand {
    rows: SplitWatermark,
    /// Set by the test.
    watermark: i64,
}

impl SourceWorker {
    pub fn new(name: &str, event_time: Option<EventTimeSpec>, on_error: OnError) -> Self {
        Self {
            name: name.to_owned(),
            event_time,
            on_error,
            splits: Vec::new(),
            waiting: VecDeque::new(),
            source: None,
            by_hand: None,
            said: Vec::new(),
            finished: false,
        }
    }

    /// Reads these splits. Without any, the source has ended on this worker.
    pub fn open(&mut self, source: &Arc<dyn Source>, splits: VecDeque<Listed>, now_ms: i64) -> Result<(), Fault> {
        self.source = Some(source.clone());
        self.waiting = splits;
        self.open_splits(now_ms)
    }

    /// What is still to be read.
    pub fn splits(&self) -> Vec<Listed> {
        let open = self.splits.iter().map(|s| {
            let Split { id, spec, size } = s.split.clone();
            let (position, max_time) = (s.reader.position().0, s.watermark.max_time());
            (s.order, SplitState { id, spec, size, position, max_time, open: true })
        });
        open.chain(self.waiting.iter().cloned()).collect()
    }

    fn open_splits(&mut self, now_ms: i64) -> Result<(), Fault> {
        let Some(source) = self.source.clone() else { return Ok(()) };
        let at_once = if source.bounded() { 1 } else { usize::MAX };
        while self.splits.len() < at_once {
            let Some((order, state)) = self.waiting.pop_front() else { break };
            let split = Split { id: state.id, spec: state.spec, size: state.size };
            let reader = source.open(&split, &Position(state.position))?;
            let mut watermark = self.watermark(now_ms);
            watermark.resume(state.max_time);
            self.splits.push(OpenSplit { order, split, reader, watermark, until_ms: i64::MIN });
        }
        self.finished = self.splits.is_empty();
        Ok(())
    }

    /// Reads nothing; rows are pushed.
    pub fn feed_by_hand(&mut self) {
        self.by_hand = Some(ByHand { rows: self.watermark(0), watermark: WATERMARK_MIN });
    }

    /// The largest event time pushed, and the watermark that the test has set.
    pub fn hand(&self) -> Option<(Option<i64>, i64)> {
        self.by_hand.as_ref().map(|hand| (hand.rows.max_time(), hand.watermark))
    }

    /// Goes on from there.
    pub fn resume_by_hand(&mut self, (max_time, watermark): (Option<i64>, i64), now_ms: i64) {
        let mut rows = self.watermark(now_ms);
        rows.resume(max_time);
        self.by_hand = Some(ByHand { rows, watermark });
    }

    fn watermark(&self, now_ms: i64) -> SplitWatermark {
        let none = WatermarkStrategy { delay_ms: 0, idle_after_ms: None };
        SplitWatermark::new(self.event_time.map_or(none, |e| e.strategy), now_ms)
    }

    pub fn is_finished(&self) -> bool {
        self.finished
    }

    pub fn finish(&mut self) {
        self.finished = true;
        self.splits.clear();
        self.waiting.clear();
    }

    /// Whether a poll may bring something at this time.
    pub fn is_ready(&self, now_ms: i64) -> bool {
        self.splits.iter().any(|s| s.until_ms <= now_ms)
    }

    /// When a split wants to be asked again.
    pub fn next_ready(&self) -> Option<i64> {
        self.splits.iter().map(|s| s.until_ms).min()
    }

    /// The clock has gone on, and splits that were ready were not asked: that makes none of them idle.
    pub fn held_up(&mut self, before_ms: i64, now_ms: i64) {
        let ready = self.splits.iter_mut().filter(|split| split.until_ms <= before_ms);
        ready.for_each(|split| split.watermark.held_up(now_ms));
    }

    /// Polls a ready split, chosen by chance.
    pub fn poll(&mut self, rows: usize, now_ms: i64, rng: &mut Rng) -> Result<(Option<Batch>, Vec<DeadRow>), Fault> {
        let ready: Vec<usize> = (0..self.splits.len()).filter(|&s| self.splits[s].until_ms <= now_ms).collect();
        let index = ready[rng.below(ready.len())];
        let split = &mut self.splits[index];
        match split.reader.poll(ReadBudget { rows, bytes: BATCH_BYTES_MAX, now_ms })? {
            Polled::Pending { until_ms } => {
                split.until_ms = until_ms.max(now_ms + 1);
                Ok((None, Vec::new()))
            }
            Polled::End => {
                self.splits.remove(index);
                self.open_splits(now_ms)?;
                Ok((None, Vec::new()))
            }
            Polled::Rows { rows, rejected } => {
                let id = self.splits[index].split.id.clone();
                let (batch, dead) = self.receive(rows, rejected, Some(&id))?;
                if let Some(times) = &batch.times {
                    self.splits[index].watermark.on_rows(times, now_ms);
                }
                Ok((Some(batch).filter(|b| !b.is_empty()), dead))
            }
        }
    }

    /// Rows of a test, with event times from the source's column unless some are given.
    pub fn push(&mut self, rows: RecordBatch, times: Option<Vec<i64>>) -> Result<(Batch, Vec<DeadRow>), Fault> {
        let (batch, dead) = match times {
            Some(times) if times.len() == rows.num_rows() => {
                (Batch::new(rows).with_times(Some(times.into())), Vec::new())
            }
            Some(times) => {
                return Err(Fault::config(format!("{} event times for {} rows", times.len(), rows.num_rows())));
            }
            None => self.receive(rows, Vec::new(), None)?,
        };
        Ok((batch, dead))
    }

    /// Rows with these event times have been pushed to the source, on whichever worker.
    pub fn see(&mut self, times: &[i64], now_ms: i64) {
        if let Some(hand) = &mut self.by_hand {
            hand.rows.on_rows(times, now_ms);
        }
    }

    /// The test says that no row at or below `watermark` will come.
    pub fn set_watermark(&mut self, watermark: i64) {
        if let Some(hand) = &mut self.by_hand {
            hand.watermark = hand.watermark.max(watermark);
        }
    }

    /// Rows of a split, if they are not pushed.
    fn receive(
        &self,
        rows: RecordBatch,
        mut dead: Vec<DeadRow>,
        split: Option<&String>,
    ) -> Result<(Batch, Vec<DeadRow>), Fault> {
        let (rows, times): (RecordBatch, Option<ScalarBuffer<i64>>) = match self.event_time {
            None => (rows, None),
            Some(spec) => {
                let (rows, times, without) = event_time::extract(rows, spec.column, &self.name)?;
                dead.extend(without);
                (rows, Some(times))
            }
        };
        for row in &mut dead {
            row.operator.clone_from(&self.name);
            row.file = row.file.take().or_else(|| split.cloned());
        }
        match dead.first() {
            Some(row) if self.on_error == OnError::Fail => Err(row.fault()),
            _ => Ok((Batch::new(rows).with_times(times), dead)),
        }
    }

    /// Ends the tick.
    pub fn say(&mut self, now_ms: i64) {
        let time = match &self.by_hand {
            _ if self.finished => SourceTime::Finished,
            None => {
                // A split that was begun before a checkpoint and waits now is not to be overtaken.
                let begun = self.waiting.iter().filter_map(|(_, split)| split.max_time).map(|max_time| {
                    let mut watermark = self.watermark(now_ms);
                    watermark.resume(Some(max_time));
                    watermark.at(now_ms)
                });
                combine(self.splits.iter().map(|s| s.watermark.at(now_ms)).chain(begun))
            }
            // Without an event-time column only the test moves time.
            Some(hand) if self.event_time.is_none() => SourceTime::Active(hand.watermark),
            Some(hand) => match hand.rows.at(now_ms) {
                SourceTime::Active(w) => SourceTime::Active(w.max(hand.watermark)),
                SourceTime::Idle(w) => SourceTime::Idle(w.max(hand.watermark)),
                SourceTime::Finished => SourceTime::Finished,
            },
        };
        self.said.push((time, now_ms));
    }

    /// What had been said by the end of a tick.
    pub fn at(&self, tick: usize) -> (SourceTime, i64) {
        let unknown = (SourceTime::Active(WATERMARK_MIN), i64::MIN);
        self.said.get(tick).or(self.said.last()).copied().unwrap_or(unknown)
    }

    /// The tick that is open.
    pub fn tick(&self) -> usize {
        self.said.len()
    }

    /// When the open tick was opened.
    pub fn opened_ms(&self) -> i64 {
        self.said.last().map_or(i64::MIN, |s| s.1)
    }

    /// No rows will come, and that has been said.
    pub fn has_ended(&self) -> bool {
        self.finished && self.said.last().is_some_and(|s| s.0 == SourceTime::Finished)
    }

    /// Whether nothing more comes at this tick.
    pub fn has_closed(&self, tick: usize) -> bool {
        self.has_ended() || self.said.len() > tick
    }
}
