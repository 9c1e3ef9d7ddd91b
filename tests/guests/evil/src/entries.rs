//! Lists and maps, used as they should be and not.

use crate::exports::tidemill::operator::keyed::{Effects, EntryUpdate};
use crate::rows::{le, offsets, u32s};
use crate::tidemill::operator::state;
use crate::tidemill::operator::types::Column;

/// Index of the map in `keyed`, and of the list.
const SEEN: u16 = 2;
const TRAIL: u16 = 3;

fn words(words: &[&str]) -> Column {
    let ends = words.iter().scan(0, |end, word| {
        *end += word.len() as i32;
        Some(*end)
    });
    let ends: Vec<i32> = std::iter::once(0).chain(ends).collect();
    Column { validity: vec![], offsets: offsets(&ends), data: words.concat().into_bytes() }
}

fn numbers(numbers: &[i64]) -> Column {
    Column { validity: vec![], offsets: vec![], data: le(numbers.iter().copied(), i64::to_le_bytes) }
}

/// Modes that begin with `entry` change two entries. Expects two keys.
pub fn change(mode: &str, effects: &mut Effects) {
    if !mode.starts_with("entr") {
        return;
    }
    let mut update = EntryUpdate {
        state: SEEN,
        clears: u32s(&[1]),
        key_index: u32s(&[0, 1]),
        entry_keys: vec![words(&["a", "b"])],
        values: numbers(&[1, 2]),
    };
    match mode {
        "entry-delete" => update.values.validity = vec![0b01],
        "entry-state" => update.state = 9,
        "entry-of-value" => update.state = 0,
        "entry-of-list" => update.state = TRAIL,
        "entry-key-range" => update.key_index = u32s(&[0, 2]),
        "entry-key-odd" => update.key_index = vec![0; 7],
        "entry-clears" => update.clears = u32s(&[7]),
        "entry-no-keys" => update.entry_keys.clear(),
        "entry-two-keys" => update.entry_keys.push(words(&["a", "b"])),
        "entry-null-key" => update.entry_keys[0].validity = vec![0b10],
        "entry-long-key" => update.entry_keys[0] = words(&["a", &"b".repeat(5000)]),
        "entry-short" => update.values = numbers(&[1]),
        "entries-list-null" => {
            (update.state, update.entry_keys) = (TRAIL, vec![]);
            update.values.validity = vec![0b01];
        }
        "entries-list" => (update.state, update.entry_keys) = (TRAIL, vec![]),
        _ => {}
    }
    effects.entries.push(update);
}

/// Modes that begin with `read` ask for entries.
pub fn read(mode: &str) {
    match mode {
        "read" => drop(state::get_many(SEEN, &u32s(&[0, 1]), &words(&["a", "b"]))),
        "read-state" => drop(state::get_many(9, &u32s(&[0]), &words(&["a"]))),
        "read-value" => drop(state::get_many(0, &u32s(&[0]), &words(&["a"]))),
        "read-key" => drop(state::get_many(SEEN, &u32s(&[2]), &words(&["a"]))),
        "read-odd" => drop(state::get_many(SEEN, &[0; 7], &words(&["a"]))),
        "read-short" => drop(state::get_many(SEEN, &u32s(&[0, 1]), &words(&["a"]))),
        "read-type" => drop(state::get_many(SEEN, &u32s(&[0]), &numbers(&[1]))),
        "read-scan" => {
            let found = state::scan(SEEN, &u32s(&[0, 1]), None, 10);
            assert_eq!((found.index, found.more), (u32s(&[0, 1]), false));
            assert_eq!((found.entry_keys.data, found.values.data), (b"xy".to_vec(), numbers(&[1, 2]).data));
        }
        "read-scan-key" => drop(state::scan(SEEN, &u32s(&[2]), None, 10)),
        "read-scan-after" => drop(state::scan(SEEN, &u32s(&[0, 1]), Some(&words(&["a"])), 10)),
        "read-scan-list" => drop(state::scan(TRAIL, &u32s(&[0]), Some(&words(&["a"])), 10)),
        _ => {}
    }
}
