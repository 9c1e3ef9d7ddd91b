//! Operators that refuse some rows and die of others: negative numbers are errors, 13 is a panic.

use tidemill_sdk::prelude::*;

#[derive(Row)]
pub struct Number {
    n: i64,
}

#[derive(Row)]
#[row(carry)]
pub struct Root {
    root: f64,
}

fn check(n: i64) -> Result<()> {
    ensure!(n >= 0, "{n} is negative");
    assert!(n != 13, "13 is poison");
    Ok(())
}

/// The square root of a number.
#[derive(Map)]
pub struct Fussy;

impl MapOperator for Fussy {
    type In<'a> = Number;
    type Out<'a> = Root;

    fn process(&mut self, row: Number, ctx: &mut Context<Self>) -> Result<()> {
        // Emitted before the check: what a row that fails has emitted must not come out.
        ctx.emit(Root { root: (row.n as f64).abs().sqrt() });
        check(row.n)
    }
}

/// Keeps numbers below 100.
#[derive(Filter)]
pub struct FussyFilter;

impl FilterOperator for FussyFilter {
    type In<'a> = Number;

    fn keep(&mut self, row: Number) -> Result<bool> {
        check(row.n)?;
        Ok(row.n < 100)
    }
}

#[derive(Row)]
#[row(carry)]
pub struct Counted {
    count: u64,
}

/// Counts the rows of a key that were not refused.
#[derive(Keyed)]
pub struct FussyCount {
    count: Value<u64>,
}

impl KeyedOperator for FussyCount {
    type In<'a> = Number;
    type Out<'a> = Counted;

    fn process(&mut self, row: Number, ctx: &mut Context<Self>) -> Result<()> {
        let count = self.count.get_or_default() + 1;
        // Before the check, too: the state of a row that fails must not stay.
        self.count.set(count);
        ctx.emit(Counted { count });
        check(row.n)
    }
}
