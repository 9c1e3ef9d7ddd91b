//! What tests and benchmarks of the whole share: native logic, the case matrix, and the simulation.

mod chance;
pub mod matrix;
pub mod native;
pub mod sim;
