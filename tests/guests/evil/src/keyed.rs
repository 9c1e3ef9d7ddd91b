//! Keyed operators, honest and not.

use crate::exports::tidemill::operator::keyed::{
    Domain, DueTimers, Effects, Guest, KeyedBatch, Keys, StateUpdate, TimerChanges,
};
use crate::exports::tidemill::operator::lifecycle::OpError;
use crate::rows::{good, i64s, le, u32s};
use crate::tidemill::operator::types::{Batch, Column, Output, RowError};
use crate::{Evil, SELF, mode};

impl Guest for Evil {
    fn process(input: KeyedBatch) -> Result<Effects, OpError> {
        if SELF.with_borrow(|s| s.0 == "echo_keyed") {
            let states = input.keys.states.into_iter().enumerate();
            let updates = states.map(|(i, values)| StateUpdate { state: i as u16, key_index: vec![], values });
            let timers = TimerChanges {
                domain: Domain::Processing,
                times: le(0..(input.key_index.len() / 4) as i64, i64::to_le_bytes),
                deletes: vec![],
                key_index: input.key_index,
            };
            let output = Output { port: 0, rows: input.rows, parents: vec![] };
            let keys = RowError { row: 0, message: describe_keys(&input.keys.columns) };
            return Ok(Effects {
                outputs: vec![output],
                updates: updates.collect(),
                entries: vec![],
                timers: vec![timers],
                errors: vec![keys],
            });
        }
        if SELF.with_borrow(|s| s.0 == "shared") {
            return Ok(crate::shared::process(&mode(), &input));
        }
        crate::ruin::before(&mode(), &input.rows)?;
        let mut effects = count(&input.keys);
        effects.outputs.push(good(input.rows.rows));
        spoil(&mode(), &mut effects);
        crate::entries::change(&mode(), &mut effects);
        crate::entries::read(&mode());
        Ok(effects)
    }

    /// One row for each timer on port `side`: its time.
    fn on_timers(due: DueTimers) -> Result<Effects, OpError> {
        let count = (due.times.len() / 8) as u32;
        if mode() == "timers-loop" {
            crate::ruin::forever();
        }
        let again = TimerChanges {
            domain: due.domain,
            key_index: due.key_index,
            times: due.times.clone(),
            deletes: (0..count).map(|i| (i % 2) as u8).collect(),
        };
        let times = Column { validity: vec![], offsets: vec![], data: due.times };
        let rows = Batch { rows: count, times: vec![], kinds: vec![], columns: vec![times] };
        let output = Output { port: 1, rows, parents: vec![] };
        Ok(Effects { outputs: vec![output], updates: vec![], entries: vec![], timers: vec![again], errors: vec![] })
    }

    fn migrate_state(_name: String, _from: u32, values: Column) -> Result<Column, OpError> {
        Ok(values)
    }
}

fn describe_keys(columns: &[Column]) -> String {
    columns.iter().map(|c| format!("{:?}", i64s(&c.data))).collect()
}

/// Adds one to the count of each key.
fn count(keys: &Keys) -> Effects {
    let counts = i64s(&keys.states[0].data).into_iter().map(|n| n + 1);
    let values = Column { validity: vec![], offsets: vec![], data: le(counts, i64::to_le_bytes) };
    let update = StateUpdate { state: 0, key_index: vec![], values };
    let timers = TimerChanges {
        domain: Domain::Event,
        key_index: u32s(&[0, 1]),
        times: le([100, 200], i64::to_le_bytes),
        deletes: vec![0, 1],
    };
    Effects { outputs: vec![], updates: vec![update], entries: vec![], timers: vec![timers], errors: vec![] }
}

/// Expects two keys.
fn spoil(mode: &str, effects: &mut Effects) {
    let (update, timers) = (&mut effects.updates[0], &mut effects.timers[0]);
    match mode {
        "state" => update.state = 9,
        "state-type" => update.state = 1,
        "key-range" => update.key_index = u32s(&[0, 2]),
        "key-twice" => update.key_index = u32s(&[1, 1]),
        "key-odd" => update.key_index = vec![0; 7],
        "key-back" => update.key_index = u32s(&[1, 0]),
        "values-short" => drop(update.values.data.drain(..8)),
        "delete" => update.values.validity = vec![0b01],
        "timer-key" => timers.key_index = u32s(&[0, 9]),
        "timer-times" => timers.times.truncate(8),
        "timer-deletes" => timers.deletes.truncate(1),
        "timer-mark" => timers.deletes[0] = 7,
        _ => {}
    }
}
