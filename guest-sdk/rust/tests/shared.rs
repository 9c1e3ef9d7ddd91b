//! Broadcast and operator state, as operators use them, and as they can't.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tidemill_sdk::prelude::*;
use tidemill_sdk::testing::TestDriver;
use tidemill_sdk::{Operator, Timer};

#[derive(Row, Clone, Copy)]
struct Step<'a> {
    k: i64,
    action: &'a str,
    n: i64,
}

#[derive(Row, Clone, Copy)]
struct ToAll<'a> {
    action: &'a str,
    n: i64,
}

#[derive(Ports)]
enum In<'a> {
    Steps(Step<'a>),
    #[port(name = "all", broadcast)]
    ToAll(ToAll<'a>),
}

#[derive(Row, Debug, PartialEq)]
struct Seen {
    count: i64,
    total: i64,
    rules: i64,
    own: i64,
}

/// Does what its rows say, and shows what it knows.
#[derive(Keyed)]
struct Script {
    count: Value<i64>,
    notes: ListState<i64>,
    #[state(broadcast)]
    total: Value<i64>,
    #[state(name = "rules", broadcast)]
    map: MapState<i64, i64>,
    #[state(split)]
    own: ListState<i64>,
    #[state(union)]
    all: ListState<String>,
}

impl Script {
    fn act(&mut self, action: &str, n: i64, ctx: &mut Context<Self>) -> Result<()> {
        match action {
            "total" => self.total.set(self.total.get_or_default() + n),
            "rule" => self.map.put(&n, n),
            "count" => self.count.set(n),
            "note" => self.notes.add(n),
            "own" => self.own.add(n),
            "all" => self.all.add(n.to_string()),
            "timer" => ctx.set_event_timer(n),
            "read count" => drop(self.count.get()),
            "read notes" => drop(self.notes.get()),
            "bad" => {
                self.own.add(n);
                self.all.clear();
                bail!("a bad row");
            }
            _ => {}
        }
        Ok(())
    }

    fn show(&self, count: i64) -> Seen {
        let own = self.own.get().iter().sum();
        Seen { count, total: self.total.get_or_default(), rules: self.map.values().iter().sum(), own }
    }
}

impl KeyedOperator for Script {
    type In<'a> = In<'a>;
    type Out<'a> = Seen;

    fn process(&mut self, row: In<'_>, ctx: &mut Context<Self>) -> Result<()> {
        match row {
            In::Steps(step) => {
                self.act(step.action, step.n, ctx)?;
                self.count.set(self.count.get_or_default() + 1);
                ctx.emit(self.show(self.count.get_or_default()));
            }
            In::ToAll(row) => {
                self.act(row.action, row.n, ctx)?;
                ctx.emit(self.show(-1));
            }
        }
        Ok(())
    }

    fn on_timer(&mut self, timer: Timer<()>, ctx: &mut Context<Self>) -> Result<()> {
        self.act(if timer.time == 13 { "total" } else { "own" }, timer.time, ctx)?;
        ctx.emit(self.show(0));
        Ok(())
    }
}

fn open() -> TestDriver<Script> {
    TestDriver::<Script>::new().key(["k"]).open().unwrap()
}

fn step(k: i64, action: &'static str, n: i64) -> In<'static> {
    In::Steps(Step { k, action, n })
}

fn to_all(action: &'static str, n: i64) -> In<'static> {
    In::ToAll(ToAll { action, n })
}

#[test]
fn all_keys_see_one_broadcast_state_and_one_operator_state() {
    let mut driver = open();
    driver.push_all([to_all("total", 5), to_all("total", 2), to_all("rule", 10)].map(|row| (None, row)));
    driver.push_all([step(1, "own", 3), step(2, "own", 4), step(1, "", 0), step(2, "timer", 7)].map(|row| (None, row)));
    driver.push(to_all("own", 100));
    driver.watermark(10);
    let seen = |count, total, rules, own| Seen { count, total, rules, own };
    assert_eq!(
        driver.rows(),
        [
            seen(-1, 5, 0, 0),
            seen(-1, 7, 0, 0),
            seen(-1, 7, 10, 0),
            seen(1, 7, 10, 3),
            seen(1, 7, 10, 7),
            seen(2, 7, 10, 7),
            seen(2, 7, 10, 7),
            seen(-1, 7, 10, 107),
            seen(0, 7, 10, 114),
        ]
    );
    assert_eq!(driver.state::<i64>("total", ()), Some(7));
    assert_eq!(driver.map::<i64, i64>("rules", ()), [(10, 10)]);
    assert_eq!(driver.list::<i64>("own", ()), [3, 4, 100, 7]);
    assert_eq!(driver.keys().len(), 2, "the states that belong to no key are no key's");
}

#[test]
fn what_a_failed_row_did_is_undone() {
    let mut driver = open();
    driver.push_all([to_all("own", 1), to_all("all", 2), to_all("bad", 3)].map(|row| (None, row)));
    driver.push(step(1, "bad", 4));
    assert_eq!(driver.errors().len(), 2);
    assert_eq!(driver.list::<i64>("own", ()), [1]);
    assert_eq!(driver.list::<String>("all", ()), ["2"]);
}

#[test]
fn what_cannot_be_is_said() {
    let only_broadcast = "is broadcast: only rows of a broadcast input may change it, since every worker gets them";
    let no_key = "belongs to a key, and rows of a broadcast input have none";
    for (row, expected) in [
        (step(1, "total", 1), format!("state `total` {only_broadcast}")),
        (step(1, "rule", 1), format!("state `rules` {only_broadcast}")),
        (to_all("count", 1), format!("state `count` {no_key}")),
        (to_all("note", 1), format!("state `notes` {no_key}")),
        (to_all("read count", 1), format!("state `count` {no_key}")),
        (to_all("read notes", 1), format!("state `notes` {no_key}")),
        (to_all("timer", 1), format!("a timer {no_key}")),
        (step(1, "timer", 13), format!("state `total` {only_broadcast}")),
    ] {
        let mut driver = open();
        let panic = catch_unwind(AssertUnwindSafe(|| {
            driver.push(row);
            driver.finish();
        }));
        let panic = panic.unwrap_err();
        let text = panic.downcast_ref::<String>().unwrap();
        assert!(text.ends_with(&expected), "{text}");
    }
}

#[test]
fn scopes_and_broadcast_inputs_are_described() {
    let described = Script::descriptor();
    let broadcast: Vec<_> = described.inputs.iter().map(|port| (port.name.as_str(), port.broadcast)).collect();
    assert_eq!(broadcast, [("steps", false), ("all", true)]);
    let scopes: Vec<_> = described.states.iter().map(|state| (state.name.as_str(), state.scope)).collect();
    assert_eq!(
        scopes,
        [
            ("count", "key"),
            ("notes", "key"),
            ("total", "broadcast"),
            ("rules", "broadcast"),
            ("own", "split"),
            ("all", "union")
        ]
    );
}
