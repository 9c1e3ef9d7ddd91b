//! From the rows that a call returned to batches: parents' event times, kinds and carried columns.
//!
//! Law: no batch with more than `BATCH_ROWS_MAX` rows leaves; what is too much for now waits.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::buffer::ScalarBuffer;
use arrow::compute::take;
use arrow::datatypes::{ArrowNativeType, SchemaRef};
use tidemill_model::limits::BATCH_ROWS_MAX;
use tidemill_model::logic::RowsOut;
use tidemill_model::{Batch, Collector};

/// One output port.
pub(super) struct OutPort {
    pub name: String,
    pub schema: SchemaRef,
    /// Where each column comes from, if rows carry their parent's: (own?, index).
    pub carry: Option<Vec<(bool, usize)>>,
}

/// What the rows of a call come from: rows of a batch, or timers.
pub(super) struct Parents<'a> {
    pub rows: usize,
    /// `None` for timers.
    pub batch: Option<&'a Batch>,
    pub times: Option<&'a ScalarBuffer<i64>>,
}

pub(super) struct Outputs {
    ports: Arc<[OutPort]>,
    /// Made, not yet emitted, with the number of rows emitted of the first.
    pending: VecDeque<(usize, Batch)>,
    emitted: usize,
    made: usize,
}

impl Outputs {
    pub fn new(ports: Arc<[OutPort]>) -> Self {
        Self { ports, pending: VecDeque::new(), emitted: 0, made: 0 }
    }

    /// A new call of the operator: it may emit another batch.
    pub fn refuel(&mut self) {
        self.emitted = 0;
    }

    /// Emits what there is, until the fuel is used up. Whether all is out.
    pub fn flush(&mut self, out: &mut dyn Collector) -> bool {
        while let Some((port, batch)) = self.pending.pop_front() {
            if self.emitted >= BATCH_ROWS_MAX {
                self.pending.push_front((port, batch));
                return false;
            }
            let rows = batch.num_rows();
            self.emitted += rows.min(BATCH_ROWS_MAX);
            if rows > BATCH_ROWS_MAX {
                out.emit(port, batch.slice(0, BATCH_ROWS_MAX));
                self.pending.push_front((port, batch.slice(BATCH_ROWS_MAX, rows - BATCH_ROWS_MAX)));
            } else {
                out.emit(port, batch);
            }
        }
        true
    }

    /// Whether a batch's worth of rows has left since `refuel`.
    pub fn exhausted(&self) -> bool {
        self.emitted >= BATCH_ROWS_MAX
    }

    /// Rows made since the last call of this.
    pub fn take_made(&mut self) -> usize {
        std::mem::take(&mut self.made)
    }

    /// A finished batch for port 0.
    pub fn push(&mut self, batch: Batch) {
        if !batch.is_empty() {
            self.made += batch.num_rows();
            self.pending.push_back((0, batch));
        }
    }

    /// Checks rows from the logic and makes a batch of them. `Err` says what is malformed.
    pub fn add(&mut self, rows: RowsOut, parents: &Parents) -> Result<(), String> {
        let Some(port) = self.ports.get(rows.port) else {
            return Err(format!("rows for output {}, but there are {} outputs", rows.port, self.ports.len()));
        };
        let count = rows.rows.num_rows();
        check(&rows, parents).map_err(|e| format!("output `{}`: {e}", port.name))?;
        if count == 0 {
            return Ok(());
        }
        let indices = rows.parents.clone().map(|p| UInt32Array::new(p, None));
        let columns = match &port.carry {
            None => rows.rows.columns().to_vec(),
            Some(from) => {
                let Some(batch) = parents.batch else {
                    return Err(format!(
                        "output `{}` carries the columns of its input row, but a timer has none",
                        port.name
                    ));
                };
                carried(from, &rows.rows, batch, indices.as_ref()).map_err(|e| e.to_string())?
            }
        };
        let options = RecordBatchOptions::new().with_row_count(Some(count));
        let made = RecordBatch::try_new_with_options(port.schema.clone(), columns, &options)
            .map_err(|e| format!("output `{}`: {e}", port.name))?;
        let mut batch = match parents.batch {
            Some(parent) => parent.derive(made),
            None => Batch::new(made),
        };
        batch.times = rows.times.or_else(|| parents.times.map(|t| inherit(t, indices.as_ref())));
        let kinds = parents.batch.and_then(|b| b.kinds.as_ref());
        batch.kinds = rows.kinds.or_else(|| kinds.map(|k| inherit(k, indices.as_ref())));
        self.made += count;
        self.pending.push_back((rows.port, batch));
        Ok(())
    }
}

fn check(rows: &RowsOut, parents: &Parents) -> Result<(), String> {
    let count = rows.rows.num_rows();
    match &rows.parents {
        None if count != parents.rows => {
            return Err(format!("{count} rows without parents for {} rows in", parents.rows));
        }
        Some(list) if list.len() != count => return Err(format!("{} parents for {count} rows", list.len())),
        Some(list) => {
            if let Some(wrong) = list.iter().find(|&&p| p as usize >= parents.rows) {
                return Err(format!("a row comes from row {wrong}, but {} rows came in", parents.rows));
            }
        }
        None => {}
    }
    for (what, len) in
        [("event times", rows.times.as_ref().map(|t| t.len())), ("kinds", rows.kinds.as_ref().map(|k| k.len()))]
    {
        if let Some(len) = len.filter(|&l| l != count) {
            return Err(format!("{len} {what} for {count} rows"));
        }
    }
    Ok(())
}

fn carried(
    from: &[(bool, usize)],
    own: &RecordBatch,
    parent: &Batch,
    indices: Option<&UInt32Array>,
) -> Result<Vec<ArrayRef>, arrow::error::ArrowError> {
    let column = |&(is_own, index): &(bool, usize)| match (is_own, indices) {
        (true, _) if index >= own.num_columns() => Err(arrow::error::ArrowError::InvalidArgumentError(format!(
            "column {index} is missing, there are {}",
            own.num_columns()
        ))),
        (true, _) => Ok(own.column(index).clone()),
        (false, None) => Ok(parent.column(index).clone()),
        (false, Some(indices)) => take(parent.column(index), indices, None),
    };
    from.iter().map(column).collect()
}

fn inherit<T: ArrowNativeType>(values: &ScalarBuffer<T>, indices: Option<&UInt32Array>) -> ScalarBuffer<T> {
    match indices {
        None => values.clone(),
        Some(indices) => indices.values().iter().map(|&i| values[i as usize]).collect(),
    }
}
