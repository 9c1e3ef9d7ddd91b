//! What is simulated: a pipeline of some parts, its input and its settings, all by seed.
//!
//! Law: the result depends on the input and, where rows are late, on `batch_rows`; on nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidemill_model::checkpoint::CheckpointOptions;
use tidemill_model::plan::{Backend, JobOptions, TickMode};

use super::input::{DELAY_MS, IDLE_MS, Script};
use super::version::Version;
use crate::chance::Chance;

/// Operators and sinks, and what they read.
struct Fragment {
    name: &'static str,
    sources: &'static [&'static str],
    operators: &'static str,
    /// Stream by sink.
    sinks: &'static [(&'static str, &'static str)],
    /// Operators with state, by node.
    keyed: &'static [(&'static str, &'static str)],
}

const FRAGMENTS: &[Fragment] = &[
    Fragment {
        name: "a count per row of a key",
        sources: &["rows"],
        operators: "
  counts: { input: rows, key: [k], component: cases, operator: count }
  counted: { input: counts, select: [k, count] }",
        sinks: &[("counted_out", "counted")],
        keyed: &[("counts", "count")],
    },
    Fragment {
        name: "sums by timers",
        sources: &["rows"],
        operators: "
  sliced: { input: rows, select: [g as k, n, t / 3000 as slice] }
  totals: { input: sliced, key: [k, slice], component: cases, operator: totals, config: { size: 3s } }",
        sinks: &[("totals_out", "totals")],
        keyed: &[("totals", "totals")],
    },
    Fragment {
        name: "lists and maps by timers",
        sources: &["rows"],
        operators: "
  cut: { input: rows, select: [g as k, n, t / 4000 as slice] }
  digits: { input: cut, key: [k, slice], component: cases, operator: digits, config: { size: 4s } }",
        sinks: &[("digits_out", "digits")],
        keyed: &[("digits", "digits")],
    },
    Fragment {
        name: "windows",
        sources: &["rows"],
        operators: "
  windows:
    input: rows
    key: [k]
    window: { tumbling: 5s }
    aggregates: { rows: count(*), sum: sum(n), least: min(n), mean: avg(n) }",
        sinks: &[("windows_out", "windows")],
        keyed: &[],
    },
    Fragment {
        name: "sessions of windows",
        sources: &["rows"],
        operators: "
  clicks: { input: rows, key: [k], window: { tumbling: 2s }, aggregates: { clicks: count(*) } }
  users: { input: clicks, select: [k as user, clicks] }
  sessions: { input: users, key: [user], component: cases, operator: sessions, config: { gap: 4s } }",
        sinks: &[("sessions_out", "sessions")],
        keyed: &[("sessions", "sessions")],
    },
    Fragment {
        name: "side outputs",
        sources: &["rows"],
        operators: "
  route: { input: rows, component: cases, operator: route, config: { limit: 100 } }
  dealt: { input: route.large, exchange: rebalance, where: length > 2 }",
        sinks: &[("small", "route"), ("large", "dealt"), ("negative", "route.negative")],
        keyed: &[],
    },
    Fragment {
        name: "poison rows",
        sources: &["rows"],
        operators: "
  roots: { input: rows, component: cases, operator: fussy }
  few: { input: rows, component: cases, operator: fussy_filter }
  fussy: { input: rows, key: [k], component: cases, operator: fussy_count }
  fussily: { input: fussy, select: [k, count] }",
        sinks: &[("roots_out", "roots"), ("few_out", "few"), ("fussily_out", "fussily")],
        keyed: &[("fussy", "fussy_count")],
    },
    Fragment {
        name: "two inputs with one state",
        sources: &["orders", "paid"],
        operators: "
  ordered: { input: orders, select: [k as order, k as item] }
  payments: { input: paid, select: [k as order, n as paid] }
  tickets:
    inputs: { orders: ordered, payments: payments }
    key: { orders: [order], payments: [order] }
    component: cases
    operator: tickets",
        sinks: &[("tickets_out", "tickets")],
        keyed: &[("tickets", "tickets")],
    },
    Fragment {
        name: "two inputs with timers",
        sources: &["asked", "answered"],
        operators: "
  answers: { input: answered, select: [k, cast(n as double) as v] }
  patience:
    inputs: { orders: asked, payments: answers }
    key: { orders: [k], payments: [k] }
    component: cases
    operator: patience",
        sinks: &[("patience_out", "patience")],
        keyed: &[("patience", "patience")],
    },
    Fragment {
        name: "rows as they are",
        sources: &["rows"],
        operators: "",
        sinks: &[("rows_out", "rows")],
        keyed: &[],
    },
    Fragment {
        name: "rules for all workers",
        sources: &["rows", "rules"],
        operators: "
  readings: { input: rows, select: [k as sensor, cast(g % 3 as varchar) as kind, t as at, n as value] }
  limits: { input: rules, select: [cast(g % 3 as varchar) as kind, t as at, n * n as value] }
  alarms: { inputs: { readings: readings, rules: limits }, key: { readings: [sensor] }, component: cases, operator: alarms }",
        sinks: &[("alarms_out", "alarms")],
        keyed: &[],
    },
    Fragment {
        name: "late rows",
        sources: &["tardy"],
        operators:
            "
  intervals: { input: tardy, key: [k], window: { tumbling: 4s, allowed_lateness: 1s }, aggregates: { rows: count(*) } }",
        sinks: &[("intervals_out", "intervals"), ("late_out", "intervals.late")],
        keyed: &[],
    },
];

/// Name of all pipelines.
pub const PIPELINE: &str = "sim";
/// Rows of a source.
const ROWS_MAX: usize = 250;
const KEYS_MAX: usize = 12;

#[derive(Clone)]
pub struct Shape {
    pub text: String,
    pub sources: Vec<(&'static str, Arc<Script>)>,
    pub options: JobOptions,
    /// Operators are components.
    pub wasm: bool,
    /// Bad rows go to the dead letters.
    pub forgiving: bool,
    /// A node that is slow, and how slow.
    pub slow: Option<(String, usize)>,
    /// Rows that an operator takes at once.
    pub piece: usize,
    /// Operators with state, by node.
    pub keyed: Vec<(&'static str, &'static str)>,
    /// Of operators; of others the first.
    pub versions: BTreeMap<&'static str, Version>,
}

impl Shape {
    pub fn draw(chance: &mut Chance) -> Self {
        let batch_ticks = chance.one_in(3);
        let known: Vec<&Fragment> = FRAGMENTS.iter().filter(|f| batch_ticks || f.name != "late rows").collect();
        let mut chosen: Vec<&Fragment> = Vec::new();
        for _ in 0..1 + chance.below(3) {
            let fragment = chance.pick(&known);
            if chosen.iter().all(|other| other.name != fragment.name) {
                chosen.push(fragment);
            }
        }
        let forgiving = chosen.iter().any(|fragment| fragment.name == "poison rows") || chance.one_in(3);
        let sources = scripts(chance, &chosen);
        let nodes: Vec<&str> = chosen.iter().flat_map(|f| f.sinks).map(|(sink, _)| *sink).collect();
        Self {
            text: text(chance, &chosen, forgiving),
            options: options(chance, batch_ticks),
            wasm: chance.one_in(6),
            forgiving,
            slow: chance.one_in(3).then(|| (chance.pick(&nodes).to_owned(), 4 << chance.below(5))),
            piece: if chance.one_in(3) { 1 + chance.below(5) } else { usize::MAX },
            sources,
            keyed: chosen.iter().flat_map(|fragment| fragment.keyed).copied().collect(),
            versions: BTreeMap::new(),
        }
    }

    pub fn version(&self, operator: &str) -> Version {
        self.versions.get(operator).copied().unwrap_or(Version::FIRST)
    }
}

fn options(chance: &mut Chance, batch_ticks: bool) -> JobOptions {
    let checkpoints = CheckpointOptions { keep: 1 + chance.below(3), ..CheckpointOptions::default() };
    let mut options = JobOptions {
        ticks: if batch_ticks { TickMode::Batch } else { TickMode::Wall },
        tick_ms: chance.pick(&[10, 100, 1000]),
        ticks_in_flight: 1 + chance.below(8) as u64,
        batch_rows: chance.pick(&[1, 2, 7, 32, 1000]),
        checkpoints: Some(checkpoints),
        ..JobOptions::default()
    };
    options.state.backend = chance.pick(&[Backend::Heap, Backend::Heap, Backend::RocksDb]);
    options
}

/// Input of all sources that the fragments read.
fn scripts(chance: &mut Chance, chosen: &[&Fragment]) -> Vec<(&'static str, Arc<Script>)> {
    let mut sources = Vec::new();
    let reads = |name: &str| chosen.iter().any(|fragment| fragment.sources.contains(&name));
    let (rows, keys) = (20 + chance.below(ROWS_MAX), 1 + chance.below(KEYS_MAX));
    if reads("rows") {
        sources.push(("rows", Script::draw(chance, rows, keys)));
    }
    if reads("tardy") {
        sources.push(("tardy", Script::late(chance, rows, keys)));
    }
    if reads("rules") {
        let mut rules = Script::draw(chance, 1 + rows / 4, keys);
        // Where ticks are batches, nothing goes on while one of two sources pauses.
        rules.0.iter_mut().for_each(|split| split.pauses.clear());
        sources.push(("rules", rules));
    }
    if reads("orders") {
        let (mut orders, mut paid) = (Script::draw(chance, rows, keys), Script::draw(chance, rows, keys));
        orders.number_keys("o");
        paid.number_keys("o");
        sources.extend([("orders", orders), ("paid", paid)]);
    }
    if reads("asked") {
        // Whoever is answered at all is in time.
        let mut asked = Script::draw(chance, rows, keys);
        asked.number_keys("q");
        let mut answered = asked.clone();
        for split in &mut answered.0 {
            split.pauses.clear();
            split.rows.retain(|_| !chance.one_in(3));
            split.rows.iter_mut().for_each(|row| row.t += chance.below(1500) as i64);
        }
        sources.extend([("asked", asked), ("answered", answered)]);
    }
    sources.into_iter().map(|(name, script)| (name, Arc::new(script))).collect()
}

fn text(chance: &mut Chance, chosen: &[&Fragment], forgiving: bool) -> String {
    let mut text = format!("name: {PIPELINE}\ncomponents: {{ cases: case-operators.wasm }}\n");
    let roll = 1 + chance.below(50);
    let file = |name: &str| format!("file: {{ path: out/{name}, format: ndjson, roll_rows: {roll} }}");
    if forgiving {
        text += &format!("on_error: dead_letter\ndead_letter: {{ {} }}\n", file("dead_letter"));
    }
    text += "sources:\n";
    let mut sources: Vec<&str> = chosen.iter().flat_map(|fragment| fragment.sources).copied().collect();
    sources.sort_unstable();
    sources.dedup();
    for name in sources {
        let delay = DELAY_MS * 2;
        let time = format!("event_time: {{ column: t, delay: {delay}ms, idle: {IDLE_MS}ms }}");
        text += &format!("  {name}: {{ scripted: {{ name: {name} }}, {time} }}\n");
    }
    let operators: String = chosen.iter().map(|fragment| fragment.operators).collect();
    if !operators.is_empty() {
        text += &format!("operators:{operators}\n");
    }
    text += "sinks:\n";
    for (sink, stream) in chosen.iter().flat_map(|fragment| fragment.sinks) {
        text += &format!("  {sink}: {{ input: {stream}, {} }}\n", file(sink));
    }
    text
}
