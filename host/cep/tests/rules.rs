//! Patterns that are refused, each with the reason, and that go on to be accepted when it is removed.

mod common;

use tidemill_cep::{Automaton, Condition, Element, Formula, Pattern};

/// A pattern, the stage to blame and the beginning of the message.
const REFUSED: &[(&str, &str, &str)] = &[
    ("no next s0", "s0", "a sequence begins with its first stage"),
    ("no begin s0 begin s1", "s1", "a sequence begins with its first stage"),
    ("no begin s0 next ( next s1 )", "s1", "a sequence begins with its first stage"),
    ("no begin s0 next s0", "s0", "two stages have this name"),
    ("no begin s0 next ( begin s1 next s0 )", "s0", "two stages have this name"),
    ("no begin $endState$", "$endState$", "this is no name for a stage"),
    ("no begin a:b", "a:b", "this is no name for a stage"),
    ("no begin s0 times:0", "s0", "a stage can't occur so often"),
    ("no begin s0 times:3-2", "s0", "a stage can't occur so often"),
    ("no begin s0 timesOrMore:0", "s0", "a stage can't occur 0 times or more"),
    ("no begin s0 times:0-2 optional", "s0", "it is optional already"),
    ("no begin s0 consecutive", "s0", "only a stage that is repeated can be consecutive"),
    ("no begin s0 combinations", "s0", "only a stage that is repeated can be consecutive"),
    ("no begin s0 greedy", "s0", "only a stage that is repeated is greedy"),
    ("no begin s0 oneOrMore combinations greedy", "s0", "a greedy stage has no combinations"),
    ("no begin ( begin s0 ) oneOrMore greedy", "s0", "a group can't be greedy"),
    ("no begin s0 oneOrMore greedy next s1 optional", "s1", "an optional stage can't come behind a greedy one"),
    ("no begin s0 notNext s1 optional", "s1", "a stage that must not occur is neither"),
    ("no begin s0 notNext s1 times:2", "s1", "a stage that must not occur is neither"),
    ("no begin s0 notFollowedBy s1 oneOrMore greedy next s2", "s1", "a stage that must not occur is neither"),
    ("no begin s0 notNext ( begin s1 )", "s1", "a group can't be what must not occur"),
    ("no begin s0 optional notNext s1", "s1", "a stage that must not occur can't come behind one that is optional"),
    ("no begin s0 times:0-2 notFollowedBy s1 next s2", "s1", "a stage that must not occur can't come behind"),
    ("no begin s0 until:a", "s0", "only a stage without a largest number of times ends with `until`"),
    ("no begin s0 times:1-2 until:a", "s0", "only a stage without a largest number of times"),
    ("past begin s0 within:0", "s0", "a time must be positive"),
    ("past begin s0 times:2:-1", "s0", "a time must be positive"),
    ("first:s1 begin s0", "", "the skip strategy goes to the stage `s1`, which does not exist"),
    ("last:s1 begin s0 next ( begin s1 )", "", "the skip strategy goes to the stage `s1`, which is in a group"),
    ("no begin s0 next s1 gap:6 within:5", "s1", "the time since the event before is longer"),
    ("no begin s0 times:2:6 within:5", "s0", "the time since the event before is longer"),
    ("no begin s0 notFollowedBy s1", "s1", "a pattern that ends with what must not follow needs a time"),
    (
        "no begin ( begin s0 optional next s1 optional ) oneOrMore next s2",
        "s0",
        "a group is repeated whose stages are all",
    ),
    ("no begin s0 times:5000", "", "the pattern has too many states"),
];

#[test]
fn each_rule_has_a_reason() {
    for (pattern, stage, message) in REFUSED {
        let refused = common::refused(&format!("{pattern} |")).unwrap_or_else(|| panic!("{pattern} is not refused"));
        assert_eq!(
            (refused.stage.as_str(), refused.message.starts_with(message)),
            (*stage, true),
            "{pattern}: {refused}"
        );
        assert!(!refused.help.is_empty());
    }
}

/// The neighbours of the rules: what is just about right.
#[test]
fn what_no_rule_forbids_is_taken() {
    for pattern in [
        "no begin s0 times:0-2 next s1 gap:5 within:5",
        "no begin s0 oneOrMore greedy next s1 times:0-1",
        "no begin s0 notFollowedBy s1 gap:3",
        "no begin ( begin s0 optional next s1 ) oneOrMore consecutive until:a next s2",
        "first:s0 begin s0 oneOrMore consecutive greedy optional until:a",
        "no begin s0 next ( begin s1 notFollowedBy s2 ) times:2 combinations",
    ] {
        assert_eq!(common::refused(&format!("{pattern} |")), None, "{pattern}");
    }
}

#[test]
fn a_pattern_has_stages_and_not_too_many_conditions() {
    let empty = Automaton::new(&Pattern::new(Vec::new())).expect_err("an empty pattern");
    assert_eq!(empty.to_string(), "a pattern or group without stages (give it at least one)");
    let with = |last: Condition| Pattern::new(vec![Element::begin("a").filter(Formula::Is(last))]);
    assert!(Automaton::new(&with(63)).is_ok());
    let many = Automaton::new(&with(64)).expect_err("too many conditions");
    assert_eq!(many.to_string(), "stage `a`: a pattern has at most 64 conditions (join some of them into one)");
}
