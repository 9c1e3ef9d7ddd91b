//! Native files come back: to an operator with other states, to another number of workers, and broken.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int32Array, Int64Array, StringArray, new_null_array};
use arrow::datatypes::DataType;
use tidemill_model::component::StateDescriptor;
use tidemill_model::fault::FaultKind;
use tidemill_model::snapshot::Form;

use super::super::cut::METADATA;
use super::{Part, Written, descriptor, drive, factory, open, read, restore, scratch, write};
use crate::HeapFactory;

fn keys() -> Vec<Vec<u8>> {
    (0..50u8).map(|n| vec![n; usize::from(n % 11) + 1]).collect()
}

fn numbers() -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(0..50))
}

fn texts() -> ArrayRef {
    Arc::new(StringArray::from_iter_values((0..50).map(|n| "t".repeat(n))))
}

/// Files of a worker whose state `n` has [`numbers`], and `t` has [`texts`].
fn written(factory: &dyn tidemill_model::state::StateBackendFactory) -> Arc<Vec<Part>> {
    let states = [descriptor("n", DataType::Int64), descriptor("t", DataType::Utf8)];
    let mut backend = open(factory, &states, 0, 1);
    write(backend.as_mut(), 0, &keys(), &numbers());
    write(backend.as_mut(), 1, &keys(), &texts());
    Arc::new(vec![drive(backend.snapshot(Form::Native).unwrap(), 0..1024)])
}

#[test]
fn states_may_come_go_and_change_places() {
    let directory = scratch();
    let factory = factory(directory.path(), 0);
    let (n, t, new) =
        (descriptor("n", DataType::Int64), descriptor("t", DataType::Utf8), descriptor("new", DataType::Int32));
    let nothing = |state: &StateDescriptor| new_null_array(state.field.data_type(), 50);
    let more: ArrayRef = Arc::new(Int32Array::from_iter_values(100..150));
    let mut parts = written(&factory);
    // Each generation: the states it declares and what it finds in them.
    let generations = [
        vec![(&t, texts()), (&n, numbers())],
        vec![(&n, numbers()), (&new, nothing(&new)), (&t, texts())],
        vec![(&new, more.clone()), (&n, numbers())],
        // `t` was removed before: nothing of it is left, also in rows that nobody has written since.
        vec![(&n, numbers()), (&t, nothing(&t)), (&new, more.clone())],
        vec![(&t, nothing(&t))],
    ];
    for (generation, expected) in generations.into_iter().enumerate() {
        let states: Vec<StateDescriptor> = expected.iter().map(|(state, _)| (*state).clone()).collect();
        let mut backend = restore(&factory, &states, &parts, 1).unwrap().remove(0);
        for (index, (state, values)) in expected.iter().enumerate() {
            let found = read(backend.as_mut(), index, &keys());
            assert_eq!(&found, values, "state {} in generation {generation}", state.name);
        }
        if generation == 1 {
            write(backend.as_mut(), 1, &keys(), &more);
        }
        let native = backend.snapshot(Form::Native).unwrap();
        parts = Arc::new(vec![drive(native, 0..1024)]);
        let portable = Arc::new(vec![drive(backend.snapshot(Form::Portable).unwrap(), 0..1024)]);
        let mut heap = restore(&HeapFactory, &states, &portable, 1).unwrap().remove(0);
        for (index, (state, _)) in expected.iter().enumerate() {
            let found = read(backend.as_mut(), index, &keys());
            assert_eq!(
                &read(heap.as_mut(), index, &keys()),
                &found,
                "table of {} in generation {generation}",
                state.name
            );
        }
    }
}

#[test]
fn another_type_is_a_fault_that_names_the_state() {
    let directory = scratch();
    let factory = factory(directory.path(), 0);
    let parts = written(&factory);
    let states = [descriptor("n", DataType::Float64), descriptor("t", DataType::Utf8)];
    let fault = restore(&factory, &states, &parts, 1).map(drop).unwrap_err();
    assert_eq!(fault.message, "state `n` was stored as int64, but the operator declares float64");
    assert_eq!(fault.kind, FaultKind::Config);
}

#[test]
fn a_state_that_is_given_up_starts_empty_with_any_type() {
    let directory = scratch();
    let factory = factory(directory.path(), 0);
    let parts = written(&factory);
    let states = [descriptor("n", DataType::Float64), descriptor("t", DataType::Utf8)];
    let mut backend = open(&factory, &states, 0, 1);
    backend.restore(&Written { groups: 0..1024, parts, dropped: vec!["n".to_owned()] }).unwrap();
    assert_eq!(read(backend.as_mut(), 0, &keys()).null_count(), 50);
    assert_eq!(&read(backend.as_mut(), 1, &keys()), &texts());
}

#[test]
fn foreign_and_broken_files_are_refused() {
    let directory = scratch();
    let factory = factory(directory.path(), 0);
    let states = [descriptor("n", DataType::Int64), descriptor("t", DataType::Utf8)];
    let metadata = format!("0.{METADATA}");
    let changed = |old: &str, new: &str| {
        let mut parts = written(&factory);
        let part = &mut Arc::get_mut(&mut parts).unwrap()[0];
        let file = part.files.iter().find(|file| file.name == metadata).unwrap();
        let text = std::fs::read_to_string(&file.path).unwrap();
        assert!(text.contains(old), "{text}");
        std::fs::write(&file.path, text.replacen(old, new, 1)).unwrap();
        parts
    };
    let renamed = |from: &str, to: &str| {
        let mut parts = written(&factory);
        let files = &mut Arc::get_mut(&mut parts).unwrap()[0].files;
        files.iter_mut().filter(|file| file.name.ends_with(from)).for_each(|file| file.name = to.to_owned());
        parts
    };
    let cases = [
        (changed(r#""format":1"#, r#""format":2"#), "its format is 2, this program reads 1"),
        (changed(r#""format":1"#, r#""form":1"#), "missing field `format`"),
        (changed(r#""current":0"#, r#""current":9"#), "contradict each other"),
        (changed(r#""width":8"#, r#""width":7"#), "contradict each other"),
        (renamed(METADATA, "0.other"), "has no file `0.METADATA.json`"),
        (renamed("CURRENT", "../CURRENT"), "which the state backend `rocksdb` did not write"),
        (renamed("CURRENT", "1.CURRENT"), "has no file `1.METADATA.json`"),
        (renamed(".sst", "0.000001.sst"), "the state in `"),
    ];
    for (parts, expected) in cases {
        let fault = restore(&factory, &states, &parts, 1).map(drop).unwrap_err();
        assert!(fault.to_string().contains(expected), "{fault}\nshould say: {expected}");
    }
}

#[test]
fn tables_of_the_heap_are_taken_and_given() {
    let directory = scratch();
    let factory = factory(directory.path(), 1000);
    let states = [descriptor("n", DataType::Int64), descriptor("t", DataType::Utf8)];
    let mut heap = open(&HeapFactory, &states, 0, 1);
    write(heap.as_mut(), 0, &keys(), &numbers());
    write(heap.as_mut(), 1, &keys()[..7], &texts().slice(0, 7));
    let parts = Arc::new(vec![drive(heap.snapshot(Form::Native).unwrap(), 0..1024)]);
    let workers = restore(&factory, &states, &parts, 3).unwrap();
    assert_eq!(workers.iter().map(|worker| worker.keys()).sum::<usize>(), 50);
    let give = |(worker, mut backend): (usize, Box<dyn tidemill_model::state::StateBackend>)| {
        let groups = tidemill_model::key::groups_of(worker, 3);
        drive(backend.snapshot(Form::Portable).unwrap(), groups)
    };
    let parts = Arc::new(workers.into_iter().enumerate().map(give).collect());
    let mut back = restore(&HeapFactory, &states, &parts, 1).unwrap().remove(0);
    assert_eq!(&read(back.as_mut(), 0, &keys()), &numbers());
    assert_eq!(read(back.as_mut(), 1, &keys()).null_count(), 43);
}

#[test]
fn the_heap_refuses_what_rocksdb_has_written() {
    let directory = scratch();
    let parts = written(&factory(directory.path(), 1000));
    let states = [descriptor("n", DataType::Int64), descriptor("t", DataType::Utf8)];
    for workers in 1..3 {
        let fault = restore(&HeapFactory, &states, &parts, workers).map(drop).unwrap_err();
        assert_eq!(fault.kind, FaultKind::Config);
        assert!(fault.to_string().contains("which the state backend `heap` did not write"), "{fault}");
    }
}

/// The removal is part of a snapshot that is still being written when the key is asked for again.
#[test]
fn a_key_that_is_being_removed_does_not_come_back() {
    let directory = scratch();
    let states = [descriptor("n", DataType::Int64)];
    let mut backend = open(&factory(directory.path(), 1 << 20), &states, 0, 1);
    for _ in 0..20 {
        write(backend.as_mut(), 0, &keys(), &numbers());
        drop(backend.snapshot(Form::Native).unwrap());
        write(backend.as_mut(), 0, &keys(), &new_null_array(&DataType::Int64, 50));
        drop(backend.snapshot(Form::Native).unwrap());
        assert_eq!(read(backend.as_mut(), 0, &keys()).null_count(), 50);
        assert_eq!(read(backend.as_mut(), 0, &keys()).null_count(), 50, "once it has been forgotten anew");
        assert_eq!(backend.keys(), 0);
    }
}
