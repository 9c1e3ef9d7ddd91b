//! State: a count under any key, values of every shape, and two inputs that meet in one state.

use tidemill_sdk::prelude::*;
use tidemill_sdk::serde::{Deserialize, Serialize};

#[derive(Row)]
pub struct Any {}

#[derive(Row)]
#[row(carry)]
pub struct Counted {
    count: i64,
}

/// Rows of the key so far, for each row. It reads no column, so any stream and any key will do.
#[derive(Keyed)]
pub struct Count {
    count: Value<i64>,
}

impl KeyedOperator for Count {
    type In<'a> = Any;
    type Out<'a> = Counted;

    fn process(&mut self, _row: Any, ctx: &mut Context<Self>) -> Result<()> {
        let count = self.count.get_or_default() + 1;
        self.count.set(count);
        ctx.emit(Counted { count });
        Ok(())
    }
}

#[derive(Row)]
pub struct Visit<'a> {
    user: &'a str,
    page: Option<&'a str>,
    amount: f64,
}

#[derive(Row)]
pub struct Seen<'a> {
    user: &'a str,
    again: bool,
    visits: u8,
    total: f64,
    largest: Option<f32>,
    pages: &'a str,
    trail: &'a [u8],
    last: Option<&'a str>,
    balance: i64,
}

/// A value that stands in its column as postcard.
#[derive(Serialize, Deserialize, Default, Clone)]
#[serde(crate = "tidemill_sdk::serde")]
struct Last {
    page: Option<String>,
    amounts: Vec<i64>,
}

/// State of every shape. The page `forget` clears all of it, `forget-total` one.
#[derive(Keyed)]
pub struct Profile {
    again: Value<bool>,
    visits: Value<u8>,
    total: Value<f64>,
    largest: Value<f32>,
    pages: Value<String>,
    trail: Value<Vec<u8>>,
    #[state(name = "latest", version = 3)]
    last: Value<Last>,
}

impl KeyedOperator for Profile {
    type In<'a> = Visit<'a>;
    type Out<'a> = Seen<'a>;

    fn process(&mut self, row: Visit<'_>, ctx: &mut Context<Self>) -> Result<()> {
        if row.page == Some("forget") {
            self.forget();
        }
        if row.page == Some("forget-total") {
            self.total.clear();
        }
        let (visits, total) = (self.visits.get_or_default() + 1, self.total.get_or_default() + row.amount);
        let largest = self.largest.get().map_or(row.amount as f32, |l| l.max(row.amount as f32));
        let (mut pages, mut trail) = (self.pages.get_or_default(), self.trail.get_or_default());
        pages.push_str(row.page.unwrap_or("-"));
        trail.push(visits);
        let mut last = self.last.get_or_default();
        last.amounts.push(row.amount as i64);
        let before = last.page.take();
        ctx.emit(Seen {
            user: row.user,
            again: self.again.get_or_default(),
            visits,
            total,
            largest: self.largest.get(),
            pages: &pages,
            trail: &trail,
            last: before.as_deref(),
            balance: last.amounts.iter().sum(),
        });
        last.page = row.page.map(str::to_owned);
        self.again.set(true);
        self.visits.set(visits);
        self.total.set(total);
        self.largest.set(largest);
        self.pages.set(pages);
        self.trail.set(trail);
        self.last.set(last);
        Ok(())
    }
}

impl Profile {
    fn forget(&mut self) {
        self.again.clear();
        self.visits.clear();
        self.total.clear();
        self.largest.clear();
        self.pages.clear();
        self.trail.clear();
        self.last.clear();
    }
}

#[derive(Row)]
pub struct Order<'a> {
    order: &'a str,
    item: &'a str,
}

#[derive(Row)]
pub struct Payment<'a> {
    order: &'a str,
    paid: i64,
}

#[derive(Ports)]
pub enum Desk<'a> {
    Orders(Order<'a>),
    Payments(Payment<'a>),
}

#[derive(Row)]
pub struct Ticket<'a> {
    order: &'a str,
    item: &'a str,
    paid: i64,
}

/// An order and its payment become a ticket, whichever comes first.
#[derive(Keyed)]
pub struct Tickets {
    item: Value<String>,
    paid: Value<i64>,
}

impl KeyedOperator for Tickets {
    type In<'a> = Desk<'a>;
    type Out<'a> = Ticket<'a>;

    fn process(&mut self, row: Desk<'_>, ctx: &mut Context<Self>) -> Result<()> {
        let order = match row {
            Desk::Orders(row) => {
                self.item.set(row.item.to_owned());
                row.order
            }
            Desk::Payments(row) => {
                self.paid.set(self.paid.get_or_default() + row.paid);
                row.order
            }
        };
        if let (Some(item), Some(paid)) = (self.item.get(), self.paid.get()) {
            ctx.emit(Ticket { order, item: &item, paid });
            self.item.clear();
            self.paid.clear();
        }
        Ok(())
    }
}

/// How long an order waits for its payment, ms of event time.
const PATIENCE_MS: i64 = 2000;

#[derive(Row)]
pub struct Timed<'a> {
    k: &'a str,
    t: i64,
}

#[derive(Row)]
pub struct Paid<'a> {
    k: &'a str,
    v: f64,
}

#[derive(Ports)]
pub enum Counter<'a> {
    Orders(Timed<'a>),
    Payments(Paid<'a>),
}

#[derive(Row)]
pub struct Name<'a> {
    k: &'a str,
}

#[derive(Row)]
pub struct Settled<'a> {
    k: &'a str,
    what: &'a str,
    time: i64,
    v: Option<f64>,
}

/// Orders with their payments, and those that were not paid in time. `tests/flink/Oracle.java` has the same as a
/// `KeyedCoProcessFunction`.
#[derive(Keyed)]
#[operator(key = Name<'a>)]
pub struct Patience {
    ordered: Value<i64>,
    paid: Value<f64>,
}

impl KeyedOperator for Patience {
    type In<'a> = Counter<'a>;
    type Out<'a> = Settled<'a>;

    fn process(&mut self, row: Counter<'_>, ctx: &mut Context<Self>) -> Result<()> {
        let k = match row {
            Counter::Orders(row) => {
                self.ordered.set(row.t);
                if !self.paid.is_set() {
                    ctx.set_event_timer(row.t + PATIENCE_MS);
                }
                row.k
            }
            Counter::Payments(row) => {
                self.paid.set(row.v);
                row.k
            }
        };
        if let (Some(time), Some(v)) = (self.ordered.get(), self.paid.get()) {
            ctx.emit(Settled { k, what: "paid", time, v: Some(v) });
            ctx.delete_event_timer(time + PATIENCE_MS);
            self.ordered.clear();
            self.paid.clear();
        }
        Ok(())
    }

    fn on_timer(&mut self, timer: Timer<Name<'_>>, ctx: &mut Context<Self>) -> Result<()> {
        ctx.emit(Settled { k: timer.key.k, what: "unpaid", time: timer.time, v: None });
        self.ordered.clear();
        Ok(())
    }
}
