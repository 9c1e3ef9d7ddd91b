//! States and what an event does in them, ready to be looked up.
//!
//! What an event does in a state is a list of steps: the transitions whose conditions hold, those of the states that can be
//! reached without an event included. In a state whose conditions look at the event alone, the list depends on a few bits,
//! so all lists are made beforehand.

use crate::check::Refused;
use crate::compile::{Action, Draft, Kind, compile};
use crate::formula::Condition;
use crate::pattern::{Pattern, Skip};
use crate::{EventId, Stage};

/// Conditions of a state for which all answers are laid out: 256 lists at most.
const TABLE_CONDITIONS_MAX: usize = 8;

/// Of a step that takes nothing, or that does not end a match.
const NONE: u16 = u16::MAX;

/// A pattern that has been checked, as states.
#[derive(Clone, Debug)]
pub struct Automaton {
    drafts: Vec<Draft>,
    pub(crate) states: Vec<State>,
    pub(crate) start: u16,
    /// Time of a match in ms, 0 if it has all the time in the world.
    pub(crate) within_ms: i64,
    /// Whether any state has a time of its own.
    pub(crate) has_gaps: bool,
    pub(crate) skip: SkipTo,
    iterative: u64,
    stages: Vec<String>,
    steps: Vec<Step>,
}

#[derive(Clone, Debug)]
pub(crate) struct State {
    pub kind: Kind,
    /// Time since the last event in ms, 0 if there is no limit.
    pub gap_ms: i64,
    stage: Stage,
    decision: Decision,
}

#[derive(Clone, Debug)]
enum Decision {
    /// By the answers of these conditions, as a number: a list of steps.
    Table { conditions: Vec<Condition>, lists: Vec<Steps> },
    /// By conditions that look at what was matched so far, or by many.
    Ask,
}

/// A list of steps.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Steps {
    first: u32,
    end: u32,
    /// The partial match stays as it is.
    pub stays: bool,
    /// What must not occur has occurred: nothing of it goes on.
    pub stops: bool,
}

/// Where a partial match goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    pub target: u16,
    /// The stage that takes the event, or [`NONE`].
    stage: Stage,
    /// The final state that the target leads to without an event, or [`NONE`].
    done: u16,
}

impl Step {
    pub fn takes(&self) -> Option<Stage> {
        (self.stage != NONE).then_some(self.stage)
    }
    pub fn done(&self) -> Option<u16> {
        (self.done != NONE).then_some(self.done)
    }
}

/// A skip strategy, with the stage as a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SkipTo {
    None,
    Next,
    PastLast,
    First { stage: Stage, miss_fails: bool },
    Last { stage: Stage, miss_fails: bool },
}

impl Automaton {
    /// Checks a pattern and lays it out.
    pub fn new(pattern: &Pattern) -> Result<Self, Refused> {
        let (drafts, within_ms) = compile(pattern)?;
        let mut stages = Vec::new();
        pattern.elements.iter().for_each(|element| element.stages(&mut stages));
        let stages: Vec<String> = stages.iter().map(|stage| stage.name().to_owned()).collect();
        let stage = |name: &str| stages.iter().position(|stage| stage == name).map_or(NONE, |at| at as Stage);
        let states = drafts.iter().map(|draft| State {
            kind: draft.kind,
            gap_ms: draft.gap_ms.unwrap_or(0),
            stage: stage(&draft.name),
            decision: Decision::Ask,
        });
        let mut automaton = Self {
            states: states.collect(),
            start: drafts.iter().position(|draft| draft.kind == Kind::Start).unwrap_or_default() as u16,
            within_ms: within_ms.unwrap_or(0),
            has_gaps: drafts.iter().any(|draft| draft.gap_ms.is_some()),
            skip: skip_to(&pattern.skip, stage),
            iterative: pattern.iterative,
            steps: Vec::new(),
            drafts,
            stages,
        };
        automaton.check_loops()?;
        automaton.lay_out();
        Ok(automaton)
    }

    /// Names of the stages, in the order of their numbers.
    pub fn stages(&self) -> &[String] {
        &self.stages
    }

    /// The number of a stage.
    pub fn stage(&self, name: &str) -> Option<Stage> {
        self.stages.iter().position(|stage| stage == name).map(|at| at as Stage)
    }

    /// The earliest time at which a partial match in this state is over, if it began and took its last event then.
    pub(crate) fn deadline(&self, state: u16, start_ms: i64, last_ms: i64) -> i64 {
        let of = |from: i64, ms: i64| if ms > 0 { from.saturating_add(ms) } else { i64::MAX };
        of(start_ms, self.within_ms).min(of(last_ms, self.states[state as usize].gap_ms))
    }

    /// What an event does in a state. `asked` is memory for the answer, `is` tells about conditions that look back.
    pub(crate) fn steps<'a>(
        &'a self,
        state: u16,
        simple: u64,
        asked: &'a mut Vec<Step>,
        is: impl FnMut(Condition) -> bool,
    ) -> (Steps, &'a [Step]) {
        match &self.states[state as usize].decision {
            Decision::Table { conditions, lists } => {
                let bits = conditions.iter().rev().fold(0, |bits, c| bits << 1 | (simple >> c & 1) as usize);
                let list = lists[bits];
                (list, &self.steps[list.first as usize..list.end as usize])
            }
            Decision::Ask => {
                asked.clear();
                let mut known = Answers { iterative: self.iterative, simple, known: 0, holds: 0, ask: is };
                let list = self.decide(state, &mut |condition| known.is(condition), asked);
                (list, asked)
            }
        }
    }

    fn decide(&self, state: u16, is: &mut impl FnMut(Condition) -> bool, into: &mut Vec<Step>) -> Steps {
        let first = into.len();
        let mut open = vec![state as usize];
        while let Some(at) = open.pop() {
            for transition in &self.drafts[at].transitions {
                // The start state waits by itself.
                let waits = transition.action == Action::Ignore && state == self.start;
                if waits || !transition.formula.holds(is) {
                    continue;
                }
                match transition.action {
                    Action::Proceed => open.push(transition.target),
                    Action::Ignore => {
                        into.push(Step { target: transition.target as u16, stage: NONE, done: NONE });
                    }
                    Action::Take => {
                        let done = self.done(transition.target, is).map_or(NONE, |done| done as u16);
                        into.push(Step { target: transition.target as u16, stage: self.states[at].stage, done });
                    }
                }
            }
        }
        let list = &into[first..];
        Steps {
            first: first as u32,
            end: into.len() as u32,
            stays: match list {
                [only] => only.target == state && only.takes().is_none(),
                _ => list.is_empty() && state == self.start,
            },
            stops: list.iter().any(|step| self.states[step.target as usize].kind == Kind::Stop),
        }
    }

    /// The final state, if it can be reached from `state` without an event.
    fn done(&self, state: usize, is: &mut impl FnMut(Condition) -> bool) -> Option<usize> {
        let mut open = vec![state];
        while let Some(at) = open.pop() {
            for transition in self.drafts[at].transitions.iter().filter(|t| t.action == Action::Proceed) {
                if transition.formula.holds(is) {
                    if self.states[transition.target].kind == Kind::Final {
                        return Some(transition.target);
                    }
                    open.push(transition.target);
                }
            }
        }
        None
    }

    /// A group that may be left without an event, and then begins anew, would never come to an end.
    fn check_loops(&self) -> Result<(), Refused> {
        // 0: not seen, 1: on the way, 2: done.
        let mut seen = vec![0u8; self.drafts.len()];
        for root in 0..self.drafts.len() {
            let mut way = vec![(root, 0)];
            while let Some((at, next)) = way.pop() {
                if next == 0 && std::mem::replace(&mut seen[at], 1) == 2 {
                    seen[at] = 2;
                    continue;
                }
                let mut proceeds = self.drafts[at].transitions.iter().filter(|t| t.action == Action::Proceed);
                let Some(target) = proceeds.nth(next).map(|transition| transition.target) else {
                    seen[at] = 2;
                    continue;
                };
                way.push((at, next + 1));
                match seen[target] {
                    0 => way.push((target, 0)),
                    1 => return Err(self.endless(&way)),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn endless(&self, way: &[(usize, usize)]) -> Refused {
        let stage = way.iter().find(|(state, _)| self.states[*state].stage != NONE);
        let name = stage.map_or("", |(state, _)| &self.drafts[*state].name);
        let message = "a group is repeated whose stages are all optional, so it could be repeated without an event";
        Refused::new(name, message, "make one of its stages necessary")
    }

    /// Fills the tables.
    fn lay_out(&mut self) {
        for state in 0..self.drafts.len() {
            let asked = self.conditions_from(state);
            if asked & self.iterative != 0 || asked.count_ones() as usize > TABLE_CONDITIONS_MAX {
                continue;
            }
            let conditions: Vec<Condition> = (0..64).filter(|condition| asked >> condition & 1 == 1).collect();
            let mut steps = std::mem::take(&mut self.steps);
            let lists = (0..1usize << conditions.len()).map(|bits| {
                let mut is = |condition| {
                    let at = conditions.iter().position(|c| *c == condition).unwrap_or_default();
                    bits >> at & 1 == 1
                };
                self.decide(state as u16, &mut is, &mut steps)
            });
            let lists = lists.collect();
            self.steps = steps;
            self.states[state].decision = Decision::Table { conditions, lists };
        }
    }

    /// All conditions that decide what happens in a state: those of its transitions and of what it proceeds to; behind
    /// what takes the event, those of the ways to the end.
    fn conditions_from(&self, state: usize) -> u64 {
        let (mut seen, mut open, mut asked) = (vec![[false; 2]; self.drafts.len()], vec![(state, true)], 0);
        while let Some((at, whole)) = open.pop() {
            if std::mem::replace(&mut seen[at][usize::from(whole)], true) {
                continue;
            }
            for transition in &self.drafts[at].transitions {
                match transition.action {
                    Action::Proceed => open.push((transition.target, whole)),
                    Action::Take if whole => open.push((transition.target, false)),
                    Action::Ignore if whole => {}
                    _ => continue,
                }
                asked |= transition.formula.conditions();
            }
        }
        asked
    }
}

/// Answers of conditions for one event and one partial match: each is asked once.
struct Answers<F> {
    iterative: u64,
    simple: u64,
    known: u64,
    holds: u64,
    ask: F,
}

impl<F: FnMut(Condition) -> bool> Answers<F> {
    fn is(&mut self, condition: Condition) -> bool {
        let bit = 1u64 << condition;
        if self.iterative & bit == 0 {
            return self.simple & bit != 0;
        }
        if self.known & bit == 0 {
            self.known |= bit;
            self.holds |= if (self.ask)(condition) { bit } else { 0 };
        }
        self.holds & bit != 0
    }
}

fn skip_to(skip: &Skip, stage: impl Fn(&str) -> Stage) -> SkipTo {
    match skip {
        Skip::None => SkipTo::None,
        Skip::ToNext => SkipTo::Next,
        Skip::PastLastEvent => SkipTo::PastLast,
        Skip::ToFirst { stage: name, miss_fails } => SkipTo::First { stage: stage(name), miss_fails: *miss_fails },
        Skip::ToLast { stage: name, miss_fails } => SkipTo::Last { stage: stage(name), miss_fails: *miss_fails },
    }
}

/// The first event that a partial match may begin with to survive a match, and whether the match misses the stage to
/// which its skip strategy goes.
impl SkipTo {
    pub fn survivors(self, events: &[(Stage, EventId)]) -> (EventId, bool) {
        let (first, last) = match events {
            [first, .., last] => (first.1, last.1),
            [only] => (only.1, only.1),
            [] => return (0, false),
        };
        let (found, miss_fails) = match self {
            SkipTo::None => return (0, false),
            SkipTo::Next => return (first + 1, false),
            SkipTo::PastLast => return (last + 1, false),
            SkipTo::First { stage, miss_fails } => (events.iter().find(|(s, _)| *s == stage), miss_fails),
            SkipTo::Last { stage, miss_fails } => (events.iter().rfind(|(s, _)| *s == stage), miss_fails),
        };
        let survivor = found.map_or(0, |(_, event)| *event);
        // To go on where the match began would find it again.
        (survivor, miss_fails && (found.is_none() || survivor == first))
    }
}
