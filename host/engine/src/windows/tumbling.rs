//! Tumbling event-time windows: every row is in the one window that its event time falls into.
//!
//! Flink's rules, window by window (`TumblingEventTimeWindows`, `EventTimeTrigger`, `WindowOperator`): a window starts at
//! `ts - ((ts - offset) mod size)`; it fires when the watermark reaches `end - 1`; it is dropped, and rows for it are
//! late, when the watermark reaches `end - 1 + allowed lateness`.
//!
//! One difference: Flink fires again for each late element within the allowed lateness. Here a late *batch* updates
//! its windows first, and then each updated key fires once, with the result after the batch. The last result
//! per key and window is the same.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, TimestampMillisecondArray, UInt32Array};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion_common::DataFusionError;
use hashbrown::HashMap;
use tidemill_model::fault::OnError;
use tidemill_model::limits::BATCH_ROWS_MAX;
use tidemill_model::logic::LogicError;
use tidemill_model::plan::Built;
use tidemill_model::schema::type_name;
use tidemill_model::snapshot::{Form, Restore, Snapshot};
use tidemill_model::time::{Now, WATERMARK_MIN};
use tidemill_model::{
    Batch, Collector, ConfigError, Fault, FaultKind, Operator, OperatorContext, OperatorFactory, Progress,
};

use super::aggregate::Aggregates;
use super::groups::KeyReader;
use super::pane::Pane;
use super::start::window_start;
use super::stored::{self, FrozenPane, StoredPane};
use crate::poison::{Attempt, Rejects, search};
use crate::sql::message;

/// Empty panes kept for the next windows: as many as are open while ticks are in flight, so that memory is used again.
const SPARE_PANES_MAX: usize = 32;

/// A tumbling window node.
#[derive(Clone, Debug)]
pub struct TumblingSpec {
    pub size_ms: i64,
    /// Shifts windows against the epoch; less than the size in either direction.
    pub offset_ms: i64,
    /// How long after its end a window still takes rows.
    pub allowed_lateness_ms: i64,
    /// Indices of the key columns; none: one group for all rows of a worker.
    pub key: Vec<usize>,
    /// Name and SQL aggregate call, in the order of the output columns.
    pub aggregates: Vec<(String, String)>,
    /// What becomes of rows for which an argument or a filter of an aggregate fails.
    pub on_error: OnError,
}

/// Output columns: key columns, `window_start`, `window_end` (timestamp(ms)), aggregates; port 1 is `late`. Error paths:
/// `window` and the setting, `key`, `aggregates` and the name.
pub fn tumbling(spec: TumblingSpec, input: &SchemaRef) -> Result<Built, ConfigError> {
    check_times(&spec).map_err(|e| e.inside("window"))?;
    KeyReader::new(input, &spec.key).map_err(|e| not_a_key(&spec, input, &e.to_string()))?;
    let aggregates = Aggregates::new(input, &spec.aggregates).map_err(|e| e.inside("aggregates"))?;
    let schema = output_schema(&spec, input, &aggregates)?;
    let key = spec.key.iter().map(|&c| input.field(c).data_type().clone());
    let settings = stored::settings(spec.size_ms, spec.offset_ms, key, &spec.aggregates);
    let stored = stored::schema(&aggregates, settings).map_err(|e| ConfigError::new(&["aggregates"], message(&e)))?;
    let outputs = vec![("out".to_owned(), schema.clone()), ("late".to_owned(), input.clone())];
    let factory = Factory { spec, input: input.clone(), aggregates: Arc::new(aggregates), schema, stored };
    Ok(Built { factory: Arc::new(factory), outputs })
}

fn check_times(spec: &TumblingSpec) -> Result<(), ConfigError> {
    if spec.size_ms <= 0 {
        return Err(ConfigError::new(&["tumbling"], format!("a window of {} ms holds nothing", spec.size_ms)));
    }
    if spec.offset_ms.saturating_abs() >= spec.size_ms {
        let message = format!("an offset of {} ms is not less than the size of {} ms", spec.offset_ms, spec.size_ms);
        return Err(ConfigError::new(&["offset"], message));
    }
    if spec.allowed_lateness_ms < 0 {
        return Err(ConfigError::new(&["allowed_lateness"], "the allowed lateness is negative"));
    }
    Ok(())
}

fn not_a_key(spec: &TumblingSpec, input: &Schema, error: &str) -> ConfigError {
    let types: Vec<String> = spec.key.iter().map(|&c| type_name(input.field(c).data_type())).collect();
    ConfigError::new(&["key"], format!("({}) can't be a key: {error}", types.join(", ")))
}

fn output_schema(spec: &TumblingSpec, input: &Schema, aggregates: &Aggregates) -> Result<SchemaRef, ConfigError> {
    let mut fields: Vec<Field> = spec.key.iter().map(|&c| input.field(c).clone()).collect();
    let time = || DataType::Timestamp(TimeUnit::Millisecond, None);
    fields.push(Field::new("window_start", time(), false));
    fields.push(Field::new("window_end", time(), false));
    for (index, field) in fields.iter().enumerate() {
        if fields[..index].iter().any(|f| f.name() == field.name()) {
            return Err(ConfigError::new(&["key"], format!("the column `{}` would come out twice", field.name())));
        }
    }
    for field in aggregates.fields() {
        if fields.iter().any(|f| f.name() == field.name()) {
            let message = format!("the column `{}` would come out twice", field.name());
            return Err(ConfigError::new(&["aggregates", field.name()], message));
        }
        fields.push(field);
    }
    Ok(Arc::new(Schema::new(fields)))
}

struct Factory {
    spec: TumblingSpec,
    input: SchemaRef,
    aggregates: Arc<Aggregates>,
    schema: SchemaRef,
    /// Of the table in a snapshot.
    stored: SchemaRef,
}

impl OperatorFactory for Factory {
    fn build(&self, context: &OperatorContext) -> Result<Box<dyn Operator>, Fault> {
        Ok(Box::new(Tumbling {
            rejects: Rejects {
                node: context.node.clone(),
                worker: context.worker,
                on_error: self.spec.on_error,
                kind: FaultKind::Data,
            },
            spec: self.spec.clone(),
            reader: KeyReader::new(&self.input, &self.spec.key)?,
            aggregates: self.aggregates.clone(),
            schema: self.schema.clone(),
            stored: self.stored.clone(),
            watermark: WATERMARK_MIN,
            panes: BTreeMap::new(),
            unfired: BTreeSet::new(),
            spare: Vec::new(),
            results: VecDeque::new(),
            numbers: Vec::new(),
        }))
    }
    fn uses_time(&self) -> bool {
        true
    }
}

struct Tumbling {
    rejects: Rejects,
    spec: TumblingSpec,
    reader: KeyReader,
    aggregates: Arc<Aggregates>,
    schema: SchemaRef,
    stored: SchemaRef,
    watermark: i64,
    /// By window start.
    panes: BTreeMap<i64, Pane>,
    /// Starts of the panes that have not fired.
    unfired: BTreeSet<i64>,
    spare: Vec<Pane>,
    /// Fired, not yet emitted.
    results: VecDeque<Fired>,
    /// Group of each row: memory of earlier batches.
    numbers: Vec<usize>,
}

/// Results of one window.
struct Fired {
    start: i64,
    columns: Vec<ArrayRef>,
    rows: usize,
    emitted: usize,
}

/// Which rows of a batch belong to which window.
enum Spread {
    One(i64),
    Many(Vec<(i64, Vec<u32>)>),
}

impl Tumbling {
    fn end(&self, start: i64) -> i64 {
        start.saturating_add(self.spec.size_ms)
    }

    /// The last event time that belongs to the window.
    fn last(&self, start: i64) -> i64 {
        self.end(start) - 1
    }

    fn is_late(&self, start: i64) -> bool {
        self.last(start).saturating_add(self.spec.allowed_lateness_ms) <= self.watermark
    }

    fn spread(&self, times: &[i64]) -> Spread {
        let (min, max) = times.iter().fold((i64::MAX, i64::MIN), |(lo, hi), &t| (lo.min(t), hi.max(t)));
        let first = window_start(min, self.spec.offset_ms, self.spec.size_ms);
        if max <= self.last(first) {
            return Spread::One(first);
        }
        let mut index: HashMap<i64, usize> = HashMap::new();
        let mut parts: Vec<(i64, Vec<u32>)> = Vec::new();
        let (mut current, mut range) = (0, None);
        for (row, &time) in times.iter().enumerate() {
            if !range.as_ref().is_some_and(|r: &RangeInclusive<i64>| r.contains(&time)) {
                let start = window_start(time, self.spec.offset_ms, self.spec.size_ms);
                current = *index.entry(start).or_insert_with(|| {
                    parts.push((start, Vec::new()));
                    parts.len() - 1
                });
                range = Some(start..=self.last(start));
            }
            parts[current].1.push(row as u32);
        }
        Spread::Many(parts)
    }

    fn late(&self, mut rows: Batch, out: &mut dyn Collector) {
        out.count("late_rows", rows.num_rows() as u64);
        rows.hashes = None;
        out.emit(1, rows);
    }

    /// Takes the late rows out and leaves the windows of the others, with their rows.
    fn split_late(
        &self,
        batch: &Batch,
        parts: &mut Vec<(i64, Vec<u32>)>,
        out: &mut dyn Collector,
    ) -> Result<(), Fault> {
        let mut late: Vec<u32> = Vec::new();
        parts.retain(|(start, rows)| {
            let is_late = self.is_late(*start);
            if is_late {
                late.extend(rows);
            }
            !is_late
        });
        if !late.is_empty() {
            late.sort_unstable();
            self.late(batch.take(&UInt32Array::from(late))?, out);
        }
        Ok(())
    }

    /// Adds the rows of `parts` to their windows.
    fn add(
        &mut self,
        batch: &Batch,
        parts: Vec<(i64, Option<UInt32Array>)>,
        out: &mut dyn Collector,
    ) -> Result<(), Fault> {
        let Ok(inputs) = self.aggregates.read(batch) else {
            return self.add_good(batch, parts, out);
        };
        let keys = self.reader.read(batch)?;
        for (start, rows) in parts {
            let mut pane = match self.panes.remove(&start) {
                Some(pane) => pane,
                None => {
                    self.unfired.insert(start);
                    self.new_pane()?
                }
            };
            let mut numbers = std::mem::take(&mut self.numbers);
            pane.update(&keys, &inputs, batch.num_rows(), rows.as_ref(), &mut numbers).map_err(|e| self.broken(&e))?;
            if self.last(start) <= self.watermark {
                self.fire_again(start, &mut pane, &numbers)?;
            }
            self.numbers = numbers;
            self.panes.insert(start, pane);
        }
        Ok(())
    }

    /// The same for a batch with rows that cannot be read: rejects those among `parts` (not late ones beside them), and
    /// adds the others.
    fn add_good(
        &mut self,
        batch: &Batch,
        parts: Vec<(i64, Option<UInt32Array>)>,
        out: &mut dyn Collector,
    ) -> Result<(), Fault> {
        for (start, rows) in parts {
            let part = match rows {
                Some(rows) => batch.take(&rows)?,
                None => batch.clone(),
            };
            let mut sieve = Sieve { window: &*self, batch: &part, out: &mut *out, good: Vec::new() };
            // Expressions are deterministic: no use in trying twice.
            search(&mut sieve, 0..part.num_rows(), 0, &self.rejects.node)?;
            let good = UInt32Array::from(sieve.good);
            if !good.is_empty() {
                let part = part.take(&good)?;
                // By itself each row can be read, so it ends here even if together they cannot.
                if let Err(error) = self.aggregates.read(&part) {
                    return Err(self.broken(&error));
                }
                self.add(&part, vec![(start, None)], out)?;
            }
        }
        Ok(())
    }

    fn new_pane(&mut self) -> Result<Pane, Fault> {
        match self.spare.pop() {
            Some(pane) => Ok(pane),
            None => Pane::new(&self.reader, &self.aggregates).map_err(|e| self.broken(&e)),
        }
    }

    /// Late rows within the allowed lateness have come: their keys fire at once.
    fn fire_again(&mut self, start: i64, pane: &mut Pane, numbers: &[usize]) -> Result<(), Fault> {
        let mut touched: Vec<u32> = numbers.iter().map(|&n| n as u32).collect();
        touched.sort_unstable();
        touched.dedup();
        let rows = touched.len();
        let columns = pane.peek(&self.reader, &self.aggregates, Some(touched.into())).map_err(|e| self.broken(&e))?;
        self.results.push_back(Fired { start, columns, rows, emitted: 0 });
        pane.fired = true;
        self.unfired.remove(&start);
        Ok(())
    }

    /// Takes in a part of a window from a snapshot.
    fn merge(&mut self, stored: StoredPane) -> Result<(), Fault> {
        let mut pane = match self.panes.remove(&stored.start) {
            Some(pane) => pane,
            None => self.new_pane()?,
        };
        pane.merge(&stored.keys, &stored.state, &self.aggregates).map_err(|e| self.broken(&e))?;
        pane.fired = stored.fired;
        if !stored.fired {
            self.unfired.insert(stored.start);
        }
        self.panes.insert(stored.start, pane);
        Ok(())
    }

    /// Fires and drops the first pane for which it is time. Whether there was one.
    fn fire_next(&mut self) -> Result<bool, Fault> {
        // Panes are in order of time: those to be dropped stand in front, and no look at those that are only kept is needed.
        let dropped = self.panes.first_key_value().map(|(&start, _)| start).filter(|&start| self.is_late(start));
        let due = || self.unfired.first().copied().filter(|&start| self.last(start) <= self.watermark);
        let Some(start) = dropped.or_else(due) else { return Ok(false) };
        self.unfired.remove(&start);
        let mut pane = self.panes.remove(&start).expect("found above");
        let rows = pane.groups.len();
        let (fired, is_late) = (pane.fired, self.is_late(start));
        let columns = match is_late {
            true => pane.drain(&self.reader, &self.aggregates),
            false => pane.peek(&self.reader, &self.aggregates, None),
        };
        let columns = columns.map_err(|e| self.broken(&e))?;
        if !fired {
            self.results.push_back(Fired { start, columns, rows, emitted: 0 });
        }
        if !is_late {
            pane.fired = true;
            self.panes.insert(start, pane);
        } else if self.spare.len() < SPARE_PANES_MAX {
            self.spare.push(pane);
        }
        Ok(true)
    }

    /// Emits about a batch of results.
    fn emit(&mut self, out: &mut dyn Collector) -> Result<Progress, Fault> {
        let mut emitted = 0;
        loop {
            let Some(mut fired) = self.results.pop_front() else {
                if self.fire_next()? {
                    continue;
                }
                return Ok(Progress::Done);
            };
            if emitted >= BATCH_ROWS_MAX {
                self.results.push_front(fired);
                return Ok(Progress::More);
            }
            let rows = (fired.rows - fired.emitted).min(BATCH_ROWS_MAX);
            out.emit(0, self.chunk(&fired, rows)?);
            emitted += rows;
            fired.emitted += rows;
            if fired.emitted < fired.rows {
                self.results.push_front(fired);
            }
        }
    }

    fn chunk(&self, fired: &Fired, rows: usize) -> Result<Batch, Fault> {
        let end = self.end(fired.start);
        let time = |t: i64| Arc::new(TimestampMillisecondArray::from(vec![t; rows])) as ArrayRef;
        let mut columns: Vec<ArrayRef> = fired.columns.iter().map(|c| c.slice(fired.emitted, rows)).collect();
        let keys = self.spec.key.len();
        columns.splice(keys..keys, [time(fired.start), time(end)]);
        let times = ScalarBuffer::from(vec![end - 1; rows]);
        Ok(Batch::new(RecordBatch::try_new(self.schema.clone(), columns)?).with_times(Some(times)))
    }

    fn broken(&self, error: &DataFusionError) -> Fault {
        Fault::data(format!("an aggregate fails: {}", message(error))).at(&self.rejects.node)
    }
}

/// Tells rows that the aggregates can read from those that they cannot.
struct Sieve<'a> {
    window: &'a Tumbling,
    batch: &'a Batch,
    out: &'a mut dyn Collector,
    good: Vec<u32>,
}

impl Attempt for Sieve<'_> {
    fn attempt(&mut self, rows: Range<usize>) -> Result<Result<(), LogicError>, Fault> {
        match self.window.aggregates.read(&self.batch.slice(rows.start, rows.len())) {
            Ok(_) => {
                self.good.extend(rows.map(|row| row as u32));
                Ok(Ok(()))
            }
            Err(error) => Ok(Err(LogicError::Trap(format!("an aggregate's argument fails: {}", message(&error))))),
        }
    }

    fn condemn(&mut self, row: usize, error: String) -> Result<(), Fault> {
        self.out.count("row_errors", 1);
        let time = self.batch.times.as_ref().map(|t| t[row]);
        self.window.rejects.reject(self.out, self.batch.rows(), row, time, None, error)
    }
}

impl Operator for Tumbling {
    fn on_batch(&mut self, _input: usize, batch: Batch, out: &mut dyn Collector) -> Result<Progress, Fault> {
        if batch.is_empty() {
            return Ok(Progress::Done);
        }
        let Some(times) = &batch.times else {
            return Err(Fault::config("rows without event time reach a window")
                .at(&self.rejects.node)
                .with_help("give the source an `event_time:`"));
        };
        if batch.kinds.is_some() {
            return Err(Fault::config("a stream with updates and deletes reaches a window, which takes inserts only")
                .at(&self.rejects.node));
        }
        let parts = match self.spread(times) {
            Spread::One(start) if self.is_late(start) => {
                self.late(batch, out);
                return Ok(Progress::Done);
            }
            Spread::One(start) => vec![(start, None)],
            Spread::Many(mut parts) => {
                self.split_late(&batch, &mut parts, out)?;
                parts.into_iter().map(|(start, rows)| (start, Some(rows.into()))).collect()
            }
        };
        if !parts.is_empty() {
            self.add(&batch, parts, out)?;
        }
        self.emit(out)
    }

    fn on_time(&mut self, now: Now, out: &mut dyn Collector) -> Result<Progress, Fault> {
        self.watermark = self.watermark.max(now.watermark);
        self.emit(out)
    }

    fn resume(&mut self, out: &mut dyn Collector) -> Result<Progress, Fault> {
        self.emit(out)
    }

    fn snapshot(&mut self, _form: Form) -> Result<Snapshot, Fault> {
        let freeze = |(&start, pane): (&i64, &mut Pane)| FrozenPane::new(start, pane, &self.aggregates);
        let panes: Result<Vec<FrozenPane>, DataFusionError> = self.panes.iter_mut().map(freeze).collect();
        let panes = panes.map_err(|e| self.broken(&e))?;
        Ok(Snapshot { tables: vec![stored::table(self.stored.clone(), panes)], ..Snapshot::default() })
    }

    fn restore(&mut self, from: &dyn Restore) -> Result<(), Fault> {
        self.watermark = from.now().watermark;
        stored::restore(&self.stored.clone(), from, |stored| self.merge(stored))
    }

    fn held(&self) -> u64 {
        self.panes.values().map(|p| p.groups.len() as u64).sum()
    }
}
