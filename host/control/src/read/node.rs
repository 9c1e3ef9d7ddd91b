//! Sources and sinks: a kind with its settings, and what every one of them may have.

use std::collections::HashMap;

use tidemill_model::config::DurationMs;

use super::fields::{self, Fields, Limits};
use super::{name_of, on_error};
use crate::diagnostic::{Report, Span};
use crate::names::shown;
use crate::spec::{Connector, EventTime, ExchangeSpec, Input, SinkSpec, SourceSpec, StreamRef, Text};
use crate::tree::{Entry, Node, Tree};

const DAY_MS: i64 = 24 * 3600 * 1000;
/// Delays beyond this are typing errors: state would be kept for as long.
pub(super) const DELAY: Limits<DurationMs> =
    Limits { range: DurationMs(0)..=DurationMs(366 * DAY_MS), words: "a duration of 0s to 366d", type_error: None };
/// A shorter one would call every source idle between two polls.
const IDLE: Limits<DurationMs> =
    Limits { range: DurationMs(1)..=DurationMs(366 * DAY_MS), words: "a duration of 1ms to 366d", type_error: None };
pub(super) const EXCHANGES: &[(&str, ExchangeSpec)] =
    &[("forward", ExchangeSpec::Forward), ("rebalance", ExchangeSpec::Rebalance)];

pub(super) fn source(report: &mut Report, entry: &Entry, kinds: &[&'static str]) -> SourceSpec {
    let name = name_of(entry);
    let what = format!("source `{}`", shown(&name.text));
    let mut spec = SourceSpec { name, connector: None, event_time: None, on_error: None };
    if let Some(fields) = Fields::any(report, &entry.value, &what, &entry.key_span) {
        let own = &["event_time", "on_error"];
        (spec.connector, _) = connector(report, &fields, &what, &entry.key_span, own, kinds, "sources");
        spec.event_time = fields.get("event_time").and_then(|entry| event_time(report, entry));
        spec.on_error = on_error(report, &fields);
    }
    spec
}

pub(super) fn sink(report: &mut Report, entry: &Entry, kinds: &[&'static str]) -> SinkSpec {
    let name = name_of(entry);
    let what = format!("sink `{}`", shown(&name.text));
    let mut spec = SinkSpec { name, input: Input::default(), exchange: None, connector: None };
    if let Some(fields) = Fields::any(report, &entry.value, &what, &entry.key_span) {
        let own = &["input", "exchange"];
        let misspelt;
        (spec.connector, misspelt) = connector(report, &fields, &what, &entry.key_span, own, kinds, "sinks");
        spec.exchange = fields.get("exchange").and_then(|entry| fields::choice(report, entry, EXCHANGES));
        match fields.get("input") {
            Some(entry) => spec.input = input(report, &entry.value, "input", &entry.key_span),
            None if misspelt => {}
            None => {
                report
                    .error(&name_of(entry).span, format!("{what} has no `input`"))
                    .help("say whose rows it takes: `input: NODE`");
            }
        }
    }
    spec
}

/// The one entry that names a connector, and whether there were unknown ones; `own` are the settings beside it.
pub(super) fn connector(
    report: &mut Report,
    fields: &Fields<'_>,
    what: &str,
    at: &Span,
    own: &[&str],
    kinds: &[&'static str],
    section: &str,
) -> (Option<Connector>, bool) {
    let is_kind = |entry: &&Entry| kinds.contains(&entry.key.as_str());
    let found: Vec<&Entry> = fields.entries().iter().filter(is_kind).collect();
    let others = fields.entries().iter().filter(|e| !is_kind(e) && !own.contains(&e.key.as_str()));
    let mut unknown = 0;
    for entry in others {
        unknown += 1;
        if found.is_empty() {
            let candidates: Vec<&str> = kinds.iter().copied().chain(own.iter().copied()).collect();
            let error = report.error(&entry.key_span, format!("{what}: there is no `{}`", shown(&entry.key)));
            let known = if own.is_empty() { section.to_owned() } else { format!("{section} and settings") };
            error.suggest(&entry.key, &known, &candidates);
        } else {
            fields::unknown(report, entry, what, own);
        }
    }
    if let [first, second, ..] = found.as_slice() {
        let error = report.error(&second.key_span, format!("{what} is two things at once"));
        error.label("and this").also(&first.key_span, "this").help(format!("make two {section} of it"));
    }
    if found.is_empty() && unknown == 0 {
        let error = report.error(at, format!("{what} does not say what it is"));
        error.label("needs a connector").help(format!("{section}: {}", crate::names::listed(kinds)));
    }
    let connector = found.first().map(|entry| Connector { kind: name_of(entry), settings: settings(entry) });
    (connector, unknown > 0)
}

/// `blackhole:` with nothing behind it has no settings, which is fine.
fn settings(entry: &Entry) -> Node {
    match entry.value.is_null() {
        true => Node { span: entry.key_span.clone(), value: Tree::Map(Vec::new()) },
        false => entry.value.clone(),
    }
}

fn event_time(report: &mut Report, entry: &Entry) -> Option<EventTime> {
    let what = "`event_time`";
    let fields = Fields::read(report, &entry.value, what, &entry.key_span, &["column", "delay", "idle"])?;
    if fields.get("column").is_none() && !fields.misspelt {
        let error = report.error(&entry.key_span, "`event_time` has no `column`");
        error.help("say which column holds the time: `event_time: { column: NAME, delay: 5s }`");
    }
    let column = fields.text(report, "column");
    let delay_ms = fields.parsed(report, "delay", &DELAY).map_or(0, |d| d.0);
    let idle_ms = fields.parsed(report, "idle", &IDLE).map(|d| d.0);
    Some(EventTime { column: column?, delay_ms, idle_ms })
}

/// `NODE`, `NODE.PORT`, or a list of those.
pub(super) fn input(report: &mut Report, node: &Node, name: &str, at: &Span) -> Input {
    let from: Vec<StreamRef> = fields::texts(report, node, name, at).iter().filter_map(|t| stream(report, t)).collect();
    let mut seen: HashMap<(&str, Option<&str>), &Span> = HashMap::new();
    for stream in &from {
        let first = *seen.entry((&stream.node, stream.port.as_deref())).or_insert(&stream.span);
        if *first != stream.span {
            let error = report.error(&stream.span, format!("`{}` stands twice in this union", shown(&stream.node)));
            error.label("again here").also(first, "first here").help("each of its rows would come twice: remove one");
        }
    }
    Input { from }
}

fn stream(report: &mut Report, text: &Text) -> Option<StreamRef> {
    let (node, port) = text.text.split_once('.').map_or((text.text.as_str(), None), |(n, p)| (n, Some(p)));
    let good = crate::names::is_name(node) && port.is_none_or(crate::names::is_name);
    if !good {
        let error = report.error(&text.span, format!("`{}` is not the name of a stream", shown(&text.text)));
        error.help("write NODE for the rows of a node, or NODE.PORT for one of its side outputs");
        return None;
    }
    Some(StreamRef { node: node.to_owned(), port: port.map(str::to_owned), span: text.span.clone() })
}
