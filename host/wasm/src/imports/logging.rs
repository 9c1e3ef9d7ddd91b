//! `tidemill:operator/logging`: the guest's lines in the job's log, and its last words before a trap.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::abi::effects::cut;
use crate::bindings::tidemill::operator::logging::{Host, Level};
use crate::sandbox::GuestState;

/// Lines of one operator and worker that are kept per second: a guest that logs every row must not
/// become slower than its own log.
const LINES_PER_SECOND_MAX: u32 = 1000;

/// The log of one operator on one worker.
#[derive(Debug)]
pub(crate) struct Log {
    node: Arc<str>,
    worker: usize,
    second: Instant,
    kept: u32,
    dropped: u64,
}

impl Log {
    pub(crate) fn new(node: Arc<str>, worker: usize) -> Self {
        Self { node, worker, second: Instant::now(), kept: 0, dropped: 0 }
    }

    fn write(&mut self, level: Level, message: String, now: Instant) {
        if self.admit(now) {
            // A line is a line: what a guest says must not look like what another said.
            let (node, worker, message) = (&*self.node, self.worker, cut(message).replace('\n', "\\n"));
            match level {
                Level::Trace => tracing::trace!(target: "guest", node, worker, "{message}"),
                Level::Debug => tracing::debug!(target: "guest", node, worker, "{message}"),
                Level::Info => tracing::info!(target: "guest", node, worker, "{message}"),
                Level::Warn => tracing::warn!(target: "guest", node, worker, "{message}"),
                Level::Error => tracing::error!(target: "guest", node, worker, "{message}"),
            }
        }
    }

    /// Whether there is room for one more line within this second.
    fn admit(&mut self, now: Instant) -> bool {
        if now.duration_since(self.second) >= Duration::from_secs(1) {
            self.report();
            (self.second, self.kept) = (now, 0);
        }
        let room = self.kept < LINES_PER_SECOND_MAX;
        if room {
            self.kept += 1;
        } else {
            self.dropped += 1;
        }
        room
    }

    /// Says how many lines are missing.
    fn report(&mut self) {
        let dropped = std::mem::take(&mut self.dropped);
        if dropped > 0 {
            let (node, worker) = (&*self.node, self.worker);
            tracing::warn!(target: "guest", node, worker, "{dropped} lines above {LINES_PER_SECOND_MAX} a second left out");
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.report();
    }
}

impl Host for GuestState {
    fn log(&mut self, level: Level, message: String) -> wasmtime::Result<()> {
        self.log.write(level, message, Instant::now());
        Ok(())
    }

    fn panicked(&mut self, message: String) -> wasmtime::Result<()> {
        self.panic = Some(cut(message));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_above_the_limit_are_counted_until_the_next_second() {
        let mut log = Log::new("node".into(), 0);
        let start = log.second;
        let admitted = (0..1500).filter(|_| log.admit(start)).count();
        assert_eq!((admitted, log.dropped), (1000, 500));
        assert!(log.admit(start + Duration::from_secs(1)));
        assert_eq!(log.dropped, 0);
    }
}
