//! User logic as WebAssembly components, behind the model's `Logic` traits.
//!
//! A component is admitted by its names, compiled (or taken from the cache), described in a throw-away
//! instance, and then opened once per node and worker. Nothing that comes out of it is trusted, nothing
//! but `tidemill:operator` goes in, and a trap costs one instance.

mod abi;
mod admit;
mod bindings;
mod cache;
mod component;
mod describe;
mod encode;
mod host;
mod imports;
mod logic;
mod sandbox;
mod symbols;
mod ticker;
mod trap;

pub use component::Component;
pub use encode::encode_component;
pub use host::{Limits, WasmConfig, WasmHost};
