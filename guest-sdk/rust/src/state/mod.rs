//! Keyed state: typed handles over the state columns of a call.
//!
//! Laws: values live in the columns that the host sent and go back in them, so a key costs no host call;
//! only keys that were written are returned; what a failed row wrote is undone.

mod codec;
mod store;
mod value;

pub use codec::StateValue;
pub use value::Value;
