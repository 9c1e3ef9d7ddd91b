//! States that belong to no key: broadcast state, and the operator state of a worker. They live in memory, in a backend of their own
//! with one slot.
//!
//! Laws: a broadcast state changes only in calls about rows that every worker gets, so it is the same on all of them: the first one
//! writes it to a snapshot, and each takes it in; what the workers hold in a `split` list is dealt anew at a restore, each value to
//! one worker, and of a `union` list each worker gets all, in the order of the workers that had them.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, RecordBatch};
use arrow::datatypes::SchemaRef;
use tidemill_model::component::{Descriptor, StateDescriptor, StateKind, StateScope};
use tidemill_model::entries::{EntryReads, EntryRows, EntryUpdate, list_entry};
use tidemill_model::limits::KEY_GROUPS;
use tidemill_model::logic::{Logic, StateUpdate};
use tidemill_model::snapshot::{Chunks, FileSet, Form, Restore, Snapshot, Table};
use tidemill_model::state::{ENTRY, Slot, StateBackend, StateBackendFactory, StateContext, state_of_table, table_name};
use tidemill_model::time::Now;
use tidemill_model::{Fault, OperatorContext};

use super::entries::{EntryKeys, Reads};
use super::migrate::Migration;

/// The key of the one slot.
const NO_KEY: &[u8] = &[];

pub(super) struct Shared {
    /// Where each state of the operator is.
    places: Vec<Place>,
    /// States of keys: those that are not here.
    of_keys: Vec<StateDescriptor>,
    states: Vec<StateDescriptor>,
    entry_keys: EntryKeys,
    backend: Box<dyn StateBackend>,
    slots: Vec<Slot>,
    worker: usize,
    workers: usize,
}

/// Where a state is, and as which one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    OfKeys(usize),
    Shared(usize),
}

impl Shared {
    /// None if all states of the operator belong to keys.
    pub fn open(
        descriptor: &Descriptor,
        factory: &dyn StateBackendFactory,
        context: &OperatorContext,
    ) -> Result<Option<Box<Self>>, Fault> {
        let (states, of_keys): (Vec<_>, Vec<_>) = descriptor.states.iter().cloned().partition(|s| s.is_shared());
        if states.is_empty() {
            return Ok(None);
        }
        let (mut shared, mut keyed) = (0.., 0..);
        let place = |state: &StateDescriptor| match state.is_shared() {
            true => shared.next().map(Place::Shared),
            false => keyed.next().map(Place::OfKeys),
        };
        let places = descriptor.states.iter().filter_map(place).collect();
        let OperatorContext { node, worker, workers, .. } = context;
        let (worker, workers) = (*worker, *workers);
        let mut backend = factory.open(&StateContext { node, worker, workers, states: &states })?;
        let mut slots = Vec::new();
        backend.resolve_bytes(&BinaryArray::from_iter_values([NO_KEY]), &mut slots)?;
        // It stays also without values.
        slots.iter().for_each(|&slot| backend.pin(slot));
        let entry_keys = EntryKeys::new(&states)?;
        Ok(Some(Box::new(Self { places, of_keys, states, entry_keys, backend, slots, worker, workers })))
    }

    pub fn of_keys(&self) -> &[StateDescriptor] {
        &self.of_keys
    }

    /// Where the state with this number is; a number that no state has stays one.
    pub fn place(&self, state: usize) -> Place {
        self.places.get(state).copied().unwrap_or(Place::OfKeys(state))
    }

    /// The columns of a call, when `of_keys` are those of the states of keys.
    pub fn gather(&mut self, of_keys: Vec<ArrayRef>) -> Result<Vec<ArrayRef>, Fault> {
        let column = |place: &Place| match place {
            Place::OfKeys(index) => Ok(of_keys[*index].clone()),
            Place::Shared(index) => self.backend.gather(*index, &self.slots),
        };
        self.places.iter().map(column).collect()
    }

    /// What a call about the keys of `slots` may read: theirs in `backend`, and what is here.
    pub fn reads<'a>(
        &'a mut self,
        backend: &'a mut dyn StateBackend,
        keys: &'a EntryKeys,
        slots: &'a [Slot],
    ) -> BothReads<'a> {
        let of_keys = Reads { backend, states: &self.of_keys, keys, slots, failed: None };
        let (backend, keys) = (self.backend.as_mut(), &self.entry_keys);
        let shared = Reads { backend, states: &self.states, keys, slots: &self.slots, failed: None };
        BothReads { places: &self.places, of_keys, shared }
    }

    /// Stores the value of state number `index`. `Err` of the inner result: what is malformed. `broadcast`: the call was about rows of
    /// a broadcast input.
    pub fn update(&mut self, index: usize, update: &StateUpdate, broadcast: bool) -> Result<Result<(), String>, Fault> {
        if let Err(wrong) = self.may_change(index, broadcast) {
            return Ok(Err(wrong));
        }
        let name = &self.states[index].name;
        if update.keys.as_ref().is_some_and(|keys| keys[..] != [0]) || update.values.len() != 1 {
            return Ok(Err(format!("state `{name}` belongs to no key: it has one value, and its index is 0")));
        }
        self.backend.scatter(index, &self.slots, &update.values).map(Ok)
    }

    /// The same of a list or map.
    pub fn store(&mut self, index: usize, update: &EntryUpdate, broadcast: bool) -> Result<Result<(), String>, Fault> {
        if let Err(wrong) = self.may_change(index, broadcast) {
            return Ok(Err(wrong));
        }
        let update = EntryUpdate { state: index, ..update.clone() };
        self.entry_keys.store(&update, &self.slots, self.backend.as_mut(), None)
    }

    fn may_change(&self, index: usize, broadcast: bool) -> Result<(), String> {
        let StateDescriptor { name, scope, .. } = &self.states[index];
        match scope {
            StateScope::Broadcast if !broadcast => Err(only_broadcast(name)),
            _ => Ok(()),
        }
    }

    /// Freezes what this worker has to say.
    pub fn snapshot(&mut self, into: &mut Snapshot) -> Result<(), Fault> {
        let frozen = self.backend.snapshot(Form::Portable)?;
        let others = |state: &&StateDescriptor| state.scope == StateScope::Broadcast && self.worker != 0;
        let left: Vec<String> = self.states.iter().filter(others).map(table_name).collect();
        into.states.extend(frozen.states);
        into.tables.extend(frozen.tables.into_iter().filter(|table| !left.contains(&table.name)));
        Ok(())
    }

    /// Takes in what there is for this worker. Values of `earlier` versions are migrated at once: they are few.
    pub fn restore(
        &mut self,
        from: &dyn Restore,
        earlier: &[StateDescriptor],
        logic: &mut dyn Logic,
    ) -> Result<(), Fault> {
        self.take_in(from, earlier, logic, (self.worker, self.workers))
    }

    /// Takes a copy of what the version before holds on this worker.
    pub fn take_over(&mut self, before: &mut Self, dropped: &[String], logic: &mut dyn Logic) -> Result<(), Fault> {
        let frozen = before.backend.snapshot(Form::Portable)?;
        let given_up = |name: &str| dropped.iter().any(|dropped| dropped == name);
        let wanted = |state: &&StateDescriptor| !given_up(&state.name) && !self.states.iter().any(|s| same(s, state));
        let earlier: Vec<StateDescriptor> = frozen.states.iter().filter(wanted).cloned().collect();
        let copied = |table: &Table| state_of_table(&table.name).is_some_and(|(name, _)| !given_up(name));
        let mut tables = Vec::new();
        for table in frozen.tables.into_iter().filter(copied) {
            tables.push((table.name, table.schema, table.chunks.collect::<Result<_, _>>()?));
        }
        self.take_in(&Copied(tables), &earlier, logic, (0, 1))
    }

    fn take_in(
        &mut self,
        from: &dyn Restore,
        earlier: &[StateDescriptor],
        logic: &mut dyn Logic,
        (worker, workers): (usize, usize),
    ) -> Result<(), Fault> {
        let held = [&self.states[..], earlier].concat();
        self.backend.redescribe(&held)?;
        self.backend.restore(&Dealt { from, states: &held, worker, workers })?;
        Migration::new(&self.states, earlier, &[]).lift(self.backend.as_mut(), logic, &self.slots)?;
        self.backend.redescribe(&self.states)
    }
}

/// One of them takes the other's place without anything to migrate.
pub(super) fn same(a: &StateDescriptor, b: &StateDescriptor) -> bool {
    a.name == b.name && a.version == b.version
}

/// Tables of another version of the logic, in memory.
struct Copied(Vec<(String, SchemaRef, Vec<RecordBatch>)>);

impl Restore for Copied {
    fn groups(&self) -> Range<u32> {
        0..KEY_GROUPS
    }

    fn now(&self) -> Now {
        Now::START
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

/// Why a call may not change a broadcast state.
fn only_broadcast(name: &str) -> String {
    format!(
        "state `{name}` is broadcast: only a call about rows of a broadcast input may change it, since all workers get them"
    )
}

/// Entries of both kinds of states.
pub(super) struct BothReads<'a> {
    places: &'a [Place],
    of_keys: Reads<'a>,
    shared: Reads<'a>,
}

impl<'a> BothReads<'a> {
    /// The backend could not answer.
    pub fn failed(self) -> Option<Fault> {
        self.of_keys.failed.or(self.shared.failed)
    }

    fn of(&mut self, state: usize) -> Result<(usize, &mut Reads<'a>), String> {
        match self.places.get(state) {
            Some(Place::OfKeys(index)) => Ok((*index, &mut self.of_keys)),
            Some(Place::Shared(index)) => Ok((*index, &mut self.shared)),
            None => Err(format!("there is no state {state}")),
        }
    }
}

impl EntryReads for BothReads<'_> {
    fn get_many(&mut self, state: usize, keys: &[u32], entries: &ArrayRef) -> Result<ArrayRef, String> {
        let (index, reads) = self.of(state)?;
        reads.get_many(index, keys, entries)
    }

    fn scan(
        &mut self,
        state: usize,
        keys: &[u32],
        after: Option<&ArrayRef>,
        limit: usize,
    ) -> Result<EntryRows, String> {
        let (index, reads) = self.of(state)?;
        reads.scan(index, keys, after, limit)
    }
}

/// What one worker gets of the tables.
struct Dealt<'a> {
    from: &'a dyn Restore,
    states: &'a [StateDescriptor],
    worker: usize,
    workers: usize,
}

impl Dealt<'_> {
    /// The values of a list that this worker gets, with places of their own: lists of several workers become one.
    fn list(&self, table: &str, scope: StateScope) -> Result<Chunks, Fault> {
        let chunks = self.from.all_chunks(table)?.collect::<Result<Vec<_>, _>>()?;
        let all = chunks.iter().map(RecordBatch::num_rows).sum();
        let own = if scope == StateScope::Split { share(all, self.worker, self.workers) } else { 0..all };
        let (mut dealt, mut before) = (Vec::new(), 0);
        for chunk in chunks {
            let rows = before..before + chunk.num_rows();
            before = rows.end;
            let (first, last) = (own.start.max(rows.start), own.end.min(rows.end));
            if first < last {
                let some = chunk.slice(first - rows.start, last - first);
                dealt.push(numbered(&some, (first - own.start) as u64));
            }
        }
        Ok(Box::new(dealt.into_iter()))
    }
}

/// Which of `count` values a worker gets: runs of the same length, those of the first workers longer by one where it does not come
/// out even. As Flink's `RoundRobinOperatorStateRepartitioner` deals the partitions of a state.
fn share(count: usize, worker: usize, workers: usize) -> Range<usize> {
    let (each, longer) = (count / workers, count % workers);
    let start = |worker: usize| worker * each + worker.min(longer);
    start(worker)..start(worker + 1)
}

/// Rows of a list with the places from `first` on.
fn numbered(rows: &RecordBatch, first: u64) -> Result<RecordBatch, Fault> {
    let places = (first..).take(rows.num_rows()).map(list_entry);
    let mut columns = rows.columns().to_vec();
    columns[rows.schema().index_of(ENTRY)?] = Arc::new(BinaryArray::from_iter_values(places));
    Ok(RecordBatch::try_new(rows.schema(), columns)?)
}

impl Restore for Dealt<'_> {
    fn groups(&self) -> Range<u32> {
        self.from.groups()
    }

    fn now(&self) -> Now {
        self.from.now()
    }

    fn tables(&self) -> Vec<(String, SchemaRef)> {
        self.from.tables()
    }

    fn chunks(&self, table: &str) -> Result<Chunks, Fault> {
        match self.states.iter().find(|state| table_name(state) == table) {
            Some(StateDescriptor { kind: StateKind::List, scope, .. }) if *scope != StateScope::Broadcast => {
                self.list(table, *scope)
            }
            _ => self.all_chunks(table),
        }
    }

    fn all_chunks(&self, table: &str) -> Result<Chunks, Fault> {
        self.from.all_chunks(table)
    }

    fn files(&self) -> Result<Vec<FileSet>, Fault> {
        Ok(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, Int64Array};
    use arrow::datatypes::{DataType, Int64Type};
    use proptest::prelude::*;
    use tidemill_model::component::LogicKind;
    use tidemill_state::HeapFactory;

    use super::*;

    fn descriptor(states: Vec<StateDescriptor>) -> Descriptor {
        Descriptor {
            name: "op".into(),
            doc: String::new(),
            kind: LogicKind::Keyed,
            inputs: vec![],
            outputs: vec![],
            states,
            reads_time: false,
            reads_keys: false,
            changes: false,
        }
    }

    #[test]
    fn a_call_reads_the_lists_of_its_keys_and_of_none() {
        let list = |name: &str, scope| StateDescriptor {
            scope,
            kind: StateKind::List,
            ..StateDescriptor::value(name, DataType::Int64)
        };
        let states =
            vec![list("own", StateScope::Split), list("of_keys", StateScope::Key), list("all", StateScope::Broadcast)];
        let place = OperatorContext { node: "op".into(), worker: 0, workers: 1, processing_ms: 0 };
        let mut shared = Shared::open(&descriptor(states), &HeapFactory, &place).unwrap().unwrap();
        let context = StateContext { node: "op", worker: 0, workers: 1, states: &shared.of_keys };
        let mut backend = tidemill_model::state::StateBackendFactory::open(&HeapFactory, &context).unwrap();
        let mut slots = Vec::new();
        backend.resolve_bytes(&BinaryArray::from_iter_values([b"a", b"b"]), &mut slots).unwrap();
        let numbers = |numbers: &[i64]| Arc::new(Int64Array::from(numbers.to_vec())) as ArrayRef;
        backend.append_entries(0, &slots, &numbers(&[10, 20])).unwrap();
        let added = |values: &[i64]| EntryUpdate {
            state: 0,
            clears: vec![].into(),
            keys: vec![0; values.len()].into(),
            entries: None,
            values: numbers(values),
        };
        assert_eq!(shared.place(1), Place::OfKeys(0));
        shared.store(0, &added(&[1, 2]), false).unwrap().unwrap();
        shared.store(1, &added(&[3]), true).unwrap().unwrap();
        shared.store(1, &added(&[4]), false).unwrap().unwrap_err();
        let keys = EntryKeys::new(&shared.of_keys.clone()).unwrap();
        let mut reads = shared.reads(backend.as_mut(), &keys, &slots);
        let mut read = |state, keys: &[u32]| {
            let found = reads.scan(state, keys, None, 100)?;
            Ok::<_, String>(found.values.as_primitive::<Int64Type>().values().to_vec())
        };
        assert_eq!(read(0, &[0]).unwrap(), [1, 2]);
        assert_eq!(read(1, &[1, 0]).unwrap(), [20, 10]);
        assert_eq!(read(2, &[0]).unwrap(), [3]);
        assert_eq!(read(0, &[1]).unwrap_err(), "key 1, but the call is about 1 keys");
        assert_eq!(read(3, &[0]).unwrap_err(), "there is no state 3");
    }

    proptest! {
        #[test]
        fn each_value_goes_to_one_worker_and_all_get_about_as_many(count in 0usize..5000, workers in 1usize..200) {
            let shares: Vec<_> = (0..workers).map(|worker| share(count, worker, workers)).collect();
            prop_assert_eq!(shares.iter().cloned().flatten().collect::<Vec<_>>(), (0..count).collect::<Vec<_>>());
            let lengths = shares.iter().map(|share| share.len());
            prop_assert!(lengths.clone().max().unwrap() - lengths.min().unwrap() <= 1);
        }
    }
}
