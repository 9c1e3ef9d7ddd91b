//! `tidemill inspect`: what a component says about itself.

use std::fmt::Write as _;
use std::path::PathBuf;

use arrow::datatypes::Schema;
use tidemill_model::component::{Descriptor, LogicKind, Port, StateScope};
use tidemill_model::schema::type_name;

use crate::catalog::Builtins;
use crate::terminal::print;

#[derive(clap::Args)]
pub struct Args {
    /// The component (a `.wasm` file as `tidemill build` writes it)
    component: PathBuf,
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    let component = Builtins::new()?.load(&args.component)?;
    let mut text = String::new();
    let size = std::fs::metadata(&args.component).map_or(0, |m| m.len());
    writeln!(text, "{}  {size} bytes  sha256 {}", args.component.display(), component.digest())?;
    writeln!(text, "exports  {}", component.exports().join(", "))?;
    writeln!(text, "imports  {}", component.imports().join(", "))?;
    for operator in component.operators() {
        show(&mut text, operator)?;
    }
    print(text)
}

fn show(text: &mut String, operator: &Descriptor) -> std::fmt::Result {
    let kind = match operator.kind {
        LogicKind::Map => "map",
        LogicKind::Filter => "filter",
        LogicKind::Keyed => "keyed",
    };
    writeln!(text, "\n{} ({kind})", operator.name)?;
    if !operator.doc.is_empty() {
        writeln!(text, "  {}", operator.doc)?;
    }
    for port in &operator.inputs {
        show_port(text, "input", port)?;
    }
    for port in &operator.outputs {
        show_port(text, "output", port)?;
    }
    for state in &operator.states {
        let codec = if state.codec.is_empty() { String::new() } else { format!(", {}", state.codec) };
        let ttl = state.ttl.map_or(String::new(), |ttl| {
            let since = if ttl.on_read { "read or write" } else { "write" };
            format!(", dropped {} ms after the last {since}", ttl.ms)
        });
        let kept = state.type_text();
        let per = match state.scope {
            StateScope::Key => "per key",
            StateScope::Broadcast => "broadcast",
            StateScope::Split => "per worker, split",
            StateScope::Union => "per worker, union",
        };
        writeln!(text, "  state  {}: {kept} {per} (version {}{codec}{ttl})", state.name, state.version)?;
    }
    Ok(())
}

fn show_port(text: &mut String, what: &str, port: &Port) -> std::fmt::Result {
    let carry = if port.carry { "all columns of its input row, then " } else { "" };
    let broadcast = if port.broadcast { " (broadcast)" } else { "" };
    writeln!(text, "  {what} {}{broadcast}: {carry}{}", port.name, columns(&port.schema))
}

fn columns(schema: &Schema) -> String {
    let column = |f: &std::sync::Arc<arrow::datatypes::Field>| {
        format!("{} {}{}", f.name(), type_name(f.data_type()), if f.is_nullable() { "?" } else { "" })
    };
    schema.fields().iter().map(column).collect::<Vec<_>>().join(", ")
}
