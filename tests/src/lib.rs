//! What tests and benchmarks of the whole share: native logic, and the case matrix.

pub mod matrix;
pub mod native;
