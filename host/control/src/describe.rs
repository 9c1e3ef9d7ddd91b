//! A loaded pipeline in words: what `tidemill check` prints when all is well.

use std::fmt::Write as _;

use arrow::datatypes::Schema;
use tidemill_model::schema::type_name;

use crate::{Loaded, NodeSummary};

/// Columns on one line before it is broken.
const LINE_COLUMNS_MAX: usize = 96;

/// Nodes in order with their kind, inputs, key and output columns. Ends with a line break.
pub fn describe(loaded: &Loaded) -> String {
    let mut out = String::new();
    let count = |kind: &str| loaded.nodes.iter().filter(|node| node.kind.starts_with(kind)).count();
    let (sources, sinks) = (count("source"), count("sink"));
    let operators = loaded.nodes.len() - sources - sinks;
    let _ = writeln!(
        out,
        "pipeline {}: {}, {}, {}",
        loaded.plan.name,
        plural(sources, "source"),
        plural(operators, "operator"),
        plural(sinks, "sink")
    );
    for node in &loaded.nodes {
        describe_node(&mut out, node);
    }
    out
}

fn describe_node(out: &mut String, node: &NodeSummary) {
    let _ = writeln!(out, "\n{}: {}", node.name, node.kind);
    for (port, streams) in &node.inputs {
        let name = if port.is_empty() { "input".to_owned() } else { format!("input {port}") };
        let _ = writeln!(out, "  {name}: {}", streams.join(" + "));
    }
    if !node.key.is_empty() {
        let _ = writeln!(out, "  key: {}", node.key.join(", "));
    }
    if let Some(event_time) = &node.event_time {
        let _ = writeln!(out, "  event time: {event_time}");
    }
    for (i, (port, schema)) in node.outputs.iter().enumerate() {
        let name = if i == 0 { "columns".to_owned() } else { format!("output {port}") };
        let _ = writeln!(out, "  {name}: {}", columns(schema));
    }
    if node.dead_letter {
        let _ = writeln!(out, "  bad rows: to the dead-letter output");
    }
}

/// `a int64, b utf8?`, broken into lines.
fn columns(schema: &Schema) -> String {
    let (mut out, mut width) = (String::new(), 0);
    for (i, field) in schema.fields().iter().enumerate() {
        let mark = if field.is_nullable() { "?" } else { "" };
        let column = format!("{} {}{mark}", field.name(), type_name(field.data_type()));
        if i > 0 {
            out.push(',');
            if width + column.len() > LINE_COLUMNS_MAX {
                out.push_str("\n   ");
                width = 0;
            }
            out.push(' ');
        }
        width += column.len() + 2;
        out.push_str(&column);
    }
    out
}

fn plural(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// A duration as a user would write it.
pub(crate) fn duration(ms: i64) -> String {
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s")];
    match units.iter().find(|(size, _)| ms != 0 && ms % size == 0) {
        Some((size, unit)) => format!("{}{unit}", ms / size),
        None if ms == 0 => "0s".to_owned(),
        None => format!("{ms}ms"),
    }
}
