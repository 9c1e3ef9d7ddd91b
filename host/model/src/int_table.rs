//! A hash table from int64 keys to numbers: what stands behind keyed state and window groups whose key is one integer.
//!
//! Laws: a key is in the table at most once; an entry lies between its home and the next free place, without a gap
//! (linear probing). Batches are looked up with the memory of later keys on its way while earlier ones are compared.

/// Keys ahead of the one that is looked up whose memory is asked for. Enough to cover a trip to L3 or memory.
const AHEAD: usize = 16;
/// Places of the first table.
const PLACES_MIN: usize = 16;

use crate::zeroed::{Zero, Zeroed};

#[derive(Clone, Copy)]
struct Entry {
    key: i64,
    value: u32,
    used: bool,
}

// SAFETY: numbers, and `false` is zero.
unsafe impl Zero for Entry {}

const FREE: Entry = Entry { key: 0, value: 0, used: false };

/// See the module.
#[derive(Default)]
pub struct IntTable {
    /// A power of two, or none.
    entries: Zeroed<Entry>,
    len: usize,
    /// A key's home are the high bits of its hash.
    shift: u32,
}

impl std::fmt::Debug for IntTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IntTable").field("len", &self.len).finish_non_exhaustive()
    }
}

/// Hash of a number: the folded product with an odd constant fills high and low bits alike.
#[inline(always)]
pub fn mix(key: i64) -> u64 {
    let product = u128::from(key as u64 ^ 0x2545_F491_4F6C_DD1D) * 0x9E37_79B9_7F4A_7C15;
    (product >> 64) as u64 ^ product as u64
}

/// Asks for the memory of an item that is going to be needed, if there is such an item.
#[inline(always)]
pub fn prefetch<T>(items: &[T], index: usize) {
    #[cfg(target_arch = "x86_64")]
    if let Some(item) = items.get(index) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: the instruction is part of every x86-64 and reads nothing that the program could notice.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(item).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (items, index);
}

impl IntTable {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Forgets all keys and keeps the memory.
    pub fn clear(&mut self) {
        if self.len > 0 {
            self.entries.fill(FREE);
            self.len = 0;
        }
    }

    #[inline(always)]
    fn home(&self, key: i64) -> usize {
        (mix(key) >> self.shift) as usize
    }

    /// The place of a key: where it is, or where it would go. The table has a free place.
    #[inline(always)]
    fn place(&self, key: i64) -> usize {
        let mask = self.entries.len() - 1;
        let mut place = self.home(key);
        loop {
            // In range: masked by the length less one.
            let entry = &self.entries[place & mask];
            if !entry.used || entry.key == key {
                return place & mask;
            }
            place += 1;
        }
    }

    /// The value of a key, if it is there.
    #[inline]
    pub fn get(&self, key: i64) -> Option<u32> {
        if self.len == 0 {
            return None;
        }
        let entry = &self.entries[self.place(key)];
        entry.used.then_some(entry.value)
    }

    /// The value of a key; one that is not there gets what `make` returns.
    #[inline]
    pub fn get_or_insert<E>(&mut self, key: i64, make: impl FnOnce() -> Result<u32, E>) -> Result<u32, E> {
        if self.len * 5 >= self.entries.len() * 4 {
            self.grow();
        }
        let place = self.place(key);
        let entry = &self.entries[place];
        if entry.used {
            return Ok(entry.value);
        }
        let value = make()?;
        self.entries[place] = Entry { key, value, used: true };
        self.len += 1;
        Ok(value)
    }

    /// [`IntTable::get_or_insert`] for many keys, in order: `make(key)` for new ones, `found(value)` for each.
    #[inline]
    pub fn get_or_insert_all<E>(
        &mut self,
        keys: impl ExactSizeIterator<Item = i64> + Clone,
        mut make: impl FnMut(i64) -> Result<u32, E>,
        mut found: impl FnMut(u32),
    ) -> Result<(), E> {
        let mut ahead = keys.clone().skip(AHEAD);
        for key in keys {
            if let Some(next) = ahead.next() {
                self.prefetch(next);
            }
            found(self.get_or_insert(key, || make(key))?);
        }
        Ok(())
    }

    /// [`IntTable::get`] for many keys, in order: `found` is called for each.
    #[inline]
    pub fn get_all(&self, keys: impl ExactSizeIterator<Item = i64> + Clone, mut found: impl FnMut(Option<u32>)) {
        let mut ahead = keys.clone().skip(AHEAD);
        for key in keys {
            if let Some(next) = ahead.next() {
                self.prefetch(next);
            }
            found(self.get(key));
        }
    }

    /// Asks for the memory of a key that is going to be looked up.
    #[inline(always)]
    pub fn prefetch(&self, key: i64) {
        if !self.entries.is_empty() {
            prefetch(&self.entries, self.home(key));
        }
    }

    /// Takes a key out. Its value, if it was there.
    pub fn remove(&mut self, key: i64) -> Option<u32> {
        if self.len == 0 {
            return None;
        }
        let mask = self.entries.len() - 1;
        let mut hole = self.place(key);
        let removed = self.entries[hole];
        if !removed.used {
            return None;
        }
        // Entries behind the hole move up, unless that would put them in front of their home.
        let mut next = (hole + 1) & mask;
        while self.entries[next].used {
            let home = self.home(self.entries[next].key);
            if (next.wrapping_sub(home) & mask) >= (next.wrapping_sub(hole) & mask) {
                self.entries[hole] = self.entries[next];
                hole = next;
            }
            next = (next + 1) & mask;
        }
        self.entries[hole] = FREE;
        self.len -= 1;
        Some(removed.value)
    }

    /// Makes room for so many keys in all: growing step by step would write all entries anew at each step.
    pub fn reserve(&mut self, keys: usize) {
        let places = (keys.saturating_mul(5) / 4 + 1).next_power_of_two();
        if places > self.entries.len() {
            self.resize(places.max(PLACES_MIN));
        }
    }

    #[cold]
    fn grow(&mut self) {
        self.resize((self.entries.len() * 2).max(PLACES_MIN));
    }

    fn resize(&mut self, places: usize) {
        let old = std::mem::replace(&mut self.entries, Zeroed::new(places));
        self.shift = 64 - places.trailing_zeros();
        for &entry in old.iter().filter(|e| e.used) {
            let place = self.place(entry.key);
            self.entries[place] = entry;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;
    use std::convert::Infallible;

    #[derive(Clone, Debug)]
    enum Step {
        Add(Vec<i64>),
        Remove(i64),
        Clear,
        Reserve(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let key = prop_oneof![8 => -60i64..60, 1 => any::<i64>()];
        let step = prop_oneof![
            5 => prop::collection::vec(key.clone(), 0..40).prop_map(Step::Add),
            20 => key.prop_map(Step::Remove),
            1 => Just(Step::Clear),
            1 => (0usize..200).prop_map(Step::Reserve),
        ];
        prop::collection::vec(step, 1..60)
    }

    proptest! {
        #[test]
        fn it_is_a_map(steps in steps()) {
            let (mut table, mut model) = (IntTable::default(), HashMap::new());
            let mut next = 0;
            for step in steps {
                match step {
                    Step::Reserve(keys) => {
                        table.reserve(keys);
                        prop_assert!(keys * 5 / 4 <= table.entries.len());
                    }
                    Step::Add(keys) => {
                        let mut found = Vec::new();
                        let mut numbers = next..;
                        let make = |_| Ok::<u32, Infallible>(numbers.next().unwrap());
                        table.get_or_insert_all(keys.iter().copied(), make, |value| found.push(value)).unwrap();
                        let expected: Vec<u32> = keys.iter().map(|&key| *model.entry(key).or_insert_with(|| {
                            next += 1;
                            next - 1
                        })).collect();
                        prop_assert_eq!(found, expected);
                    }
                    Step::Remove(key) => prop_assert_eq!(table.remove(key), model.remove(&key)),
                    Step::Clear => {
                        table.clear();
                        model.clear();
                    }
                }
                prop_assert_eq!(table.len(), model.len());
            }
            let asked: Vec<i64> = (-70..70).chain(model.keys().copied()).collect();
            let mut found = Vec::new();
            table.get_all(asked.iter().copied(), |value| found.push(value));
            prop_assert_eq!(found, asked.iter().map(|key| model.get(key).copied()).collect::<Vec<_>>());
            for (&key, &value) in &model {
                prop_assert_eq!(table.get_or_insert(key, || Err(())), Ok(value));
            }
        }
    }

    #[test]
    fn a_key_that_cannot_be_added_leaves_the_table_as_it_was() {
        let mut table = IntTable::default();
        assert_eq!(table.get_or_insert(7, || Err("full")), Err("full"));
        assert_eq!((table.len(), table.remove(7)), (0, None));
        assert_eq!(table.get_or_insert::<()>(7, || Ok(3)), Ok(3));
        assert_eq!(table.remove(7), Some(3));
        assert!(table.is_empty());
    }
}
