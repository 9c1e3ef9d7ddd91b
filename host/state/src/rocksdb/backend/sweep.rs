//! Removes what has expired and nobody asks for, a little at each tick: resident keys by slot, stored ones in the order of
//! the databases.
//!
//! Stored keys are brought into the cache and expire there, as if somebody had asked for them. So the number of keys stays
//! exact, which it would not if compactions removed rows on their own. What has expired leaves cache and databases at once, or, if
//! these belong to a snapshot, when the sweep comes by again.

use arrow::array::BinaryArray;
use tidemill_model::Fault;
use tidemill_model::state::{Slot, StateBackend};

use super::Rocks;
use crate::clock::UNKNOWN;
use crate::pace::Pace;
use crate::rocksdb::shard::Shard;
use crate::rocksdb::ttl::Life;

/// What sweeps of the cache may do: a look at a slot takes 5 ns, so this is a tenth of a core.
const RESIDENT_PER_MS: u64 = 20_000;
/// Looks that take as long as removing a key, from the databases as well.
const RESIDENT_REMOVAL: u64 = 600;
/// The same for sweeps of the databases, where a look at a row takes 250 ns.
const STORED_PER_MS: u64 = 400;
const STORED_REMOVAL: u64 = 14;
/// Looks that take as long as finding the first row of a group, behind what was removed there.
const VISIT: u64 = 60;
/// Groups at a time.
const VISITS_MAX: usize = 32;

/// Where the next sweep goes on.
pub(super) struct Sweep {
    slot: usize,
    shard: usize,
    /// The first key to look at.
    key: Vec<u8>,
    resident: Pace,
    stored: Pace,
    /// Keys that the cache got since the last sweep.
    pub come: u64,
}

/// What was found in the databases.
#[derive(Default)]
struct Rows {
    /// Keys of rows in which a value has expired.
    expired: Vec<Vec<u8>>,
    /// Rows, and groups, that were looked at.
    seen: usize,
    visits: usize,
}

impl Default for Sweep {
    fn default() -> Self {
        let resident = Pace::new(RESIDENT_PER_MS, RESIDENT_REMOVAL);
        let stored = Pace::new(STORED_PER_MS, STORED_REMOVAL);
        Self { slot: 0, shard: 0, key: Vec::new(), resident, stored, come: 0 }
    }
}

impl Rocks {
    /// Keys in the databases, whether they are resident as well or not.
    pub(super) fn stored(&self) -> u64 {
        self.shards.iter().map(Shard::keys).sum()
    }

    /// Removes what has expired and nobody has asked for.
    pub(super) fn sweep(&mut self, now: i64) -> Result<(), Fault> {
        let ttl_ms = self.lives.iter().map(|life| life.ttl.ms).min().unwrap_or(u64::MAX);
        let (slots, come) = (self.cache.keys.capacity(), self.sweep.come);
        self.sweep.resident.start(now, slots as u64, ttl_ms, come);
        while let step @ 1.. = self.sweep.resident.step() {
            let first = if self.sweep.slot < slots { self.sweep.slot } else { 0 };
            self.sweep.slot = slots.min(first + step);
            let swept: Vec<Slot> = (first as Slot..self.sweep.slot as Slot).collect();
            let gone = self.expire_all(&swept)?;
            self.sweep.resident.done(swept.len(), swept.len() as u64 + gone as u64 * RESIDENT_REMOVAL);
        }
        self.sweep.stored.start(now, self.stored(), ttl_ms, come);
        while let step @ 1.. = self.sweep.stored.step() {
            let Rows { expired, seen, visits } = self.expired_rows(step)?;
            let mut slots = Vec::new();
            self.resolve_bytes(&BinaryArray::from_iter_values(&expired), &mut slots)?;
            self.expire_all(&slots)?;
            let work = [(seen, 1), (visits, VISIT), (expired.len(), STORED_REMOVAL)];
            // Where nothing is found, a snapshot has yet to write it, or it is the end.
            let seen = if visits == 0 { step } else { seen.max(visits) };
            self.sweep.stored.done(seen, work.iter().map(|&(count, each)| count as u64 * each).sum());
        }
        // Less what the sweep itself has brought into the cache.
        self.sweep.come = 0;
        Ok(())
    }

    /// Removes what has expired in these slots. How many values that were.
    fn expire_all(&mut self, slots: &[Slot]) -> Result<usize, Fault> {
        let mut gone = 0;
        for life in 0..self.lives.len() {
            gone += self.expire(self.lives[life], slots)?;
        }
        self.release(slots);
        if !self.is_behind() {
            let forgotten: Vec<Slot> = slots.iter().copied().filter(|&slot| self.cache.is_forgotten(slot)).collect();
            self.store(&forgotten)?;
            forgotten.into_iter().for_each(|slot| self.cache.drop(slot));
        }
        Ok(gone)
    }

    /// What was written before the clock was set was written now. What has left memory by then keeps its unknown time, and
    /// counts from now as well, but after a restart from then.
    pub(super) fn set_times(&mut self, now: i64) {
        for life in &self.lives {
            for slot in 0..self.cache.keys.capacity() as Slot {
                if self.cache.rows.word(life.times, slot) == Some(UNKNOWN) {
                    life.write(&mut self.cache, &[slot], now);
                }
            }
        }
        self.fresh.set_times(now);
    }

    /// Removes what has expired of one state. How many values that were.
    pub(super) fn expire(&mut self, life: Life, slots: &[Slot]) -> Result<usize, Fault> {
        let mut gone = Vec::new();
        life.expire(&mut self.cache, slots, &self.clock, |slot| gone.push(slot));
        if life.has_entries {
            gone.iter().try_for_each(|&slot| self.purge(life.state, slot))?;
        }
        Ok(gone.len())
    }

    /// Looks at the next stored rows, so many at most, group by group: what lies between them, as long as RocksDB keeps what was
    /// removed, is passed over where a group has no keys.
    fn expired_rows(&mut self, rows: usize) -> Result<Rows, Fault> {
        let mut found = Rows::default();
        let Some(shard) = self.shards.get(self.sweep.shard) else { return Ok(found) };
        let (lives, clock) = (&self.lives, &self.clock);
        let has_expired = |row: &[u8]| {
            let Some((&layout, row)) = row.split_first() else { return false };
            let reader = shard.readers().get(usize::from(layout));
            reader.is_some_and(|reader| lives.iter().any(|life| life.has_expired(reader, row, clock)))
        };
        while found.seen < rows && found.visits < VISITS_MAX {
            let from = self.sweep.key.first_chunk().map_or(0, |group| u32::from(u16::from_be_bytes(*group)));
            let Some(group) = shard.group_with_keys(from) else {
                (self.sweep.shard, self.sweep.key) = ((self.sweep.shard + 1) % self.shards.len(), Vec::new());
                break;
            };
            let [start, end] = [group, group + 1].map(|group| (group as u16).to_be_bytes().to_vec());
            let start = if group == from { start.max(std::mem::take(&mut self.sweep.key)) } else { start };
            found.visits += 1;
            let next = shard.database.peek(&start, end.clone(), |key, row| {
                if found.seen == rows {
                    return Ok(false);
                }
                found.seen += 1;
                if let (true, Some((_group, key))) = (has_expired(row), key.split_first_chunk::<2>()) {
                    found.expired.push(key.to_vec());
                }
                Ok(true)
            })?;
            self.sweep.key = next.unwrap_or(end);
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array};
    use arrow::datatypes::DataType;
    use tidemill_model::component::{StateDescriptor, Ttl};
    use tidemill_model::snapshot::Form;
    use tidemill_model::state::StateContext;

    use super::*;
    use crate::rocksdb::RocksSettings;
    use crate::rocksdb::directory::Home;
    use crate::rocksdb::memory::Memory;

    #[test]
    fn what_has_gone_takes_no_place_in_the_cache() {
        let directory = tempfile::tempdir().unwrap();
        let (home, memory) = (Home::claim(directory.path()).unwrap(), Memory::new(RocksSettings::MEMORY_BYTES_MIN));
        let ttl = Some(Ttl { ms: 100, on_read: false });
        let states = [StateDescriptor { ttl, ..StateDescriptor::value("n", DataType::Int64) }];
        let place = StateContext { node: "node", worker: 0, workers: 1, states: &states };
        let mut rocks = Rocks::open(home, memory, &place).unwrap();
        let mut slots = Vec::new();
        for tick in 0..400 {
            rocks.set_now(tick * 10).unwrap();
            let keys: Vec<i64> = (tick * 100..tick * 100 + 100).collect();
            rocks.resolve_i64(&keys, &[], &mut slots).unwrap();
            let values: ArrayRef = Arc::new(Int64Array::from(keys));
            rocks.scatter(0, &slots, &values).unwrap();
            rocks.release(&slots);
            match tick % 50 {
                25 => drop(rocks.snapshot(Form::Native).unwrap()),
                30 => drop(rocks.cut.as_ref().unwrap().wait().unwrap()),
                _ => {}
            }
        }
        let capacity = rocks.cache.keys.capacity();
        assert!(capacity < 4_000, "{capacity} slots, where some 1,000 keys live");
        (400..500).for_each(|tick| rocks.set_now(tick * 10).unwrap());
        assert_eq!((rocks.cache.keys.len(), rocks.cache.dirty(), rocks.stored()), (0, 0, 0));
    }
}
