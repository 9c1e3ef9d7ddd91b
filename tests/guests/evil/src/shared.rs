//! States that belong to no key, used as they should be and not.

use crate::exports::tidemill::operator::keyed::{Domain, Effects, EntryUpdate, KeyedBatch, StateUpdate, TimerChanges};
use crate::rows::{i64s, le, u32s};
use crate::tidemill::operator::types::{Batch, Column, Output};

/// States of `shared`: a value of each key, a broadcast value, a broadcast list, a list of the worker.
const COUNT: u16 = 0;
const TOTAL: u16 = 1;
const RULES: u16 = 2;
const PARKED: u16 = 3;
/// Its broadcast input.
const TO_ALL: u16 = 1;

fn numbers(numbers: &[i64]) -> Column {
    Column { validity: vec![], offsets: vec![], data: le(numbers.iter().copied(), i64::to_le_bytes) }
}

/// A row for all adds to the total and the rules; other rows are parked. What is read is checked.
pub fn process(mode: &str, input: &KeyedBatch) -> Effects {
    let mut effects = Effects { outputs: vec![], updates: vec![], entries: vec![], timers: vec![], errors: vec![] };
    let add = |state, key_index: &[u32], values: &[i64]| EntryUpdate {
        state,
        clears: vec![],
        key_index: u32s(key_index),
        entry_keys: vec![],
        values: numbers(values),
    };
    let set = |state, key_index: &[u32], values: &[i64]| StateUpdate {
        state,
        key_index: u32s(key_index),
        values: numbers(values),
    };
    let of_all = input.input == TO_ALL;
    assert_eq!(input.key_index.is_empty(), of_all, "rows for all have no key");
    assert_eq!(input.keys.states[usize::from(TOTAL)].data.len(), 8, "one value, whatever the number of keys");
    // What all know; a row for all itself.
    let total = input.keys.states[usize::from(TOTAL)].clone();
    let known = if total.validity == [0] { 0 } else { -i64s(&total.data)[0] };
    let columns =
        if of_all { input.rows.columns.clone() } else { vec![numbers(&vec![known; input.rows.rows as usize])] };
    let rows = Batch { rows: input.rows.rows, times: vec![], kinds: vec![], columns };
    effects.outputs.push(Output { port: 1, rows, parents: vec![] });
    match of_all {
        true => {
            effects.updates.push(set(TOTAL, &[], &[7]));
            effects.entries.push(add(RULES, &[0, 0], &[1, 2]));
        }
        false => effects.entries.push(add(PARKED, &[0], &[3])),
    }
    match mode {
        "all-value" => effects.updates.push(set(TOTAL, &[0], &[1])),
        "all-entry" => effects.entries.push(add(RULES, &[0], &[1])),
        "all-clear" => effects.entries.push(EntryUpdate { clears: u32s(&[0]), ..add(RULES, &[], &[]) }),
        "value-key" => effects.updates.push(set(TOTAL, &[1], &[1])),
        "value-two" => effects.updates.push(set(TOTAL, &[], &[1, 2])),
        "entry-key" => effects.entries.push(add(PARKED, &[1], &[1])),
        "clear-key" => effects.entries.push(EntryUpdate { clears: u32s(&[1]), ..add(PARKED, &[], &[]) }),
        "nobodys-value" => effects.updates.push(set(COUNT, &[0], &[1])),
        "nobodys-timer" => effects.timers.push(TimerChanges {
            domain: Domain::Event,
            key_index: u32s(&[0]),
            times: le([100], i64::to_le_bytes),
            deletes: vec![],
        }),
        _ => {}
    }
    effects
}
