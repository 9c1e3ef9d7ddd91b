//! Every column type, null and not null, nested: in and out unchanged.

use tidemill_sdk::prelude::*;

#[derive(Row)]
pub struct Point {
    x: i32,
    y: Option<f64>,
}

#[derive(Row)]
pub struct All<'a> {
    id: i64,
    bool: Option<bool>,
    i8: Option<i8>,
    i16: Option<i16>,
    i32: Option<i32>,
    i64: Option<i64>,
    u8: Option<u8>,
    u16: Option<u16>,
    u32: Option<u32>,
    u64: Option<u64>,
    f32: Option<f32>,
    f64: Option<f64>,
    text: Option<&'a str>,
    bytes: Option<&'a [u8]>,
    at_s: Option<TimestampS>,
    at: Option<Timestamp>,
    at_us: Option<TimestampUs>,
    at_ns: Option<TimestampNs>,
    day: Option<Date>,
    price: Option<Decimal128<10, 2>>,
    numbers: Option<Vec<Option<i64>>>,
    names: Option<List<'a, &'a str>>,
    point: Option<Point>,
    path: Option<Vec<Point>>,
}

/// Sends every row on as it is, through the row types of the SDK.
#[derive(Map)]
pub struct Echo;

impl MapOperator for Echo {
    type In<'a> = All<'a>;
    type Out<'a> = All<'a>;

    fn process(&mut self, row: All<'_>, ctx: &mut Context<Self>) -> Result<()> {
        ctx.emit(row);
        Ok(())
    }
}
