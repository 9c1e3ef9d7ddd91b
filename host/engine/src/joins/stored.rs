//! The rows of a side as the table `left` or `right` of a snapshot.
//!
//! Laws: the key group of a row is the one that the exchange uses; rows of a key stay in their order; only rows that are still there are
//! stored. Hashing, sorting and copying happen in the iterator.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, UInt16Array};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use arrow::error::ArrowError;
use tidemill_model::join::{JoinKind, JoinSpec, SIDES};
use tidemill_model::key::{KeyEncoder, key_group};
use tidemill_model::schema::type_name;
use tidemill_model::snapshot::{ByGroup, CHUNK_BYTES_MAX, CHUNK_ROWS_MAX, Restore, Table, key_group_field};
use tidemill_model::{Batch, Fault};

use super::rows::{Choice, Rows};
use super::side::{Side, spread};

/// Columns in front of those of the rows: key group, time, matched.
const OWN_COLUMNS: usize = 3;
const HELP: &str = "give the node another name, so that it starts empty";

/// Rows, their times, and whether they have had a partner.
type Part = (RecordBatch, ScalarBuffer<i64>, Vec<bool>);

/// How rows of a side are stored.
#[derive(Clone)]
pub(super) struct Stored {
    name: &'static str,
    /// Of the table.
    schema: SchemaRef,
    /// Of the rows.
    rows: SchemaRef,
    /// Indices of the key columns in the rows.
    key: Vec<usize>,
}

impl Stored {
    pub fn new(number: usize, spec: &JoinSpec, side: &Side) -> Self {
        let mut fields = vec![
            key_group_field(),
            Field::new("time", DataType::Int64, false),
            Field::new("matched", DataType::Boolean, false),
        ];
        fields.extend(side.schema.fields().iter().map(|f| f.as_ref().clone().with_name(format!("row.{}", f.name()))));
        let key = side.key.iter().map(|&column| type_name(side.schema.field(column).data_type()));
        let settings = settings(spec, key.collect::<Vec<_>>().join(", "));
        let schema = Arc::new(Schema::new_with_metadata(fields, settings.into_iter().collect()));
        Self { name: SIDES[number], schema, rows: side.schema.clone(), key: side.key.clone() }
    }

    /// The rows of a side. `is_there`: by a row's time whether it has not gone.
    pub fn table_of(
        &self,
        side: &Side,
        is_there: impl Fn(i64) -> bool + Copy + Send + 'static,
    ) -> Result<Table, Fault> {
        let panes = side.panes.values().map(|pane| {
            let settled = pane.settled;
            Frozen {
                rows: pane.rows.clone(),
                times: pane.times.clone(),
                matched: pane.matches(),
                is_there: Box::new(move |row, time| row >= settled || is_there(time)),
            }
        });
        Ok(self.table(panes.collect()))
    }

    /// Rows of several parts.
    pub fn table(&self, panes: Vec<Frozen>) -> Table {
        let bytes: usize = panes.iter().map(|pane| pane.rows.bytes()).sum();
        let rows: usize = panes.iter().map(|pane| pane.times.len()).sum();
        let chunk_rows = (CHUNK_BYTES_MAX / (bytes / rows.max(1)).max(1)).clamp(1, CHUNK_ROWS_MAX);
        let chunks = Chunks { stored: self.clone(), panes, chunk_rows, sorted: None, next: 0 };
        Table { name: self.name.to_owned(), schema: self.schema.clone(), chunks: Box::new(chunks) }
    }

    /// Whether a snapshot is one of such a join.
    pub fn check_tables(stored: &[Self; 2], from: &dyn Restore) -> Result<(), Fault> {
        for (table, schema) in from.tables() {
            match stored.iter().find(|own| own.name == table) {
                Some(own) => own.check(&schema)?,
                None => {
                    let message = format!("the snapshot holds `{table}`, which a join has no place for");
                    return Err(Fault::config(message).with_help(HELP));
                }
            }
        }
        Ok(())
    }

    fn check(&self, stored: &Schema) -> Result<(), Fault> {
        let settings = |schema: &Schema| schema.metadata().clone().into_iter().collect::<BTreeMap<_, _>>();
        let (then, now) = (settings(stored), settings(&self.schema));
        for name in then.keys().chain(now.keys()) {
            if then.get(name) != now.get(name) {
                let value = |of: &BTreeMap<String, String>| of.get(name).map_or("nothing".into(), |v| format!("`{v}`"));
                let message = format!(
                    "the snapshot holds rows of a join whose `{name}` is {}, but now it is {}",
                    value(&then),
                    value(&now)
                );
                return Err(Fault::config(message).with_help(HELP));
            }
        }
        for field in &self.schema.fields()[OWN_COLUMNS..] {
            let column = field.name().trim_start_matches("row.");
            let found = stored.field_with_name(field.name()).ok();
            if found.is_none_or(|found| found.data_type() != field.data_type()) {
                let found =
                    found.map_or("is not among them".to_owned(), |f| format!("was {}", type_name(f.data_type())));
                let message = format!(
                    "the snapshot holds rows of `{}`, but the column `{column}`, which is read now, {found}",
                    self.name
                );
                return Err(Fault::config(message).with_help(HELP));
            }
        }
        Ok(())
    }

    /// Adds what belongs to this worker to the panes of a side.
    pub fn restore(
        &self,
        from: &dyn Restore,
        side: &mut Side,
        start_of: impl Fn(i64) -> i64,
        width: i64,
    ) -> Result<(), Fault> {
        for part in self.parts(from)? {
            let (rows, times, matched) = part?;
            let Some(ready) = side.restored(rows, times)? else { continue };
            for (start, rows) in spread(&ready.times, &start_of, width) {
                let matched: Vec<bool> = rows.iter().map(|&row| matched[row as usize]).collect();
                side.add(start, &ready, &rows, Some(&matched))?;
            }
        }
        Ok(())
    }

    /// Rows, their times and whether they have had a partner, piece by piece.
    pub fn parts<'a>(
        &'a self,
        from: &dyn Restore,
    ) -> Result<impl Iterator<Item = Result<Part, Fault>> + use<'a>, Fault> {
        let is_there = from.tables().iter().any(|(table, _)| table == self.name);
        let chunks = if is_there { Some(from.chunks(self.name)?) } else { None };
        Ok(chunks.into_iter().flatten().map(|chunk| self.part(&chunk?)))
    }

    fn part(&self, chunk: &RecordBatch) -> Result<Part, Fault> {
        let times = chunk.column(1).as_primitive::<Int64Type>().values().clone();
        let matched = chunk.column(2).as_boolean().values().iter().collect();
        let fields = self.schema.fields()[OWN_COLUMNS..].iter();
        let columns: Option<Vec<ArrayRef>> = fields.map(|field| chunk.column_by_name(field.name()).cloned()).collect();
        let columns = columns.ok_or_else(|| Fault::data("a part of the snapshot lacks columns"))?;
        Ok((RecordBatch::try_new(self.rows.clone(), columns)?, times, matched))
    }
}

/// What must be the same for rows that were kept to be of use.
fn settings(spec: &JoinSpec, key: String) -> BTreeMap<String, String> {
    let mut settings = BTreeMap::from([("type".to_owned(), spec.join_type.name().to_owned()), ("key".to_owned(), key)]);
    let kind = match spec.kind {
        JoinKind::Interval { .. } => "interval",
        JoinKind::Temporal => "temporal",
        JoinKind::Window { size_ms, slide_ms, offset_ms } => {
            for (name, ms) in [("size_ms", size_ms), ("slide_ms", slide_ms), ("offset_ms", offset_ms)] {
                settings.insert(name.to_owned(), ms.to_string());
            }
            "window"
        }
    };
    settings.insert("join".to_owned(), kind.to_owned());
    settings
}

/// Rows, as they are now.
pub(super) struct Frozen {
    pub rows: Rows,
    pub times: Vec<i64>,
    pub matched: Vec<bool>,
    /// By a row's number and time.
    pub is_there: Box<dyn Fn(usize, i64) -> bool + Send>,
}

struct Chunks {
    stored: Stored,
    panes: Vec<Frozen>,
    chunk_rows: usize,
    /// Pane and row of what is stored, and its order; made by whoever reads.
    sorted: Option<(Vec<(u32, u32)>, ByGroup)>,
    next: usize,
}

impl Chunks {
    fn sorted(&self) -> Result<(Vec<(u32, u32)>, ByGroup), ArrowError> {
        let (mut places, mut groups) = (Vec::new(), Vec::new());
        let key = Arc::new(self.stored.rows.project(&self.stored.key)?);
        let encoder = KeyEncoder::new(&key, &(0..self.stored.key.len()).collect::<Vec<_>>())?;
        for (number, pane) in self.panes.iter().enumerate() {
            for (first, columns) in pane.rows.pieces() {
                let columns = self.stored.key.iter().map(|&column| columns[column].clone()).collect();
                let hashes = encoder.hashes(&Batch::new(RecordBatch::try_new(key.clone(), columns)?))?;
                for (row, &hash) in (first..).zip(hashes.iter()) {
                    if (pane.is_there)(row, pane.times[row]) {
                        places.push((number as u32, row as u32));
                        groups.push(key_group(hash) as u16);
                    }
                }
            }
        }
        let order = ByGroup::sort(|| 0..places.len() as u32, |place| u32::from(groups[place as usize]));
        Ok((places, order))
    }

    fn chunk(&self, groups: UInt16Array, places: &[(u32, u32)]) -> Result<RecordBatch, ArrowError> {
        let mut choice = Choice::of(self.panes.iter().map(|pane| &pane.rows));
        places.iter().for_each(|&(pane, row)| choice.push(pane as usize, row as usize));
        let times = places.iter().map(|&(pane, row)| self.panes[pane as usize].times[row as usize]);
        let matched = places.iter().map(|&(pane, row)| Some(self.panes[pane as usize].matched[row as usize]));
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(groups),
            Arc::new(Int64Array::from_iter_values(times)),
            Arc::new(matched.collect::<BooleanArray>()),
        ];
        columns.extend(choice.columns(self.stored.rows.fields().len())?);
        RecordBatch::try_new(self.stored.schema.clone(), columns)
    }
}

impl Iterator for Chunks {
    type Item = Result<RecordBatch, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.sorted.is_none() {
            match self.sorted() {
                Ok(sorted) => self.sorted = Some(sorted),
                Err(error) => return Some(Err(error.into())),
            }
        }
        let (places, order) = self.sorted.as_ref()?;
        let first = self.next;
        self.next = places.len().min(first + self.chunk_rows);
        let next = self.next;
        let chosen: Vec<(u32, u32)> = order.items[first..next].iter().map(|&item| places[item as usize]).collect();
        (first < next).then(|| Ok(self.chunk(order.groups(first..next), &chosen)?))
    }
}
