//! `enrich`: checks a flight, and adds route, delay and class to it. Allocates nothing per row.

use tidemill_sdk::prelude::*;

use crate::DELAYED_MINUTES;

/// Beyond a day early or late, a time or a date is wrong rather than a flight late.
const DELAY_MINUTES_MAX: f64 = 24.0 * 60.0;
const MS_PER_MINUTE: f64 = 60_000.0;

/// A line of the file, as far as it matters here. All that may be empty is an `Option`: cancelled flights have no
/// departure, and often no aircraft.
#[derive(Row, Clone, Copy)]
pub struct Flight<'a> {
    tailnum: Option<&'a str>,
    origin: &'a str,
    dest: &'a str,
    dep_delay: Option<f64>,
    air_time: Option<f64>,
    distance: Option<f64>,
    sched: Timestamp,
    departed: Option<Timestamp>,
}

/// The columns added.
#[derive(Row, Clone, Copy, Debug, PartialEq)]
#[row(carry)]
pub struct Enriched<'a> {
    /// Such as `JFK-LAX`.
    route: &'a str,
    /// Minutes of departure after schedule; negative = early; null = cancelled.
    delay: Option<f64>,
    /// `early`, `on time`, `late`, `very late` or `cancelled`.
    class: &'a str,
    /// Whether it counts as delayed.
    late: bool,
    /// Miles per hour in the air, if the flight arrived.
    speed: Option<f64>,
}

/// Route, delay and class of a flight; lines that can't be true are refused.
#[derive(Map)]
pub struct Enrich {
    /// Reused for each row.
    route: String,
}

impl MapOperator for Enrich {
    type In<'a> = Flight<'a>;
    type Out<'a> = Enriched<'a>;

    fn process(&mut self, row: Flight<'_>, ctx: &mut Context<Self>) -> Result<()> {
        check_airports(row.origin, row.dest)?;
        let delay = delay(&row)?;
        let speed = speed(&row)?;
        self.route.clear();
        self.route.extend([row.origin, "-", row.dest]);
        let (class, late) = (class(delay), delay.is_some_and(|d| d >= DELAYED_MINUTES));
        ctx.emit(Enriched { route: &self.route, delay, class, late, speed });
        Ok(())
    }
}

fn check_airports(origin: &str, dest: &str) -> Result<()> {
    for airport in [origin, dest] {
        let code = airport.len() == 3 && airport.bytes().all(|b| b.is_ascii_uppercase());
        ensure!(code, "`{airport}` is not an airport code");
    }
    ensure!(origin != dest, "the flight goes from {origin} to itself");
    Ok(())
}

/// The delay by the two times, which must agree with the one in the file. None if the flight was cancelled.
fn delay(row: &Flight<'_>) -> Result<Option<f64>> {
    let Some(departed) = row.departed else {
        ensure!(row.dep_delay.is_none(), "the flight has a delay but no departure");
        return Ok(None);
    };
    ensure!(row.tailnum.is_some_and(|t| !t.is_empty()), "the flight departed without a tail number");
    let delay = (departed.0 - row.sched.0) as f64 / MS_PER_MINUTE;
    ensure!(delay.abs() <= DELAY_MINUTES_MAX, "a departure {delay} minutes after schedule is impossible");
    if let Some(stated) = row.dep_delay {
        ensure!(stated == delay, "the stated delay is {stated} minutes, but the times differ by {delay}");
    }
    Ok(Some(delay))
}

fn class(delay: Option<f64>) -> &'static str {
    match delay {
        None => "cancelled",
        Some(d) if d < 0.0 => "early",
        Some(d) if d < DELAYED_MINUTES => "on time",
        Some(d) if d < 60.0 => "late",
        Some(_) => "very late",
    }
}

fn speed(row: &Flight<'_>) -> Result<Option<f64>> {
    let (Some(minutes), Some(miles)) = (row.air_time, row.distance) else { return Ok(None) };
    ensure!(minutes > 0.0 && miles > 0.0, "{miles} miles in {minutes} minutes are impossible");
    Ok(Some(miles / minutes * 60.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemill_sdk::testing::TestDriver;

    const GOOD: Flight<'static> = Flight {
        tailnum: Some("N14228"),
        origin: "EWR",
        dest: "IAH",
        dep_delay: Some(2.0),
        air_time: Some(227.0),
        distance: Some(1400.0),
        sched: Timestamp(1_357_017_300_000),
        departed: Some(Timestamp(1_357_017_420_000)),
    };
    const CANCELLED: Flight<'static> = Flight { dep_delay: None, air_time: None, departed: None, ..GOOD };

    fn departed(minutes: i64) -> Option<Timestamp> {
        Some(Timestamp(GOOD.sched.0 + minutes * 60_000))
    }

    fn driver() -> TestDriver<Enrich> {
        TestDriver::new().open().unwrap()
    }

    #[test]
    fn a_flight_is_enriched() {
        let mut driver = driver();
        driver.push(GOOD);
        driver.push(Flight { dest: "MIA", tailnum: None, ..CANCELLED });
        let speed = Some(1400.0 / 227.0 * 60.0);
        let departed = Enriched { route: "EWR-IAH", delay: Some(2.0), class: "on time", late: false, speed };
        let cancelled = Enriched { route: "EWR-MIA", delay: None, class: "cancelled", late: false, speed: None };
        assert_eq!(driver.rows(), [departed, cancelled]);
        assert_eq!(driver.errors(), []);
    }

    #[test]
    fn delays_have_classes() {
        for (minutes, class, late) in [
            (-1, "early", false),
            (0, "on time", false),
            (14, "on time", false),
            (15, "late", true),
            (59, "late", true),
            (60, "very late", true),
            (1440, "very late", true),
        ] {
            let mut driver = driver();
            driver.push(Flight { departed: departed(minutes), dep_delay: None, ..GOOD });
            let rows = driver.rows();
            assert_eq!((rows[0].class, rows[0].late, rows[0].delay), (class, late, Some(minutes as f64)));
        }
    }

    #[test]
    fn impossible_rows_are_refused_with_the_reason() {
        let bad = [
            (Flight { tailnum: None, ..GOOD }, "the flight departed without a tail number"),
            (Flight { tailnum: Some(""), ..GOOD }, "the flight departed without a tail number"),
            (Flight { departed: None, ..GOOD }, "the flight has a delay but no departure"),
            (Flight { dest: "Iah", ..GOOD }, "`Iah` is not an airport code"),
            (Flight { dest: "EWR", ..GOOD }, "the flight goes from EWR to itself"),
            (Flight { dep_delay: Some(3.0), ..GOOD }, "the stated delay is 3 minutes, but the times differ by 2"),
            (Flight { departed: departed(1441), ..GOOD }, "a departure 1441 minutes after schedule is impossible"),
            (Flight { air_time: Some(0.0), ..GOOD }, "1400 miles in 0 minutes are impossible"),
        ];
        let mut driver = driver();
        driver.push_all(bad.iter().map(|(row, _)| (None, *row)).chain([(None, GOOD)]));
        let messages: Vec<&str> = driver.errors().iter().map(|e| e.message.as_str()).collect();
        assert_eq!(messages, bad.map(|(_, message)| message));
        assert_eq!(driver.rows().len(), 1, "the good row goes on");
    }
}
