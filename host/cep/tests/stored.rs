//! States as bytes: encoding in the middle of a run changes nothing, and no bytes make decoding or what follows panic.

mod common;

use std::sync::Arc;

use common::random::{Chance, case};
use proptest::prelude::*;
use tidemill_cep::{Automaton, Condition, Conditions, EventId, KeyState, Matcher, Output, PartialMatch};

proptest! {
    #[test]
    fn partial_matches_come_back_unchanged(seed in any::<u64>()) {
        let text = case(&mut Chance(seed));
        let plain = common::run(&text, |_, key| key);
        let stored = common::run(&text, |automaton, key| {
            let mut bytes = Vec::new();
            key.encode(&mut bytes);
            let decoded = KeyState::decode(automaton, &bytes).expect("its own bytes");
            let mut again = Vec::new();
            decoded.encode(&mut again);
            assert_eq!(bytes, again);
            assert_eq!(decoded.deadline(), key.deadline());
            decoded
        });
        prop_assert_eq!(plain, stored, "{}", text);
    }

    #[test]
    fn bent_partial_matches_never_panic(seed in any::<u64>(), at in any::<usize>(), byte: u8, noise: Vec<u8>) {
        let text = case(&mut Chance(seed));
        let mut states = Vec::new();
        common::run(&text, |automaton, key| {
            let mut bytes = Vec::new();
            key.encode(&mut bytes);
            states.push((automaton.clone(), bytes));
            key
        });
        for (automaton, mut bytes) in states {
            go_on(&automaton, &noise);
            if !bytes.is_empty() {
                go_on(&automaton, &bytes[..at % bytes.len()]);
                let at = at % bytes.len();
                bytes[at] = byte;
            }
            go_on(&automaton, &bytes);
        }
    }
}

/// Works with what the bytes say, if they say anything.
fn go_on(automaton: &Automaton, bytes: &[u8]) {
    let Ok(mut key) = KeyState::decode(automaton, bytes) else { return };
    let mut matcher = Matcher::new(Arc::new(automaton.clone()));
    let mut out = Output::default();
    for event in 0..4 {
        let time = event as i64 * 5;
        let _ = matcher.advance(&mut key, time, &mut out);
        let _ = matcher.process(&mut key, 1000 + event, time, &mut Everything, &mut out);
    }
    let _ = matcher.advance(&mut key, i64::MAX, &mut out);
}

struct Everything;

impl Conditions for Everything {
    fn simple(&mut self, event: EventId) -> u64 {
        if event.is_multiple_of(2) { u64::MAX } else { 0x5555 }
    }
    fn iterative(&mut self, condition: Condition, _: EventId, before: PartialMatch<'_>) -> bool {
        before.backwards(0).count() as u32 == before.count(0) && condition < 2
    }
}
