//! A limit on rows per second of processing time: a token bucket without a clock of its own.

/// How long an unused allowance is kept, ms: after a stall no more than this comes at once.
const BURST_MS: f64 = 1000.0;

#[derive(Clone, Debug)]
pub(crate) struct RateLimit {
    rows_per_ms: f64,
    tokens: f64,
    last_ms: Option<i64>,
}

impl RateLimit {
    pub(crate) fn new(rows_per_s: f64) -> Self {
        Self { rows_per_ms: rows_per_s / 1000.0, tokens: 1.0, last_ms: None }
    }

    /// Rows that may be read at `now_ms`, or when to ask again. What is read must be [`taken`](Self::take).
    pub(crate) fn allowance(&mut self, now_ms: i64) -> Result<usize, i64> {
        let elapsed = (now_ms - self.last_ms.unwrap_or(now_ms)).max(0) as f64;
        self.last_ms = Some(now_ms);
        let burst = (self.rows_per_ms * BURST_MS).max(1.0);
        self.tokens = (self.tokens + elapsed * self.rows_per_ms).min(burst);
        // Sums of fractions may miss a whole token by a rounding error.
        let whole = (self.tokens + 1e-6).floor();
        if whole >= 1.0 {
            return Ok(whole as usize);
        }
        let wait_ms = ((1.0 - self.tokens) / self.rows_per_ms).ceil().clamp(1.0, 3_600_000.0);
        Err(now_ms + wait_ms as i64)
    }

    pub(crate) fn take(&mut self, rows: usize) {
        self.tokens -= rows as f64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rate: f64, tick_ms: i64, until_ms: i64) -> usize {
        let (mut limit, mut rows, mut now) = (RateLimit::new(rate), 0, 1_000_000);
        while now <= 1_000_000 + until_ms {
            if let Ok(allowed) = limit.allowance(now) {
                limit.take(allowed);
                rows += allowed;
            }
            now += tick_ms;
        }
        rows
    }

    #[test]
    fn the_rate_holds_for_any_tick() {
        for (rate, tick_ms, until_ms, expected) in [
            (1000.0, 10, 10_000, 10_001),
            (1000.0, 7, 9_996, 9_997),
            (3.0, 10, 10_000, 31),
            (0.5, 10, 10_000, 6),
            (200_000.0, 10, 1_000, 200_001),
        ] {
            assert_eq!(rows(rate, tick_ms, until_ms), expected, "{rate} at {tick_ms}");
        }
    }

    #[test]
    fn a_stall_is_not_made_up_for() {
        let mut limit = RateLimit::new(1000.0);
        limit.take(limit.clone().allowance(0).unwrap());
        assert!(limit.allowance(0).is_err_and(|at| at == 1));
        assert_eq!(limit.allowance(60_000), Ok(1000));
    }
}
