//! State backends behind `model::state`: the heap, for state that fits into memory, and RocksDB, for state that does not.
//!
//! Never knows what a key or a value means. Every backend passes [`conformance::conformance`].

mod clock;
pub mod conformance;
mod heap;
mod pace;
#[cfg(feature = "rocksdb")]
mod rocksdb;
mod tables;
mod values;

pub use heap::HeapFactory;
#[cfg(feature = "rocksdb")]
pub use rocksdb::{RocksFactory, RocksSettings};
