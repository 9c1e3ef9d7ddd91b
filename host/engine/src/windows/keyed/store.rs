//! The windows of all keys of a worker, without their contents: where they begin and end, and when something is due.
//!
//! Laws: the windows of a key are a list, the one that ends last first; no two of a key end at the same time. A window is in the queue of a
//! clock at most once with the time that it is scheduled for; entries with another time are left-overs, and skipped.

use std::collections::BTreeMap;

pub(super) const NONE: u32 = u32::MAX;
/// No time.
pub(super) const NEVER: i64 = i64::MAX;

#[derive(Clone, Debug)]
pub(super) struct Window {
    pub key: u32,
    /// The next window of the key.
    pub next: u32,
    pub start: i64,
    /// The first time that does not belong to it.
    pub end: i64,
    /// The largest event time of its rows.
    pub max_time: i64,
    /// By clock: when it is looked at.
    pub scheduled: [i64; 2],
    /// When a trigger that fires again and again does so next.
    pub fire_at: i64,
    /// Rows since it fired by their number.
    pub rows: u64,
    /// The value of the row that fired last by its value.
    pub last: Option<f64>,
    /// Its number in the step, or `NONE`.
    pub number: u32,
    pub live: bool,
    /// It has rows: not purged.
    pub filled: bool,
    /// It fires when the step is done.
    pub fires: bool,
    /// It has got rows behind its end, and fires when the batch is done.
    pub again: bool,
}

impl Window {
    pub fn new(key: u32, start: i64, end: i64) -> Self {
        Self {
            key,
            next: NONE,
            start,
            end,
            max_time: i64::MIN,
            scheduled: [NEVER; 2],
            fire_at: NEVER,
            rows: 0,
            last: None,
            number: NONE,
            live: true,
            filled: false,
            fires: false,
            again: false,
        }
    }

    /// The last time that belongs to it.
    pub fn last_time(&self) -> i64 {
        self.end - 1
    }
}

#[derive(Default)]
pub(super) struct Store {
    /// By slot.
    windows: Vec<Window>,
    free: Vec<u32>,
    /// By key: its first window.
    heads: Vec<u32>,
    /// By clock and time.
    queues: [BTreeMap<i64, Vec<u32>>; 2],
}

impl std::ops::Index<u32> for Store {
    type Output = Window;
    fn index(&self, slot: u32) -> &Window {
        &self.windows[slot as usize]
    }
}

impl std::ops::IndexMut<u32> for Store {
    fn index_mut(&mut self, slot: u32) -> &mut Window {
        &mut self.windows[slot as usize]
    }
}

impl Store {
    /// All slots are below.
    pub fn capacity(&self) -> usize {
        self.windows.len()
    }

    pub fn len(&self) -> usize {
        self.windows.len() - self.free.len()
    }

    pub fn live(&self) -> impl Iterator<Item = u32> {
        (0..self.windows.len() as u32).filter(|&slot| self[slot].live)
    }

    pub fn head(&self, key: u32) -> u32 {
        self.heads.get(key as usize).copied().unwrap_or(NONE)
    }

    /// Puts a window where it belongs, behind `before` (or first), which may be any that ends later.
    pub fn add(&mut self, window: Window, mut before: u32) -> u32 {
        let (key, end) = (window.key, window.end);
        let slot = match self.free.pop() {
            Some(slot) => {
                self[slot] = window;
                slot
            }
            None => {
                self.windows.push(window);
                self.windows.len() as u32 - 1
            }
        };
        loop {
            let next = if before == NONE { self.head(key) } else { self[before].next };
            if next == NONE || self[next].end < end {
                self[slot].next = next;
                self.set_next(key, before, slot);
                return slot;
            }
            before = next;
        }
    }

    /// The window behind `before` (or the first one) that ends at `end`; else the last one that ends later, to go on from.
    pub fn find(&self, key: u32, mut before: u32, end: i64) -> Result<u32, u32> {
        loop {
            let next = if before == NONE { self.head(key) } else { self[before].next };
            match next {
                NONE => return Err(before),
                next if self[next].end == end => return Ok(next),
                next if self[next].end < end => return Err(before),
                next => before = next,
            }
        }
    }

    /// Takes a window out. Whether its key has another one. The slot may be used again after [`Store::release`].
    pub fn unlink(&mut self, slot: u32) -> bool {
        let (key, next) = (self[slot].key, self[slot].next);
        let mut before = NONE;
        let mut at = self.head(key);
        while at != slot {
            (before, at) = (at, self[at].next);
        }
        self.set_next(key, before, next);
        self[slot].live = false;
        self.head(key) != NONE
    }

    pub fn release(&mut self, slot: u32) {
        self.free.push(slot);
    }

    fn set_next(&mut self, key: u32, before: u32, next: u32) {
        if before != NONE {
            self[before].next = next;
            return;
        }
        if self.heads.len() <= key as usize {
            self.heads.resize(key as usize + 1, NONE);
        }
        self.heads[key as usize] = next;
    }

    /// Looks at the window at `time` of a clock, if not earlier.
    pub fn schedule(&mut self, slot: u32, clock: usize, time: i64) {
        if time < self[slot].scheduled[clock] {
            self[slot].scheduled[clock] = time;
            self.queues[clock].entry(time).or_default().push(slot);
        }
    }

    /// The next window for which it is time, and the time.
    pub fn due(&mut self, clock: usize, now: i64) -> Option<(i64, u32)> {
        while let Some(mut entry) = self.queues[clock].first_entry() {
            let time = *entry.key();
            if time > now {
                return None;
            }
            let slot = entry.get_mut().pop();
            if entry.get().is_empty() {
                entry.remove();
            }
            let Some(slot) = slot else { continue };
            let window = &mut self.windows[slot as usize];
            if window.live && window.scheduled[clock] == time {
                window.scheduled[clock] = NEVER;
                return Some((time, slot));
            }
        }
        None
    }
}
