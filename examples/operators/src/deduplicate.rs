//! `deduplicate`: the first row of each id, and what is repeated within an hour of it.
//!
//! What counts as repeated is decided by event time, so that a replay gives the same rows. The time to live of the state,
//! which is by the wall clock, only sees to it that ids are forgotten: it is longer than the hour.

use std::time::Duration;

use tidemill_sdk::prelude::*;
use tidemill_sdk::serde::{Deserialize, Serialize};

/// From the first row of an id on, rows of the same id are repeated ones for so long.
const WITHIN: Duration = Duration::from_secs(3600);

#[derive(Row, Clone, Copy)]
pub struct Click<'a> {
    click: &'a str,
}

/// The click as it came, with all its columns.
#[derive(Row, Debug, PartialEq)]
#[row(carry)]
pub struct First {}

/// All columns of the click, and these.
#[derive(Row, Debug, PartialEq)]
#[row(carry)]
pub struct Duplicate {
    /// 1 for the first repetition.
    repetition: u32,
    /// Event time since the first one, ms; negative if this one has been made before it.
    after_ms: i64,
}

#[derive(Ports, Debug, PartialEq)]
pub enum Out {
    Out(First),
    Duplicates(Duplicate),
}

#[derive(Serialize, Deserialize, Clone, Copy)]
#[serde(crate = "tidemill_sdk::serde")]
struct Seen {
    first: i64,
    repetitions: u32,
}

/// The first row of each id within an hour; what is repeated goes to a side output.
#[derive(Keyed)]
#[operator(time)]
pub struct Deduplicate {
    #[state(ttl = "2h")]
    seen: Value<Seen>,
    /// Setting `within`, in ms: at most an hour, or state would be forgotten too early.
    within: i64,
}

impl KeyedOperator for Deduplicate {
    type In<'a> = Click<'a>;
    type Out<'a> = Out;

    fn open(&mut self, config: &Config<'_>) -> Result<()> {
        let within = config.get_or("within", WITHIN)?;
        ensure!(within <= WITHIN, "setting `within` must not be more than 1h");
        self.within = within.as_millis() as i64;
        Ok(())
    }

    fn process(&mut self, click: Click<'_>, ctx: &mut Context<Self>) -> Result<()> {
        let Some(time) = ctx.timestamp() else { bail!("click {} has no event time", click.click) };
        match self.seen.get() {
            Some(Seen { first, repetitions }) if time < first + self.within => {
                let repetition = repetitions + 1;
                self.seen.set(Seen { first, repetitions: repetition });
                ctx.emit(Out::Duplicates(Duplicate { repetition, after_ms: time - first }));
            }
            _ => {
                self.seen.set(Seen { first: time, repetitions: 0 });
                ctx.emit(Out::Out(First {}));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemill_sdk::testing::TestDriver;

    const HOUR: i64 = 3_600_000;

    fn driver() -> TestDriver<Deduplicate> {
        TestDriver::new().key(["click"]).open().unwrap()
    }

    fn duplicate(repetition: u32, after_ms: i64) -> Out {
        Out::Duplicates(Duplicate { repetition, after_ms })
    }

    #[test]
    fn the_first_of_an_id_goes_on_and_the_others_are_counted() {
        let mut driver = driver();
        for (time, click) in [(0, "a"), (5, "b"), (7, "a"), (HOUR - 1, "a"), (-3, "a")] {
            driver.push_at(time, Click { click });
        }
        let first = || Out::Out(First {});
        assert_eq!(driver.rows(), [first(), first(), duplicate(1, 7), duplicate(2, HOUR - 1), duplicate(3, -3)]);
    }

    #[test]
    fn after_an_hour_an_id_is_new() {
        let mut driver = driver();
        for time in [0, HOUR, HOUR + 1] {
            driver.push_at(time, Click { click: "a" });
        }
        assert_eq!(driver.rows(), [Out::Out(First {}), Out::Out(First {}), duplicate(1, 1)]);
    }

    #[test]
    fn ids_are_forgotten_after_two_hours_of_the_wall_clock() {
        let mut driver = driver();
        driver.processing_time(0);
        driver.push_at(0, Click { click: "a" });
        driver.processing_time(2 * HOUR - 1);
        assert_eq!(driver.keys().len(), 1);
        driver.processing_time(2 * HOUR + 1);
        driver.push_at(1, Click { click: "a" });
        assert_eq!(driver.rows(), [Out::Out(First {}), Out::Out(First {})]);
    }

    #[test]
    fn it_does_not_promise_more_than_it_remembers() {
        let opened = TestDriver::<Deduplicate>::new().key(["click"]).config("within", "61m").open();
        let expected = "setting `within` must not be more than 1h";
        assert_eq!(opened.err(), Some(tidemill_sdk::OpError::Config(expected.into())));
    }

    #[test]
    fn a_row_without_event_time_is_refused() {
        let mut driver = driver();
        driver.push(Click { click: "a" });
        assert_eq!(driver.errors()[0].message, "click a has no event time");
    }
}
