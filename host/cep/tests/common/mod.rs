//! Patterns and inputs as lines of text, for this crate and for Flink (`tests/flink/Cep.java`), and what comes out.
//!
//! A case is `SKIP ELEMENT... | STEP...`, with a space between all words, for example
//! `past begin x where:a times:2 next y where:b within:10 | a1@0 a2@1 b1@4 @20`.
//!
//! SKIP is `no`, `next`, `past`, `first:STAGE`, `last:STAGE`, the latter two with `!` if a miss is an error. An element is
//! `begin`, `next`, `followedBy`, `followedByAny`, `notNext` or `notFollowedBy`, a name or a group `( ... )`, and then
//! `where:C`, `or:C`, `until:C`, `oneOrMore`, `times:N`, `times:N-M`, `timesOrMore:N` (these with `:MS` for their time),
//! `consecutive`, `combinations`, `greedy`, `optional`, `within:MS`, `gap:MS`. A step is an event `LETTER VALUE@TIME`, or
//! `@TIME`. A condition is letters; `#S<N` (less than N events of stage S so far); `>S` (a larger value than the last of S);
//! `^S` (the value of the first of S); or `+S<N` (a sum with all of S that is less than N).

#![allow(dead_code, reason = "each of the tests that include this uses a part")]

pub mod random;

use std::fmt::Write as _;
use std::sync::Arc;

use tidemill_cep::{
    Automaton, Condition, Conditions, Contiguity, Element, EventId, Formula, KeyState, Match, Matcher, Output,
    PartialMatch, Pattern, Refused, Skip, Stage,
};

pub struct Step {
    /// Letter and value.
    pub event: Option<(char, i64)>,
    pub time: i64,
}

/// A condition of a case.
#[derive(Clone, Debug, PartialEq)]
pub enum Asked {
    Letters(String),
    Fewer(String, u32),
    Above(String),
    SameAsFirst(String),
    SumBelow(String, i64),
}

pub struct Case {
    pub pattern: Pattern,
    pub asked: Vec<Asked>,
    pub steps: Vec<Step>,
}

/// What a case gives, as Flink's side writes it, with a hook between all steps.
pub fn run(text: &str, between: impl FnMut(&Automaton, KeyState) -> KeyState) -> String {
    let case = parse(text);
    match Automaton::new(&case.pattern) {
        Ok(automaton) => run_steps(Arc::new(automaton), &case, between),
        Err(_) => "refused".to_owned(),
    }
}

/// Why a case is refused.
pub fn refused(text: &str) -> Option<Refused> {
    Automaton::new(&parse(text).pattern).err()
}

fn run_steps(
    automaton: Arc<Automaton>,
    case: &Case,
    mut between: impl FnMut(&Automaton, KeyState) -> KeyState,
) -> String {
    let mut matcher = Matcher::new(automaton.clone());
    let (mut key, mut out) = (KeyState::default(), Output::default());
    let (mut text, mut held) = (Vec::new(), Vec::new());
    for (at, step) in case.steps.iter().enumerate() {
        out.clear();
        let mut lines = Vec::new();
        let advanced = matcher.advance(&mut key, step.time, &mut out);
        lines.extend(out.matches.iter().map(|found| format!("{at}:p{}", shown(&automaton, &out, found))));
        let pending = out.matches.len();
        let mut processed = Ok(false);
        if advanced.is_ok() && step.event.is_some() {
            let mut conditions = Evaluated { case, automaton: &automaton };
            processed = matcher.process(&mut key, at as EventId, step.time, &mut conditions, &mut out);
        }
        let matches = out.matches[pending..].iter();
        lines.extend(matches.map(|found| format!("{at}:m{}", shown(&automaton, &out, found))));
        let timed_out = out.timed_out.iter();
        lines.extend(timed_out.map(|over| format!("{at}:t@{}{}", over.time, shown(&automaton, &out, over))));
        lines.sort();
        if advanced.is_err() || processed.is_err() {
            text.push(format!("{at}:miss"));
            break;
        }
        text.extend(lines);
        if processed == Ok(true) {
            held.push(at as EventId);
        }
        held.retain(|event| !out.released.contains(event));
        let mut now: Vec<EventId> = key.held().map(|(_, event)| event).collect();
        now.sort_unstable();
        now.dedup();
        assert_eq!(now, held, "what was released is what is not held, after step {at}");
        key = between(&automaton, key);
    }
    text.join(" ")
}

/// The events of a match by stage, in the order of names.
fn shown(automaton: &Automaton, out: &Output, found: &Match) -> String {
    let mut stages: Vec<(&str, Vec<EventId>)> = Vec::new();
    for (stage, event) in out.events(found) {
        let name = automaton.stages()[usize::from(*stage)].as_str();
        match stages.iter_mut().find(|(known, _)| *known == name) {
            Some((_, events)) => events.push(*event),
            None => stages.push((name, vec![*event])),
        }
    }
    stages.sort();
    let mut text = String::from("{");
    for (at, (name, events)) in stages.iter().enumerate() {
        let events: Vec<String> = events.iter().map(EventId::to_string).collect();
        let _ = write!(text, "{}{name}={}", if at == 0 { "" } else { ";" }, events.join(","));
    }
    text + "}"
}

struct Evaluated<'a> {
    case: &'a Case,
    automaton: &'a Automaton,
}

impl Evaluated<'_> {
    fn value(&self, event: EventId) -> (char, i64) {
        self.case.steps[event as usize].event.expect("a step with an event")
    }
    fn stage(&self, name: &str) -> Stage {
        self.automaton.stage(name).unwrap_or(Stage::MAX)
    }
}

impl Conditions for Evaluated<'_> {
    fn simple(&mut self, event: EventId) -> u64 {
        let (letter, _) = self.value(event);
        let holds = |asked: &Asked| matches!(asked, Asked::Letters(letters) if letters.contains(letter));
        self.case.asked.iter().enumerate().fold(0, |bits, (at, asked)| bits | u64::from(holds(asked)) << at)
    }
    fn iterative(&mut self, condition: Condition, event: EventId, before: PartialMatch<'_>) -> bool {
        let (_, value) = self.value(event);
        match &self.case.asked[usize::from(condition)] {
            Asked::Letters(_) => panic!("a condition that looks at the event alone"),
            Asked::Fewer(stage, count) => before.count(self.stage(stage)) < *count,
            Asked::Above(stage) => before.last(self.stage(stage)).is_none_or(|last| value > self.value(last).1),
            Asked::SameAsFirst(stage) => {
                before.first(self.stage(stage)).is_none_or(|first| value == self.value(first).1)
            }
            Asked::SumBelow(stage, limit) => {
                let before: i64 = before.backwards(self.stage(stage)).map(|event| self.value(event).1).sum();
                before + value < *limit
            }
        }
    }
}

pub fn parse(text: &str) -> Case {
    let (pattern, steps) = text.split_once('|').expect("a pattern, `|` and steps");
    let mut words = pattern.split_whitespace();
    let skip = skip(words.next().expect("a skip strategy"));
    let mut asked = Vec::new();
    let elements = sequence(&mut words, &mut asked);
    let mut pattern = Pattern::new(elements).skip(skip);
    for (at, asked) in asked.iter().enumerate() {
        if !matches!(asked, Asked::Letters(_)) {
            pattern = pattern.iterative(at as Condition);
        }
    }
    Case { pattern, asked, steps: steps.split_whitespace().map(step).collect() }
}

fn step(word: &str) -> Step {
    let (event, time) = word.split_once('@').expect("a time");
    let mut letters = event.chars();
    let event = letters.next().map(|letter| (letter, letters.as_str().parse().expect("a value")));
    Step { event, time: time.parse().expect("a time") }
}

fn skip(word: &str) -> Skip {
    let (kind, stage) = word.split_once(':').unwrap_or((word, ""));
    let (stage, miss_fails) = (stage.to_owned(), kind.ends_with('!'));
    match kind.trim_end_matches('!') {
        "no" => Skip::None,
        "next" => Skip::ToNext,
        "past" => Skip::PastLastEvent,
        "first" => Skip::ToFirst { stage, miss_fails },
        "last" => Skip::ToLast { stage, miss_fails },
        other => panic!("skip strategy `{other}`"),
    }
}

fn sequence<'a>(words: &mut impl Iterator<Item = &'a str>, asked: &mut Vec<Asked>) -> Vec<Element> {
    let mut elements: Vec<Element> = Vec::new();
    while let Some(word) = words.next() {
        let contiguity = match word {
            ")" => break,
            "begin" => Contiguity::Begin,
            "next" => Contiguity::Next,
            "followedBy" => Contiguity::FollowedBy,
            "followedByAny" => Contiguity::FollowedByAny,
            "notNext" => Contiguity::NotNext,
            "notFollowedBy" => Contiguity::NotFollowedBy,
            setting => {
                let element = elements.pop().expect("an element");
                elements.push(set(element, setting, asked));
                continue;
            }
        };
        elements.push(match words.next().expect("a name") {
            "(" => Element::group(contiguity, sequence(words, asked)),
            name => Element::stage(contiguity, name),
        });
    }
    elements
}

fn set(element: Element, setting: &str, asked: &mut Vec<Asked>) -> Element {
    let mut parts = setting.split(':');
    let (name, first, second) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
    let number = |text: Option<&str>| text.and_then(|text| text.parse().ok()).expect("a number");
    let timed = |element: Element, ms: Option<&str>| match ms {
        Some(ms) => element.repeat_ms(number(Some(ms))),
        None => element,
    };
    match name {
        "where" => element.filter(condition(first, asked)),
        "or" => element.or(condition(first, asked)),
        "until" => element.until(condition(first, asked)),
        "oneOrMore" => timed(element.one_or_more(), first),
        "timesOrMore" => timed(element.at_least(number(first) as u32), second),
        "times" => {
            let (from, to) = first.and_then(|range| range.split_once('-')).unwrap_or_else(|| {
                let times = first.expect("a number");
                (times, times)
            });
            // `times(0)` is refused, `times(0, n)` is not.
            let (from, to) = (number(Some(from)) as u32, number(Some(to)) as u32);
            timed(element.times(from, to), second)
        }
        "consecutive" => element.consecutive(),
        "combinations" => element.combinations(),
        "greedy" => element.greedy(),
        "optional" => element.optional(),
        "within" => element.within_ms(number(first)),
        "gap" => element.gap_ms(number(first)),
        other => panic!("setting `{other}`"),
    }
}

fn condition(text: Option<&str>, all: &mut Vec<Asked>) -> Formula {
    let text = text.expect("a condition");
    let (kind, rest) = text.split_at(1);
    let limited = || rest.split_once('<').map(|(stage, limit)| (stage.to_owned(), limit.parse().expect("a limit")));
    let asked = match kind {
        "#" => limited().map(|(stage, limit): (_, i64)| Asked::Fewer(stage, limit as u32)).expect("a limit"),
        "+" => limited().map(|(stage, limit)| Asked::SumBelow(stage, limit)).expect("a limit"),
        ">" => Asked::Above(rest.to_owned()),
        "^" => Asked::SameAsFirst(rest.to_owned()),
        _ => Asked::Letters(text.to_owned()),
    };
    let at = all.iter().position(|known| *known == asked).unwrap_or_else(|| {
        all.push(asked);
        all.len() - 1
    });
    Formula::Is(at as Condition)
}
