//! `streak`: delayed departures of an aircraft in a row. Its key is the tail number.

use std::time::Duration;

use tidemill_sdk::prelude::*;
use tidemill_sdk::serde::{Deserialize, Serialize};

use crate::DELAYED_MINUTES;

/// A streak of two delays is common; three are news.
const LENGTH: u32 = 3;
/// An aircraft that has not flown for so long has had time to recover.
const IDLE: Duration = Duration::from_secs(12 * 3600);

/// A flight, in the order of actual departure. Event time is the scheduled departure.
#[derive(Row, Clone, Copy)]
pub struct Flight<'a> {
    /// Empty for some cancelled flights only.
    tailnum: Option<&'a str>,
    route: &'a str,
    /// Minutes; null = cancelled.
    delay: Option<f64>,
}

/// The key.
#[derive(Row)]
pub struct Aircraft<'a> {
    tailnum: Option<&'a str>,
}

/// A streak that has become longer.
#[derive(Row, Debug, PartialEq)]
pub struct Grown<'a> {
    tailnum: &'a str,
    /// Delayed departures in a row.
    departures: u32,
    /// Scheduled departure of the first.
    since: Timestamp,
    /// The latest flight.
    route: &'a str,
    delay: f64,
}

/// A streak that is over.
#[derive(Row, Debug, PartialEq)]
pub struct Ended<'a> {
    tailnum: &'a str,
    departures: u32,
    since: Timestamp,
    /// Latest scheduled departure in it.
    until: Timestamp,
    mean_delay: f64,
    /// `departed on time` or `not flown`.
    reason: &'a str,
}

#[derive(Ports, Debug, PartialEq)]
pub enum Out<'a> {
    Streaks(Grown<'a>),
    Ended(Ended<'a>),
}

/// What is kept of an aircraft while its streak lasts.
#[derive(Serialize, Deserialize, Clone, Copy)]
#[serde(crate = "tidemill_sdk::serde")]
struct Run {
    departures: u32,
    since: i64,
    until: i64,
    minutes: f64,
}

/// Delayed departures in a row per aircraft: each one from the third on, and the end of such a streak.
#[derive(Keyed)]
#[operator(key = Aircraft<'a>, time)]
pub struct Streak {
    run: Value<Run>,
    /// Setting `threshold`: minutes from which on a departure is delayed.
    threshold: f64,
    /// Setting `length`: departures from which on a streak is reported.
    length: u32,
    /// Setting `idle`: event time without a flight after which a streak is over, ms.
    idle: i64,
}

impl KeyedOperator for Streak {
    type In<'a> = Flight<'a>;
    type Out<'a> = Out<'a>;

    fn open(&mut self, config: &Config<'_>) -> Result<()> {
        self.threshold = config.get_or("threshold", DELAYED_MINUTES)?;
        self.length = config.get_or("length", LENGTH)?;
        self.idle = config.get_or("idle", IDLE)?.as_millis() as i64;
        ensure!(self.length > 0, "setting `length` must be above 0");
        Ok(())
    }

    fn process(&mut self, row: Flight<'_>, ctx: &mut Context<Self>) -> Result<()> {
        // A cancelled flight is neither delayed nor on time.
        let (Some(tailnum), Some(delay)) = (row.tailnum, row.delay) else { return Ok(()) };
        let Some(time) = ctx.timestamp() else { bail!("a flight without event time: set event_time on the source") };
        let run = self.run.get();
        if let Some(run) = run {
            ctx.delete_event_timer(run.until + self.idle);
        }
        if delay < self.threshold {
            self.end(tailnum, "departed on time", ctx);
            return Ok(());
        }
        let run = match run {
            // Flights leave in another order than scheduled, so the latest one need not be the last.
            Some(run) => Run {
                departures: run.departures + 1,
                since: run.since.min(time),
                until: run.until.max(time),
                minutes: run.minutes + delay,
            },
            None => Run { departures: 1, since: time, until: time, minutes: delay },
        };
        self.run.set(run);
        ctx.set_event_timer(run.until + self.idle);
        if run.departures >= self.length {
            let (departures, since) = (run.departures, Timestamp(run.since));
            ctx.emit(Out::Streaks(Grown { tailnum, departures, since, route: row.route, delay }));
        }
        Ok(())
    }

    fn on_timer(&mut self, timer: Timer<Aircraft<'_>>, ctx: &mut Context<Self>) -> Result<()> {
        self.end(timer.key.tailnum.unwrap_or_default(), "not flown", ctx);
        Ok(())
    }
}

impl Streak {
    fn end(&mut self, tailnum: &str, reason: &str, ctx: &mut Context<Self>) {
        let Some(run) = self.run.get() else { return };
        self.run.clear();
        if run.departures >= self.length {
            ctx.emit(Out::Ended(Ended {
                tailnum,
                departures: run.departures,
                since: Timestamp(run.since),
                until: Timestamp(run.until),
                mean_delay: run.minutes / f64::from(run.departures),
                reason,
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemill_sdk::OpError;
    use tidemill_sdk::testing::TestDriver;

    const HOUR: i64 = 3_600_000;

    fn driver() -> TestDriver<Streak> {
        TestDriver::new().key(["tailnum"]).config("length", 2).open().unwrap()
    }

    fn flight(tailnum: &str, delay: f64) -> Flight<'_> {
        Flight { tailnum: Some(tailnum), route: "EWR-IAH", delay: Some(delay) }
    }

    fn grown(departures: u32, since: i64, delay: f64) -> Out<'static> {
        Out::Streaks(Grown { tailnum: "N1", departures, since: Timestamp(since), route: "EWR-IAH", delay })
    }

    fn ended(departures: u32, since: i64, until: i64, mean_delay: f64, reason: &'static str) -> Out<'static> {
        let (since, until) = (Timestamp(since), Timestamp(until));
        Out::Ended(Ended { tailnum: "N1", departures, since, until, mean_delay, reason })
    }

    #[test]
    fn a_streak_grows_and_ends_with_a_flight_on_time() {
        let mut driver = driver();
        driver.push_all([
            (Some(HOUR), flight("N1", 20.0)),
            (Some(2 * HOUR), flight("N2", 90.0)),
            (Some(3 * HOUR), flight("N1", 15.0)),
            (Some(3 * HOUR), Flight { delay: None, ..flight("N1", 0.0) }),
            (Some(3 * HOUR), Flight { tailnum: None, route: "EWR-IAH", delay: None }),
            (Some(2 * HOUR), flight("N1", 25.0)),
            (Some(5 * HOUR), flight("N1", 14.0)),
            (Some(6 * HOUR), flight("N1", 30.0)),
        ]);
        // Rows of one call come port by port.
        assert_eq!(
            driver.rows(),
            [grown(2, HOUR, 15.0), grown(3, HOUR, 25.0), ended(3, HOUR, 3 * HOUR, 20.0, "departed on time")]
        );
        assert_eq!(driver.keys().len(), 2, "N2 has a streak of one, N1 a new one");
        assert_eq!(driver.timers().len(), 2);
    }

    #[test]
    fn a_streak_ends_after_twelve_hours_without_a_flight() {
        let mut driver = driver();
        driver.push_at(HOUR, flight("N1", 20.0));
        driver.push_at(4 * HOUR, flight("N1", 40.0));
        driver.clear();
        driver.watermark(16 * HOUR - 1);
        assert_eq!(driver.rows(), []);
        driver.watermark(16 * HOUR);
        assert_eq!(driver.timed_rows(), [(Some(16 * HOUR), ended(2, HOUR, 4 * HOUR, 30.0, "not flown"))]);
        assert_eq!((driver.keys().len(), driver.timers().len()), (0, 0));
    }

    #[test]
    fn short_streaks_end_in_silence() {
        let mut driver = driver();
        driver.push_at(HOUR, flight("N1", 20.0));
        driver.push_at(2 * HOUR, flight("N2", 20.0));
        driver.push_at(3 * HOUR, flight("N2", 0.0));
        driver.finish();
        assert_eq!(driver.rows(), []);
        assert_eq!((driver.keys().len(), driver.timers().len()), (0, 0));
    }

    #[test]
    fn settings_are_checked() {
        for (name, value, expected) in [
            ("length", "0", "setting `length` must be above 0"),
            ("length", "two", "setting `length` is `two`, but must be a whole number that is not negative"),
            ("treshold", "3", "there is no setting `treshold`: operator `streak` has: threshold, length, idle"),
        ] {
            let result = TestDriver::<Streak>::new().key(["tailnum"]).config(name, value).open();
            assert_eq!(result.err(), Some(OpError::Config(expected.into())));
        }
    }
}
