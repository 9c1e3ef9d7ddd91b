//! `nexmark`: the events of an online auction (persons, auctions, bids), as in the Nexmark benchmark.
//!
//! Proportions, ids, hot spots, prices and texts follow the generator of nexmark-flink, with three
//! differences: it is seeded, so that two runs give the same rows; event `n` depends on the seed and `n` only,
//! so that any number of workers gives the same rows; and bidders have the ids of persons (there, the
//! first id is added twice). Random texts are cut out of a short random text instead of being made
//! letter by letter.

mod auction;
mod bid;
mod events;
mod person;
mod source;
mod table;

pub use source::{EventKind, NexmarkSettings, source};
