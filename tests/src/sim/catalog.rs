//! The parts of a life's pipeline: real ones, each behind the wire.

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use arrow::datatypes::SchemaRef;
use serde_json::Value;
use tidemill::catalog::Builtins;
use tidemill_control::{Catalog, ProcessNode, load_text};
use tidemill_engine::process::ProcessSpec;
use tidemill_model::component::Descriptor;
use tidemill_model::fault::OnError;
use tidemill_model::join::JoinSpec;
use tidemill_model::logic::{GuestLimits, LogicFactory};
use tidemill_model::plan::{Backend, Built, NodeKind, Plan};
use tidemill_model::sink::Sink;
use tidemill_model::source::Source;
use tidemill_model::state::StateBackendFactory;
use tidemill_model::window::WindowSpec;
use tidemill_model::{ConfigError, Fault};
use tidemill_state::{HeapFactory, RocksFactory, RocksSettings};

use super::input::Scripted;
use super::logic::Trapping;
use super::operator::Watched;
use super::shape::Shape;
use super::sink::{Nowhere, WiredSink};
use super::version::{Version, Versioned};
use super::wire::Wire;
use crate::matrix::Lab;
use crate::native::NativeFactory;

static BUILTINS: LazyLock<Builtins> = LazyLock::new(|| Builtins::new().expect("wasmtime starts"));

/// The operators of the cases as a component, built when it is needed.
static COMPONENT: LazyLock<PathBuf> = LazyLock::new(|| {
    let operators = Path::new(env!("CARGO_MANIFEST_DIR")).join("operators");
    Lab::new(&operators);
    operators.join("target/case-operators.wasm")
});

/// The plan of a life. `sinks`: whether what it writes is to be seen; else the driver alone knows.
pub fn plan(shape: &Shape, wire: &Arc<Wire>, backend: Backend, sinks: bool) -> Result<Plan, Fault> {
    let folder = wire.world.folder();
    let state: Arc<dyn StateBackendFactory> = match backend {
        Backend::Heap => Arc::new(HeapFactory),
        Backend::RocksDb => Arc::new(RocksFactory::new(RocksSettings {
            memory_bytes: RocksSettings::MEMORY_BYTES_MIN,
            directory: folder.join("state"),
        })),
    };
    let parts = Parts { shape, wire, state, sinks };
    let loaded = load_text("sim.yaml", shape.text.as_bytes(), folder, &parts);
    let mut plan = loaded.map_err(|errors| Fault::config(format!("{}\n{}", errors.render(false), shape.text)))?.plan;
    plan.options = shape.options.clone();
    for node in &mut plan.nodes {
        if let NodeKind::Operator { factory } = &mut node.kind {
            let inner = factory.clone();
            *factory = Arc::new(Watched { inner, wire: wire.clone(), piece: shape.piece });
        }
    }
    Ok(plan)
}

/// A version of an operator.
pub fn logic(
    shape: &Shape,
    wire: &Arc<Wire>,
    operator: &str,
    limits: GuestLimits,
    version: Version,
) -> Result<Arc<dyn LogicFactory>, Fault> {
    let inner: Arc<dyn LogicFactory> = if shape.wasm {
        BUILTINS.logic(&COMPONENT, operator, limits)?
    } else {
        let entry = case_operators::OPERATORS.iter().find(|entry| entry.name() == operator);
        NativeFactory::new(entry.ok_or_else(|| Fault::config(format!("there is no operator `{operator}`")))?)
    };
    Ok(Arc::new(Trapping { inner: Arc::new(Versioned::new(inner, version)), wire: wire.clone() }))
}

struct Parts<'a> {
    shape: &'a Shape,
    wire: &'a Arc<Wire>,
    state: Arc<dyn StateBackendFactory>,
    sinks: bool,
}

impl Catalog for Parts<'_> {
    fn sources(&self) -> Vec<&'static str> {
        vec!["scripted"]
    }

    fn sinks(&self) -> Vec<&'static str> {
        vec!["file"]
    }

    fn source(&self, _kind: &str, settings: &Value, _base: &Path) -> Result<Arc<dyn Source>, ConfigError> {
        let name = settings["name"].as_str().unwrap_or_default();
        match self.shape.sources.iter().find(|(known, _)| *known == name) {
            Some((_, script)) => Ok(Arc::new(Scripted { script: script.clone(), wire: self.wire.clone() })),
            None => Err(ConfigError::new(&["name"], format!("there is no script `{name}`"))),
        }
    }

    fn sink(&self, kind: &str, settings: &Value, base: &Path) -> Result<Arc<dyn Sink>, ConfigError> {
        if !self.sinks {
            return Ok(Arc::new(Nowhere));
        }
        let inner = BUILTINS.sink(kind, settings, base)?;
        let path = settings["path"].as_str().unwrap_or_default();
        let name = path.rsplit('/').next().unwrap_or_default().to_owned();
        Ok(Arc::new(WiredSink { name, inner, wire: self.wire.clone() }))
    }

    fn component(&self, _path: &Path) -> Result<Vec<Descriptor>, Fault> {
        match self.shape.wasm {
            true => BUILTINS.component(&COMPONENT),
            false => Ok(case_operators::OPERATORS.iter().map(|e| NativeFactory::new(e).descriptor().clone()).collect()),
        }
    }

    fn logic(&self, _path: &Path, operator: &str, limits: GuestLimits) -> Result<Arc<dyn LogicFactory>, Fault> {
        logic(self.shape, self.wire, operator, limits, self.shape.version(operator))
    }

    fn process(&self, node: ProcessNode) -> Result<Built, ConfigError> {
        tidemill_engine::process::node(ProcessSpec {
            logic: node.logic,
            inputs: node.inputs,
            keys: node.keys,
            config: node.config,
            on_error: node.on_error,
            state: self.state.clone(),
            shared: Arc::new(HeapFactory),
        })
    }

    fn expression(
        &self,
        where_: Option<&str>,
        select: Option<&[String]>,
        input: &SchemaRef,
        on_error: OnError,
    ) -> Result<Built, ConfigError> {
        BUILTINS.expression(where_, select, input, on_error)
    }

    fn window(&self, spec: WindowSpec, input: &SchemaRef) -> Result<Built, ConfigError> {
        BUILTINS.window(spec, input)
    }

    fn join(&self, spec: JoinSpec, inputs: [&SchemaRef; 2]) -> Result<Built, ConfigError> {
        BUILTINS.join(spec, inputs)
    }

    fn variable(&self, _name: &str) -> Option<String> {
        None
    }
}
