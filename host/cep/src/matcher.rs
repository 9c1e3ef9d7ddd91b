//! Moves the partial matches of a key, event by event.
//!
//! Law: times of a key never go back, and numbers of its events ascend. Before the first event of a time,
//! [`Matcher::advance`] is called with it, so that what is over by then matches nothing more.

use std::sync::Arc;

use crate::automaton::{Automaton, SkipTo, Step, Steps};
use crate::compile::Kind;
use crate::formula::Condition;
use crate::heap;
use crate::history::{NONE, PartialMatch};
use crate::key::{KeyState, NO_EVENT, Partial};
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

/// A pattern at work. It holds no state of any key.
#[derive(Clone, Debug)]
pub struct Matcher {
    automaton: Arc<Automaton>,
    /// Memory of a call.
    next: Vec<Partial>,
    found: Vec<Partial>,
    asked: Vec<Step>,
}

impl Matcher {
    pub fn new(automaton: Arc<Automaton>) -> Self {
        Self { automaton, next: Vec::new(), found: Vec::new(), asked: Vec::new() }
    }

    pub fn automaton(&self) -> &Automaton {
        &self.automaton
    }

    /// Says that it is `time` now: partial matches whose time is over go, and what waited only for them comes out.
    pub fn advance(&mut self, key: &mut KeyState, time: i64, out: &mut Output) -> Result<(), Miss> {
        if key.deadline.is_none_or(|deadline| time < deadline) {
            return Ok(());
        }
        let automaton = self.automaton.clone();
        self.next.clear();
        self.found.clear();
        for at in 0..key.partials.len() {
            let partial = key.partials[at];
            let Some(over) = over(&automaton, &partial, time) else {
                heap::push(&mut self.next, partial);
                continue;
            };
            if automaton.states[partial.state as usize].kind == Kind::Pending {
                heap::push(&mut self.found, partial);
                continue;
            }
            let events = out.collect(over, key.history.back_from(partial.node));
            out.timed_out.push(events);
            key.history.release(partial.node, &mut out.released);
        }
        self.settle(key, time, out)
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
        let automaton = self.automaton.clone();
        let simple = conditions.simple(event);
        if key.partials.is_empty() {
            if !self.begins(&automaton, key, event, simple, conditions) {
                return Ok(false);
            }
            key.partials.push(Partial::waiting(automaton.start));
        }
        self.next.clear();
        self.found.clear();
        let mut slot = NONE;
        let mut asked = std::mem::take(&mut self.asked);
        for at in 0..key.partials.len() {
            let partial = key.partials[at];
            let before = PartialMatch { history: &key.history, node: partial.node };
            let is = |condition| conditions.iterative(condition, event, before);
            let (list, steps) = automaton.steps(partial.state, simple, &mut asked, is);
            if list.stays {
                heap::push(&mut self.next, partial);
            } else {
                let mut going = Going { automaton: &automaton, event, time, key, slot: &mut slot };
                going.go(partial, list, steps, &mut self.next, &mut self.found, out);
            }
        }
        self.asked = asked;
        let settled = self.settle(key, time, out);
        if slot != NONE {
            key.history.release_event(slot, &mut out.released);
            self.tidy(key);
        }
        settled.map(|()| slot != NONE)
    }

    /// Whether an event begins anything, for a key with no partial match.
    fn begins<C: Conditions + ?Sized>(
        &mut self,
        automaton: &Automaton,
        key: &KeyState,
        event: EventId,
        simple: u64,
        conditions: &mut C,
    ) -> bool {
        let before = PartialMatch { history: &key.history, node: NONE };
        let is = |condition| conditions.iterative(condition, event, before);
        !automaton.steps(automaton.start, simple, &mut self.asked, is).0.stays
    }

    /// Gives out the matches whose turn it is, and keeps what is left.
    fn settle(&mut self, key: &mut KeyState, time: i64, out: &mut Output) -> Result<(), Miss> {
        self.found.drain(..).for_each(|found| heap::push(&mut key.completed, found));
        let skip = self.automaton.skip;
        let mut missed = Ok(());
        while let Some(first) = key.completed.first() {
            let waits = self.next.first().is_some_and(|earliest| earliest.start < first.start);
            if skip != SkipTo::None && waits {
                break;
            }
            let Some(found) = heap::pop(&mut key.completed) else { break };
            let events = out.collect(time, key.history.back_from(found.node));
            let (survivor, missed_now) = skip.survivors(out.events(&events));
            if missed_now {
                missed = Err(Miss);
            }
            if survivor > 0 {
                prune(&mut self.next, key, survivor, out);
                let mut completed = std::mem::take(&mut key.completed);
                prune(&mut completed, key, survivor, out);
                key.completed = completed;
            }
            out.matches.push(events);
            key.history.release(found.node, &mut out.released);
        }
        key.partials.clear();
        key.partials.extend_from_slice(&self.next);
        key.deadline = self.deadline(key);
        self.tidy(key);
        missed
    }

    fn deadline(&self, key: &KeyState) -> Option<i64> {
        let of = |partial: &Partial| self.automaton.deadline(partial.state, partial.start_ms, partial.last_ms);
        let running = key.partials.iter().filter(|partial| !partial.is_start());
        let earliest = if self.automaton.has_gaps {
            running.map(of).min()
        } else {
            // The root of the heap began first.
            running.map(of).next()
        };
        earliest.filter(|deadline| *deadline < i64::MAX)
    }

    /// A key that has come to rest gives its memory back.
    fn tidy(&self, key: &mut KeyState) {
        if key.is_idle() && key.history.is_empty() {
            key.partials = Vec::new();
            key.completed = Vec::new();
            key.history.forget();
        }
    }
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
fn prune(heap: &mut Vec<Partial>, key: &mut KeyState, survivor: EventId, out: &mut Output) {
    heap::remove_if(heap, |partial| {
        let ends = partial.start < survivor && !partial.is_start();
        if ends {
            key.history.release(partial.node, &mut out.released);
        }
        ends
    });
}

/// An event on its way.
struct Going<'a> {
    automaton: &'a Automaton,
    event: EventId,
    time: i64,
    key: &'a mut KeyState,
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
        out: &mut Output,
    ) {
        for step in steps {
            let moved = match step.takes() {
                Some(stage) => self.taken(partial, stage),
                None => partial,
            };
            let kind = self.automaton.states[step.target as usize].kind;
            let complete = if kind == Kind::Final { Some(step.target) } else { step.done() };
            if let Some(state) = complete {
                self.key.history.hold(moved.node);
                heap::push(found, Partial { state, ..moved });
            }
            if kind != Kind::Final && !list.stops {
                self.key.history.hold(moved.node);
                heap::push(next, Partial { state: step.target, ..moved });
            }
            if step.takes().is_some() {
                self.key.history.drop_unused(moved.node, &mut out.released);
            }
        }
        if partial.is_start() {
            heap::push(next, partial);
        } else {
            self.key.history.release(partial.node, &mut out.released);
        }
    }

    /// The partial match with the event.
    fn taken(&mut self, partial: Partial, stage: Stage) -> Partial {
        let history = &mut self.key.history;
        if *self.slot == NONE {
            *self.slot = history.hold_event(self.event);
        }
        let node = history.push(stage, *self.slot, partial.node);
        let (start, start_ms) =
            if partial.start == NO_EVENT { (self.event, self.time) } else { (partial.start, partial.start_ms) };
        Partial { start, start_ms, last_ms: self.time, node, ..partial }
    }
}
