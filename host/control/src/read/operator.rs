//! Operators: one of expression, component or window, with what belongs to it.

use std::collections::HashMap;

use serde_json::Value;

use super::fields::{self, Fields};
use super::node::{EXCHANGES, input};
use super::window::{check_window, window};
use super::{name_of, on_error};
use crate::diagnostic::{Report, Span};
use crate::names::shown;
use crate::spec::{Input, Inputs, Key, LogicSpec, OperatorSpec, Text};
use crate::tree::{Entry, Tree};

const SETTINGS: &[&str] = &[
    "input",
    "inputs",
    "key",
    "where",
    "select",
    "component",
    "operator",
    "config",
    "window",
    "aggregates",
    "join",
    "exchange",
    "on_error",
];

pub(super) fn operator(report: &mut Report, entry: &Entry) -> OperatorSpec {
    let name = name_of(entry);
    let what = format!("operator `{}`", shown(&name.text));
    let mut spec = OperatorSpec {
        name,
        inputs: Inputs::One(Input::default()),
        key: None,
        exchange: None,
        logic: None,
        on_error: None,
        settings: entry.value.clone(),
    };
    let Some(fields) = Fields::read(report, &entry.value, &what, &entry.key_span, SETTINGS) else {
        return spec;
    };
    spec.inputs = inputs(report, &fields, entry, &what);
    spec.key = fields.get("key").and_then(|entry| key(report, entry));
    spec.exchange = fields.get("exchange").and_then(|entry| fields::choice(report, entry, EXCHANGES));
    spec.on_error = on_error(report, &fields);
    spec.logic = logic(report, &fields, entry, &what);
    if let (Some(LogicSpec::Expression { .. }), Some(key)) = (&spec.logic, fields.get("key")) {
        let error = report.error(&key.key_span, format!("{what} has a `key` that it does not need"));
        error.label("no use here").help("`where` and `select` look at one row at a time: remove `key`");
    }
    check_window(report, &spec, &fields, &what);
    super::join::check_key(report, &spec, &fields, &what);
    spec
}

fn inputs(report: &mut Report, fields: &Fields<'_>, entry: &Entry, what: &str) -> Inputs {
    match (fields.get("input"), fields.get("inputs")) {
        (Some(one), None) => Inputs::One(input(report, &one.value, "input", &one.key_span)),
        (None, Some(several)) => {
            let mut named = Vec::new();
            if let Some(ports) = Fields::any(report, &several.value, "`inputs`", &several.key_span) {
                for port in ports.entries() {
                    named.push((name_of(port), input(report, &port.value, &port.key, &port.key_span)));
                }
            }
            Inputs::Named(named, several.key_span.clone())
        }
        (Some(one), Some(several)) => {
            let error = report.error(&several.key_span, format!("{what} has both `input` and `inputs`"));
            error
                .label("and this")
                .also(&one.key_span, "this")
                .help("one input: `input: NODE`; several: `inputs: { PORT: NODE, ... }`");
            Inputs::One(Input::default())
        }
        (None, None) if fields.misspelt => Inputs::One(Input::default()),
        (None, None) => {
            report
                .error(&entry.key_span, format!("{what} has no `input`"))
                .help("say whose rows it takes: `input: NODE`");
            Inputs::One(Input::default())
        }
    }
}

fn key(report: &mut Report, entry: &Entry) -> Option<Key> {
    let mut key = Key { span: entry.key_span.clone(), all: Vec::new(), by_input: Vec::new() };
    match &entry.value.value {
        Tree::Map(ports) => {
            for port in ports {
                let columns = fields::texts(report, &port.value, "key", &port.key_span);
                key.by_input.push((name_of(port), columns));
            }
        }
        _ => key.all = fields::texts(report, &entry.value, "key", &entry.key_span),
    }
    check_twice(report, &key.all);
    key.by_input.iter().for_each(|(_, columns)| check_twice(report, columns));
    (!key.all.is_empty() || !key.by_input.is_empty()).then_some(key)
}

fn check_twice(report: &mut Report, columns: &[Text]) {
    let mut seen: HashMap<&str, &Span> = HashMap::new();
    for column in columns {
        let first = *seen.entry(&column.text).or_insert(&column.span);
        if *first != column.span {
            let error = report.error(&column.span, format!("`{}` stands twice in the key", shown(&column.text)));
            error.label("again here").also(first, "first here");
        }
    }
}

fn logic(report: &mut Report, fields: &Fields<'_>, entry: &Entry, what: &str) -> Option<LogicSpec> {
    let kinds = [&["where", "select"][..], &["component"], &["window"], &["join"]];
    // A join has a condition and a select list of its own.
    let kinds = if fields.get("join").is_some() { &kinds[1..] } else { &kinds };
    let given: Vec<&Entry> = kinds.iter().filter_map(|keys| keys.iter().find_map(|key| fields.get(key))).collect();
    if let [first, second, ..] = given.as_slice() {
        let message = format!("{what} has both `{}` and `{}`", first.key, second.key);
        let error = report.error(&second.key_span, message);
        error.label("and this").also(&first.key_span, "this");
        error.help("a node does one thing: make two nodes, the second with the first as its `input`");
        return None;
    }
    for (key, owner) in [("operator", "component"), ("config", "component"), ("aggregates", "window")] {
        if let (Some(stray), None) = (fields.get(key), fields.get(owner)) {
            let error = report.error(&stray.key_span, format!("{what} has `{key}`, but no `{owner}`"));
            error.label(format!("belongs to a `{owner}`"));
        }
    }
    let stray = ["operator", "config", "aggregates"].iter().any(|key| fields.get(key).is_some());
    if given.is_empty() && !stray && !fields.misspelt {
        let error = report.error(&entry.key_span, format!("{what} does not say what it does"));
        error.help("give it `where`, `select`, `component`, `window` or `join`");
    }
    match given.first()?.key.as_str() {
        "component" => component(report, fields),
        "window" => window(report, fields, what).map(LogicSpec::Window),
        "join" => super::join::join(report, fields, what).map(LogicSpec::Join),
        _ => {
            let (filter, select) = expression(report, fields)?;
            Some(LogicSpec::Expression { filter, select })
        }
    }
}

/// The condition and the select list.
pub(super) fn expression(report: &mut Report, fields: &Fields<'_>) -> Option<(Option<Text>, Option<Vec<Text>>)> {
    let filter = match fields.get("where") {
        Some(_) => Some(fields.text(report, "where")?),
        None => None,
    };
    let select = fields.get("select").map(|entry| {
        let texts = fields::texts(report, &entry.value, "select", &entry.key_span);
        texts.iter().flat_map(|text| items(text, report.text())).collect::<Vec<_>>()
    });
    if select.as_ref().is_some_and(Vec::is_empty) {
        return None;
    }
    Some((filter, select))
}

/// The items of a select list: `a, b + 1 AS c` are two. Each with its own place where it stands there literally.
fn items(text: &Text, source: &str) -> Vec<Text> {
    let (mut items, mut from) = (Vec::new(), text.span.start);
    for item in split_top(&text.text) {
        let rest = from..text.span.end;
        let found =
            source.get(rest.clone()).and_then(|rest| rest.find(item)).map(|at| from + at..from + at + item.len());
        from = found.as_ref().map_or(from, |span| span.end);
        items.push(Text { text: item.to_owned(), span: found.unwrap_or_else(|| text.span.clone()) });
    }
    items
}

/// Splits SQL at commas outside of brackets and quotes. Pieces are trimmed; what is not well formed is
/// left to the SQL parser.
fn split_top(sql: &str) -> Vec<&str> {
    let (mut pieces, mut start, mut depth, mut quote) = (Vec::new(), 0, 0usize, None);
    for (at, c) in sql.char_indices() {
        match (quote, c) {
            (Some(open), _) if open == c => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"' | '`') => quote = Some(c),
            (None, '(' | '[' | '{') => depth += 1,
            (None, ')' | ']' | '}') => depth = depth.saturating_sub(1),
            (None, ',') if depth == 0 => {
                pieces.push(sql[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    pieces.push(sql[start..].trim());
    pieces
}

fn component(report: &mut Report, fields: &Fields<'_>) -> Option<LogicSpec> {
    let path = fields.text(report, "component");
    let operator = fields.text(report, "operator");
    let mut config = Vec::new();
    if let Some(entry) = fields.get("config").filter(|entry| !entry.value.is_null())
        && let Some(settings) = Fields::any(report, &entry.value, "`config`", &entry.key_span)
    {
        config = settings.entries().iter().filter_map(setting).collect();
    }
    Some(LogicSpec::Component { path: path?, operator, config })
}

/// A setting as the component gets it: text as written, lists and maps as JSON; "nothing" is not given.
fn setting(entry: &Entry) -> Option<(String, String)> {
    let text = match (&entry.value.value, entry.value.to_json()) {
        (_, Value::Null) => return None,
        (_, Value::Bool(bool)) => bool.to_string(),
        (Tree::Scalar(scalar), _) => scalar.text.clone(),
        (_, json) => json.to_string(),
    };
    Some((entry.key.clone(), text))
}

#[cfg(test)]
mod tests {
    use super::split_top;

    #[test]
    fn select_lists_are_split_outside_of_brackets_and_quotes() {
        for (sql, pieces) in [
            ("*", &["*"][..]),
            ("a, b + 1 AS c", &["a", "b + 1 AS c"]),
            ("round(a, 2) AS r, 'x, y' AS t", &["round(a, 2) AS r", "'x, y' AS t"]),
            ("'it''s, so' AS a, \"b,c\"", &["'it''s, so' AS a", "\"b,c\""]),
            ("a), b", &["a)", "b"]),
            ("a,", &["a", ""]),
        ] {
            assert_eq!(split_top(sql), pieces, "{sql}");
        }
    }
}
