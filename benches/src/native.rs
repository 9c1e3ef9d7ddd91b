//! A pipeline of the peers benchmark with its operators linked in instead of loaded as a component.

use std::path::Path;
use std::sync::Arc;

use anyhow::bail;
use arrow::datatypes::SchemaRef;
use serde_json::Value;
use tidemill::catalog::Builtins;
use tidemill::summary::Summary;
use tidemill_control::{Catalog, ProcessNode, load};
use tidemill_model::component::Descriptor;
use tidemill_model::fault::OnError;
use tidemill_model::join::JoinSpec;
use tidemill_model::logic::{GuestLimits, LogicFactory};
use tidemill_model::plan::Built;
use tidemill_model::sink::Sink;
use tidemill_model::source::Source;
use tidemill_model::window::WindowSpec;
use tidemill_model::{ConfigError, Fault};
use tidemill_tests::native::NativeFactory;

use crate::child::benches_dir;

const WORKERS: usize = 2;

/// Runs WORK over ROWS rows and prints the summary that `tidemill run --summary json` would print.
pub fn run(work: &str, rows: u64) -> anyhow::Result<()> {
    let path = benches_dir().join("peers/tidemill").join(format!("{work}.yaml"));
    let loaded = match load(&path, &NativeCatalog { builtins: Builtins::new()?, rows }) {
        Ok(loaded) => loaded,
        Err(errors) => bail!("{}", errors.render(false)),
    };
    let summary = tidemill_runtime::start(loaded.plan, WORKERS)?.wait()?;
    println!("{}", serde_json::to_string(&Summary::new(&summary))?);
    Ok(())
}

/// The built-in catalog, but every component is the crate `bench-operators`, linked in.
struct NativeCatalog {
    builtins: Builtins,
    rows: u64,
}

impl Catalog for NativeCatalog {
    fn sources(&self) -> Vec<&'static str> {
        self.builtins.sources()
    }
    fn sinks(&self) -> Vec<&'static str> {
        self.builtins.sinks()
    }
    fn source(&self, kind: &str, settings: &Value, base: &Path) -> Result<Arc<dyn Source>, ConfigError> {
        self.builtins.source(kind, settings, base)
    }
    fn sink(&self, kind: &str, settings: &Value, base: &Path) -> Result<Arc<dyn Sink>, ConfigError> {
        self.builtins.sink(kind, settings, base)
    }
    fn component(&self, _path: &Path) -> Result<Vec<Descriptor>, Fault> {
        Ok(bench_operators::OPERATORS.iter().map(|e| NativeFactory::new(e).descriptor().clone()).collect())
    }
    fn logic(&self, _path: &Path, operator: &str, _limits: GuestLimits) -> Result<Arc<dyn LogicFactory>, Fault> {
        match bench_operators::OPERATORS.iter().find(|e| e.name() == operator) {
            Some(entry) => Ok(NativeFactory::new(entry)),
            None => Err(Fault::config(format!("bench-operators has no `{operator}`"))),
        }
    }
    fn process(&self, node: ProcessNode) -> Result<Built, ConfigError> {
        self.builtins.process(node)
    }
    fn expression(
        &self,
        where_: Option<&str>,
        select: Option<&[String]>,
        input: &SchemaRef,
        on_error: OnError,
    ) -> Result<Built, ConfigError> {
        self.builtins.expression(where_, select, input, on_error)
    }
    fn window(&self, spec: WindowSpec, input: &SchemaRef) -> Result<Built, ConfigError> {
        self.builtins.window(spec, input)
    }
    fn join(&self, spec: JoinSpec, inputs: [&SchemaRef; 2]) -> Result<Built, ConfigError> {
        self.builtins.join(spec, inputs)
    }
    fn variable(&self, name: &str) -> Option<String> {
        if name == "ROWS" { Some(self.rows.to_string()) } else { self.builtins.variable(name) }
    }
}
