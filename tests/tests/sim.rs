//! The simulation, for a fixed number of seeds. `TIDEMILL_SIM_SEEDS` is their number, `TIDEMILL_SIM_SEED` the only one.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use tidemill_tests::sim;

const SEEDS: u64 = 60;
/// Of which one at least must find a fault of the store.
const BROKEN_SEEDS: u64 = 200;

/// A whole number from the environment.
fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

/// What went wrong, with the command that shows it again.
fn failure(seed: u64) -> Option<String> {
    let again = |what: String| format!("{what}\n\nseed {seed}; once more: ./dev sim {seed}\n");
    let trace = match sim::run(seed) {
        Ok(trace) => trace,
        Err(what) => return Some(again(what)),
    };
    match sim::run(seed) {
        Err(what) => Some(again(format!("the second run: {what}"))),
        Ok(second) => {
            let (at, (a, b)) = trace.iter().zip(&second).enumerate().find(|(_, (a, b))| a != b)?;
            let before = trace[..at].join("\n");
            Some(again(format!("{before}\nthe same seed has another trace:\n  first  {a}\n  second {b}")))
        }
    }
}

/// A checkpoint that names half of an object must not pass for one.
#[test]
fn a_store_that_accepts_half_of_an_object_is_found_out() {
    let found = (1..=BROKEN_SEEDS).find_map(|seed| sim::run_with_a_broken_store(seed).err().map(|what| (seed, what)));
    let (seed, what) = found.expect("no seed notices that the store is broken");
    println!("seed {seed} notices it");
    assert!(what.contains("half of an object is accepted") && what.contains("checkpoint "), "{what}");
}

#[test]
fn any_story_ends_well_and_happens_the_same_way_again() {
    if let Some(seed) = setting("TIDEMILL_SIM_SEED") {
        let failure = failure(seed);
        println!("{}", sim::run(seed).map_or_else(|what| what, |trace| trace.join("\n")));
        return assert!(failure.is_none(), "{}", failure.unwrap_or_default());
    }
    let (next, last) = (AtomicU64::new(1), setting("TIDEMILL_SIM_SEEDS").unwrap_or(SEEDS));
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed > last {
                        break;
                    }
                    failures.lock().expect("no panic while held").extend(failure(seed).map(|what| (seed, what)));
                }
            });
        }
    });
    let failures = failures.into_inner().expect("no panic while held");
    let seeds: Vec<u64> = failures.iter().map(|(seed, _)| *seed).collect();
    if let Some((_, what)) = failures.into_iter().min_by_key(|(seed, _)| *seed) {
        panic!("{what}\n{} of {last} seeds fail: {seeds:?}", seeds.len());
    }
}
