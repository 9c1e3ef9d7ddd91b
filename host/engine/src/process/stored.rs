//! The timers of a keyed operator as tables of a snapshot: `timers/event` and `timers/processing`, with key group, key and
//! time. A domain without timers has no table.

use std::sync::Arc;

use arrow::array::{AsArray, BinaryArray, Int64Array, RecordBatch, UInt16Array};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use tidemill_model::Fault;
use tidemill_model::key::{hash_key, key_group};
use tidemill_model::logic::TimeDomain;
use tidemill_model::snapshot::{ByGroup, CHUNK_BYTES_MAX, CHUNK_ROWS_MAX, Restore, Table, key_group_field};
use tidemill_model::state::StateBackend;

use crate::key_list::KeyList;
use crate::timers::Timers;

const TABLES: [(TimeDomain, &str); 2] =
    [(TimeDomain::Event, "timers/event"), (TimeDomain::Processing, "timers/processing")];

/// Whether a table is one of these.
pub(super) fn is_timers(table: &str) -> bool {
    TABLES.iter().any(|(_, name)| *name == table)
}

/// Freezes all timers.
pub(super) fn tables(timers: &Timers, state: &dyn StateBackend) -> Vec<Table> {
    let table = |(domain, name): (TimeDomain, &str)| {
        let mut rows = TimerRows::default();
        for (time, slot) in timers.all(domain) {
            rows.keys.push(state.key(slot));
            rows.times.push(time);
        }
        let some = !rows.times.is_empty();
        some.then(|| Table { name: name.to_owned(), schema: schema(), chunks: Box::new(rows) })
    };
    TABLES.into_iter().filter_map(table).collect()
}

/// Sets the timers of a snapshot, and pins their keys.
pub(super) fn restore(timers: &mut Timers, state: &mut dyn StateBackend, from: &dyn Restore) -> Result<(), Fault> {
    let stored = from.tables();
    let mut slots = Vec::new();
    for (domain, name) in TABLES {
        let Some((_, columns)) = stored.iter().find(|(table, _)| table == name) else { continue };
        if columns.fields() != schema().fields() {
            return Err(Fault::data(format!("table `{name}` has other columns than timers have")));
        }
        for chunk in from.chunks(name)? {
            let chunk = chunk?;
            state.resolve_bytes(chunk.column(1).as_binary(), &mut slots)?;
            for (&time, &slot) in chunk.column(2).as_primitive::<Int64Type>().values().iter().zip(&slots) {
                if timers.set(domain, time, slot) {
                    state.pin(slot);
                }
            }
        }
    }
    Ok(())
}

fn schema() -> SchemaRef {
    let fields = [Field::new("key", DataType::Binary, false), Field::new("time", DataType::Int64, false)];
    Arc::new(Schema::new([key_group_field()].into_iter().chain(fields).collect::<Vec<_>>()))
}

/// Timers of one domain, frozen.
#[derive(Default)]
struct TimerRows {
    keys: KeyList,
    times: Vec<i64>,
    /// By key group, made by whoever reads.
    order: Option<ByGroup>,
    next: usize,
}

impl TimerRows {
    fn group(&self, timer: u32) -> u32 {
        key_group(hash_key(self.keys.get(timer as usize)))
    }

    fn sorted(&self) -> ByGroup {
        ByGroup::sort(|| 0..self.times.len() as u32, |timer| self.group(timer))
    }

    fn chunk(&self, groups: UInt16Array, timers: &[u32]) -> Result<RecordBatch, Fault> {
        let keys = BinaryArray::from_iter_values(timers.iter().map(|&t| self.keys.get(t as usize)));
        let times = Int64Array::from_iter_values(timers.iter().map(|&t| self.times[t as usize]));
        Ok(RecordBatch::try_new(schema(), vec![Arc::new(groups), Arc::new(keys), Arc::new(times)])?)
    }
}

impl Iterator for TimerRows {
    type Item = Result<RecordBatch, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        let order = self.order.take().unwrap_or_else(|| self.sorted());
        let (first, mut bytes) = (self.next, 0);
        while self.next < order.items.len() && self.next - first < CHUNK_ROWS_MAX && bytes < CHUNK_BYTES_MAX {
            bytes += self.keys.get(order.items[self.next] as usize).len();
            self.next += 1;
        }
        let (groups, timers) = (order.groups(first..self.next), &order.items[first..self.next]);
        let chunk = (first < self.next).then(|| self.chunk(groups, timers));
        self.order = Some(order);
        chunk
    }
}
