//! Where checkpoints and savepoints live: a store of objects in a directory or a bucket, and what is laid out in it.
//!
//! Laws: nothing is relied upon that was not checked against its SHA-256; what was published can be restored, whatever
//! else runs, fails or ends half-way; two starts of a job never both go on.

mod ahead;
pub mod conformance;
mod directory;
mod index;
mod names;
mod objects;
mod place;
#[cfg(feature = "s3")]
pub mod s3;
mod sealed;
mod snapshots;
mod tables;
mod temporary;
pub mod testing;

use std::hash::{BuildHasher, Hasher};

pub use directory::Directory;
pub use place::{StoreOptions, open};
pub use snapshots::Snapshots;
pub use temporary::temporary_folder;

/// A text that no other call of any process gives.
fn unique() -> String {
    // The standard library seeds it at random.
    let random = || std::hash::RandomState::new().build_hasher().finish();
    format!("{:x}-{:016x}{:016x}", std::process::id(), random(), random())
}
