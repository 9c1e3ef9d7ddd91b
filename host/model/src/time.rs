//! Event time, processing time, and how watermarks come about.
//!
//! A watermark `w` says: no row with event time `<= w` is expected any more (Flink's definition).
//! Laws: a watermark never goes back; a finished source next to an idle one does not run time to
//! infinity; an operator's watermark is the minimum over the sources above it.

/// Event time in ms since the Unix epoch.
pub type EventTime = i64;

/// Before any row: nothing is known.
pub const WATERMARK_MIN: EventTime = i64::MIN;
/// After the last row of bounded input: every timer and window fires (Flink's `Watermark.MAX_WATERMARK`).
pub const WATERMARK_MAX: EventTime = i64::MAX;

/// The two clocks that an operator sees. They advance together, at ticks only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    pub watermark: EventTime,
    /// Wall time in ms since the epoch, or virtual time in tests.
    pub processing_ms: i64,
}

impl Now {
    pub const START: Now = Now { watermark: WATERMARK_MIN, processing_ms: 0 };
}

/// How a source derives watermarks from event times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatermarkStrategy {
    /// Rows may be this late against the largest event time seen, ms (bounded out-of-orderness).
    pub delay_ms: i64,
    /// A split without rows for this long is idle and holds nothing back, ms of processing time.
    pub idle_after_ms: Option<i64>,
}

/// State of one split, source or worker towards those who wait for its watermark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceTime {
    /// Rows may come with event times above this watermark.
    Active(EventTime),
    /// No rows for a while; excluded until some come. Carries its last watermark.
    Idle(EventTime),
    /// No row will ever come.
    Finished,
}

/// Watermark of one split: largest event time seen, minus the delay, minus 1 ms
/// (Flink's `BoundedOutOfOrdernessWatermarks`).
#[derive(Clone, Debug)]
pub struct SplitWatermark {
    strategy: WatermarkStrategy,
    max_time: EventTime,
    last_row_ms: i64,
    finished: bool,
}

impl SplitWatermark {
    /// A split that starts at processing time `now_ms`.
    pub fn new(strategy: WatermarkStrategy, now_ms: i64) -> Self {
        Self { strategy, max_time: WATERMARK_MIN, last_row_ms: now_ms, finished: false }
    }

    pub fn on_rows(&mut self, times: &[EventTime], now_ms: i64) {
        if let Some(max) = times.iter().copied().max() {
            self.max_time = self.max_time.max(max);
        }
        self.last_row_ms = now_ms;
    }

    /// The split could not be read up to now, because what is below it had no room: that does not make it idle
    /// (Flink pauses the idle clock under backpressure likewise).
    pub fn held_up(&mut self, now_ms: i64) {
        self.last_row_ms = now_ms;
    }

    pub fn finish(&mut self) {
        self.finished = true;
    }

    /// The largest event time seen, if any: what is to be kept of a split beside its position.
    pub fn max_time(&self) -> Option<EventTime> {
        Some(self.max_time).filter(|&t| t != WATERMARK_MIN)
    }

    /// Goes on where another reader of the split was.
    pub fn resume(&mut self, max_time: Option<EventTime>) {
        self.max_time = self.max_time.max(max_time.unwrap_or(WATERMARK_MIN));
    }

    pub fn at(&self, now_ms: i64) -> SourceTime {
        if self.finished {
            return SourceTime::Finished;
        }
        let watermark = self.max_time.saturating_sub(self.strategy.delay_ms).saturating_sub(1);
        match self.strategy.idle_after_ms {
            Some(idle) if now_ms - self.last_row_ms >= idle => SourceTime::Idle(watermark),
            _ => SourceTime::Active(watermark),
        }
    }
}

/// Combines the times of several parts into one: the minimum over active parts. Idle parts are
/// excluded; when all are finished the result is finished; when none is active but some are idle,
/// the result is idle and holds its last watermark.
pub fn combine(parts: impl IntoIterator<Item = SourceTime>) -> SourceTime {
    let (mut active, mut idle, mut any_idle) = (None::<EventTime>, WATERMARK_MIN, false);
    for part in parts {
        match part {
            SourceTime::Active(w) => active = Some(active.map_or(w, |a| a.min(w))),
            SourceTime::Idle(w) => {
                idle = if any_idle { idle.min(w) } else { w };
                any_idle = true;
            }
            SourceTime::Finished => {}
        }
    }
    match (active, any_idle) {
        (Some(w), _) => SourceTime::Active(w),
        (None, true) => SourceTime::Idle(idle),
        (None, false) => SourceTime::Finished,
    }
}

/// The watermark of an operator below several sources and workers; monotonic.
#[derive(Clone, Debug)]
pub struct WatermarkTracker {
    parts: Vec<SourceTime>,
    watermark: EventTime,
}

impl WatermarkTracker {
    /// `parts` inputs, all unknown at first. With none, time has ended already.
    pub fn new(parts: usize) -> Self {
        Self { parts: vec![SourceTime::Active(WATERMARK_MIN); parts], watermark: WATERMARK_MIN }
    }

    /// Goes on from a watermark that was reached before.
    pub fn resume(&mut self, watermark: EventTime) {
        self.watermark = self.watermark.max(watermark);
    }

    pub fn update(&mut self, part: usize, time: SourceTime) {
        self.parts[part] = time;
    }

    /// The watermark now. Never lower than before.
    pub fn advance(&mut self) -> EventTime {
        let next = match combine(self.parts.iter().copied()) {
            SourceTime::Active(w) => w,
            SourceTime::Idle(_) => self.watermark,
            SourceTime::Finished => WATERMARK_MAX,
        };
        self.watermark = self.watermark.max(next);
        self.watermark
    }

    pub fn watermark(&self) -> EventTime {
        self.watermark
    }
}

#[cfg(test)]
mod tests {
    use super::SourceTime::{Active, Finished, Idle};
    use super::*;

    #[test]
    fn a_split_that_may_not_be_read_is_not_idle() {
        let strategy = WatermarkStrategy { delay_ms: 0, idle_after_ms: Some(50) };
        let mut split = SplitWatermark::new(strategy, 0);
        split.on_rows(&[100], 10);
        assert_eq!(split.at(59), SourceTime::Active(99));
        assert_eq!(split.at(60), SourceTime::Idle(99));
        split.held_up(60);
        assert_eq!(split.at(109), SourceTime::Active(99));
        assert_eq!(split.at(110), SourceTime::Idle(99));
    }

    #[test]
    fn combine_takes_the_minimum_of_active_parts() {
        let cases: &[(&[SourceTime], SourceTime)] = &[
            (&[Active(5), Active(3)], Active(3)),
            (&[Active(5), Idle(3)], Active(5)),
            (&[Active(5), Finished], Active(5)),
            (&[Idle(3), Finished], Idle(3)),
            (&[Finished, Finished], Finished),
            (&[], Finished),
        ];
        for (parts, expected) in cases {
            assert_eq!(combine(parts.iter().copied()), *expected, "{parts:?}");
        }
    }

    #[test]
    fn a_finished_source_next_to_an_idle_one_holds_time() {
        let mut tracker = WatermarkTracker::new(2);
        tracker.update(0, Active(10));
        tracker.update(1, Active(7));
        assert_eq!(tracker.advance(), 7);
        tracker.update(0, Finished);
        tracker.update(1, Idle(7));
        assert_eq!(tracker.advance(), 7);
        tracker.update(1, Active(4));
        assert_eq!(tracker.advance(), 7, "never back");
        tracker.update(1, Finished);
        assert_eq!(tracker.advance(), WATERMARK_MAX);
    }

    #[test]
    fn bounded_out_of_orderness_is_max_minus_delay_minus_one() {
        let mut split = SplitWatermark::new(WatermarkStrategy { delay_ms: 100, idle_after_ms: Some(50) }, 0);
        assert_eq!(split.at(0), Active(WATERMARK_MIN));
        split.on_rows(&[1000, 900], 10);
        assert_eq!(split.at(10), Active(899));
        assert_eq!(split.at(60), Idle(899));
        split.finish();
        assert_eq!(split.at(60), Finished);
    }
}
