//! Barriers: ticks at which all parts of a job freeze what they hold, for a checkpoint.
//!
//! Laws: the tick of a barrier is the highest that any source has opened, and is announced under the lock under which ticks
//! are opened. So whoever sees a row of a later tick can see the barrier too, and holds the row back until it has
//! frozen what came before. With several processes no ticks are opened anywhere until the barrier is known everywhere
//! (freeze, announce, thaw). There is one barrier at a time. A part that has ended says so, and what it still had to say
//! (committables of a sink) goes into the checkpoint of the barrier that it has not reached, never of one behind which it lies.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

pub(crate) use tidemill_model::checkpoint::{Content, Part};
use tidemill_model::snapshot::Form;

/// No barrier is pending.
const NONE: u64 = u64::MAX;

/// A node on a worker that takes part in barriers: sources, operators that use time, sinks.
pub(crate) type PartId = (usize, usize);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Barrier {
    /// Ascending; also the number of the checkpoint.
    pub number: u64,
    /// Rows of this tick and those before it belong to the checkpoint.
    pub tick: u64,
    pub form: Form,
}

pub(crate) struct Barriers {
    /// Tick of the pending barrier: a look without the lock.
    tick: AtomicU64,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// Highest tick that any source has opened.
    opened: u64,
    pending: Option<Barrier>,
    /// No tick is opened: a barrier is being agreed upon.
    frozen: bool,
    running: BTreeSet<PartId>,
    /// Of the running parts those that the pending barrier waits for.
    waiting: BTreeSet<PartId>,
    parts: Vec<Part>,
    /// From behind the pending barrier.
    later: Vec<Part>,
    /// Whoever waits shall look again, without a part having changed.
    ended: bool,
}

/// Whether a source may open a tick.
pub(crate) enum Opening {
    Opened,
    /// This barrier is to be served before.
    Before(Barrier),
    /// Not now.
    Frozen,
}

/// How waiting for a barrier came out.
pub(crate) enum Reached {
    /// By all parts; what they said.
    All(Vec<Part>),
    /// Not in time; one of the parts that are missing. What was said until now is not lost: it goes into the next one.
    Late(PartId),
    /// The job is over or has failed.
    Ended,
}

impl Barriers {
    pub fn new(parts: impl IntoIterator<Item = PartId>) -> Self {
        let state = State {
            opened: 0,
            pending: None,
            frozen: false,
            running: parts.into_iter().collect(),
            waiting: BTreeSet::new(),
            parts: Vec::new(),
            later: Vec::new(),
            ended: false,
        };
        Self { tick: AtomicU64::new(NONE), state: Mutex::new(state), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }

    /// A source is about to open a tick. Until it has served the barrier before it, it does not count as opened.
    pub fn open_tick(&self, tick: u64, passed: u64) -> Opening {
        let mut state = self.lock();
        match state.pending {
            Some(barrier) if barrier.number > passed && tick > barrier.tick => Opening::Before(barrier),
            _ if state.frozen => Opening::Frozen,
            _ => {
                state.opened = state.opened.max(tick);
                Opening::Opened
            }
        }
    }

    /// The pending barrier, unless `passed` it is.
    pub fn pending(&self, passed: u64) -> Option<Barrier> {
        if self.tick.load(Ordering::Acquire) == NONE {
            return None;
        }
        self.lock().pending.filter(|barrier| barrier.number > passed)
    }

    /// Whether rows of this tick have to wait for a barrier.
    pub fn holds(&self, tick: u64, passed: u64) -> bool {
        tick > self.tick.load(Ordering::Acquire) && self.pending(passed).is_some_and(|barrier| tick > barrier.tick)
    }

    /// Begins a barrier at the highest tick that was opened. Only the checkpointer does that, one after the other.
    pub fn announce(&self, number: u64, form: Form) {
        let tick = self.freeze();
        self.announce_at(Barrier { number, tick, form });
        self.thaw();
    }

    /// Lets no tick be opened until [`Self::thaw`]; the highest that was.
    pub fn freeze(&self) -> u64 {
        let mut state = self.lock();
        state.frozen = true;
        state.opened
    }

    /// Begins a barrier at or behind the highest tick that was opened here; ticks are frozen.
    pub fn announce_at(&self, barrier: Barrier) {
        let mut state = self.lock();
        state.pending = Some(barrier);
        state.waiting = state.running.clone();
        self.tick.store(barrier.tick, Ordering::Release);
        self.changed.notify_all();
    }

    pub fn thaw(&self) {
        self.lock().frozen = false;
    }

    /// A part has frozen what it holds.
    pub fn deliver(&self, part: Part) {
        let mut state = self.lock();
        state.waiting.remove(&(part.node, part.worker));
        state.parts.push(part);
        self.changed.notify_all();
    }

    /// A part has ended: it holds nothing any more, but may have something to say.
    pub fn leave(&self, node: usize, worker: usize, last: Option<Part>) {
        let mut guard = self.lock();
        let state = &mut *guard;
        state.running.remove(&(node, worker));
        // While others are still on their way to the barrier, this part has passed it: what it has to say came after.
        let is_behind = !state.waiting.remove(&(node, worker)) && state.pending.is_some();
        if is_behind { &mut state.later } else { &mut state.parts }.extend(last);
        self.changed.notify_all();
    }

    /// The job is over or has failed: nobody needs to wait any more.
    pub fn end(&self) {
        self.lock().ended = true;
        self.changed.notify_all();
    }

    /// The job is over or has failed.
    pub fn has_ended(&self) -> bool {
        self.lock().ended
    }

    /// Waits until the barrier is reached by all. It is not pending any more then.
    pub fn wait(&self, timeout: Duration) -> Reached {
        let deadline = Instant::now() + timeout;
        let mut state = self.lock();
        while !state.waiting.is_empty() && !state.ended {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self.changed.wait_timeout(state, left).expect("no panic while held").0;
        }
        if state.ended {
            return Reached::Ended;
        }
        if let Some(&late) = state.waiting.first() {
            return Reached::Late(late);
        }
        self.tick.store(NONE, Ordering::Release);
        state.pending = None;
        let later = std::mem::take(&mut state.later);
        Reached::All(std::mem::replace(&mut state.parts, later))
    }

    /// What parts said that have ended since the last barrier.
    pub fn take_last(&self) -> Vec<Part> {
        let mut state = self.lock();
        let mut parts = std::mem::take(&mut state.parts);
        parts.append(&mut state.later);
        parts
    }
}

#[cfg(test)]
mod tests {
    use tidemill_model::sink::Committable;

    use super::*;

    fn committable(node: usize, name: &str) -> Part {
        Part { node, worker: 0, content: Content::Committables(vec![Committable(name.as_bytes().to_vec())]) }
    }

    fn names(parts: &[Part]) -> Vec<String> {
        let of = |part: &Part| match &part.content {
            Content::Committables(list) => list.iter().map(|c| String::from_utf8_lossy(&c.0).into_owned()).collect(),
            _ => Vec::new(),
        };
        parts.iter().flat_map(of).collect()
    }

    fn reached(barriers: &Barriers) -> Vec<String> {
        match barriers.wait(Duration::ZERO) {
            Reached::All(parts) => names(&parts),
            Reached::Late(part) => panic!("{part:?} is late"),
            Reached::Ended => panic!("ended"),
        }
    }

    /// A sink that ends while another one is slow to prepare: what it says last came behind the barrier, and the operators above had
    /// frozen their timers before those rows.
    #[test]
    fn what_a_part_says_last_belongs_to_the_barrier_it_has_not_passed() {
        let barriers = Barriers::new([(0, 0), (1, 0)]);
        barriers.announce(1, Form::Native);
        barriers.deliver(committable(0, "up to the barrier"));
        barriers.leave(0, 0, Some(committable(0, "behind it")));
        barriers.deliver(committable(1, "slow"));
        assert_eq!(reached(&barriers), ["up to the barrier", "slow"]);
        assert_eq!(names(&barriers.take_last()), ["behind it"]);
    }

    #[test]
    fn a_part_that_ends_instead_of_passing_is_not_waited_for() {
        let barriers = Barriers::new([(0, 0), (1, 0), (2, 0)]);
        barriers.leave(0, 0, Some(committable(0, "before")));
        barriers.announce(1, Form::Native);
        barriers.leave(1, 0, Some(committable(1, "all")));
        barriers.deliver(committable(2, "some"));
        barriers.leave(2, 0, Some(committable(2, "rest")));
        assert_eq!(reached(&barriers), ["before", "all", "some"]);
        barriers.announce(2, Form::Native);
        assert_eq!(reached(&barriers), ["rest"]);
    }
}
