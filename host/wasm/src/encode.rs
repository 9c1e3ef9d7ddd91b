//! Core modules, as compilers write them, to components.

use wit_component::{ComponentEncoder, metadata};

use tidemill_model::Fault;

use crate::admit::{is_component, is_core_module};

/// A core module built against the contract as a component. A component is returned as it is.
pub fn encode_component(core_module: &[u8]) -> Result<Vec<u8>, Fault> {
    if is_component(core_module) {
        return Ok(core_module.to_vec());
    }
    if !is_core_module(core_module) {
        return Err(Fault::component("the compiler's output is not a WebAssembly module"));
    }
    if !has_interface(core_module) {
        return Err(Fault::component("the module has no operator in it: it describes no interface")
            .with_help("declare an operator with the SDK, and let the crate be a `cdylib`"));
    }
    ComponentEncoder::default().validate(true).module(core_module).and_then(|mut encoder| encoder.encode()).map_err(
        |error| {
            Fault::component(format!("the module does not make a component: {error:#}"))
                .with_help("build for wasm32-unknown-unknown with the SDK of this release")
        },
    )
}

/// Whether the module carries the description of a component's interface.
fn has_interface(core_module: &[u8]) -> bool {
    metadata::decode(core_module).is_ok_and(|(stripped, _)| stripped.is_some())
}
