//! What tests and benchmarks of the whole share.

pub mod native;
