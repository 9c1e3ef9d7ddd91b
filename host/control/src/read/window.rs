//! Windows: how they are laid out, when they fire, what they aggregate.

use tidemill_model::config::DurationMs;
use tidemill_model::logic::TimeDomain;
use tidemill_model::window::{Fires, Gap, Trigger, Windows};

use super::fields::{self, Fields, Limits};
use super::name_of;
use super::node::DELAY;
use crate::diagnostic::Report;
use crate::names::shown;
use crate::spec::{LogicSpec, OperatorSpec, Text, WindowSpec};
use crate::tree::Entry;

/// Each says what kind of windows these are.
const KINDS: &[&str] = &["tumbling", "sliding", "cumulate", "session", "session_gap", "count", "global"];
const WINDOW: &[&str] = &[
    "tumbling",
    "sliding",
    "slide",
    "cumulate",
    "step",
    "session",
    "session_gap",
    "count",
    "global",
    "time",
    "offset",
    "allowed_lateness",
    "trigger",
];
const TRIGGER: &[&str] = &["count", "every", "early", "delta", "threshold", "end", "time", "purge"];
const CLOCKS: &[(&str, TimeDomain)] = &[("event", TimeDomain::Event), ("processing", TimeDomain::Processing)];
const YES_NO: &[(&str, bool)] = &[("true", true), ("false", false)];
const DAY_MS: i64 = 24 * 3600 * 1000;
const SIZE: Limits<DurationMs> =
    Limits { range: DurationMs(1)..=DurationMs(366 * DAY_MS), words: "a duration of 1ms to 366d", type_error: None };
const OFFSET: Limits<DurationMs> = Limits {
    range: DurationMs(-366 * DAY_MS)..=DurationMs(366 * DAY_MS),
    words: "a duration shorter than the window",
    type_error: None,
};
const ROWS: Limits<u64> = Limits {
    range: 1..=1_000_000_000,
    words: "a whole number of 1 to 1000000000",
    type_error: Some("is not a number of rows"),
};
const THRESHOLD: Limits<f64> =
    Limits { range: 0.0..=f64::MAX, words: "a number from 0", type_error: Some("is not a number") };

pub(super) fn window(report: &mut Report, fields: &Fields<'_>, what: &str) -> Option<WindowSpec> {
    let entry = fields.get("window")?;
    let aggregates = aggregates(report, fields);
    if fields.get("aggregates").is_none() {
        let error = report.error(&entry.key_span, format!("{what} has a `window`, but no `aggregates`"));
        error
            .help("say what is computed per key and window: `aggregates: { flights: \"count(*)\", mean: avg(delay) }`");
    }
    let settings = Fields::read(report, &entry.value, "`window`", &entry.key_span, WINDOW)?;
    let windows = windows(report, &settings, entry, "; `window: { session: 30m }`; `window: { count: 100 }`")?;
    let time = settings.get("time").map(|entry| fields::choice(report, entry, CLOCKS));
    let time = time.map_or(Some(TimeDomain::Event), |time| time.map(|(time, _)| time))?;
    let offset_ms = settings.parsed(report, "offset", &OFFSET).map_or(0, |d| d.0);
    let allowed_lateness_ms = settings.parsed(report, "allowed_lateness", &DELAY).map_or(0, |d| d.0);
    check_offset(report, &settings, &windows, offset_ms);
    let trigger = match settings.get("trigger") {
        Some(entry) => Some(trigger(report, entry, time)?),
        None => settings.parsed(report, "count", &ROWS).map(|n| Trigger { fires: Fires::Count(n), purge: true }),
    };
    for (key, needed) in [("trigger", "count"), ("time", "count"), ("allowed_lateness", "global"), ("time", "global")] {
        if let (Some(stray), Some(kind)) = (settings.get(key), settings.get(needed)) {
            let error = report.error(&stray.key_span, format!("windows of `{needed}` have no `{key}`"));
            error.label("not here").also(&kind.key_span, "these windows");
        }
    }
    if windows == Windows::Global && trigger.is_none() {
        let error = report.error(&entry.key_span, "a `global` window has no end at which it would fire");
        error.label("needs a `trigger`").help("`window: { global: , trigger: { count: 100 } }`");
    }
    Some(WindowSpec {
        span: entry.key_span.clone(),
        windows,
        time,
        offset_ms,
        allowed_lateness_ms,
        trigger,
        aggregates,
    })
}

/// Size, slide and offset of windows that begin at the same times for all keys.
pub(super) fn spans(report: &mut Report, settings: &Fields<'_>, entry: &Entry) -> Option<(i64, i64, i64)> {
    let windows = windows(report, settings, entry, "")?;
    let offset_ms = settings.parsed(report, "offset", &OFFSET).map_or(0, |d| d.0);
    check_offset(report, settings, &windows, offset_ms);
    match windows {
        Windows::Tumbling { size_ms } => Some((size_ms, size_ms, offset_ms)),
        Windows::Sliding { size_ms, slide_ms } => Some((size_ms, slide_ms, offset_ms)),
        _ => None,
    }
}

/// How windows are laid out. What is missing or wrong is reported; `others`: further kinds, for help.
fn windows(report: &mut Report, settings: &Fields<'_>, entry: &Entry, others: &str) -> Option<Windows> {
    let mut kinds = KINDS.iter().filter_map(|kind| settings.get(kind));
    let Some(kind) = kinds.next() else {
        if !settings.misspelt {
            let error = report.error(&entry.key_span, "`window` does not say its size");
            error.help(format!("`window: {{ tumbling: 1h }}`; {}{others}", steps("sliding").1));
        }
        return None;
    };
    if let Some(other) = kinds.next() {
        let message = format!("a window is either `{}` or `{}`", kind.key, other.key);
        report.error(&other.key_span, message).label("and this").also(&kind.key_span, "this");
        return None;
    }
    for step in ["slide", "step"] {
        if let Some(stray) = settings.get(step).filter(|_| steps(&kind.key).0 != Some(step)) {
            let owner = if step == "slide" { "sliding" } else { "cumulate" };
            let error = report.error(&stray.key_span, format!("{} windows have no `{step}`", kind.key));
            error.label("not here").help(steps(owner).1);
            return None;
        }
    }
    let (Some(step), help) = steps(&kind.key) else {
        return Some(match kind.key.as_str() {
            "tumbling" => Windows::Tumbling { size_ms: settings.parsed(report, "tumbling", &SIZE)?.0 },
            "session" => Windows::Session(Gap::Ms(settings.parsed(report, "session", &SIZE)?.0)),
            "session_gap" => Windows::Session(Gap::Of(settings.text(report, "session_gap")?.text)),
            _ => Windows::Global,
        });
    };
    let size = settings.parsed(report, &kind.key, &SIZE);
    if settings.get(step).is_none() {
        report.error(&kind.key_span, format!("{} windows need a `{step}`", kind.key)).help(help);
        return None;
    }
    let step = settings.parsed(report, step, &SIZE);
    let (size_ms, step_ms) = (size?.0, step?.0);
    Some(match kind.key.as_str() {
        "sliding" => Windows::Sliding { size_ms, slide_ms: step_ms },
        _ => Windows::Cumulate { size_ms, step_ms },
    })
}

/// The setting that a kind of windows has beside its size, and how it looks.
fn steps(kind: &str) -> (Option<&'static str>, &'static str) {
    match kind {
        "sliding" => (Some("slide"), "windows that overlap: `window: { sliding: 10s, slide: 1s }`"),
        "cumulate" => (Some("step"), "windows that grow: `window: { cumulate: 1d, step: 1h }`"),
        _ => (None, ""),
    }
}

fn check_offset(report: &mut Report, settings: &Fields<'_>, windows: &Windows, offset_ms: i64) {
    let Some(entry) = settings.get("offset") else { return };
    let (what, period) = match *windows {
        Windows::Tumbling { size_ms } | Windows::Cumulate { size_ms, .. } => ("window", size_ms),
        Windows::Sliding { size_ms, slide_ms } if size_ms == slide_ms => ("window", size_ms),
        Windows::Sliding { slide_ms, .. } => ("slide", slide_ms),
        Windows::Session(_) | Windows::Global => {
            report.error(&entry.key_span, "such windows begin with a row: they have no `offset`").label("not here");
            return;
        }
    };
    if offset_ms.abs() >= period
        && let Some(offset) = settings.text(report, "offset")
    {
        report.error(&offset.span, format!("`offset` must be shorter than the {what}")).label("too long");
    }
}

/// `time`: the clock of the windows.
fn trigger(report: &mut Report, entry: &Entry, time: TimeDomain) -> Option<Trigger> {
    const HELP: &str = "`trigger: { count: 100 }`, `{ every: 10s, time: processing }`, `{ early: 5s }`, `{ delta: price, threshold: 5 }` or `{ end: }`";
    let settings = Fields::read(report, &entry.value, "`trigger`", &entry.key_span, TRIGGER)?;
    let given: Vec<&Entry> =
        ["count", "every", "early", "delta", "end"].iter().filter_map(|kind| settings.get(kind)).collect();
    let kind = match given.as_slice() {
        [kind] => *kind,
        [] => {
            if !settings.misspelt {
                report.error(&entry.key_span, "`trigger` does not say when it fires").help(HELP);
            }
            return None;
        }
        [one, two, ..] => {
            let message = format!("a trigger has either `{}` or `{}`", one.key, two.key);
            report.error(&two.key_span, message).label("and this").also(&one.key_span, "this");
            return None;
        }
    };
    for (key, owner) in [("threshold", "delta"), ("time", "every")] {
        if let Some(stray) = settings.get(key).filter(|_| kind.key != owner) {
            let error = report.error(&stray.key_span, format!("`{key}` belongs to `{owner}`"));
            error.label("not here").help(HELP);
            return None;
        }
    }
    let purge = settings.get("purge").map(|entry| fields::choice(report, entry, YES_NO));
    let purge = purge.map_or(Some(false), |purge| purge.map(|(purge, _)| purge))?;
    let fires = match kind.key.as_str() {
        "count" => Fires::Count(settings.parsed(report, "count", &ROWS)?),
        "every" => {
            let clock = settings.get("time").map(|entry| fields::choice(report, entry, CLOCKS));
            let clock = clock.map_or(Some(time), |clock| clock.map(|(clock, _)| clock))?;
            Fires::Every(clock, settings.parsed(report, "every", &SIZE)?.0)
        }
        "early" => Fires::Early(settings.parsed(report, "early", &SIZE)?.0),
        "delta" => {
            let value = settings.text(report, "delta")?.text;
            if settings.get("threshold").is_none() {
                report.error(&kind.key_span, "`delta` needs a `threshold`").help(HELP);
            }
            Fires::Delta { value, threshold: settings.parsed(report, "threshold", &THRESHOLD)? }
        }
        _ => Fires::AtEnd,
    };
    Some(Trigger { fires, purge })
}

fn aggregates(report: &mut Report, fields: &Fields<'_>) -> Vec<(Text, Text)> {
    let Some(entry) = fields.get("aggregates") else {
        return Vec::new();
    };
    let Some(settings) = Fields::any(report, &entry.value, "`aggregates`", &entry.key_span) else {
        return Vec::new();
    };
    if settings.entries().is_empty() {
        report.error(&entry.value.span, "`aggregates` is empty").label("needs at least one");
    }
    let mut aggregates = Vec::new();
    for entry in settings.entries() {
        let name = name_of(entry);
        super::check_name(report, &name, "name of an aggregate");
        if matches!(name.text.as_str(), "window_start" | "window_end") {
            let error = report.error(&name.span, format!("`{}` is already a column of every window", name.text));
            error.label("choose another name");
        }
        if let Some(text) = fields::text(report, &entry.value, &entry.key, &entry.key_span) {
            aggregates.push((name, text));
        }
    }
    aggregates
}

pub(super) fn check_window(report: &mut Report, spec: &OperatorSpec, fields: &Fields<'_>, what: &str) {
    let Some(LogicSpec::Window(window)) = &spec.logic else {
        return;
    };
    if fields.get("key").is_none() {
        let error = report.error(&window.span, format!("{what} has a `window`, but no `key`"));
        error.help(
            "say per what it aggregates: `key: [COLUMN]`; for all rows together, put \
             `select: [\"*\", \"1 AS all_rows\"]` before it and take `key: [all_rows]`",
        );
    }
    for column in spec.key.iter().flat_map(|key| &key.all) {
        if let Some((name, _)) = window.aggregates.iter().find(|(name, _)| name.text == column.text) {
            let error = report.error(&name.span, format!("`{}` is already a key column", shown(&name.text)));
            error.label("choose another name").also(&column.span, "this one");
        }
    }
}
