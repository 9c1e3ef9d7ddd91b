//! What a pattern must not be: the rules that Flink has, and those that keep a matcher from running for ever.

use std::collections::BTreeSet;
use std::fmt;

use crate::formula::{CONDITIONS_MAX, Formula};
use crate::pattern::{Contiguity, Element, Inner, Item, Pattern, Repeat, Skip};

/// Why a pattern is refused, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The stage to blame (of a group, its first), empty if it is the pattern as a whole.
    pub stage: String,
    pub message: String,
    pub help: String,
}

impl Refused {
    pub(crate) fn new(stage: &str, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { stage: stage.to_owned(), message: message.into(), help: help.into() }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.stage.is_empty() {
            write!(f, "stage `{}`: ", self.stage)?;
        }
        write!(f, "{} ({})", self.message, self.help)
    }
}

impl std::error::Error for Refused {}

type Checked = Result<(), Refused>;

/// The rules that can be told from the pattern alone.
pub(crate) fn check(pattern: &Pattern) -> Checked {
    let mut names = BTreeSet::new();
    sequence(&pattern.elements, &mut names)?;
    let (Skip::ToFirst { stage, .. } | Skip::ToLast { stage, .. }) = &pattern.skip else { return Ok(()) };
    let own = |element: &&Element| matches!(&element.item, Item::Stage { name, .. } if name == stage);
    if pattern.elements.iter().any(|element| own(&element)) {
        return Ok(());
    }
    let why = if names.contains(stage.as_str()) {
        format!("the skip strategy goes to the stage `{stage}`, which is in a group")
    } else {
        format!("the skip strategy goes to the stage `{stage}`, which does not exist")
    };
    Err(Refused::new("", why, "name a stage of the pattern that is not in a group"))
}

fn sequence<'a>(elements: &'a [Element], names: &mut BTreeSet<&'a str>) -> Checked {
    if elements.is_empty() {
        return Err(Refused::new("", "a pattern or group without stages", "give it at least one"));
    }
    let mut before = None;
    for element in elements {
        self::element(element, before)?;
        match &element.item {
            Item::Stage { name, .. } => self::name(name, names)?,
            Item::Group(inner) => sequence(inner, names)?,
        }
        before = Some(element);
    }
    Ok(())
}

fn name<'a>(name: &'a str, names: &mut BTreeSet<&'a str>) -> Checked {
    if name.is_empty() || name.contains(':') || name == "$endState$" {
        let message = "this is no name for a stage";
        return Err(Refused::new(name, message, "use a name that is not empty, without a colon"));
    }
    if !names.insert(name) {
        return Err(Refused::new(name, "two stages have this name", "give each stage a name of its own"));
    }
    Ok(())
}

fn element(element: &Element, before: Option<&Element>) -> Checked {
    let checks = [order(element, before), repeat(element), not(element), greedy(element, before), times(element)];
    let [order, repeat, not, greedy, times] =
        checks.map(|check| check.map_err(|(message, help)| Refused::new(first_name(element), message, help)));
    order.and(not).and(repeat).and(greedy).and(times)?;
    conditions(element)
}

/// What is wrong, and what to do.
type Ruled = Result<(), (&'static str, &'static str)>;

fn rule(holds: bool, message: &'static str, help: &'static str) -> Ruled {
    if holds { Ok(()) } else { Err((message, help)) }
}

fn order(element: &Element, before: Option<&Element>) -> Ruled {
    let begins = element.contiguity == Contiguity::Begin;
    rule(
        before.is_some() != begins,
        "a sequence begins with its first stage and nowhere else",
        "use `begin` for the first stage of the pattern and of each group, and only there",
    )?;
    rule(
        !(element.contiguity.is_not() && before.is_some_and(Element::is_optional)),
        "a stage that must not occur can't come behind one that is optional",
        "use two patterns, one with and one without the optional stage",
    )
}

fn repeat(element: &Element) -> Ruled {
    match element.repeat {
        Repeat::Once => {
            rule(
                element.inner == Inner::Relaxed,
                "only a stage that is repeated can be consecutive or allow combinations",
                "say how often it occurs, or leave that out",
            )?;
            rule(
                element.repeat_ms.is_none(),
                "a stage that occurs once has no time between its events",
                "leave it out",
            )?;
        }
        Repeat::Times(from, to) => {
            rule(to >= 1 && from <= to, "a stage can't occur so often", "use 1 or more, and the smaller number first")?;
            rule(
                !(from == 0 && element.optional),
                "it is optional already, since it may occur 0 times",
                "leave `optional` out",
            )?;
        }
        Repeat::AtLeast(times) => {
            rule(times >= 1, "a stage can't occur 0 times or more", "use 1 or more, and `optional`")?;
        }
    }
    rule(
        element.until.is_none() || matches!(element.repeat, Repeat::AtLeast(_)),
        "only a stage without a largest number of times ends with `until`",
        "leave `until` out, or give no largest number",
    )
}

fn not(element: &Element) -> Ruled {
    let plain = element.repeat == Repeat::Once && !element.optional && !element.greedy;
    rule(
        !element.contiguity.is_not() || plain,
        "a stage that must not occur is neither repeated nor optional nor greedy",
        "leave that out",
    )?;
    rule(
        !(element.contiguity.is_not() && matches!(element.item, Item::Group(_))),
        "a group can't be what must not occur",
        "use a single stage",
    )
}

fn greedy(element: &Element, before: Option<&Element>) -> Ruled {
    if element.greedy {
        rule(element.repeat != Repeat::Once, "only a stage that is repeated is greedy", "leave `greedy` out")?;
        rule(
            element.inner != Inner::Combinations,
            "a greedy stage has no combinations",
            "use either `greedy` or combinations",
        )?;
        rule(matches!(element.item, Item::Stage { .. }), "a group can't be greedy", "leave `greedy` out")?;
    }
    rule(
        !(element.optional && before.is_some_and(|before| before.greedy)),
        "an optional stage can't come behind a greedy one",
        "leave out one of the two",
    )
}

fn times(element: &Element) -> Ruled {
    let all = [element.within_ms, element.gap_ms, element.repeat_ms];
    rule(all.iter().flatten().all(|ms| *ms > 0), "a time must be positive", "use at least 1 ms, or leave it out")
}

fn conditions(element: &Element) -> Checked {
    let own = element.condition();
    let largest = [Some(&own), element.until.as_ref()].into_iter().flatten().filter_map(Formula::condition_max).max();
    if largest.is_some_and(|largest| usize::from(largest) >= CONDITIONS_MAX) {
        let message = format!("a pattern has at most {CONDITIONS_MAX} conditions");
        return Err(Refused::new(first_name(element), message, "join some of them into one"));
    }
    Ok(())
}

/// The name of a stage, or of the first in a group.
pub(crate) fn first_name(element: &Element) -> &str {
    let mut stages = Vec::new();
    element.stages(&mut stages);
    stages.first().map_or("", |stage| stage.name())
}
