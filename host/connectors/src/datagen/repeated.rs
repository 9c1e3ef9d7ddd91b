//! Columns whose values repeat: made once per split, and lent out in slices from then on.

use arrow::array::{Array, ArrayRef};
use tidemill_model::Fault;
use tidemill_model::limits::BATCH_ROWS_MAX;

use super::generator::{Column, Run};

/// Rows after which a column may repeat itself: more would not stay in the cache, and is made anew for each batch.
const PERIOD_MAX: u64 = 1 << 16;

/// The values of one column over a period, and on for another batch.
pub(super) struct Repeated {
    period: u64,
    values: ArrayRef,
}

impl Repeated {
    /// `None` if the column does not repeat soon enough. `first`, `stride`: the split's rows.
    pub(super) fn new(column: &Column, first: u64, stride: u64) -> Result<Option<Self>, Fault> {
        let Some(period) = column.period(stride).filter(|&period| period <= PERIOD_MAX) else { return Ok(None) };
        let values = column.make(Run { first, stride, rows: period as usize + BATCH_ROWS_MAX })?;
        Ok(Some(Self { period, values }))
    }

    /// The values of the split's rows `nth..nth + rows`.
    pub(super) fn slice(&self, nth: u64, rows: usize) -> ArrayRef {
        self.values.slice((nth % self.period) as usize, rows)
    }
}
