//! Joins: which rows are partners, and which come out without one.

use tidemill_model::config::DurationMs;
use tidemill_model::join::{JoinKind, JoinType, SIDES};

use super::fields::{self, Fields, Limits};
use super::{operator, window};
use crate::diagnostic::Report;
use crate::spec::{JoinLogic, LogicSpec, OperatorSpec};
use crate::tree::Entry;

const SETTINGS: &[&str] = &["interval", "window", "temporal", "type"];
const INTERVAL: &[&str] = &["from", "to", "from_exclusive", "to_exclusive"];
const WINDOW: &[&str] = &["tumbling", "sliding", "slide", "offset"];
const DAY_MS: i64 = 24 * 3600 * 1000;
/// Rows are kept for as long.
const BOUND: Limits<DurationMs> = Limits {
    range: DurationMs(-366 * DAY_MS)..=DurationMs(366 * DAY_MS),
    words: "a duration of -366d to 366d",
    type_error: None,
};
const BOOLS: &[(&str, bool)] = &[("true", true), ("false", false)];
const EXAMPLES: &str =
    "`join: { interval: { from: -30s, to: 30s } }`; `join: { window: { tumbling: 10s } }`; `join: { temporal: }`";

pub(super) fn join(report: &mut Report, fields: &Fields<'_>, what: &str) -> Option<JoinLogic> {
    let entry = fields.get("join")?;
    let expressions = operator::expression(report, fields);
    let settings = Fields::read(report, &entry.value, "`join`", &entry.key_span, SETTINGS)?;
    let join_type = settings.get("type").map(|entry| fields::choice(report, entry, &JoinType::ALL));
    let kind = kind(report, &settings, entry, what);
    if let (Some(JoinKind::Temporal), Some(Some((JoinType::Right | JoinType::Full, span)))) = (kind, &join_type) {
        let error = report.error(span, "a temporal join is `inner` or `left`");
        error.label("not here").help("versions are there for the rows on the left: by themselves they do not come out");
        return None;
    }
    let join_type = match join_type {
        Some(given) => given?.0,
        None => JoinType::Inner,
    };
    let (filter, select) = expressions?;
    Some(JoinLogic { span: entry.key_span.clone(), kind: kind?, join_type, filter, select })
}

fn kind(report: &mut Report, settings: &Fields<'_>, join: &Entry, what: &str) -> Option<JoinKind> {
    let given: Vec<&Entry> = ["interval", "window", "temporal"].iter().filter_map(|kind| settings.get(kind)).collect();
    match given.as_slice() {
        [one, two, ..] => {
            let error = report.error(&two.key_span, format!("a join is either by `{}` or by `{}`", one.key, two.key));
            error.label("and this").also(&one.key_span, "this");
            None
        }
        [entry] if entry.key == "interval" => interval(report, entry),
        [entry] if entry.key == "window" => {
            let settings = Fields::read(report, &entry.value, "`window`", &entry.key_span, WINDOW)?;
            let (size_ms, slide_ms, offset_ms) = window::spans(report, &settings, entry)?;
            Some(JoinKind::Window { size_ms, slide_ms, offset_ms })
        }
        [entry] => {
            // It has no settings: nothing behind it is as good as an empty map.
            if !entry.value.is_null() {
                Fields::read(report, &entry.value, "`temporal`", &entry.key_span, &[])?;
            }
            Some(JoinKind::Temporal)
        }
        [] if settings.misspelt => None,
        [] => {
            let error = report.error(&join.key_span, format!("{what} does not say which rows belong together in time"));
            error.help(EXAMPLES);
            None
        }
    }
}

fn interval(report: &mut Report, entry: &Entry) -> Option<JoinKind> {
    let settings = Fields::read(report, &entry.value, "`interval`", &entry.key_span, INTERVAL)?;
    let mut bound = |name: &str| {
        if settings.get(name).is_none() && !settings.misspelt {
            let error = report.error(&entry.key_span, format!("`interval` has no `{name}`"));
            error.help("how far right rows may be from left ones: `interval: { from: -30s, to: 30s }`");
        }
        let exclusive = settings.get(&format!("{name}_exclusive"));
        let exclusive = exclusive.and_then(|entry| fields::choice(report, entry, BOOLS)).is_some_and(|given| given.0);
        Some((settings.parsed(report, name, &BOUND)?.0, i64::from(exclusive)))
    };
    let (from, to) = (bound("from"), bound("to"));
    let ((from, from_out), (to, to_out)) = (from?, to?);
    let (lower_ms, upper_ms) = (from + from_out, to - to_out);
    if lower_ms > upper_ms
        && let Some(wrong) = settings.text(report, "to")
    {
        let error = report.error(&wrong.span, "the interval is empty: it ends before it begins");
        error.label("too early").help("`from` is the earlier bound, `to` the later one: `{ from: -30s, to: 30s }`");
        return None;
    }
    Some(JoinKind::Interval { lower_ms, upper_ms })
}

/// A join is by key.
pub(super) fn check_key(report: &mut Report, spec: &OperatorSpec, fields: &Fields<'_>, what: &str) {
    let Some(LogicSpec::Join(join)) = &spec.logic else { return };
    if fields.get("key").is_none() {
        let error = report.error(&join.span, format!("{what} has a `join`, but no `key`"));
        let [left, right] = SIDES;
        error.help(format!(
            "say which columns are equal: `key: {{ {left}: [COLUMN], {right}: [COLUMN] }}`, or `key: [COLUMN]`"
        ));
    }
}
