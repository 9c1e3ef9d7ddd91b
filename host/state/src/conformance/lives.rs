//! What has outlived its time is never seen again: the part of the conformance suite about times to live.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array};
use arrow::datatypes::{DataType, Int64Type};
use tidemill_model::component::{StateDescriptor, Ttl};
use tidemill_model::snapshot::Form;
use tidemill_model::state::{StateBackend, StateBackendFactory, StateContext};

use super::snapshots::move_on;
use super::{Key, chance, resolve};

const TTL_MS: i64 = 100;

/// Runs these checks.
pub(super) fn lives(factory: &dyn StateBackendFactory) {
    expired_keys_go_by_themselves(factory);
    the_first_values_do_not_expire_with_the_first_tick(factory);
    for form in [Form::Portable, Form::Native] {
        it_can_be_switched_on_and_off(factory, form);
        what_expired_during_a_pause_is_gone(factory, form);
    }
    for seed in 0..10 {
        random(factory, seed);
    }
}

fn timed(name: &str, on_read: bool) -> StateDescriptor {
    let ttl = Some(Ttl { ms: TTL_MS as u64, on_read });
    StateDescriptor { ttl, ..StateDescriptor::value(name, DataType::Int64) }
}

fn open(factory: &dyn StateBackendFactory, states: &[StateDescriptor]) -> Box<dyn StateBackend> {
    factory.open(&StateContext { node: "node", worker: 0, workers: 1, states }).expect("open")
}

fn write(backend: &mut dyn StateBackend, state: usize, keys: &[Key], value: Option<i64>) {
    let slots = resolve(backend, keys);
    let values: ArrayRef = Arc::new(Int64Array::from(vec![value; keys.len()]));
    backend.scatter(state, &slots, &values).expect("scatter");
    backend.release(&slots);
}

fn read(backend: &mut dyn StateBackend, state: usize, keys: &[Key]) -> Vec<Option<i64>> {
    let slots = resolve(backend, keys);
    let values = backend.gather(state, &slots).expect("gather");
    backend.release(&slots);
    values.as_primitive::<Int64Type>().iter().collect()
}

fn keys(range: std::ops::Range<i64>) -> Vec<Key> {
    range.map(Some).collect()
}

fn expired_keys_go_by_themselves(factory: &dyn StateBackendFactory) {
    let mut backend = open(factory, &[timed("t", false), StateDescriptor::value("n", DataType::Int64)]);
    backend.set_now(1_000_000).expect("set_now");
    write(backend.as_mut(), 0, &keys(0..3000), Some(1));
    write(backend.as_mut(), 1, &keys(2990..3010), Some(1));
    let slot = resolve(backend.as_mut(), &[Some(5)])[0];
    backend.pin(slot);
    for tick in 0..100 {
        backend.set_now(1_000_000 + TTL_MS + tick * TTL_MS).expect("set_now");
        if backend.keys() == 21 {
            break;
        }
    }
    assert_eq!(backend.keys(), 21, "what is left are keys with other values or pins");
    assert_eq!(read(backend.as_mut(), 0, &keys(0..3010)), vec![None; 3010]);
    assert_eq!(backend.key(slot), super::encode(&[Some(5)]).row(0).data(), "a pinned key keeps its slot");
}

fn the_first_values_do_not_expire_with_the_first_tick(factory: &dyn StateBackendFactory) {
    let mut backend = open(factory, &[timed("t", false)]);
    write(backend.as_mut(), 0, &keys(0..10), Some(1));
    backend.set_now(1_000_000).expect("set_now");
    assert_eq!(read(backend.as_mut(), 0, &keys(0..10)), vec![Some(1); 10], "they count as written now");
    backend.set_now(1_000_000 + TTL_MS - 1).expect("set_now");
    assert_eq!(read(backend.as_mut(), 0, &keys(0..10)), vec![Some(1); 10]);
    backend.set_now(1_000_000 + TTL_MS).expect("set_now");
    assert_eq!(read(backend.as_mut(), 0, &keys(0..10)), vec![None; 10]);
}

fn it_can_be_switched_on_and_off(factory: &dyn StateBackendFactory, form: Form) {
    let plain = [StateDescriptor::value("t", DataType::Int64)];
    let timed = [timed("t", false)];
    let mut backend = open(factory, &plain);
    backend.set_now(1000).expect("set_now");
    write(backend.as_mut(), 0, &keys(0..4), Some(1));
    // On, a day later: the values count as written then, and not when they are looked at, nor at the next restart.
    let day = 86_400_000;
    let mut backend = move_on(factory, backend.as_mut(), form, &timed, 1000);
    backend.set_now(day).expect("set_now");
    assert_eq!(read(backend.as_mut(), 0, &keys(0..1)), [Some(1)]);
    let mut backend = move_on(factory, backend.as_mut(), form, &timed, day);
    backend.set_now(day + 60).expect("set_now");
    write(backend.as_mut(), 0, &keys(3..4), Some(2));
    backend.set_now(day + TTL_MS - 1).expect("set_now");
    assert_eq!(read(backend.as_mut(), 0, &keys(1..4)), [Some(1), Some(1), Some(2)]);
    backend.set_now(day + TTL_MS).expect("set_now");
    assert_eq!(read(backend.as_mut(), 0, &keys(1..4)), [None, None, Some(2)]);
    // Off: what is there stays.
    let mut backend = move_on(factory, backend.as_mut(), form, &plain, day + TTL_MS);
    backend.set_now(2 * day).expect("set_now");
    assert_eq!(read(backend.as_mut(), 0, &keys(0..4))[3], Some(2));
    // And on again: it counts anew.
    let mut backend = move_on(factory, backend.as_mut(), form, &timed, 2 * day);
    backend.set_now(3 * day).expect("set_now");
    assert_eq!(read(backend.as_mut(), 0, &keys(3..4)), [Some(2)]);
    backend.set_now(3 * day + TTL_MS).expect("set_now");
    assert_eq!(read(backend.as_mut(), 0, &keys(3..4)), [None]);
}

fn what_expired_during_a_pause_is_gone(factory: &dyn StateBackendFactory, form: Form) {
    let states = [timed("t", false)];
    let mut backend = open(factory, &states);
    backend.set_now(1000).expect("set_now");
    write(backend.as_mut(), 0, &keys(0..2), Some(1));
    backend.set_now(1050).expect("set_now");
    write(backend.as_mut(), 0, &keys(1..2), Some(2));
    backend.set_now(1000 + TTL_MS).expect("set_now");
    let mut backend = move_on(factory, backend.as_mut(), form, &states, 1000 + TTL_MS);
    assert_eq!(read(backend.as_mut(), 0, &keys(0..2)), [None, Some(2)], "before the clock is set");
    write(backend.as_mut(), 0, &keys(0..1), Some(3));
    backend.set_now(5000).expect("set_now");
    assert_eq!(
        read(backend.as_mut(), 0, &keys(0..2)),
        [Some(3), None],
        "written in this run, and expired in the pause"
    );
}

/// Steps on a backend and on maps of values with their times; states: none, on write, on read and write.
fn random(factory: &dyn StateBackendFactory, seed: u64) {
    let states = [StateDescriptor::value("n", DataType::Int64), timed("w", false), timed("r", true)];
    let (mut backend, mut next, mut now) = (open(factory, &states), chance(seed), 1000);
    backend.set_now(now).expect("set_now");
    let mut model: [BTreeMap<Key, (i64, i64)>; 3] = Default::default();
    for _ in 0..300 {
        let some: Vec<Key> = (0..20).filter(|_| next(3) == 0).map(Some).collect();
        let state = next(3) as usize;
        match next(10) {
            0..4 => {
                let value = Some(next(100) as i64).filter(|value| value % 4 > 0);
                write(backend.as_mut(), state, &some, value);
                for key in &some {
                    match value {
                        Some(value) => model[state].insert(*key, (value, now)),
                        None => model[state].remove(key),
                    };
                }
            }
            4..7 => {
                now += next(TTL_MS as u64) as i64;
                backend.set_now(now).expect("set_now");
                model[1..].iter_mut().for_each(|values| values.retain(|_, (_, written)| now - *written < TTL_MS));
            }
            7 if next(4) == 0 => {
                let form = if next(2) == 0 { Form::Portable } else { Form::Native };
                backend = move_on(factory, backend.as_mut(), form, &states, now);
                backend.set_now(now).expect("set_now");
            }
            _ => {
                let expected: Vec<Option<i64>> = some.iter().map(|key| Some(model[state].get(key)?.0)).collect();
                assert_eq!(read(backend.as_mut(), state, &some), expected, "state {state} at {now}, seed {seed}");
                if state == 2 {
                    let touched = model[2].iter_mut().filter(|(key, _)| some.contains(key));
                    touched.for_each(|(_, (_, written))| *written = now);
                }
            }
        }
        let live: std::collections::BTreeSet<&Key> = model.iter().flat_map(BTreeMap::keys).collect();
        assert!(backend.keys() >= live.len(), "{} keys, {} of them live", backend.keys(), live.len());
    }
}
