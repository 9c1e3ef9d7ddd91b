//! How one number of bytes is divided among all backends of a process.
//!
//! Half goes to the caches of keys that stand before RocksDB. Each backend may fill what the others leave, and gives way down to
//! an equal share when all together have too much. The other half is RocksDB's cache of blocks, to which indexes, filters and
//! memtables are charged as well; memtables may take half of that, a quarter of all, and an eighth of all indexes and filters that are
//! held as a whole. Not counted: what a snapshot holds while it is
//! written (its dirty rows, about a third of the caches), keys that timers pin, and buffers of compactions (a few MiB).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rocksdb::{Cache, WriteBufferManager};

/// Keys of one backend whose values RocksDB does not have yet. A snapshot copies them while the worker waits, 1 ms for some 30,000.
const DIRTY_KEYS_MAX: usize = 1 << 20;
/// Bytes of cache for each of them, should there be less: a copy takes a third of that.
const DIRTY_KEY_BYTES: usize = 128;

pub(super) struct Memory {
    /// For keys in caches.
    cache_bytes: usize,
    used: AtomicUsize,
    shares: AtomicUsize,
    pub blocks: Cache,
    pub memtables: WriteBufferManager,
    /// For indexes and filters that are not in pieces, of all databases.
    index_bytes: usize,
    indexes: AtomicUsize,
    /// Of one memtable.
    pub memtable_bytes: usize,
    pub dirty_keys_max: usize,
    /// Of entries of one backend that RocksDB does not have yet.
    pub entry_bytes_max: usize,
}

impl Memory {
    pub fn new(bytes: usize) -> Arc<Self> {
        Self::with_cache(bytes, bytes / 2)
    }

    pub fn with_cache(bytes: usize, cache_bytes: usize) -> Arc<Self> {
        // A clock, not a list by use: lookups take no lock, which saves a tenth to a quarter of the CPU of point reads.
        let blocks = Cache::new_hyper_clock_cache(bytes / 2, 0);
        let memtables = WriteBufferManager::new_write_buffer_manager_with_cache(bytes / 4, false, blocks.clone());
        let memtable_bytes = (bytes / 8).clamp(1 << 20, 64 << 20);
        let (used, shares, indexes) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        let dirty_keys_max = DIRTY_KEYS_MAX.min(cache_bytes / DIRTY_KEY_BYTES);
        let entry_bytes_max = cache_bytes / 4;
        let index_bytes = bytes / 8;
        Arc::new(Self {
            cache_bytes,
            used,
            shares,
            blocks,
            memtables,
            index_bytes,
            indexes,
            memtable_bytes,
            dirty_keys_max,
            entry_bytes_max,
        })
    }

    /// A share for one more backend.
    pub fn share(self: &Arc<Self>) -> Share {
        self.shares.fetch_add(1, Ordering::Relaxed);
        Share { memory: self.clone(), used: 0 }
    }
}

/// What the indexes and filters of one database take.
pub(super) struct Indexes {
    memory: Arc<Memory>,
    used: AtomicUsize,
}

impl Indexes {
    pub fn new(memory: &Arc<Memory>) -> Self {
        Self { memory: memory.clone(), used: AtomicUsize::new(0) }
    }

    /// Says how much it is now. Whether there is room for it as a whole.
    pub fn fit(&self, used: usize) -> bool {
        // Relaxed: as in `Share::update`.
        let before = self.used.swap(used, Ordering::Relaxed);
        let change = used.wrapping_sub(before);
        self.memory.indexes.fetch_add(change, Ordering::Relaxed).wrapping_add(change) <= self.memory.index_bytes
    }
}

impl Drop for Indexes {
    fn drop(&mut self) {
        self.memory.indexes.fetch_sub(self.used.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

/// What one backend uses of the memory for keys.
pub(super) struct Share {
    memory: Arc<Memory>,
    used: usize,
}

impl Share {
    /// Says how much is in use now. Returns how much of it must go.
    pub fn update(&mut self, used: usize) -> usize {
        let memory = &self.memory;
        // Relaxed: sums that are some batches old do no harm.
        let before = memory.used.fetch_add(used.wrapping_sub(self.used), Ordering::Relaxed);
        let total = before.wrapping_add(used).wrapping_sub(self.used);
        self.used = used;
        let fair = memory.cache_bytes / memory.shares.load(Ordering::Relaxed).max(1);
        total.saturating_sub(memory.cache_bytes).min(used.saturating_sub(fair))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.memory.used.fetch_sub(self.used, Ordering::Relaxed);
        self.memory.shares.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_take_what_others_leave_and_give_way() {
        let memory = Memory::with_cache(16 << 20, 1000);
        let (mut one, mut two) = (memory.share(), memory.share());
        assert_eq!(one.update(900), 0, "nobody else needs it");
        assert_eq!(two.update(400), 0, "below its half, so it is the other that gives way");
        assert_eq!(one.update(900), 300);
        assert_eq!(one.update(600), 0);
        assert_eq!(two.update(700), 200, "down to its half");
        drop(two);
        assert_eq!(one.update(1000), 0);
        assert_eq!(one.update(1100), 100);
    }

    #[test]
    fn indexes_fit_as_long_as_all_together_do() {
        let memory = Memory::new(8000);
        let (one, two) = (Indexes::new(&memory), Indexes::new(&memory));
        assert!(one.fit(600) && two.fit(400));
        assert!(!two.fit(401));
        assert!(one.fit(500), "it has become smaller");
        drop(one);
        assert!(two.fit(1000) && !two.fit(1001));
    }
}
