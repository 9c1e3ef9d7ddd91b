//! The control plane: a pipeline file becomes a plan, or a report of everything that is wrong with it.
//!
//! `load` reads the file into a tree that knows its places (`yaml`, `tree`, `variables`), the tree
//! into a pipeline (`read`, `spec`), orders it (`graph`), and resolves it against a [`Catalog`] (`build`).
//!
//! Never: runs anything, knows a connector or a component by itself, panics on what a user wrote.
//! Law: independent errors are reported together, each at its place in the file.

mod build;
mod catalog;
mod describe;
mod diagnostic;
mod graph;
mod names;
mod read;
mod spec;
mod tree;
mod variables;
mod yaml;

use std::path::Path;

use arrow::datatypes::SchemaRef;
use tidemill_model::Plan;

pub use catalog::{Catalog, ProcessNode};
pub use describe::describe;
use diagnostic::Report;
pub use diagnostic::{Diagnostic, Diagnostics, Label, Severity, SourceFile, Span};

/// A pipeline that can run.
pub struct Loaded {
    pub plan: Plan,
    /// What is probably not meant, in the order of the file.
    pub warnings: Vec<Diagnostic>,
    /// One for each node of the plan, for people.
    pub nodes: Vec<NodeSummary>,
}

/// A node in words.
#[derive(Clone, Debug)]
pub struct NodeSummary {
    pub name: String,
    /// "source, file", "tumbling window, 1h", ...
    pub kind: String,
    /// By input: its name (empty if there is only one) and the streams that reach it.
    pub inputs: Vec<(String, Vec<String>)>,
    /// Names of the key columns (of the first input).
    pub key: Vec<String>,
    /// Name and schema of each output port.
    pub outputs: Vec<(String, SchemaRef)>,
    /// Of a source: column, delay, idle timeout.
    pub event_time: Option<String>,
    /// Bad rows go to the dead-letter output.
    pub dead_letter: bool,
}

/// Reads and checks the pipeline file at `path`. Relative paths in it start at its folder.
pub fn load(path: &Path, catalog: &dyn Catalog) -> Result<Loaded, Diagnostics> {
    let name = path.display().to_string();
    let base = path.parent().unwrap_or(Path::new(""));
    match read_file(path) {
        Ok(bytes) => load_text(&name, &bytes, base, catalog),
        Err(message) => Err(refuse(&name, "", None, &message, None)),
    }
}

/// The same for the content of a file. `name` is shown in errors; its stem is the default name of the pipeline.
pub fn load_text(name: &str, bytes: &[u8], base: &Path, catalog: &dyn Catalog) -> Result<Loaded, Diagnostics> {
    if bytes.len() > yaml::FILE_BYTES_MAX {
        let help = "a pipeline file is written by hand: is this the right file?";
        return Err(refuse(name, "", None, "the file is larger than 1 MiB", Some(help)));
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text.strip_prefix('\u{feff}').unwrap_or(text),
        Err(error) => return Err(not_utf8(name, bytes, error.valid_up_to())),
    };
    let mut report = Report::new(SourceFile::new(name, text));
    match load_checked(&mut report, name, base, catalog) {
        Some((plan, nodes)) => report.finish().map(|warnings| Loaded { plan, warnings, nodes }),
        None => Err(report.finish().err().unwrap_or_else(|| refuse(name, text, None, "the file cannot be read", None))),
    }
}

fn load_checked(
    report: &mut Report,
    name: &str,
    base: &Path,
    catalog: &dyn Catalog,
) -> Option<(Plan, Vec<NodeSummary>)> {
    let mut root = yaml::parse(report)?;
    variables::substitute(&mut root, &|variable| catalog.variable(variable), report);
    if report.has_errors() {
        return None; // duplicate keys and missing variables make everything below guesswork
    }
    let kinds = read::Kinds { sources: catalog.sources(), sinks: catalog.sinks() };
    let pipeline = read::pipeline(report, &root, &kinds)?;
    let graph = graph::graph(report, &pipeline);
    let stem = Path::new(name).file_stem().map_or_else(|| "pipeline".into(), |stem| stem.to_string_lossy());
    let plan_name = pipeline.name.as_ref().map_or(stem.as_ref(), |name| name.text.as_str());
    Some(build::build(report, &pipeline, &graph, plan_name, base, catalog))
}

/// At most one byte more than is allowed, so that a wrong path (a disk, a pipe) costs little.
fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    use std::io::Read as _;
    let file = std::fs::File::open(path).map_err(|error| format!("cannot open the file: {error}"))?;
    let mut bytes = Vec::new();
    let limit = yaml::FILE_BYTES_MAX as u64 + 1;
    file.take(limit).read_to_end(&mut bytes).map_err(|error| format!("cannot read the file: {error}"))?;
    Ok(bytes)
}

fn not_utf8(name: &str, bytes: &[u8], valid: usize) -> Diagnostics {
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return refuse(name, "", None, "the file is UTF-16, not UTF-8", Some("save it in the encoding UTF-8"));
    }
    let text = String::from_utf8_lossy(bytes);
    let message = format!("the file is not UTF-8: byte {valid} is 0x{:02x}", bytes[valid]);
    // Up to `valid` the two texts agree; there, the lossy one has a replacement character.
    refuse(name, &text, Some(valid..valid + '\u{fffd}'.len_utf8()), &message, Some("save it in the encoding UTF-8"))
}

/// One error about a file that was not looked into.
fn refuse(name: &str, text: &str, span: Option<Span>, message: &str, help: Option<&str>) -> Diagnostics {
    let mut report = Report::new(SourceFile::new(name, text));
    let error = match span {
        Some(span) => report.error(&span, message),
        None => report.error_of_file(message),
    };
    if let Some(help) = help {
        error.help(help);
    }
    match report.finish() {
        Err(diagnostics) => diagnostics,
        Ok(items) => Diagnostics { items, omitted: 0 },
    }
}
