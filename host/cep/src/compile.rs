//! A pattern to states and transitions.
//!
//! Law: the states, the order of their transitions and the conditions on them are those that Flink makes, so what looks odd
//! here is what Flink does. It goes from the last stage to the first; a stage that must not occur becomes conditions of the
//! states before the next stage, and such a condition is given up once an optional stage behind it has taken an event.

use std::collections::{BTreeMap, BTreeSet};

use crate::check::{Refused, check, first_name};
use crate::formula::Formula;
use crate::pattern::{Contiguity, Element, Inner, Item, Pattern, Repeat};

/// States of a pattern: enough for any that a human writes, and `times: 1000000` is refused before it takes memory.
const STATES_MAX: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Start,
    Normal,
    /// A match, if the time is over before anything that must not occur.
    Pending,
    Final,
    /// What must not occur has occurred.
    Stop,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// The event belongs to the match.
    Take,
    /// The event is passed over.
    Ignore,
    /// No event is used: whatever holds in the target, holds here.
    Proceed,
}

#[derive(Clone, Debug)]
pub(crate) struct Transition {
    pub action: Action,
    pub target: usize,
    pub formula: Formula,
}

#[derive(Clone, Debug)]
pub(crate) struct Draft {
    pub kind: Kind,
    /// The element that it belongs to: for takes, the stage.
    pub name: String,
    pub transitions: Vec<Transition>,
    /// Time since the last event, if this state has one of its own.
    pub gap_ms: Option<i64>,
    /// Whether it was the first state with this name.
    bare: bool,
}

/// The states, and the time of a match, if there is one.
pub(crate) fn compile(pattern: &Pattern) -> Result<(Vec<Draft>, Option<i64>), Refused> {
    check(pattern)?;
    let mut compiler = Compiler::default();
    let top = Place { chain: &pattern.elements, at: pattern.elements.len() - 1, group: None };
    compiler.within_ms = top.element().within_ms;
    let end = compiler.create("$endState$", Kind::Final)?;
    let (first, sink) = compiler.middle(top, end)?;
    let start = compiler.convert(first, sink)?;
    compiler.states[start].kind = Kind::Start;
    compiler.check_times(top.element())?;
    Ok((compiler.states, compiler.within_ms))
}

#[derive(Default)]
struct Compiler<'a> {
    states: Vec<Draft>,
    used: BTreeSet<String>,
    stops: BTreeMap<String, usize>,
    within_ms: Option<i64>,
    /// The element behind the one that is converted.
    following: Option<&'a Element>,
    /// Whether the first run of a repeated group is converted, by the address of the group.
    first_of_loop: BTreeMap<*const Element, bool>,
    /// Sinks as they were before a greedy loop narrowed them.
    originals: BTreeMap<usize, usize>,
}

/// An element with its surroundings.
#[derive(Clone, Copy)]
struct Place<'a> {
    chain: &'a [Element],
    at: usize,
    group: Option<&'a Element>,
}

impl<'a> Place<'a> {
    fn element(&self) -> &'a Element {
        &self.chain[self.at]
    }
    fn previous(&self) -> Option<Place<'a>> {
        Some(Self { at: self.at.checked_sub(1)?, ..*self })
    }
    fn inside(&self, elements: &'a [Element]) -> Place<'a> {
        Place { chain: elements, at: elements.len() - 1, group: Some(self.element()) }
    }
    fn head_of_group(&self) -> Option<&'a Element> {
        self.group.filter(|_| self.at == 0)
    }
    /// A formula, unless the repetition of the group has ended.
    fn unless_group_ends(&self, formula: Formula) -> Formula {
        match self.group.and_then(|group| group.until.clone()) {
            Some(until) => until.negated().and(formula),
            None => formula,
        }
    }
    fn take(&self) -> Formula {
        self.unless_group_ends(self.element().condition())
    }
    fn always(&self) -> Formula {
        self.unless_group_ends(Formula::Always)
    }
    fn ignore_by(&self, strategy: Contiguity) -> Option<Formula> {
        let ignore = match strategy {
            Contiguity::FollowedBy => self.element().condition().negated(),
            Contiguity::FollowedByAny => Formula::Always,
            _ => return None,
        };
        Some(self.unless_group_ends(ignore))
    }
    fn inner_ignore(&self) -> Option<Formula> {
        self.ignore_by(inner(self.head_of_group().unwrap_or(self.element())))
    }
}

fn inner(element: &Element) -> Contiguity {
    match element.inner {
        Inner::Relaxed => Contiguity::FollowedBy,
        Inner::Consecutive => Contiguity::Next,
        Inner::Combinations => Contiguity::FollowedByAny,
    }
}

/// A formula, unless `until` holds.
fn unless(until: Option<&Formula>, formula: Formula) -> Formula {
    match until {
        Some(until) => until.clone().negated().and(formula),
        None => formula,
    }
}

type State = Result<usize, Refused>;

impl<'a> Compiler<'a> {
    /// All elements but the first. Answers with the first and the state that it leads to.
    fn middle(&mut self, last: Place<'a>, sink: usize) -> Result<(Place<'a>, usize), Refused> {
        let (mut place, mut sink) = (last, sink);
        while let Some(previous) = place.previous() {
            sink = match place.element().contiguity {
                Contiguity::NotFollowedBy => self.not_followed_by(place, sink)?,
                Contiguity::NotNext => self.not_next(place, sink)?,
                _ => self.convert(place, sink)?,
            };
            self.following = Some(place.element());
            place = previous;
            if let Some(ms) = place.element().within_ms {
                self.within_ms = Some(self.within_ms.map_or(ms, |least| least.min(ms)));
            }
        }
        Ok((place, sink))
    }

    /// Only at the end of a pattern this is a state; else it becomes conditions of the next stage.
    fn not_followed_by(&mut self, place: Place<'a>, sink: usize) -> State {
        let timed = place.element().gap_ms.is_some() || self.within_ms.is_some();
        if !timed || self.states[sink].kind != Kind::Final {
            return Ok(sink);
        }
        let state = self.create_for(place, Kind::Pending, true)?;
        let stop = self.stop(place.take(), place.element().name())?;
        self.add(state, Action::Proceed, stop, place.take());
        self.add(state, Action::Ignore, state, place.take().negated());
        Ok(state)
    }

    fn not_next(&mut self, place: Place<'a>, sink: usize) -> State {
        let state = self.create_for(place, Kind::Normal, true)?;
        let stop = self.stop(place.take(), place.element().name())?;
        // At the end of a pattern an event has to come that does not fit.
        let passed = if self.states[sink].kind == Kind::Final { Action::Ignore } else { Action::Proceed };
        self.add(state, passed, sink, place.take().negated());
        self.add(state, Action::Proceed, stop, place.take());
        Ok(state)
    }

    fn convert(&mut self, place: Place<'a>, sink: usize) -> State {
        let first = match place.element().repeat {
            Repeat::AtLeast(times) => {
                self.mark_first_of_loop(place, false);
                let behind = self.without_nots(place, sink)?;
                let looping = self.looping(place, behind)?;
                self.mark_first_of_loop(place, true);
                self.times(place, looping, sink, (times, times))?
            }
            Repeat::Times(from, to) => self.times(place, sink, sink, (from.max(1), to))?,
            Repeat::Once => {
                let ignore = self.ignore(place);
                self.singleton(place, sink, Some(sink), place.take(), ignore, place.element().is_optional())?
            }
        };
        self.add_stops(place, first)?;
        Ok(first)
    }

    fn times(&mut self, place: Place<'a>, sink: usize, proceed: usize, (from, to): (u32, u32)) -> State {
        let element = place.element();
        let until = element.until.as_ref();
        self.mark_first_of_loop(place, false);
        let ignore = place.inner_ignore().map(|ignore| unless(until, ignore));
        let take = unless(until, place.take());
        if element.greedy && from != to {
            self.narrow(sink, &take);
        }
        let mut last = sink;
        for _ in from..to {
            last = self.singleton(place, last, Some(proceed), take.clone(), ignore.clone(), true)?;
            self.add_stop_behind(place, last)?;
        }
        for _ in 1..from {
            last = self.singleton(place, last, None, take.clone(), ignore.clone(), false)?;
            self.add_stop_behind(place, last)?;
        }
        self.mark_first_of_loop(place, true);
        let ignore = self.ignore(place);
        self.singleton(place, last, Some(proceed), take, ignore, element.is_optional())
    }

    /// A state that takes one event. If it is optional, ignoring leads to a twin without the way around, so that there is
    /// one such way only.
    fn singleton(
        &mut self,
        place: Place<'a>,
        sink: usize,
        proceed: Option<usize>,
        take: Formula,
        ignore: Option<Formula>,
        optional: bool,
    ) -> State {
        let element = place.element();
        let around = proceed.filter(|_| optional);
        if let Item::Group(elements) = &element.item {
            return self.group(place, elements, sink, around);
        }
        let state = self.create_for(place, Kind::Normal, true)?;
        let behind = self.without_nots(place, sink)?;
        self.add(state, Action::Take, behind, take.clone());
        if let Some(around) = around {
            let original = if element.greedy { self.originals.get(&around).copied() } else { None };
            self.go_around(place, state, around, original);
        }
        let Some(ignore) = ignore else { return Ok(state) };
        let waiting = if optional || self.heads_optional_group(place) {
            let waiting = self.create_for(place, Kind::Normal, false)?;
            self.add(waiting, Action::Take, behind, take);
            self.add(waiting, Action::Ignore, waiting, ignore.clone());
            self.add_stops(place, waiting)?;
            waiting
        } else {
            state
        };
        self.add(state, Action::Ignore, waiting, ignore);
        Ok(state)
    }

    /// The way around an optional state, or out of a loop. Behind a greedy loop, the sink takes no event that the loop
    /// takes; when `until` has ended the loop, the sink as it was before takes any. Flink has lost it, and fails when
    /// `until` holds, if the loop has a copy of the sink for itself; but then the sink has not been narrowed.
    fn go_around(&mut self, place: Place<'a>, state: usize, sink: usize, original: Option<usize>) {
        let element = place.element();
        match (element.until.as_ref().filter(|_| element.greedy), original) {
            (Some(until), Some(original)) => {
                self.add(state, Action::Proceed, original, place.always().and(until.clone()));
                self.add(state, Action::Proceed, sink, place.always().and(until.clone().negated()));
            }
            _ => self.add(state, Action::Proceed, sink, place.always()),
        }
    }

    fn looping(&mut self, place: Place<'a>, sink: usize) -> State {
        let element = place.element();
        if let Item::Group(elements) = &element.item {
            return self.looping_group(place, elements, sink);
        }
        let until = element.until.as_ref();
        let ignore = place.inner_ignore().map(|ignore| unless(until, ignore));
        let take = unless(until, place.take());
        let state = self.create_for(place, Kind::Normal, true)?;
        if element.greedy {
            let original = until.map(|_| self.copy(sink)).transpose()?;
            self.go_around(place, state, sink, original);
            self.originals.extend(original.map(|original| (sink, original)));
            self.narrow(sink, &place.take());
        } else {
            self.add(state, Action::Proceed, sink, place.always());
        }
        self.add(state, Action::Take, state, take.clone());
        self.add_stop_behind(place, state)?;
        if let Some(ignore) = ignore {
            let waiting = self.create_for(place, Kind::Normal, false)?;
            self.add(waiting, Action::Take, state, take);
            self.add(waiting, Action::Ignore, waiting, ignore.clone());
            self.add(state, Action::Ignore, waiting, ignore);
            self.add_stop_behind(place, waiting)?;
        }
        Ok(state)
    }

    fn group(&mut self, place: Place<'a>, elements: &'a [Element], sink: usize, around: Option<usize>) -> State {
        let first = self.inside(place, elements, sink)?;
        if let Some(around) = around {
            self.add(first, Action::Proceed, around, place.always());
        }
        Ok(first)
    }

    fn looping_group(&mut self, place: Place<'a>, elements: &'a [Element], sink: usize) -> State {
        let hinge = self.create_for(place, Kind::Normal, true)?;
        let first = self.inside(place, elements, hinge)?;
        self.add(first, Action::Proceed, sink, place.always());
        self.add(hinge, Action::Proceed, first, place.always());
        Ok(first)
    }

    fn inside(&mut self, place: Place<'a>, elements: &'a [Element], sink: usize) -> State {
        let following = self.following;
        let (first, sink) = self.middle(place.inside(elements), sink)?;
        let state = self.convert(first, sink);
        self.following = following;
        state
    }

    fn ignore(&self, place: Place<'a>) -> Option<Formula> {
        let strategy = match place.head_of_group() {
            Some(group) if self.is_first_of_loop(group) => strategy(group),
            Some(group) => inner(group),
            None => strategy(place.element()),
        };
        place.ignore_by(strategy)
    }

    fn heads_optional_group(&self, place: Place<'a>) -> bool {
        place.head_of_group().is_some_and(|group| self.is_first_of_loop(group) && group.is_optional())
    }

    fn is_first_of_loop(&self, group: &Element) -> bool {
        self.first_of_loop.get(&std::ptr::from_ref(group)).copied().unwrap_or(true)
    }

    fn mark_first_of_loop(&mut self, place: Place<'a>, first: bool) {
        if let Item::Group(_) = place.element().item {
            self.first_of_loop.insert(place.element(), first);
        }
    }

    /// What must not occur before the element, with the names of these stages.
    fn nots(&self, place: Place<'a>) -> Vec<(Formula, &'a str)> {
        let mut nots = Vec::new();
        let mut at = place;
        while let Some(previous) = at.previous() {
            let element = previous.element();
            let not = element.contiguity == Contiguity::NotFollowedBy;
            if !not && !element.is_optional() {
                break;
            }
            at = previous;
            if not {
                nots.push((previous.take(), element.name()));
            }
        }
        nots
    }

    fn add_stops(&mut self, place: Place<'a>, state: usize) -> Result<(), Refused> {
        for (formula, name) in self.nots(place) {
            let stop = self.stop(formula.clone(), name)?;
            self.add(state, Action::Proceed, stop, formula);
        }
        Ok(())
    }

    /// In a loop, what must not occur behind it must not occur between its events either.
    fn add_stop_behind(&mut self, place: Place<'a>, state: usize) -> Result<(), Refused> {
        let not = self.following.filter(|following| following.contiguity == Contiguity::NotFollowedBy);
        let Some(not) = not else { return Ok(()) };
        let formula = place.unless_group_ends(not.condition());
        let stop = self.stop(formula.clone(), not.name())?;
        self.add(state, Action::Proceed, stop, formula);
        Ok(())
    }

    /// The state as it is once the (optional) element has taken an event: without what must not occur before it.
    fn without_nots(&mut self, place: Place<'a>, state: usize) -> State {
        let nots = self.nots(place);
        if nots.is_empty() || !place.element().is_optional() {
            return Ok(state);
        }
        let Draft { kind, name, transitions, .. } = self.states[state].clone();
        let copy = self.create(&name, kind)?;
        for Transition { action, target, formula } in transitions {
            if action != Action::Proceed {
                self.add(copy, action, if target == state { copy } else { target }, formula);
            } else if self.states[target].kind != Kind::Stop {
                let target = self.without_nots(place, target)?;
                self.add(copy, action, target, formula);
            } else {
                let stop = &self.states[target];
                if !(stop.bare && nots.iter().any(|(_, not)| *not == stop.name)) {
                    self.add(copy, action, target, formula);
                }
            }
        }
        Ok(copy)
    }

    fn copy(&mut self, state: usize) -> State {
        let Draft { kind, name, transitions, .. } = self.states[state].clone();
        let copy = self.create(&name, kind)?;
        for Transition { action, target, formula } in transitions {
            self.add(copy, action, if target == state { copy } else { target }, formula);
        }
        Ok(copy)
    }

    /// No way out of the state for what a greedy loop takes.
    fn narrow(&mut self, state: usize, take: &Formula) {
        for transition in &mut self.states[state].transitions {
            transition.formula = transition.formula.clone().and(take.clone().negated());
        }
    }

    fn stop(&mut self, formula: Formula, name: &str) -> State {
        if let Some(stop) = self.stops.get(name) {
            return Ok(*stop);
        }
        let stop = self.create(name, Kind::Stop)?;
        self.add(stop, Action::Take, stop, formula);
        self.stops.insert(name.to_owned(), stop);
        Ok(stop)
    }

    /// A state of an element. `takes` are those with a time of their own; of a repeated one, all but the first created.
    fn create_for(&mut self, place: Place<'a>, kind: Kind, takes: bool) -> State {
        let element = place.element();
        let state = self.create(element.name(), kind)?;
        let draft = &mut self.states[state];
        draft.gap_ms = match element.repeat {
            _ if !takes => None,
            Repeat::Once => element.gap_ms,
            _ if draft.bare => None,
            _ => element.repeat_ms,
        };
        Ok(state)
    }

    fn create(&mut self, name: &str, kind: Kind) -> State {
        if self.states.len() >= STATES_MAX {
            return Err(Refused::new("", "the pattern has too many states", "use smaller numbers of times"));
        }
        let bare = self.used.insert(name.to_owned());
        self.states.push(Draft { kind, name: name.to_owned(), transitions: Vec::new(), gap_ms: None, bare });
        Ok(self.states.len() - 1)
    }

    fn add(&mut self, state: usize, action: Action, target: usize, formula: Formula) {
        self.states[state].transitions.push(Transition { action, target, formula });
    }

    fn check_times(&self, last: &Element) -> Result<(), Refused> {
        if let Some(within_ms) = self.within_ms {
            let longer = self.states.iter().find(|state| state.gap_ms.is_some_and(|gap_ms| gap_ms > within_ms));
            if let Some(longer) = longer {
                let message = "the time since the event before is longer than that of the whole match";
                return Err(Refused::new(&longer.name, message, "use a shorter one, or a longer `within`"));
            }
        }
        if last.contiguity == Contiguity::NotFollowedBy && self.within_ms.is_none() && last.gap_ms.is_none() {
            let message = "a pattern that ends with what must not follow needs a time";
            return Err(Refused::new(first_name(last), message, "say `within` how long it must not follow"));
        }
        Ok(())
    }
}

fn strategy(element: &Element) -> Contiguity {
    match element.contiguity {
        Contiguity::FollowedBy | Contiguity::FollowedByAny => element.contiguity,
        _ => Contiguity::Next,
    }
}
