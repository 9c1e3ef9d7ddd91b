//! The backend of one operator on one worker: cache, databases, and what moves between them.

mod entries;
mod sweep;

use std::sync::Arc;

use std::ops::Range;

use arrow::array::{ArrayRef, BinaryArray, BooleanArray};
use arrow::buffer::BooleanBuffer;
use arrow::row::Rows;
use tidemill_model::Fault;
use tidemill_model::component::{StateDescriptor, StateKind};
use tidemill_model::key::{groups_of, hash_key};
use tidemill_model::snapshot::{Form, Restore, Snapshot};
use tidemill_model::state::{Slot, StateBackend, StateContext};

use super::cache::{Cache, Leaving};
use super::cut::{Cut, Job, native_files};
use super::directory::Home;
use super::memory::{Memory, Share};
use super::overlay::Overlay;
use super::records::{Records, group_of, prefix, put_key};
use super::restore::Site;
use super::shard::Shard;
use super::ttl::{self, Life};
use super::{scan, scan_entries};
use crate::clock::{Clock, UNKNOWN};
use crate::tables::{self, Restorable, wrong_kind};
use sweep::Sweep;

/// Keys that leave beyond those that must: one batch's worth.
const EVICT_MORE: usize = 8192;

/// Keys that are written out beyond those that must.
const WRITE_MORE: usize = 1024;
/// About what a record takes beside its values.
const RECORD_BYTES: usize = 24;

pub(super) struct Rocks {
    node: String,
    states: Vec<StateDescriptor>,
    /// Of the rows: the states and what is hidden behind them.
    columns: Arc<[StateDescriptor]>,
    /// States with a time to live.
    lives: Vec<Life>,
    clock: Clock,
    sweep: Sweep,
    /// Entries that RocksDB does not have yet, ...
    fresh: Overlay,
    /// ... and those that a snapshot is writing.
    leaving: Option<Arc<Overlay>>,
    home: Arc<Home>,
    memory: Arc<Memory>,
    share: Share,
    cache: Cache,
    /// Ascending by key group.
    shards: Vec<Shard>,
    /// The latest snapshot.
    cut: Option<Arc<Cut>>,
    /// What went wrong where nobody could be told.
    failed: Option<Fault>,
    /// Reused.
    chosen: Vec<Slot>,
    lookups: Lookups,
}

/// Keys to be looked up, sorted.
#[derive(Default)]
struct Lookups {
    bytes: Vec<u8>,
    /// Prefix, place in `bytes`, slot.
    keys: Vec<(u128, u32, u32, Slot)>,
}

impl Rocks {
    pub fn open(home: Arc<Home>, memory: Arc<Memory>, context: &StateContext) -> Result<Self, Fault> {
        let states = context.states.to_vec();
        let (columns, lives): (Arc<[StateDescriptor]>, _) = (ttl::columns(&states).into(), ttl::lives(&states));
        let node = context.node.to_owned();
        let site = Site { home: &home, memory: &memory, node: &node, states: &columns, lives: &lives, given_up: &[] };
        let shards = vec![site.empty(groups_of(context.worker, context.workers))?];
        let (cache, share) = (Cache::new(&columns)?, memory.share());
        Ok(Self {
            node,
            states,
            columns,
            lives,
            clock: Clock::default(),
            sweep: Sweep::default(),
            fresh: Overlay::default(),
            leaving: None,
            home,
            memory,
            share,
            cache,
            shards,
            cut: None,
            failed: None,
            chosen: Vec::new(),
            lookups: Lookups::default(),
        })
    }

    /// Loads those of the slots that are new.
    fn resolved(&mut self, slots: &[Slot]) -> Result<(), Fault> {
        let mut missing = std::mem::take(&mut self.chosen);
        missing.clear();
        self.cache.touch(slots, &mut missing);
        self.sweep.come += missing.len() as u64;
        let loaded = if missing.is_empty() { Ok(()) } else { self.load(&missing) };
        self.chosen = missing;
        loaded.inspect_err(|fault| self.failed = Some(fault.clone()))
    }

    fn load(&mut self, missing: &[Slot]) -> Result<(), Fault> {
        if self.shards.iter().all(|shard| !shard.touched) {
            return Ok(());
        }
        self.lookups.fill(&self.cache, missing);
        let mut rest = &self.lookups.keys[..];
        for (index, shard) in self.shards.iter().enumerate() {
            let last = index + 1 == self.shards.len();
            let count = if last { rest.len() } else { rest.partition_point(|key| group(key.0) < shard.groups().end) };
            let (own, others) = rest.split_at(count);
            rest = others;
            if !shard.touched {
                continue;
            }
            let keys = own.iter().map(|key| &self.lookups.bytes[key.1 as usize..key.2 as usize]);
            let rows = shard.database.get(keys)?;
            for (key, row) in own.iter().zip(&rows) {
                let Some(row) = row else { continue };
                let broken = || Fault::data("the state has a broken row").with_help("restore the last checkpoint");
                self.cache.load(key.3, shard.readers(), row).ok_or_else(broken)?;
            }
        }
        Ok(())
    }

    /// Lets keys go until the memory suffices.
    fn make_room(&mut self) -> Result<(), Fault> {
        self.write_entries()?;
        let used = self.cache.bytes() + self.fresh.bytes();
        let excess = self.share.update(used);
        if excess == 0 {
            return self.write_out();
        }
        // The databases belong to the snapshot: wait, but not while there is a little room.
        if self.is_behind() && excess < used / 4 {
            return Ok(());
        }
        if let Some(cut) = self.cut.take() {
            cut.wait()?;
        }
        let more = (EVICT_MORE * (used / self.cache.keys.len().max(1))).min(used / 8);
        let mut chosen = std::mem::take(&mut self.chosen);
        chosen.clear();
        self.cache.choose(excess + more, &mut chosen);
        self.store(&chosen)?;
        chosen.iter().for_each(|&slot| self.cache.drop(slot));
        self.chosen = chosen;
        self.share.update(self.cache.bytes() + self.fresh.bytes());
        self.write_out()
    }

    /// Bounds what the next snapshot has to copy.
    fn write_out(&mut self) -> Result<(), Fault> {
        let excess = self.cache.dirty().saturating_sub(self.memory.dirty_keys_max);
        if excess == 0 || self.is_behind() {
            return Ok(());
        }
        let mut swept = std::mem::take(&mut self.chosen);
        swept.clear();
        self.cache.sweep(excess + WRITE_MORE, &mut swept);
        self.store(&swept)?;
        self.chosen = swept;
        Ok(())
    }

    fn store(&mut self, slots: &[Slot]) -> Result<(), Fault> {
        let records = self.clean(slots);
        for (shard, records) in self.shards.iter().zip(&records).filter(|(_, records)| !records.is_empty()) {
            shard.database.write(records)?;
        }
        Ok(())
    }

    /// What is newer in these slots than in the databases, one list per shard. From now on it counts as stored.
    fn clean(&mut self, slots: &[Slot]) -> Vec<Records> {
        let room = slots.len() / self.shards.len() * (RECORD_BYTES + self.cache.rows.slot_bytes());
        let mut records: Vec<Records> = self.shards.iter().map(|_| Records::with_capacity(room)).collect();
        for &slot in slots {
            let Some(leaving) = self.cache.clean(slot) else { continue };
            let key = self.cache.keys.key(slot);
            let group = group_of(key);
            let index = shard_of(&self.shards, group);
            let shard = &mut self.shards[index];
            match leaving {
                Leaving::New => shard.count(group, true),
                Leaving::Row => {}
                Leaving::Gone => shard.count(group, false),
            }
            match leaving {
                Leaving::Gone => records[index].remove(key, group),
                _ => records[index].put(key, group, |out| self.cache.rows.encode(slot, shard.layout(), out)),
            }
        }
        records
    }

    /// Whether a snapshot is still writing to the databases.
    fn is_behind(&self) -> bool {
        self.cut.as_ref().is_some_and(|cut| !cut.is_done())
    }

    /// Whatever went wrong before: the values can't be trusted any more.
    fn check(&self) -> Result<(), Fault> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    fn cut(&mut self) -> Result<Arc<Cut>, Fault> {
        self.check()?;
        if let Some(cut) = self.cut.take() {
            cut.wait()?;
        }
        let mut dirty = std::mem::take(&mut self.chosen);
        dirty.clear();
        self.cache.sweep(self.cache.dirty(), &mut dirty);
        let records = self.clean(&dirty);
        self.chosen = dirty;
        let entries = Arc::new(std::mem::take(&mut self.fresh));
        self.leaving = Some(entries.clone());
        let groups = self.groups_with_entries(&entries);
        let job = |((shard, records), groups): ((&Shard, Records), Range<u32>)| {
            let directory = self.home.create(&self.node)?;
            let (database, entries) = (shard.database.clone(), (entries.clone(), groups));
            Ok(Job { database, records, entries, metadata: shard.metadata(), directory })
        };
        let jobs = self.shards.iter().zip(records).zip(groups).map(job).collect::<Result<_, Fault>>();
        let cut = jobs.and_then(Cut::start).inspect_err(|fault| self.failed = Some(fault.clone()))?;
        self.cut = Some(cut.clone());
        Ok(cut)
    }
}

impl Drop for Rocks {
    fn drop(&mut self) {
        if let Some(cut) = self.cut.take() {
            cut.end();
        }
    }
}

impl StateBackend for Rocks {
    fn resolve(&mut self, keys: &Rows, hashes: &[u64], slots: &mut Vec<Slot>) -> Result<(), Fault> {
        self.check()?;
        slots.clear();
        slots.reserve(hashes.len());
        for (key, &hash) in keys.iter().zip(hashes) {
            slots.push(self.cache.keys.slot(key.data(), hash)?);
        }
        self.resolved(slots)
    }

    fn resolve_i64(&mut self, keys: &[i64], _hashes: &[u64], slots: &mut Vec<Slot>) -> Result<(), Fault> {
        self.check()?;
        slots.clear();
        slots.reserve(keys.len());
        self.cache.keys.slots_of_i64(keys, slots)?;
        self.resolved(slots)
    }

    fn resolve_bytes(&mut self, keys: &BinaryArray, slots: &mut Vec<Slot>) -> Result<(), Fault> {
        self.check()?;
        slots.clear();
        for key in keys {
            let key = key.unwrap_or_default();
            slots.push(self.cache.keys.slot(key, hash_key(key))?);
        }
        self.resolved(slots)
    }

    fn key(&self, slot: Slot) -> &[u8] {
        self.cache.keys.key(slot)
    }

    fn gather(&mut self, state: usize, slots: &[Slot]) -> Result<ArrayRef, Fault> {
        if let Some(life) = life(&self.lives, state).copied() {
            self.expire(life, slots)?;
            if life.ttl.on_read && !life.has_entries {
                life.write(&mut self.cache, slots, self.clock.stamp());
            }
        }
        if self.states[state].kind != StateKind::Value {
            let some = BooleanBuffer::collect_bool(slots.len(), |i| self.cache.rows.has(state, slots[i]));
            return Ok(Arc::new(BooleanArray::new(some, None)));
        }
        self.cache.rows.gather(state, slots)
    }

    fn scatter(&mut self, state: usize, slots: &[Slot], values: &ArrayRef) -> Result<(), Fault> {
        if self.states[state].kind != StateKind::Value {
            return Err(wrong_kind(&self.states[state]));
        }
        self.cache.scatter(state, slots, values)?;
        if let Some(life) = life(&self.lives, state) {
            life.write(&mut self.cache, slots, self.clock.stamp());
        }
        Ok(())
    }

    fn pin(&mut self, slot: Slot) {
        self.cache.pin(slot);
    }

    fn unpin(&mut self, slot: Slot) {
        self.cache.unpin(slot);
    }

    fn release(&mut self, slots: &[Slot]) {
        let behind = self.is_behind();
        self.cache.release(slots, behind);
        if let Err(fault) = self.make_room() {
            // Told by the next call that can.
            self.failed.get_or_insert(fault);
        }
    }

    fn set_now(&mut self, processing_ms: i64) -> Result<(), Fault> {
        if self.lives.is_empty() {
            return Ok(());
        }
        self.check()?;
        let first = self.clock.set(processing_ms);
        // What a snapshot is to hold must not expire while it is written.
        let now = (!self.is_behind()).then_some(processing_ms);
        for shard in &mut self.shards {
            if first {
                shard.set_since(processing_ms);
            }
            shard.filter.set_now(now, first.then_some(processing_ms));
        }
        if first {
            self.set_times(processing_ms);
        }
        self.sweep(processing_ms)?;
        self.check()
    }

    fn keys(&self) -> usize {
        let stored = self.stored();
        (stored as isize + self.cache.surplus()) as usize
    }

    fn redescribe(&mut self, states: &[StateDescriptor]) -> Result<(), Fault> {
        self.check()?;
        if states == self.states {
            return Ok(());
        }
        let columns: Arc<[StateDescriptor]> = ttl::columns(states).into();
        let bare = self.cache.redescribe(&self.columns, &columns)?;
        for shard in &mut self.shards {
            shard.redescribe(&columns, &ttl::lives(states), self.clock.stamp())?;
        }
        (self.states, self.columns, self.lives) = (states.into(), columns, ttl::lives(states));
        self.sweep = Sweep::default();
        // Values that had no time to live count as written now.
        for life in &self.lives {
            let timeless = |slot: &Slot| !self.cache.rows.has(life.times, *slot);
            let slots: Vec<Slot> = self.cache.having(life.state, 0).filter(timeless).collect();
            life.write(&mut self.cache, &slots, self.clock.stamp());
        }
        self.release(&bare);
        Ok(())
    }

    /// First the resident keys, by slot; then the stored ones, by shard and key, which load what is stored.
    fn walk(&mut self, state: usize, place: &mut Vec<u8>, count: usize, slots: &mut Vec<Slot>) -> Result<bool, Fault> {
        self.check()?;
        slots.clear();
        let mut at = Walk::read(place);
        if let Walk::Resident(from) = at {
            slots.extend(self.cache.having(state, from).take(count));
            at = slots.last().map_or(Walk::Stored(0, Vec::new()), |last| Walk::Resident(last + 1));
            if !slots.is_empty() {
                self.resolved(slots)?;
                *place = at.write();
                return Ok(true);
            }
        }
        let Walk::Stored(shard, from) = at else { return Ok(false) };
        let Some(database) = self.shards.get(shard as usize).map(|shard| shard.database.clone()) else {
            return Ok(false);
        };
        let readers = self.shards[shard as usize].readers();
        let mut keys: Vec<Vec<u8>> = Vec::new();
        let mut seen = 0;
        let next = database.scan(&from, |key, row| {
            if seen == count {
                return Ok(false);
            }
            seen += 1;
            if scan::has(readers, row, state) {
                keys.push(key.get(2..).unwrap_or_default().to_vec());
            }
            Ok(true)
        })?;
        *place = next.map_or(Walk::Stored(shard + 1, Vec::new()), |key| Walk::Stored(shard, key)).write();
        for key in &keys {
            slots.push(self.cache.keys.slot(key, hash_key(key))?);
        }
        self.resolved(slots)?;
        Ok(true)
    }

    fn snapshot(&mut self, form: Form) -> Result<Snapshot, Fault> {
        let cut = self.cut()?;
        let mut snapshot = Snapshot { states: self.states.to_vec(), ..Snapshot::default() };
        match form {
            Form::Native => snapshot.files = Some(Box::new(move || native_files(&cut.wait()?))),
            Form::Portable => {
                let timed = |state| life(&self.lives, state).map(|life| (*life, self.clock));
                let table = |(state, descriptor): (usize, &StateDescriptor)| match descriptor.kind {
                    StateKind::Value => scan::table(&self.columns, (state, timed(state)), &cut, &self.memory),
                    StateKind::List | StateKind::Map(_) => {
                        scan_entries::table(descriptor, (state, timed(state)), &cut, &self.memory)
                    }
                };
                snapshot.tables = self.states.iter().enumerate().map(table).collect();
            }
        }
        Ok(snapshot)
    }

    fn restore(&mut self, from: &dyn Restore) -> Result<(), Fault> {
        self.clock.resume(from.now().processing_ms);
        let sets = from.files()?;
        if sets.iter().all(|set| set.files.is_empty()) {
            let states = self.states.clone();
            return tables::restore(self, &states, from);
        }
        let given_up = from.dropped();
        let site = Site {
            home: &self.home,
            memory: &self.memory,
            node: &self.node,
            states: &self.columns,
            lives: &self.lives,
            given_up,
        };
        self.shards = site.restore(&sets, from.groups())?;
        Ok(())
    }
}

/// Where a walk over all keys stands.
enum Walk {
    /// At a slot.
    Resident(Slot),
    /// In a shard, at a key.
    Stored(u32, Vec<u8>),
}

impl Walk {
    /// The first byte says which; its own words come back, nobody else's.
    fn read(place: &[u8]) -> Self {
        let number = |bytes: &[u8]| bytes.try_into().map_or(0, u32::from_le_bytes);
        match place.split_at_checked(5) {
            Some(([1, shard @ ..], key)) => Self::Stored(number(shard), key.to_vec()),
            Some(([_, slot @ ..], _)) => Self::Resident(number(slot)),
            _ => Self::Resident(0),
        }
    }

    fn write(&self) -> Vec<u8> {
        let (kind, number, key): (u8, u32, &[u8]) = match self {
            Self::Resident(slot) => (0, *slot, &[]),
            Self::Stored(shard, key) => (1, *shard, key),
        };
        let mut place = vec![kind];
        place.extend_from_slice(&number.to_le_bytes());
        place.extend_from_slice(key);
        place
    }
}

impl Restorable for Rocks {
    fn set_written(&mut self, state: usize, slots: &[Slot], written: &[Option<i64>]) -> Result<(), Fault> {
        if let Some(life) = life(&self.lives, state) {
            for (slot, time) in slots.iter().zip(written) {
                life.write(&mut self.cache, &[*slot], time.unwrap_or(UNKNOWN));
            }
        }
        Ok(())
    }

    fn put_written(
        &mut self,
        state: usize,
        slots: &[Slot],
        keys: &BinaryArray,
        values: &ArrayRef,
        written: &[Option<i64>],
    ) -> Result<(), Fault> {
        self.put(state, slots, keys, values, |i| written[i].unwrap_or(UNKNOWN))
    }
}

/// Most states have none.
fn life(lives: &[Life], state: usize) -> Option<&Life> {
    lives.iter().find(|life| life.state == state)
}

impl Lookups {
    fn fill(&mut self, cache: &Cache, slots: &[Slot]) {
        self.bytes.clear();
        self.keys.clear();
        for &slot in slots {
            let (key, start) = (cache.keys.key(slot), self.bytes.len());
            put_key(key, group_of(key), &mut self.bytes);
            let (start, end) = (start as u32, self.bytes.len() as u32);
            self.keys.push((prefix(&self.bytes[start as usize..]), start, end, slot));
        }
        let bytes = &self.bytes;
        let key = |start: u32, end: u32| &bytes[start as usize..end as usize];
        self.keys.sort_unstable_by(|a, b| a.0.cmp(&b.0).then_with(|| key(a.1, a.2).cmp(key(b.1, b.2))));
    }
}

/// The key group, from the first bytes of a key.
fn group(prefix: u128) -> u32 {
    (prefix >> 112) as u32
}

/// The shard of a group: the last one, if none begins so late.
fn shard_of(shards: &[Shard], group: u32) -> usize {
    shards.partition_point(|shard| shard.groups().end <= group).min(shards.len() - 1)
}
