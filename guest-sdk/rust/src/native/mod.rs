//! The operators of a crate behind plain Rust records: the one code path that components, the test
//! driver and native benchmarks share. `wasm.rs` maps it to WIT and adds nothing.

mod entry;
mod reads;
mod records;

#[doc(hidden)]
pub use entry::assert_distinct;
pub use entry::{Entry, Instance, describe, find, open};
pub use reads::EntryReads;
pub(crate) use reads::reads;
#[cfg(not(target_arch = "wasm32"))]
pub use reads::with_entries;
pub use records::*;
