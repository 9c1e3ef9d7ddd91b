//! Tables as segments: Arrow IPC streams of some MiB each.
//!
//! Laws: rows come back in the order in which they were written; a reader holds one segment in memory, a writer one
//! segment, one chunk, and the segments that are on their way to the store.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use arrow::array::{Array, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use tidemill_model::Fault;
use tidemill_model::checkpoint::Segment;
use tidemill_model::snapshot::{CHUNK_ROWS_MAX, Chunks, KEY_GROUP, key_groups};

/// A segment ends with the piece that makes it as large: 8 to 9 MiB. Large enough for stores that take milliseconds per
/// object, small enough to be held in memory by each of some threads.
pub const SEGMENT_BYTES: usize = 8 << 20;
/// Chunks are cut to pieces of about this size.
const PIECE_BYTES: usize = 1 << 20;

/// A segment before it has a name.
pub struct Encoded {
    pub content: Vec<u8>,
    pub rows: u64,
    /// First and last key group; all of them if the table has no such column.
    pub groups: (u16, u16),
}

/// Buffers of segments that have been written. Memory that nobody has touched before costs more than what is put there.
#[derive(Default)]
pub struct Buffers(Mutex<Vec<Vec<u8>>>);

impl Buffers {
    fn take(&self) -> Vec<u8> {
        let used = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        used.unwrap_or_else(|| Vec::with_capacity(SEGMENT_BYTES + 2 * PIECE_BYTES))
    }

    pub fn give_back(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
    }
}

/// Encodes a table, a segment at a time. At least one.
pub fn encode(
    schema: &SchemaRef,
    chunks: Chunks,
    buffers: &Buffers,
    mut segment: impl FnMut(Encoded) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let keyed = is_keyed(schema);
    let (mut open, mut any) = (Open::new(schema, buffers)?, false);
    for chunk in chunks {
        let chunk = chunk?;
        if chunk.schema_ref() != schema {
            return Err(Fault::internal("a chunk of a snapshot has another schema than its table"));
        }
        for piece in pieces(&chunk) {
            open.write(&piece, keyed)?;
            if open.writer.get_ref().len() >= SEGMENT_BYTES {
                let full = std::mem::replace(&mut open, Open::new(schema, buffers)?);
                segment(full.close()?)?;
                any = true;
            }
        }
    }
    if open.rows > 0 || !any {
        segment(open.close()?)?;
    }
    Ok(())
}

/// A segment that is being written.
struct Open {
    writer: StreamWriter<Vec<u8>>,
    rows: u64,
    groups: Option<(u16, u16)>,
}

impl Open {
    fn new(schema: &SchemaRef, buffers: &Buffers) -> Result<Self, Fault> {
        Ok(Self { writer: StreamWriter::try_new(buffers.take(), schema)?, rows: 0, groups: None })
    }

    fn write(&mut self, piece: &RecordBatch, keyed: bool) -> Result<(), Fault> {
        if keyed {
            let groups = key_groups(piece)?.values().iter();
            let all = groups.copied().chain(self.groups.into_iter().flat_map(|(first, last)| [first, last]));
            self.groups = all.fold(None, |found, group| {
                let (first, last) = found.unwrap_or((group, group));
                Some((first.min(group), last.max(group)))
            });
        }
        self.rows += piece.num_rows() as u64;
        Ok(self.writer.write(piece)?)
    }

    fn close(self) -> Result<Encoded, Fault> {
        Ok(Encoded {
            content: self.writer.into_inner()?,
            rows: self.rows,
            groups: self.groups.unwrap_or((0, u16::MAX)),
        })
    }
}

fn pieces(chunk: &RecordBatch) -> impl Iterator<Item = RecordBatch> + '_ {
    let bytes: usize = chunk.columns().iter().map(|c| c.to_data().get_slice_memory_size().unwrap_or(0)).sum();
    let rows = chunk.num_rows();
    let step = (rows / bytes.div_ceil(PIECE_BYTES).max(1)).clamp(1, CHUNK_ROWS_MAX);
    (0..rows).step_by(step).map(move |start| chunk.slice(start, step.min(rows - start)))
}

/// The schema and the rows of a segment. `place` is its name, for people.
pub fn decode(content: Vec<u8>, place: &str) -> Result<(SchemaRef, Vec<RecordBatch>), Fault> {
    let wrong = |error: arrow::error::ArrowError| crate::sealed::damaged(place, &error.to_string());
    let reader = StreamReader::try_new(std::io::Cursor::new(content), None).map_err(wrong)?;
    let schema = reader.schema();
    Ok((schema, reader.collect::<Result<_, _>>().map_err(wrong)?))
}

/// Whether a segment may hold rows of these key groups.
pub fn overlaps(segment: &Segment, groups: &Range<u32>) -> bool {
    u32::from(segment.groups.0) < groups.end && u32::from(segment.groups.1) >= groups.start
}

/// The rows of these key groups.
pub fn select(chunk: &RecordBatch, groups: &Range<u32>) -> Result<RecordBatch, Fault> {
    if !is_keyed(chunk.schema_ref()) {
        return Ok(chunk.clone());
    }
    let of_rows = key_groups(chunk)?;
    let mask: BooleanArray = of_rows.values().iter().map(|group| Some(groups.contains(&u32::from(*group)))).collect();
    match mask.true_count() {
        all if all == mask.len() => Ok(chunk.clone()),
        _ => Ok(filter_record_batch(chunk, &mask)?),
    }
}

pub fn is_keyed(schema: &SchemaRef) -> bool {
    schema.fields().first().is_some_and(|field| field.name() == KEY_GROUP && *field.data_type() == DataType::UInt16)
}
