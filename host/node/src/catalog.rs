//! What pipelines can refer to: the built-in connectors and formats, components, and the engine's nodes.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use arrow::datatypes::SchemaRef;
use serde_json::Value;
use tidemill_connectors::registry::{SINKS, SOURCES};
use tidemill_control::{Catalog, ProcessNode};
use tidemill_engine::process::ProcessSpec;
use tidemill_formats::BuiltIn;
use tidemill_model::component::Descriptor;
use tidemill_model::config::ConfigContext;
use tidemill_model::fault::OnError;
use tidemill_model::join::JoinSpec;
use tidemill_model::logic::{GuestLimits, LogicFactory};
use tidemill_model::plan::{Backend, Built, JobOptions};
use tidemill_model::sink::Sink;
use tidemill_model::source::Source;
use tidemill_model::state::StateBackendFactory;
use tidemill_model::window::WindowSpec;
use tidemill_model::{ConfigError, Fault};
use tidemill_runtime::Loader;
use tidemill_state::HeapFactory;
#[cfg(feature = "rocksdb")]
use tidemill_state::{RocksFactory, RocksSettings};
use tidemill_wasm::{Component, WasmConfig, WasmHost};

use crate::durable::work_directory;

/// Everything that is built in.
pub struct Builtins {
    wasm: Arc<WasmHost>,
    components: Mutex<HashMap<PathBuf, Arc<Component>>>,
    /// By memory and directory.
    #[cfg(feature = "rocksdb")]
    states: Mutex<HashMap<(usize, PathBuf), Arc<dyn StateBackendFactory>>>,
}

impl Builtins {
    /// Compiled components are kept in the user's cache folder.
    pub fn new() -> Result<Self, Fault> {
        Ok(Self {
            wasm: wasm_host()?,
            components: Mutex::default(),
            #[cfg(feature = "rocksdb")]
            states: Mutex::default(),
        })
    }

    /// Where keyed state lives. `base`: the folder of the pipeline file.
    fn state(&self, options: &JobOptions, base: &Path) -> Result<Arc<dyn StateBackendFactory>, Fault> {
        match options.state.backend {
            Backend::Heap => Ok(Arc::new(HeapFactory)),
            Backend::RocksDb => self.rocksdb(options.state.memory_bytes, work_directory(options, base)?),
        }
    }

    /// One for all nodes of a pipeline, since they share its memory.
    #[cfg(feature = "rocksdb")]
    fn rocksdb(&self, memory_bytes: usize, directory: PathBuf) -> Result<Arc<dyn StateBackendFactory>, Fault> {
        let mut states = self.states.lock().expect("no panic while held");
        let place = (memory_bytes, directory.clone());
        let made = || Arc::new(RocksFactory::new(RocksSettings { memory_bytes, directory })) as _;
        Ok(states.entry(place).or_insert_with(made).clone())
    }

    #[cfg(not(feature = "rocksdb"))]
    fn rocksdb(&self, _memory_bytes: usize, _directory: PathBuf) -> Result<Arc<dyn StateBackendFactory>, Fault> {
        let fault = Fault::config("this program was built without the state backend `rocksdb`");
        Err(fault.with_help("build it with the feature `rocksdb`, which is on by default, or use `heap`"))
    }

    /// A component, compiled once per process.
    pub fn load(&self, path: &Path) -> Result<Arc<Component>, Fault> {
        let mut components = self.components.lock().expect("no panic while held");
        if let Some(component) = components.get(path) {
            return Ok(component.clone());
        }
        let component = self.wasm.load(path)?;
        components.insert(path.to_owned(), component.clone());
        Ok(component)
    }
}

/// Compiled components are kept in the user's cache folder.
pub fn wasm_host() -> Result<Arc<WasmHost>, Fault> {
    WasmHost::new(WasmConfig { cache_dir: cache_dir(), ..WasmConfig::default() })
}

/// Makes logic of components that come while a job runs.
pub fn loader(host: Arc<WasmHost>) -> Loader {
    Arc::new(move |bytes, operator, limits| host.load_bytes("component", bytes)?.factory_within(operator, limits))
}

/// `$XDG_CACHE_HOME/tidemill` or `~/.cache/tidemill`; none where there is no home.
fn cache_dir() -> Option<PathBuf> {
    let xdg = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|p| p.is_absolute());
    let cache = xdg.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))?;
    Some(cache.join("tidemill"))
}

/// Stack for planning expressions: 64 KiB for each of the thousand levels that one may have.
const PLANNING_STACK_BYTES: usize = 64 << 20;

/// Runs `plan` on a thread with a stack for the deepest expression that the engine allows.
fn on_deep_stack(plan: impl FnOnce() -> Result<Built, ConfigError> + Send) -> Result<Built, ConfigError> {
    let failed = |what: &str| ConfigError::new(&[], format!("expressions can't be planned: {what}"));
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(PLANNING_STACK_BYTES).spawn_scoped(scope, plan);
        let thread = thread.map_err(|e| failed(&format!("no thread: {e}")))?;
        thread.join().unwrap_or_else(|_| Err(failed("the planner panicked")))
    })
}

fn context(base: &Path) -> ConfigContext {
    ConfigContext { remotes: remotes(), ..ConfigContext::new(base, Arc::new(BuiltIn)) }
}

#[cfg(feature = "s3")]
fn remotes() -> Option<Arc<dyn tidemill_model::remote::Remotes>> {
    Some(Arc::new(tidemill_store::s3::Buckets))
}

#[cfg(not(feature = "s3"))]
fn remotes() -> Option<Arc<dyn tidemill_model::remote::Remotes>> {
    None
}

impl Catalog for Builtins {
    fn sources(&self) -> Vec<&'static str> {
        SOURCES.iter().map(|kind| kind.name).collect()
    }

    fn sinks(&self) -> Vec<&'static str> {
        SINKS.iter().map(|kind| kind.name).collect()
    }

    fn source(&self, kind: &str, settings: &Value, base: &Path) -> Result<Arc<dyn Source>, ConfigError> {
        match SOURCES.iter().find(|k| k.name == kind) {
            Some(found) => (found.build)(settings, &context(base)),
            None => Err(ConfigError::unknown(&[], "source", kind, self.sources())),
        }
    }

    fn sink(&self, kind: &str, settings: &Value, base: &Path) -> Result<Arc<dyn Sink>, ConfigError> {
        match SINKS.iter().find(|k| k.name == kind) {
            Some(found) => (found.build)(settings, &context(base)),
            None => Err(ConfigError::unknown(&[], "sink", kind, self.sinks())),
        }
    }

    fn component(&self, path: &Path) -> Result<Vec<Descriptor>, Fault> {
        Ok(self.load(path)?.operators().to_vec())
    }

    fn logic(&self, path: &Path, operator: &str, limits: GuestLimits) -> Result<Arc<dyn LogicFactory>, Fault> {
        self.load(path)?.factory_within(operator, limits)
    }

    fn process(&self, node: ProcessNode) -> Result<Built, ConfigError> {
        tidemill_engine::process::node(ProcessSpec {
            logic: node.logic,
            inputs: node.inputs,
            keys: node.keys,
            config: node.config,
            on_error: node.on_error,
            state: self.state(&node.options, &node.base).map_err(|fault| {
                let error = ConfigError::new(&[], fault.message);
                fault.help.into_iter().fold(error, ConfigError::with_help)
            })?,
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
        on_deep_stack(|| tidemill_engine::expr::node(where_, select, input, on_error))
    }

    fn window(&self, spec: WindowSpec, input: &SchemaRef) -> Result<Built, ConfigError> {
        on_deep_stack(|| tidemill_engine::windows::window(spec, input))
    }

    fn join(&self, spec: JoinSpec, inputs: [&SchemaRef; 2]) -> Result<Built, ConfigError> {
        on_deep_stack(|| tidemill_engine::joins::join(spec, inputs))
    }
}
