//! `state:`, `checkpoints:` and `restart:`: what becomes of a job that fails.

use std::ops::RangeInclusive;

use tidemill_model::checkpoint::CheckpointOptions;
use tidemill_model::config::{ByteSize, DurationMs};
use tidemill_model::plan::{Backend, RestartStrategy, StateOptions};

use super::fields::{self, Fields, Limits};
use crate::diagnostic::Report;

const BACKENDS: &[(&str, Backend)] = &[("heap", Backend::Heap), ("rocksdb", Backend::RocksDb)];
/// Below this a cache holds next to nothing.
const MEMORY: Limits<ByteSize> =
    Limits { range: ByteSize(16 << 20)..=ByteSize(1 << 40), words: "a size of 16MiB to 1TiB", type_error: None };
const STATE: &[&str] = &["backend", "memory", "directory"];

const DAY: i64 = 86_400_000;
/// More often than every 10 ms is more checkpoints than work.
const INTERVAL: Limits<DurationMs> = duration(10..=DAY, "a duration of 10ms to 1d");
const PAUSE: Limits<DurationMs> = duration(0..=DAY, "a duration of 0s to 1d");
const TIMEOUT: Limits<DurationMs> = duration(100..=DAY, "a duration of 100ms to 1d");
const FAILURES: Limits<u64> = Limits {
    range: 0..=1_000_000,
    words: "a whole number of 0 to 1000000",
    type_error: Some("is not a number of failures"),
};
const KEEP: Limits<u64> = Limits {
    range: 1..=1000,
    words: "a whole number of 1 to 1000",
    type_error: Some("is not a number of checkpoints"),
};
const YES: &[(&str, bool)] = &[("true", true), ("false", false)];
const CHECKPOINTS: &[&str] = &[
    "store",
    "endpoint",
    "region",
    "interval",
    "min_pause",
    "timeout",
    "tolerated_failures",
    "keep",
    "retain",
    "fallback",
];

const ATTEMPTS: Limits<u64> = Limits {
    range: 1..=1_000_000,
    words: "a whole number of 1 to 1000000",
    type_error: Some("is not a number of attempts"),
};
const MULTIPLIER: Limits<f64> =
    Limits { range: 1.0..=100.0, words: "a number of 1 to 100", type_error: Some("is not a number") };
const STRATEGIES: &[(&str, Strategy)] = &[
    ("none", Strategy::Never),
    ("fixed_delay", Strategy::Fixed),
    ("exponential_delay", Strategy::Exponential),
    ("failure_rate", Strategy::Rate),
];

const fn duration(range: RangeInclusive<i64>, words: &'static str) -> Limits<DurationMs> {
    Limits { range: DurationMs(*range.start())..=DurationMs(*range.end()), words, type_error: None }
}

#[derive(Clone, Copy)]
enum Strategy {
    Never,
    Fixed,
    Exponential,
    Rate,
}

pub(super) fn state(report: &mut Report, top: &Fields<'_>) -> StateOptions {
    let mut state = StateOptions::default();
    let Some(entry) = top.get("state") else { return state };
    let Some(fields) = Fields::read(report, &entry.value, "`state`", &entry.key_span, STATE) else { return state };
    if let Some((backend, _)) = fields.get("backend").and_then(|entry| fields::choice(report, entry, BACKENDS)) {
        state.backend = backend;
    }
    if let Some(bytes) = fields.parsed(report, "memory", &MEMORY) {
        state.memory_bytes = bytes.0 as usize;
    }
    state.directory = fields.text(report, "directory").map(|text| text.text);
    state
}

pub(super) fn checkpoints(report: &mut Report, top: &Fields<'_>) -> Option<CheckpointOptions> {
    let entry = top.get("checkpoints")?;
    let fields = Fields::read(report, &entry.value, "`checkpoints`", &entry.key_span, CHECKPOINTS)?;
    let mut options = CheckpointOptions::default();
    match fields.text(report, "store") {
        Some(store) if store.text.is_empty() => {
            report.error(&store.span, "`store` is empty").help("name a directory, or `s3://BUCKET/PREFIX`");
        }
        Some(store) => options.store = store.text,
        None if fields.get("store").is_none() && !fields.misspelt => {
            let error = report.error(&entry.key_span, "the checkpoints have no `store`");
            error.help("name a directory, or `s3://BUCKET/PREFIX`: `checkpoints: { store: state }`");
        }
        None => {}
    }
    options.endpoint = fields.text(report, "endpoint").map(|text| text.text);
    options.region = fields.text(report, "region").map(|text| text.text);
    for (key, limits, target) in [
        ("interval", &INTERVAL, &mut options.interval_ms),
        ("min_pause", &PAUSE, &mut options.min_pause_ms),
        ("timeout", &TIMEOUT, &mut options.timeout_ms),
    ] {
        if let Some(time) = fields.parsed(report, key, limits) {
            *target = time.0.unsigned_abs();
        }
    }
    if let Some(failures) = fields.parsed(report, "tolerated_failures", &FAILURES) {
        options.tolerated_failures = failures as u32;
    }
    if let Some(keep) = fields.parsed(report, "keep", &KEEP) {
        options.keep = keep as usize;
    }
    for (key, target) in [("retain", &mut options.retain), ("fallback", &mut options.fallback)] {
        if let Some((yes, _)) = fields.get(key).and_then(|entry| fields::choice(report, entry, YES)) {
            *target = yes;
        }
    }
    Some(options)
}

pub(super) fn restart(report: &mut Report, top: &Fields<'_>) -> RestartStrategy {
    let Some(entry) = top.get("restart") else { return RestartStrategy::default() };
    let all = ["strategy", "attempts", "delay", "initial", "max", "multiplier", "reset", "failures", "interval"];
    let Some(fields) = Fields::read(report, &entry.value, "`restart`", &entry.key_span, &all) else {
        return RestartStrategy::default();
    };
    let strategy = match fields.get("strategy") {
        Some(entry) => fields::choice(report, entry, STRATEGIES).map(|(strategy, _)| strategy),
        None => Some(Strategy::Exponential),
    };
    let Some(strategy) = strategy else { return RestartStrategy::default() };
    let own: &[&str] = match strategy {
        Strategy::Never => &["strategy"],
        Strategy::Fixed => &["strategy", "attempts", "delay"],
        Strategy::Exponential => &["strategy", "initial", "max", "multiplier", "reset"],
        Strategy::Rate => &["strategy", "failures", "interval", "delay"],
    };
    // Those of other strategies are known words, but say nothing here.
    Fields::read(report, &entry.value, "this strategy", &entry.key_span, own);
    let mut ms = |key: &str, default: u64| fields.parsed(report, key, &PAUSE).map_or(default, |d| d.0.unsigned_abs());
    match strategy {
        Strategy::Never => RestartStrategy::Never,
        Strategy::Fixed => {
            let delay_ms = ms("delay", 1000);
            let attempts = fields.parsed(report, "attempts", &ATTEMPTS).unwrap_or(3) as u32;
            RestartStrategy::FixedDelay { attempts, delay_ms }
        }
        Strategy::Exponential => {
            let (initial_ms, max_ms, reset_ms) = (ms("initial", 1000), ms("max", 60_000), ms("reset", 3_600_000));
            let multiplier = fields.parsed(report, "multiplier", &MULTIPLIER).unwrap_or(1.5);
            RestartStrategy::ExponentialDelay { initial_ms, max_ms, multiplier, reset_ms }
        }
        Strategy::Rate => {
            let (interval_ms, delay_ms) = (ms("interval", 60_000), ms("delay", 1000));
            let failures = fields.parsed(report, "failures", &ATTEMPTS).unwrap_or(1) as u32;
            RestartStrategy::FailureRate { failures, interval_ms, delay_ms }
        }
    }
}
