//! Whole jobs on the real runtime, with small sources, operators and sinks that live in memory.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use arrow::array::{AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use tidemill_model::fault::OnError;
use tidemill_model::plan::{Edge, EventTimeSpec, Exchange, JobOptions, Node, NodeKind, Plan, TickMode};
use tidemill_model::sink::{Committable, Sink, SinkWriter};
use tidemill_model::source::{Polled, Position, ReadBudget, Source, Split, SplitReader};
use tidemill_model::time::{Now, WATERMARK_MIN, WatermarkStrategy};
use tidemill_model::{Batch, Collector, DeadRow, Fault, Operator, OperatorContext, OperatorFactory, Progress, limits};
use tidemill_runtime::cluster::{FollowOptions, Followed, Gate, GateOptions, Identity, Refused, Team, follow};
use tidemill_runtime::{Ending, JobHandle, Loader, StartOptions, start, start_with};

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]))
}

fn rows(values: Vec<i64>) -> RecordBatch {
    RecordBatch::try_new(schema(), vec![Arc::new(Int64Array::from(values))]).unwrap()
}

fn values(rows: &RecordBatch) -> Vec<i64> {
    rows.column(0).as_primitive::<Int64Type>().values().to_vec()
}

/// Counts up from 0; split i of k yields i, i + k, ...
#[derive(Clone)]
struct Numbers {
    rows: i64,
    endless: bool,
    splits: usize,
    /// Values are taken modulo this.
    modulo: i64,
}

impl Numbers {
    fn split(&self, i: usize) -> Split {
        let rows = (self.rows - i as i64).max(0) as u64;
        let size = (!self.endless).then(|| rows.div_ceil(self.splits as u64));
        Split { id: i.to_string(), spec: vec![i as u8], size }
    }
}

impl Source for Numbers {
    fn schema(&self) -> SchemaRef {
        schema()
    }
    fn splits(&self, _workers: usize) -> Result<Vec<Split>, Fault> {
        Ok((0..self.splits).map(|i| self.split(i)).collect())
    }
    fn open(&self, split: &Split, _position: &Position) -> Result<Box<dyn SplitReader>, Fault> {
        Ok(Box::new(NumbersReader { next: i64::from(split.spec[0]), source: self.clone() }))
    }
    fn bounded(&self) -> bool {
        !self.endless
    }
}

struct NumbersReader {
    next: i64,
    source: Numbers,
}

impl SplitReader for NumbersReader {
    fn poll(&mut self, budget: ReadBudget) -> Result<Polled, Fault> {
        if !self.source.endless && self.next >= self.source.rows {
            return Ok(Polled::End);
        }
        let step = self.source.splits as i64;
        let end = if self.source.endless { i64::MAX } else { self.source.rows };
        let read: Vec<i64> = (0..budget.rows as i64).map(|i| self.next + i * step).take_while(|&n| n < end).collect();
        self.next += read.len() as i64 * step;
        let read = read.into_iter().map(|n| n % self.source.modulo).collect();
        Ok(Polled::Rows { rows: rows(read), rejected: Vec::new() })
    }
    fn position(&self) -> Position {
        Position(self.next.to_le_bytes().to_vec())
    }
    fn progress(&self) -> u64 {
        self.next as u64 / self.source.splits as u64
    }
}

/// What a sink has seen, and a gate that can hold it up.
#[derive(Default)]
struct Collected {
    rows: Mutex<Vec<i64>>,
    committed: AtomicU64,
    aborted: AtomicBool,
    closed: Mutex<bool>,
    opened: Condvar,
}

struct Collect {
    seen: Arc<Collected>,
    blocks: bool,
    fail_at: Option<i64>,
}

struct CollectWriter {
    seen: Arc<Collected>,
    fail_at: Option<i64>,
    written: u64,
}

impl Sink for Collect {
    fn blocks(&self) -> bool {
        self.blocks
    }
    fn accepts(&self, _schema: &SchemaRef) -> Result<(), Fault> {
        Ok(())
    }
    fn open(&self, _worker: usize, _workers: usize, _schema: SchemaRef) -> Result<Box<dyn SinkWriter>, Fault> {
        Ok(Box::new(CollectWriter { seen: self.seen.clone(), fail_at: self.fail_at, written: 0 }))
    }
    fn commit(&self, committables: &[Committable]) -> Result<(), Fault> {
        for c in committables {
            self.seen.committed.fetch_add(u64::from_le_bytes(c.0[..].try_into().unwrap()), Ordering::SeqCst);
        }
        Ok(())
    }
}

impl SinkWriter for CollectWriter {
    fn write(&mut self, batch: &Batch) -> Result<(), Fault> {
        let mut closed = self.seen.closed.lock().unwrap();
        while *closed {
            closed = self.seen.opened.wait(closed).unwrap();
        }
        drop(closed);
        if batch.rows().num_columns() > 1 {
            // Dead rows.
            self.written += batch.num_rows() as u64;
            return Ok(());
        }
        let values = values(batch.rows());
        if self.fail_at.is_some_and(|n| values.contains(&n)) {
            return Err(Fault::io("No space left on device"));
        }
        self.written += values.len() as u64;
        self.seen.rows.lock().unwrap().extend(values);
        Ok(())
    }
    fn prepare(&mut self, _checkpoint: u64) -> Result<Vec<Committable>, Fault> {
        Ok(vec![Committable(std::mem::take(&mut self.written).to_le_bytes().to_vec())])
    }
    fn abort(&mut self) {
        self.seen.aborted.store(true, Ordering::SeqCst);
    }
}

/// An operator from two closures' worth of behaviour.
#[derive(Clone, Copy)]
enum Behaviour {
    /// Emits per value how often it was seen.
    Count,
    /// Holds rows until the watermark passes them, then emits in order of time.
    SortByTime,
    /// Each row becomes a hundred, a batch at a time.
    Amplify,
    /// Fails at row 5000.
    Fail,
    /// Sends odd numbers to the dead-letter output.
    RejectOdd,
    Panic,
}

struct Make(Behaviour);

impl OperatorFactory for Make {
    fn build(&self, _context: &OperatorContext) -> Result<Box<dyn Operator>, Fault> {
        Ok(Box::new(Run {
            behaviour: self.0,
            counts: HashMap::new(),
            held: Vec::new(),
            watermark: WATERMARK_MIN,
            todo: None,
        }))
    }
    fn uses_time(&self) -> bool {
        matches!(self.0, Behaviour::SortByTime)
    }
}

struct Run {
    behaviour: Behaviour,
    counts: HashMap<i64, i64>,
    held: Vec<i64>,
    watermark: i64,
    todo: Option<(Batch, usize)>,
}

impl Operator for Run {
    fn on_batch(&mut self, _input: usize, batch: Batch, out: &mut dyn Collector) -> Result<Progress, Fault> {
        let all = values(batch.rows());
        match self.behaviour {
            Behaviour::Count => {
                let counts = all.iter().map(|n| {
                    let count = self.counts.entry(*n).or_default();
                    *count += 1;
                    n * 1_000_000 + *count
                });
                out.emit(0, batch.derive(rows(counts.collect())));
            }
            Behaviour::SortByTime => {
                let late = all.iter().filter(|&&n| n <= self.watermark).count();
                out.count("late", late as u64);
                self.held.extend(all.iter().filter(|&&n| n > self.watermark));
            }
            Behaviour::Amplify => {
                self.todo = Some((batch, 100));
                return self.resume(out);
            }
            Behaviour::Fail if all.contains(&5000) => {
                return Err(Fault::component("row 5000 is cursed").with_row("5000"));
            }
            Behaviour::Fail => out.emit(0, batch),
            Behaviour::RejectOdd => {
                for odd in all.iter().filter(|n| *n % 2 == 1) {
                    out.dead(DeadRow { error: "odd".into(), row: odd.to_string(), ..DeadRow::default() });
                }
                out.emit(0, batch.derive(rows(all.iter().copied().filter(|n| n % 2 == 0).collect())));
            }
            Behaviour::Panic => panic!("a bug of the host"),
        }
        Ok(Progress::Done)
    }

    fn on_time(&mut self, now: Now, out: &mut dyn Collector) -> Result<Progress, Fault> {
        assert!(now.watermark >= self.watermark, "time never goes back");
        self.watermark = now.watermark;
        self.held.sort_unstable();
        let due = self.held.partition_point(|&n| n <= now.watermark);
        if due > 0 {
            out.emit(0, Batch::new(rows(self.held.drain(..due).collect())));
        }
        Ok(Progress::Done)
    }

    fn resume(&mut self, out: &mut dyn Collector) -> Result<Progress, Fault> {
        let Some((batch, left)) = self.todo.take() else { return Ok(Progress::Done) };
        out.emit(0, batch.clone());
        if left > 1 {
            self.todo = Some((batch, left - 1));
            return Ok(Progress::More);
        }
        Ok(Progress::Done)
    }
}

struct Setup {
    source: Numbers,
    behaviour: Behaviour,
    exchange: Exchange,
    blocks: bool,
    fail_at: Option<i64>,
    delay_ms: i64,
    options: JobOptions,
}

impl Setup {
    fn new(rows: i64, behaviour: Behaviour) -> Self {
        Self {
            source: Numbers { rows, endless: false, splits: 3, modulo: i64::MAX },
            behaviour,
            exchange: Exchange::Key(vec![0]),
            blocks: false,
            fail_at: None,
            delay_ms: 0,
            options: JobOptions { batch_rows: 1000, ..JobOptions::default() },
        }
    }

    fn plan(self) -> (Plan, Arc<Collected>, Arc<Collected>) {
        let (seen, dead) = (Arc::new(Collected::default()), Arc::new(Collected::default()));
        let strategy = WatermarkStrategy { delay_ms: self.delay_ms, idle_after_ms: None };
        let source = NodeKind::Source {
            source: Arc::new(self.source),
            event_time: Some(EventTimeSpec { column: 0, strategy }),
            on_error: OnError::Fail,
        };
        let sink = Collect { seen: seen.clone(), blocks: self.blocks, fail_at: self.fail_at };
        let edge = |from, exchange| vec![Edge { from, port: 0, input: 0, exchange }];
        let nodes = vec![
            Node { name: "numbers".into(), kind: source, inputs: vec![], outputs: vec![schema()] },
            Node {
                name: "work".into(),
                kind: NodeKind::Operator { factory: Arc::new(Make(self.behaviour)) },
                inputs: edge(0, self.exchange),
                outputs: vec![schema()],
            },
            Node {
                name: "out".into(),
                kind: NodeKind::Sink { sink: Arc::new(sink), schema: schema() },
                inputs: edge(1, Exchange::Forward),
                outputs: vec![],
            },
        ];
        let dead_letter = Arc::new(Collect { seen: dead.clone(), blocks: true, fail_at: None });
        let plan = Plan { name: "test".into(), nodes, dead_letter: Some(dead_letter), options: self.options };
        (plan, seen, dead)
    }
}

#[test]
fn no_row_is_lost_or_doubled_on_any_number_of_workers() {
    for workers in [1, 2, 5] {
        let (plan, seen, _) = Setup::new(20_000, Behaviour::SortByTime).plan();
        let summary = start(plan, workers).unwrap().wait().unwrap();
        let mut rows = seen.rows.lock().unwrap().clone();
        rows.sort_unstable();
        assert_eq!(rows, (0..20_000).collect::<Vec<_>>(), "{workers} workers");
        assert_eq!((summary.rows_in, summary.rows_out, summary.ending), (20_000, 20_000, Ending::Finished));
        assert_eq!(seen.committed.load(Ordering::SeqCst), 20_000);
    }
}

#[test]
fn equal_keys_meet_on_one_worker() {
    for workers in [1, 2, 5] {
        let mut setup = Setup::new(10_000, Behaviour::Count);
        setup.source.modulo = 10;
        let (plan, seen, _) = setup.plan();
        start(plan, workers).unwrap().wait().unwrap();
        // Each key's counts run from 1 to 1000 exactly once, wherever its rows came from.
        let mut rows = seen.rows.lock().unwrap().clone();
        rows.sort_unstable();
        let expected: Vec<i64> = (0..10).flat_map(|key| (1..=1000).map(move |n| key * 1_000_000 + n)).collect();
        assert_eq!(rows, expected, "{workers} workers");
    }
}

#[test]
fn a_broadcast_brings_each_row_to_each_worker() {
    let run = |workers: u64, start: &dyn Fn(Plan) -> JobHandle| {
        // What was held for its time comes out: no row is expected that does not come.
        let setup = Setup { exchange: Exchange::Broadcast, ..Setup::new(5_000, Behaviour::SortByTime) };
        let (plan, seen, _) = setup.plan();
        let summary = start(plan).wait().unwrap();
        let mut rows = seen.rows.lock().unwrap().clone();
        rows.sort_unstable();
        let expected: Vec<i64> = (0..5_000).flat_map(|n| (0..workers).map(move |_| n)).collect();
        assert_eq!(rows, expected, "{workers} workers");
        assert_eq!((summary.rows_in, summary.ending), (5_000, Ending::Finished));
    };
    for workers in [1, 2, 5] {
        run(workers, &|plan| start(plan, workers as usize).unwrap());
    }
}

#[test]
fn batch_ticks_make_time_independent_of_timing() {
    let run = || {
        let mut setup = Setup::new(50_000, Behaviour::SortByTime);
        setup.source.splits = 1;
        setup.options.ticks = TickMode::Batch;
        setup.options.batch_rows = 100;
        let (plan, seen, _) = setup.plan();
        start(plan, 2).unwrap().wait().unwrap();
        std::mem::take(&mut *seen.rows.lock().unwrap())
    };
    let mut first = run();
    first.sort_unstable();
    assert_eq!(first, (0..50_000).collect::<Vec<_>>(), "no row was late");
}

#[test]
fn the_first_fault_names_operator_worker_and_row_and_nothing_is_committed() {
    for workers in [1, 3] {
        let (plan, seen, _) = Setup { blocks: true, ..Setup::new(100_000, Behaviour::Fail) }.plan();
        let fault = start(plan, workers).unwrap().wait().unwrap_err();
        assert_eq!((fault.operator.as_str(), fault.row.as_deref()), ("work", Some("5000")));
        assert!(fault.worker.is_some());
        assert_eq!(seen.committed.load(Ordering::SeqCst), 0);
    }
}

#[test]
fn a_sink_that_cannot_write_fails_the_job() {
    for blocks in [false, true] {
        let (plan, seen, _) = Setup { blocks, fail_at: Some(4000), ..Setup::new(100_000, Behaviour::Fail) }.plan();
        let fault = start(plan, 2).unwrap().wait().unwrap_err();
        // The sink meets row 4000 unless the operator is at row 5000 before; both end the job.
        assert!(["out", "work"].contains(&fault.operator.as_str()), "{fault}");
        assert_eq!(seen.committed.load(Ordering::SeqCst), 0);
    }
    let (plan, _, _) =
        Setup { fail_at: Some(4000), exchange: Exchange::Forward, ..Setup::new(4500, Behaviour::Fail) }.plan();
    assert_eq!(
        start(plan, 2).unwrap().wait().unwrap_err().to_string().lines().next(),
        Some("out (worker 1): No space left on device")
    );
}

#[test]
fn rejected_rows_reach_the_dead_letter_sink() {
    let (plan, seen, dead) = Setup { exchange: Exchange::Rebalance, ..Setup::new(10_000, Behaviour::RejectOdd) }.plan();
    let summary = start(plan, 3).unwrap().wait().unwrap();
    assert_eq!((summary.rows_out, summary.rows_dead), (5_000, 5_000));
    assert_eq!(seen.rows.lock().unwrap().len(), 5_000);
    assert_eq!(dead.committed.load(Ordering::SeqCst), 5_000);
}

#[test]
fn a_panic_of_the_host_ends_all_workers_with_an_internal_fault() {
    let (plan, _, _) = Setup::new(10_000, Behaviour::Panic).plan();
    let fault = start(plan, 3).unwrap().wait().unwrap_err();
    assert!(fault.message.contains("a bug of the host"), "{fault}");
}

#[test]
fn a_stalled_sink_stops_the_source_within_the_budgets() {
    // Three nodes on two workers: the whole and the single limit come to the same.
    for (edge_bytes, buffer_bytes) in [(1 << 20, limits::BUFFER_BYTES_MAX), (limits::EDGE_BYTES_MAX, 6 << 20)] {
        let setup = Setup { exchange: Exchange::Forward, ..Setup::new(0, Behaviour::Amplify) };
        stall(setup, edge_bytes, buffer_bytes, |plan| start(plan, 2).unwrap());
    }
    // Rows on their way to another process, and in it, are charged to whoever has sent them. With one key, one process sends all.
    let mut setup = Setup::new(0, Behaviour::Amplify);
    (setup.source.splits, setup.source.modulo) = (2, 1);
    stall(setup, 1 << 20, limits::BUFFER_BYTES_MAX, start_two_processes);
    let mut setup = Setup::new(10, Behaviour::Amplify);
    setup.options.buffer_bytes = 1 << 20;
    let fault = start(setup.plan().0, 32).err().unwrap();
    assert_eq!(fault.message, "`buffer_memory` of 1024 KiB is too little for 3 nodes on 32 workers");
    assert_eq!(fault.help.as_deref(), Some("set it to 6144KiB or more, or use fewer workers"));
}

fn gate(plan: &Plan, process: usize) -> Gate {
    let (identity, address) = (Identity::new(plan, b"the same"), "127.0.0.1:0".to_owned());
    Gate::open(GateOptions { identity, process, address, secret: b"secret".to_vec(), tls: None }).unwrap()
}

/// Takes part in what the process behind `leader` leads.
fn take_part(plan: &Plan, gate: &Gate, leader: &str) -> Result<Followed, Refused> {
    let (own, scratch) = (&*gate.address().to_string(), std::env::temp_dir());
    let loader: Loader = Arc::new(|_, _, _| Err(Fault::internal("nothing is upgraded here")));
    follow(&FollowOptions { plan, gate, leader, own, store: None, scratch, loader, phases: None })
}

/// One worker in each of two processes, which here are threads.
fn start_two_processes(plan: Plan) -> JobHandle {
    let (here, there, other) = (Arc::new(gate(&plan, 0)), gate(&plan, 1), plan.clone());
    let leader = here.address().to_string();
    std::thread::spawn(move || assert!(matches!(take_part(&other, &there, &leader), Ok(Followed::Finished))));
    let members = here.gather(2, || true, |_| {}).unwrap();
    let team = Some(Team::new(here, members, Duration::from_secs(20)).unwrap());
    start_with(plan, StartOptions { workers: 1, team, ..StartOptions::default() }).unwrap()
}

#[test]
fn a_leader_that_goes_before_the_job_begins_has_not_failed() {
    let (plan, _, _) = Setup::new(10, Behaviour::Count).plan();
    let (here, there) = (gate(&plan, 0), gate(&plan, 1));
    let leader = here.address().to_string();
    std::thread::scope(|scope| {
        let other = scope.spawn(|| take_part(&plan, &there, &leader));
        // It is there, and waits for the job to begin.
        drop(here.gather(2, || true, |_| {}).unwrap());
        drop(here);
        let refused = other.join().unwrap().unwrap_err();
        assert!(refused.again, "another leader may come: {}", refused.fault);
        assert!(refused.fault.message.starts_with("process 0, which leads the job, was lost"), "{}", refused.fault);
    });
}

fn stall(mut setup: Setup, edge_bytes: usize, buffer_bytes: usize, start: impl FnOnce(Plan) -> JobHandle) {
    (setup.blocks, setup.source.endless) = (true, true);
    (setup.options.edge_bytes, setup.options.buffer_bytes) = (edge_bytes, buffer_bytes);
    let (plan, seen, _) = setup.plan();
    *seen.closed.lock().unwrap() = true;
    let job = start(plan);
    // The job is still when the number of rows read has not moved for many ticks.
    let read = || job.metrics().rows_in();
    let deadline = Instant::now() + Duration::from_secs(30);
    let (mut last, mut since) = (0, Instant::now());
    while last == 0 || since.elapsed() < Duration::from_millis(500) {
        assert!(Instant::now() < deadline, "the source never stopped: {} rows", read());
        if read() != last {
            (last, since) = (read(), Instant::now());
        }
        std::thread::yield_now();
    }
    // Two edges of 1 MiB per worker, 8 bytes a row and 8 for its time, and a batch or two above.
    assert!(last < 2 * (2 << 20) / 8, "{last} rows were read ahead");
    job.stop();
    *seen.closed.lock().unwrap() = false;
    seen.opened.notify_all();
    let summary = job.wait().unwrap();
    assert_eq!(summary.ending, Ending::Stopped);
    assert_eq!(summary.rows_out, summary.rows_in * 100, "what was read before the stop was processed");
}

#[test]
fn the_share_done_counts_splits_that_are_still_to_come() {
    for workers in [1, 2] {
        let mut setup = Setup { blocks: true, ..Setup::new(100_000, Behaviour::Fail) };
        (setup.source.splits, setup.source.modulo) = (100, 5000);
        setup.options.edge_bytes = 1 << 16;
        let (plan, seen, _) = setup.plan();
        *seen.closed.lock().unwrap() = true;
        let job = start(plan, workers).unwrap();
        while job.metrics().rows_in() < 2000 {
            std::thread::yield_now();
        }
        // The sink is stuck, so that no more than a few batches can be on their way.
        let share = job.metrics().share_done().unwrap();
        assert!((0.02..0.6).contains(&share), "{share} with {workers} workers");
        *seen.closed.lock().unwrap() = false;
        seen.opened.notify_all();
        let metrics = job.control();
        job.wait().unwrap();
        assert_eq!(metrics.metrics().share_done(), Some(1.0));
    }
    let mut endless = Setup::new(0, Behaviour::Fail);
    endless.source.endless = true;
    endless.source.modulo = 5000;
    let job = start(endless.plan().0, 1).unwrap();
    assert_eq!(job.metrics().share_done(), None, "there is no share of an endless input");
    job.stop();
    job.wait().unwrap();
}

#[test]
fn an_endless_job_stops_when_asked_and_fires_what_it_holds() {
    let mut setup = Setup { delay_ms: 1_000_000_000, ..Setup::new(0, Behaviour::SortByTime) };
    setup.source.endless = true;
    setup.options.edge_bytes = 1 << 18;
    let (plan, seen, _) = setup.plan();
    let job = start(plan, 2).unwrap();
    while job.metrics().rows_in() < 10_000 {
        std::thread::yield_now();
    }
    job.stop();
    let summary = job.wait().unwrap();
    assert_eq!(summary.ending, Ending::Stopped);
    assert_eq!(seen.rows.lock().unwrap().len() as u64, summary.rows_in);
}
