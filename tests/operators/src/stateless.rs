//! Filters and maps: carried and replaced columns, several rows per row, side outputs, several inputs, event time.

use std::time::Duration;

use tidemill_sdk::prelude::*;

#[derive(Row)]
pub struct Number {
    n: i64,
}

/// Keeps even numbers.
#[derive(Filter)]
pub struct Even;

impl FilterOperator for Even {
    type In<'a> = Number;

    fn keep(&mut self, row: Number) -> Result<bool> {
        Ok(row.n % 2 == 0)
    }
}

/// `square` is new, `n` takes the place of the column that came in.
#[derive(Row)]
#[row(carry)]
pub struct Squared {
    square: i64,
    n: i64,
}

/// Carries all columns, adds one, replaces one.
#[derive(Map)]
pub struct Square;

impl MapOperator for Square {
    type In<'a> = Number;
    type Out<'a> = Squared;

    fn process(&mut self, row: Number, ctx: &mut Context<Self>) -> Result<()> {
        ctx.emit(Squared { square: row.n * row.n, n: -row.n });
        Ok(())
    }
}

#[derive(Row)]
pub struct Text<'a> {
    text: Option<&'a str>,
}

#[derive(Row)]
pub struct Word<'a> {
    word: &'a str,
    position: u32,
}

/// A row for each word of a text: none for null and for blanks.
#[derive(Map)]
pub struct Words;

impl MapOperator for Words {
    type In<'a> = Text<'a>;
    type Out<'a> = Word<'a>;

    fn process(&mut self, row: Text<'_>, ctx: &mut Context<Self>) -> Result<()> {
        for (position, word) in row.text.unwrap_or_default().split_whitespace().enumerate() {
            ctx.emit(Word { word, position: position as u32 });
        }
        Ok(())
    }
}

#[derive(Row)]
#[row(carry)]
pub struct Unchanged {}

#[derive(Row)]
pub struct Digits<'a> {
    digits: &'a str,
    length: u8,
}

#[derive(Ports)]
pub enum Routed<'a> {
    Small(Unchanged),
    Large(Digits<'a>),
    Negative(Unchanged),
}

/// Small numbers go to the main output, large ones (from setting `limit` on) and negative ones to side outputs, and
/// negative ones that are large also there.
#[derive(Map)]
pub struct Route {
    limit: i64,
}

impl MapOperator for Route {
    type In<'a> = Number;
    type Out<'a> = Routed<'a>;

    fn open(&mut self, config: &Config<'_>) -> Result<()> {
        self.limit = config.get("limit")?;
        Ok(())
    }

    fn process(&mut self, row: Number, ctx: &mut Context<Self>) -> Result<()> {
        if row.n < 0 {
            ctx.emit(Routed::Negative(Unchanged {}));
        }
        if row.n.abs() >= self.limit {
            let digits = row.n.abs().to_string();
            ctx.emit(Routed::Large(Digits { digits: &digits, length: digits.len() as u8 }));
        } else if row.n >= 0 {
            ctx.emit(Routed::Small(Unchanged {}));
        }
        Ok(())
    }
}

#[derive(Row)]
pub struct Left<'a> {
    id: i64,
    name: &'a str,
}

#[derive(Row)]
pub struct Right {
    id: i64,
    price: f64,
}

#[derive(Ports)]
pub enum Sides<'a> {
    Left(Left<'a>),
    Right(Right),
}

#[derive(Row)]
pub struct Merged<'a> {
    side: &'a str,
    id: i64,
    name: Option<&'a str>,
    price: Option<f64>,
}

/// Two inputs with different columns become one output.
#[derive(Map)]
pub struct Merge;

impl MapOperator for Merge {
    type In<'a> = Sides<'a>;
    type Out<'a> = Merged<'a>;

    fn process(&mut self, row: Sides<'_>, ctx: &mut Context<Self>) -> Result<()> {
        ctx.emit(match row {
            Sides::Left(row) => Merged { side: "left", id: row.id, name: Some(row.name), price: None },
            Sides::Right(row) => Merged { side: "right", id: row.id, name: None, price: Some(row.price) },
        });
        Ok(())
    }
}

#[derive(Row)]
#[row(carry)]
pub struct Stamped {
    time: Option<i64>,
}

/// Shows the event time of each row; with setting `shift` the row goes on with a later one.
#[derive(Map)]
#[operator(time)]
pub struct Stamp {
    shift_ms: Option<i64>,
}

impl MapOperator for Stamp {
    type In<'a> = Number;
    type Out<'a> = Stamped;

    fn open(&mut self, config: &Config<'_>) -> Result<()> {
        self.shift_ms = config.optional::<Duration>("shift")?.map(|shift| shift.as_millis() as i64);
        Ok(())
    }

    fn process(&mut self, _row: Number, ctx: &mut Context<Self>) -> Result<()> {
        let time = ctx.timestamp();
        match (time, self.shift_ms) {
            (Some(time), Some(shift)) => ctx.emit_at(Stamped { time: Some(time) }, time + shift),
            _ => ctx.emit(Stamped { time }),
        }
        Ok(())
    }
}
