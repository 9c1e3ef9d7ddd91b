//! The loops over a batch, one file per kind. Compiled once per operator, so that a row costs no dynamic call.

mod filter;
mod keyed;
mod map;

pub use filter::open_filter;
pub use keyed::{nothing_to_prefetch, open_keyed};
pub use map::open_map;

use crate::error::Error;
use crate::native::{OpError, RowError};

/// An error from `open` is a fault of the settings, unless the operator says otherwise.
fn open_error(error: Error) -> OpError {
    if error.is_fatal() { OpError::Fatal(error.into_message()) } else { OpError::Config(error.into_message()) }
}

/// Notes the error of a row, or ends the call if it is fatal.
#[cold]
fn row_failed(errors: &mut Vec<RowError>, row: u32, error: Error) -> Result<(), OpError> {
    if error.is_fatal() {
        return Err(OpError::Fatal(error.into_message()));
    }
    errors.push(RowError { row, message: error.into_message() });
    Ok(())
}
