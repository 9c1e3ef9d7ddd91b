//! Runs one case in one cell and gathers what its sinks have written.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};

use arrow::datatypes::{Schema, SchemaRef};
use serde_json::json;
use tempfile::TempDir;
use tidemill::build_cmd;
use tidemill::catalog::Builtins;
use tidemill_control::{Catalog, load};
use tidemill_engine::driver::Driver;
use tidemill_model::config::Formats;
use tidemill_model::plan::{NodeKind, Plan, StateOptions};
use tidemill_model::schema::type_name;
use tidemill_model::source::{Polled, Position, ReadBudget};
use tidemill_model::{Fault, limits};

use super::case::Case;
use super::catalog::CaseCatalog;
use super::golden::{Outcome, plain_panic};
use super::written::Written;
use super::{Cell, Crash, Executor, crash};

/// Where cases run: the built-in parts, shared, so that a component is compiled once.
pub struct Lab {
    builtins: Builtins,
    /// Where state on disk lives.
    states: TempDir,
}

impl Lab {
    /// Builds the crate in `operators` to the component that cases name, `OPERATORS/target/case-operators.wasm`.
    pub fn new(operators: &Path) -> Self {
        // Beside what this program was built to, so that the macros of the SDK are compiled once.
        let exe = std::env::current_exe().expect("the program has a path");
        let target = exe.ancestors().nth(3).expect("cargo puts tests into target/debug/deps");
        let component = build_cmd::build(operators, None, &["--locked".to_owned()], Some(target))
            .expect("the operators of the cases build");
        let out = operators.join("target");
        std::fs::create_dir_all(&out).expect("a folder for the component");
        // In one step, so that somebody who reads it at the same time never sees half a component.
        let mut fresh = tempfile::NamedTempFile::new_in(&out).expect("a file for the component");
        fresh.write_all(&component).expect("the component can be written");
        fresh.persist(out.join("case-operators.wasm")).expect("the component gets its name");
        Self { builtins: Builtins::new().expect("wasmtime starts"), states: scratch() }
    }

    /// Runs a case; what it wrote, or the text of its error.
    pub fn run(&self, case: &Case, cell: &Cell) -> Outcome {
        let scratch = scratch();
        let directory = Some(self.states.path().display().to_string());
        let state = StateOptions { backend: cell.backend, directory, ..StateOptions::default() };
        let (builtins, logic) = (&self.builtins, cell.logic);
        let catalog = CaseCatalog { builtins, logic, scratch: scratch.path().to_owned(), state };
        let mut plan = match load(&case.dir.join("pipeline.yaml"), &catalog) {
            Ok(loaded) => loaded.plan,
            Err(errors) => return Outcome::Error(errors.render(false)),
        };
        plan.options.batch_rows = cell.batch_rows;
        let mut written = Written::new(scratch.path().join("out"));
        let result = match (cell.executor, cell.crash) {
            (Executor::Runtime, _) => {
                tidemill_runtime::start(plan.clone(), cell.workers).and_then(|job| job.wait().map(drop))
            }
            (Executor::Driver { seed }, Crash::Never) => {
                Driver::new(&plan, cell.workers, seed).and_then(|mut driver| driver.run())
            }
            (Executor::Driver { seed }, Crash::Restore { workers }) => {
                crash::run(&plan, [cell.workers, workers], seed, &mut written)
            }
        };
        let rows = match written.note().and_then(|()| self.rows(&plan, &written)) {
            Ok(rows) => rows,
            Err(error) => return Outcome::Error(error),
        };
        match result {
            Ok(()) => Outcome::Rows(rows),
            // Rows of finished checkpoints are visible, and rightly so.
            Err(fault) if cell.crash != Crash::Never => Outcome::Error(plain(fault)),
            Err(fault) => match rows.into_iter().find(|(_, lines)| !lines.is_empty()) {
                None => Outcome::Error(plain(fault)),
                Some((sink, _)) => Outcome::Error(format!("{fault}\nbut rows of sink `{sink}` are visible")),
            },
        }
    }

    /// The rows of each sink as lines of JSON, file by file.
    fn rows(&self, plan: &Plan, written: &Written) -> Result<BTreeMap<String, Vec<String>>, String> {
        let mut rows = BTreeMap::new();
        for (sink, parts) in written.sinks() {
            let lines = rows.entry(sink.clone()).or_insert_with(Vec::new);
            for part in parts {
                let read = self.lines(plan, sink, part);
                lines.extend(read.map_err(|e| format!("sink `{sink}` can't be read back: {e}"))?);
            }
        }
        Ok(rows)
    }

    /// NDJSON as it is; other formats as their source reads them.
    fn lines(&self, plan: &Plan, sink: &str, part: &Path) -> Result<Vec<String>, String> {
        if part.extension().is_some_and(|ending| ending == "ndjson") {
            let text = std::fs::read_to_string(part).map_err(|e| e.to_string())?;
            return Ok(text.lines().map(str::to_owned).collect());
        }
        match plan.nodes.iter().find(|n| n.name == sink).map(|n| &n.kind) {
            Some(NodeKind::Sink { schema, .. }) => self.read_back(part, schema).map_err(|fault| fault.to_string()),
            _ => Err(format!("there is no sink `{sink}`: a sink writes to out/SINK")),
        }
    }

    fn read_back(&self, part: &Path, schema: &SchemaRef) -> Result<Vec<String>, Fault> {
        let settings = json!({ "path": part, "columns": columns(schema) });
        let source =
            self.builtins.source("file", &settings, Path::new("")).map_err(|e| Fault::config(e.to_string()))?;
        let json = Text::default();
        let ndjson = tidemill_formats::BuiltIn.make("ndjson", &json!({})).map_err(|e| Fault::config(e.to_string()))?;
        let mut writer = ndjson.writer(Box::new(json.clone()), schema.clone())?;
        for split in source.splits(1)? {
            let mut reader = source.open(&split, &Position::default())?;
            let budget = ReadBudget { rows: limits::BATCH_ROWS_MAX, bytes: limits::BATCH_BYTES_MAX, now_ms: 0 };
            while let Polled::Rows { rows, rejected } = reader.poll(budget)? {
                if let Some(dead) = rejected.first() {
                    return Err(Fault::data(format!("{}: {}", dead.error, dead.row)));
                }
                writer.write(&rows)?;
            }
        }
        writer.finish()?;
        Ok(json.text().lines().map(str::to_owned).collect())
    }
}

/// The `columns:` that say this schema.
fn columns(schema: &Schema) -> Vec<serde_json::Value> {
    let column = |field: &arrow::datatypes::FieldRef| {
        let mark = if field.is_nullable() { "?" } else { "" };
        json!({ field.name(): format!("{}{mark}", type_name(field.data_type())) })
    };
    schema.fields().iter().map(column).collect()
}

/// In memory where the machine has such a place: sinks wait until their files are durable, a thousand times here.
pub(crate) fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.expect("a folder for a run")
}

/// Which worker meets a row first is not part of a result, nor is the place of a panic.
fn plain(mut fault: Fault) -> String {
    fault.worker = None;
    fault.message = plain_panic(&fault.message, "\n");
    fault.to_string()
}

/// Bytes that a writer leaves behind.
#[derive(Clone, Default)]
pub(crate) struct Text(Arc<Mutex<Vec<u8>>>);

impl Text {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().expect("no panic while held").clone()).expect("JSON is UTF-8")
    }
}

impl Write for Text {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic while held").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
