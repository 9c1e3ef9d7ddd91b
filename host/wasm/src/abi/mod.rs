//! How rows cross: Arrow arrays to and from the flattened columns of `wit/types.wit`.
//!
//! Law: what goes in is copied once, by the runtime, straight from the Arrow buffers into the guest;
//! what comes out is checked in full before the engine sees it.

#[cfg(target_endian = "big")]
compile_error!("columns cross as little-endian bytes; a big-endian host would have to swap them");

pub(crate) mod effects;
pub(crate) mod fields;
pub(crate) mod input;
pub(crate) mod lift;
pub(crate) mod lower;

/// A column on its way into the guest.
pub(crate) type ColumnIn<'a> = crate::bindings::tidemill::operator::types::ColumnParam<'a>;
/// A column that came back.
pub(crate) type ColumnOut = crate::bindings::tidemill::operator::types::ColumnResult;
