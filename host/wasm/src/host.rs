//! What all components of a process share: the engine, its clock, its limits and its cache.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use tidemill_model::{Fault, limits};
use wasmtime::component::Linker;
use wasmtime::{Config, Engine, WasmBacktraceDetails};

use crate::admit;
use crate::cache::Cache;
use crate::component::Component;
use crate::imports;
use crate::sandbox::GuestState;
use crate::symbols::Symbols;
use crate::ticker::Ticker;

/// What a guest may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Linear memory of one instance.
    pub memory_bytes: usize,
    /// Wall time of one call, in steps of 10 ms.
    pub call_ms: u64,
    /// Bytes that one call may return, summed over all lists.
    pub return_bytes: usize,
    /// Size of a component file.
    pub component_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: limits::GUEST_MEMORY_BYTES_MAX,
            call_ms: limits::GUEST_CALL_MS_MAX,
            return_bytes: limits::GUEST_RETURN_BYTES_MAX,
            component_bytes: limits::COMPONENT_BYTES_MAX,
        }
    }
}

#[derive(Clone, Debug, Default)]
pub struct WasmConfig {
    /// Where compiled components are kept; `None` compiles at every start.
    pub cache_dir: Option<PathBuf>,
    pub limits: Limits,
}

/// Loads components. One per process.
pub struct WasmHost {
    pub(crate) engine: Engine,
    pub(crate) linker: Linker<GuestState>,
    pub(crate) limits: Limits,
    cache: Option<Cache>,
    _ticker: Ticker,
}

impl std::fmt::Debug for WasmHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WasmHost").field("limits", &self.limits).field("cache", &self.cache).finish_non_exhaustive()
    }
}

impl WasmHost {
    pub fn new(config: WasmConfig) -> Result<Arc<WasmHost>, Fault> {
        let internal = |error: wasmtime::Error| Fault::internal(format!("the WebAssembly engine: {error:#}"));
        let engine = Engine::new(&engine_config()).map_err(internal)?;
        let linker = imports::linker(&engine).map_err(internal)?;
        let cache = config.cache_dir.as_deref().and_then(|folder| open_cache(folder, &engine));
        let ticker = Ticker::start(engine.clone())
            .map_err(|error| Fault::io(format!("no thread for the limit on calls into components: {error}")))?;
        Ok(Arc::new(WasmHost { engine, linker, limits: config.limits, cache, _ticker: ticker }))
    }

    /// Reads, compiles (or takes from the cache) and describes the component in a file.
    pub fn load(self: &Arc<Self>, path: &Path) -> Result<Arc<Component>, Fault> {
        self.load_bytes(&path.display().to_string(), &self.read(path)?)
    }

    /// The bytes of a component file, if it is one and not too large.
    pub fn read(&self, path: &Path) -> Result<Vec<u8>, Fault> {
        let name = path.display().to_string();
        let io = |error: std::io::Error| Fault::io(format!("component `{name}` can't be read: {error}"));
        let about = std::fs::metadata(path).map_err(io)?;
        if !about.is_file() {
            return Err(Fault::io(format!("component `{name}` is not a file")));
        }
        admit::check_size(about.len(), &self.limits).map_err(|fault| of_component(&name, fault))?;
        std::fs::read(path).map_err(io)
    }

    /// The same with the component at hand; `name` is for messages.
    pub fn load_bytes(self: &Arc<Self>, name: &str, bytes: &[u8]) -> Result<Arc<Component>, Fault> {
        admit::check_bytes(bytes, &self.limits)
            .and_then(|()| {
                let digest = hex(&Sha256::digest(bytes));
                let compiled = self.compiled(&digest, bytes)?;
                Component::describe(self, digest, compiled, Symbols::of(bytes))
            })
            .map(Arc::new)
            .map_err(|fault| of_component(name, fault))
    }

    fn compiled(&self, digest: &str, bytes: &[u8]) -> Result<wasmtime::component::Component, Fault> {
        if let Some(component) = self.cache.as_ref().and_then(|c| c.load(&self.engine, digest)) {
            return Ok(component);
        }
        let component = wasmtime::component::Component::from_binary(&self.engine, bytes).map_err(|error| {
            Fault::component(format!("is damaged, cut off or of an unknown kind: {}", error.root_cause()))
                .with_help("build it again with `tidemill build`")
        })?;
        if let Some(cache) = &self.cache {
            cache.store(digest, &component);
        }
        Ok(component)
    }
}

fn engine_config() -> Config {
    let mut config = Config::new();
    // Calls are synchronous, from the worker's own thread: lifting them asynchronously costs 20 times as much.
    config.concurrency_support(false);
    config.epoch_interruption(true);
    // The same row gives the same result on every machine.
    config.relaxed_simd_deterministic(true);
    // File and line in a guest's stack: see symbols.rs.
    config.wasm_backtrace_details(WasmBacktraceDetails::Disable);
    config
}

fn open_cache(folder: &Path, engine: &Engine) -> Option<Cache> {
    Cache::open(folder, engine)
        .map_err(|error| tracing::warn!("no cache of compiled components in {}: {error}", folder.display()))
        .ok()
}

fn of_component(name: &str, mut fault: Fault) -> Fault {
    fault.message = format!("component `{name}` {}", fault.message);
    fault
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
