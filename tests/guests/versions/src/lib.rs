//! The operator `count`: rows of the key so far, for each row. All versions that do anything agree on the count, and each
//! says in `made_by` who it is.

#[cfg(feature = "entries")]
mod entries;
#[cfg(not(feature = "entries"))]
mod values;

#[cfg(feature = "entries")]
use entries::Count;
use tidemill_sdk::prelude::*;
#[cfg(not(feature = "entries"))]
use values::Count;

#[derive(Row)]
pub struct Any {}

#[cfg(not(feature = "other-output"))]
#[derive(Row)]
#[row(carry)]
pub struct Counted {
    count: i64,
    made_by: i64,
}

#[cfg(feature = "other-output")]
#[derive(Row)]
#[row(carry)]
pub struct Counted {
    counted: i64,
    made_by: i64,
}

tidemill_sdk::export!(Count);
