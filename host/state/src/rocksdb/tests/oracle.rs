//! Arbitrary steps on workers with RocksDB, and on one with the heap: both must say the same.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, Int64Array, StringArray};
use arrow::datatypes::{DataType, Field};
use proptest::prelude::*;
use tidemill_model::component::{StateDescriptor, StateKind, Ttl};
use tidemill_model::entries::Most;
use tidemill_model::key::{encode_i64, groups_of, hash_key, key_group, worker_of};
use tidemill_model::snapshot::Form;
use tidemill_model::state::{StateBackend, StateBackendFactory};

use super::{Part, descriptor, drive, factory, open, read, resolve, restore, scratch, write};
use crate::HeapFactory;

#[derive(Clone, Debug)]
enum Step {
    Write { keys: Vec<u8>, number: Option<i64>, text: Option<Option<u8>> },
    Pin { key: u8 },
    Unpin { key: u8 },
    Put { key: u8, entries: Vec<u8>, value: Option<i64> },
    Clear { key: u8 },
    Advance { ms: u8 },
    Checkpoint,
    Restore { form: bool, workers: usize, after: Vec<u8> },
}

fn step() -> impl Strategy<Value = Step> {
    let keys = || prop::collection::vec(0u8..40, 0..12);
    prop_oneof![
        12 => (keys(), any::<Option<i64>>(), any::<Option<Option<u8>>>())
            .prop_map(|(keys, number, text)| Step::Write { keys, number, text }),
        2 => (0u8..40).prop_map(|key| Step::Pin { key }),
        2 => (0u8..40).prop_map(|key| Step::Unpin { key }),
        6 => (0u8..40, prop::collection::vec(0u8..9, 0..6), any::<Option<i64>>())
            .prop_map(|(key, entries, value)| Step::Put { key, entries, value }),
        1 => (0u8..40).prop_map(|key| Step::Clear { key }),
        1 => (0u8..60).prop_map(|ms| Step::Advance { ms }),
        1 => Just(Step::Checkpoint),
        1 => (any::<bool>(), 1usize..4, keys()).prop_map(|(form, workers, after)| Step::Restore { form, workers, after }),
    ]
}

/// Short and long keys, of numbers and of others.
fn key(n: u8) -> Vec<u8> {
    if n < 25 { encode_i64(i64::from(n)).to_vec() } else { vec![n; usize::from(n - 25) * 3] }
}

struct World<'a> {
    factory: &'a dyn StateBackendFactory,
    states: Vec<StateDescriptor>,
    workers: Vec<Box<dyn StateBackend>>,
    heap: Box<dyn StateBackend>,
    /// Pins of each key.
    pins: Vec<u32>,
    now: i64,
}

impl World<'_> {
    /// The given keys by worker, each once.
    fn by_worker(&self, keys: &[u8]) -> Vec<Vec<u8>> {
        let mut lists = vec![Vec::new(); self.workers.len()];
        for &n in keys {
            let list = &mut lists[worker_of(key_group(hash_key(&key(n))), self.workers.len())];
            if !list.contains(&n) {
                list.push(n);
            }
        }
        lists
    }

    fn run(&mut self, step: &Step) {
        match step {
            Step::Write { keys, number, text } => self.write(keys, *number, *text),
            Step::Pin { key } => self.pins(*key, true),
            Step::Unpin { key } if self.pins[usize::from(*key)] > 0 => self.pins(*key, false),
            Step::Unpin { .. } => {}
            Step::Put { key, entries, value } => self.put(*key, entries, *value),
            Step::Clear { key } => {
                self.both(*key, |backend, slot| backend.clear_entries(2, &[slot]).unwrap());
            }
            Step::Advance { ms } => {
                self.now += i64::from(*ms);
                let now = self.now;
                self.workers.iter_mut().chain([&mut self.heap]).for_each(|backend| backend.set_now(now).unwrap());
            }
            Step::Checkpoint => {
                for worker in &mut self.workers {
                    // Nobody waits for it: what follows must not disturb it, nor be disturbed.
                    drop(worker.snapshot(Form::Native).unwrap());
                }
            }
            Step::Restore { form, workers, after } => self.restore(*form, *workers, after),
        }
        // What has expired may be held for a while by one and not by the other.
        if self.now == 1 {
            let keys: usize = self.workers.iter().map(|worker| worker.keys()).sum();
            assert_eq!(keys, self.heap.keys(), "keys after {step:?}");
        }
    }

    fn write(&mut self, keys: &[u8], number: Option<i64>, text: Option<Option<u8>>) {
        for (worker, numbers) in self.by_worker(keys).into_iter().enumerate() {
            let keys: Vec<Vec<u8>> = numbers.iter().map(|&n| key(n)).collect();
            for backend in [&mut self.workers[worker], &mut self.heap] {
                let values: ArrayRef = Arc::new(Int64Array::from(vec![number; keys.len()]));
                write(backend.as_mut(), 0, &keys, &values);
                if let Some(text) = text {
                    let text = text.map(|n| "ü".repeat(usize::from(n)));
                    let values: ArrayRef = Arc::new(StringArray::from(vec![text; keys.len()]));
                    write(backend.as_mut(), 1, &keys, &values);
                }
            }
        }
        self.compare(keys);
    }

    /// Does the same with a key on its worker and on the heap.
    fn both<T: PartialEq + std::fmt::Debug>(
        &mut self,
        n: u8,
        mut each: impl FnMut(&mut dyn StateBackend, tidemill_model::state::Slot) -> T,
    ) {
        let worker = worker_of(key_group(hash_key(&key(n))), self.workers.len());
        let found = [&mut self.workers[worker], &mut self.heap].map(|backend| {
            let slots = resolve(backend.as_mut(), &[key(n)]);
            let found = each(backend.as_mut(), slots[0]);
            backend.release(&slots);
            found
        });
        assert_eq!(found[0], found[1], "key {n}");
    }

    fn put(&mut self, n: u8, entries: &[u8], value: Option<i64>) {
        let keys = BinaryArray::from_iter_values(entries.iter().map(|&entry| vec![entry; usize::from(entry)]));
        let values: ArrayRef = Arc::new(Int64Array::from(vec![value; entries.len()]));
        self.both(n, |backend, slot| {
            let slots = vec![slot; entries.len()];
            backend.put_entries(2, &slots, &keys, &values).unwrap();
            backend.get_entries(2, &slots, &keys).unwrap()
        });
        self.compare_entries(n);
    }

    fn compare_entries(&mut self, n: u8) {
        self.both(n, |backend, slot| {
            let most = Most { entries: 100, bytes: 1 << 20 };
            let found = backend.scan_entries(2, slot, None, most).unwrap();
            (found.entries, found.values)
        });
    }

    fn compare(&mut self, keys: &[u8]) {
        for (worker, numbers) in self.by_worker(keys).into_iter().enumerate() {
            let keys: Vec<Vec<u8>> = numbers.iter().map(|&n| key(n)).collect();
            for state in 0..2 {
                let expected = read(self.heap.as_mut(), state, &keys);
                assert_eq!(&read(self.workers[worker].as_mut(), state, &keys), &expected, "state {state} of {keys:?}");
            }
        }
    }

    fn pins(&mut self, n: u8, more: bool) {
        let worker = worker_of(key_group(hash_key(&key(n))), self.workers.len());
        for backend in [&mut self.workers[worker], &mut self.heap] {
            let slots = resolve(backend.as_mut(), &[key(n)]);
            if more {
                backend.pin(slots[0])
            } else {
                backend.unpin(slots[0])
            }
            assert_eq!(backend.key(slots[0]), key(n));
            backend.release(&slots);
        }
        let pins = &mut self.pins[usize::from(n)];
        *pins = if more { *pins + 1 } else { *pins - 1 };
    }

    /// Freezes, goes on writing, and begins anew from what was frozen. Pins are gone: timers set them again.
    fn restore(&mut self, native: bool, workers: usize, after: &[u8]) {
        let form = if native { Form::Native } else { Form::Portable };
        let before = self.workers.len();
        let frozen: Vec<_> = self.workers.iter_mut().map(|worker| worker.snapshot(form).unwrap()).collect();
        let heap = self.heap.snapshot(Form::Portable).unwrap();
        self.write(after, Some(-1), Some(None));
        let parts: Vec<Part> =
            frozen.into_iter().enumerate().map(|(worker, s)| drive(s, groups_of(worker, before))).collect();
        self.workers = restore(self.factory, &self.states, &Arc::new(parts), workers).unwrap();
        let heap = Arc::new(vec![drive(heap, 0..1024)]);
        self.heap = restore(&HeapFactory, &self.states, &heap, 1).unwrap().remove(0);
        self.pins.fill(0);
        let now = self.now;
        self.workers.iter_mut().chain([&mut self.heap]).for_each(|backend| backend.set_now(now).unwrap());
        let all: Vec<u8> = (0..40).collect();
        self.compare(&all);
        all.into_iter().for_each(|n| self.compare_entries(n));
    }
}

proptest! {
    #[test]
    fn rocksdb_does_as_the_heap_does(steps in prop::collection::vec(step(), 1..40), cache_bytes in 0usize..4000) {
        let directory = scratch();
        let factory = factory(directory.path(), cache_bytes);
        let ttl = Some(Ttl { ms: 100, on_read: false });
        let kind = StateKind::Map(Field::new("entry", DataType::Binary, false));
        let map = StateDescriptor { kind, ttl, ..descriptor("map", DataType::Int64) };
        let text = StateDescriptor { ttl, ..descriptor("text", DataType::Utf8) };
        let states = vec![descriptor("number", DataType::Int64), text, map];
        let (workers, heap) = (vec![open(&factory, &states, 0, 1)], open(&HeapFactory, &states, 0, 1));
        let mut world = World { factory: &factory, states, workers, heap, pins: vec![0; 40], now: 1 };
        world.workers[0].set_now(1).unwrap();
        world.heap.set_now(1).unwrap();
        steps.iter().for_each(|step| world.run(step));
    }
}
