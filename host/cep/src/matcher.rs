//! Moves the partial matches of a key, event by event.
//!
//! Law: times of a key never go back, and numbers of its events ascend. Before the first event of a time,
//! [`Matcher::advance`] is called with it, so that what is over by then matches nothing more.

use std::sync::Arc;

use crate::automaton::{Automaton, SkipTo, Step, Steps};
use crate::compile::Kind;
use crate::formula::Condition;
use crate::heap;
use crate::history::{History, NONE, PartialMatch};
use crate::key::{KeyState, Live, NO_EVENT, Partial};
use crate::output::Output;
use crate::{EventId, Stage};

/// Evaluates conditions.
pub trait Conditions {
    /// Those that look at the event alone, as bits: 1 where it holds.
    fn simple(&mut self, event: EventId) -> u64;
    /// One that looks at what was matched so far.
    fn iterative(&mut self, condition: Condition, event: EventId, before: PartialMatch<'_>) -> bool;
}

/// A match does not have the stage to which the skip strategy goes, or begins with it, and the pattern says that this is
/// an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Miss;

/// Keys at rest whose memory is used again, and how much of it each may have: enough for most, so that a key that begins
/// something allocates nothing, and too little to be noticed.
const SPARE_KEYS_MAX: usize = 64;
const SPARE_KEY_BYTES_MAX: usize = 16 << 10;

/// A pattern at work. It holds no state of any key.
#[derive(Clone, Debug)]
pub struct Matcher {
    automaton: Arc<Automaton>,
    room: Room,
    /// Memory of keys that have come to rest.
    #[expect(clippy::vec_box, reason = "it is the boxes that are used again")]
    spare: Vec<Box<Live>>,
}

/// Memory of a call.
#[derive(Clone, Debug, Default)]
struct Room {
    next: Vec<Partial>,
    found: Vec<Partial>,
    asked: Vec<Step>,
}

impl Matcher {
    pub fn new(automaton: Arc<Automaton>) -> Self {
        Self { automaton, room: Room::default(), spare: Vec::new() }
    }

    pub fn automaton(&self) -> &Automaton {
        &self.automaton
    }

    /// Says that it is `time` now: partial matches whose time is over go, and what waited only for them comes out.
    pub fn advance(&mut self, key: &mut KeyState, time: i64, out: &mut Output) -> Result<(), Miss> {
        let Some(live) = key.live.as_mut() else { return Ok(()) };
        if live.deadline.is_none_or(|deadline| time < deadline) {
            return Ok(());
        }
        let (automaton, Room { next, found, .. }) = (&*self.automaton, &mut self.room);
        next.clear();
        found.clear();
        for at in 0..live.partials.len() {
            let partial = live.partials[at];
            let Some(over) = over(automaton, &partial, time) else {
                heap::push(next, partial);
                continue;
            };
            if automaton.states[partial.state as usize].kind == Kind::Pending {
                heap::push(found, partial);
                continue;
            }
            let events = out.collect(over, live.history.back_from(partial.node));
            out.timed_out.push(events);
            live.history.release(partial.node, &mut out.released);
        }
        let settled = settle(automaton, &mut self.room, live, time, out);
        self.rest(key);
        settled
    }

    /// Whether an event begins anything. Where it does not, an idle key need not be asked.
    pub fn begins<C: Conditions + ?Sized>(&mut self, event: EventId, conditions: &mut C) -> bool {
        let simple = conditions.simple(event);
        begins(&self.automaton, &mut self.room, event, simple, conditions)
    }

    /// An event. `true`: it has become part of a partial match or a match, and is the owner's to keep until it stands in
    /// [`Output::released`].
    pub fn process<C: Conditions + ?Sized>(
        &mut self,
        key: &mut KeyState,
        event: EventId,
        time: i64,
        conditions: &mut C,
        out: &mut Output,
    ) -> Result<bool, Miss> {
        let simple = conditions.simple(event);
        if key.is_idle() {
            if !begins(&self.automaton, &mut self.room, event, simple, conditions) {
                return Ok(false);
            }
            key.live = Some(self.wake());
        }
        let Some(live) = key.live.as_mut() else { return Ok(false) };
        let (automaton, Room { next, found, asked }) = (&*self.automaton, &mut self.room);
        next.clear();
        found.clear();
        let mut slot = NONE;
        for at in 0..live.partials.len() {
            let partial = live.partials[at];
            let before = PartialMatch { history: &live.history, node: partial.node };
            let is = |condition| conditions.iterative(condition, event, before);
            let (list, steps) = automaton.steps(partial.state, simple, asked, is);
            if list.stays {
                heap::push(next, partial);
            } else {
                let mut going = Going { automaton, event, time, history: &mut live.history, slot: &mut slot };
                going.go(partial, list, steps, next, found, &mut out.released);
            }
        }
        let settled = settle(automaton, &mut self.room, live, time, out);
        if slot != NONE {
            live.history.release_event(slot, &mut out.released);
        }
        self.rest(key);
        settled.map(|()| slot != NONE)
    }

    /// A key that begins something.
    fn wake(&mut self) -> Box<Live> {
        let mut live = self.spare.pop().unwrap_or_default();
        live.partials.push(Partial::waiting(self.automaton.start));
        live
    }

    /// A key that has come to rest gives its memory back.
    fn rest(&mut self, key: &mut KeyState) {
        let Some(mut live) = key.live.take_if(|live| live.is_idle()) else { return };
        let bytes =
            live.history.memory() + (live.partials.capacity() + live.completed.capacity()) * size_of::<Partial>();
        if self.spare.len() < SPARE_KEYS_MAX && bytes <= SPARE_KEY_BYTES_MAX {
            live.partials.clear();
            live.history.forget();
            live.deadline = None;
            self.spare.push(live);
        }
    }
}

/// Whether an event begins anything, for a key with no partial match.
fn begins<C: Conditions + ?Sized>(
    automaton: &Automaton,
    room: &mut Room,
    event: EventId,
    simple: u64,
    conditions: &mut C,
) -> bool {
    let nothing = History::default();
    let before = PartialMatch { history: &nothing, node: NONE };
    let is = |condition| conditions.iterative(condition, event, before);
    !automaton.steps(automaton.start, simple, &mut room.asked, is).0.stays
}

/// Gives out the matches whose turn it is, and keeps what is left.
fn settle(automaton: &Automaton, room: &mut Room, live: &mut Live, time: i64, out: &mut Output) -> Result<(), Miss> {
    let Room { next, found, .. } = room;
    found.drain(..).for_each(|found| heap::push(&mut live.completed, found));
    let skip = automaton.skip;
    let mut missed = Ok(());
    while let Some(first) = live.completed.first() {
        let waits = next.first().is_some_and(|earliest| earliest.start < first.start);
        if skip != SkipTo::None && waits {
            break;
        }
        let Some(found) = heap::pop(&mut live.completed) else { break };
        let events = out.collect(time, live.history.back_from(found.node));
        let (survivor, missed_now) = skip.survivors(out.events(&events));
        if missed_now {
            missed = Err(Miss);
        }
        if survivor > 0 {
            prune(next, &mut live.history, survivor, out);
            prune(&mut live.completed, &mut live.history, survivor, out);
        }
        out.matches.push(events);
        live.history.release(found.node, &mut out.released);
    }
    live.partials.clear();
    live.partials.extend_from_slice(next);
    live.deadline = deadline(automaton, live);
    missed
}

/// The earliest time at which a partial match is over.
pub(crate) fn deadline(automaton: &Automaton, live: &Live) -> Option<i64> {
    let of = |partial: &Partial| automaton.deadline(partial.state, partial.start_ms, partial.last_ms);
    let earliest = if automaton.has_gaps {
        live.running().map(of).min()
    } else {
        // The root of the heap began first.
        live.running().map(of).next()
    };
    earliest.filter(|deadline| *deadline < i64::MAX)
}

/// When the time of a partial match was over, if it is.
fn over(automaton: &Automaton, partial: &Partial, time: i64) -> Option<i64> {
    if partial.is_start() {
        return None;
    }
    let is_over = |from: i64, ms: i64| ms > 0 && time.saturating_sub(from) >= ms;
    let gap_ms = automaton.states[partial.state as usize].gap_ms;
    if is_over(partial.last_ms, gap_ms) {
        return Some(partial.last_ms.saturating_add(gap_ms));
    }
    is_over(partial.start_ms, automaton.within_ms).then(|| partial.start_ms.saturating_add(automaton.within_ms))
}

/// Ends those that begin before `survivor`.
fn prune(heap: &mut Vec<Partial>, history: &mut History, survivor: EventId, out: &mut Output) {
    heap::remove_if(heap, |partial| {
        let ends = partial.start < survivor && !partial.is_start();
        if ends {
            history.release(partial.node, &mut out.released);
        }
        ends
    });
}

/// An event on its way.
struct Going<'a> {
    automaton: &'a Automaton,
    event: EventId,
    time: i64,
    history: &'a mut History,
    /// Of the event, once a stage has taken it.
    slot: &'a mut u32,
}

impl Going<'_> {
    /// Makes the steps of a partial match: `next` gets what goes on, `found` what is complete.
    fn go(
        &mut self,
        partial: Partial,
        list: Steps,
        steps: &[Step],
        next: &mut Vec<Partial>,
        found: &mut Vec<Partial>,
        released: &mut Vec<EventId>,
    ) {
        for step in steps {
            let moved = match step.takes() {
                Some(stage) => self.taken(partial, stage),
                None => partial,
            };
            let kind = self.automaton.states[step.target as usize].kind;
            let complete = if kind == Kind::Final { Some(step.target) } else { step.done() };
            if let Some(state) = complete {
                self.history.hold(moved.node);
                heap::push(found, Partial { state, ..moved });
            }
            if kind != Kind::Final && !list.stops {
                self.history.hold(moved.node);
                heap::push(next, Partial { state: step.target, ..moved });
            }
            if step.takes().is_some() {
                self.history.drop_unused(moved.node, released);
            }
        }
        if partial.is_start() {
            heap::push(next, partial);
        } else {
            self.history.release(partial.node, released);
        }
    }

    /// The partial match with the event.
    fn taken(&mut self, partial: Partial, stage: Stage) -> Partial {
        if *self.slot == NONE {
            *self.slot = self.history.hold_event(self.event);
        }
        let node = self.history.push(stage, *self.slot, partial.node);
        let (start, start_ms) =
            if partial.start == NO_EVENT { (self.event, self.time) } else { (partial.start, partial.start_ms) };
        Partial { start, start_ms, last_ms: self.time, node, ..partial }
    }
}
