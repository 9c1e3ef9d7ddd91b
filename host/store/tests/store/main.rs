//! Tests of stores, and of checkpoints in them.

mod common;
mod damage;
mod directory;
mod races;
#[cfg(feature = "s3")]
mod s3;
mod snapshots;
