//! The distinct keys of a call, found in O(1) per row.
//!
//! Law: within a call, equal slots have equal indices, given in order of first appearance.

use tidemill_model::state::Slot;

/// Finds the distinct keys of a call: one mark per slot, with the number of the call it was made in, so that
/// nothing has to be cleared between calls.
#[derive(Default)]
pub(super) struct Distinct {
    /// Call number in the high half, index of the key within the call in the low half.
    marks: Vec<u64>,
    call: u32,
    count: u32,
    /// Memory of earlier calls.
    buffers: Vec<Vec<u32>>,
}

/// The keys of one call.
pub(super) struct CallKeys {
    /// For each row the index of its key.
    pub index: Vec<u32>,
    pub slots: Vec<Slot>,
    /// For each key the first row that has it.
    pub first_rows: Vec<u32>,
}

impl Distinct {
    pub fn begin(&mut self) {
        if self.call == u32::MAX {
            self.marks.fill(0);
            self.call = 0;
        }
        self.call += 1;
        self.count = 0;
    }

    /// Index of a key in this call, and whether it is new in it.
    #[inline]
    pub fn add(&mut self, slot: Slot) -> (u32, bool) {
        let slot = slot as usize;
        if slot >= self.marks.len() {
            self.marks.resize((slot + 1).next_power_of_two(), 0);
        }
        let mark = self.marks[slot];
        if (mark >> 32) as u32 == self.call {
            return (mark as u32, false);
        }
        let index = self.count;
        self.marks[slot] = u64::from(self.call) << 32 | u64::from(index);
        self.count += 1;
        (index, true)
    }

    pub fn index(&mut self, row_slots: &[Slot]) -> CallKeys {
        self.begin();
        let mut index = Vec::with_capacity(row_slots.len());
        let (mut slots, mut first_rows) = (self.take_buffer(), self.take_buffer());
        for (row, &slot) in row_slots.iter().enumerate() {
            let (key, new) = self.add(slot);
            index.push(key);
            if new {
                slots.push(slot);
                first_rows.push(row as u32);
            }
        }
        CallKeys { index, slots, first_rows }
    }

    pub fn take_buffer(&mut self) -> Vec<u32> {
        let mut buffer = self.buffers.pop().unwrap_or_default();
        buffer.clear();
        buffer
    }

    pub fn give_back(&mut self, buffer: Vec<u32>) {
        self.buffers.push(buffer);
    }

    pub fn recycle(&mut self, slots: Vec<Slot>, first_rows: Vec<u32>) {
        self.give_back(slots);
        self.give_back(first_rows);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_call_numbers_its_keys_anew() {
        let mut distinct = Distinct::default();
        for _ in 0..3 {
            for (slots, index, keys, first_rows) in [
                (&[7, 3, 7, 7, 0, 3][..], &[0, 1, 0, 0, 2, 1][..], &[7, 3, 0][..], &[0, 1, 4][..]),
                (&[3, 100], &[0, 1], &[3, 100], &[0, 1]),
                (&[], &[], &[], &[]),
            ] {
                let found = distinct.index(slots);
                assert_eq!((&found.index[..], &found.slots[..], &found.first_rows[..]), (index, keys, first_rows));
                distinct.recycle(found.slots, found.first_rows);
            }
        }
    }

    #[test]
    fn the_call_counter_may_wrap() {
        let mut distinct = Distinct { call: u32::MAX - 1, ..Distinct::default() };
        for _ in 0..3 {
            assert_eq!(distinct.index(&[1, 0, 1]).index, [0, 1, 0]);
        }
    }
}
