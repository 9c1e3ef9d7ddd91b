//! One instance of a component in its store, and the limits around it.
//!
//! Law: every call starts with a full time budget; after a trap the instance is never entered again.

use std::sync::Arc;

use wasmtime::component::InstancePre;
use wasmtime::{ResourceLimiter, Store};

use crate::bindings::exports::tidemill::operator::{keyed, lifecycle, stateless};
use crate::component::Surface;
use crate::host::Limits;
use crate::imports::logging::Log;
use crate::imports::metrics::Metrics;
use crate::imports::state::Reading;
use crate::symbols::Symbols;
use crate::ticker::TICK_MS;
use crate::trap;

/// Elements of all tables: function pointers, far above what compilers emit.
const TABLE_ELEMENTS_MAX: usize = 1 << 20;
/// Core instances, tables and memories of one component: interpreters link a few dozen libraries.
const INSTANCES_MAX: usize = 1000;
const MEMORIES_MAX: usize = 16;

/// What the store holds: all that the imports and the limits need.
pub(crate) struct GuestState {
    pub(crate) budget: Budget,
    /// Last words before a trap.
    pub(crate) panic: Option<String>,
    pub(crate) log: Log,
    pub(crate) metrics: Metrics,
    pub(crate) reading: Reading,
}

impl GuestState {
    pub(crate) fn new(node: &str, worker: usize, limits: &Limits) -> Self {
        let node: Arc<str> = node.into();
        let (log, metrics) = (Log::new(node.clone(), worker), Metrics::new(node, worker));
        Self { budget: Budget::new(limits.memory_bytes), panic: None, log, metrics, reading: Reading::default() }
    }

    /// For the next instance of the same operator: its log and metrics go on.
    pub(crate) fn renew(self, limits: &Limits) -> Self {
        Self { budget: Budget::new(limits.memory_bytes), panic: None, reading: Reading::default(), ..self }
    }
}

/// Memory and tables that an instance may have.
pub(crate) struct Budget {
    memory_max: usize,
    memory: usize,
    table_elements: usize,
    /// The limit that was hit, in words.
    pub(crate) broken: Option<String>,
}

impl Budget {
    fn new(memory_max: usize) -> Self {
        Self { memory_max, memory: 0, table_elements: 0, broken: None }
    }
}

impl ResourceLimiter for Budget {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|most| desired > most) {
            return Ok(false);
        }
        let wanted = self.memory.saturating_add(desired.saturating_sub(current));
        if wanted > self.memory_max {
            let text = format!("wanted more than {} of memory", trap::bytes(self.memory_max));
            self.broken = Some(text.clone());
            return Err(wasmtime::Error::msg(text));
        }
        self.memory = wanted;
        Ok(true)
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|most| desired > most) {
            return Ok(false);
        }
        let wanted = self.table_elements.saturating_add(desired.saturating_sub(current));
        if wanted > TABLE_ELEMENTS_MAX {
            let text = format!("wanted more than {TABLE_ELEMENTS_MAX} table elements");
            self.broken = Some(text.clone());
            return Err(wasmtime::Error::msg(text));
        }
        self.table_elements = wanted;
        Ok(true)
    }

    fn instances(&self) -> usize {
        INSTANCES_MAX
    }

    fn tables(&self) -> usize {
        INSTANCES_MAX
    }

    fn memories(&self) -> usize {
        MEMORIES_MAX
    }
}

/// The exported interfaces of an instance.
pub(crate) struct Exports {
    pub(crate) lifecycle: lifecycle::Guest,
    stateless: Option<stateless::Guest>,
    keyed: Option<keyed::Guest>,
}

impl Exports {
    pub(crate) fn stateless(&self) -> wasmtime::Result<&stateless::Guest> {
        self.stateless.as_ref().ok_or_else(|| wasmtime::Error::msg("the component does not export `stateless`"))
    }

    pub(crate) fn keyed(&self) -> wasmtime::Result<&keyed::Guest> {
        self.keyed.as_ref().ok_or_else(|| wasmtime::Error::msg("the component does not export `keyed`"))
    }
}

/// One running instance.
pub(crate) struct Instance {
    store: Store<GuestState>,
    exports: Exports,
    limits: Limits,
    symbols: Arc<Symbols>,
}

impl Instance {
    /// Instantiates; runs the guest's start code, if it has any. `Err`: the trap in words, and what to go on with.
    pub(crate) fn new(
        pre: &InstancePre<GuestState>,
        surface: &Surface,
        symbols: &Arc<Symbols>,
        state: GuestState,
        limits: Limits,
    ) -> Result<Self, (String, GuestState)> {
        let mut store = Store::new(pre.engine(), state);
        store.limiter(|state| &mut state.budget);
        store.set_hostcall_fuel(limits.return_bytes);
        arm(&mut store, &limits);
        match load(&mut store, pre, surface) {
            Ok(exports) => Ok(Self { store, exports, limits, symbols: symbols.clone() }),
            Err(error) => Err((trap::explain(&error, store.data(), &limits, symbols), store.into_data())),
        }
    }

    /// Calls into the guest. `Err`: the trap in words; the instance is of no use any more.
    pub(crate) fn call<R>(
        &mut self,
        call: impl FnOnce(&mut Store<GuestState>, &Exports) -> wasmtime::Result<R>,
    ) -> Result<R, String> {
        arm(&mut self.store, &self.limits);
        call(&mut self.store, &self.exports)
            .map_err(|error| trap::explain(&error, self.store.data(), &self.limits, &self.symbols))
    }

    pub(crate) fn into_state(self) -> GuestState {
        self.store.into_data().renew(&self.limits)
    }
}

/// A fresh time budget. One tick more than asked for: the present one has begun already.
fn arm(store: &mut Store<GuestState>, limits: &Limits) {
    store.set_epoch_deadline(limits.call_ms.div_ceil(TICK_MS) + 1);
}

fn load(store: &mut Store<GuestState>, pre: &InstancePre<GuestState>, surface: &Surface) -> wasmtime::Result<Exports> {
    let instance = pre.instantiate(&mut *store)?;
    Ok(Exports {
        lifecycle: surface.lifecycle.load(&mut *store, &instance)?,
        stateless: surface.stateless.as_ref().map(|i| i.load(&mut *store, &instance)).transpose()?,
        keyed: surface.keyed.as_ref().map(|i| i.load(&mut *store, &instance)).transpose()?,
    })
}
