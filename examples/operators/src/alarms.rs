//! `alarms`: measurements against limits that change while the job runs. Rules come on a broadcast input and are kept, with
//! the time from which on they hold, in broadcast state, so that every worker knows all of them.
//!
//! A measurement waits until the watermark has reached its time. Then all inputs have come so far, and it is judged by the
//! rule that held at its time, however the two inputs raced each other.

use std::time::Duration;

use tidemill_sdk::prelude::*;
use tidemill_sdk::serde::{Deserialize, Serialize};

/// Rules that have been replaced for so long, by the times of rules, are forgotten.
const HISTORY: Duration = Duration::from_secs(24 * 3600);

#[derive(Row, Clone, Copy)]
pub struct Measurement<'a> {
    device: &'a str,
    metric: &'a str,
    value: f64,
}

/// From its event time on, this limit holds for the metric; null takes it back.
#[derive(Row, Clone, Copy)]
pub struct Rule<'a> {
    metric: &'a str,
    above: Option<f64>,
}

#[derive(Ports, Clone, Copy)]
pub enum In<'a> {
    Measurements(Measurement<'a>),
    #[port(broadcast)]
    Rules(Rule<'a>),
}

/// The key of measurements.
#[derive(Row)]
pub struct Device<'a> {
    device: &'a str,
}

/// An alarm that has begun or ended.
#[derive(Row, Debug, PartialEq)]
pub struct Alarm<'a> {
    at: Timestamp,
    device: &'a str,
    metric: &'a str,
    /// `raised` or `cleared`.
    alarm: &'a str,
    value: f64,
    /// The limit at that time, if there was one.
    above: Option<f64>,
}

/// A measurement that waits.
#[derive(Serialize, Deserialize)]
#[serde(crate = "tidemill_sdk::serde")]
struct Waiting {
    metric: String,
    value: f64,
}

/// A rule as it is kept.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq)]
#[serde(crate = "tidemill_sdk::serde")]
struct Limit {
    /// Event time from which on it holds, ms.
    from: i64,
    above: Option<f64>,
}

/// Raises and clears alarms of devices by limits that may change at any time.
#[derive(Keyed)]
#[operator(key = Device<'a>, time)]
pub struct Alarms {
    /// By event time. There is a timer for each.
    waiting: MapState<i64, Vec<Waiting>>,
    /// Metrics for which the device has an alarm.
    raised: MapState<String, bool>,
    /// By metric, in order of time.
    #[state(broadcast)]
    limits: MapState<String, Vec<Limit>>,
    /// Setting `history`, ms.
    history: i64,
}

impl KeyedOperator for Alarms {
    type In<'a> = In<'a>;
    type Out<'a> = Alarm<'a>;

    fn open(&mut self, config: &Config<'_>) -> Result<()> {
        self.history = config.get_or("history", HISTORY)?.as_millis() as i64;
        Ok(())
    }

    fn process(&mut self, row: In<'_>, ctx: &mut Context<Self>) -> Result<()> {
        let Some(time) = ctx.timestamp() else { bail!("a row without event time: set event_time on both sources") };
        match row {
            In::Rules(rule) => {
                let mut limits = self.limits.get(rule.metric).unwrap_or_default();
                add(&mut limits, Limit { from: time, above: rule.above }, self.history);
                self.limits.put(rule.metric, limits);
            }
            In::Measurements(measurement) => {
                let mut waiting = self.waiting.get(&time).unwrap_or_default();
                waiting.push(Waiting { metric: measurement.metric.to_owned(), value: measurement.value });
                self.waiting.put(&time, waiting);
                ctx.set_event_timer(time);
            }
        }
        Ok(())
    }

    fn on_timer(&mut self, timer: Timer<Device<'_>>, ctx: &mut Context<Self>) -> Result<()> {
        for Waiting { metric, value } in self.waiting.get(&timer.time).unwrap_or_default() {
            let above = self.limits.get(metric.as_str()).and_then(|limits| at(&limits, timer.time));
            let exceeded = above.is_some_and(|above| value > above);
            // Only changes are news.
            if exceeded == self.raised.contains(metric.as_str()) {
                continue;
            }
            let alarm = if exceeded { "raised" } else { "cleared" };
            let at = Timestamp(timer.time);
            ctx.emit(Alarm { at, device: timer.key.device, metric: &metric, alarm, value, above });
            match exceeded {
                true => self.raised.put(metric.as_str(), true),
                false => self.raised.remove(metric.as_str()),
            }
        }
        self.waiting.remove(&timer.time);
        Ok(())
    }
}

/// Adds a rule at its place, of two with one time behind the other, and drops those that had been replaced `history` ago.
fn add(limits: &mut Vec<Limit>, limit: Limit, history: i64) {
    limits.insert(limits.partition_point(|known| known.from <= limit.from), limit);
    let newest = limits.last().map_or(limit.from, |last| last.from);
    let replaced = limits.partition_point(|known| known.from <= newest - history);
    limits.drain(..replaced.saturating_sub(1));
}

/// The limit that held then.
fn at(limits: &[Limit], time: i64) -> Option<f64> {
    let before = limits.partition_point(|limit| limit.from <= time);
    limits[..before].last().and_then(|limit| limit.above)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemill_sdk::testing::TestDriver;

    fn driver() -> TestDriver<Alarms> {
        TestDriver::new().key(["device"]).config("history", "1s").open().unwrap()
    }

    fn measurement(device: &str, value: f64) -> In<'_> {
        In::Measurements(Measurement { device, metric: "heat", value })
    }

    fn rule(above: Option<f64>) -> In<'static> {
        In::Rules(Rule { metric: "heat", above })
    }

    /// Time, device, alarm, value.
    fn shown(driver: &TestDriver<Alarms>) -> Vec<(i64, &str, &str, f64)> {
        driver.rows().into_iter().map(|a| (a.at.0, a.device, a.alarm, a.value)).collect()
    }

    #[test]
    fn a_measurement_is_judged_by_the_rule_of_its_time_whichever_comes_first() {
        let rows = [
            (10, rule(Some(50.0))),
            (20, measurement("a", 60.0)),
            (30, measurement("a", 70.0)),
            (40, rule(Some(80.0))),
            (50, measurement("a", 70.0)),
            (60, rule(None)),
            (70, measurement("a", 90.0)),
        ];
        // Rules before measurements, and measurements before rules.
        for rules_first in [true, false] {
            let mut driver = driver();
            for rules in [rules_first, !rules_first] {
                let some = rows.iter().filter(|(_, row)| matches!(row, In::Rules(_)) == rules);
                some.for_each(|(time, row)| driver.push_at(*time, *row));
            }
            assert_eq!(shown(&driver), [], "nothing is judged before its time");
            driver.finish();
            assert_eq!(shown(&driver), [(20, "a", "raised", 60.0), (50, "a", "cleared", 70.0)], "{rules_first}");
        }
    }

    #[test]
    fn the_rules_are_those_of_all_devices_and_the_alarms_those_of_each() {
        let mut driver = driver();
        driver.push_at(0, rule(Some(50.0)));
        for (time, device, value) in [(1, "a", 51.0), (1, "b", 50.0), (2, "a", 50.0), (2, "b", 50.5)] {
            driver.push_at(time, measurement(device, value));
        }
        driver.finish();
        let mut alarms = shown(&driver);
        alarms.sort_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)));
        assert_eq!(alarms, [(1, "a", "raised", 51.0), (2, "a", "cleared", 50.0), (2, "b", "raised", 50.5)]);
        assert_eq!(driver.map::<String, bool>("raised", "a"), []);
        assert_eq!(driver.map::<String, bool>("raised", "b"), [("heat".to_owned(), true)]);
    }

    #[test]
    fn rules_are_ordered_by_time_and_forgotten_when_long_replaced() {
        let mut limits = Vec::new();
        for (from, above) in [(0, 1.0), (500, 3.0), (200, 2.0), (500, 4.0)] {
            add(&mut limits, Limit { from, above: Some(above) }, 1000);
        }
        assert_eq!(
            [-1, 0, 199, 200, 499, 500, 9000].map(|time| at(&limits, time).unwrap_or(0.0)),
            [0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0]
        );
        // At 1300 it is the rule of 200 that held a second ago.
        add(&mut limits, Limit { from: 1300, above: None }, 1000);
        assert_eq!(limits.iter().map(|limit| limit.from).collect::<Vec<_>>(), [200, 500, 500, 1300]);
        assert_eq!((at(&limits, 1299), at(&limits, 1300)), (Some(4.0), None));
    }
}
