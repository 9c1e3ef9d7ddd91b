//! Stores for tests, of this crate and of others: in memory, with faults by seed, and a real S3 server.

mod flaky;
mod memory;
mod server;

pub use flaky::{FlakyStore, Rates};
pub use memory::Memory;
pub use server::S3Server;
