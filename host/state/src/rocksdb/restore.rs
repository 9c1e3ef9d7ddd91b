//! The way back from native files: they are linked into a new directory and opened, whatever their size.
//!
//! When the number of workers has changed, each earlier database that has groups of this worker becomes a shard of its own: no row
//! is copied, and the groups of others are deleted by range. Law: shards ascend by group, and every group has one.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use tidemill_model::Fault;
use tidemill_model::component::StateDescriptor;
use tidemill_model::snapshot::FileSet;

use super::cut::METADATA;
use super::directory::{self, Home};
use super::filter::Filter;
use super::memory::Memory;
use super::shard::{Database, FORMAT, Metadata, Shard};
use super::ttl::Life;
use crate::tables;

/// Where shards are made, and for what.
pub(super) struct Site<'a> {
    pub home: &'a Arc<Home>,
    pub memory: &'a Arc<Memory>,
    pub node: &'a str,
    /// The columns of rows.
    pub states: &'a [StateDescriptor],
    pub lives: &'a [Life],
    /// Names of states whose earlier values are not wanted.
    pub given_up: &'a [String],
}

type Files<'a> = Vec<(&'a str, &'a Path)>;

impl Site<'_> {
    /// A new, empty one.
    pub fn empty(&self, groups: Range<u32>) -> Result<Shard, Fault> {
        let metadata = Metadata::new(groups, self.states)?;
        self.open(metadata, &Files::new())
    }

    /// Shards for all of `groups`, with what `sets` hold of them.
    pub fn restore(&self, sets: &[FileSet], groups: Range<u32>) -> Result<Vec<Shard>, Fault> {
        let mut shards = Vec::new();
        for set in sets {
            for (number, files) in databases(set)? {
                let metadata = metadata(number, &files)?;
                let start = metadata.groups.start.max(groups.start);
                let end = metadata.groups.end.min(groups.end);
                if start < end {
                    shards.push(self.shard(metadata, start..end, &files)?);
                }
            }
        }
        shards.sort_by_key(|shard| shard.groups().start);
        self.fill(shards, groups)
    }

    /// Opens the files of an earlier database, for some of its groups.
    fn shard(&self, mut metadata: Metadata, groups: Range<u32>, files: &Files) -> Result<Shard, Fault> {
        metadata.layouts.evolve(self.states, self.given_up)?;
        let had = metadata.groups.clone();
        let kept = (groups.start - had.start) as usize..(groups.end - had.start) as usize;
        metadata.keys = metadata.keys[kept].to_vec();
        metadata.groups = groups.clone();
        let shard = self.open(metadata, files)?;
        for foreign in [had.start..groups.start, groups.end..had.end] {
            if !foreign.is_empty() {
                shard.database.remove_groups(foreign)?;
            }
        }
        Ok(shard)
    }

    fn open(&self, metadata: Metadata, files: &Files) -> Result<Shard, Fault> {
        let directory = self.home.create(self.node)?;
        for (name, path) in files.iter().filter(|(name, _)| *name != METADATA) {
            let target = directory.path().join(name);
            // Tables never change; RocksDB writes on in other files.
            match name.ends_with(".sst") {
                true => directory::link(path, &target)?,
                false => directory::copy(path, &target)?,
            }
        }
        let filter = Arc::new(Filter::new(&metadata.layouts, self.states.len(), self.lives));
        let path = directory.path().to_owned();
        let database = Database::open(path, Arc::new(directory), self.memory, filter.clone())?;
        Ok(Shard::new(database, metadata, filter))
    }

    /// Empty shards for groups that nobody had.
    fn fill(&self, shards: Vec<Shard>, groups: Range<u32>) -> Result<Vec<Shard>, Fault> {
        let mut filled = Vec::new();
        let mut next = groups.start;
        for shard in shards {
            let own = shard.groups().clone();
            if own.start < next {
                return Err(Fault::data(format!("key group {} comes from two workers", own.start)));
            }
            if next < own.start {
                filled.push(self.empty(next..own.start)?);
            }
            next = own.end;
            filled.push(shard);
        }
        if next < groups.end || filled.is_empty() {
            filled.push(self.empty(next..groups.end)?);
        }
        Ok(filled)
    }
}

/// The files of a set by the number of their database.
fn databases(set: &FileSet) -> Result<BTreeMap<u32, Files<'_>>, Fault> {
    let mut databases = BTreeMap::<u32, Files>::new();
    for (name, path) in &set.files {
        let parts = name.split_once('.').and_then(|(number, file)| Some((number.parse().ok()?, file)));
        // A name with a separator would be a path to elsewhere.
        let Some((number, file)) = parts.filter(|(_, file)| !file.contains(['/', '\\'])) else {
            return Err(foreign(format!("a checkpoint has a file `{name}`")));
        };
        databases.entry(number).or_default().push((file, path));
    }
    Ok(databases)
}

fn metadata(number: u32, files: &Files) -> Result<Metadata, Fault> {
    let Some((_, path)) = files.iter().find(|(name, _)| *name == METADATA) else {
        return Err(foreign(format!("a checkpoint has no file `{number}.{METADATA}`")));
    };
    let text = std::fs::read(path).map_err(|error| directory::fault(path, "can't be read", &error))?;
    let broken = |why: String| Fault::data(format!("`{}`: {why}", path.display()));
    let version = serde_json::from_slice::<Version>(&text).map_err(|error| broken(error.to_string()))?;
    if version.format != FORMAT {
        let message = format!("its format is {}, this program reads {FORMAT}", version.format);
        return Err(broken(message).with_help("restore it with the program that wrote it, and take a savepoint there"));
    }
    let metadata: Metadata = serde_json::from_slice(&text).map_err(|error| broken(error.to_string()))?;
    match metadata.is_sound() {
        true => Ok(metadata),
        false => Err(broken("the numbers in it contradict each other".to_owned())),
    }
}

/// What every version of the metadata has.
#[derive(serde::Deserialize)]
struct Version {
    format: u32,
}

fn foreign(what: String) -> Fault {
    tables::foreign(&what, "rocksdb")
}
