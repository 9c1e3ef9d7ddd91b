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
