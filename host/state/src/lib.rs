//! State backends behind `model::state`: today the heap, for state that fits into memory.
//!
//! Never knows what a key or a value means. Every backend passes [`conformance::conformance`].

pub mod conformance;
mod heap;
mod tables;

pub use heap::HeapFactory;
