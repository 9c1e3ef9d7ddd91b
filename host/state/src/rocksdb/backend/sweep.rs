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
            let (keys, seen) = self.expired_rows(step)?;
            let mut slots = Vec::new();
            self.resolve_bytes(&BinaryArray::from_iter_values(&keys), &mut slots)?;
            self.expire_all(&slots)?;
            // Where nothing is left to look at, nothing is due.
            let seen = if seen == 0 { step } else { seen };
            self.sweep.stored.done(seen, seen as u64 + keys.len() as u64 * STORED_REMOVAL);
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

    /// Looks at the next stored rows, so many at most. Keys of those in which a value has expired, and how many there were.
    fn expired_rows(&mut self, rows: usize) -> Result<(Vec<Vec<u8>>, usize), Fault> {
        let (mut keys, mut seen) = (Vec::new(), 0);
        let Some(shard) = self.shards.get(self.sweep.shard) else { return Ok((keys, seen)) };
        let (lives, clock) = (&self.lives, &self.clock);
        let next = shard.database.peek(&self.sweep.key, |key, row| {
            if seen == rows {
                return Ok(false);
            }
            seen += 1;
            let reader =
                row.split_first().and_then(|(&layout, row)| Some((shard.readers().get(layout as usize)?, row)));
            let expired = reader.is_some_and(|(reader, row)| lives.iter().any(|l| l.has_expired(reader, row, clock)));
            if let (true, Some((_group, key))) = (expired, key.split_first_chunk::<2>()) {
                keys.push(key.to_vec());
            }
            Ok(true)
        })?;
        match next {
            Some(key) => self.sweep.key = key,
            None => (self.sweep.shard, self.sweep.key) = ((self.sweep.shard + 1) % self.shards.len(), Vec::new()),
        }
        Ok((keys, seen))
    }
}
