//! The test driver: rows, clocks and settings in; rows, state, timers and errors out.

use std::collections::BTreeMap;

use super::cell::{Cell, IntoKey};
use super::columns;
use super::keys::{Distinct, KeyedStore, key_columns, keyed_batch};
use super::results::{Emitted, Record, RowFailure, top_level};
use crate::log::{Level, sink};
use crate::native::{
    Batch, Column, Descriptor, Domain, DueTimers, Effects, Entry, Instance, Now, OpError, OpenContext, Output, Port,
    StateDescriptor,
};
use crate::operator::{Kind, Operator};
use crate::outputs::PortBuilder;
use crate::row::Ports;
use crate::state::{ListState, MapState, StateKey, StateValue, Value, typed};
use crate::types::ColumnBuilder;

/// Calls in a row that may each set a timer that is due already: beyond, the operator would never come to rest.
const TIMER_ROUNDS_MAX: usize = 10_000;

/// What who forgot it is told.
const OPENED: &str = "call open() before feeding the operator";

/// An operator under test.
///
/// ```
/// # use tidemill_sdk::prelude::*;
/// # use tidemill_sdk::testing::TestDriver;
/// # #[derive(Row)] struct In { n: i64 }
/// # #[derive(Row, Debug, PartialEq)] struct Out { sum: i64 }
/// # #[derive(Keyed)] struct Sum { sum: Value<i64> }
/// # impl KeyedOperator for Sum {
/// #     type In<'a> = In;
/// #     type Out<'a> = Out;
/// #     fn process(&mut self, row: In, ctx: &mut Context<Self>) -> Result<()> {
/// #         let sum = self.sum.get_or_default() + row.n;
/// #         self.sum.set(sum);
/// #         ctx.emit(Out { sum });
/// #         Ok(())
/// #     }
/// # }
/// let mut driver = TestDriver::<Sum>::new().key(["n"]).open().unwrap();
/// driver.push(In { n: 2 });
/// driver.push(In { n: 2 });
/// assert_eq!(driver.rows(), [Out { sum: 2 }, Out { sum: 4 }]);
/// assert_eq!(driver.state::<i64>("sum", 2), Some(4));
/// ```
///
/// Methods panic where a job would fail, with the message that the job would fail with.
pub struct TestDriver<O: Operator> {
    config: Vec<(String, String)>,
    key: Vec<String>,
    opened: Option<Box<dyn Instance>>,
    descriptor: Descriptor,
    store: KeyedStore,
    now: Now,
    pushed: usize,
    emitted: Vec<Emitted>,
    errors: Vec<RowFailure>,
    lines: Vec<(Level, String)>,
    counters: BTreeMap<&'static str, u64>,
    gauges: BTreeMap<&'static str, f64>,
    operator: std::marker::PhantomData<fn() -> O>,
}

impl<O: Operator> Default for TestDriver<O> {
    fn default() -> Self {
        Self::new()
    }
}

/// Setting up.
impl<O: Operator> TestDriver<O> {
    pub fn new() -> Self {
        let descriptor = O::descriptor();
        Self {
            config: Vec::new(),
            key: Vec::new(),
            opened: None,
            store: KeyedStore::new(descriptor.states.clone()),
            descriptor,
            now: Now { watermark: i64::MIN, processing: 0 },
            pushed: 0,
            emitted: Vec::new(),
            errors: Vec::new(),
            lines: Vec::new(),
            counters: BTreeMap::new(),
            gauges: BTreeMap::new(),
            operator: std::marker::PhantomData,
        }
    }

    /// A setting, as in the pipeline file.
    pub fn config(mut self, name: &str, value: impl ToString) -> Self {
        self.config.push((name.to_owned(), value.to_string()));
        self
    }

    /// The columns that the pipeline keys by, as in `key: [customer]`. Each input must have them that is not broadcast.
    pub fn key<S: Into<String>>(mut self, columns: impl IntoIterator<Item = S>) -> Self {
        self.key = columns.into_iter().map(Into::into).collect();
        self
    }

    /// Opens the operator. Wrong settings are returned as the user would see them.
    pub fn open(mut self) -> Result<Self, OpError> {
        let Descriptor { states, reads_keys, .. } = &self.descriptor;
        let needs_key = *reads_keys || states.is_empty() || states.iter().any(|state| state.scope == "key");
        if O::KIND == Kind::Keyed && needs_key && self.key.is_empty() {
            return Err(OpError::Config("a keyed operator needs a key: call key([\"column\"]) before open()".into()));
        }
        let mut key_fields = Vec::new();
        for port in self.descriptor.inputs.iter().filter(|port| !port.broadcast) {
            let found = self.key.iter().map(|column| port.fields.iter().find(|f| f.name == *column).cloned());
            let Some(fields) = found.collect::<Option<Vec<_>>>() else {
                let message = format!("input `{}` lacks a key column of ({})", port.name, self.key.join(", "));
                return Err(OpError::Config(message));
            };
            key_fields = fields;
        }
        let context = OpenContext {
            operator: O::NAME.into(),
            node: "test".into(),
            config: self.config.clone(),
            key_fields,
            worker: 0,
            workers: 1,
        };
        self.opened = Some(Entry::of::<O>().open(&context)?);
        self.take_logs();
        Ok(self)
    }
}

/// Feeding.
impl<O: Operator> TestDriver<O> {
    /// A row without event time.
    pub fn push(&mut self, row: O::Input<'_>) {
        self.push_all([(None, row)]);
    }

    /// A row with an event time in ms.
    pub fn push_at(&mut self, timestamp: i64, row: O::Input<'_>) {
        self.push_all([(Some(timestamp), row)]);
    }

    /// Many rows as one batch (one per run of rows of the same input), each with its event time.
    pub fn push_all<'r>(&mut self, rows: impl IntoIterator<Item = (Option<i64>, O::Input<'r>)>) {
        let rows: Vec<(Option<i64>, O::Input<'r>)> = rows.into_iter().collect();
        for run in rows.chunk_by(|a, b| a.1.port() == b.1.port()) {
            self.push_run(run);
        }
        self.fire(false);
    }

    /// Event time moves on: no row at or below `watermark` is expected. Due timers fire, also those that were due already
    /// when a row set them; if it does not move, none does.
    pub fn watermark(&mut self, watermark: i64) {
        let advanced = watermark > self.now.watermark;
        self.now.watermark = self.now.watermark.max(watermark);
        self.fire(advanced);
    }

    /// Processing time moves on. Due timers fire, and values with a time to live expire.
    pub fn processing_time(&mut self, ms: i64) {
        self.now.processing = self.now.processing.max(ms);
        self.store.expire(self.now.processing);
        self.fire(false);
    }

    /// Bounded input has ended: event time is over, all event timers fire.
    pub fn finish(&mut self) {
        self.watermark(i64::MAX);
    }
}

/// Looking.
impl<O: Operator> TestDriver<O> {
    /// All rows so far, typed: call by call, and within a call port by port.
    pub fn rows(&self) -> Vec<O::Output<'_>> {
        self.emitted.iter().flat_map(|e| or_panic(e.rows())).collect()
    }

    /// Rows with their event times, typed.
    pub fn timed_rows(&self) -> Vec<(Option<i64>, O::Output<'_>)> {
        let times = self.emitted.iter().flat_map(|e| e.times.iter().copied());
        times.zip(self.rows()).collect()
    }

    /// Rows of one output port by name, untyped. Ports of a single row type are called `out`.
    pub fn records(&self, port: &str) -> Vec<Record> {
        let ports = self.output_ports();
        let Some(index) = ports.iter().position(|p| p.name == port) else {
            panic!("there is no output `{port}`; there are: {}", names(&ports))
        };
        let rows = self.emitted.iter().filter(|e| e.output.port as usize == index);
        rows.flat_map(|e| or_panic(e.records(&ports[index].fields))).collect()
    }

    /// Forgets rows, errors and log lines, but neither state nor timers.
    pub fn clear(&mut self) {
        self.emitted.clear();
        self.errors.clear();
        self.lines.clear();
    }

    /// The value of a state for a key; `()` stands for no key, where the state belongs to none.
    pub fn state<T: StateValue>(&self, name: &str, key: impl IntoKey) -> Option<T> {
        let Some(state) = self.store.state(name) else { panic!("there is no state `{name}`") };
        let descriptor = self.store.descriptor(state);
        assert_eq!(
            Value::<T>::describe(name, descriptor.version, (0, false)).value,
            descriptor.value,
            "state `{name}` has another type"
        );
        let cell = self.store.value(state, &key.into_key());
        let mut value = Value::<T>::create("state", 0);
        or_panic(value.load(columns::encode(&descriptor.value, [&cell]), 1));
        value.get()
    }

    /// The values of a list for a key.
    pub fn list<T: StateValue>(&self, name: &str, key: impl IntoKey) -> Vec<T> {
        self.entries::<u64, T>(name, key, ListState::<T>::describe(name, 1, (0, false)))
            .into_iter()
            .map(|(_, value)| value)
            .collect()
    }

    /// The entries of a map for a key, in the order of their keys.
    pub fn map<K: StateKey, V: StateValue>(&self, name: &str, key: impl IntoKey) -> Vec<(K, V)> {
        self.entries(name, key, MapState::<K, V>::describe(name, 1, (0, false)))
    }

    fn entries<K: StateKey, V: StateValue>(
        &self,
        name: &str,
        key: impl IntoKey,
        asked: StateDescriptor,
    ) -> Vec<(K, V)> {
        let Some(state) = self.store.state(name) else { panic!("there is no state `{name}`") };
        let declared = self.store.descriptor(state);
        let same =
            (&asked.kind, &asked.entry_key, &asked.value) == (&declared.kind, &declared.entry_key, &declared.value);
        assert!(same, "state `{name}` has another kind or type");
        let (keys, values, rows) = self.store.entries(state, &key.into_key());
        or_panic(typed(&keys, &values, rows))
    }

    /// All keys that have state.
    pub fn keys(&self) -> Vec<Vec<Cell>> {
        self.store.keys()
    }

    /// Timers that are waiting: domain, time and key, in order.
    pub fn timers(&self) -> Vec<(Domain, i64, Vec<Cell>)> {
        self.store.timers().cloned().collect()
    }

    /// Rows and timers that the operator refused.
    pub fn errors(&self) -> &[RowFailure] {
        &self.errors
    }

    /// Log lines.
    pub fn logs(&self) -> &[(Level, String)] {
        &self.lines
    }

    /// A counter's value so far.
    pub fn counter(&self, name: &str) -> u64 {
        self.counters.get(name).copied().unwrap_or(0)
    }

    /// A gauge's last value.
    pub fn gauge(&self, name: &str) -> Option<f64> {
        self.gauges.get(name).copied()
    }
}

/// What a push was: rows with the event time of each.
struct Pushed {
    input: u16,
    batch: Batch,
    times: Vec<Option<i64>>,
}

impl<O: Operator> TestDriver<O> {
    fn push_run(&mut self, rows: &[(Option<i64>, O::Input<'_>)]) {
        let pushed = self.encode(rows);
        let failed_before = self.errors.len();
        let outputs = match O::KIND {
            Kind::Filter => self.keep(&pushed),
            Kind::Map => {
                let (rows, now) = (pushed.batch.borrow(), self.now);
                let effects = or_panic(self.instance().process(pushed.input, &rows, now));
                self.apply(effects, &[], Some(self.pushed))
            }
            Kind::Keyed => self.process_keyed(&pushed),
        };
        self.emit(outputs, &pushed.times);
        debug_assert!(self.errors.len() - failed_before <= rows.len());
        self.pushed += rows.len();
    }

    fn encode(&self, rows: &[(Option<i64>, O::Input<'_>)]) -> Pushed {
        let input = rows[0].1.port();
        let mut columns = ColumnBuilder::for_fields(&self.descriptor.inputs[input as usize].fields);
        columns.iter_mut().for_each(|c| c.start(rows.len()));
        rows.iter().for_each(|(_, row)| row.write(&mut columns));
        let times: Vec<Option<i64>> = rows.iter().map(|(time, _)| *time).collect();
        let crossing = times.iter().copied().collect::<Option<Vec<i64>>>().filter(|_| O::READS_TIME);
        let batch = Batch {
            rows: rows.len() as u32,
            times: crossing.unwrap_or_default().iter().flat_map(|t| t.to_le_bytes()).collect(),
            kinds: Vec::new(),
            columns: columns.iter_mut().map(ColumnBuilder::finish).collect(),
        };
        Pushed { input, batch, times }
    }

    fn keep(&mut self, pushed: &Pushed) -> Vec<Output> {
        let (batch, now) = (pushed.batch.borrow(), self.now);
        let kept = or_panic(self.instance().keep(pushed.input, &batch, now));
        let rows = batch.rows as usize;
        let reader = or_panic(<O::Input<'_> as Ports>::reader(pushed.input, &batch.columns, rows));
        let mut out = PortBuilder::new(&self.descriptor.inputs[0]);
        out.start();
        let failed = |row: usize| kept.errors.iter().any(|e| e.row as usize == row);
        for row in (0..rows).filter(|&row| crate::types::bit(&kept.bitmap, row) && !failed(row)) {
            <O::Input<'_> as Ports>::read(&reader, row).write(out.columns());
            out.pushed(row as u32);
        }
        let output = or_panic(out.finish(0, batch.rows, &[]));
        self.apply(Effects { errors: kept.errors, ..Effects::default() }, &[], Some(self.pushed));
        output.into_iter().collect()
    }

    fn process_keyed(&mut self, pushed: &Pushed) -> Vec<Output> {
        let Port { fields, broadcast, .. } = &self.descriptor.inputs[pushed.input as usize];
        let batch = pushed.batch.borrow();
        let cells = or_panic(columns::decode(fields, &batch.columns, batch.rows as usize));
        let positions: Vec<usize> =
            self.key.iter().filter_map(|column| top_level(fields).position(|name| name == column)).collect();
        let key_of = |row: usize| positions.iter().map(|&p| cells[p][row].clone()).collect();
        let distinct = match *broadcast || self.key.is_empty() {
            true => Distinct::default(),
            false => Distinct::of((0..batch.rows as usize).map(key_of)),
        };
        let key_columns = self.key_columns(&distinct.keys);
        let keys = self.store.load(&distinct.keys, &key_columns, self.now.processing);
        let call = keyed_batch(pushed.input, batch, &distinct, keys, self.now);
        let Self { opened, store, now, .. } = self;
        let instance = opened.as_deref_mut().expect(OPENED);
        let effects = or_panic(store.call(&distinct.keys, now.processing, || instance.process_keyed(call)));
        self.apply(effects, &distinct.keys, Some(self.pushed))
    }

    fn key_columns(&self, keys: &[Vec<Cell>]) -> Vec<Column> {
        if !self.descriptor.reads_keys {
            return Vec::new();
        }
        let Some(port) = self.descriptor.inputs.iter().find(|port| !port.broadcast) else { return Vec::new() };
        let fields: Vec<_> =
            self.key.iter().filter_map(|column| port.fields.iter().find(|f| f.name == *column).cloned()).collect();
        key_columns(&fields, keys)
    }

    /// Fires due timers, event time first (if `advanced`), until none is due.
    fn fire(&mut self, advanced: bool) {
        for _ in 0..TIMER_ROUNDS_MAX {
            let mut domain = Domain::Event;
            let mut due = if advanced { self.store.take_due(domain, self.now.watermark) } else { Vec::new() };
            if due.is_empty() {
                domain = Domain::Processing;
                due = self.store.take_due(domain, self.now.processing);
            }
            if due.is_empty() {
                return;
            }
            self.fire_timers(domain, &due);
        }
        panic!("the operator keeps setting timers that are due already");
    }

    fn fire_timers(&mut self, domain: Domain, due: &[(i64, Vec<Cell>)]) {
        let distinct = Distinct::of(due.iter().map(|(_, key)| key.clone()));
        let times: Vec<u8> = due.iter().flat_map(|(time, _)| time.to_le_bytes()).collect();
        let key_columns = self.key_columns(&distinct.keys);
        let keys = self.store.load(&distinct.keys, &key_columns, self.now.processing);
        let call = DueTimers { domain, key_index: &distinct.index, times: &times, keys, now: self.now };
        let Self { opened, store, now, .. } = self;
        let instance = opened.as_deref_mut().expect(OPENED);
        let effects = or_panic(store.call(&distinct.keys, now.processing, || instance.on_timers(call)));
        let outputs = self.apply(effects, &distinct.keys, None);
        // As with the host: what a processing-time timer emits has no event time of its own.
        let times: Vec<Option<i64>> = due.iter().map(|(time, _)| (domain == Domain::Event).then_some(*time)).collect();
        self.emit(outputs, &times);
    }

    /// Takes effects over. `first_row` is the number of the call's first row among all.
    fn apply(&mut self, effects: Effects, keys: &[Vec<Cell>], first_row: Option<usize>) -> Vec<Output> {
        or_panic(self.store.apply(keys, &effects, self.now.processing));
        let failure = |e: crate::native::RowError| RowFailure {
            row: first_row.map(|first| first + e.row as usize),
            message: e.message,
        };
        self.errors.extend(effects.errors.into_iter().map(failure));
        self.take_logs();
        effects.outputs
    }

    fn emit(&mut self, outputs: Vec<Output>, times: &[Option<i64>]) {
        for output in outputs {
            self.emitted.push(or_panic(Emitted::new(output, times)));
        }
    }

    fn output_ports(&self) -> Vec<Port> {
        match O::KIND {
            Kind::Filter => vec![Port { name: "out".into(), ..self.descriptor.inputs[0].clone() }],
            _ => self.descriptor.outputs.clone(),
        }
    }

    fn instance(&mut self) -> &mut dyn Instance {
        self.opened.as_deref_mut().expect(OPENED)
    }

    fn take_logs(&mut self) {
        let kept = sink::take();
        self.lines.extend(kept.lines);
        kept.counters.into_iter().for_each(|(name, n)| *self.counters.entry(name).or_default() += n);
        self.gauges.extend(kept.gauges);
    }
}

fn names(ports: &[Port]) -> String {
    ports.iter().map(|p| p.name.as_str()).collect::<Vec<_>>().join(", ")
}

/// In a test, what would fail the job fails the test.
fn or_panic<T>(result: Result<T, OpError>) -> T {
    result.unwrap_or_else(|error| panic!("the operator failed: {error}"))
}
