//! Runs an operator in a plain `#[test]`, without a server and without WASM.
//!
//! Law: the driver calls the same entry as a component does, columns in and effects out; only the host is a stand-in.

mod cell;
mod columns;
mod driver;
mod entries;
mod keys;
mod results;

pub use cell::{Cell, Float, IntoKey};
pub use driver::TestDriver;
pub use results::{Record, RowFailure};
