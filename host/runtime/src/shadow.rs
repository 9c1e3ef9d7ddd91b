//! Other logic for a node beside the one that runs: on a copy of the state, with the same input, its output compared and thrown away.
//!
//! Each worker freezes what its operator holds, and from then on tells a thread what it calls the operator with and what comes
//! out. The thread has an operator with the other logic, restored from what was frozen. Outputs are compared as sets of
//! rows that may stand several times: the order within them means nothing.
//!
//! Laws: the job never waits for its shadow; a shadow that falls behind is cut off and says so; no fault of a shadow is one
//! of the job.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use arrow::datatypes::SchemaRef;
use crossbeam_channel::{Receiver, Sender, unbounded};
use tidemill_model::component::StateDescriptor;
use tidemill_model::dead::{DeadRow, row_json};
use tidemill_model::key::groups_of;
use tidemill_model::snapshot::{Chunks, FileSet, Restore, Snapshot, Table};
use tidemill_model::state::state_of_table;
use tidemill_model::time::Now;
use tidemill_model::{Batch, Collector, Fault, OperatorContext, OperatorFactory, Progress, panics};

/// Bytes of rows that wait for a shadow, at most; per worker.
const WAITING_BYTES_MAX: usize = 256 << 20;
/// Rows that differ before it is clear that they do.
const DIFFERING_MAX: usize = 100_000;
/// Rows that are shown.
const SHOWN: usize = 20;

/// What a worker tells its shadow.
pub(crate) enum Told {
    Begin(Box<Snapshot>, Now),
    Batch(usize, Batch),
    Time(Now),
    /// What the operator that runs has emitted for the calls so far.
    Emitted(Vec<(usize, Batch)>, Vec<DeadRow>),
}

/// One node's shadow on all workers.
pub(crate) struct Shadow {
    /// The first worker of this process.
    first: usize,
    /// By worker; none when it has begun, or has ended.
    waiting: Vec<Mutex<Option<Tell>>>,
    over: AtomicBool,
}

/// How a worker tells its shadow. When this is dropped, the shadow has seen all.
pub(crate) struct Tell {
    messages: Sender<Told>,
    waiting_bytes: Arc<AtomicUsize>,
    fell_behind: Arc<AtomicBool>,
}

/// What came of a shadow.
#[derive(Clone, Debug, Default)]
pub struct ShadowReport {
    /// Rows that the operator that runs has emitted meanwhile.
    pub rows: u64,
    /// Rows that only one of the two has emitted.
    pub differing: u64,
    /// Some of them: `-` was emitted by the logic that runs, `+` by the other.
    pub examples: Vec<String>,
    /// The other logic is slower than its input: not everything was compared.
    pub fell_behind: bool,
}

/// A shadow's threads.
pub(crate) struct Threads(Vec<std::thread::JoinHandle<Result<ShadowReport, Fault>>>);

impl Shadow {
    /// Starts a thread for each worker of this process. `dropped`: states that are given up.
    pub fn start(
        factory: &Arc<dyn OperatorFactory>,
        first: usize,
        places: impl Iterator<Item = OperatorContext>,
        dropped: &[String],
    ) -> Result<(Arc<Self>, Threads), Fault> {
        let (mut waiting, mut threads) = (Vec::new(), Vec::new());
        for place in places {
            let (messages, received) = unbounded();
            let (waiting_bytes, fell_behind) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
            let side = Side {
                factory: factory.clone(),
                // It is told where the clocks stand.
                place: OperatorContext { processing_ms: Now::START.processing_ms, ..place },
                dropped: dropped.to_vec(),
                received,
                waiting_bytes: waiting_bytes.clone(),
                fell_behind: fell_behind.clone(),
            };
            let run = move || {
                panics::caught(|| side.run())
                    .unwrap_or_else(|panic| Err(Fault::internal(format!("a shadow panicked: {panic}"))))
            };
            let thread = std::thread::Builder::new().name("tidemill-shadow".into()).spawn(run);
            threads.push(thread.map_err(|error| Fault::io(format!("no thread for a shadow: {error}")))?);
            waiting.push(Mutex::new(Some(Tell { messages, waiting_bytes, fell_behind })));
        }
        Ok((Arc::new(Self { first, waiting, over: AtomicBool::new(false) }), Threads(threads)))
    }

    /// A worker begins; none if it has already.
    pub fn take(&self, worker: usize) -> Option<Tell> {
        if self.is_over() {
            return None;
        }
        self.waiting[worker - self.first].lock().expect("no panic while held").take()
    }

    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// Workers are to tell no more.
    pub fn end(&self) {
        self.over.store(true, Ordering::Release);
        // Of those that have not begun.
        self.waiting.iter().for_each(|tell| drop(tell.lock().expect("no panic while held").take()));
    }
}

impl Tell {
    /// False: nobody listens any more.
    pub fn tell(&self, message: Told) -> bool {
        let bytes = bytes_of(&message);
        if self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes > WAITING_BYTES_MAX {
            self.fell_behind.store(true, Ordering::Relaxed);
            return false;
        }
        self.messages.send(message).is_ok()
    }
}

fn bytes_of(message: &Told) -> usize {
    match message {
        Told::Begin(..) | Told::Time(_) => 64,
        Told::Batch(_, batch) => batch.bytes(),
        Told::Emitted(rows, dead) => rows.iter().map(|(_, batch)| batch.bytes()).sum::<usize>() + dead.len() * 256,
    }
}

impl Threads {
    /// All have seen enough, or have failed.
    pub fn have_ended(&self) -> bool {
        self.0.iter().all(|thread| thread.is_finished())
    }

    /// All that they have found.
    pub fn join(self) -> Result<ShadowReport, Fault> {
        let mut sum = ShadowReport::default();
        for thread in self.0 {
            let report = thread.join().unwrap_or_else(|_| Err(Fault::internal("a shadow's thread panicked")))?;
            sum.rows += report.rows;
            sum.differing += report.differing;
            sum.examples.extend(report.examples);
            sum.fell_behind |= report.fell_behind;
        }
        sum.examples.truncate(SHOWN);
        Ok(sum)
    }
}

/// The shadow of one worker.
struct Side {
    factory: Arc<dyn OperatorFactory>,
    place: OperatorContext,
    dropped: Vec<String>,
    received: Receiver<Told>,
    waiting_bytes: Arc<AtomicUsize>,
    fell_behind: Arc<AtomicBool>,
}

impl Side {
    fn run(self) -> Result<ShadowReport, Fault> {
        let mut operator = self.factory.build(&self.place)?;
        let mut compared = Compared::default();
        for message in &self.received {
            let bytes = bytes_of(&message);
            let mut emitted = Emitted::default();
            let mut progress = match message {
                Told::Begin(snapshot, now) => {
                    operator.restore(&Frozen::new(*snapshot, now, &self.place, &self.dropped))?;
                    Progress::Done
                }
                Told::Batch(input, batch) => operator.on_batch(input, batch, &mut emitted)?,
                Told::Time(now) => operator.on_time(now, &mut emitted)?,
                Told::Emitted(rows, dead) => {
                    compared.rows += rows.iter().map(|(_, batch)| batch.num_rows() as u64).sum::<u64>();
                    compared.count(&rows, &dead, -1);
                    Progress::Done
                }
            };
            while progress == Progress::More {
                progress = operator.resume(&mut emitted)?;
            }
            compared.count(&emitted.rows, &emitted.dead, 1);
            self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            if compared.is_hopeless() {
                break;
            }
        }
        Ok(compared.report(self.fell_behind.load(Ordering::Relaxed)))
    }
}

#[derive(Default)]
struct Emitted {
    rows: Vec<(usize, Batch)>,
    dead: Vec<DeadRow>,
}

impl Collector for Emitted {
    fn emit(&mut self, port: usize, batch: Batch) {
        self.rows.push((port, batch));
    }
    fn dead(&mut self, row: DeadRow) {
        self.dead.push(row);
    }
    fn count(&mut self, _counter: &'static str, _n: u64) {}
}

/// Port, event time, kind and columns of a row.
type Row = (usize, Option<i64>, Option<u8>, String);

/// How much more often each row was emitted by the one than by the other. What both have emitted is not kept.
#[derive(Default)]
struct Compared {
    rows: u64,
    open: BTreeMap<Row, i64>,
}

impl Compared {
    fn count(&mut self, rows: &[(usize, Batch)], dead: &[DeadRow], by: i64) {
        for (port, batch) in rows {
            for row in 0..batch.num_rows() {
                let (time, kind) = (batch.times.as_ref().map(|t| t[row]), batch.kinds.as_ref().map(|k| k[row]));
                self.add((*port, time, kind, row_json(batch.rows(), row)), by);
            }
        }
        for row in dead {
            let text = format!("dead letter {}: {}", row.row, row.error);
            self.add((usize::MAX, row.event_time, None, text), by);
        }
    }

    fn add(&mut self, row: Row, by: i64) {
        match self.open.entry(row) {
            std::collections::btree_map::Entry::Occupied(mut entry) => {
                *entry.get_mut() += by;
                if *entry.get() == 0 {
                    entry.remove();
                }
            }
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(by);
            }
        }
    }

    fn is_hopeless(&self) -> bool {
        self.open.len() > DIFFERING_MAX
    }

    fn report(self, fell_behind: bool) -> ShadowReport {
        let line = |((port, time, kind, row), by): (&Row, &i64)| {
            let sign = if *by < 0 { '-' } else { '+' };
            let port = if *port == 0 || *port == usize::MAX { String::new() } else { format!(" port {port}") };
            let time = time.map_or_else(String::new, |time| format!(" at {time} ms"));
            let kind = kind.filter(|kind| *kind != 0).map_or_else(String::new, |kind| format!(" kind {kind}"));
            let times = if by.abs() == 1 { String::new() } else { format!(" ({} times)", by.abs()) };
            format!("{sign} {row}{port}{time}{kind}{times}")
        };
        // Beside each other what belongs together.
        let mut differing: Vec<_> = self.open.iter().collect();
        differing.sort_by(|((.., a), _), ((.., b), _)| a.cmp(b));
        ShadowReport {
            rows: self.rows,
            differing: self.open.values().map(|by| by.unsigned_abs()).sum(),
            examples: differing.into_iter().take(SHOWN).map(line).collect(),
            fell_behind,
        }
    }
}

/// What an operator held, for its shadow.
struct Frozen {
    now: Now,
    groups: Range<u32>,
    states: Vec<StateDescriptor>,
    tables: RefCell<Vec<Table>>,
    schemas: Vec<(String, SchemaRef)>,
    dropped: Vec<String>,
}

impl Frozen {
    fn new(snapshot: Snapshot, now: Now, place: &OperatorContext, dropped: &[String]) -> Self {
        let given_up = |name: &str| dropped.iter().any(|dropped| dropped == name);
        let states = snapshot.states.into_iter().filter(|state| !given_up(&state.name)).collect();
        let wanted = |table: &Table| !state_of_table(&table.name).is_some_and(|(state, _)| given_up(state));
        let tables: Vec<Table> = snapshot.tables.into_iter().filter(wanted).collect();
        let schemas = tables.iter().map(|table| (table.name.clone(), table.schema.clone())).collect();
        let groups = groups_of(place.worker, place.workers);
        Self { now, groups, states, tables: RefCell::new(tables), schemas, dropped: dropped.to_vec() }
    }
}

impl Restore for Frozen {
    fn groups(&self) -> Range<u32> {
        self.groups.clone()
    }

    fn now(&self) -> Now {
        self.now
    }

    fn tables(&self) -> Vec<(String, SchemaRef)> {
        self.schemas.clone()
    }

    fn states(&self) -> Vec<StateDescriptor> {
        self.states.clone()
    }

    fn chunks(&self, table: &str) -> Result<Chunks, Fault> {
        let mut tables = self.tables.borrow_mut();
        match tables.iter().position(|t| t.name == table) {
            Some(index) => Ok(tables.remove(index).chunks),
            None => Ok(Box::new(std::iter::empty())),
        }
    }

    fn all_chunks(&self, table: &str) -> Result<Chunks, Fault> {
        self.chunks(table)
    }

    fn dropped(&self) -> &[String] {
        &self.dropped
    }

    fn files(&self) -> Result<Vec<FileSet>, Fault> {
        Ok(Vec::new())
    }
}
