//! Lists and maps: entries lie in the databases, those that were written lately in an overlay before them.
//!
//! Laws: a key whose row says that it has no entries has none, so nobody looks for them; the databases get entries in runs
//! that are sorted, while no snapshot is being written; what has expired is not seen.

use std::ops::Range;

use arrow::array::{ArrayRef, BinaryArray, BinaryBuilder};
use arrow::datatypes::DataType;
use tidemill_model::Fault;
use tidemill_model::component::StateKind;
use tidemill_model::entries::{EntryStore, Most, Scanned, list_entry, list_place};
use tidemill_model::state::Slot;

use super::{Overlay, Rocks, life, shard_of};
use crate::clock::UNKNOWN;
use crate::rocksdb::overlay::{decode, encode, end_of, prefix};
use crate::rocksdb::records::group_of;
use crate::rocksdb::shard::Shard;
use crate::tables::wrong_kind;
use crate::values::{Builder, Bytes};

/// An entry that is to be looked up in a database.
struct Lookup {
    shard: usize,
    key: Vec<u8>,
    /// Its place in the question.
    place: usize,
}

impl Rocks {
    /// Bounds what the overlay takes.
    pub(super) fn write_entries(&mut self) -> Result<(), Fault> {
        let most = self.memory.entry_bytes_max;
        if !self.is_behind() {
            self.leaving = None;
        }
        // The databases belong to the snapshot: wait, but not while there is a little room.
        if self.fresh.bytes() <= most || self.is_behind() && self.fresh.bytes() <= 2 * most {
            return Ok(());
        }
        if let Some(cut) = self.cut.take() {
            cut.wait()?;
        }
        let fresh = std::mem::take(&mut self.fresh);
        for (index, groups) in self.groups_with_entries(&fresh).into_iter().enumerate() {
            self.shards[index].database.write_entries(fresh.groups(&groups))?;
        }
        Ok(())
    }

    /// For each database the key groups whose entries it holds; from now on it may hold those of the overlay.
    pub(super) fn groups_with_entries(&mut self, overlay: &Overlay) -> Vec<Range<u32>> {
        let count = self.shards.len();
        let mut start = 0;
        let range = |(index, shard): (usize, &mut Shard)| {
            let end = if index + 1 == count { u32::MAX } else { shard.groups().end };
            let groups = std::mem::replace(&mut start, end)..end;
            shard.has_entries |= overlay.groups(&groups).next().is_some();
            groups
        };
        self.shards.iter_mut().enumerate().map(range).collect()
    }

    /// The database of a slot, and what its entries of a state begin with.
    fn place(&self, state: usize, slot: Slot) -> (usize, Vec<u8>) {
        let key = self.cache.keys.key(slot);
        let shard = shard_of(&self.shards, group_of(key));
        (shard, prefix(key, self.shards[shard].id(state)))
    }

    /// The entries that a snapshot is still writing.
    fn leaving(&self) -> Option<&Overlay> {
        self.leaving.as_deref().filter(|_| self.is_behind())
    }

    /// The value of a stored entry, unless it has expired.
    fn read<'a>(&self, state: usize, shard: usize, stored: &'a [u8]) -> Result<Option<&'a [u8]>, Fault> {
        let broken = || Fault::data("the state has a broken entry").with_help("restore the last checkpoint");
        let (written, value) = decode(stored).ok_or_else(broken)?;
        let Some(life) = life(&self.lives, state) else { return Ok(Some(value)) };
        let since = self.shards[shard].readers().first().and_then(|reader| reader.since(life.times));
        let expired = self.clock.is_expired(written.or(since).unwrap_or(UNKNOWN), life.ttl);
        Ok((!expired).then_some(value))
    }

    /// Shows stored entries of a slot from `start` on, in order, until `entry` wants no more.
    fn walk(
        &self,
        (shard, prefix): (usize, &[u8]),
        start: &[u8],
        mut entry: impl FnMut(&[u8], &[u8]) -> Result<bool, Fault>,
    ) -> Result<(), Fault> {
        let (end, shard) = (end_of(prefix), &self.shards[shard]);
        let mut fresh = self.fresh.range(start, &end).peekable();
        let mut leaving = self.leaving().into_iter().flat_map(|overlay| overlay.range(start, &end)).peekable();
        let mut stored = shard.has_entries.then(|| shard.database.entries(start, end.clone()));
        loop {
            let old = stored.as_ref().and_then(|stored| stored.item());
            let keys = [fresh.peek().map(|e| e.0), leaving.peek().map(|e| e.0), old.map(|e| e.0)];
            let Some(key) = keys.into_iter().flatten().min().map(<[u8]>::to_vec) else { break };
            let newest = fresh.next_if(|e| e.0 == key).map(|e| e.1);
            let newer = leaving.next_if(|e| e.0 == key).map(|e| e.1);
            let old = old.filter(|e| e.0 == key).map(|e| e.1);
            let value = newest.or(newer).unwrap_or(old);
            let goes_on = value.map_or(Ok(true), |value| entry(&key[prefix.len()..], value))?;
            let is_old = old.is_some();
            if !goes_on {
                break;
            }
            stored.iter_mut().filter(|_| is_old).for_each(|stored| stored.next());
        }
        stored.map_or(Ok(()), |stored| shard.database.status(&stored))
    }

    /// Removes all entries of a slot; its row is left to the caller.
    pub(super) fn purge(&mut self, state: usize, slot: Slot) -> Result<(), Fault> {
        let (shard, prefix) = self.place(state, slot);
        let mut keys = Vec::new();
        self.walk((shard, &prefix), &prefix, |entry, _| {
            keys.push([&prefix, entry].concat());
            Ok(true)
        })?;
        keys.into_iter().for_each(|key| self.remove(shard, key));
        Ok(())
    }

    /// Removes an entry; the row of its slot is left to the caller.
    fn remove(&mut self, shard: usize, key: Vec<u8>) {
        // What no database has need not be removed from one.
        match !self.shards[shard].has_entries && self.leaving().is_none() {
            true => self.fresh.forget(&key),
            false => self.fresh.put(key, None),
        }
    }

    fn has_some(&self, state: usize, slot: Slot) -> Result<bool, Fault> {
        let (shard, prefix) = self.place(state, slot);
        let mut some = false;
        self.walk((shard, &prefix), &prefix, |_, _| {
            some = true;
            Ok(false)
        })?;
        Ok(some)
    }

    /// Notes in the row of a slot that it has entries, the latest written then.
    fn note(&mut self, state: usize, slot: Slot, next: i64, written: i64) {
        let before = self.cache.rows.word(state, slot);
        let next = next.max(before.unwrap_or(0));
        if before != Some(next) {
            self.cache.rows.set_word(state, slot, next);
            self.cache.set_dirty(slot);
        }
        if let Some(life) = life(&self.lives, state).copied() {
            // As long as nobody knows when, something was written in this run: later than all that was restored.
            let time = |stamp: i64| self.clock.written(stamp).unwrap_or(i64::MAX);
            let before = self.cache.rows.word(life.times, slot);
            let latest = before.filter(|&before| time(before) > time(written)).unwrap_or(written);
            life.write(&mut self.cache, &[slot], latest);
        }
    }

    /// Notes in the row of a slot that it has no entries.
    fn note_none(&mut self, state: usize, slot: Slot) {
        self.cache.rows.remove(state, slot);
        if let Some(life) = life(&self.lives, state) {
            self.cache.rows.remove(life.times, slot);
        }
        self.cache.set_dirty(slot);
    }

    pub(super) fn put(
        &mut self,
        state: usize,
        slots: &[Slot],
        entries: &BinaryArray,
        values: &ArrayRef,
        written: impl Fn(usize) -> i64,
    ) -> Result<(), Fault> {
        let values = Bytes::of(values, self.entry_type(state)?, slots.len())?;
        let (timed, is_list) = (life(&self.lives, state).is_some(), self.states[state].kind == StateKind::List);
        let mut shrunk = Vec::new();
        for (i, (&slot, entry)) in slots.iter().zip(entries).enumerate() {
            let entry = entry.unwrap_or_default();
            let (_, mut key) = self.place(state, slot);
            key.extend_from_slice(entry);
            match values.get(i) {
                Some(value) => {
                    self.fresh.put(key, Some(encode(value, timed.then(|| written(i)))));
                    let next = list_place(entry).filter(|_| is_list).map_or(0, |place| place.saturating_add(1));
                    self.note(state, slot, next as i64, written(i));
                }
                None => {
                    self.fresh.put(key, None);
                    shrunk.push(slot);
                }
            }
        }
        for slot in shrunk {
            if !self.has_some(state, slot)? {
                self.note_none(state, slot);
            }
        }
        Ok(())
    }

    /// The type of a list's or map's values.
    fn entry_type(&self, state: usize) -> Result<&DataType, Fault> {
        let descriptor = &self.states[state];
        match descriptor.kind {
            StateKind::Value => Err(wrong_kind(descriptor)),
            _ => Ok(descriptor.field.data_type()),
        }
    }

    /// Reading counts as writing: stores the entries anew with the time that it is.
    fn refresh(&mut self, state: usize, slot: Slot, entry: &[u8], value: &[u8]) {
        let (_, mut key) = self.place(state, slot);
        key.extend_from_slice(entry);
        let stamp = self.clock.stamp();
        self.fresh.put(key, Some(encode(value, Some(stamp))));
        self.note(state, slot, 0, stamp);
    }

    fn is_refreshed(&self, state: usize) -> bool {
        life(&self.lives, state).is_some_and(|life| life.ttl.on_read)
    }
}

impl EntryStore for Rocks {
    fn get_entries(&mut self, state: usize, slots: &[Slot], entries: &BinaryArray) -> Result<ArrayRef, Fault> {
        self.check()?;
        let mut values: Vec<Option<Box<[u8]>>> = vec![None; slots.len()];
        let mut lookups = Vec::new();
        for (place, (&slot, entry)) in slots.iter().zip(entries).enumerate() {
            if !self.cache.rows.has(state, slot) {
                continue;
            }
            let (shard, mut key) = self.place(state, slot);
            key.extend_from_slice(entry.unwrap_or_default());
            let known = self.fresh.get(&key).or_else(|| self.leaving()?.get(&key));
            match known {
                Some(stored) => {
                    let value = stored.map(|stored| self.read(state, shard, stored)).transpose()?.flatten();
                    values[place] = value.map(Into::into);
                }
                None if self.shards[shard].has_entries => lookups.push(Lookup { shard, key, place }),
                None => {}
            }
        }
        lookups.sort_unstable_by(|a, b| (a.shard, &a.key).cmp(&(b.shard, &b.key)));
        for own in lookups.chunk_by(|a, b| a.shard == b.shard) {
            let shard = own[0].shard;
            let found = self.shards[shard].database.get_entries(own.iter().map(|lookup| lookup.key.as_slice()))?;
            for (lookup, stored) in own.iter().zip(&found) {
                let value = stored.as_ref().map(|stored| self.read(state, shard, stored)).transpose()?.flatten();
                values[lookup.place] = value.map(Into::into);
            }
        }
        let mut column = Builder::new(self.entry_type(state)?);
        values.iter().try_for_each(|value| column.push(value.as_deref()))?;
        if self.is_refreshed(state) {
            for ((&slot, entry), value) in slots.iter().zip(entries).zip(&values) {
                if let Some(value) = value {
                    self.refresh(state, slot, entry.unwrap_or_default(), value);
                }
            }
        }
        column.finish()
    }

    fn put_entries(
        &mut self,
        state: usize,
        slots: &[Slot],
        entries: &BinaryArray,
        values: &ArrayRef,
    ) -> Result<(), Fault> {
        let stamp = self.clock.stamp();
        self.put(state, slots, entries, values, |_| stamp)
    }

    fn append_entries(&mut self, state: usize, slots: &[Slot], values: &ArrayRef) -> Result<(), Fault> {
        let values = Bytes::of(values, self.entry_type(state)?, slots.len())?;
        let (stamp, timed) = (self.clock.stamp(), life(&self.lives, state).is_some());
        for (i, &slot) in slots.iter().enumerate() {
            let next = self.cache.rows.word(state, slot).unwrap_or(0);
            let (_, mut key) = self.place(state, slot);
            key.extend_from_slice(&list_entry(next as u64));
            self.fresh.put(key, Some(encode(values.get(i).unwrap_or_default(), timed.then_some(stamp))));
            self.note(state, slot, next.saturating_add(1), stamp);
        }
        Ok(())
    }

    fn truncate_entries(&mut self, state: usize, slots: &[Slot], counts: &[u64]) -> Result<(), Fault> {
        self.entry_type(state)?;
        for (&slot, &count) in slots.iter().zip(counts) {
            let Some(next) = self.cache.rows.word(state, slot) else { continue };
            let end = (next as u64).saturating_sub(count);
            for place in end..next as u64 {
                let (shard, mut key) = self.place(state, slot);
                key.extend_from_slice(&list_entry(place));
                self.remove(shard, key);
            }
            if self.has_some(state, slot)? {
                self.cache.rows.set_word(state, slot, end as i64);
                self.cache.set_dirty(slot);
            } else {
                self.note_none(state, slot);
            }
        }
        Ok(())
    }

    fn clear_entries(&mut self, state: usize, slots: &[Slot]) -> Result<(), Fault> {
        self.entry_type(state)?;
        for &slot in slots {
            if self.cache.rows.has(state, slot) {
                self.purge(state, slot)?;
                self.note_none(state, slot);
            }
        }
        Ok(())
    }

    fn scan_entries(&mut self, state: usize, slot: Slot, after: Option<&[u8]>, most: Most) -> Result<Scanned, Fault> {
        self.check()?;
        let (mut keys, mut values) = (BinaryBuilder::new(), Builder::new(self.entry_type(state)?));
        let (mut count, mut bytes, mut more) = (0, 0, false);
        let mut seen: Vec<[Box<[u8]>; 2]> = Vec::new();
        if self.cache.rows.has(state, slot) {
            let (shard, prefix) = self.place(state, slot);
            let is_refreshed = self.is_refreshed(state);
            // Directly behind a key comes the key with one more byte.
            let start = after.map_or_else(|| prefix.clone(), |after| [&prefix[..], after, &[0]].concat());
            self.walk((shard, &prefix), &start, |entry, stored| {
                let Some(value) = self.read(state, shard, stored)? else { return Ok(true) };
                more = count >= most.entries || bytes >= most.bytes;
                if more {
                    return Ok(false);
                }
                keys.append_value(entry);
                values.push(Some(value))?;
                if is_refreshed {
                    seen.push([entry.into(), value.into()]);
                }
                (count, bytes) = (count + 1, bytes + entry.len() + value.len());
                Ok(true)
            })?;
        }
        seen.iter().for_each(|[entry, value]| self.refresh(state, slot, entry, value));
        Ok(Scanned { entries: keys.finish(), values: values.finish()?, more })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::Int64Array;
    use arrow::datatypes::Field;
    use tidemill_model::component::{StateDescriptor, Ttl};
    use tidemill_model::snapshot::Form;
    use tidemill_model::state::{StateBackend, StateContext};

    use super::*;
    use crate::rocksdb::RocksSettings;
    use crate::rocksdb::directory::Home;
    use crate::rocksdb::memory::Memory;

    fn put(backend: &mut Rocks, entries: std::ops::Range<u8>) {
        let mut slots = Vec::new();
        backend.resolve_i64(&[7], &[0], &mut slots).unwrap();
        let keys: Vec<[u8; 1]> = entries.map(|entry| [entry]).collect();
        let values: ArrayRef = Arc::new(Int64Array::from(vec![1; keys.len()]));
        let slots = vec![slots[0]; keys.len()];
        backend.put_entries(0, &slots, &BinaryArray::from_iter_values(&keys), &values).unwrap();
        backend.release(&slots);
    }

    /// Entries in the files.
    fn stored(backend: &mut Rocks) -> usize {
        backend.snapshot(Form::Native).unwrap().files.unwrap()().unwrap();
        let database = &backend.shards[0].database;
        database.compact();
        let mut entries = database.entries(&[], vec![u8::MAX; 3]);
        let mut count = 0;
        while entries.valid() {
            (count, _) = (count + 1, entries.next());
        }
        count
    }

    #[test]
    fn compactions_leave_out_what_has_expired() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::claim(directory.path()).unwrap();
        let kind = StateKind::Map(Field::new("entry", DataType::Binary, false));
        let ttl = Some(Ttl { ms: 100, on_read: false });
        let states = [StateDescriptor { kind, ttl, ..StateDescriptor::value("m", DataType::Int64) }];
        let place = StateContext { node: "node", worker: 0, workers: 1, states: &states };
        let mut backend = Rocks::open(home, Memory::new(RocksSettings::MEMORY_BYTES_MIN), &place).unwrap();
        backend.set_now(1000).unwrap();
        put(&mut backend, 0..100);
        assert_eq!(stored(&mut backend), 100);
        backend.set_now(1060).unwrap();
        put(&mut backend, 90..110);
        assert_eq!(stored(&mut backend), 110);
        backend.set_now(1100).unwrap();
        assert_eq!(stored(&mut backend), 20, "nobody has asked for them");
        assert_eq!(backend.keys(), 1);
    }
}
