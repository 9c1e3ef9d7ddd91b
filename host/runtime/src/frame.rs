//! What travels on timely's channels: batches of rows, and nothing else, in one container type.
//!
//! Law: a container's record count is its number of rows, so batches without rows are never sent,
//! and an exchange keeps the count.

use std::cell::OnceCell;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, UInt8Array, UInt64Array};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, UInt8Type, UInt64Type};
use arrow::ipc::{reader::StreamReader, writer::StreamWriter};
use tidemill_model::Batch;
use timely::Accountable;
use timely::container::{ContainerBuilder, PushInto};
use timely::dataflow::channels::ContainerBytes;

use crate::cluster::credit;

/// Batches of one edge, in order.
#[derive(Clone, Default)]
pub struct Rows(pub Vec<Batch>, Encoded);

/// What goes over the wire, from the question for its length until it is written.
#[derive(Clone, Default)]
struct Encoded(OnceCell<Vec<u8>>);

impl Rows {
    pub fn of(batch: Batch) -> Self {
        Self(vec![batch], Encoded::default())
    }
}

impl Accountable for Rows {
    fn record_count(&self) -> i64 {
        self.0.iter().map(|b| b.num_rows() as i64).sum()
    }
}

/// Sends each batch as a container of its own: a batch is large already.
#[derive(Default)]
pub struct RowsBuilder {
    ready: std::collections::VecDeque<Rows>,
    current: Rows,
}

impl PushInto<Batch> for RowsBuilder {
    fn push_into(&mut self, batch: Batch) {
        self.ready.push_back(Rows::of(batch));
    }
}

impl ContainerBuilder for RowsBuilder {
    type Container = Rows;
    fn extract(&mut self) -> Option<&mut Rows> {
        self.current = self.ready.pop_front()?;
        Some(&mut self.current)
    }
    fn finish(&mut self) -> Option<&mut Rows> {
        self.extract()
    }
}

const TIME: &str = "__tidemill_time";
const KIND: &str = "__tidemill_kind";
const HASH: &str = "__tidemill_hash";

/// Between processes: Arrow IPC, with what the host knows of each row as extra columns.
impl ContainerBytes for Rows {
    fn from_bytes(bytes: timely::bytes::arc::Bytes) -> Self {
        // Written by `into_bytes` of the same version of this program, over an authenticated link.
        Rows(decode(&bytes).expect("a container as written by a peer"), Encoded::default())
    }

    fn length_in_bytes(&self) -> usize {
        self.encoded().len()
    }

    fn into_bytes<W: std::io::Write>(&self, writer: &mut W) {
        writer.write_all(self.encoded()).expect("the channel takes what length_in_bytes announced");
    }
}

impl Rows {
    fn encoded(&self) -> &[u8] {
        self.1.0.get_or_init(|| encode(&self.0).expect("arrow encodes its own batches"))
    }
}

/// Words before each batch: length of its IPC stream, entry time, and who has lent its permit under which number.
const HEADER_WORDS: usize = 4;
const HEADER_BYTES: usize = HEADER_WORDS * 8;

/// Layout: per batch its header and an IPC stream, padded to 8 bytes.
fn encode(batches: &[Batch]) -> Result<Vec<u8>, arrow::error::ArrowError> {
    let mut out = Vec::new();
    for batch in batches {
        let start = out.len();
        out.resize(start + HEADER_BYTES, 0);
        let rows = with_extras(batch)?;
        let mut stream = StreamWriter::try_new(out, &rows.schema())?;
        stream.write(&rows)?;
        stream.finish()?;
        out = stream.into_inner()?;
        out.resize(out.len().next_multiple_of(8), 0);
        let length = out.len() - start - HEADER_BYTES;
        let (lender, loan) = credit::lend(batch.permit.as_ref());
        let header: [u64; HEADER_WORDS] = [length as u64, batch.entered_ns, lender as u64, loan];
        for (at, word) in header.into_iter().enumerate() {
            out[start + at * 8..][..8].copy_from_slice(&word.to_le_bytes());
        }
    }
    Ok(out)
}

fn decode(mut bytes: &[u8]) -> Result<Vec<Batch>, arrow::error::ArrowError> {
    let word = |b: &[u8], at: usize| u64::from_le_bytes(b[at * 8..][..8].try_into().expect("8 bytes"));
    let mut batches = Vec::new();
    while bytes.len() >= HEADER_BYTES {
        let [length, entered_ns, lender, loan] = [0, 1, 2, 3].map(|at| word(bytes, at));
        let (body, rest) = bytes[HEADER_BYTES..].split_at(length as usize);
        let permit = credit::borrowed(lender as usize, loan);
        for rows in StreamReader::try_new(body, None)? {
            let mut batch = without_extras(rows?, entered_ns)?;
            batch.permit.clone_from(&permit);
            batches.push(batch);
        }
        bytes = rest;
    }
    Ok(batches)
}

fn with_extras(batch: &Batch) -> Result<RecordBatch, arrow::error::ArrowError> {
    let mut fields: Vec<Arc<Field>> = batch.schema().fields().to_vec();
    let mut columns = batch.rows().columns().to_vec();
    let mut add = |name: &str, data_type: DataType, column: ArrayRef| {
        fields.push(Arc::new(Field::new(name, data_type, false)));
        columns.push(column);
    };
    if let Some(times) = &batch.times {
        add(TIME, DataType::Int64, Arc::new(Int64Array::new(times.clone(), None)));
    }
    if let Some(kinds) = &batch.kinds {
        add(KIND, DataType::UInt8, Arc::new(UInt8Array::new(kinds.clone(), None)));
    }
    if let Some(hashes) = &batch.hashes {
        add(HASH, DataType::UInt64, Arc::new(UInt64Array::new(hashes.clone(), None)));
    }
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)
}

fn without_extras(rows: RecordBatch, entered_ns: u64) -> Result<Batch, arrow::error::ArrowError> {
    let column = |name: &str| rows.column_by_name(name);
    let times = column(TIME).map(|c| c.as_primitive::<Int64Type>().values().clone());
    let kinds = column(KIND).map(|c| c.as_primitive::<UInt8Type>().values().clone());
    let hashes = column(HASH).map(|c| c.as_primitive::<UInt64Type>().values().clone());
    let users =
        rows.num_columns() - [times.is_some(), kinds.is_some(), hashes.is_some()].iter().filter(|&&b| b).count();
    let own = rows.project(&(0..users).collect::<Vec<_>>())?;
    let mut batch = Batch::new(own).with_times(times);
    (batch.kinds, batch.hashes, batch.entered_ns) = (kinds, hashes, entered_ns);
    Ok(batch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::StringArray;

    #[test]
    fn containers_survive_the_wire() {
        let schema = Arc::new(Schema::new(vec![Field::new("name", DataType::Utf8, true)]));
        let rows = RecordBatch::try_new(schema, vec![Arc::new(StringArray::from(vec![Some("a"), None, Some("ccc")]))])
            .unwrap();
        let mut full = Batch::new(rows.clone()).with_times(Some(vec![1, 2, 3].into()));
        full.kinds = Some(vec![0, 3, 0].into());
        full.hashes = Some(vec![7, 8, 9].into());
        full.entered_ns = 42;
        let batches = vec![full, Batch::new(rows).slice(1, 2)];
        let bytes = encode(&batches).unwrap();
        assert_eq!(bytes.len() % 8, 0);
        let back = decode(&bytes).unwrap();
        assert_eq!(back.len(), 2);
        for (a, b) in batches.iter().zip(&back) {
            assert_eq!(a.rows(), b.rows());
            assert_eq!((&a.times, &a.kinds, &a.hashes, a.entered_ns), (&b.times, &b.kinds, &b.hashes, b.entered_ns));
        }
    }
}
