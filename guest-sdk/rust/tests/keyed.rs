//! Keyed operators under the test driver: state of every shape, timers, side outputs, errors, settings.

use std::time::Duration;

use tidemill_sdk::native::{Column, Entry, OpError, OpenContext};
use tidemill_sdk::prelude::*;
use tidemill_sdk::serde::{Deserialize, Serialize};
use tidemill_sdk::testing::TestDriver;

#[derive(Row, Clone, Copy)]
struct Click<'a> {
    user: &'a str,
    amount: i64,
}

#[derive(Row, Debug, PartialEq)]
struct Session<'a> {
    user: &'a str,
    clicks: u32,
    total: i64,
}

#[derive(Row, Debug, PartialEq)]
struct Alarm {
    total: i64,
}

#[derive(Ports, Debug, PartialEq)]
enum Out<'a> {
    Sessions(Session<'a>),
    #[port(name = "alarms")]
    Alarm(Alarm),
}

#[derive(Row)]
struct User<'a> {
    user: &'a str,
}

#[derive(Serialize, Deserialize, Default, Clone, Debug, PartialEq)]
#[serde(crate = "tidemill_sdk::serde")]
struct Open {
    clicks: u32,
    until: i64,
}

/// Sessions of users.
///
/// A session ends after a gap.
#[derive(Keyed)]
#[operator(name = "sessions", key = User<'a>, time)]
struct Sessions {
    open: Value<Open>,
    #[state(name = "sum", ttl = "12h")]
    total: Value<i64>,
    last: Value<String>,
    alarmed: Value<bool>,
    gap: i64,
    ended: Counter,
    largest: Gauge,
}

impl KeyedOperator for Sessions {
    type In<'a> = Click<'a>;
    type Out<'a> = Out<'a>;

    fn open(&mut self, config: &Config<'_>) -> Result<()> {
        self.gap = config.get_or("gap", Duration::from_millis(10))?.as_millis() as i64;
        ensure!(self.gap > 0, "setting `gap` must be above 0");
        Ok(())
    }

    fn process(&mut self, click: Click<'_>, ctx: &mut Context<Self>) -> Result<()> {
        let Some(time) = ctx.timestamp() else { bail!("a click without a time") };
        let mut open = self.open.get_or_default();
        if self.open.is_set() {
            ctx.delete_event_timer(open.until);
        }
        open = Open { clicks: open.clicks + 1, until: time + self.gap };
        ctx.set_event_timer(open.until);
        self.open.set(open);
        let total = self.total.get_or_default() + click.amount;
        self.total.set(total);
        self.last.set(format!("{}!", click.user));
        if total > 100 && !self.alarmed.get_or_default() {
            self.alarmed.set(true);
            ctx.emit(Out::Alarm(Alarm { total }));
        }
        ensure!(click.amount >= 0, "{} clicked {}", click.user, click.amount);
        Ok(())
    }

    fn on_timer(&mut self, timer: Timer<User<'_>>, ctx: &mut Context<Self>) -> Result<()> {
        let open = self.open.get_or_default();
        let total = self.total.get_or_default();
        ctx.emit(Out::Sessions(Session { user: timer.key.user, clicks: open.clicks, total }));
        self.open.clear();
        self.total.clear();
        self.last.clear();
        self.alarmed.clear();
        self.ended.add(1);
        self.largest.set(total as f64);
        info!("session of {} ended at {}", timer.key.user, timer.time);
        Ok(())
    }
}

fn driver() -> TestDriver<Sessions> {
    TestDriver::new().key(["user"]).open().unwrap()
}

fn click(user: &str, amount: i64) -> Click<'_> {
    Click { user, amount }
}

#[test]
fn state_and_timers_of_keys_are_apart() {
    let mut driver = driver();
    driver.push_all([(Some(1), click("ada", 60)), (Some(2), click("bob", 5)), (Some(3), click("ada", 50))]);
    assert_eq!(driver.state::<i64>("sum", "ada"), Some(110));
    assert_eq!(driver.state::<Open>("open", "ada"), Some(Open { clicks: 2, until: 13 }));
    assert_eq!(driver.state::<String>("last", "bob").as_deref(), Some("bob!"));
    assert_eq!(driver.state::<bool>("alarmed", "bob"), None);
    assert_eq!(driver.rows(), [Out::Alarm(Alarm { total: 110 })]);
    let times: Vec<i64> = driver.timers().into_iter().map(|(_, time, _)| time).collect();
    assert_eq!(times, [12, 13], "the first timer of ada was deleted");

    driver.clear();
    driver.watermark(12);
    assert_eq!(driver.timed_rows(), [(Some(12), Out::Sessions(Session { user: "bob", clicks: 1, total: 5 }))]);
    assert_eq!(driver.keys().len(), 1, "a key without values is forgotten");
    driver.finish();
    assert_eq!(driver.records("sessions")[1].to_string(), r#"{"user":"ada","clicks":2,"total":110}"#);
    assert_eq!((driver.keys().len(), driver.timers().len()), (0, 0));
    assert_eq!((driver.counter("ended"), driver.gauge("largest")), (2, Some(110.0)));
    assert_eq!(driver.logs()[1].1, "session of ada ended at 13");
}

#[test]
fn a_timer_set_below_the_watermark_waits_until_that_moves_on() {
    let mut driver = driver();
    driver.watermark(50);
    driver.push_at(1, click("ada", 5));
    driver.push_at(60, click("ada", 5));
    driver.watermark(50);
    assert_eq!(driver.rows(), [], "the second click has moved the timer in time");
    driver.push_at(2, click("bob", 7));
    driver.watermark(51);
    assert_eq!(driver.rows(), [Out::Sessions(Session { user: "bob", clicks: 1, total: 7 })]);
}

#[test]
fn a_failed_row_changes_nothing_and_costs_only_itself() {
    let mut driver = driver();
    driver.push_all([
        (Some(1), click("ada", 60)),
        (Some(5), click("ada", -1)),
        (Some(6), click("new", -7)),
        (Some(7), click("ada", 45)),
    ]);
    assert_eq!(driver.state::<i64>("sum", "ada"), Some(105));
    assert_eq!(driver.state::<Open>("open", "ada"), Some(Open { clicks: 2, until: 17 }));
    assert_eq!(driver.keys().len(), 1, "the new key was not kept");
    assert_eq!(driver.timers().len(), 1);
    let errors: Vec<_> = driver.errors().iter().map(|e| (e.row, e.message.as_str())).collect();
    assert_eq!(errors, [(Some(1), "ada clicked -1"), (Some(2), "new clicked -7")]);
}

/// Batches of one row and one batch of all give the same.
#[test]
fn batching_does_not_matter() {
    let clicks: Vec<(i64, String, i64)> =
        (0..500).map(|i| (i, format!("u{}", i * 7 % 13), (i * 31 % 23) - 2)).collect();
    let row = |c: &'static (i64, String, i64)| (Some(c.0), click(&c.1, c.2));
    let clicks: &'static [(i64, String, i64)] = clicks.leak();
    let (mut one, mut many) = (driver(), driver());
    clicks.iter().for_each(|c| one.push_all([row(c)]));
    many.push_all(clicks.iter().map(row));
    one.finish();
    many.finish();
    assert_eq!(one.errors(), many.errors());
    assert_eq!(one.records("sessions"), many.records("sessions"));
    assert_eq!(one.records("alarms"), many.records("alarms"));
}

#[test]
fn settings_are_checked() {
    for (name, value, expected) in [
        ("gap", "10 parsecs", "setting `gap` is `10 parsecs`, but must be a duration such as 10ms, 5s, 1m, 2h or 1d"),
        ("gap", "0", "setting `gap` must be above 0"),
        ("gpa", "1s", "there is no setting `gpa`: operator `sessions` has: gap"),
    ] {
        let result = TestDriver::<Sessions>::new().key(["user"]).config(name, value).open();
        assert_eq!(result.err(), Some(OpError::Config(expected.into())));
    }
}

#[derive(Keyed)]
struct Lives {
    #[state(ttl = "100ms")]
    written: Value<i64>,
    #[state(ttl = "100ms", ttl_on_read)]
    read: Value<String>,
}

#[derive(Row)]
struct Feed {
    k: i64,
    n: Option<i64>,
}

#[derive(Row, Debug, PartialEq)]
struct Alive {
    written: bool,
    read: bool,
}

impl KeyedOperator for Lives {
    type In<'a> = Feed;
    type Out<'a> = Alive;

    fn process(&mut self, row: Feed, ctx: &mut Context<Self>) -> Result<()> {
        ctx.emit(Alive { written: self.written.is_set(), read: self.read.is_set() });
        if let Some(n) = row.n {
            self.written.set(n);
            self.read.set("x".repeat(n as usize));
        }
        Ok(())
    }
}

#[test]
fn values_with_a_time_to_live_expire() {
    let states = Entry::of::<Lives>().describe().states;
    assert_eq!(states.iter().map(|s| (s.ttl, s.ttl_on_read)).collect::<Vec<_>>(), [(100, false), (100, true)]);
    let mut driver = TestDriver::<Lives>::new().key(["k"]).open().unwrap();
    let alive = |written, read| Alive { written, read };
    for (now, n, expected) in [
        (1000, Some(1), alive(false, false)),
        (1099, None, alive(true, true)),
        (1100, None, alive(false, true)),
        (1200, None, alive(false, false)),
    ] {
        driver.processing_time(now);
        driver.push(Feed { k: 7, n });
        assert_eq!(driver.rows().last(), Some(&expected), "at {now}");
    }
    assert!(driver.keys().is_empty());
    driver.push(Feed { k: 7, n: Some(2) });
    assert_eq!(driver.state::<i64>("written", 7), Some(2));
    driver.processing_time(1300);
    assert_eq!(driver.state::<i64>("written", 7), None);
    assert!(driver.keys().is_empty(), "what has expired is forgotten, asked for or not");
}

#[test]
fn a_declared_key_must_be_the_pipelines() {
    let result = TestDriver::<Sessions>::new().key(["amount"]).open();
    let expected = "the operator declares the key (user: utf8), but the pipeline keys by (amount: int64)";
    assert_eq!(result.err(), Some(OpError::Config(expected.into())));
}

#[test]
fn the_descriptor_says_what_the_struct_says() {
    let descriptor = Entry::of::<Sessions>().describe();
    assert_eq!((descriptor.name.as_str(), descriptor.doc.as_str()), ("sessions", "Sessions of users."));
    assert_eq!((descriptor.kind, descriptor.reads_time, descriptor.reads_keys), ("keyed", true, true));
    let ports: Vec<&str> = descriptor.outputs.iter().map(|p| p.name.as_str()).collect();
    assert_eq!((ports, descriptor.inputs[0].name.as_str()), (vec!["sessions", "alarms"], "in"));
    let states: Vec<_> = descriptor
        .states
        .iter()
        .map(|s| (s.name.as_str(), s.value.type_name.as_str(), s.codec.as_str(), s.ttl))
        .collect();
    let expected = [
        ("open", "binary", "postcard", 0),
        ("sum", "int64", "", 43_200_000),
        ("last", "utf8", "", 0),
        ("alarmed", "bool", "", 0),
    ];
    assert_eq!(states, expected);
}

#[derive(Row)]
struct Order {
    id: i64,
}

#[derive(Row)]
struct Payment<'a> {
    id: i64,
    method: &'a str,
}

#[derive(Ports)]
enum In<'a> {
    Orders(Order),
    Payments(Payment<'a>),
}

#[derive(Row, Debug, PartialEq)]
struct Paid {
    id: i64,
    method: String,
}

/// Joins orders and payments, whichever comes first.
#[derive(Keyed)]
struct Join {
    ordered: Value<bool>,
    paid: Value<String>,
    #[state(version = 3, migrate(1 = Self::from_text, 2 = f64::into_cents))]
    cents: Value<i64>,
}

trait IntoCents {
    fn into_cents(self) -> Result<i64>;
}

impl IntoCents for f64 {
    fn into_cents(self) -> Result<i64> {
        Ok((self * 100.0) as i64)
    }
}

impl Join {
    fn from_text(old: String) -> Result<i64> {
        Ok(old.parse::<i64>()? * 100)
    }
}

impl KeyedOperator for Join {
    type In<'a> = In<'a>;
    type Out<'a> = Paid;

    fn process(&mut self, row: In<'_>, ctx: &mut Context<Self>) -> Result<()> {
        let id = match row {
            In::Orders(order) => {
                self.ordered.set(true);
                order.id
            }
            In::Payments(payment) => {
                self.paid.set(payment.method.to_owned());
                payment.id
            }
        };
        if let (Some(true), Some(method)) = (self.ordered.get(), self.paid.get_str()) {
            ctx.emit(Paid { id, method: method.to_owned() });
        }
        Ok(())
    }
}

#[test]
fn several_inputs_share_a_key() {
    let mut driver = TestDriver::<Join>::new().key(["id"]).open().unwrap();
    driver.push(In::Payments(Payment { id: 1, method: "card" }));
    driver.push(In::Orders(Order { id: 2 }));
    driver.push_all([
        (None, In::Orders(Order { id: 1 })),
        (None, In::Orders(Order { id: 3 })),
        (None, In::Payments(Payment { id: 2, method: "cash" })),
    ]);
    assert_eq!(driver.rows(), [Paid { id: 1, method: "card".into() }, Paid { id: 2, method: "cash".into() }]);
    let inputs: Vec<String> = Entry::of::<Join>().describe().inputs.into_iter().map(|p| p.name).collect();
    assert_eq!(inputs, ["orders", "payments"]);
}

#[test]
fn old_state_is_migrated_by_its_version() {
    let mut join = Entry::of::<Join>().open(&OpenContext::default()).unwrap();
    let text = Column {
        validity: vec![0b101],
        offsets: [0u32, 2, 2, 3].iter().flat_map(|o| o.to_le_bytes()).collect(),
        data: b"127".to_vec(),
    };
    let cents = join.migrate_state("cents", 1, text.clone()).unwrap();
    let values: Vec<i64> = cents.data.as_chunks().0.iter().map(|v| i64::from_le_bytes(*v)).collect();
    assert_eq!((cents.validity[0] & 0b111, values[0], values[2]), (0b101, 1200, 700));

    let floats = Column { data: [1.5f64, 2.25].iter().flat_map(|v| v.to_le_bytes()).collect(), ..Column::default() };
    let cents = join.migrate_state("cents", 2, floats).unwrap();
    assert_eq!(cents.data, [150i64, 225].iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>());

    let bad = Column { data: b"x27".to_vec(), ..text.clone() };
    for (name, from, values, expected) in [
        ("cents", 1, bad, "state `cents` could not be migrated: invalid digit found in string"),
        (
            "cents",
            7,
            text.clone(),
            "state `cents` has no migration from version 7: add migrate(7 = function) to its #[state(...)]",
        ),
    ] {
        assert_eq!(join.migrate_state(name, from, values), Err(OpError::Fatal(expected.into())));
    }
}

/// Values that are not what the type says end the job with advice, and never in a panic.
#[test]
fn state_of_another_type_is_a_clear_error() {
    use tidemill_sdk::native::{BatchRef, KeyedBatch, Keys, Now};
    let mut sessions = Entry::of::<Sessions>()
        .open(&OpenContext {
            key_fields: vec![tidemill_sdk::native::Field {
                name: "user".into(),
                type_name: "utf8".into(),
                nullable: false,
                children: 0,
            }],
            ..OpenContext::default()
        })
        .unwrap();
    let offsets: Vec<u8> = [0u32, 1].iter().flat_map(|o| o.to_le_bytes()).collect();
    let text = Column { offsets: offsets.clone(), data: vec![0xff], validity: Vec::new() };
    let none = |data: usize| Column { validity: vec![0], data: vec![0; data], offsets: vec![0; 8] };
    let (user, amount, times) = (text.clone(), vec![0; 8], vec![0; 8]);
    let user = Column { data: b"u".to_vec(), ..user };
    let amount = Column { data: amount, ..Column::default() };
    let call = KeyedBatch {
        input: 0,
        rows: BatchRef { rows: 1, times: &times, kinds: &[], columns: vec![user.borrow(), amount.borrow()] },
        key_index: &[0; 4],
        keys: Keys { count: 1, columns: vec![user.borrow()], states: vec![text, none(8), none(0), none(1)] },
        now: Now { watermark: 0, processing: 0 },
    };
    let error = sessions.process_keyed(call).unwrap_err().to_string();
    assert!(error.starts_with("the stored value of state `open` is no keyed::Open: "), "{error}");
    assert!(error.contains("raise #[state(version)]"), "{error}");
}

/// Says something a while after a user's first click, by the clock.
#[derive(Keyed)]
struct Remind {
    clicks: Value<u32>,
}

impl KeyedOperator for Remind {
    type In<'a> = Click<'a>;
    type Out<'a> = Alarm;

    fn process(&mut self, _: Click<'_>, ctx: &mut Context<Self>) -> Result<()> {
        if !self.clicks.is_set() {
            ctx.set_processing_timer(ctx.processing_time() + 10);
        }
        self.clicks.set(self.clicks.get_or_default() + 1);
        Ok(())
    }

    fn on_timer(&mut self, timer: Timer<()>, ctx: &mut Context<Self>) -> Result<()> {
        ensure!(timer.domain == Domain::Processing, "no other timers are set");
        ctx.emit(Alarm { total: timer.time });
        Ok(())
    }
}

/// As in a job: such rows have no event time, whatever time their key's rows had, and the end of input does not fire them.
#[test]
fn processing_timers_emit_rows_without_event_time() {
    let mut driver = TestDriver::<Remind>::new().key(["user"]).open().unwrap();
    driver.push_at(5, click("ada", 1));
    driver.processing_time(9);
    driver.finish();
    assert_eq!(driver.rows(), []);
    driver.processing_time(10);
    assert_eq!(driver.timed_rows(), [(None, Alarm { total: 10 })]);
}
