//! Removes what has expired and nobody asks for, a little at each tick: resident keys by slot, stored ones in the order of
//! the databases.
//!
//! Stored keys are brought into the cache and expire there, as if somebody had asked for them. So the number of keys stays
//! exact, which it would not if compactions removed rows on their own.

use arrow::array::BinaryArray;
use tidemill_model::Fault;
use tidemill_model::state::{Slot, StateBackend};

use super::Rocks;
use crate::clock::UNKNOWN;
use crate::rocksdb::shard::Shard;
use crate::rocksdb::ttl::{Life, Pace};

/// Slots that one sweep looks at: with a sweep per tick a million keys take 10 s, and a sweep some microseconds.
const SLOTS: usize = 1024;

/// Where the next sweep goes on.
#[derive(Default)]
pub(super) struct Sweep {
    slot: usize,
    shard: usize,
    /// The first key to look at.
    key: Vec<u8>,
    pace: Pace,
}

impl Rocks {
    /// Keys in the databases, whether they are resident as well or not.
    pub(super) fn stored(&self) -> u64 {
        self.shards.iter().map(Shard::keys).sum()
    }

    pub(super) fn sweep_resident(&mut self) -> Result<(), Fault> {
        let capacity = self.cache.keys.capacity();
        if self.sweep.slot >= capacity {
            self.sweep.slot = 0;
        }
        let end = capacity.min(self.sweep.slot + SLOTS);
        let slots: Vec<Slot> = (self.sweep.slot as Slot..end as Slot).collect();
        self.sweep.slot = end;
        self.expire_all(&slots)
    }

    pub(super) fn sweep_stored(&mut self, now: i64) -> Result<(), Fault> {
        let ttl_ms = self.lives.iter().map(|life| life.ttl.ms).min().unwrap_or(u64::MAX);
        let rows = self.sweep.pace.rows(now, self.stored(), ttl_ms);
        if rows == 0 {
            return Ok(());
        }
        let keys = self.expired_rows(rows)?;
        if keys.is_empty() {
            return Ok(());
        }
        let mut slots = Vec::new();
        self.resolve_bytes(&BinaryArray::from_iter_values(keys), &mut slots)?;
        self.expire_all(&slots)
    }

    fn expire_all(&mut self, slots: &[Slot]) -> Result<(), Fault> {
        for life in 0..self.lives.len() {
            self.expire(self.lives[life], slots)?;
        }
        self.release(slots);
        Ok(())
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

    /// Removes what has expired of one state.
    pub(super) fn expire(&mut self, life: Life, slots: &[Slot]) -> Result<(), Fault> {
        let mut gone = Vec::new();
        life.expire(&mut self.cache, slots, &self.clock, |slot| gone.push(slot));
        if life.has_entries {
            gone.into_iter().try_for_each(|slot| self.purge(life.state, slot))?;
        }
        Ok(())
    }

    /// Keys of stored rows in which a value has expired, out of the next so many.
    fn expired_rows(&mut self, rows: usize) -> Result<Vec<Vec<u8>>, Fault> {
        let (mut keys, mut seen) = (Vec::new(), 0);
        let Some(shard) = self.shards.get(self.sweep.shard) else { return Ok(keys) };
        let (lives, clock) = (&self.lives, &self.clock);
        let next = shard.database.peek(&self.sweep.key, |key, row| {
            seen += 1;
            let reader =
                row.split_first().and_then(|(&layout, row)| Some((shard.readers().get(layout as usize)?, row)));
            let expired = reader.is_some_and(|(reader, row)| lives.iter().any(|l| l.has_expired(reader, row, clock)));
            if let (true, Some((_group, key))) = (expired, key.split_first_chunk::<2>()) {
                keys.push(key.to_vec());
            }
            Ok(seen <= rows)
        })?;
        match next {
            Some(key) => self.sweep.key = key,
            None => (self.sweep.shard, self.sweep.key) = ((self.sweep.shard + 1) % self.shards.len(), Vec::new()),
        }
        Ok(keys)
    }
}
