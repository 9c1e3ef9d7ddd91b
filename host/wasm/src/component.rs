//! A component that has been admitted, compiled and described: it can be opened as often as needed.

use std::sync::Arc;

use wasmtime::component::InstancePre;

use tidemill_model::Fault;
use tidemill_model::component::{Descriptor, LogicKind};
use tidemill_model::logic::{GuestLimits, LogicFactory};

use crate::admit::{self, KEYED, LIFECYCLE, STATELESS};
use crate::bindings::exports::tidemill::operator::{keyed, lifecycle, stateless};
use crate::describe;
use crate::host::{Limits, WasmHost};
use crate::logic::GuestFactory;
use crate::sandbox::{GuestState, Instance};
use crate::symbols::Symbols;
use crate::trap::BROKEN;

/// Where the exported functions are.
pub(crate) struct Surface {
    pub(crate) lifecycle: lifecycle::GuestIndices,
    pub(crate) stateless: Option<stateless::GuestIndices>,
    pub(crate) keyed: Option<keyed::GuestIndices>,
}

/// A component and what it says about itself.
pub struct Component {
    host: Arc<WasmHost>,
    digest: String,
    imports: Vec<String>,
    exports: Vec<String>,
    pre: InstancePre<GuestState>,
    surface: Surface,
    symbols: Arc<Symbols>,
    operators: Vec<Arc<Descriptor>>,
    descriptors: Vec<Descriptor>,
}

impl std::fmt::Debug for Component {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Component").field("digest", &self.digest).field("operators", &self.descriptors).finish()
    }
}

impl Component {
    /// Checks imports and exports, links, and asks a throw-away instance what there is.
    pub(crate) fn describe(
        host: &Arc<WasmHost>,
        digest: String,
        compiled: wasmtime::component::Component,
        symbols: Symbols,
    ) -> Result<Self, Fault> {
        let symbols = Arc::new(symbols);
        let ty = compiled.component_type();
        let imports: Vec<String> = ty.imports(&host.engine).map(|(name, _)| name.to_owned()).collect();
        let exports: Vec<String> = ty.exports(&host.engine).map(|(name, _)| name.to_owned()).collect();
        admit::check_names(&imports, &exports)?;
        let pre = host.linker.instantiate_pre(&compiled).map_err(other_contract)?;
        let surface = Surface::find(&pre, &exports)?;
        let descriptors = ask(host, &pre, &surface, &symbols)?;
        check_kinds(&descriptors, &surface)?;
        let operators = descriptors.iter().cloned().map(Arc::new).collect();
        Ok(Self { host: host.clone(), digest, imports, exports, pre, surface, symbols, operators, descriptors })
    }

    pub fn operators(&self) -> &[Descriptor] {
        &self.descriptors
    }

    /// SHA-256 of the component, in hex.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Full names of the imported interfaces.
    pub fn imports(&self) -> &[String] {
        &self.imports
    }

    /// Full names of the exported interfaces.
    pub fn exports(&self) -> &[String] {
        &self.exports
    }

    /// Opens the operator with this name, within the limits of the host.
    pub fn factory(self: &Arc<Self>, operator: &str) -> Result<Arc<dyn LogicFactory>, Fault> {
        let Limits { memory_bytes, call_ms, .. } = self.host.limits;
        self.factory_within(operator, GuestLimits { memory_bytes, call_ms })
    }

    /// The same within limits of its own.
    pub fn factory_within(
        self: &Arc<Self>,
        operator: &str,
        limits: GuestLimits,
    ) -> Result<Arc<dyn LogicFactory>, Fault> {
        let GuestLimits { memory_bytes, call_ms } = limits;
        let limits = Limits { memory_bytes, call_ms, ..self.host.limits };
        match self.operators.iter().find(|o| o.name == operator) {
            Some(descriptor) => Ok(Arc::new(GuestFactory::new(self.clone(), descriptor.clone(), limits))),
            None => {
                let names: Vec<String> = self.operators.iter().map(|o| format!("`{}`", o.name)).collect();
                let names = names.join(", ");
                Err(Fault::config(format!("the component has no operator `{operator}`; it has {names}")))
            }
        }
    }

    /// A fresh instance, not yet opened.
    pub(crate) fn instantiate(&self, state: GuestState, limits: Limits) -> Result<Instance, (String, GuestState)> {
        Instance::new(&self.pre, &self.surface, &self.symbols, state, limits)
    }
}

impl Surface {
    fn find(pre: &InstancePre<GuestState>, exports: &[String]) -> Result<Self, Fault> {
        let has = |name: &str| exports.iter().any(|e| e == name);
        let stateless = has(STATELESS).then(|| stateless::GuestIndices::new(pre)).transpose();
        let keyed = has(KEYED).then(|| keyed::GuestIndices::new(pre)).transpose();
        Ok(Self {
            lifecycle: lifecycle::GuestIndices::new(pre).map_err(other_contract)?,
            stateless: stateless.map_err(other_contract)?,
            keyed: keyed.map_err(other_contract)?,
        })
    }
}

/// What to do about a component that was built for another contract.
const OTHER_SDK: &str = "build it again with the SDK of this version (`tidemill build`)";

fn other_contract(error: wasmtime::Error) -> Fault {
    Fault::component(format!("does not follow the contract tidemill:operator@0.1.0: {error:#}")).with_help(OTHER_SDK)
}

fn ask(
    host: &WasmHost,
    pre: &InstancePre<GuestState>,
    surface: &Surface,
    symbols: &Arc<Symbols>,
) -> Result<Vec<Descriptor>, Fault> {
    let state = GuestState::new("describe", 0, &host.limits);
    let failed = |what: &str, text: String| {
        let fault = Fault::component(format!("{what}: {text}"));
        // Types that differ from those of the contract show when a function is looked up.
        if text.starts_with(BROKEN) { fault.with_help(OTHER_SDK) } else { fault }
    };
    let mut instance = Instance::new(pre, surface, symbols, state, host.limits)
        .map_err(|(text, _)| failed("can't be instantiated", text))?;
    let said = instance
        .call(|store, exports| exports.lifecycle.call_describe(store))
        .map_err(|text| failed("failed in `describe`", text))?;
    describe::descriptors(said).map_err(|text| failed("describes itself wrongly", text))
}

/// The interface that the host calls for an operator must be there.
fn check_kinds(operators: &[Descriptor], surface: &Surface) -> Result<(), Fault> {
    for operator in operators {
        let (kind, interface, there) = match operator.kind {
            LogicKind::Map => ("map", STATELESS, surface.stateless.is_some()),
            LogicKind::Filter => ("filter", STATELESS, surface.stateless.is_some()),
            LogicKind::Keyed => ("keyed", KEYED, surface.keyed.is_some()),
        };
        if !there {
            let text =
                format!("does not export `{interface}`, which operator `{}` of kind `{kind}` needs", operator.name);
            return Err(Fault::component(text).with_help(format!("it exports `{LIFECYCLE}` and what its kinds need")));
        }
    }
    Ok(())
}
