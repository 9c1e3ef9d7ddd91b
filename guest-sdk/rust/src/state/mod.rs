//! Keyed state: typed handles over the state columns of a call.
//!
//! Laws: values live in the columns that the host sent and go back in them, so a key costs no host call; entries of lists and maps
//! are asked for when they are read;
//! only keys that were written are returned; what a failed row wrote is undone.

mod cells;
mod codec;
mod fold;
mod key;
mod list;
mod map;
mod store;
mod value;

pub use codec::StateValue;
pub use fold::{Aggregate, AggregatingState, Reduce, ReducingState};
pub use key::StateKey;
pub use list::ListState;
pub use map::MapState;
#[cfg(not(target_arch = "wasm32"))]
pub(crate) use map::typed;
pub use value::Value;
