//! Times the state backends: ns per row of `resolve`, `gather` and `scatter` of one int64 state, batches of 8192 rows with random
//! keys, for keys that fit into the cache and for many more; and how long snapshots and restores take. A plain program rather
//! than a criterion benchmark, because filling 10 million keys is most of the work.
//!
//!     cargo run -p tidemill-state --features rocksdb --example state [KEYS [MEMORY_MIB]]

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Int64Type, SchemaRef};
use tidemill_model::Fault;
use tidemill_model::component::StateDescriptor;
use tidemill_model::key::{groups_of, hash_i64, key_group, worker_of};
use tidemill_model::snapshot::{Chunks, FileSet, Form, NativeFile, Restore, Table};
use tidemill_model::state::{StateBackend, StateBackendFactory, StateContext};
use tidemill_model::time::Now;
use tidemill_state::{HeapFactory, RocksFactory, RocksSettings};

/// As in the program itself.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BATCH: usize = 8192;

fn main() -> Result<(), Fault> {
    let number = |index: usize| std::env::args().nth(index).and_then(|text| text.parse::<usize>().ok());
    let memory_bytes = number(2).map_or(RocksSettings::MEMORY_BYTES_DEFAULT, |mib| mib << 20);
    let directory = std::env::temp_dir().join("tidemill-state-example");
    let rocks = RocksFactory::new(RocksSettings { memory_bytes, directory });
    let sizes = number(1).map_or(vec![100_000, 10_000_000], |keys| vec![keys]);
    println!("backend, keys, ns per row to fill and to update: [by the clock, CPU of the worker, CPU of the process]");
    for keys in sizes {
        run("heap", &HeapFactory, keys as i64)?;
        run("rocksdb", &rocks, keys as i64)?;
    }
    Ok(())
}

fn run(name: &str, factory: &dyn StateBackendFactory, keys: i64) -> Result<(), Fault> {
    let mut backend = open(factory, 0, 1)?;
    let mut order = Order(1);
    let fill = timed(keys, backend.as_mut(), (0..keys).map(|i| scramble(i, keys)))?;
    let updates = keys.clamp(2_000_000, 5_000_000);
    let update = timed(updates, backend.as_mut(), (0..updates).map(|_| order.next(keys)))?;
    println!("{name:8} {keys:9} {fill:?} {update:?}   keys {}, {} MiB resident", backend.keys(), resident_mib());
    for _ in 0..2 {
        let (start, before) = (Instant::now(), cpu_ns()[0]);
        let snapshot = backend.snapshot(Form::Native)?;
        let stall = start.elapsed();
        println!("  CPU of the stall: {} ms", (cpu_ns()[0] - before) / 1_000_000);
        let Some(files) = snapshot.files else {
            println!("  snapshot: stall {stall:.1?}");
            return portable(factory, snapshot.tables, keys);
        };
        let files = files()?;
        println!("  snapshot: stall {stall:.1?}, whole {:.1?}, {}", start.elapsed(), summary(&files));
        let part = Arc::new(Part { groups: 0..1024, files });
        restores(factory, &part, keys)?;
        timed(200_000, backend.as_mut(), (0..200_000).map(|_| order.next(keys)))?;
    }
    let start = Instant::now();
    let tables = backend.snapshot(Form::Portable)?.tables;
    let stall = start.elapsed();
    let mut rows = 0;
    for chunk in tables.into_iter().flat_map(|table| table.chunks) {
        rows += chunk?.num_rows();
    }
    println!("  portable: stall {stall:.1?}, whole {:.1?}, {rows} rows", start.elapsed());
    Ok(())
}

/// Tables, and a new backend of them: CPU ns per key.
fn portable(factory: &dyn StateBackendFactory, tables: Vec<Table>, keys: i64) -> Result<(), Fault> {
    let before = cpu_ns()[0];
    let stored: Vec<(String, SchemaRef, Vec<RecordBatch>)> = tables
        .into_iter()
        .map(|table| Ok((table.name, table.schema, table.chunks.collect::<Result<_, Fault>>()?)))
        .collect::<Result<_, Fault>>()?;
    let written = cpu_ns()[0];
    let mut backend = open(factory, 0, 1)?;
    backend.restore(&Stored(stored))?;
    let per_key = |ns: u64| ns / keys as u64;
    println!("  tables {} ns, restored {} ns", per_key(written - before), per_key(cpu_ns()[0] - written));
    read(backend.as_mut(), (0..keys).step_by((keys as usize / BATCH).max(1)))
}

/// The same range of groups, then a half of it, then both halves to one.
fn restores(factory: &dyn StateBackendFactory, part: &Arc<Part>, keys: i64) -> Result<(), Fault> {
    let restored = |worker: usize, workers: usize, parts: Vec<Arc<Part>>| -> Result<_, Fault> {
        let mut backend = open(factory, worker, workers)?;
        let start = Instant::now();
        backend.restore(&Written { groups: groups_of(worker, workers), parts })?;
        let took = start.elapsed();
        let own = |key: &i64| worker_of(key_group(hash_i64(*key)), workers) == worker;
        let start = Instant::now();
        read(backend.as_mut(), (0..keys).step_by((keys as usize / BATCH).max(1)).filter(own))?;
        Ok((backend, took, start.elapsed()))
    };
    let (_, same, first) = restored(0, 1, vec![part.clone()])?;
    println!("  restore 1 to 1: {same:.1?}, first batch {first:.1?}");
    let mut halves = Vec::new();
    for worker in 0..2 {
        let (mut backend, took, first) = restored(worker, 2, vec![part.clone()])?;
        let start = Instant::now();
        let files = backend.snapshot(Form::Native)?.files.expect("files of its own")()?;
        println!("  restore 1 to 2: {took:.1?}, first batch {first:.1?}; snapshot {:.1?}", start.elapsed());
        halves.push(Arc::new(Part { groups: groups_of(worker, 2), files }));
    }
    let (backend, both, first) = restored(0, 1, halves)?;
    println!("  restore 2 to 1: {both:.1?}, first batch {first:.1?}; {} keys", backend.keys());
    Ok(())
}

fn read(backend: &mut dyn StateBackend, keys: impl Iterator<Item = i64>) -> Result<(), Fault> {
    let keys: Vec<i64> = keys.collect();
    let hashes: Vec<u64> = keys.iter().map(|&key| hash_i64(key)).collect();
    let mut slots = Vec::new();
    backend.resolve_i64(&keys, &hashes, &mut slots)?;
    assert_eq!(backend.gather(0, &slots)?.null_count(), 0, "no value is missing");
    backend.release(&slots);
    Ok(())
}

/// Counts the keys in batches. ns per row: by the clock, of this thread's CPU, of the whole process's CPU.
fn timed(rows: i64, backend: &mut dyn StateBackend, mut keys: impl Iterator<Item = i64>) -> Result<[f64; 3], Fault> {
    let (mut time, mut slots) = (Duration::ZERO, Vec::new());
    let first = cpu_ns();
    let mut batch: Vec<i64> = Vec::new();
    loop {
        batch.clear();
        batch.extend(keys.by_ref().take(BATCH));
        if batch.is_empty() {
            let last = cpu_ns();
            let all = [time.as_nanos() as u64, last[0] - first[0], last[1] - first[1]];
            return Ok(all.map(|ns| (ns as f64 / rows as f64).round()));
        }
        let hashes: Vec<u64> = batch.iter().map(|&key| hash_i64(key)).collect();
        let start = Instant::now();
        backend.resolve_i64(&batch, &hashes, &mut slots)?;
        let counts = backend.gather(0, &slots)?;
        let more = counts.as_primitive::<Int64Type>().iter().map(|count| count.unwrap_or(0) + 1);
        let more: ArrayRef = Arc::new(Int64Array::from_iter_values(more));
        backend.scatter(0, &slots, &more)?;
        backend.release(&slots);
        time += start.elapsed();
    }
}

fn open(factory: &dyn StateBackendFactory, worker: usize, workers: usize) -> Result<Box<dyn StateBackend>, Fault> {
    let states = [StateDescriptor::value("count", DataType::Int64)];
    factory.open(&StateContext { node: "count", worker, workers, states: &states })
}

/// Each number below `keys` once, in no order, for powers of ten.
fn scramble(i: i64, keys: i64) -> i64 {
    ((i128::from(i) * 7_368_787_697) % i128::from(keys)) as i64
}

/// Random numbers (SplitMix64).
struct Order(u64);

impl Order {
    fn next(&mut self, below: i64) -> i64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % below as u64) as i64
    }
}

struct Part {
    groups: Range<u32>,
    files: Vec<NativeFile>,
}

struct Written {
    groups: Range<u32>,
    parts: Vec<Arc<Part>>,
}

impl Restore for Written {
    fn groups(&self) -> Range<u32> {
        self.groups.clone()
    }
    fn now(&self) -> Now {
        Now::START
    }
    fn tables(&self) -> Vec<(String, SchemaRef)> {
        Vec::new()
    }
    fn chunks(&self, table: &str) -> Result<Chunks, Fault> {
        Err(Fault::internal(format!("there is no table `{table}`")))
    }
    fn all_chunks(&self, table: &str) -> Result<Chunks, Fault> {
        self.chunks(table)
    }
    fn files(&self) -> Result<Vec<FileSet>, Fault> {
        let set = |part: &Arc<Part>| FileSet {
            groups: part.groups.clone(),
            files: part.files.iter().map(|file| (file.name.clone(), file.path.clone())).collect(),
        };
        Ok(self.parts.iter().map(set).collect())
    }
}

struct Stored(Vec<(String, SchemaRef, Vec<RecordBatch>)>);

impl Restore for Stored {
    fn groups(&self) -> Range<u32> {
        0..1024
    }
    fn now(&self) -> Now {
        Now::START
    }
    fn rows(&self, table: &str) -> u64 {
        self.0
            .iter()
            .filter(|(name, ..)| name == table)
            .flat_map(|(.., chunks)| chunks)
            .map(|c| c.num_rows() as u64)
            .sum()
    }
    fn tables(&self) -> Vec<(String, SchemaRef)> {
        self.0.iter().map(|(name, schema, _)| (name.clone(), schema.clone())).collect()
    }
    fn chunks(&self, table: &str) -> Result<Chunks, Fault> {
        let chunks = self.0.iter().find(|(name, ..)| name == table).map(|(.., chunks)| chunks.clone());
        Ok(Box::new(chunks.unwrap_or_default().into_iter().map(Ok)))
    }
    fn all_chunks(&self, table: &str) -> Result<Chunks, Fault> {
        self.chunks(table)
    }
    fn files(&self) -> Result<Vec<FileSet>, Fault> {
        Ok(Vec::new())
    }
}

fn summary(files: &[NativeFile]) -> String {
    let bytes = |path: &Path| std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    let total: u64 = files.iter().map(|file| bytes(&file.path)).sum();
    format!("{} files, {} MiB", files.len(), total >> 20)
}

/// CPU time of this thread and of the process, where the system tells them (the second in steps of 10 ms).
fn cpu_ns() -> [u64; 2] {
    let thread = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let thread = thread.split_whitespace().next().and_then(|ns| ns.parse().ok()).unwrap_or(0);
    let process = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks = process.rsplit(") ").next().unwrap_or_default().split(' ').skip(11).take(2);
    [thread, ticks.filter_map(|ticks| ticks.parse::<u64>().ok()).sum::<u64>() * 10_000_000]
}

/// Resident memory of the process, where the system tells it.
fn resident_mib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok()).unwrap_or(0) >> 10
}
