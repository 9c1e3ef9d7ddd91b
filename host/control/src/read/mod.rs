//! Tree to pipeline: every setting read and checked by itself, nothing looked up elsewhere.
//!
//! Law: independent errors are all reported; an error in one node does not hide another one's.

mod durable;
mod fields;
mod join;
mod node;
mod operator;
mod options;
mod window;

use tidemill_model::fault::OnError;
use tidemill_model::plan::JobOptions;

use crate::diagnostic::{Report, Span};
use crate::names::{NAME_RULE, is_name, shown};
use crate::spec::{Connector, Pipeline, Text};
use crate::tree::{Entry, Node, Tree};
use crate::yaml::EXAMPLE;
use fields::Fields;

const TOP: &[&str] = &[
    "name",
    "on_error",
    "dead_letter",
    "options",
    "state",
    "checkpoints",
    "restart",
    "components",
    "sources",
    "operators",
    "sinks",
];
const ON_ERROR: &[(&str, OnError)] = &[("fail", OnError::Fail), ("dead_letter", OnError::DeadLetter)];

/// The whole file. `kinds`: names of the sources and sinks that exist.
pub(crate) fn pipeline(report: &mut Report, root: &Node, kinds: &Kinds) -> Option<Pipeline> {
    let top = Fields::read(report, root, "a pipeline", &root.span, TOP)?;
    let name = top.text(report, "name").filter(|name| check_name(report, name, "name of a pipeline"));
    let sources = named(report, &top, "sources");
    let sources = sources.into_iter().map(|entry| node::source(report, entry, &kinds.sources)).collect();
    let operators = named(report, &top, "operators");
    let operators = operators.into_iter().map(|entry| operator::operator(report, entry)).collect();
    let sinks = named(report, &top, "sinks");
    let sinks = sinks.into_iter().map(|entry| node::sink(report, entry, &kinds.sinks)).collect();
    let pipeline = Pipeline {
        name,
        on_error: top.get("on_error").and_then(|entry| fields::choice(report, entry, ON_ERROR)),
        dead_letter: dead_letter(report, &top, &kinds.sinks),
        dead_letter_given: top.get("dead_letter").is_some(),
        options: JobOptions {
            state: durable::state(report, &top),
            checkpoints: durable::checkpoints(report, &top),
            restart: durable::restart(report, &top),
            ..options::options(report, &top)
        },
        components: components(report, &top),
        sources,
        operators,
        sinks,
    };
    if !top.misspelt {
        check_presence(report, root, &top);
    }
    Some(pipeline)
}

/// What connectors there are.
pub(crate) struct Kinds {
    pub sources: Vec<&'static str>,
    pub sinks: Vec<&'static str>,
}

/// The entries of a section that maps names to nodes.
fn named<'a>(report: &mut Report, top: &Fields<'a>, section: &str) -> Vec<&'a Entry> {
    let Some(entry) = top.get(section).filter(|entry| !entry.value.is_null()) else {
        return Vec::new();
    };
    let what = format!("`{section}`");
    let Some(fields) = Fields::any(report, &entry.value, &what, &entry.key_span) else {
        return Vec::new();
    };
    for entry in fields.entries() {
        check_name(report, &name_of(entry), "name of a node");
    }
    fields.entries().iter().collect()
}

fn name_of(entry: &Entry) -> Text {
    Text { text: entry.key.clone(), span: entry.key_span.clone() }
}

fn check_name(report: &mut Report, name: &Text, what: &str) -> bool {
    let good = is_name(&name.text);
    if !good {
        report.error(&name.span, format!("`{}` cannot be the {what}", shown(&name.text))).help(NAME_RULE);
    }
    good
}

fn check_presence(report: &mut Report, root: &Node, top: &Fields<'_>) {
    for section in ["sources", "sinks"] {
        let entry = top.get(section);
        // What is no map has been reported as such.
        if entry.is_some_and(|entry| !is_empty(&entry.value)) {
            continue;
        }
        let place = entry.map_or(&root.span, |entry| &entry.key_span);
        let message = format!("the pipeline has no {section}");
        let error = if entry.is_some() { report.error(place, message) } else { report.error_of_file(message) };
        error.help(EXAMPLE);
    }
}

fn is_empty(node: &Node) -> bool {
    node.is_null() || matches!(&node.value, Tree::Map(entries) if entries.is_empty())
}

fn components(report: &mut Report, top: &Fields<'_>) -> Vec<(Text, Text)> {
    let Some(entry) = top.get("components").filter(|entry| !entry.value.is_null()) else {
        return Vec::new();
    };
    let Some(fields) = Fields::any(report, &entry.value, "`components`", &entry.key_span) else {
        return Vec::new();
    };
    let mut components = Vec::new();
    for entry in fields.entries() {
        let name = name_of(entry);
        check_name(report, &name, "name of a component");
        if let Some(path) = fields::text(report, &entry.value, &entry.key, &entry.key_span) {
            components.push((name, path));
        }
    }
    components
}

fn dead_letter(report: &mut Report, top: &Fields<'_>, kinds: &[&'static str]) -> Option<Connector> {
    let entry = top.get("dead_letter")?;
    let fields = Fields::any(report, &entry.value, "`dead_letter`", &entry.key_span)?;
    node::connector(report, &fields, "`dead_letter`", &entry.key_span, &[], kinds, "sinks").0
}

/// `on_error` of a node.
fn on_error(report: &mut Report, fields: &Fields<'_>) -> Option<(OnError, Span)> {
    fields.get("on_error").and_then(|entry| fields::choice(report, entry, ON_ERROR))
}
