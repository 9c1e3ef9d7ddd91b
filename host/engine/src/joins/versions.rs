//! Versions of rows by key and time.
//!
//! Laws: of a key and a time there is one version; those that the watermark has made useless go with the next version of their key, and
//! their memory when half of all is useless: no key is looked at for its own sake.

use arrow::array::ArrayRef;
use arrow::error::ArrowError;
use tidemill_model::Fault;

use super::pane::NONE;
use super::rows::{Choice, Rows};
use super::side::Ready;
use super::stored::Frozen;
use crate::windows::groups::{BatchKeys, Groups};

/// So many useless versions do not matter.
const USELESS: usize = 4096;

pub(super) struct Versions {
    groups: Groups,
    /// By group.
    newest: Vec<u32>,
    /// By version: the one before it of the same key.
    older: Vec<u32>,
    times: Vec<i64>,
    rows: Rows,
    useless: Vec<bool>,
    useless_count: usize,
}

/// The versions of one key.
pub(super) struct OfKey<'a> {
    all: &'a Versions,
    newest: u32,
}

impl OfKey<'_> {
    /// The one that is valid at this time, or [`NONE`].
    pub fn at(&self, time: i64) -> u32 {
        let mut version = self.newest;
        while version != NONE && self.all.times[version as usize] > time {
            version = self.all.older[version as usize];
        }
        version
    }
}

impl Versions {
    pub fn new(groups: Groups) -> Self {
        Self {
            groups,
            newest: Vec::new(),
            older: Vec::new(),
            times: Vec::new(),
            rows: Rows::default(),
            useless: Vec::new(),
            useless_count: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.times.len() - self.useless_count
    }

    /// Adds the rows of a batch, whose keys have no nulls.
    pub fn add(&mut self, ready: &Ready, watermark: i64) -> Result<(), Fault> {
        let (from, count) = (self.times.len(), ready.times.len());
        if from + count >= NONE as usize {
            return Err(Fault::data("a join holds more than four billion versions"));
        }
        let columns = ready.batch.rows().columns().to_vec();
        self.rows.push(columns, count)?;
        self.times.extend_from_slice(&ready.times);
        self.older.resize(from + count, NONE);
        self.useless.resize(from + count, false);
        let mut groups = Vec::new();
        self.groups.number(&ready.keys, count, None, &mut groups);
        self.newest.resize(self.groups.len(), NONE);
        for (version, group) in (from as u32..).zip(groups) {
            self.insert(version, group, watermark);
        }
        if self.useless_count > USELESS && self.useless_count * 2 > self.times.len() {
            self.compact()?;
        }
        Ok(())
    }

    /// Puts a version between those of its key.
    fn insert(&mut self, version: u32, group: usize, watermark: i64) {
        let time = self.times[version as usize];
        let (mut newer, mut before) = (NONE, self.newest[group]);
        while before != NONE && self.times[before as usize] > time {
            (newer, before) = (before, self.older[before as usize]);
        }
        if before != NONE && self.times[before as usize] == time {
            self.drop_version(before);
            before = self.older[before as usize];
        }
        self.older[version as usize] = before;
        match newer {
            NONE => self.newest[group] = version,
            newer => self.older[newer as usize] = version,
        }
        self.forget(self.newest[group], watermark);
    }

    /// Forgets what was replaced before the watermark, from the newest version of a key on.
    fn forget(&mut self, newest: u32, watermark: i64) {
        let mut valid = newest;
        while valid != NONE && self.times[valid as usize] > watermark {
            valid = self.older[valid as usize];
        }
        if valid != NONE {
            let mut past = std::mem::replace(&mut self.older[valid as usize], NONE);
            while past != NONE {
                self.drop_version(past);
                past = self.older[past as usize];
            }
        }
    }

    fn drop_version(&mut self, version: u32) {
        self.useless[version as usize] = true;
        self.useless_count += 1;
    }

    /// Gives the memory of useless versions back.
    fn compact(&mut self) -> Result<(), ArrowError> {
        let useful: Vec<u32> = (0..self.times.len() as u32).filter(|&v| !self.useless[v as usize]).collect();
        let mut number = vec![NONE; self.times.len()];
        useful.iter().zip(0..).for_each(|(&old, new)| number[old as usize] = new);
        let renumbered = |version: u32| if version == NONE { NONE } else { number[version as usize] };
        let columns = self.rows.pieces().next().map_or(0, |(_, columns)| columns.len());
        let columns = self.gather(useful.iter().copied(), columns)?;
        self.newest.iter_mut().for_each(|version| *version = renumbered(*version));
        self.older = useful.iter().map(|&version| renumbered(self.older[version as usize])).collect();
        self.times = useful.iter().map(|&version| self.times[version as usize]).collect();
        self.rows = Rows::default();
        self.rows.push(columns, useful.len())?;
        self.useless = vec![false; useful.len()];
        self.useless_count = 0;
        Ok(())
    }

    /// The versions of the key of each of these rows: `found(place in rows, versions)`.
    pub fn find(&self, keys: &BatchKeys, rows: &[u32], mut found: impl FnMut(usize, OfKey<'_>)) {
        self.groups.find_rows(keys, rows, |place, group| {
            found(place, OfKey { all: self, newest: self.newest[group] });
        });
    }

    /// The first so many columns of some versions.
    pub fn gather(&self, versions: impl Iterator<Item = u32>, columns: usize) -> Result<Vec<ArrayRef>, ArrowError> {
        let mut choice = Choice::of([&self.rows]);
        versions.for_each(|version| choice.push(0, version as usize));
        choice.columns(columns)
    }

    pub fn freeze(&self) -> Frozen {
        let useless = self.useless.clone();
        Frozen {
            rows: self.rows.clone(),
            times: self.times.clone(),
            matched: vec![false; self.times.len()],
            is_there: Box::new(move |row, _| !useless[row]),
        }
    }
}
