//! The clock that times to live are counted by: processing time, as the engine says it.
//!
//! Law: as long as nobody has said what time it is, nothing is written *then*: such a value counts as written when the
//! clock is first set. So a job that was down for days does not drop what it writes first, nor what an earlier program has
//! written without a time.

use tidemill_model::component::Ttl;

/// The time of a value that was written before the clock was set, or by a program that kept no times.
pub(crate) const UNKNOWN: i64 = i64::MIN;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// What has expired by this is not seen any more.
    now: i64,
    /// When the clock was first set; until then [`UNKNOWN`].
    since: i64,
}

impl Default for Clock {
    fn default() -> Self {
        Self { now: UNKNOWN, since: UNKNOWN }
    }
}

impl Clock {
    /// The clock stood there when what is being restored was frozen.
    pub fn resume(&mut self, now: i64) {
        self.now = now;
    }

    /// Whether it is set for the first time.
    pub fn set(&mut self, now: i64) -> bool {
        self.now = now;
        let first = self.since == UNKNOWN;
        if first {
            self.since = now;
        }
        first
    }

    /// The time of what is written now.
    pub fn stamp(&self) -> i64 {
        if self.since == UNKNOWN { UNKNOWN } else { self.now }
    }

    /// When a value was written, if anybody can say that by now.
    pub fn written(&self, stamp: i64) -> Option<i64> {
        Some(if stamp == UNKNOWN { self.since } else { stamp }).filter(|&time| time != UNKNOWN)
    }

    /// Flink's rule: a value is dropped when its last write is `ttl` ago.
    pub fn is_expired(&self, stamp: i64, ttl: Ttl) -> bool {
        self.written(stamp).is_some_and(|written| self.now.saturating_sub(written).max(0) as u64 >= ttl.ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Ttl = Ttl { ms: 100, on_read: false };

    #[test]
    fn nothing_expires_before_the_clock_is_set() {
        let mut clock = Clock::default();
        assert_eq!((clock.stamp(), clock.is_expired(UNKNOWN, TTL)), (UNKNOWN, false));
        clock.resume(1000);
        assert!(clock.is_expired(900, TTL), "what is restored has expired by the clock that it was frozen with");
        assert_eq!((clock.stamp(), clock.is_expired(UNKNOWN, TTL)), (UNKNOWN, false), "what is new has not");
        assert!(clock.set(1_000_000));
        assert_eq!(clock.written(UNKNOWN), Some(1_000_000), "it counts from when the clock was set");
        assert!(!clock.set(1_000_100));
        assert_eq!(clock.stamp(), 1_000_100);
        assert!(clock.is_expired(UNKNOWN, TTL));
    }

    #[test]
    fn a_value_lives_as_long_as_it_may_and_no_longer() {
        let mut clock = Clock::default();
        clock.set(1000);
        for (written, expired) in [(900, true), (901, false), (1000, false), (2000, false), (i64::MIN + 1, true)] {
            assert_eq!(clock.is_expired(written, TTL), expired, "{written}");
        }
    }
}
