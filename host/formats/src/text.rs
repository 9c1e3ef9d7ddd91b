//! Reads the rows of a text format: the loop that CSV and NDJSON share.
//!
//! Law: each row that begins in the section is appended to the record or rejected, once, in order.

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use tidemill_model::format::{Decoded, RowReader};
use tidemill_model::limits::BATCH_BYTES_MAX;
use tidemill_model::{DeadRow, Fault};

use crate::column::Record;
use crate::lines::{Lines, ROW_BYTES_MAX, Ready};
use crate::reject::{Flaw, dead_row};

/// What stands at the beginning of a region. `bytes` and `lines` are what to consume.
pub(crate) struct Step {
    pub(crate) bytes: usize,
    pub(crate) lines: u64,
    pub(crate) found: Found,
}

pub(crate) enum Found {
    /// A row, now in the record.
    Row,
    /// Nothing: a blank line.
    Blank,
    /// A row that cannot be decoded. It may have left values in the record.
    Flaw(Flaw),
    /// The row goes on behind the region.
    More,
}

pub(crate) trait RowDecoder: Send {
    /// Decodes one row from the beginning of `region`, which holds whole lines and at least one.
    /// `utf8`: the region is known to be UTF-8. `all`: nothing can be appended to the region.
    fn row(&mut self, region: &[u8], utf8: bool, all: bool, record: &mut Record) -> Step;
}

pub(crate) struct TextReader<D> {
    pub(crate) lines: Lines,
    pub(crate) schema: SchemaRef,
    pub(crate) record: Record,
    pub(crate) decoder: D,
}

impl<D: RowDecoder> RowReader for TextReader<D> {
    fn read(&mut self, rows: usize) -> Result<Option<Decoded>, Fault> {
        let from = self.lines.position();
        let mut rejected = Vec::new();
        loop {
            let left = rows.saturating_sub(self.record.len() + rejected.len());
            if left == 0 || self.lines.position() - from >= BATCH_BYTES_MAX as u64 {
                break;
            }
            match self.lines.ready()? {
                Ready::Region => self.decode(left, &mut rejected)?,
                Ready::TooLong(raw) => {
                    let line = self.lines.line_number().map(|l| l - 1);
                    rejected.push(dead_row(self.lines.name(), line, &raw, &too_long()));
                }
                Ready::End => break,
            }
        }
        if self.lines.position() == from && rows > 0 {
            return Ok(None);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(self.record.len()));
        let columns = self.record.finish_columns()?;
        let rows = RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)?;
        Ok(Some(Decoded { rows, rejected }))
    }

    fn position(&self) -> u64 {
        self.lines.position()
    }
}

#[cold]
fn too_long() -> Flaw {
    Flaw::new(format!("the row is longer than {} MiB", ROW_BYTES_MAX >> 20))
}

/// Buffers grow in steps, so that a row that is too long may still have been decoded.
#[inline]
fn limit_row(step: Step, record: &mut Record) -> Step {
    if step.bytes <= ROW_BYTES_MAX {
        return step;
    }
    if let Found::Row = step.found {
        record.truncate(record.len() - 1);
    }
    Step { found: Found::Flaw(too_long()), ..step }
}

impl<D: RowDecoder> TextReader<D> {
    /// Rows from the region up to `limit`, to the end of the region, or to the first flaw.
    fn decode(&mut self, limit: usize, rejected: &mut Vec<DeadRow>) -> Result<(), Fault> {
        let utf8 = self.lines.is_utf8();
        let until = self.lines.bytes_left();
        let region = self.lines.region();
        let (mut at, mut lines, mut rows) = (0, 0, 0);
        let mut stopped = None;
        while rows < limit && at < region.len() && (at as u64) < until {
            let step = limit_row(self.decoder.row(&region[at..], utf8, false, &mut self.record), &mut self.record);
            match step.found {
                Found::Row => rows += 1,
                Found::Blank => {}
                Found::Flaw(_) | Found::More => {
                    stopped = Some(step);
                    break;
                }
            }
            at += step.bytes;
            lines += step.lines;
        }
        self.lines.consume(at, lines);
        match stopped {
            None => Ok(()),
            Some(Step { found: Found::More, .. }) => self.row_over_regions(rejected),
            Some(step) => {
                self.reject(step, rejected);
                Ok(())
            }
        }
    }

    /// The row at the position needs more lines than the region has.
    fn row_over_regions(&mut self, rejected: &mut Vec<DeadRow>) -> Result<(), Fault> {
        loop {
            self.record.roll_back();
            let all = !self.lines.extend()?;
            let utf8 = self.lines.is_utf8();
            let step = self.decoder.row(self.lines.region(), utf8, all, &mut self.record);
            let step = limit_row(step, &mut self.record);
            match step.found {
                Found::More => {}
                Found::Flaw(_) => {
                    self.reject(step, rejected);
                    return Ok(());
                }
                Found::Row | Found::Blank => {
                    self.lines.consume(step.bytes, step.lines);
                    return Ok(());
                }
            }
        }
    }

    #[cold]
    fn reject(&mut self, step: Step, rejected: &mut Vec<DeadRow>) {
        self.record.roll_back();
        if let Found::Flaw(flaw) = &step.found {
            let line = self.lines.line_number();
            let raw = &self.lines.region()[..step.bytes];
            rejected.push(dead_row(self.lines.name(), line, raw, flaw));
        }
        self.lines.consume(step.bytes, step.lines);
    }
}
