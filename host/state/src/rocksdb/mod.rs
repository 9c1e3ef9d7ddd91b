//! The RocksDB backend: for state larger than memory. A write-back cache of keys stands before one database per range of key
//! groups, so that a key in use costs what it costs on the heap.
//!
//! Laws: a key is in the cache from `resolve` to `release` at least, and as long as it is pinned; what leaves the cache changed is
//! written first; RocksDB is called once per batch, with sorted keys; memory is bounded by one setting, see [`memory`].

mod backend;
mod cache;
mod cut;
mod directory;
mod filter;
mod layout;
mod memory;
mod options;
mod overlay;
mod records;
mod restore;
mod rows;
mod scan;
mod scan_entries;
mod shard;
#[cfg(test)]
mod tests;
mod ttl;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use tidemill_model::Fault;
use tidemill_model::state::{StateBackend, StateBackendFactory, StateContext};

use backend::Rocks;
use directory::Home;
use memory::Memory;

/// How much memory all backends of a process may use together, and where their files lie while it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RocksSettings {
    /// See `memory.rs` for how it is divided. Less than [`RocksSettings::MEMORY_BYTES_MIN`] counts as that.
    pub memory_bytes: usize,
    /// Made if it does not exist; shared by processes. Should be on a local disk, where checkpoints can link files.
    pub directory: PathBuf,
}

impl RocksSettings {
    /// Below that, RocksDB would write many tiny files.
    pub const MEMORY_BYTES_MIN: usize = 16 << 20;
    /// What is enough for a million keys in use.
    pub const MEMORY_BYTES_DEFAULT: usize = 256 << 20;
}

/// State in RocksDB. Its files vanish with the backends and with the snapshots that were taken of them.
pub struct RocksFactory {
    settings: RocksSettings,
    memory: Arc<Memory>,
    /// Claimed by the first backend.
    home: Mutex<Option<Arc<Home>>>,
}

impl RocksFactory {
    pub fn new(settings: RocksSettings) -> Self {
        let memory = Memory::new(settings.memory_bytes.max(RocksSettings::MEMORY_BYTES_MIN));
        Self { settings, memory, home: Mutex::default() }
    }

    fn home(&self) -> Result<Arc<Home>, Fault> {
        let mut home = self.home.lock().expect("no panic while held");
        if let Some(home) = &*home {
            return Ok(home.clone());
        }
        Ok(home.insert(Home::claim(&self.settings.directory)?).clone())
    }
}

impl StateBackendFactory for RocksFactory {
    fn open(&self, context: &StateContext) -> Result<Box<dyn StateBackend>, Fault> {
        let opened = self.home().and_then(|home| Rocks::open(home, self.memory.clone(), context));
        Ok(Box::new(opened.map_err(|fault| fault.at(context.node).on_worker(context.worker))?))
    }
}

impl std::fmt::Debug for RocksFactory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RocksFactory").field("settings", &self.settings).finish_non_exhaustive()
    }
}
