//! Small pieces of the per-row path, ns per row: the crossing into a component, the exchange, aggregates.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tidemill::catalog::Builtins;
use tidemill_control::Catalog;
use tidemill_engine::process::{ProcessSpec, node};
use tidemill_engine::windows::window;
use tidemill_model::entries::NoEntries;
use tidemill_model::fault::OnError;
use tidemill_model::key::{KeyEncoder, Partitioner};
use tidemill_model::logic::{GuestLimits, KeyedIn, Logic, OpenContext, RowsIn};
use tidemill_model::schema::project;
use tidemill_model::time::Now;
use tidemill_model::window::{WindowSpec, Windows};
use tidemill_model::{Batch, Collector, DeadRow, OperatorContext, Progress};
use tidemill_state::HeapFactory;

const SIZES: [usize; 3] = [64, 1024, 8192];

fn schema() -> SchemaRef {
    let int = |name: &str| Field::new(name, DataType::Int64, false);
    let text = Field::new("channel", DataType::Utf8, false);
    Arc::new(Schema::new(vec![int("auction"), int("price"), Field::new("rate", DataType::Float64, false), text]))
}

fn bids(rows: usize) -> RecordBatch {
    bids_from(0, rows)
}

fn bids_from(first: i64, rows: usize) -> RecordBatch {
    let n = first..first + rows as i64;
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(n.clone().map(|i| ((i * 2_654_435_761) >> 8) % 100_000))),
        Arc::new(Int64Array::from_iter_values(n.clone().map(|i| i * 40_503 % 10_000))),
        Arc::new(Float64Array::from_iter_values(n.clone().map(|i| i as f64 * 0.5))),
        Arc::new(StringArray::from_iter_values(n.map(|i| format!("channel-{}", i % 10)))),
    ];
    RecordBatch::try_new(schema(), columns).expect("columns follow the schema")
}

const COMPONENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/target/operators.wasm");
const BUILD: &str = "build it with `tidemill build benches/operators`";

fn component() -> Builtins {
    Builtins::new().expect("a WASM engine")
}

/// The operator `name` of the benchmark component, opened.
fn guest(name: &str) -> Box<dyn Logic> {
    let logic = component().logic(COMPONENT.as_ref(), name, GuestLimits::default()).expect(BUILD);
    let key_schema = Arc::new(Schema::new(vec![Field::new("auction", DataType::Int64, false)]));
    let context = OpenContext {
        operator: name.into(),
        node: name.into(),
        config: vec![],
        key_schema: (name == "count").then_some(key_schema),
        worker: 0,
        workers: 1,
    };
    logic.open(&context).expect("the operator opens")
}

fn rows_in(logic: &dyn Logic, rows: usize) -> RowsIn {
    let batch = bids(rows);
    let columns = project(&batch.schema(), &logic.descriptor().inputs[0].schema).expect("bids fit");
    RowsIn { input: 0, rows: batch.project(&columns).expect("they exist"), times: None, kinds: None, now: Now::START }
}

fn crossing(c: &mut Criterion) {
    let mut group = c.benchmark_group("crossing");
    for rows in SIZES {
        group.throughput(Throughput::Elements(rows as u64));
        let mut filter = guest("filter");
        let input = rows_in(&*filter, rows);
        group.bench_function(BenchmarkId::new("filter", rows), |b| b.iter(|| filter.keep(&input).expect("no trap")));
        let mut map = guest("map");
        let input = rows_in(&*map, rows);
        group.bench_function(BenchmarkId::new("map", rows), |b| b.iter(|| map.process(&input).expect("no trap")));
        let mut count = guest("count");
        let input = KeyedIn {
            rows: rows_in(&*count, rows),
            key_index: (0..rows as u32).map(|i| i / 2).collect(),
            key_count: rows / 2,
            keys: None,
            states: vec![Arc::new(Int64Array::from(vec![7; rows / 2]))],
        };
        group.bench_function(BenchmarkId::new("keyed", rows), |b| {
            b.iter(|| count.process_keyed(&input, &mut NoEntries).expect("no trap"))
        });
    }
    group.finish();
}

/// A get and a put of one entry per row, as a whole node on the heap: each key has some entries, and nearly each row is one of
/// another key.
fn entries(c: &mut Criterion) {
    let mut group = c.benchmark_group("entries");
    let rows = 8192;
    for name in ["entries", "entries_prefetched"] {
        let logic = component().logic(COMPONENT.as_ref(), name, GuestLimits::default()).expect(BUILD);
        let spec = ProcessSpec {
            logic,
            inputs: vec![schema()],
            keys: vec![vec![0]],
            config: Vec::new(),
            on_error: OnError::Fail,
            state: Arc::new(HeapFactory),
            shared: Arc::new(HeapFactory),
        };
        let context = OperatorContext { node: name.into(), worker: 0, workers: 1, processing_ms: 0 };
        let mut operator = node(spec).expect("bids fit").factory.build(&context).expect("the operator opens");
        let batches: Vec<Batch> = (0..16).map(|n| bids_from(n * rows as i64, rows)).map(Batch::new).collect();
        let mut pass = || {
            for batch in &batches {
                let mut progress = operator.on_batch(0, batch.clone(), &mut Nowhere).expect("no trap");
                while progress == Progress::More {
                    progress = operator.resume(&mut Nowhere).expect("no trap");
                }
            }
        };
        pass();
        group.throughput(Throughput::Elements(rows as u64 * 16));
        group.bench_function(BenchmarkId::new(name, rows), |b| b.iter(&mut pass));
    }
    group.finish();
}

fn exchange(c: &mut Criterion) {
    let mut group = c.benchmark_group("exchange");
    for rows in SIZES {
        group.throughput(Throughput::Elements(rows as u64));
        let encoder = KeyEncoder::new(&schema(), &[0]).expect("a key of int64");
        let mut partitioner = Partitioner::new(encoder, 2);
        let batch = Batch::new(bids(rows));
        group.bench_function(BenchmarkId::new("two workers", rows), |b| {
            b.iter(|| partitioner.partition(batch.clone(), |_worker, part| drop(std::hint::black_box(part))));
        });
    }
    group.finish();
}

/// Drops what is emitted.
struct Nowhere;

impl Collector for Nowhere {
    fn emit(&mut self, _port: usize, batch: Batch) {
        std::hint::black_box(batch);
    }
    fn dead(&mut self, _row: DeadRow) {}
    fn count(&mut self, _counter: &'static str, _n: u64) {}
}

fn aggregates(c: &mut Criterion) {
    let mut group = c.benchmark_group("aggregate");
    let calls = [
        ("count", "count(*)"),
        ("sum", "sum(price)"),
        ("min", "min(price)"),
        ("max", "max(price)"),
        ("avg", "avg(rate)"),
        ("stddev", "stddev(rate)"),
        ("count distinct", "count(distinct price)"),
        ("approx_percentile", "approx_percentile_cont(rate, 0.9)"),
    ];
    let rows = 8192;
    for (name, call) in calls {
        let aggregates = vec![("value".into(), call.into())];
        let spec = WindowSpec::new(Windows::Tumbling { size_ms: 10_000 }, vec![0], aggregates);
        let built = window(spec, &schema()).expect("the call is valid");
        let context = OperatorContext { node: "window".into(), worker: 0, workers: 1, processing_ms: 0 };
        let mut operator = built.factory.build(&context).expect("a window");
        // A window of ten batches, then it fires: insertion, update and emission together.
        let batches: Vec<Batch> = (0..10).map(|_| bids(rows)).map(Batch::new).collect();
        let mut start = 0i64;
        group.throughput(Throughput::Elements(rows as u64 * 10));
        group.bench_function(BenchmarkId::new(name, rows), |b| {
            b.iter(|| {
                for batch in &batches {
                    let timed = batch.clone().with_times(Some(vec![start; rows].into()));
                    assert_eq!(operator.on_batch(0, timed, &mut Nowhere).expect("valid rows"), Progress::Done);
                }
                start += 10_000;
                let mut more = operator.on_time(Now { watermark: start - 1, processing_ms: 0 }, &mut Nowhere);
                while more.expect("it fires") == Progress::More {
                    more = operator.resume(&mut Nowhere);
                }
            });
        });
    }
    group.finish();
}

criterion_group!(benches, crossing, entries, exchange, aggregates);
criterion_main!(benches);
