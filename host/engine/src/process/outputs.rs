//! From the rows that a call returned to batches: parents' event times, kinds and carried columns.
//!
//! Law: no batch with more than `BATCH_ROWS_MAX` rows leaves; what is too much for now waits.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::buffer::ScalarBuffer;
use arrow::compute::take;
use arrow::datatypes::{ArrowNativeType, SchemaRef};
use tidemill_model::limits::{BATCH_BYTES_MAX, BATCH_ROWS_MAX};
use tidemill_model::logic::RowsOut;
use tidemill_model::{Batch, Collector, Fault};

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
    /// Its columns can be carried: not those of a broadcast input.
    pub carried: bool,
    pub times: Option<&'a ScalarBuffer<i64>>,
}

pub(super) struct Outputs {
    ports: Arc<[OutPort]>,
    /// Made, not yet emitted, by port.
    pending: VecDeque<(usize, Made)>,
    emitted: usize,
    emitted_bytes: usize,
    made: usize,
}

enum Made {
    Batch(Batch),
    /// Rows whose parents are so wide that their columns are copied a piece at a time, as they are emitted: a few
    /// bytes from the guest can ask for gigabytes.
    Wide(Box<Wide>),
}

struct Wide {
    own: RecordBatch,
    indices: UInt32Array,
    parent: Batch,
    times: Option<ScalarBuffer<i64>>,
    kinds: Option<ScalarBuffer<u8>>,
    /// Rows of a piece.
    piece: usize,
    done: usize,
}

impl Outputs {
    pub fn new(ports: Arc<[OutPort]>) -> Self {
        Self { ports, pending: VecDeque::new(), emitted: 0, emitted_bytes: 0, made: 0 }
    }

    /// A new call of the operator: it may emit another batch.
    pub fn refuel(&mut self) {
        (self.emitted, self.emitted_bytes) = (0, 0);
    }

    /// Emits what there is, until the fuel is used up. Whether all is out.
    pub fn flush(&mut self, out: &mut dyn Collector) -> Result<bool, Fault> {
        while !self.pending.is_empty() {
            if self.exhausted() {
                return Ok(false);
            }
            let Some((port, made)) = self.pending.pop_front() else { break };
            let batch = match made {
                Made::Batch(batch) if batch.num_rows() > BATCH_ROWS_MAX => {
                    let rest = batch.slice(BATCH_ROWS_MAX, batch.num_rows() - BATCH_ROWS_MAX);
                    self.pending.push_front((port, Made::Batch(rest)));
                    batch.slice(0, BATCH_ROWS_MAX)
                }
                Made::Batch(batch) => batch,
                Made::Wide(mut wide) => {
                    let batch = wide.next(&self.ports[port])?;
                    self.emitted_bytes += batch.bytes();
                    if wide.done < wide.indices.len() {
                        self.pending.push_front((port, Made::Wide(wide)));
                    }
                    batch
                }
            };
            self.emitted += batch.num_rows();
            out.emit(port, batch);
        }
        Ok(true)
    }

    /// Whether a batch's worth of rows has left since `refuel`.
    pub fn exhausted(&self) -> bool {
        self.emitted >= BATCH_ROWS_MAX || self.emitted_bytes >= BATCH_BYTES_MAX
    }

    /// Rows made since the last call of this.
    pub fn take_made(&mut self) -> usize {
        std::mem::take(&mut self.made)
    }

    /// A finished batch for port 0.
    pub fn push(&mut self, batch: Batch) {
        if !batch.is_empty() {
            self.made += batch.num_rows();
            self.pending.push_back((0, Made::Batch(batch)));
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
        let (kinds, times) = (parents.batch.and_then(|b| b.kinds.as_ref()), parents.times);
        let kinds = rows.kinds.clone().or_else(|| kinds.map(|k| inherit(k, indices.as_ref())));
        let times = rows.times.clone().or_else(|| times.map(|t| inherit(t, indices.as_ref())));
        self.made += count;
        let carried_from = parents.batch.filter(|_| parents.carried);
        if let (Some(_), Some(parent), Some(indices)) = (&port.carry, carried_from, &indices) {
            let row_bytes = parent.bytes() / parent.num_rows().max(1);
            if row_bytes.saturating_mul(count) > BATCH_BYTES_MAX {
                let piece = (BATCH_BYTES_MAX / row_bytes.max(1)).clamp(1, BATCH_ROWS_MAX);
                let (own, indices, parent) = (rows.rows, indices.clone(), parent.clone());
                let wide = Wide { own, indices, parent, times, kinds, piece, done: 0 };
                self.pending.push_back((rows.port, Made::Wide(Box::new(wide))));
                return Ok(());
            }
        }
        let columns = match &port.carry {
            None => rows.rows.columns().to_vec(),
            Some(from) => {
                let Some(batch) = carried_from else {
                    let who = if parents.batch.is_some() { "a row of a broadcast input" } else { "a timer" };
                    let name = &port.name;
                    return Err(format!("output `{name}` carries the columns of its input row, but {who} has none"));
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
        (batch.times, batch.kinds) = (times, kinds);
        self.pending.push_back((rows.port, Made::Batch(batch)));
        Ok(())
    }
}

impl Wide {
    fn next(&mut self, port: &OutPort) -> Result<Batch, Fault> {
        let (from, rows) = (self.done, self.piece.min(self.indices.len() - self.done));
        self.done += rows;
        let (own, indices) = (self.own.slice(from, rows), self.indices.slice(from, rows));
        let columns = carried(port.carry.as_deref().unwrap_or_default(), &own, &self.parent, Some(&indices))?;
        let mut batch = self.parent.derive(RecordBatch::try_new(port.schema.clone(), columns)?);
        batch.times = self.times.as_ref().map(|t| t.slice(from, rows));
        batch.kinds = self.kinds.as_ref().map(|k| k.slice(from, rows));
        Ok(batch)
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
