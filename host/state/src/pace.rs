//! How fast a sweep looks for what has expired and nobody asks for: it goes round all slots, or rows, some of them at each tick.
//!
//! Laws: all are looked at several times in the shortest life, whatever the length of a tick; a call does no more work than the time
//! that has passed and the keys that have come since the last one allow, so a worker is not held up, and yet keys never come faster
//! than they can go; what a call leaves over, up to one round, is due at the next one.

/// Times that all slots are looked at while a value lives.
const ROUNDS: u64 = 4;
/// Slots at a time: fewer are not worth the way there, more would take memory.
const STEP_MIN: usize = 64;
const STEP_MAX: usize = 1024;
/// After a longer pause no more work is allowed than after this one.
const PAUSE_MAX_MS: u64 = 1000;

#[derive(Debug)]
pub(crate) struct Pace {
    /// Work that may be done per ms, and per key that comes beside it.
    per_ms: u64,
    per_key: u64,
    last: Option<i64>,
    /// Slots that are to be looked at, ...
    due: f64,
    /// ... if there are so many.
    least: f64,
    /// Work that is left in this call. Below zero: a step had more to do than was allowed, which the next calls make up for.
    work: i64,
}

impl Pace {
    /// A look at a slot is one unit of work. `per_ms`: how many may be done in each ms, a tenth of a core. `removal`: what it takes to
    /// remove one that has expired.
    pub fn new(per_ms: u64, removal: u64) -> Self {
        Self { per_ms, per_key: ROUNDS + removal, last: None, due: 0.0, least: 0.0, work: 0 }
    }

    /// It is `now`; `held` slots are there, the shortest life is `ttl_ms`, and so many keys have come since the last call.
    pub fn start(&mut self, now: i64, held: u64, ttl_ms: u64, come: u64) {
        let elapsed = now.saturating_sub(self.last.replace(now).unwrap_or(now)).max(0) as u64;
        let lives = elapsed as f64 / ttl_ms.max(1) as f64;
        // At least a step: else the last of many, which become fewer and fewer, would take their time.
        let round = held.max(STEP_MAX as u64) as f64;
        self.due = (self.due + round * ROUNDS as f64 * lives).min(held as f64);
        self.least = held.min(STEP_MIN as u64) as f64;
        let allowed = elapsed.min(PAUSE_MAX_MS) * self.per_ms + come.saturating_mul(self.per_key);
        self.work = self.work.min(0).saturating_add_unsigned(allowed);
    }

    /// Slots to look at next; none: that was it for this time.
    pub fn step(&self) -> usize {
        let goes_on = self.work > 0 && self.due >= self.least;
        if goes_on { STEP_MAX.min(self.due as usize) } else { 0 }
    }

    /// So many slots were looked at, which took so much work.
    pub fn done(&mut self, slots: usize, work: u64) {
        self.due = (self.due - slots as f64).max(0.0);
        self.work = self.work.saturating_sub_unsigned(work);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Slots looked at in one call, each at this cost.
    fn call(pace: &mut Pace, cost: u64) -> u64 {
        let mut seen = 0;
        while let step @ 1.. = pace.step() as u64 {
            pace.done(step as usize, step * cost);
            seen += step;
        }
        seen
    }

    #[test]
    fn all_are_seen_in_a_life_at_an_even_pace() {
        for (held, ttl_ms, tick_ms) in
            [(100_000u64, 60_000u64, 10), (1_000, 60_000, 10), (3, 1_000, 100), (8_000, 2_000, 1_000), (100, 1, 10)]
        {
            let mut pace = Pace::new(1_000, 0);
            let (mut seen, mut most) = (0, 0);
            for tick in 0..=(ttl_ms / tick_ms).max(1) {
                pace.start((tick * tick_ms) as i64, held, ttl_ms, 0);
                let now = call(&mut pace, 1);
                (seen, most) = (seen + now, most.max(now));
            }
            let round = held.max(STEP_MAX as u64);
            assert!(seen >= held && seen <= round * ROUNDS, "{seen} of {held}");
            let even = round * ROUNDS * tick_ms / ttl_ms;
            assert!(most <= held.min(even + 2 * STEP_MIN as u64), "{most} at a time");
        }
    }

    #[test]
    fn work_is_bounded_by_time_and_by_what_comes_and_is_made_up_for() {
        let mut pace = Pace::new(100, 6);
        let mut next = |now, held, come, cost| {
            pace.start(now, held, 100, come);
            call(&mut pace, cost)
        };
        let most = |work: u64| work..work + STEP_MAX as u64;
        assert_eq!(next(0, 1 << 40, 1000, 1), 0, "nobody knows how long it was");
        assert!(most(1_000).contains(&next(10, 1 << 40, 0, 1)));
        assert!(most(100 * PAUSE_MAX_MS).contains(&next(1_000_000, 1 << 40, 0, 1)), "after a pause");
        assert_eq!(next(1_000_000, 1 << 40, 0, 1), 0);
        let beside = next(1_000_010, 1 << 40, 5_000, 1);
        assert!((49_000..=52_000).contains(&beside), "{beside} while keys come");
        assert!(next(1_000_020, 1 << 40, 0, 10) <= STEP_MAX as u64);
        assert_eq!(next(1_000_030, 1 << 40, 0, 1), 0, "the last call had too much to do");
        assert_eq!(next(1_002_000, 2_000, 0, 1), 2_000, "what was left over, and no more than there is");
        assert_eq!(next(1_001_000, 2_000, 0, 1), 0, "a clock that goes back");
        assert_eq!(next(i64::MAX, u64::MAX, u64::MAX, u64::MAX >> 10), STEP_MAX as u64);
    }

    #[test]
    fn nothing_is_nothing() {
        let mut pace = Pace::new(100, 1);
        for now in 0..10 {
            pace.start(now, 0, 1, 0);
            assert_eq!(pace.step(), 0);
        }
    }
}
