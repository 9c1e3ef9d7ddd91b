//! The control stream: what sources say about time, as data, broadcast to all workers at each tick.

use serde::{Deserialize, Serialize};
use tidemill_model::time::SourceTime;

/// State of one source on one worker at the end of a tick.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct ControlMsg {
    /// The worker that this copy is for.
    pub target: u64,
    pub source: u64,
    pub worker: u64,
    /// Processing time of the sender in ms since the epoch.
    pub processing_ms: i64,
    kind: u8,
    watermark: i64,
}

impl ControlMsg {
    /// One copy per worker.
    pub fn broadcast(
        workers: usize,
        source: usize,
        worker: usize,
        time: SourceTime,
        processing_ms: i64,
    ) -> impl Iterator<Item = Self> {
        let (kind, watermark) = match time {
            SourceTime::Active(w) => (0, w),
            SourceTime::Idle(w) => (1, w),
            SourceTime::Finished => (2, 0),
        };
        let (source, worker) = (source as u64, worker as u64);
        (0..workers as u64).map(move |target| Self { target, source, worker, processing_ms, kind, watermark })
    }

    pub fn time(&self) -> SourceTime {
        match self.kind {
            0 => SourceTime::Active(self.watermark),
            1 => SourceTime::Idle(self.watermark),
            _ => SourceTime::Finished,
        }
    }
}
