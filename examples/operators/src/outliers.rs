//! `outliers`: readings that are far from what their sensor has shown so far, by Welford's running mean and deviation.
//! An outlier is not learned, so that it does not hide the next one; many in a row are a new normal.

use tidemill_sdk::prelude::*;
use tidemill_sdk::serde::{Deserialize, Serialize};

/// Deviations from which on a reading is an outlier.
const DEVIATIONS: f64 = 4.0;
/// Readings of a sensor that are learned before any is judged.
const WARM_UP: u32 = 20;
/// Outliers in a row after which what was learned is forgotten: the sensor has moved, or the room is warmer.
const ACCEPT_AFTER: u32 = 5;

#[derive(Row, Clone, Copy)]
pub struct Reading<'a> {
    sensor: &'a str,
    value: f64,
}

/// All columns of the reading, and what was known when it came.
#[derive(Row, Debug, PartialEq)]
#[row(carry)]
pub struct Outlier {
    mean: f64,
    deviation: f64,
    /// Distance from the mean in deviations; infinite if all readings so far were equal.
    deviations: f64,
}

/// What a sensor has shown.
#[derive(Serialize, Deserialize, Default, Clone, Copy)]
#[serde(crate = "tidemill_sdk::serde")]
struct Known {
    readings: u32,
    mean: f64,
    /// Sum of the squared distances from the mean.
    squares: f64,
    outliers_in_a_row: u32,
}

impl Known {
    /// Welford, 1962: stable, where the sum of squares less the square of the sum is not.
    fn learn(&mut self, value: f64) {
        self.readings += 1;
        let before = value - self.mean;
        self.mean += before / f64::from(self.readings);
        self.squares += before * (value - self.mean);
    }

    /// Of a sample.
    fn deviation(&self) -> f64 {
        (self.squares / f64::from(self.readings.max(2) - 1)).sqrt()
    }
}

/// Readings that are further from the mean of their sensor than some deviations.
#[derive(Keyed)]
pub struct Outliers {
    known: Value<Known>,
    /// Setting `deviations`.
    deviations: f64,
    /// Setting `warm_up`.
    warm_up: u32,
    /// Setting `accept_after`.
    accept_after: u32,
}

impl KeyedOperator for Outliers {
    type In<'a> = Reading<'a>;
    type Out<'a> = Outlier;

    fn open(&mut self, config: &Config<'_>) -> Result<()> {
        self.deviations = config.get_or("deviations", DEVIATIONS)?;
        self.warm_up = config.get_or("warm_up", WARM_UP)?;
        self.accept_after = config.get_or("accept_after", ACCEPT_AFTER)?;
        ensure!(self.deviations > 0.0, "setting `deviations` must be above 0");
        ensure!(self.warm_up >= 2, "setting `warm_up` must be 2 or more: one reading has no deviation");
        Ok(())
    }

    fn process(&mut self, reading: Reading<'_>, ctx: &mut Context<Self>) -> Result<()> {
        ensure!(reading.value.is_finite(), "sensor {} shows {}", reading.sensor, reading.value);
        let mut known = self.known.get_or_default();
        let (mean, deviation) = (known.mean, known.deviation());
        let distance = (reading.value - mean).abs();
        if known.readings >= self.warm_up && distance > self.deviations * deviation {
            ctx.emit(Outlier { mean, deviation, deviations: distance / deviation });
            known.outliers_in_a_row += 1;
            if known.outliers_in_a_row >= self.accept_after {
                known = Known::default();
            }
        } else {
            known.outliers_in_a_row = 0;
            known.learn(reading.value);
        }
        self.known.set(known);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemill_sdk::testing::TestDriver;

    fn driver() -> TestDriver<Outliers> {
        TestDriver::new().key(["sensor"]).config("warm_up", 4).config("accept_after", 2).open().unwrap()
    }

    fn push(driver: &mut TestDriver<Outliers>, sensor: &str, values: &[f64]) {
        driver.push_all(values.iter().map(|value| (None, Reading { sensor, value: *value })));
    }

    #[test]
    fn mean_and_deviation_are_those_of_a_sample() {
        let mut known = Known::default();
        // The sum of squares less the square of the sum would be nonsense, so far from zero.
        [4.0, 7.0, 13.0, 16.0].iter().for_each(|value| known.learn(1e9 + value));
        assert_eq!((known.mean, known.deviation()), (1e9 + 10.0, 30f64.sqrt()));
    }

    #[test]
    fn what_is_too_far_comes_out_and_is_not_learned() {
        let mut driver = driver();
        push(&mut driver, "a", &[4.0, 7.0, 13.0, 16.0]);
        let before = driver.state::<Known>("known", "a").unwrap();
        // Sensors have nothing to do with each other.
        push(&mut driver, "b", &[100.0]);
        push(&mut driver, "a", &[34.0]);
        let deviation = 30f64.sqrt();
        assert_eq!(driver.rows(), [Outlier { mean: 10.0, deviation, deviations: 24.0 / deviation }]);
        let after = driver.state::<Known>("known", "a").unwrap();
        assert_eq!((after.readings, after.mean, after.outliers_in_a_row), (before.readings, before.mean, 1));
        // Four deviations are 21.9.
        push(&mut driver, "a", &[31.0]);
        assert_eq!(driver.rows().len(), 1);
        assert_eq!(driver.state::<Known>("known", "a").map(|k| (k.readings, k.outliers_in_a_row)), Some((5, 0)));
    }

    #[test]
    fn nothing_is_judged_before_there_is_something_to_compare_with() {
        let mut driver = driver();
        push(&mut driver, "a", &[1.0, 1000.0, -1000.0, 5e6]);
        assert_eq!(driver.rows(), []);
    }

    #[test]
    fn many_outliers_in_a_row_are_a_new_normal() {
        let mut driver = driver();
        push(&mut driver, "a", &[1.0, 2.0, 1.0, 2.0, 50.0, 51.0, 50.0, 51.0, 50.0, 51.0, 52.0]);
        assert_eq!(driver.rows().len(), 2);
        assert_eq!(driver.state::<Known>("known", "a").map(|known| known.readings), Some(5));
    }

    #[test]
    fn what_is_no_number_is_refused_and_learned_by_nobody() {
        let mut driver = driver();
        push(&mut driver, "a", &[1.0, f64::NAN]);
        assert_eq!(driver.errors()[0].message, "sensor a shows NaN");
        assert_eq!(driver.state::<Known>("known", "a").map(|known| known.readings), Some(1));
    }

    #[test]
    fn settings_are_checked() {
        for (name, value, expected) in [
            ("deviations", "0", "setting `deviations` must be above 0"),
            ("warm_up", "1", "setting `warm_up` must be 2 or more: one reading has no deviation"),
        ] {
            let opened = TestDriver::<Outliers>::new().key(["sensor"]).config(name, value).open();
            assert_eq!(opened.err(), Some(tidemill_sdk::OpError::Config(expected.into())));
        }
    }
}
