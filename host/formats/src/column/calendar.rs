//! Dates and times from ISO 8601 text (as RFC 3339, with more freedom), in UTC.

use arrow::datatypes::TimeUnit;

use super::number::integer;

const SECONDS_PER_DAY: i64 = 86_400;

/// Days since the epoch of `2013-01-31`. Years may have more digits and a sign.
pub(crate) fn date(text: &[u8]) -> Option<i32> {
    let mut scan = Scan(text);
    let days = scan.date()?;
    scan.0.is_empty().then(|| i32::try_from(days).ok()).flatten()
}

/// Units since the epoch of `2013-01-31`, `2013-01-31 10:05`, `2013-01-31T10:05:06.789Z`, `...+01:00`; or a whole
/// number of units. A fraction finer than the unit is refused unless it is zero.
pub(crate) fn timestamp(text: &[u8], unit: TimeUnit) -> Option<i64> {
    let mut scan = Scan(text);
    let Some(days) = scan.date() else { return integer(text) };
    let (mut seconds, mut nanos) = (0, 0);
    if scan.eat(b"Tt ") {
        (seconds, nanos) = scan.time()?;
        seconds -= scan.zone()?;
    }
    if !scan.0.is_empty() {
        return None;
    }
    in_unit(days.checked_mul(SECONDS_PER_DAY)?.checked_add(seconds)?, nanos, unit)
}

fn in_unit(seconds: i64, nanos: i64, unit: TimeUnit) -> Option<i64> {
    let per_second = match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    };
    let nanos_per_unit = 1_000_000_000 / per_second;
    if nanos % nanos_per_unit != 0 {
        return None;
    }
    // In i128: near the ends of the range the whole seconds alone do not fit into i64.
    i64::try_from(i128::from(seconds) * i128::from(per_second) + i128::from(nanos / nanos_per_unit)).ok()
}

/// What is left to read.
struct Scan<'a>(&'a [u8]);

impl Scan<'_> {
    fn eat(&mut self, any_of: &[u8]) -> bool {
        match self.0.first() {
            Some(b) if any_of.contains(b) => {
                self.0 = &self.0[1..];
                true
            }
            _ => false,
        }
    }

    /// A number of exactly `count` digits.
    fn digits(&mut self, count: usize) -> Option<i64> {
        let digits = self.0.get(..count)?;
        let mut value = 0;
        for d in digits {
            let digit = d.wrapping_sub(b'0');
            if digit > 9 {
                return None;
            }
            value = value * 10 + i64::from(digit);
        }
        self.0 = &self.0[count..];
        Some(value)
    }

    fn date(&mut self) -> Option<i64> {
        let negative = self.0.first() == Some(&b'-');
        let signed = self.eat(b"+-");
        let year_digits = self.0.iter().take(8).position(|&b| b == b'-').filter(|&n| n == 4 || signed && n > 4)?;
        let year = self.digits(year_digits)? * if negative { -1 } else { 1 };
        let month = self.eat(b"-").then(|| self.digits(2))??;
        let day = self.eat(b"-").then(|| self.digits(2))??;
        let in_range = (1..=12).contains(&month) && (1..=days_in_month(year, month)).contains(&day);
        in_range.then(|| days_from_civil(year, month, day))
    }

    /// Seconds of the day and nanoseconds.
    fn time(&mut self) -> Option<(i64, i64)> {
        let hour = self.digits(2)?;
        let minute = self.eat(b":").then(|| self.digits(2))??;
        let (mut second, mut nanos) = (0, 0);
        if self.eat(b":") {
            second = self.digits(2)?;
            if self.eat(b".,") {
                nanos = self.nanos()?;
            }
        }
        (hour < 24 && minute < 60 && second < 60).then_some((hour * 3600 + minute * 60 + second, nanos))
    }

    fn nanos(&mut self) -> Option<i64> {
        let count = self.0.iter().take_while(|b| b.is_ascii_digit()).count();
        if !(1..=9).contains(&count) {
            return None;
        }
        Some(self.digits(count)? * 10i64.pow(9 - count as u32))
    }

    /// Seconds ahead of UTC; no zone means UTC.
    fn zone(&mut self) -> Option<i64> {
        let sign = match self.0.first() {
            None => return Some(0),
            Some(b'Z' | b'z') => {
                self.0 = &self.0[1..];
                return Some(0);
            }
            Some(b'+') => 1,
            Some(b'-') => -1,
            Some(_) => return None,
        };
        self.0 = &self.0[1..];
        let hours = self.digits(2)?;
        self.eat(b":");
        let minutes = if self.0.is_empty() { 0 } else { self.digits(2)? };
        (hours < 24 && minutes < 60).then_some(sign * (hours * 3600 + minutes * 60))
    }
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 in the proleptic Gregorian calendar: years are counted from March, so that the
/// leap day is the last of its year, and eras of 400 years all have the same number of days.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    const DAYS_PER_ERA: i64 = 146_097;
    const EPOCH_FROM_ERA_0: i64 = 719_468;
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * DAYS_PER_ERA + day_of_era - EPOCH_FROM_ERA_0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let cases: &[(&str, TimeUnit, Option<i64>)] = &[
            ("1970-01-01", TimeUnit::Second, Some(0)),
            ("2013-01-01T10:00:00Z", TimeUnit::Second, Some(1_357_034_400)),
            ("2013-01-01 10:00", TimeUnit::Millisecond, Some(1_357_034_400_000)),
            ("2013-01-01T10:00:00.5", TimeUnit::Millisecond, Some(1_357_034_400_500)),
            ("2013-01-01T10:00:00.5", TimeUnit::Second, None),
            ("2013-01-01T10:00:00.500", TimeUnit::Microsecond, Some(1_357_034_400_500_000)),
            ("2013-01-01T10:00:00+01:30", TimeUnit::Second, Some(1_357_029_000)),
            ("2013-01-01T10:00:00-0130", TimeUnit::Second, Some(1_357_039_800)),
            ("1969-12-31T23:59:59.999", TimeUnit::Millisecond, Some(-1)),
            ("2012-02-29", TimeUnit::Second, Some(1_330_473_600)),
            ("2013-02-29", TimeUnit::Second, None),
            ("2013-13-01", TimeUnit::Second, None),
            ("2013-01-01T24:00:00", TimeUnit::Second, None),
            ("2013-01-01T", TimeUnit::Second, None),
            ("2013-01-01T10:00:00Zx", TimeUnit::Second, None),
            ("+10000-01-01", TimeUnit::Second, Some(253_402_300_800)),
            ("1357034400000", TimeUnit::Millisecond, Some(1_357_034_400_000)),
            ("-5", TimeUnit::Millisecond, Some(-5)),
            ("yesterday", TimeUnit::Millisecond, None),
            ("", TimeUnit::Millisecond, None),
            ("1677-09-21T00:12:43.145224192", TimeUnit::Nanosecond, Some(i64::MIN)),
            ("3000-01-01", TimeUnit::Nanosecond, None),
        ];
        for (text, unit, expected) in cases {
            assert_eq!(timestamp(text.as_bytes(), *unit), *expected, "{text}");
        }
    }

    #[test]
    fn dates() {
        let cases: &[(&str, Option<i32>)] = &[
            ("1970-01-01", Some(0)),
            ("1969-12-31", Some(-1)),
            ("2000-03-01", Some(11_017)),
            ("0000-01-01", Some(-719_528)),
            ("-0001-12-31", Some(-719_529)),
            ("2013-1-1", None),
            ("20130101", None),
            ("2013-01-01 ", None),
        ];
        for (text, expected) in cases {
            assert_eq!(date(text.as_bytes()), *expected, "{text}");
        }
    }
}
