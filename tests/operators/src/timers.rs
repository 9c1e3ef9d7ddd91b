//! Event-time timers: sessions that end by one, and an interpreter whose rows say what to do with timers.

use std::time::Duration;

use tidemill_sdk::prelude::*;
use tidemill_sdk::serde::{Deserialize, Serialize};

#[derive(Row)]
pub struct Click<'a> {
    user: Option<&'a str>,
    clicks: i64,
}

#[derive(Row)]
pub struct User<'a> {
    user: Option<&'a str>,
}

#[derive(Row)]
pub struct Session<'a> {
    user: Option<&'a str>,
    start: Timestamp,
    end: Timestamp,
    clicks: i64,
}

#[derive(Serialize, Deserialize, Clone, Copy)]
#[serde(crate = "tidemill_sdk::serde")]
struct Open {
    start: i64,
    latest: i64,
    clicks: i64,
}

/// Sessions that end after a `gap` without rows. Rows of a user come in order of time; then the result does not depend
/// on how far the watermark has come between two of them.
#[derive(Keyed)]
#[operator(key = User<'a>, time)]
pub struct Sessions {
    open: Value<Open>,
    gap_ms: i64,
}

impl KeyedOperator for Sessions {
    type In<'a> = Click<'a>;
    type Out<'a> = Session<'a>;

    fn open(&mut self, config: &Config<'_>) -> Result<()> {
        self.gap_ms = config.get::<Duration>("gap")?.as_millis() as i64;
        Ok(())
    }

    fn process(&mut self, row: Click<'_>, ctx: &mut Context<Self>) -> Result<()> {
        let Some(time) = ctx.timestamp() else { bail!("a click without event time") };
        let mut open = self.open.get();
        if let Some(before) = open {
            ctx.delete_event_timer(before.latest + self.gap_ms);
            if time >= before.latest + self.gap_ms {
                self.end(row.user, before, ctx);
                open = None;
            }
        }
        let open = open.unwrap_or(Open { start: time, latest: time, clicks: 0 });
        let open = Open { latest: time, clicks: open.clicks + row.clicks, ..open };
        self.open.set(open);
        ctx.set_event_timer(open.latest + self.gap_ms);
        Ok(())
    }

    fn on_timer(&mut self, timer: Timer<User<'_>>, ctx: &mut Context<Self>) -> Result<()> {
        if let Some(open) = self.open.get() {
            self.end(timer.key.user, open, ctx);
        }
        Ok(())
    }
}

impl Sessions {
    fn end(&mut self, user: Option<&str>, open: Open, ctx: &mut Context<Self>) {
        let (start, end) = (Timestamp(open.start), Timestamp(open.latest + self.gap_ms));
        ctx.emit(Session { user, start, end, clicks: open.clicks });
        self.open.clear();
    }
}

#[derive(Row)]
pub struct Step<'a> {
    k: &'a str,
    /// `set AT`, `delete AT`, `repeat AT` (each firing sets the next, `AT` ms later, three times), `cancel AT` (the next
    /// firing deletes the timer at `AT`), `note`.
    action: &'a str,
    at: Option<i64>,
}

#[derive(Row)]
pub struct Name<'a> {
    k: &'a str,
}

#[derive(Row)]
pub struct Event<'a> {
    k: &'a str,
    what: &'a str,
    time: i64,
    watermark: i64,
    /// Rows and firings of the key so far.
    seen: i64,
}

#[derive(Serialize, Deserialize, Default, Clone)]
#[serde(crate = "tidemill_sdk::serde")]
struct Plans {
    repeat_ms: i64,
    left: u32,
    cancel: Option<i64>,
}

/// Does with timers what its rows say, and reports rows and firings with the watermark at that moment.
/// `tests/flink/Oracle.java` has the same as a `KeyedProcessFunction`.
#[derive(Keyed)]
#[operator(key = Name<'a>, time)]
pub struct Scripted {
    seen: Value<i64>,
    plans: Value<Plans>,
}

impl KeyedOperator for Scripted {
    type In<'a> = Step<'a>;
    type Out<'a> = Event<'a>;

    fn process(&mut self, row: Step<'_>, ctx: &mut Context<Self>) -> Result<()> {
        let Some(time) = ctx.timestamp() else { bail!("a step without event time") };
        let at = row.at.unwrap_or_default();
        let mut plans = self.plans.get_or_default();
        match row.action {
            "set" => ctx.set_event_timer(at),
            "delete" => ctx.delete_event_timer(at),
            "repeat" => {
                (plans.repeat_ms, plans.left) = (at, 3);
                ctx.set_event_timer(time + at);
            }
            "cancel" => plans.cancel = Some(at),
            "note" => {}
            other => bail!("there is no action `{other}`"),
        }
        self.plans.set(plans);
        self.report(row.k, row.action, time, ctx);
        Ok(())
    }

    fn on_timer(&mut self, timer: Timer<Name<'_>>, ctx: &mut Context<Self>) -> Result<()> {
        let mut plans = self.plans.get_or_default();
        if plans.left > 0 {
            plans.left -= 1;
            ctx.set_event_timer(timer.time + plans.repeat_ms);
        }
        if let Some(at) = plans.cancel.take() {
            ctx.delete_event_timer(at);
        }
        self.plans.set(plans);
        self.report(timer.key.k, "timer", timer.time, ctx);
        Ok(())
    }
}

impl Scripted {
    fn report(&mut self, k: &str, what: &str, time: i64, ctx: &mut Context<Self>) {
        let seen = self.seen.get_or_default() + 1;
        self.seen.set(seen);
        ctx.emit(Event { k, what, time, watermark: ctx.watermark(), seen });
    }
}

#[derive(Row)]
pub struct Part {
    pub n: i64,
}

#[derive(Row)]
pub struct Slice {
    pub k: i64,
    /// Number of a slice of time.
    pub slice: i64,
}

#[derive(Row)]
pub struct Sum {
    k: i64,
    slice: i64,
    rows: i64,
    sum: i64,
}

#[derive(Serialize, Deserialize, Clone, Copy, Default)]
#[serde(crate = "tidemill_sdk::serde")]
struct Total {
    rows: i64,
    sum: i64,
}

/// Rows and sum of a key and slice of `size` of event time, by a timer at the end of the slice. As a window does, so the order
/// of rows does not matter.
#[derive(Keyed)]
#[operator(key = Slice, time)]
pub struct Totals {
    total: Value<Total>,
    size_ms: i64,
}

impl KeyedOperator for Totals {
    type In<'a> = Part;
    type Out<'a> = Sum;

    fn open(&mut self, config: &Config<'_>) -> Result<()> {
        self.size_ms = config.get::<Duration>("size")?.as_millis() as i64;
        Ok(())
    }

    fn process(&mut self, row: Part, ctx: &mut Context<Self>) -> Result<()> {
        let Some(time) = ctx.timestamp() else { bail!("a row without event time") };
        let mut total = self.total.get_or_default();
        total.rows += 1;
        total.sum += row.n;
        self.total.set(total);
        ctx.set_event_timer((time.div_euclid(self.size_ms) + 1) * self.size_ms - 1);
        Ok(())
    }

    fn on_timer(&mut self, timer: Timer<Slice>, ctx: &mut Context<Self>) -> Result<()> {
        let total = self.total.get_or_default();
        self.total.clear();
        ctx.emit(Sum { k: timer.key.k, slice: timer.key.slice, rows: total.rows, sum: total.sum });
        Ok(())
    }
}
