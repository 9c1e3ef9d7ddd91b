//! The windows of all keys of a worker, without their contents: where they begin and end, and when something is due.
//!
//! Laws: the windows of a key are a list, the one that ends last first; no two of a key end at the same time. A window is in the queue of a
//! clock at most once with the time that it is scheduled for; entries with another time are left-overs, and skipped.

use std::collections::BTreeMap;

use tidemill_model::int_table::prefetch;

/// Windows ahead of the one that is looked at whose memory is asked for.
pub(super) const AHEAD: usize = 8;
pub(super) const NONE: u32 = u32::MAX;
/// No time.
pub(super) const NEVER: i64 = i64::MAX;

/// What is looked at with each row.
#[derive(Clone, Debug)]
pub(super) struct Window {
    pub key: u32,
    /// The next window of the key.
    pub next: u32,
    pub start: i64,
    /// The first time that does not belong to it.
    pub end: i64,
    /// When it is looked at, by the clock that ends windows.
    pub scheduled: i64,
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

/// What triggers need to know of a window.
#[derive(Clone, Debug)]
pub(super) struct Firing {
    /// The largest event time of its rows.
    pub max_time: i64,
    /// When it is looked at, by the other clock.
    pub scheduled: i64,
    /// When a trigger that fires again and again does so next.
    pub fire_at: i64,
    /// When it did so last, if that was the end of the window: should the window grow, it goes on from there, as in Flink.
    pub fired_at: i64,
    /// Rows since it fired by their number.
    pub rows: u64,
    /// The value of the row that fired last by its value.
    pub last: Option<f64>,
}

impl Window {
    pub fn new(key: u32, start: i64, end: i64) -> Self {
        Self {
            key,
            next: NONE,
            start,
            end,
            scheduled: NEVER,
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

impl Default for Firing {
    fn default() -> Self {
        Self { max_time: i64::MIN, scheduled: NEVER, fire_at: NEVER, fired_at: NEVER, rows: 0, last: None }
    }
}

#[derive(Default)]
pub(super) struct Store {
    /// By slot.
    windows: Vec<Window>,
    pub firing: Vec<Firing>,
    free: Vec<u32>,
    /// By key: its first window.
    heads: Vec<u32>,
    /// By the clock that ends windows, and by the other one.
    queues: [Queue; 2],
}

/// Slots by the time when they are looked at.
#[derive(Default)]
struct Queue {
    times: BTreeMap<i64, Vec<u32>>,
    /// What is left of the time that is being looked at.
    current: (i64, Vec<u32>),
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
                self.firing[slot as usize] = Firing::default();
                slot
            }
            None => {
                self.windows.push(window);
                self.firing.push(Firing::default());
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

    /// Looks at the window at `time`, if not earlier. `other`: by the clock that does not end windows.
    #[inline]
    pub fn schedule(&mut self, slot: u32, other: bool, time: i64) {
        let scheduled = self.scheduled(slot, other);
        if time < *scheduled {
            *scheduled = time;
            self.queues[usize::from(other)].times.entry(time).or_default().push(slot);
        }
    }

    fn scheduled(&mut self, slot: u32, other: bool) -> &mut i64 {
        match other {
            false => &mut self.windows[slot as usize].scheduled,
            true => &mut self.firing[slot as usize].scheduled,
        }
    }

    /// The next window for which it is time, and the time.
    pub fn due(&mut self, other: bool, now: i64) -> Option<(i64, u32)> {
        loop {
            let queue = &mut self.queues[usize::from(other)];
            // What was scheduled in between may be earlier.
            let first = queue.times.first_key_value().map_or(NEVER, |(&time, _)| time);
            if queue.current.1.is_empty() || first < queue.current.0 {
                if first > now || first == NEVER {
                    return None;
                }
                let mut next = queue.times.remove(&first).unwrap_or_default();
                // The first one comes out first.
                next.reverse();
                let (time, rest) = std::mem::replace(&mut queue.current, (first, next));
                if !rest.is_empty() {
                    queue.times.entry(time).or_default().extend(rest.into_iter().rev());
                }
            }
            let (time, slots) = (queue.current.0, &mut queue.current.1);
            let slot = slots.pop()?;
            if let Some(&later) = slots.len().checked_sub(AHEAD).and_then(|at| slots.get(at)) {
                prefetch(&self.windows, later as usize);
            }
            let live = self[slot].live;
            let scheduled = self.scheduled(slot, other);
            if live && *scheduled == time {
                *scheduled = NEVER;
                return Some((time, slot));
            }
        }
    }

    pub fn prefetch_head(&self, key: u32) {
        prefetch(&self.heads, key as usize);
    }

    /// Asks for the memory of the first windows of keys that are going to be needed.
    #[inline]
    pub fn prefetch(&self, keys: &[u32], at: usize) {
        if let Some(&key) = keys.get(at + 2 * AHEAD) {
            prefetch(&self.heads, key as usize);
        }
        if let Some(&slot) = keys.get(at + AHEAD).and_then(|&key| self.heads.get(key as usize)) {
            prefetch(&self.windows, slot as usize);
        }
    }
}
