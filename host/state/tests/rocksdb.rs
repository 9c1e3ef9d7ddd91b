//! The memory of a process whose state is much larger than its setting. Alone in its file: a process has one memory.
#![cfg(all(feature = "rocksdb", target_os = "linux"))]

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int64Array};
use arrow::datatypes::DataType;
use tidemill_model::component::StateDescriptor;
use tidemill_model::snapshot::Form;
use tidemill_model::state::{StateBackend, StateBackendFactory, StateContext};
use tidemill_state::{RocksFactory, RocksSettings};

const KEYS: i64 = 5_000_000;
const BATCH: i64 = 8192;
const SETTING: usize = 64 << 20;
/// Above the setting: the program itself, what a snapshot holds while it is written (at most as much as the cache, half of the
/// setting), buffers of flushes and compactions, and what the allocator does not give back.
const BEYOND: usize = 96 << 20;

/// Memory in use now and at most so far.
fn resident(line: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix(line)).unwrap();
    line.split_whitespace().next().unwrap().parse::<usize>().unwrap() << 10
}

/// Updates the first of the keys.
fn pass(backend: &mut dyn StateBackend, count: i64, check: impl Fn(&ArrayRef, i64)) {
    let mut slots = Vec::new();
    for start in (0..count).step_by(BATCH as usize) {
        let rows = start..(start + BATCH).min(count);
        // An odd factor below a prime: no order, no key twice.
        let keys: Vec<i64> = rows.map(|i| i * 7_368_787 % 5_000_011).collect();
        let hashes = vec![0; keys.len()];
        backend.resolve_i64(&keys, &hashes, &mut slots).unwrap();
        check(&backend.gather(0, &slots).unwrap(), start);
        let values: ArrayRef = Arc::new(Int64Array::from(keys));
        backend.scatter(0, &slots, &values).unwrap();
        backend.release(&slots);
    }
}

#[test]
fn memory_stays_near_its_setting_with_five_million_keys() {
    let directory = tempfile::tempdir().unwrap();
    let factory = RocksFactory::new(RocksSettings { memory_bytes: SETTING, directory: directory.path().to_owned() });
    let states = [StateDescriptor::value("count", DataType::Int64)];
    let mut backend = factory.open(&StateContext { node: "count", worker: 0, workers: 1, states: &states }).unwrap();
    pass(backend.as_mut(), KEYS, |values, start| {
        assert_eq!(values.null_count(), values.len(), "new keys from {start}")
    });
    let files = backend.snapshot(Form::Native).unwrap().files.unwrap();
    pass(backend.as_mut(), KEYS / 10, |values, start| assert_eq!(values.null_count(), 0, "known keys from {start}"));
    assert_eq!(backend.keys(), KEYS as usize);
    assert!(files().unwrap().len() > 3);
    let (now, most) = (resident("VmRSS:"), resident("VmHWM:"));
    let mib = |bytes: usize| bytes >> 20;
    println!("{} MiB in use, {} MiB at most", mib(now), mib(most));
    assert!(most < SETTING + BEYOND, "{} MiB of memory, set to {} MiB", mib(most), mib(SETTING));
}
