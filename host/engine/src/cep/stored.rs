//! What a pattern node holds, as tables of a snapshot: `partial_matches` (one row per key), `events` (rows that belong to
//! them) and `waiting` (rows that the watermark has not reached).
//!
//! Laws: the first columns are key group and key, so that each row comes back to the worker that owns its key; the pattern
//! goes with the tables and is compared; rows of a key stay in order.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, Int64Array, RecordBatch, UInt16Array, UInt64Array};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, UInt64Type};
use tidemill_cep::{Automaton, KeyState};
use tidemill_model::Fault;
use tidemill_model::key::{hash_key, key_group};
use tidemill_model::pattern::PatternSpec;
use tidemill_model::schema::type_name;
use tidemill_model::snapshot::{ByGroup, CHUNK_BYTES_MAX, CHUNK_ROWS_MAX, Restore, Table, key_group_field};

use super::operator::Cep;
use super::rows::Chunk;

const PARTIAL_MATCHES: &str = "partial_matches";
const EVENTS: &str = "events";
const WAITING: &str = "waiting";

/// The tables of a pattern.
#[derive(Clone)]
pub(super) struct Form {
    /// What the rows are worth something for.
    settings: BTreeMap<String, String>,
    /// The columns of a row that is kept.
    pub kept: SchemaRef,
    /// How many columns the key has.
    pub keys: usize,
}

/// A table before it is written: keys, bytes, and two numbers whose meaning the table gives.
#[derive(Default)]
struct Held {
    keys: Vec<Arc<[u8]>>,
    bytes: Vec<Arc<[u8]>>,
    times: Vec<i64>,
    numbers: Vec<u64>,
}

impl Form {
    pub fn new(spec: &PatternSpec, input: &SchemaRef, kept: &[usize]) -> Self {
        let columns = |columns: &[usize]| {
            let column = |&c: &usize| format!("{} {}", input.field(c).name(), type_name(input.field(c).data_type()));
            columns.iter().map(column).collect::<Vec<_>>().join(", ")
        };
        let settings = [
            ("pattern", spec.pattern.to_string()),
            ("key", columns(&spec.key)),
            // Which columns are kept follows from conditions and select list.
            ("columns", columns(kept)),
        ];
        Self {
            settings: settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            kept: Arc::new(Schema::new(kept.iter().map(|&c| input.field(c).clone()).collect::<Vec<_>>())),
            keys: spec.key.len(),
        }
    }

    fn schema(&self) -> SchemaRef {
        let fields = vec![
            key_group_field(),
            Field::new("key", DataType::Binary, false),
            Field::new("value", DataType::Binary, false),
            Field::new("time", DataType::Int64, false),
            Field::new("number", DataType::UInt64, false),
        ];
        Arc::new(Schema::new_with_metadata(fields, self.settings.clone().into_iter().collect()))
    }

    /// Freezes what the operator holds.
    pub fn tables(&self, cep: &Cep) -> Vec<Table> {
        let (mut matches, mut events, mut waiting) = (Held::default(), Held::default(), Held::default());
        for key in cep.keys.all() {
            let mut bytes = Vec::new();
            key.state.encode(&mut bytes);
            matches.push(&key.bytes, bytes.into(), 0, 0);
            let mut rows: Vec<_> = key.events.iter().collect();
            rows.sort_unstable_by_key(|(event, _)| **event);
            rows.into_iter().for_each(|(event, row)| events.push(&key.bytes, row.clone(), 0, *event));
        }
        for (chunk, row) in cep.waiting.all() {
            let key = chunk.keys.value(row).into();
            waiting.push(&key, chunk.rows.value(row).into(), chunk.times[row], chunk.answers[row]);
        }
        let tables = [(PARTIAL_MATCHES, matches), (EVENTS, events), (WAITING, waiting)];
        let table = |(name, held): (&str, Held)| Table {
            name: name.to_owned(),
            schema: self.schema(),
            chunks: Box::new(HeldRows { schema: self.schema(), held, order: None, next: 0 }),
        };
        tables.map(table).into()
    }

    /// Takes in what the operators of this node held.
    pub fn restore(&self, cep: &mut Cep, automaton: &Automaton, from: &dyn Restore) -> Result<(), Fault> {
        for (table, stored) in from.tables() {
            if ![PARTIAL_MATCHES, EVENTS, WAITING].contains(&table.as_str()) {
                return Err(Fault::config(format!("the snapshot holds `{table}`, which a pattern has no place for")));
            }
            self.check(&stored)?;
            for chunk in from.chunks(&table)? {
                let chunk = chunk?;
                match table.as_str() {
                    WAITING => cep.wait_again(&chunk)?,
                    table => self.hold_again(cep, automaton, table, &chunk)?,
                }
            }
        }
        cep.plan_again();
        Ok(())
    }

    fn hold_again(&self, cep: &mut Cep, automaton: &Automaton, table: &str, chunk: &RecordBatch) -> Result<(), Fault> {
        let (keys, values) = (chunk.column(1).as_binary::<i32>(), chunk.column(2).as_binary::<i32>());
        let numbers = chunk.column(4).as_primitive::<UInt64Type>();
        for row in 0..chunk.num_rows() {
            let (key, value) = (keys.value(row), values.value(row));
            let hash = hash_key(key);
            let slot = cep.keys.find(hash, key).unwrap_or_else(|| cep.keys.add(hash, key));
            let held = cep.keys.get(slot);
            if table == EVENTS {
                held.events.insert(numbers.value(row), value.into());
                cep.next_event = cep.next_event.max(numbers.value(row).saturating_add(1));
            } else {
                let state = KeyState::decode(automaton, value);
                held.state = state.map_err(|error| Fault::data(error.to_string()))?;
            }
        }
        Ok(())
    }

    /// Compares the pattern of a snapshot with that of the pipeline.
    fn check(&self, stored: &Schema) -> Result<(), Fault> {
        let then: BTreeMap<_, _> = stored.metadata().clone().into_iter().collect();
        let help = "give the node another name, so that it starts empty";
        for name in then.keys().chain(self.settings.keys()) {
            if then.get(name) != self.settings.get(name) {
                let value =
                    |of: &BTreeMap<String, String>| of.get(name).map_or("nothing".into(), |value| format!("`{value}`"));
                let message = format!(
                    "the snapshot holds matches whose `{name}` is {}, but now it is {}",
                    value(&then),
                    value(&self.settings)
                );
                return Err(Fault::config(message).with_help(help));
            }
        }
        match stored.fields() == self.schema().fields() {
            true => Ok(()),
            false => Err(Fault::config("the matches of the snapshot are kept in another form").with_help(help)),
        }
    }
}

impl Held {
    fn push(&mut self, key: &Arc<[u8]>, bytes: Arc<[u8]>, time: i64, number: u64) {
        self.keys.push(key.clone());
        self.bytes.push(bytes);
        self.times.push(time);
        self.numbers.push(number);
    }
}

/// A table on its way out. Sorting and encoding happen here, when it is written.
struct HeldRows {
    schema: SchemaRef,
    held: Held,
    order: Option<ByGroup>,
    next: usize,
}

impl HeldRows {
    fn chunk(&self, groups: UInt16Array, rows: &[u32]) -> Result<RecordBatch, Fault> {
        let rows = || rows.iter().map(|row| *row as usize);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(groups),
            Arc::new(BinaryArray::from_iter_values(rows().map(|row| &self.held.keys[row]))),
            Arc::new(BinaryArray::from_iter_values(rows().map(|row| &self.held.bytes[row]))),
            Arc::new(Int64Array::from_iter_values(rows().map(|row| self.held.times[row]))),
            Arc::new(UInt64Array::from_iter_values(rows().map(|row| self.held.numbers[row]))),
        ];
        Ok(RecordBatch::try_new(self.schema.clone(), columns)?)
    }
}

impl Iterator for HeldRows {
    type Item = Result<RecordBatch, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        let all = self.held.keys.len() as u32;
        let group = |row: u32| key_group(hash_key(&self.held.keys[row as usize]));
        let order = self.order.take().unwrap_or_else(|| ByGroup::sort(|| 0..all, group));
        let (first, mut bytes) = (self.next, 0);
        while self.next < order.items.len() && self.next - first < CHUNK_ROWS_MAX && bytes < CHUNK_BYTES_MAX {
            let row = order.items[self.next] as usize;
            bytes += self.held.keys[row].len() + self.held.bytes[row].len();
            self.next += 1;
        }
        let chunk =
            (first < self.next).then(|| self.chunk(order.groups(first..self.next), &order.items[first..self.next]));
        self.order = Some(order);
        chunk
    }
}

impl Cep {
    /// Takes in rows of `waiting`.
    fn wait_again(&mut self, chunk: &RecordBatch) -> Result<(), Fault> {
        let (keys, rows) = (chunk.column(1).as_binary::<i32>(), chunk.column(2).as_binary::<i32>());
        let times = chunk.column(3).as_primitive::<Int64Type>().values().to_vec();
        let answers = chunk.column(4).as_primitive::<UInt64Type>().values().to_vec();
        let hashes = (0..keys.len()).map(|row| hash_key(keys.value(row))).collect();
        self.waiting.chunks.push(Chunk::new(times, answers, hashes, keys.clone(), rows.clone()));
        Ok(())
    }

    /// Plans when to look at each key.
    fn plan_again(&mut self) {
        let slots: Vec<u32> = self.keys.slots().collect();
        slots.into_iter().for_each(|slot| self.keys.done(slot));
    }
}
