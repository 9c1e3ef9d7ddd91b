//! Kind `filter`: one bit per row.

use super::{open_error, row_failed};
use crate::config::Config;
use crate::native::{BatchRef, Instance, Kept, Now, OpError};
use crate::operator::FilterOperator;
use crate::row::{Ports, Row};

pub fn open_filter<O: FilterOperator>(config: &Config<'_>) -> Result<Box<dyn Instance>, OpError> {
    let mut operator = O::create();
    operator.open(config).map_err(open_error)?;
    Ok(Box::new(Filter { operator }))
}

struct Filter<O> {
    operator: O,
}

impl<O: FilterOperator> Instance for Filter<O> {
    fn keep(&mut self, input: u16, batch: &BatchRef<'_>, _now: Now) -> Result<Kept, OpError> {
        let rows = batch.rows as usize;
        let reader = <O::In<'_> as Ports>::reader(input, &batch.columns, rows)?;
        let mut kept = Kept { bitmap: Vec::with_capacity(rows.div_ceil(8)), errors: Vec::new() };
        let mut byte = 0u8;
        for row in 0..rows {
            let keep = match self.operator.keep(<O::In<'_> as Row>::read_row(&reader, row)) {
                Ok(keep) => keep,
                Err(error) => {
                    row_failed(&mut kept.errors, row as u32, error)?;
                    false
                }
            };
            byte |= (keep as u8) << (row & 7);
            if row & 7 == 7 {
                kept.bitmap.push(byte);
                byte = 0;
            }
        }
        if rows & 7 != 0 {
            kept.bitmap.push(byte);
        }
        self.operator.flush_metrics();
        Ok(kept)
    }
}
