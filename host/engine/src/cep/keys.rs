//! Keys with partial matches. A key without any is not here.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use hashbrown::{HashMap, HashTable};
use tidemill_cep::{EventId, KeyState};

use super::rows::Row;

/// A key with partial matches.
#[derive(Default)]
pub(super) struct Key {
    pub bytes: Arc<[u8]>,
    pub hash: u64,
    pub state: KeyState,
    /// Rows of the events in them.
    pub events: HashMap<EventId, Row>,
    /// The earliest time at which it is looked at.
    planned: Option<i64>,
}

#[derive(Default)]
pub(super) struct Keys {
    table: HashTable<u32>,
    keys: Vec<Key>,
    free: Vec<u32>,
    /// When keys are to be looked at: at their deadline, or before. A key that has gone stays here until then.
    plan: BinaryHeap<Reverse<(i64, u32)>>,
}

impl Keys {
    pub fn len(&self) -> usize {
        self.table.len()
    }

    pub fn find(&self, hash: u64, bytes: &[u8]) -> Option<u32> {
        self.table.find(hash, |&slot| *self.keys[slot as usize].bytes == *bytes).copied()
    }

    pub fn add(&mut self, hash: u64, bytes: &[u8]) -> u32 {
        let key = Key { bytes: bytes.into(), hash, ..Key::default() };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.keys[slot as usize] = key;
                slot
            }
            None => {
                self.keys.push(key);
                (self.keys.len() - 1) as u32
            }
        };
        let keys = &self.keys;
        self.table.insert_unique(hash, slot, |&slot| keys[slot as usize].hash);
        slot
    }

    pub fn get(&mut self, slot: u32) -> &mut Key {
        &mut self.keys[slot as usize]
    }

    /// After something was done with a key: forgets it, or plans when to look at it again.
    pub fn done(&mut self, slot: u32) {
        let key = &mut self.keys[slot as usize];
        if key.state.is_idle() {
            let hash = key.hash;
            *key = Key::default();
            if let Ok(entry) = self.table.find_entry(hash, |&other| other == slot) {
                entry.remove();
            }
            self.free.push(slot);
        } else if let Some(deadline) = key.state.deadline()
            && key.planned.is_none_or(|planned| deadline < planned)
        {
            key.planned = Some(deadline);
            self.plan.push(Reverse((deadline, slot)));
        }
    }

    /// A key whose deadline has been reached.
    pub fn next_due(&mut self, watermark: i64) -> Option<u32> {
        while let Some(&Reverse((time, slot))) = self.plan.peek().filter(|next| next.0.0 <= watermark) {
            self.plan.pop();
            let key = &mut self.keys[slot as usize];
            // An earlier key may have had the slot, or the plan has changed.
            if key.planned != Some(time) {
                continue;
            }
            key.planned = None;
            if key.state.deadline().is_some_and(|deadline| deadline <= watermark) {
                return Some(slot);
            }
            self.done(slot);
        }
        None
    }

    pub fn slots(&self) -> impl Iterator<Item = u32> {
        self.table.iter().copied()
    }

    pub fn all(&self) -> impl Iterator<Item = &Key> {
        self.table.iter().map(|&slot| &self.keys[slot as usize])
    }
}
