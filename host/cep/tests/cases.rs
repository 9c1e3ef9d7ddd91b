//! The cases of `cases.txt` give what Flink gives (`flink.rs` compares the file with it).

mod common;

use tidemill_cep::KeyState;

#[test]
fn cases_give_what_flink_gives() {
    let mut wrong = Vec::new();
    let mut cases = 0;
    for (case, golden) in goldens() {
        let found = common::run(case, |_, key| key);
        if found != golden {
            wrong.push(format!("{case}\n  expected: {golden}\n  found:    {found}"));
        }
        cases += 1;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(cases > 50, "{cases} cases");
}

#[test]
fn a_state_that_was_encoded_in_between_makes_no_difference() {
    for (case, golden) in goldens() {
        let found = common::run(case, |automaton, key| {
            let mut bytes = Vec::new();
            key.encode(&mut bytes);
            KeyState::decode(automaton, &bytes).expect("its own bytes")
        });
        assert_eq!(found, golden, "{case}");
    }
}

fn goldens() -> impl Iterator<Item = (&'static str, &'static str)> {
    let lines = include_str!("cases.txt").lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let lines: Vec<&str> = lines.collect();
    assert!(lines.len().is_multiple_of(2), "each case has a golden");
    lines
        .chunks_exact(2)
        .map(|pair| (pair[0], pair[1].strip_prefix('=').expect("a golden").trim()))
        .collect::<Vec<_>>()
        .into_iter()
}
