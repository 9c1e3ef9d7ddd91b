//! Kind `map`: rows in, rows out.

use super::{open_error, row_failed};
use crate::config::Config;
use crate::context::{Context, times_of};
use crate::native::{BatchRef, Effects, Instance, Now, OpError};
use crate::operator::MapOperator;
use crate::row::Ports;

pub fn open_map<O: MapOperator>(config: &Config<'_>) -> Result<Box<dyn Instance>, OpError> {
    let mut operator = O::create();
    operator.open(config).map_err(open_error)?;
    Ok(Box::new(Map { operator, ctx: Context::new() }))
}

struct Map<O> {
    operator: O,
    ctx: Context<O>,
}

impl<O: MapOperator> Instance for Map<O> {
    fn process(&mut self, input: u16, batch: &BatchRef<'_>, now: Now) -> Result<Effects, OpError> {
        let rows = batch.rows as usize;
        let reader = <O::In<'_> as Ports>::reader(input, &batch.columns, rows)?;
        let times = times_of(batch)?;
        let mut errors = Vec::new();
        let Self { operator, ctx } = self;
        ctx.start(now);
        for row in 0..rows {
            ctx.begin(row as u32, 0);
            if O::READS_TIME {
                ctx.set_timestamp(times.get(row).map(|t| i64::from_le_bytes(*t)));
            }
            if O::CHANGES {
                ctx.set_kind(batch.kinds.get(row).copied().unwrap_or(0));
            }
            if let Err(error) = operator.process(Ports::read(&reader, row), ctx) {
                ctx.rollback();
                row_failed(&mut errors, row as u32, error)?;
            }
        }
        operator.flush_metrics();
        Ok(Effects { outputs: ctx.finish_outputs(batch.rows, times)?, errors, ..Effects::default() })
    }
}
