//! State with a time to live.

use tidemill_sdk::prelude::*;

#[derive(Row)]
pub struct Numbered {
    id: i64,
}

#[derive(Row)]
#[row(carry)]
pub struct Remembered {
    /// Whether the key had a row lately. Null in the first rows, whose order several workers do not agree on.
    again: Option<bool>,
    /// Whether the row is remembered that was the first one, or one of the last [`LATELY`]: written once, and read by each row.
    first: Option<bool>,
    /// The same, if it is remembered as long as somebody reads it.
    kept: Option<bool>,
}

/// Rows of all keys in much more time than what is remembered lives.
const LATELY: i64 = 48;
/// So many rows later, whatever their order, the first ones are none of the last.
const FIRST: i64 = 60;

/// What is still known of a key at each of its rows.
#[derive(Keyed)]
pub struct Lately {
    #[state(ttl = "2250ms")]
    rows: Value<i64>,
    #[state(ttl = "2250ms")]
    first: Value<i64>,
    #[state(ttl = "2250ms", ttl_on_read)]
    kept: Value<i64>,
}

impl KeyedOperator for Lately {
    type In<'a> = Numbered;
    type Out<'a> = Remembered;

    fn process(&mut self, row: Numbered, ctx: &mut Context<Self>) -> Result<()> {
        let rows = self.rows.get_or_default() + 1;
        self.rows.set(rows);
        for state in [&mut self.first, &mut self.kept] {
            if !state.is_set() {
                state.set(row.id);
            }
        }
        let is_due = row.id >= FIRST;
        let lately = |state: &Value<i64>| is_due.then(|| row.id - state.get().unwrap_or_default() <= LATELY);
        let (first, kept) = (lately(&self.first), lately(&self.kept));
        ctx.emit(Remembered { again: is_due.then_some(rows > 1), first, kept });
        Ok(())
    }
}

/// The same with a list and maps, whose entries live each for itself.
#[derive(Keyed)]
pub struct LatelyListed {
    #[state(ttl = "2250ms")]
    rows: ListState<i64>,
    #[state(ttl = "2250ms")]
    first: MapState<String, i64>,
    #[state(ttl = "2250ms", ttl_on_read)]
    kept: MapState<u8, i64>,
}

impl KeyedOperator for LatelyListed {
    type In<'a> = Numbered;
    type Out<'a> = Remembered;

    fn process(&mut self, row: Numbered, ctx: &mut Context<Self>) -> Result<()> {
        self.rows.add(row.id);
        let first = self.first.get("first").unwrap_or(row.id);
        if !self.first.contains("first") {
            self.first.put("first", row.id);
        }
        let kept = self.kept.get(&0).unwrap_or(row.id);
        if !self.kept.contains(&0) {
            self.kept.put(&0, row.id);
        }
        // Written at each row, so that the maps themselves go on living.
        self.first.put("latest", row.id);
        let is_due = row.id >= FIRST;
        let lately = |id: i64| is_due.then_some(row.id - id <= LATELY);
        let again = is_due.then(|| self.rows.get().len() > 1);
        ctx.emit(Remembered { again, first: lately(first), kept: lately(kept) });
        Ok(())
    }
}
