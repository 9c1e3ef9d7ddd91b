//! One database: the rows of a range of key groups.
//!
//! A key in it is the key group, two bytes big-endian, and the key's bytes; its value is the row ([`super::layout`]), in the
//! column family `default`. Entries of lists and maps are in a second one ([`super::overlay`]). Laws: nothing is logged ahead, since what survives is a checkpoint; the number of keys is exact, by
//! key group.

use std::any::Any;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rocksdb::checkpoint::Checkpoint;
use rocksdb::{
    ColumnFamily, ColumnFamilyDescriptor, DB, DBPinnableSlice, DBRawIterator, Options, ReadOptions, WriteBatch,
    WriteOptions,
};
use serde::{Deserialize, Serialize};
use tidemill_model::Fault;
use tidemill_model::component::StateDescriptor;

use super::filter::Filter;
use super::layout::{Layouts, Reader};
use super::memory::{Indexes, Memory};
use super::options::{IN_PIECES, index_bytes, options};
use super::records::Records;
use super::ttl::Life;
use crate::clock::UNKNOWN;

/// Version of the metadata and of what they describe.
pub(super) const FORMAT: u32 = 1;
/// The column family of rows with one value per state.
const VALUES: &str = rocksdb::DEFAULT_COLUMN_FAMILY_NAME;
/// The one of entries of lists and maps, see [`super::overlay`].
const ENTRIES: &str = "entries";
/// Name of the filter of entries, for RocksDB's log.
const FILTER: &str = "entries";
/// Entries that are written at a time, and their bytes, about.
const RUN_ENTRIES: usize = 64 << 10;
const RUN_BYTES: usize = 4 << 20;
/// What RocksDB calls the number of keys in a column family, about, and the bytes of its files.
const KEYS: &str = "rocksdb.estimate-num-keys";
const FILE_BYTES: &str = "rocksdb.total-sst-files-size";
/// Read ahead by scans.
const SCAN_BYTES: usize = 2 << 20;

/// What is stored of a database beside its own files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Metadata {
    pub format: u32,
    pub groups: Range<u32>,
    /// Keys in each of the groups.
    pub keys: Vec<u64>,
    #[serde(flatten)]
    pub layouts: Layouts,
}

/// A database and what this worker knows of it.
pub(super) struct Shard {
    pub database: Arc<Database>,
    groups: Range<u32>,
    keys: Vec<u64>,
    layouts: Layouts,
    readers: Vec<Reader>,
    /// It may hold rows, ...
    pub touched: bool,
    /// ... and entries.
    pub has_entries: bool,
    pub filter: Arc<Filter>,
}

impl Shard {
    pub fn new(database: Database, metadata: Metadata, filter: Arc<Filter>) -> Self {
        let Metadata { groups, keys, layouts, .. } = metadata;
        let (touched, readers) = (keys.iter().any(|&k| k > 0), layouts.readers());
        Self { database: Arc::new(database), groups, keys, layouts, readers, touched, has_entries: touched, filter }
    }

    pub fn groups(&self) -> &Range<u32> {
        &self.groups
    }

    /// How stored rows are read, by the number of their layout.
    pub fn readers(&self) -> &[Reader] {
        &self.readers
    }

    /// The number of the layout of new rows.
    pub fn layout(&self) -> u8 {
        self.layouts.current as u8
    }

    /// From now on rows hold these columns. What has a time to live since now counts as written now, if anybody knows when that is.
    pub fn redescribe(&mut self, columns: &[StateDescriptor], lives: &[Life], now: i64) -> Result<(), Fault> {
        self.layouts.evolve(columns, &[])?;
        if now != UNKNOWN {
            self.layouts.set_since(now);
        }
        self.readers = self.layouts.readers();
        self.filter.redescribe(&self.layouts, columns.len(), lives);
        Ok(())
    }

    /// A key comes, or goes.
    pub fn count(&mut self, group: u32, comes: bool) {
        // Groups outside go with the nearest one.
        let index = (group.saturating_sub(self.groups.start) as usize).min(self.keys.len() - 1);
        let keys = &mut self.keys[index];
        *keys = if comes { *keys + 1 } else { *keys - 1 };
        self.touched = true;
    }

    /// The number of a state.
    pub fn id(&self, state: usize) -> u32 {
        self.layouts.id(state)
    }

    /// Values without a time, of states whose times are kept since now, count as written now.
    pub fn set_since(&mut self, now: i64) {
        self.layouts.set_since(now);
        self.readers = self.layouts.readers();
    }

    /// The first group from one on that has keys.
    pub fn group_with_keys(&self, from: u32) -> Option<u32> {
        let skipped = from.saturating_sub(self.groups.start);
        let keys = self.keys.iter().skip(skipped as usize).position(|&keys| keys > 0)?;
        Some(self.groups.start + skipped + keys as u32)
    }

    pub fn keys(&self) -> u64 {
        self.keys.iter().sum()
    }

    pub fn metadata(&self) -> Metadata {
        Metadata { format: FORMAT, groups: self.groups.clone(), keys: self.keys.clone(), layouts: self.layouts.clone() }
    }
}

impl Metadata {
    /// Of a new database.
    pub fn new(groups: Range<u32>, states: &[StateDescriptor]) -> Result<Self, Fault> {
        Ok(Self { format: FORMAT, keys: vec![0; groups.len()], groups, layouts: Layouts::new(states)? })
    }

    /// Whether it can be trusted, coming from a file.
    pub fn is_sound(&self) -> bool {
        !self.groups.is_empty() && self.keys.len() == self.groups.len() && self.layouts.is_sound()
    }
}

/// A RocksDB.
pub(super) struct Database {
    db: DB,
    path: PathBuf,
    indexes: Indexes,
    /// New files hold their indexes in pieces.
    in_pieces: AtomicBool,
    /// Keeps the files: dropped after `db`.
    _keeper: Arc<dyn Any + Send + Sync>,
}

impl Database {
    /// Opens what is in a directory, or a new database if there is nothing.
    pub fn open(
        path: PathBuf,
        keeper: Arc<dyn Any + Send + Sync>,
        memory: &Arc<Memory>,
        filter: Arc<Filter>,
    ) -> Result<Self, Fault> {
        let options = options(memory).map_err(|error| fault(&path, &error))?;
        let [values, mut entries] = families(&options);
        let decide = move |_level, key: &[u8], stored: &[u8]| filter.decide(key, stored);
        entries.1.set_compaction_filter(FILTER, decide);
        let families = [values, entries].map(|(name, options)| ColumnFamilyDescriptor::new(name, options));
        let db = DB::open_cf_descriptors(&options, &path, families).map_err(|error| fault(&path, &error))?;
        let database = Self::new(db, path, keeper, memory);
        database.look_at_indexes()?;
        Ok(database)
    }

    /// Opens for reading only.
    pub fn open_frozen(path: PathBuf, keeper: Arc<dyn Any + Send + Sync>, memory: &Arc<Memory>) -> Result<Self, Fault> {
        let options = options(memory).map_err(|error| fault(&path, &error))?;
        let families = families(&options).map(|(name, options)| ColumnFamilyDescriptor::new(name, options));
        let db = DB::open_cf_descriptors_read_only(&options, &path, families, false);
        Ok(Self::new(db.map_err(|error| fault(&path, &error))?, path, keeper, memory))
    }

    fn new(db: DB, path: PathBuf, keeper: Arc<dyn Any + Send + Sync>, memory: &Arc<Memory>) -> Self {
        Self { db, path, indexes: Indexes::new(memory), in_pieces: AtomicBool::new(false), _keeper: keeper }
    }

    /// Indexes that have become large come in pieces from now on.
    fn look_at_indexes(&self) -> Result<(), Fault> {
        if self.in_pieces.load(Ordering::Relaxed) {
            return Ok(());
        }
        let sum = |property: &str| {
            let of = |family| self.db.property_int_value_cf(self.family(family), property);
            let both = [VALUES, ENTRIES].map(|family| of(family).map(Option::unwrap_or_default));
            both.into_iter().sum::<Result<u64, _>>().map_err(|error| self.fault(&error))
        };
        let bytes = index_bytes(sum(KEYS)?, sum(FILE_BYTES)?);
        if !self.indexes.fit(bytes) {
            for family in [VALUES, ENTRIES] {
                let set = self.db.set_options_cf(self.family(family), &[IN_PIECES]);
                set.map_err(|error| self.fault(&error))?;
            }
            self.in_pieces.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The rows of keys (with their groups), which ascend.
    pub fn get<'a>(&self, keys: impl Iterator<Item = &'a [u8]>) -> Result<Vec<Option<DBPinnableSlice<'_>>>, Fault> {
        self.get_from(VALUES, keys)
    }

    /// The same of entries.
    pub fn get_entries<'a>(
        &self,
        keys: impl Iterator<Item = &'a [u8]>,
    ) -> Result<Vec<Option<DBPinnableSlice<'_>>>, Fault> {
        self.get_from(ENTRIES, keys)
    }

    fn get_from<'a>(
        &self,
        family: &str,
        keys: impl Iterator<Item = &'a [u8]>,
    ) -> Result<Vec<Option<DBPinnableSlice<'_>>>, Fault> {
        let options = ReadOptions::default();
        let rows = self.db.batched_multi_get_cf_opt(self.family(family), keys, true, &options);
        rows.into_iter().collect::<Result<_, _>>().map_err(|error| self.fault(&error))
    }

    /// Entries from `start` on, below `end`.
    pub fn entries(&self, start: &[u8], end: Vec<u8>) -> DBRawIterator<'_> {
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(end);
        let mut entries = self.db.raw_iterator_cf_opt(self.family(ENTRIES), options);
        entries.seek(start);
        entries
    }

    /// Writes entries, which ascend; none removes.
    pub fn write_entries<'a>(&self, entries: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>) -> Result<(), Fault> {
        let (family, options) = (self.family(ENTRIES), unlogged());
        let mut batch = WriteBatch::default();
        for (key, stored) in entries {
            match stored {
                Some(stored) => batch.put_cf(family, key, stored),
                None => batch.delete_cf(family, key),
            }
            if batch.len() >= RUN_ENTRIES || batch.size_in_bytes() >= RUN_BYTES {
                let full = std::mem::take(&mut batch);
                self.db.write_opt(full, &options).map_err(|error| self.fault(&error))?;
            }
        }
        self.db.write_opt(batch, &options).map_err(|error| self.fault(&error))?;
        self.look_at_indexes()
    }

    /// Brings all entries into the files that they belong to in the end.
    #[cfg(test)]
    pub fn compact(&self) {
        self.db.compact_range_cf(self.family(ENTRIES), None::<&[u8]>, None::<&[u8]>);
    }

    /// What went wrong while somebody went through entries.
    pub fn status(&self, entries: &DBRawIterator<'_>) -> Result<(), Fault> {
        entries.status().map_err(|error| self.fault(&error))
    }

    pub fn write(&self, records: &Records) -> Result<(), Fault> {
        let options = unlogged();
        records.write(|batch| self.db.write_opt(batch, &options)).map_err(|error| self.fault(&error))?;
        self.look_at_indexes()
    }

    /// Links all files into a new directory. Nobody writes meanwhile.
    pub fn checkpoint(&self, path: &Path) -> Result<(), Fault> {
        let made = Checkpoint::new(&self.db).and_then(|checkpoint| checkpoint.create_checkpoint(path));
        made.map_err(|error| self.fault(&error))
    }

    /// Forgets rows from one group up to another.
    pub fn remove_groups(&self, groups: Range<u32>) -> Result<(), Fault> {
        let bound = |group: u32| group.min(u32::from(u16::MAX)) as u16;
        let (from, to) = (bound(groups.start).to_be_bytes(), bound(groups.end).to_be_bytes());
        for name in [VALUES, ENTRIES] {
            let family = self.family(name);
            let files = self.db.delete_file_in_range_cf(family, from, to);
            let rest = files.and_then(|()| self.db.delete_range_cf_opt(family, from, to, &unlogged()));
            rest.map_err(|error| self.fault(&error))?;
        }
        Ok(())
    }

    /// Shows rows from a key on, in order, until `row` wants no more. Returns the key that it did not want.
    pub fn scan(
        &self,
        start: &[u8],
        row: impl FnMut(&[u8], &[u8]) -> Result<bool, Fault>,
    ) -> Result<Option<Vec<u8>>, Fault> {
        let mut options = ReadOptions::default();
        options.set_readahead_size(SCAN_BYTES);
        self.walk(VALUES, start, options, row)
    }

    /// The same for entries.
    pub fn scan_entries(
        &self,
        start: &[u8],
        entry: impl FnMut(&[u8], &[u8]) -> Result<bool, Fault>,
    ) -> Result<Option<Vec<u8>>, Fault> {
        let mut options = ReadOptions::default();
        options.set_readahead_size(SCAN_BYTES);
        self.walk(ENTRIES, start, options, entry)
    }

    /// The same for a few rows, below `end`.
    pub fn peek(
        &self,
        start: &[u8],
        end: Vec<u8>,
        row: impl FnMut(&[u8], &[u8]) -> Result<bool, Fault>,
    ) -> Result<Option<Vec<u8>>, Fault> {
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(end);
        self.walk(VALUES, start, options, row)
    }

    fn walk(
        &self,
        family: &str,
        start: &[u8],
        mut options: ReadOptions,
        mut row: impl FnMut(&[u8], &[u8]) -> Result<bool, Fault>,
    ) -> Result<Option<Vec<u8>>, Fault> {
        // What is read once must not push out what is in use.
        options.fill_cache(false);
        let mut rows = self.db.raw_iterator_cf_opt(self.family(family), options);
        rows.seek(start);
        while let Some((key, value)) = rows.item() {
            if !row(key, value)? {
                return Ok(Some(key.to_vec()));
            }
            rows.next();
        }
        rows.status().map(|()| None).map_err(|error| self.fault(&error))
    }

    fn family(&self, name: &str) -> &ColumnFamily {
        self.db.cf_handle(name).expect("it was opened with this family")
    }

    fn fault(&self, error: &rocksdb::Error) -> Fault {
        fault(&self.path, error)
    }
}

/// A database of an operator that had no lists and maps gets the second one when it is opened.
fn families(options: &Options) -> [(&'static str, Options); 2] {
    [VALUES, ENTRIES].map(|name| (name, options.clone()))
}

/// Without a log: a database that its process did not close is never opened again.
fn unlogged() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.disable_wal(true);
    options
}

fn fault(path: &Path, error: &rocksdb::Error) -> Fault {
    let help = match error.as_ref().contains("No space left") {
        true => "free some space, or choose another `directory` for the state",
        false => "look at the disk that holds the `directory` of the state; the job can go on from its last checkpoint",
    };
    Fault::io(format!("the state in `{}`: {}", path.display(), error.as_ref())).with_help(help)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rocksdb::records::put_key;

    /// Database keys, and records of them, of so many numbers.
    fn records(numbers: Range<u64>) -> (Vec<Vec<u8>>, Records) {
        let mut records = Records::default();
        let keys = numbers.map(|number| {
            let (bytes, mut key) = (number.to_be_bytes(), Vec::new());
            records.put(&bytes, 7, |out| out.extend_from_slice(&bytes));
            put_key(&bytes, 7, &mut key);
            key
        });
        (keys.collect(), records)
    }

    fn partitions(database: &Database) -> bool {
        database.db.flush_cf(database.family(VALUES)).unwrap();
        let about = database.db.property_value_cf(database.family(VALUES), "rocksdb.aggregated-table-properties");
        about.unwrap().unwrap().contains("# index partitions")
    }

    #[test]
    fn indexes_come_in_pieces_when_they_have_become_large() {
        let directory = tempfile::tempdir().unwrap();
        // For the filters of 100,000 keys, about.
        let memory = Memory::new(1 << 20);
        let layouts = Layouts::new(&[]).unwrap();
        let filter = || Arc::new(Filter::new(&layouts, 0, &[]));
        let open = || Database::open(directory.path().join("db"), Arc::new(()), &memory, filter()).unwrap();
        let database = open();
        let (few, written) = records(0..50_000);
        database.write(&written).unwrap();
        assert!(!partitions(&database), "they are small");
        let (many, written) = records(50_000..200_000);
        database.write(&written).unwrap();
        assert!(partitions(&database), "they are large");
        let look = |database: &Database| {
            for keys in [&few, &many] {
                let found = database.get(keys.iter().map(Vec::as_slice)).unwrap();
                let numbers = found.iter().map(|row| u64::from_be_bytes(row.as_ref().unwrap()[..].try_into().unwrap()));
                assert!(numbers.eq(keys.iter().map(|key| u64::from_be_bytes(key[2..].try_into().unwrap()))));
            }
            let missing = records(200_000..210_000).0;
            assert!(database.get(missing.iter().map(Vec::as_slice)).unwrap().iter().all(Option::is_none));
        };
        look(&database);
        drop(database);
        let again = open();
        assert!(again.in_pieces.load(Ordering::Relaxed), "it has not become smaller");
        look(&again);
    }
}
