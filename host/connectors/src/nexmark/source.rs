//! The source end of `nexmark`.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int32Array, RecordBatch, StructArray, UInt32Array};
use arrow::buffer::NullBuffer;
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use serde::Deserialize;
use serde_json::Value;
use tidemill_model::config::{ConfigContext, read};
use tidemill_model::source::{Polled, Position, ReadBudget, Source, Split, SplitReader};
use tidemill_model::{Batch, ConfigError, Fault};

use super::events::{
    AUCTIONS_PER_EPOCH, Clock, EVENTS_PER_EPOCH, PERSONS_PER_EPOCH, auction_event, bid_event, person_event,
};
use super::table::{Context, EventColumn, Prices, TIME, date_time};
use super::{auction, bid, person};
use crate::share::{self, Share};
use crate::texts::Letters;

/// Settings of a `nexmark` source.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NexmarkSettings {
    /// `person`, `auction` or `bid`: a table of those events only. `all`: one table with an `event_type` (0 person,
    /// 1 auction, 2 bid), `date_time`, and a struct for each kind, of which one is not null.
    pub kind: EventKind,
    /// Rows of that table, over all workers. Without it rows come without end.
    pub rows: Option<u64>,
    /// Events (of all kinds) per second of event time. The rate decides how long a span of event time the rows cover.
    #[serde(default = "default_rate")]
    pub event_rate: u64,
    /// Other seeds give other events. Sources with the same seed and rate speak of the same persons and auctions.
    #[serde(default)]
    pub seed: u64,
    /// Event time of the first event, ms since 1970.
    #[serde(default = "default_base")]
    pub base_time: i64,
    /// Makes only these columns. All by default.
    pub columns: Option<Vec<String>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventKind {
    Person,
    Auction,
    Bid,
    All,
}

/// The rate of the reference generator.
fn default_rate() -> u64 {
    10_000
}

/// 2015-07-15T00:00:00Z, as in the generators of Beam and others.
fn default_base() -> i64 {
    1_436_918_400_000
}

/// See [`NexmarkSettings`].
pub fn source(settings: &Value, _: &ConfigContext) -> Result<Arc<dyn Source>, ConfigError> {
    let settings: NexmarkSettings = read(settings)?;
    if settings.event_rate == 0 {
        return Err(ConfigError::new(&["event_rate"], "`event_rate` must be 1 or more"));
    }
    let columns = chosen(table(settings.kind), settings.columns.as_deref())?;
    let fields: Vec<Field> = columns.iter().map(Column::field).collect();
    let letters = Letters::new(settings.seed);
    let context = Context {
        seed: settings.seed,
        clock: Clock::new(settings.base_time, settings.event_rate),
        prices: Prices::new(),
        channels: bid::Channels::new(settings.seed, &letters),
        people: person::People::new(),
        letters,
    };
    let event = match settings.kind {
        EventKind::Person => person_event,
        EventKind::Auction => auction_event,
        EventKind::Bid => bid_event,
        EventKind::All => |k| k,
    };
    Ok(Arc::new(Nexmark(Arc::new(Shared {
        context,
        columns,
        schema: Arc::new(Schema::new(fields)),
        event,
        rows: settings.rows,
    }))))
}

/// A column of any of the tables.
enum Column {
    Plain(EventColumn),
    /// 0 person, 1 auction, 2 bid.
    EventType,
    /// All columns of one kind of events; null for events of another kind.
    Struct(&'static str, i32, Vec<EventColumn>),
}

fn table(kind: EventKind) -> Vec<Column> {
    let plain = |columns: Vec<EventColumn>| columns.into_iter().map(Column::Plain).collect();
    match kind {
        EventKind::Person => plain(person::columns()),
        EventKind::Auction => plain(auction::columns()),
        EventKind::Bid => plain(bid::columns()),
        EventKind::All => vec![
            Column::EventType,
            Column::Plain(EventColumn { name: "date_time", data_type: TIME, make: date_time }),
            Column::Struct("person", 0, person::columns()),
            Column::Struct("auction", 1, auction::columns()),
            Column::Struct("bid", 2, bid::columns()),
        ],
    }
}

fn chosen(all: Vec<Column>, names: Option<&[String]>) -> Result<Vec<Column>, ConfigError> {
    let Some(names) = names else { return Ok(all) };
    let known: Vec<String> = all.iter().map(|c| c.name().to_owned()).collect();
    let mut all: Vec<Option<Column>> = all.into_iter().map(Some).collect();
    let mut columns = Vec::with_capacity(names.len());
    for (i, name) in names.iter().enumerate() {
        let at = ["columns", &i.to_string()];
        match known.iter().position(|k| k == name).map(|place| all[place].take()) {
            Some(Some(column)) => columns.push(column),
            Some(None) => return Err(ConfigError::new(&at, format!("column `{name}` is named twice"))),
            None => return Err(ConfigError::unknown(&at, "column", name, known)),
        }
    }
    if columns.is_empty() {
        return Err(ConfigError::new(&["columns"], "no columns are named"));
    }
    Ok(columns)
}

fn event_type(n: u64) -> i32 {
    match n % EVENTS_PER_EPOCH {
        offset if offset < PERSONS_PER_EPOCH => 0,
        offset if offset < PERSONS_PER_EPOCH + AUCTIONS_PER_EPOCH => 1,
        _ => 2,
    }
}

impl Column {
    fn name(&self) -> &'static str {
        match self {
            Self::Plain(column) => column.name,
            Self::EventType => "event_type",
            Self::Struct(name, _, _) => name,
        }
    }

    fn field(&self) -> Field {
        match self {
            Self::Plain(column) => column.field(),
            Self::EventType => Field::new("event_type", DataType::Int32, false),
            Self::Struct(name, _, columns) => Field::new(*name, DataType::Struct(fields(columns)), true),
        }
    }

    fn make(&self, context: &Context, events: &[u64]) -> Result<ArrayRef, Fault> {
        match self {
            Self::Plain(column) => Ok((column.make)(context, events)),
            Self::EventType => Ok(Arc::new(Int32Array::from_iter_values(events.iter().map(|&n| event_type(n))))),
            Self::Struct(_, kind, columns) => {
                let own: Vec<u64> = events.iter().copied().filter(|&n| event_type(n) == *kind).collect();
                let mut next = 0;
                let places: UInt32Array = events
                    .iter()
                    .map(|&n| {
                        let place = (event_type(n) == *kind).then_some(next);
                        next += u32::from(place.is_some());
                        place
                    })
                    .collect();
                let arrays = columns.iter().map(|c| take(&(c.make)(context, &own), &places, None));
                let arrays = arrays.collect::<Result<Vec<_>, _>>()?;
                let nulls = places.nulls().cloned().unwrap_or_else(|| NullBuffer::new_valid(events.len()));
                Ok(Arc::new(StructArray::try_new(fields(columns), arrays, Some(nulls))?))
            }
        }
    }
}

fn fields(columns: &[EventColumn]) -> Fields {
    columns.iter().map(EventColumn::field).collect()
}

struct Shared {
    context: Context,
    columns: Vec<Column>,
    schema: SchemaRef,
    /// Number of the event that a row shows.
    event: fn(u64) -> u64,
    rows: Option<u64>,
}

struct Nexmark(Arc<Shared>);

impl Source for Nexmark {
    fn schema(&self) -> SchemaRef {
        self.0.schema.clone()
    }

    fn splits(&self, workers: usize) -> Result<Vec<Split>, Fault> {
        Ok(Share::splits(workers, self.0.rows))
    }

    fn open(&self, split: &Split, position: &Position) -> Result<Box<dyn SplitReader>, Fault> {
        let share = Share::decode(&split.spec)?;
        let returned = share::returned(position)?;
        Ok(Box::new(NexmarkReader { shared: self.0.clone(), share, returned, row_bytes: None, events: Vec::new() }))
    }

    fn bounded(&self) -> bool {
        self.0.rows.is_some()
    }
}

struct NexmarkReader {
    shared: Arc<Shared>,
    share: Share,
    returned: u64,
    /// Of the first rows: none were made yet.
    row_bytes: Option<usize>,
    events: Vec<u64>,
}

impl SplitReader for NexmarkReader {
    fn poll(&mut self, budget: ReadBudget) -> Result<Polled, Fault> {
        let left = self.shared.rows.map_or(u64::MAX, |rows| self.share.count(rows).saturating_sub(self.returned));
        if left == 0 {
            return Ok(Polled::End);
        }
        let rows = budget
            .rows
            .min(budget.bytes / self.row_bytes.unwrap_or(1))
            .max(1)
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        let Shared { context, columns, schema, event, .. } = &*self.shared;
        self.events.clear();
        self.events.extend((self.returned..self.returned + rows as u64).map(|nth| event(self.share.row(nth))));
        let arrays = columns.iter().map(|c| c.make(context, &self.events)).collect::<Result<Vec<_>, _>>()?;
        let batch = RecordBatch::try_new(schema.clone(), arrays)?;
        if self.row_bytes.is_none() {
            self.row_bytes = Some((Batch::new(batch.clone()).bytes() / rows).max(1));
        }
        self.returned += rows as u64;
        Ok(Polled::Rows { rows: batch, rejected: Vec::new() })
    }

    fn position(&self) -> Position {
        share::position(self.returned)
    }

    /// In rows: made-up rows have no bytes outside.
    fn progress(&self) -> u64 {
        self.returned
    }
}
