//! How long an event takes in the matcher: `cargo run --profile dev -p tidemill-cep --example speed`.

use std::sync::Arc;
use std::time::Instant;

use tidemill_cep::{
    Automaton, Condition, Conditions, Element, EventId, Formula, KeyState, Matcher, Output, PartialMatch, Pattern, Skip,
};

const A: Condition = 0;
const B: Condition = 1;
const C: Condition = 2;

fn main() {
    let abc = || {
        vec![
            Element::begin("a").filter(Formula::Is(A)),
            Element::next("b").filter(Formula::Is(B)),
            Element::next("c").filter(Formula::Is(C)),
        ]
    };
    let followed = vec![
        Element::begin("a").filter(Formula::Is(A)),
        Element::followed_by("b").filter(Formula::Is(B)),
        Element::followed_by("c").filter(Formula::Is(C)).within_ms(5000),
    ];
    let row = |elements| Pattern::new(elements).skip(Skip::PastLastEvent);
    // One event in 100 is an `a`, one a `b`, one a `c`.
    let rare = |random: u64, _| match random % 100 {
        letter @ 0..3 => 1 << letter,
        _ => 0,
    };
    // Each is one of the three.
    let chance = |random: u64, _| 1 << (random % 3);
    run("a b c, 100,000 keys, few fit", row(abc()), 100_000, 10_000_000, rare);
    run("a b c, 100,000 keys, all fit", row(abc()), 100_000, 10_000_000, chance);
    run("a ... b ... c within 5 s, 100,000 keys, few fit", row(followed), 100_000, 10_000_000, rare);
    for (keys, skip) in [(1, Skip::PastLastEvent), (1, Skip::None), (100, Skip::PastLastEvent)] {
        let name = format!("a b* c within 5 s, keys: {keys}, skip: {skip:?}");
        run(&name, Pattern::new(drops(false)).skip(skip), keys, 1_000_000, chance);
    }
    // As query 3 of the Nexmark queries for CEP: most bids are of a pair of auction and bidder that is hot for 1667 bids.
    let pattern = row(drops(true)).iterative(B).iterative(C);
    let hot =
        |random: u64, at: usize| (if random % 8 < 3 { at / 1667 } else { (random >> 20) as usize % 100_000 }) as u32;
    run_with(("price drops within 5 s, hot pairs", 100_000, 1_000_000), pattern, |random, _| random, hot);
}

/// `A B* C` as SQL means it. With prices, any event is an `a`.
fn drops(prices: bool) -> Vec<Element> {
    let a = Element::begin("a");
    let a = if prices { a } else { a.filter(Formula::Is(A)) };
    let b = Element::next("b").filter(Formula::Is(B)).one_or_more().consecutive().greedy().optional();
    vec![a, b, Element::next("c").filter(Formula::Is(C)).within_ms(5000)]
}

/// The answers for an event lie in `words`: bits, or a price.
struct Answers<'a> {
    words: &'a [u64],
}

impl Answers<'_> {
    fn price(&self, event: EventId) -> u64 {
        price(self.words[event as usize])
    }
}

/// Prices as the Nexmark generator makes them: 10 to the power of something between 0 and 6, in cents.
fn price(random: u64) -> u64 {
    (10f64.powf((random >> 11) as f64 / (1u64 << 53) as f64 * 6.0) * 100.0) as u64
}

impl Conditions for Answers<'_> {
    fn simple(&mut self, event: EventId) -> u64 {
        self.words[event as usize]
    }
    fn iterative(&mut self, condition: Condition, event: EventId, before: PartialMatch<'_>) -> bool {
        let first = before.last(0).map_or(0, |event| self.price(event));
        let price = self.price(event) + 50;
        if condition == B { price > first } else { price < first }
    }
}

fn run(name: &str, pattern: Pattern, keys: usize, events: usize, word: impl Fn(u64, usize) -> u64) {
    run_with((name, keys, events), pattern, word, |random, _| (random >> 20) as u32 % keys as u32);
}

fn run_with(
    (name, keys, events): (&str, usize, usize),
    pattern: Pattern,
    word: impl Fn(u64, usize) -> u64,
    owner: impl Fn(u64, usize) -> u32,
) {
    let automaton = Automaton::new(&pattern).expect("a pattern that is not refused");
    let mut matcher = Matcher::new(Arc::new(automaton));
    let mut state = 0x9e37_79b9u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let words: Vec<u64> = (0..events).map(|at| word(random(), at)).collect();
    let owners: Vec<u32> = (0..events).map(|at| owner(random(), at)).collect();
    let mut held: Vec<KeyState> = (0..keys).map(|_| KeyState::default()).collect();
    let (mut out, mut matches, mut most) = (Output::default(), 0, 0);
    let begin = Instant::now();
    for (event, owner) in owners.iter().enumerate() {
        // 100,000 events in a second.
        let time = (event / 100) as i64;
        let key = &mut held[*owner as usize];
        let mut answers = Answers { words: &words };
        matcher.advance(key, time, &mut out).expect("no stage to miss");
        matcher.process(key, event as EventId, time, &mut answers, &mut out).expect("no stage to miss");
        if !key.is_idle() {
            most = most.max(key.partial_matches());
        }
        matches += out.matches.len();
        out.clear();
    }
    let seconds = begin.elapsed().as_secs_f64();
    println!(
        "{name}: {:.1} ns per event, {:.2} M events/s, {matches} matches, at most {most} partial matches of a key",
        seconds / events as f64 * 1e9,
        events as f64 / seconds / 1e6
    );
}
