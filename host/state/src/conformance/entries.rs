//! Lists and maps: the part of the conformance suite about entries. The reference are maps of maps.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, StringArray, new_null_array};
use arrow::compute::concat;
use arrow::datatypes::{DataType, Field};
use tidemill_model::component::{StateDescriptor, StateKind, Ttl};
use tidemill_model::entries::{Most, list_entry};
use tidemill_model::key::{groups_of, hash_rows, key_group, worker_of};
use tidemill_model::snapshot::{Form, Snapshot};
use tidemill_model::state::{StateBackend, StateBackendFactory, StateContext};

use super::snapshots::{Stored, Written, move_on};
use super::{Key, chance, columns_of_every_type, encode, resolve};

const TTL_MS: i64 = 100;
const ALL: Most = Most { entries: 1 << 20, bytes: 1 << 30 };

/// Runs these checks.
pub(super) fn entries(factory: &dyn StateBackendFactory) {
    every_type_is_kept(factory);
    keys_with_entries_are_held(factory);
    scans_are_bounded(factory);
    a_kind_is_a_kind(factory);
    what_was_removed_stays_away(factory);
    lists_lose_their_ends(factory);
    entries_of_several_versions_lie_side_by_side(factory);
    expired_entries_go_with_their_keys(factory);
    entries_from_before_the_clock_was_set_go_on(factory);
    for form in [Form::Portable, Form::Native] {
        for (before, after) in [(1, 3), (3, 2), (2, 1)] {
            entries_move_between_workers(factory, form, before, after);
        }
    }
    for seed in 0..6 {
        random(factory, seed);
    }
}

fn map(name: &str, data_type: DataType) -> StateDescriptor {
    let kind = StateKind::Map(Field::new("entry", DataType::Utf8, false));
    StateDescriptor { kind, ..StateDescriptor::value(name, data_type) }
}

fn list(name: &str, data_type: DataType) -> StateDescriptor {
    StateDescriptor { kind: StateKind::List, ..StateDescriptor::value(name, data_type) }
}

fn timed(state: StateDescriptor, on_read: bool) -> StateDescriptor {
    StateDescriptor { ttl: Some(Ttl { ms: TTL_MS as u64, on_read }), ..state }
}

fn open(factory: &dyn StateBackendFactory, states: &[StateDescriptor]) -> Box<dyn StateBackend> {
    factory.open(&StateContext { node: "node", worker: 0, workers: 1, states }).expect("open")
}

fn binary<'a>(entries: impl IntoIterator<Item = &'a [u8]>) -> BinaryArray {
    BinaryArray::from_iter_values(entries)
}

fn texts(values: &[Option<&str>]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

/// Puts entries of one key.
fn put(backend: &mut dyn StateBackend, state: usize, key: Key, entries: &[(&[u8], Option<&str>)]) {
    let slots = resolve(backend, &[key]);
    let values: Vec<Option<&str>> = entries.iter().map(|entry| entry.1).collect();
    let keys = binary(entries.iter().map(|entry| entry.0));
    backend.put_entries(state, &vec![slots[0]; entries.len()], &keys, &texts(&values)).expect("put");
    backend.release(&slots);
}

/// All entries of a key, page by page.
fn scan(backend: &mut dyn StateBackend, state: usize, key: Key, page: usize) -> Vec<(Vec<u8>, String)> {
    let slots = resolve(backend, &[key]);
    let (mut found, mut after) = (Vec::<(Vec<u8>, String)>::new(), None::<Vec<u8>>);
    loop {
        let most = Most { entries: page, ..ALL };
        let some = backend.scan_entries(state, slots[0], after.as_deref(), most).expect("scan");
        assert!(some.entries.len() == some.values.len() && some.entries.len() <= page);
        let values = some.values.as_string::<i32>();
        found.extend(some.entries.iter().zip(values).map(|(k, v)| (k.unwrap().to_vec(), v.unwrap().to_owned())));
        if !some.more {
            break;
        }
        after = found.last().map(|(key, _)| key.clone());
    }
    backend.release(&slots);
    found
}

fn every_type_is_kept(factory: &dyn StateBackendFactory) {
    for column in columns_of_every_type() {
        let states = [map("m", column.data_type().clone()), list("l", column.data_type().clone())];
        let mut backend = open(factory, &states);
        let slots = resolve(backend.as_mut(), &[Some(1)]);
        let entries: [&[u8]; 4] = [b"b", b"none", b"", b"a"];
        let of = vec![slots[0]; 4];
        backend.put_entries(0, &of, &binary(entries), &column).expect("put");
        assert_eq!(&backend.get_entries(0, &of, &binary(entries)).expect("get"), &column, "{:?}", column.data_type());
        let whole = concat(&[&column.slice(0, 1), &column.slice(2, 2)]).expect("concat");
        backend.append_entries(1, &of[..3], &whole).expect("append");
        backend.release(&slots);
        for form in [Form::Native, Form::Portable] {
            let mut backend = move_on(factory, backend.as_mut(), form, &states, 0);
            let slots = resolve(backend.as_mut(), &[Some(1)]);
            assert_eq!(&backend.get_entries(0, &of, &binary(entries)).expect("get"), &column, "{form:?}");
            assert_eq!(&backend.scan_entries(1, slots[0], None, ALL).expect("scan").values, &whole, "{form:?}");
            backend.append_entries(1, &slots, &column.slice(0, 1)).expect("append");
            let longer = backend.scan_entries(1, slots[0], None, ALL).expect("scan");
            assert_eq!(longer.entries.iter().next_back().flatten(), Some(&list_entry(3)[..]), "it goes on at its end");
        }
    }
}

fn keys_with_entries_are_held(factory: &dyn StateBackendFactory) {
    let states = [StateDescriptor::value("v", DataType::Int64), map("m", DataType::Utf8), list("l", DataType::Utf8)];
    let mut backend = open(factory, &states);
    let presence = |backend: &mut dyn StateBackend, state| {
        let slots = resolve(backend, &[Some(1), Some(2)]);
        let some = backend.gather(state, &slots).expect("gather");
        backend.release(&slots);
        (some.as_boolean().value(0), some.as_boolean().value(1))
    };
    put(backend.as_mut(), 1, Some(1), &[(b"a", Some("x")), (b"b", Some("y"))]);
    let slots = resolve(backend.as_mut(), &[Some(2)]);
    backend.append_entries(2, &slots, &texts(&[Some("z")])).expect("append");
    backend.release(&slots);
    assert_eq!(backend.keys(), 2);
    assert_eq!(presence(backend.as_mut(), 1), (true, false));
    assert_eq!(presence(backend.as_mut(), 2), (false, true));
    put(backend.as_mut(), 1, Some(1), &[(b"a", None), (b"none", None)]);
    assert_eq!((backend.keys(), scan(backend.as_mut(), 1, Some(1), 9).len()), (2, 1));
    put(backend.as_mut(), 1, Some(1), &[(b"b", None)]);
    assert_eq!(backend.keys(), 1, "a key without entries is forgotten");
    let slots = resolve(backend.as_mut(), &[Some(2), Some(3)]);
    backend.clear_entries(2, &slots).expect("clear");
    backend.release(&slots);
    assert_eq!(backend.keys(), 0);
}

fn scans_are_bounded(factory: &dyn StateBackendFactory) {
    let mut backend = open(factory, &[map("m", DataType::Utf8)]);
    let keys: Vec<[u8; 2]> = (0..500u16).map(u16::to_be_bytes).collect();
    let entries: Vec<(&[u8], Option<&str>)> = keys.iter().map(|key| (&key[..], Some("12345678"))).collect();
    put(backend.as_mut(), 0, Some(1), &entries);
    put(backend.as_mut(), 0, None, &[(b"other", Some("x"))]);
    for page in [1, 7, 499, 500, 501] {
        let found = scan(backend.as_mut(), 0, Some(1), page);
        assert!(found.iter().map(|(key, _)| &key[..]).eq(keys.iter().map(|key| &key[..])), "pages of {page}");
    }
    let slots = resolve(backend.as_mut(), &[Some(1)]);
    let some = backend.scan_entries(0, slots[0], None, Most { entries: 1000, bytes: 95 }).expect("scan");
    assert_eq!((some.entries.len(), some.more), (10, true), "the entry that reaches the bound is the last");
    let none = backend.scan_entries(0, slots[0], Some(&[0xff; 9]), ALL).expect("scan");
    assert_eq!((none.entries.len(), none.more), (0, false));
}

fn a_kind_is_a_kind(factory: &dyn StateBackendFactory) {
    let mut backend = open(factory, &[StateDescriptor::value("v", DataType::Utf8), map("m", DataType::Utf8)]);
    let slots = resolve(backend.as_mut(), &[Some(1)]);
    assert!(backend.scatter(1, &slots, &texts(&[Some("x")])).is_err());
    assert!(backend.put_entries(0, &slots, &binary([&b"a"[..]]), &texts(&[Some("x")])).is_err());
    let numbers = new_null_array(&DataType::Int64, 1);
    assert!(backend.put_entries(1, &slots, &binary([&b"a"[..]]), &numbers).is_err(), "another type");
    backend.release(&slots);
    put(backend.as_mut(), 1, Some(1), &[(b"a", Some("x"))]);
    for form in [Form::Portable, Form::Native] {
        let written = [Written::read(backend.snapshot(form).expect("snapshot"), groups_of(0, 1))];
        for other in [StateDescriptor::value("m", DataType::Utf8), map("m", DataType::Int64)] {
            let mut backend = open(factory, std::slice::from_ref(&other));
            let fault = backend.restore(&Stored { from: &written, groups: groups_of(0, 1) }).expect_err("another kind");
            assert!(fault.message.contains("state `m` was stored as"), "{fault}");
        }
    }
}

/// Entries of a key that had been forgotten, or was cleared, do not come back.
fn what_was_removed_stays_away(factory: &dyn StateBackendFactory) {
    let states = [map("m", DataType::Utf8)];
    let mut backend = open(factory, &states);
    for round in 0..6u8 {
        put(backend.as_mut(), 0, Some(1), &[(&[round], Some("x")), (b"same", Some("y"))]);
        // Nobody waits for the snapshot: what follows happens while it is written.
        let snapshot = backend.snapshot(Form::Native).expect("snapshot");
        assert_eq!(scan(backend.as_mut(), 0, Some(1), 10).len(), 2);
        let slots = resolve(backend.as_mut(), &[Some(1)]);
        match round % 3 {
            0 => backend.clear_entries(0, &slots).expect("clear"),
            1 => put(backend.as_mut(), 0, Some(1), &[(&[round], None), (b"same", None)]),
            _ => {
                backend.clear_entries(0, &slots).expect("clear");
                put(backend.as_mut(), 0, Some(1), &[(b"new", Some("z"))]);
                put(backend.as_mut(), 0, Some(1), &[(b"new", None)]);
            }
        }
        backend.release(&slots);
        assert_eq!((scan(backend.as_mut(), 0, Some(1), 10).len(), backend.keys()), (0, 0), "round {round}");
        drop(snapshot);
        backend = move_on(factory, backend.as_mut(), Form::Native, &states, 0);
        assert_eq!((scan(backend.as_mut(), 0, Some(1), 10).len(), backend.keys()), (0, 0), "round {round}");
    }
}

/// What is appended next goes to where the first of those was that were taken off.
fn lists_lose_their_ends(factory: &dyn StateBackendFactory) {
    let states = [list("l", DataType::Utf8), map("m", DataType::Utf8)];
    let mut backend = open(factory, &states);
    let append = |backend: &mut dyn StateBackend, values: &[&str]| {
        let slots = resolve(backend, &[Some(1)]);
        let values: Vec<Option<&str>> = values.iter().copied().map(Some).collect();
        backend.append_entries(0, &vec![slots[0]; values.len()], &texts(&values)).expect("append");
        backend.release(&slots);
    };
    let truncate = |backend: &mut dyn StateBackend, count| {
        let slots = resolve(backend, &[Some(1), Some(2)]);
        backend.truncate_entries(0, &slots, &[count, 1]).expect("truncate");
        backend.release(&slots);
    };
    let held = |backend: &mut dyn StateBackend| -> Vec<(u64, String)> {
        let place = |entry: &[u8]| u64::from_be_bytes(entry.try_into().expect("a place"));
        scan(backend, 0, Some(1), 3).into_iter().map(|(entry, value)| (place(&entry), value)).collect()
    };
    let list = |values: &str| (0u64..).zip(values.chars().map(String::from)).collect::<Vec<_>>();
    for round in 0..3 {
        append(backend.as_mut(), &["a", "b", "c", "d"]);
        if round == 1 {
            backend = move_on(factory, backend.as_mut(), Form::Native, &states, 0);
        }
        // In one round some of them are still being written.
        let snapshot = (round == 2).then(|| backend.snapshot(Form::Native).expect("snapshot"));
        truncate(backend.as_mut(), 0);
        assert_eq!(held(backend.as_mut()), list("abcd"), "round {round}");
        truncate(backend.as_mut(), 3);
        append(backend.as_mut(), &["x", "y"]);
        assert_eq!(held(backend.as_mut()), list("axy"), "round {round}");
        truncate(backend.as_mut(), 1);
        drop(snapshot);
        backend = move_on(factory, backend.as_mut(), Form::Native, &states, 0);
        assert_eq!(held(backend.as_mut()), list("ax"), "round {round}");
        truncate(backend.as_mut(), 9);
        assert_eq!((held(backend.as_mut()), backend.keys()), (list(""), 0), "round {round}: a key without values");
    }
}

/// As values do: what a state of one version has is not seen in another, and what is given up does not come back.
fn entries_of_several_versions_lie_side_by_side(factory: &dyn StateBackendFactory) {
    for form in [None, Some(Form::Native), Some(Form::Portable)] {
        let [first, second] = [1, 2].map(|version| StateDescriptor { version, ..map("m", DataType::Utf8) });
        let mut backend = open(factory, std::slice::from_ref(&first));
        for key in 0..100 {
            put(backend.as_mut(), 0, Some(key), &[(b"a", Some("x")), (b"b", Some("y"))]);
        }
        let both = [second.clone(), first.clone()];
        backend.redescribe(&both).expect("redescribe");
        put(backend.as_mut(), 0, Some(7), &[(b"a", Some("z"))]);
        if let Some(form) = form {
            backend = move_on(factory, backend.as_mut(), form, &both, 0);
        }
        assert_eq!(scan(backend.as_mut(), 0, Some(7), 9), [(b"a".to_vec(), "z".to_owned())], "{form:?}");
        assert_eq!((scan(backend.as_mut(), 0, Some(8), 9).len(), scan(backend.as_mut(), 1, Some(8), 9).len()), (0, 2));
        let (mut place, mut slots, mut met) = (Vec::new(), Vec::new(), BTreeSet::new());
        while backend.walk(1, &mut place, 30, &mut slots).expect("walk") {
            met.extend(slots.iter().map(|&slot| backend.key(slot).to_vec()));
            backend.clear_entries(1, &slots).expect("clear");
            backend.release(&slots);
        }
        assert_eq!((met.len(), backend.keys()), (100, 1), "{form:?}: a walk meets every key that has entries");
        put(backend.as_mut(), 1, Some(9), &[(b"a", Some("x"))]);
        backend.redescribe(std::slice::from_ref(&second)).expect("redescribe");
        assert_eq!(scan(backend.as_mut(), 0, Some(7), 9).len(), 1, "{form:?}");
        backend.redescribe(&[first]).expect("redescribe");
        assert!(scan(backend.as_mut(), 0, Some(9), 9).is_empty(), "{form:?}: what was given up does not come back");
    }
}

fn expired_entries_go_with_their_keys(factory: &dyn StateBackendFactory) {
    let states = [timed(map("m", DataType::Utf8), false), timed(list("l", DataType::Utf8), false)];
    let mut backend = open(factory, &states);
    backend.set_now(1000).expect("set_now");
    for key in 0..200 {
        put(backend.as_mut(), 0, Some(key), &[(b"a", Some("x")), (b"b", Some("x"))]);
    }
    backend.set_now(1000 + TTL_MS / 2).expect("set_now");
    put(backend.as_mut(), 0, Some(7), &[(b"b", Some("y"))]);
    backend.set_now(1000 + TTL_MS).expect("set_now");
    assert_eq!(scan(backend.as_mut(), 0, Some(7), 10), [(b"b".to_vec(), "y".to_owned())], "each has its own time");
    for round in 1..50 {
        backend.set_now(1000 + TTL_MS * 2 * round).expect("set_now");
        if backend.keys() == 0 {
            break;
        }
    }
    assert_eq!(backend.keys(), 0, "nobody asked for them");
    // Without a time to live, nothing of them is left to be seen.
    let plain = [map("m", DataType::Utf8), list("l", DataType::Utf8)];
    put(backend.as_mut(), 0, Some(7), &[(b"c", Some("z"))]);
    for form in [Form::Native, Form::Portable] {
        let mut backend = move_on(factory, backend.as_mut(), form, &plain, 1_000_000);
        assert_eq!(scan(backend.as_mut(), 0, Some(7), 10), [(b"c".to_vec(), "z".to_owned())]);
        assert!(scan(backend.as_mut(), 0, Some(8), 10).is_empty());
    }
}

/// What is written in the first tick, or restored, can be written and read again in later ones.
fn entries_from_before_the_clock_was_set_go_on(factory: &dyn StateBackendFactory) {
    let states = [timed(map("m", DataType::Utf8), false), timed(map("r", DataType::Utf8), true)];
    let mut backend = open(factory, &states);
    for start in [1000, 10_000, 20_000] {
        for state in 0..2 {
            put(backend.as_mut(), state, Some(1), &[(b"a", Some("x"))]);
        }
        for tick in 0..5 {
            backend.set_now(start + tick * TTL_MS / 2).expect("set_now");
            put(backend.as_mut(), 0, Some(1), &[(b"a", Some("x"))]);
            for state in 0..2 {
                assert_eq!(scan(backend.as_mut(), state, Some(1), 9).len(), 1, "state {state} in tick {tick}");
            }
        }
        let form = if start == 1000 { Form::Native } else { Form::Portable };
        backend = move_on(factory, backend.as_mut(), form, &states, start + 2 * TTL_MS);
    }
}

fn entries_move_between_workers(factory: &dyn StateBackendFactory, form: Form, before: usize, after: usize) {
    let states = [StateDescriptor::value("v", DataType::Int64), map("m", DataType::Utf8), list("l", DataType::Utf8)];
    let all: Vec<Key> = (0..100).map(Some).chain([None]).collect();
    let owner = |key: Key, workers| worker_of(key_group(hash_rows(&encode(&[key]))[0]), workers);
    let entries = |key: Key| -> Vec<(Vec<u8>, String)> {
        let count = key.map_or(3, |key| key as usize % 5);
        (0..count).map(|n| (format!("entry {n}").into_bytes(), format!("{key:?} {n}"))).collect()
    };
    let mut written = Vec::new();
    for worker in 0..before {
        let place = StateContext { node: "node", worker, workers: before, states: &states };
        let mut backend = factory.open(&place).expect("open");
        for &key in all.iter().filter(|&&key| owner(key, before) == worker) {
            let own = entries(key);
            let pairs: Vec<(&[u8], Option<&str>)> = own.iter().map(|(k, v)| (&k[..], Some(&v[..]))).collect();
            put(backend.as_mut(), 1, key, &pairs);
            let slots = resolve(backend.as_mut(), &[key]);
            backend.append_entries(2, &slots, &texts(&[Some(&format!("{key:?}"))])).expect("append");
            backend.release(&slots);
        }
        written.push(Written::read(backend.snapshot(form).expect("snapshot"), groups_of(worker, before)));
    }
    for worker in 0..after {
        let place = StateContext { node: "node", worker, workers: after, states: &states };
        let mut backend = factory.open(&place).expect("open");
        backend.restore(&Stored { from: &written, groups: groups_of(worker, after) }).expect("restore");
        let own: Vec<Key> = all.iter().copied().filter(|&key| owner(key, after) == worker).collect();
        assert_eq!(backend.keys(), own.len(), "{form:?}, from {before} to {after} workers");
        for key in own {
            assert_eq!(scan(backend.as_mut(), 1, key, 2), entries(key), "{form:?}: entries of {key:?}");
            let list = scan(backend.as_mut(), 2, key, 2);
            assert_eq!(list, [(list_entry(0).to_vec(), format!("{key:?}"))], "{form:?}: list of {key:?}");
        }
    }
}

/// Entries of one state by key: value and time.
type Model = BTreeMap<Key, BTreeMap<Vec<u8>, (String, i64)>>;

struct World {
    backend: Box<dyn StateBackend>,
    states: [StateDescriptor; 4],
    models: [Model; 4],
    now: i64,
    /// What was frozen, and what it held.
    frozen: Vec<(Snapshot, [Model; 4], i64)>,
}

/// Steps on a backend and on maps of maps. States: a map, a list, and both with a time to live.
fn random(factory: &dyn StateBackendFactory, seed: u64) {
    let states = [
        map("m", DataType::Utf8),
        list("l", DataType::Utf8),
        timed(map("read", DataType::Utf8), true),
        timed(list("written", DataType::Utf8), false),
    ];
    let mut world =
        World { backend: open(factory, &states), states, models: Default::default(), now: 1000, frozen: Vec::new() };
    let mut next = chance(seed);
    world.backend.set_now(world.now).expect("set_now");
    for _ in 0..300 {
        world.step(factory, &mut next);
        let live: BTreeSet<Key> = world.models.iter().flat_map(|model| model.keys().copied()).collect();
        assert!(world.backend.keys() >= live.len(), "{} keys, {} of them live", world.backend.keys(), live.len());
    }
    for (snapshot, models, now) in std::mem::take(&mut world.frozen) {
        let written = [Written::read(snapshot, groups_of(0, 1))];
        let mut backend = open(factory, &world.states);
        backend.restore(&Stored { from: &written, groups: groups_of(0, 1) }).expect("restore");
        backend.set_now(now).expect("set_now");
        World { backend, states: world.states.clone(), models, now, frozen: Vec::new() }.compare_all(seed);
    }
}

impl World {
    fn step(&mut self, factory: &dyn StateBackendFactory, next: &mut impl FnMut(u64) -> u64) {
        let (key, state) = (Some(next(6) as i64), next(4) as usize);
        match next(20) {
            0..6 if state.is_multiple_of(2) => {
                let pairs: Vec<(Vec<u8>, Option<String>)> = (0..next(6))
                    .map(|_| {
                        (vec![b'e'; next(9) as usize], Some(next(100)).filter(|n| n % 4 > 0).map(|n| n.to_string()))
                    })
                    .collect();
                let borrowed: Vec<(&[u8], Option<&str>)> = pairs.iter().map(|(k, v)| (&k[..], v.as_deref())).collect();
                put(self.backend.as_mut(), state, key, &borrowed);
                for (entry, value) in pairs {
                    self.set(state, key, entry, value);
                }
            }
            0..6 => {
                let slots = resolve(self.backend.as_mut(), &[key]);
                let value = next(1000).to_string();
                self.backend.append_entries(state, &slots, &texts(&[Some(&value)])).expect("append");
                let own = self.models[state].get(&key);
                let place = own.and_then(|own| own.keys().next_back()).map_or(0, |last| last[0] + 1);
                self.set(state, key, vec![place], Some(value));
                self.backend.release(&slots);
            }
            6 if state == 1 && next(2) == 0 => {
                let slots = resolve(self.backend.as_mut(), &[key]);
                let count = next(4);
                self.backend.truncate_entries(state, &slots, &[count]).expect("truncate");
                self.backend.release(&slots);
                let own = self.models[state].entry(key).or_default();
                (0..count).for_each(|_| drop(own.pop_last()));
                self.models[state].retain(|_, own| !own.is_empty());
            }
            6 => {
                let slots = resolve(self.backend.as_mut(), &[key]);
                self.backend.clear_entries(state, &slots).expect("clear");
                self.backend.release(&slots);
                self.models[state].remove(&key);
            }
            7..10 => {
                self.now += next(TTL_MS as u64) as i64;
                self.backend.set_now(self.now).expect("set_now");
                self.forget();
            }
            10 => {
                let form = if next(2) == 0 { Form::Portable } else { Form::Native };
                let snapshot = self.backend.snapshot(form).expect("snapshot");
                self.frozen.push((snapshot, self.models.clone(), self.now));
            }
            11 if next(3) == 0 => {
                let form = if next(2) == 0 { Form::Portable } else { Form::Native };
                self.backend = move_on(factory, self.backend.as_mut(), form, &self.states, self.now);
                self.backend.set_now(self.now).expect("set_now");
            }
            12..16 if state.is_multiple_of(2) => self.compare_some(state, key, next),
            _ => self.compare(state, key, 1 + next(5) as usize, "a scan"),
        }
    }

    fn set(&mut self, state: usize, key: Key, entry: Vec<u8>, value: Option<String>) {
        let own = self.models[state].entry(key).or_default();
        match value {
            Some(value) => own.insert(entry, (value, self.now)),
            None => own.remove(&entry),
        };
        self.models[state].retain(|_, own| !own.is_empty());
    }

    fn forget(&mut self) {
        let now = self.now;
        for model in &mut self.models[2..] {
            model.values_mut().for_each(|own| own.retain(|_, (_, written)| now - *written < TTL_MS));
            model.retain(|_, own| !own.is_empty());
        }
    }

    /// Asks for entries one by one.
    fn compare_some(&mut self, state: usize, key: Key, next: &mut impl FnMut(u64) -> u64) {
        let entries: Vec<Vec<u8>> = (0..9).filter(|_| next(2) == 0).map(|length| vec![b'e'; length]).collect();
        let slots = resolve(self.backend.as_mut(), &[key]);
        let asked = binary(entries.iter().map(|entry| &entry[..]));
        let found = self.backend.get_entries(state, &vec![slots[0]; entries.len()], &asked).expect("get");
        self.backend.release(&slots);
        let now = self.now;
        let mut own = self.models[state].get_mut(&key);
        for (entry, value) in entries.iter().zip(found.as_string::<i32>()) {
            let expected = own.as_mut().and_then(|own| own.get_mut(entry));
            assert_eq!(value, expected.as_ref().map(|(value, _)| &value[..]), "{entry:?} of {key:?} in state {state}");
            if let Some((_, written)) = expected {
                *written = now;
            }
        }
    }

    /// A list is compared by its values: which places they have is nobody's business.
    fn compare(&mut self, state: usize, key: Key, page: usize, what: &str) {
        let found = scan(self.backend.as_mut(), state, key, page);
        let own = self.models[state].entry(key).or_default();
        let entries = |is_map: bool| found.iter().map(move |(key, _)| if is_map { key.clone() } else { Vec::new() });
        let keys = own.keys().map(|key| if state.is_multiple_of(2) { key.clone() } else { Vec::new() });
        assert!(entries(state.is_multiple_of(2)).eq(keys), "{what}: entry keys of {key:?} in state {state}");
        let values = own.values().map(|(value, _)| value);
        assert!(found.iter().map(|(_, value)| value).eq(values), "{what}: values of {key:?} in state {state}");
        own.values_mut().filter(|_| state == 2).for_each(|(_, written)| *written = self.now);
        self.models[state].retain(|_, own| !own.is_empty());
    }

    fn compare_all(mut self, seed: u64) {
        for (state, key) in (0..4).flat_map(|state| (0..6).map(move |key| (state, Some(key)))) {
            self.compare(state, key, 1000, &format!("frozen with seed {seed}"));
        }
    }
}
