//! Entries of one key, sorted, in chunks that a snapshot shares.
//!
//! Laws: no chunk is empty, and keys ascend over all chunks; what is frozen never changes, since whoever writes to a chunk
//! that somebody else has copies it first.

use std::sync::Arc;

/// Entries in a chunk: few enough that inserting in the middle is cheap, and copying one after a snapshot as well.
const CHUNK: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub key: Box<[u8]>,
    pub value: Box<[u8]>,
    /// When it was written; see `clock`.
    pub written: i64,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Sorted {
    chunks: Vec<Arc<Vec<Entry>>>,
    /// Of a list: the place of the next value.
    pub next: u64,
}

impl Sorted {
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// The chunk in which a key is or would be, and where in it.
    fn find(&self, key: &[u8]) -> (usize, Result<usize, usize>) {
        let behind = |chunk: &Arc<Vec<Entry>>| chunk.last().is_some_and(|last| *last.key < *key);
        let chunk = self.chunks.partition_point(behind);
        match self.chunks.get(chunk) {
            Some(entries) => (chunk, entries.binary_search_by(|entry| (*entry.key).cmp(key))),
            // Behind all: at the end of the last one.
            None => (chunk.saturating_sub(1), Err(self.chunks.last().map_or(0, |last| last.len()))),
        }
    }

    pub fn get(&self, key: &[u8]) -> Option<&Entry> {
        let (chunk, place) = self.find(key);
        let place = place.ok()?;
        Some(&self.chunks[chunk][place])
    }

    /// An entry that is there, to be changed.
    pub fn get_mut(&mut self, key: &[u8]) -> Option<&mut Entry> {
        let (chunk, place) = self.find(key);
        let place = place.ok()?;
        Some(&mut Arc::make_mut(&mut self.chunks[chunk])[place])
    }

    pub fn put(&mut self, key: &[u8], value: &[u8], written: i64) {
        let (index, place) = self.find(key);
        let entry = |value: &[u8]| Entry { key: key.into(), value: value.into(), written };
        let is_last = index + 1 == self.chunks.len();
        let Some(chunk) = self.chunks.get_mut(index) else {
            self.chunks.push(Arc::new(vec![entry(value)]));
            return;
        };
        let place = match place {
            Ok(place) => {
                let found = &mut Arc::make_mut(chunk)[place];
                (found.value, found.written) = (value.into(), written);
                return;
            }
            Err(place) => place,
        };
        if chunk.len() < CHUNK {
            Arc::make_mut(chunk).insert(place, entry(value));
        } else if is_last && place == chunk.len() {
            // As lists grow: full chunks stay as they are.
            self.chunks.push(Arc::new(vec![entry(value)]));
        } else {
            let entries = Arc::make_mut(chunk);
            entries.insert(place, entry(value));
            let tail = entries.split_off(CHUNK / 2);
            self.chunks.insert(index + 1, Arc::new(tail));
        }
    }

    pub fn remove(&mut self, key: &[u8]) {
        let (index, place) = self.find(key);
        let Ok(place) = place else { return };
        if self.chunks[index].len() == 1 {
            self.chunks.remove(index);
        } else {
            Arc::make_mut(&mut self.chunks[index]).remove(place);
        }
    }

    /// Keeps the entries that `keep` accepts.
    pub fn retain(&mut self, keep: impl Fn(&Entry) -> bool) {
        for chunk in &mut self.chunks {
            // Chunks without a loss are not copied.
            if !chunk.iter().all(&keep) {
                Arc::make_mut(chunk).retain(&keep);
            }
        }
        self.chunks.retain(|chunk| !chunk.is_empty());
    }

    /// From now on all entries count as written then.
    pub fn set_times(&mut self, written: i64) {
        let chunks = self.chunks.iter_mut().map(Arc::make_mut);
        chunks.for_each(|chunk| chunk.iter_mut().for_each(|entry| entry.written = written));
    }

    /// All entries behind a key, or all.
    pub fn behind(&self, after: Option<&[u8]>) -> impl Iterator<Item = &Entry> {
        let (chunk, place) = match after {
            None => (0, 0),
            Some(key) => {
                let (chunk, place) = self.find(key);
                (chunk, place.map_or_else(|place| place, |place| place + 1))
            }
        };
        let first = self.chunks.get(chunk).map_or(&[][..], |first| &first[place.min(first.len())..]);
        let rest = self.chunks.iter().skip(chunk + 1);
        first.iter().chain(rest.flat_map(|chunk| chunk.iter()))
    }

    pub fn len(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Put(u8, u8),
        Append(u8),
        Remove(u8),
        Retain(u8),
        Freeze,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (any::<u8>(), any::<u8>()).prop_map(|(key, value)| Step::Put(key, value)),
            6 => any::<u8>().prop_map(Step::Append),
            3 => any::<u8>().prop_map(Step::Remove),
            1 => any::<u8>().prop_map(Step::Retain),
            1 => Just(Step::Freeze),
        ]
    }

    fn same(sorted: &Sorted, model: &BTreeMap<Vec<u8>, u8>) {
        let pair = |entry: &Entry| (entry.key.to_vec(), entry.value[0]);
        assert!(sorted.behind(None).map(pair).eq(model.clone()));
        assert!(sorted.chunks.iter().all(|chunk| (1..=CHUNK + 1).contains(&chunk.len())));
        assert_eq!(sorted.len(), model.len());
        for key in [&[][..], &[7], &[100], &[255, 9]] {
            assert_eq!(sorted.get(key).map(pair), model.get(key).map(|&value| (key.to_vec(), value)));
            assert!(
                sorted
                    .behind(Some(key))
                    .map(|entry| entry.key.to_vec())
                    .eq(model.keys().filter(|k| k[..] > *key).cloned())
            );
        }
    }

    proptest! {
        #[test]
        fn it_does_as_a_map_and_what_is_frozen_stays(steps in prop::collection::vec(step(), 0..600)) {
            let (mut sorted, mut model) = (Sorted::default(), BTreeMap::new());
            let mut frozen: Vec<(Sorted, BTreeMap<Vec<u8>, u8>)> = Vec::new();
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Put(key, value) => {
                        sorted.put(&[key], &[value], 0);
                        model.insert(vec![key], value);
                    }
                    Step::Append(value) => {
                        let key = [&[255][..], &(number as u64).to_be_bytes()].concat();
                        sorted.put(&key, &[value], 0);
                        model.insert(key, value);
                    }
                    Step::Remove(key) => {
                        sorted.remove(&[key]);
                        model.remove(&vec![key]);
                    }
                    Step::Retain(least) => {
                        sorted.retain(|entry| entry.value[0] >= least);
                        model.retain(|_, value| *value >= least);
                    }
                    Step::Freeze => frozen.push((sorted.clone(), model.clone())),
                }
                prop_assert_eq!(sorted.is_empty(), model.is_empty());
            }
            same(&sorted, &model);
            frozen.iter().for_each(|(sorted, model)| same(sorted, model));
        }
    }
}
