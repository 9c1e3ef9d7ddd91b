//! Patterns as data, with a builder that reads like Flink's.
//!
//! Nothing is checked here: `check` and `compile` say what is wrong with a pattern.

use crate::formula::{Condition, Formula};

/// What to look for: a sequence of stages, and where to go on behind a match.
#[derive(Clone, Debug, PartialEq)]
pub struct Pattern {
    pub elements: Vec<Element>,
    pub skip: Skip,
    /// Conditions that look at the events matched so far, as bits; the others look at the event alone.
    pub iterative: u64,
}

/// Which partial matches a match ends, besides its own (Flink: after-match skip strategy).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Skip {
    /// None.
    None,
    /// Those that begin with the same event.
    ToNext,
    /// Those that begin with any of its events, or between them.
    PastLastEvent,
    /// Those that begin before the first event of a stage. A match without one skips nothing, or fails if `miss_fails`.
    ToFirst { stage: String, miss_fails: bool },
    /// Those that begin before the last event of a stage.
    ToLast { stage: String, miss_fails: bool },
}

/// How an event has to lie behind those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contiguity {
    /// The first of a sequence.
    Begin,
    /// Directly behind (strict).
    Next,
    /// The next that fits; others between are ignored (relaxed).
    FollowedBy,
    /// Any that fits (non-deterministic relaxed).
    FollowedByAny,
    /// The event directly behind must not fit.
    NotNext,
    /// No event may fit until the next stage is reached.
    NotFollowedBy,
}

impl Contiguity {
    pub(crate) fn is_not(self) -> bool {
        matches!(self, Contiguity::NotNext | Contiguity::NotFollowedBy)
    }
}

/// How often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    Once,
    /// From so many times to so many; from 0 is optional.
    Times(u32, u32),
    /// So many times or more.
    AtLeast(u32),
}

/// How the events of a repeated stage lie to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inner {
    Relaxed,
    /// Flink: `consecutive()`.
    Consecutive,
    /// Flink: `allowCombinations()`.
    Combinations,
}

/// A stage, or a group of them that is repeated as one.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// Its events fulfil the condition; without one, any does.
    Stage {
        name: String,
        condition: Option<Formula>,
    },
    Group(Vec<Element>),
}

/// One place of the sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct Element {
    pub item: Item,
    pub contiguity: Contiguity,
    pub repeat: Repeat,
    /// Time in ms between two events of a repeated stage, less 1 (Flink: the `Duration` of `times` and its kin).
    pub repeat_ms: Option<i64>,
    pub inner: Inner,
    pub optional: bool,
    pub greedy: bool,
    /// Ends the repetition.
    pub until: Option<Formula>,
    /// Time in ms of the whole match, less 1 (Flink: `within`, `FIRST_AND_LAST`). The smallest of the pattern holds.
    pub within_ms: Option<i64>,
    /// Time in ms since the event before (Flink: `within`, `PREVIOUS_AND_CURRENT`).
    pub gap_ms: Option<i64>,
}

impl Pattern {
    pub fn new(elements: Vec<Element>) -> Self {
        Self { elements, skip: Skip::None, iterative: 0 }
    }
    pub fn skip(mut self, skip: Skip) -> Self {
        self.skip = skip;
        self
    }
    /// Names a condition that looks at earlier events.
    pub fn iterative(mut self, condition: Condition) -> Self {
        self.iterative |= 1u64.checked_shl(condition.into()).unwrap_or(0);
        self
    }
}

impl Element {
    pub fn stage(contiguity: Contiguity, name: &str) -> Self {
        Self::new(contiguity, Item::Stage { name: name.to_owned(), condition: None })
    }
    pub fn group(contiguity: Contiguity, elements: Vec<Element>) -> Self {
        Self::new(contiguity, Item::Group(elements))
    }
    fn new(contiguity: Contiguity, item: Item) -> Self {
        Self {
            item,
            contiguity,
            repeat: Repeat::Once,
            repeat_ms: None,
            inner: Inner::Relaxed,
            optional: false,
            greedy: false,
            until: None,
            within_ms: None,
            gap_ms: None,
        }
    }
    pub fn begin(name: &str) -> Self {
        Self::stage(Contiguity::Begin, name)
    }
    pub fn next(name: &str) -> Self {
        Self::stage(Contiguity::Next, name)
    }
    pub fn followed_by(name: &str) -> Self {
        Self::stage(Contiguity::FollowedBy, name)
    }
    pub fn followed_by_any(name: &str) -> Self {
        Self::stage(Contiguity::FollowedByAny, name)
    }
    pub fn not_next(name: &str) -> Self {
        Self::stage(Contiguity::NotNext, name)
    }
    pub fn not_followed_by(name: &str) -> Self {
        Self::stage(Contiguity::NotFollowedBy, name)
    }
    /// One more condition that has to hold, of a stage.
    pub fn filter(mut self, more: Formula) -> Self {
        if let Item::Stage { condition, .. } = &mut self.item {
            *condition = Some(condition.take().map_or(more.clone(), |before| before.and(more)));
        }
        self
    }
    /// A condition that will do as well as those so far, of a stage.
    pub fn or(mut self, other: Formula) -> Self {
        if let Item::Stage { condition, .. } = &mut self.item {
            *condition = Some(condition.take().map_or(other.clone(), |before| before.or(other)));
        }
        self
    }
    pub fn one_or_more(self) -> Self {
        self.at_least(1)
    }
    pub fn at_least(mut self, times: u32) -> Self {
        self.repeat = Repeat::AtLeast(times);
        self
    }
    pub fn times(mut self, from: u32, to: u32) -> Self {
        self.repeat = Repeat::Times(from, to);
        self
    }
    pub fn repeat_ms(mut self, ms: i64) -> Self {
        self.repeat_ms = Some(ms);
        self
    }
    pub fn optional(mut self) -> Self {
        self.optional = true;
        self
    }
    pub fn greedy(mut self) -> Self {
        self.greedy = true;
        self
    }
    pub fn consecutive(mut self) -> Self {
        self.inner = Inner::Consecutive;
        self
    }
    pub fn combinations(mut self) -> Self {
        self.inner = Inner::Combinations;
        self
    }
    pub fn until(mut self, until: Formula) -> Self {
        self.until = Some(until);
        self
    }
    pub fn within_ms(mut self, ms: i64) -> Self {
        self.within_ms = Some(ms);
        self
    }
    pub fn gap_ms(mut self, ms: i64) -> Self {
        self.gap_ms = Some(ms);
        self
    }
    /// Whether a match may be without it.
    pub(crate) fn is_optional(&self) -> bool {
        self.optional || matches!(self.repeat, Repeat::Times(0, _))
    }
    pub(crate) fn condition(&self) -> Formula {
        match &self.item {
            Item::Stage { condition: Some(condition), .. } => condition.clone(),
            _ => Formula::Always,
        }
    }
    /// The name of the stage, or what Flink calls every group.
    pub(crate) fn name(&self) -> &str {
        match &self.item {
            Item::Stage { name, .. } => name,
            Item::Group(_) => "GroupPattern",
        }
    }
    /// The stages in it, in order.
    pub(crate) fn stages<'a>(&'a self, into: &mut Vec<&'a Element>) {
        match &self.item {
            Item::Stage { .. } => into.push(self),
            Item::Group(elements) => elements.iter().for_each(|element| element.stages(into)),
        }
    }
}
