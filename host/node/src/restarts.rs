//! When a job that has failed is started again (Flink's restart strategies).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tidemill_model::FaultKind;
use tidemill_model::plan::RestartStrategy;

/// Keeps count of failures.
pub struct Restarts {
    strategy: RestartStrategy,
    failures: VecDeque<Instant>,
    attempts: u32,
    delay: Duration,
}

impl Restarts {
    pub fn new(strategy: RestartStrategy) -> Self {
        Self { strategy, failures: VecDeque::new(), attempts: 0, delay: Duration::ZERO }
    }

    /// The job has failed at `now`: how long to wait before the next attempt. None: it stays failed. What no attempt can
    /// mend (a pipeline that does not fit its state) is not tried again.
    pub fn after_failure(&mut self, kind: FaultKind, now: Instant) -> Option<Duration> {
        if matches!(kind, FaultKind::Config | FaultKind::Closed) {
            return None;
        }
        match self.strategy {
            RestartStrategy::Never => None,
            RestartStrategy::FixedDelay { attempts, delay_ms } => {
                self.attempts += 1;
                (self.attempts <= attempts).then(|| Duration::from_millis(delay_ms))
            }
            RestartStrategy::ExponentialDelay { initial_ms, max_ms, multiplier, reset_ms } => {
                let calm = self.failures.back().is_none_or(|&last| now - last > Duration::from_millis(reset_ms));
                let longest = Duration::from_millis(max_ms);
                self.delay = if calm { Duration::from_millis(initial_ms) } else { self.delay.mul_f64(multiplier) };
                self.delay = self.delay.min(longest);
                self.failures = VecDeque::from([now]);
                Some(self.delay)
            }
            RestartStrategy::FailureRate { failures, interval_ms, delay_ms } => {
                self.failures.push_back(now);
                let interval = Duration::from_millis(interval_ms);
                self.failures.retain(|&failure| now - failure <= interval);
                (self.failures.len() <= failures as usize).then(|| Duration::from_millis(delay_ms))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strategies_decide_as_flinks() {
        /// Second at which the job fails, and the delay in ms that follows.
        type Failure = (u64, Option<u64>);
        let s = |seconds: u64| seconds * 1000;
        let cases: &[(RestartStrategy, &[Failure])] = &[
            (RestartStrategy::Never, &[(0, None)]),
            (
                RestartStrategy::FixedDelay { attempts: 2, delay_ms: 500 },
                &[(0, Some(500)), (1, Some(500)), (1000, None)],
            ),
            (
                RestartStrategy::ExponentialDelay { initial_ms: s(1), max_ms: s(4), multiplier: 2.0, reset_ms: s(60) },
                &[(0, Some(1000)), (2, Some(2000)), (5, Some(4000)), (10, Some(4000)), (80, Some(1000))],
            ),
            (
                RestartStrategy::FailureRate { failures: 2, interval_ms: s(10), delay_ms: 100 },
                &[(0, Some(100)), (5, Some(100)), (20, Some(100)), (21, Some(100)), (22, None)],
            ),
        ];
        let start = Instant::now();
        for (strategy, failures) in cases {
            let mut restarts = Restarts::new(*strategy);
            for (second, delay) in *failures {
                let after = restarts.after_failure(FaultKind::Io, start + Duration::from_secs(*second));
                assert_eq!(after, delay.map(Duration::from_millis), "{strategy:?} at {second} s");
            }
        }
        let mut restarts = Restarts::new(RestartStrategy::default());
        assert_eq!(restarts.after_failure(FaultKind::Config, start), None, "no attempt mends a wrong pipeline");
    }
}
