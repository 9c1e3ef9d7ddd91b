//! States that belong to no key: rules that all workers know, rows that a worker keeps, and what all have seen.

use std::collections::BTreeSet;

use tidemill_sdk::prelude::*;

#[derive(Row)]
pub struct Reading<'a> {
    sensor: &'a str,
    kind: &'a str,
    at: i64,
    value: i64,
}

/// From `at` on a reading of this kind is too high above `value`. The kind `scale` is of another sort: by what all values are multiplied.
#[derive(Row)]
pub struct Rule<'a> {
    kind: &'a str,
    at: i64,
    value: i64,
}

#[derive(Ports)]
pub enum Watched<'a> {
    Readings(Reading<'a>),
    #[port(broadcast)]
    Rules(Rule<'a>),
}

#[derive(Row)]
pub struct Alarm<'a> {
    sensor: &'a str,
    at: i64,
    value: i64,
    limit: i64,
    rules: u64,
}

#[derive(Row)]
pub struct Sensor<'a> {
    sensor: &'a str,
}

/// Readings wait until the watermark says that the rules of their time are known.
#[derive(Keyed)]
#[operator(key = Sensor<'a>)]
pub struct Alarms {
    waiting: ListState<(i64, String, i64)>,
    /// By kind: from when on, and what.
    #[state(broadcast)]
    limits: MapState<String, Vec<(i64, i64)>>,
    #[state(broadcast)]
    scale: Value<i64>,
    /// From when on each rule holds.
    #[state(broadcast)]
    rules: ListState<i64>,
}

impl KeyedOperator for Alarms {
    type In<'a> = Watched<'a>;
    type Out<'a> = Alarm<'a>;

    fn process(&mut self, row: Watched<'_>, ctx: &mut Context<Self>) -> Result<()> {
        match row {
            Watched::Readings(reading) => {
                self.waiting.add((reading.at, reading.kind.to_owned(), reading.value));
                ctx.set_event_timer(reading.at);
            }
            Watched::Rules(rule) if rule.kind == "scale" => self.scale.set(rule.value),
            Watched::Rules(rule) => {
                // A rule that is refused leaves nothing behind, on no worker.
                self.rules.add(rule.at);
                let mut limits = self.limits.get(rule.kind).unwrap_or_default();
                limits.push((rule.at, rule.value));
                limits.sort_unstable();
                self.limits.put(rule.kind, limits);
                ensure!(rule.value >= 0, "a limit of {}", rule.value);
            }
        }
        Ok(())
    }

    fn on_timer(&mut self, timer: Timer<Sensor<'_>>, ctx: &mut Context<Self>) -> Result<()> {
        let (due, later): (Vec<_>, Vec<_>) = self.waiting.get().into_iter().partition(|(at, ..)| *at <= timer.time);
        self.waiting.update(later);
        for (at, kind, value) in due {
            let value = value * self.scale.get().unwrap_or(1);
            let limits = self.limits.get(&kind).unwrap_or_default();
            let Some((_, limit)) = limits.into_iter().rfind(|(from, _)| *from <= at) else { continue };
            if value > limit {
                let rules = self.rules.get().into_iter().filter(|from| *from <= at).count() as u64;
                ctx.emit(Alarm { sensor: timer.key.sensor, at, value, limit, rules });
            }
        }
        Ok(())
    }
}

#[derive(Row)]
pub struct Parcel<'a> {
    parcel: &'a str,
}

/// The van comes.
#[derive(Row)]
pub struct Van {}

#[derive(Ports)]
pub enum Depot<'a> {
    Parcels(Parcel<'a>),
    #[port(broadcast)]
    Vans(Van),
}

#[derive(Row)]
pub struct Loaded<'a> {
    parcel: &'a str,
    van: i64,
}

/// Each worker keeps parcels until the next van comes to all of them. Needs no key.
#[derive(Keyed)]
pub struct Depots {
    #[state(split)]
    parcels: ListState<String>,
    #[state(broadcast)]
    vans: Value<i64>,
}

impl KeyedOperator for Depots {
    type In<'a> = Depot<'a>;
    type Out<'a> = Loaded<'a>;

    fn process(&mut self, row: Depot<'_>, ctx: &mut Context<Self>) -> Result<()> {
        match row {
            Depot::Parcels(row) => self.parcels.add(row.parcel.to_owned()),
            Depot::Vans(_) => {
                let van = self.vans.get_or_default() + 1;
                self.vans.set(van);
                self.parcels.get().iter().for_each(|parcel| ctx.emit(Loaded { parcel, van }));
                self.parcels.clear();
            }
        }
        Ok(())
    }
}

#[derive(Row)]
pub struct Page<'a> {
    user: &'a str,
    page: i64,
}

#[derive(Row)]
pub struct User<'a> {
    user: &'a str,
}

#[derive(Row)]
pub struct Pages<'a> {
    user: &'a str,
    rows: i64,
    found: u64,
}

/// When everything is over.
const END: i64 = i64::MAX - 1;

/// What each worker has seen all workers know after a restore, so the worker of a user knows his pages, wherever they were seen.
#[derive(Keyed)]
#[operator(key = User<'a>)]
pub struct Known {
    rows: Value<i64>,
    #[state(union)]
    seen: ListState<(String, i64)>,
}

impl KeyedOperator for Known {
    type In<'a> = Page<'a>;
    type Out<'a> = Pages<'a>;

    fn process(&mut self, row: Page<'_>, ctx: &mut Context<Self>) -> Result<()> {
        self.rows.set(self.rows.get_or_default() + 1);
        // After a restore each worker has what all had, and all write it: whoever uses a union has to see to it.
        let mut seen: BTreeSet<(String, i64)> = self.seen.get().into_iter().collect();
        seen.insert((row.user.to_owned(), row.page));
        self.seen.update(seen);
        ctx.set_event_timer(END);
        Ok(())
    }

    fn on_timer(&mut self, timer: Timer<User<'_>>, ctx: &mut Context<Self>) -> Result<()> {
        let seen: BTreeSet<(String, i64)> = self.seen.get().into_iter().collect();
        let found = seen.iter().filter(|(user, _)| user == timer.key.user).count() as u64;
        ctx.emit(Pages { user: timer.key.user, rows: self.rows.get_or_default(), found });
        Ok(())
    }
}
