//! Resident keys with their values: the write-back cache before the databases.
//!
//! Laws: a slot in use has the mark `RESIDENT`; `STORED` means that the databases have the key, `DIRTY` that what is here is
//! newer, `FORGOTTEN` that the key is gone but still stored. Pinned keys are never chosen to leave.

use arrow::array::ArrayRef;
use tidemill_model::Fault;
use tidemill_model::component::StateDescriptor;
use tidemill_model::state::Slot;

use super::layout::Reader;
use super::rows::Rows;
use crate::heap::keys::KeyTable;

const RESIDENT: u32 = 1 << 31;
/// Used since the hand has passed.
const RECENT: u32 = 1 << 30;
const DIRTY: u32 = 1 << 29;
const STORED: u32 = 1 << 28;
const FORGOTTEN: u32 = 1 << 27;
/// About to leave.
const CHOSEN: u32 = 1 << 26;
/// The rest counts pins.
const PINS: u32 = CHOSEN - 1;

/// Bytes of a key beside its values: its place in a hash table that is half full, its bytes, tag, flags and marks.
const KEY_BYTES: usize = 40 + 9 + 4 + 1 + 4;
/// Length of keys that are kept without an allocation of their own.
const SHORT: usize = 9;
/// What an allocation for a longer key costs beside its bytes.
const LONG_BYTES: usize = 24;

/// How a key leaves for the databases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaving {
    /// As a row that they don't have yet, or do have.
    New,
    Row,
    /// They are to remove it.
    Gone,
}

pub(super) struct Cache {
    pub keys: KeyTable,
    pub rows: Rows,
    /// By slot.
    marks: Vec<u32>,
    /// The slot that eviction looks at next.
    hand: usize,
    /// The slot that writing out looks at next.
    broom: usize,
    /// Resident keys with the mark `STORED`, `FORGOTTEN`, `DIRTY`.
    stored: usize,
    forgotten: usize,
    dirty: usize,
    /// Bytes of keys longer than [`SHORT`].
    long_bytes: usize,
}

impl Cache {
    pub fn new(states: &[StateDescriptor]) -> Result<Self, Fault> {
        let rows = Rows::new(states)?;
        let (keys, marks) = (KeyTable::default(), Vec::new());
        Ok(Self { keys, rows, marks, hand: 0, broom: 0, stored: 0, forgotten: 0, dirty: 0, long_bytes: 0 })
    }

    /// Resident keys that exist, less those that the databases have as well.
    pub fn surplus(&self) -> isize {
        (self.keys.len() - self.forgotten) as isize - self.stored as isize
    }

    pub fn bytes(&self) -> usize {
        self.keys.len() * (KEY_BYTES + self.rows.slot_bytes()) + self.rows.variable_bytes() + self.long_bytes
    }

    /// Notes that slots were asked for. Those of keys that were not resident are appended to `missing`.
    pub fn touch(&mut self, slots: &[Slot], missing: &mut Vec<Slot>) {
        let capacity = self.keys.capacity();
        if capacity > self.marks.len() {
            self.marks.resize(capacity, 0);
            self.rows.grow(capacity);
        }
        for &slot in slots {
            let marks = &mut self.marks[slot as usize];
            if *marks & (RESIDENT | FORGOTTEN) == RESIDENT {
                *marks |= RECENT;
            } else if *marks & RESIDENT == 0 {
                *marks = RESIDENT | RECENT;
                self.long_bytes += long_bytes(self.keys.key(slot));
                missing.push(slot);
            } else {
                *marks = *marks & !FORGOTTEN | RECENT;
                self.forgotten -= 1;
            }
        }
    }

    /// A missing key was found. `None`: its row is broken.
    pub fn load(&mut self, slot: Slot, readers: &[Reader], row: &[u8]) -> Option<()> {
        self.marks[slot as usize] |= STORED;
        self.stored += 1;
        self.rows.decode(slot, readers, row)
    }

    #[inline]
    pub fn scatter(&mut self, state: usize, slots: &[Slot], values: &ArrayRef) -> Result<(), Fault> {
        self.rows.scatter(state, slots, values)?;
        for &slot in slots {
            self.set_dirty(slot);
        }
        Ok(())
    }

    #[inline(always)]
    pub fn set_dirty(&mut self, slot: Slot) {
        let marks = &mut self.marks[slot as usize];
        self.dirty += usize::from(*marks & DIRTY == 0);
        *marks |= DIRTY;
    }

    pub fn dirty(&self) -> usize {
        self.dirty
    }

    pub fn pin(&mut self, slot: Slot) {
        self.marks[slot as usize] += 1;
    }

    pub fn unpin(&mut self, slot: Slot) {
        self.marks[slot as usize] -= 1;
    }

    /// Forgets those that have neither values nor pins. If the databases are `behind`, they may still have what counts as removed.
    pub fn release(&mut self, slots: &[Slot], behind: bool) {
        for &slot in slots {
            let marks = self.marks[slot as usize];
            if marks & (RESIDENT | FORGOTTEN | PINS) != RESIDENT || !self.rows.is_empty(slot) {
                continue;
            }
            if marks & STORED == 0 && !behind {
                self.drop(slot);
            } else {
                // Kept until the databases have removed it: else they would give back what they still have.
                self.marks[slot as usize] |= FORGOTTEN;
                self.set_dirty(slot);
                self.forgotten += 1;
            }
        }
    }

    /// Whether the key is gone and only here so that the databases hear of it.
    pub fn is_forgotten(&self, slot: Slot) -> bool {
        self.marks[slot as usize] & FORGOTTEN > 0
    }

    /// From now on rows hold these states. Slots of keys that have lost their last value are to be released.
    pub fn redescribe(&mut self, from: &[StateDescriptor], to: &[StateDescriptor]) -> Result<Vec<Slot>, Fault> {
        let rows = self.rows.redescribed(from, to, self.marks.len())?;
        let before = std::mem::replace(&mut self.rows, rows);
        let mut bare = Vec::new();
        if from.iter().all(|state| to.contains(state)) {
            return Ok(bare);
        }
        for slot in 0..self.marks.len() as Slot {
            if self.marks[slot as usize] & RESIDENT > 0 && self.rows.is_empty(slot) && !before.is_empty(slot) {
                // What is stored of it has no value any more either.
                self.set_dirty(slot);
                bare.push(slot);
            }
        }
        Ok(bare)
    }

    /// Resident keys from a slot on that have a value of a state.
    pub fn having(&self, state: usize, from: Slot) -> impl Iterator<Item = Slot> {
        let in_use = |slot: &Slot| self.marks[*slot as usize] & (RESIDENT | FORGOTTEN) == RESIDENT;
        (from..self.marks.len() as Slot).filter(in_use).filter(move |&slot| self.rows.has(state, slot))
    }

    /// Chooses keys that were not used lately, until `bytes` would be free, or as many as there are.
    pub fn choose(&mut self, bytes: usize, chosen: &mut Vec<Slot>) {
        let each = KEY_BYTES + self.rows.slot_bytes();
        let per_key = each + (self.rows.variable_bytes() + self.long_bytes) / self.keys.len().max(1);
        let count = bytes.div_ceil(per_key);
        // Twice around: the first time takes the marks away, the second time the keys.
        for _ in 0..self.marks.len() * 2 {
            if chosen.len() >= count {
                break;
            }
            self.hand = if self.hand + 1 < self.marks.len() { self.hand + 1 } else { 0 };
            let marks = &mut self.marks[self.hand];
            // One that is neither dirty nor stored nor forgotten has no values yet: a call holds it.
            if *marks & (PINS | CHOSEN) > 0 || *marks & (DIRTY | STORED | FORGOTTEN) == 0 {
                continue;
            }
            if *marks & RECENT > 0 {
                *marks &= !RECENT;
            } else {
                *marks |= CHOSEN;
                chosen.push(self.hand as Slot);
            }
        }
    }

    /// Slots whose values the databases don't have yet, `count` of them. Those come first that leave next.
    pub fn sweep(&mut self, count: usize, slots: &mut Vec<Slot>) {
        for _ in 0..self.marks.len() {
            if slots.len() >= count {
                break;
            }
            self.broom = if self.broom + 1 < self.marks.len() { self.broom + 1 } else { 0 };
            if self.marks[self.broom] & DIRTY > 0 {
                slots.push(self.broom as Slot);
            }
        }
    }

    /// Hands a slot's values to the databases, if they are newer. What comes back is as good as stored.
    pub fn clean(&mut self, slot: Slot) -> Option<Leaving> {
        let marks = &mut self.marks[slot as usize];
        let before = *marks;
        *marks &= !DIRTY;
        if before & DIRTY == 0 {
            return None;
        }
        self.dirty -= 1;
        if !self.rows.is_empty(slot) {
            *marks |= STORED;
            let new = before & STORED == 0;
            self.stored += usize::from(new);
            return Some(if new { Leaving::New } else { Leaving::Row });
        }
        *marks &= !STORED;
        let gone = before & STORED > 0;
        self.stored -= usize::from(gone);
        gone.then_some(Leaving::Gone)
    }

    /// Frees a slot. Its values, if there are any, are stored.
    pub fn drop(&mut self, slot: Slot) {
        let marks = std::mem::replace(&mut self.marks[slot as usize], 0);
        self.stored -= usize::from(marks & STORED > 0);
        self.forgotten -= usize::from(marks & FORGOTTEN > 0);
        self.dirty -= usize::from(marks & DIRTY > 0);
        self.long_bytes -= long_bytes(self.keys.key(slot));
        self.rows.clear(slot);
        self.keys.forget(slot);
    }
}

fn long_bytes(key: &[u8]) -> usize {
    if key.len() == SHORT { 0 } else { key.len() + LONG_BYTES }
}
