//! Directories by event time, written as `dt=%Y-%m-%d/hour=%H`. All times are UTC.

const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;
const DAY_MS: i64 = 24 * HOUR_MS;

/// A path with places for parts of a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TimePattern(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Year,
    Month,
    Day,
    Hour,
    Minute,
}

impl TimePattern {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        for segment in text.split('/') {
            if segment.is_empty() {
                return Err(format!("`{text}` has a directory without a name"));
            }
            if segment.starts_with(['.', '_']) {
                return Err(format!("directory `{segment}` would be hidden: its name begins with `.` or `_`"));
            }
        }
        if text.chars().any(char::is_control) {
            return Err(format!("{text:?} has a character that cannot be in a name"));
        }
        let mut pieces = Vec::new();
        let mut plain = String::new();
        let mut rest = text.chars();
        while let Some(c) = rest.next() {
            if c != '%' {
                plain.push(c);
                continue;
            }
            let piece = match rest.next() {
                Some('Y') => Piece::Year,
                Some('m') => Piece::Month,
                Some('d') => Piece::Day,
                Some('H') => Piece::Hour,
                Some('M') => Piece::Minute,
                Some('%') => {
                    plain.push('%');
                    continue;
                }
                other => {
                    let wrong = other.map(String::from).unwrap_or_default();
                    return Err(format!("`%{wrong}` is no part of a time: there are %Y, %m, %d, %H, %M, and %% for %"));
                }
            };
            if !plain.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut plain)));
            }
            pieces.push(piece);
        }
        if pieces.is_empty() {
            return Err(format!("`{text}` names no part of the time, such as %Y-%m-%d"));
        }
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain));
        }
        Ok(Self(pieces))
    }

    /// Times in the same unit (counted from 1970) have the same path.
    pub(super) fn unit_ms(&self) -> i64 {
        let unit = |piece: &Piece| match piece {
            Piece::Minute => MINUTE_MS,
            Piece::Hour => HOUR_MS,
            _ => DAY_MS,
        };
        self.0.iter().map(unit).min().unwrap_or(DAY_MS)
    }

    /// The path of a time in ms since 1970.
    pub(super) fn show(&self, ms: i64) -> String {
        let (year, month, day) = date(ms.div_euclid(DAY_MS));
        let in_day = ms.rem_euclid(DAY_MS);
        let show = |piece: &Piece| match piece {
            Piece::Text(text) => text.clone(),
            Piece::Year => format!("{year:04}"),
            Piece::Month => format!("{month:02}"),
            Piece::Day => format!("{day:02}"),
            Piece::Hour => format!("{:02}", in_day / HOUR_MS),
            Piece::Minute => format!("{:02}", in_day % HOUR_MS / MINUTE_MS),
        };
        self.0.iter().map(show).collect()
    }
}

/// Year, month and day of a day counted from 1970-01-01, in the Gregorian calendar. Years begin in March here, so that
/// the leap day is the last one, and repeat after 400 years of 146,097 days.
fn date(days: i64) -> (i64, i64, i64) {
    // 719,468 days from 0000-03-01 to 1970-01-01.
    let from_march = days + 719_468;
    let (era, day_of_era) = (from_march.div_euclid(146_097), from_march.rem_euclid(146_097));
    // Less the leap days so far: every 4 years of 1460 days, but not every 100, but every 400.
    let leap_days = day_of_era / 1_460 - day_of_era / 36_524 + day_of_era / 146_096;
    let year_of_era = (day_of_era - leap_days) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Five months have 153 days, counted from March.
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, next_year) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year_of_era + next_year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The next day by the rule that everybody knows.
    fn next(year: i64, month: i64, day: i64) -> (i64, i64, i64) {
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let days = match month {
            2 if leap => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        match (month, day) {
            (12, 31) => (year + 1, 1, 1),
            (_, day) if day == days => (year, month + 1, 1),
            _ => (year, month, day + 1),
        }
    }

    #[test]
    fn days_follow_each_other() {
        assert_eq!(date(0), (1970, 1, 1));
        let mut today = date(-800_000);
        assert!(today.0 < 0);
        for day in -799_999..800_000 {
            let (year, month, of_month) = today;
            today = next(year, month, of_month);
            assert_eq!(date(day), today);
        }
    }

    #[test]
    fn paths() {
        for (pattern, ms, expected) in [
            ("dt=%Y-%m-%d/hour=%H", 1_706_695_199_999, "dt=2024-01-31/hour=09"),
            ("%Y/%m/%d/%H%M", -1, "1969/12/31/2359"),
            ("100%%/%H", 0, "100%/00"),
            ("day %d", i64::MAX, "day 17"),
            ("%Y", -62_167_219_200_001, "-001"),
        ] {
            assert_eq!(TimePattern::parse(pattern).unwrap().show(ms), expected, "{pattern}");
        }
        for (pattern, unit) in [("%Y", DAY_MS), ("%d/%H", HOUR_MS), ("%M/%H", MINUTE_MS)] {
            assert_eq!(TimePattern::parse(pattern).unwrap().unit_ms(), unit);
        }
    }

    #[test]
    fn patterns_that_lead_astray() {
        for (pattern, complaint) in [
            ("/dt=%Y", "without a name"),
            ("a//%Y", "without a name"),
            ("", "without a name"),
            ("%Y/", "without a name"),
            ("../%Y", "hidden"),
            ("%Y/_x", "hidden"),
            ("day", "names no part of the time"),
            ("%Y-%j", "`%j` is no part"),
            ("%Y%", "`%` is no part"),
            ("%Y\u{0}", "cannot be in a name"),
        ] {
            let error = TimePattern::parse(pattern).unwrap_err();
            assert!(error.contains(complaint), "{pattern}: {error}");
        }
    }
}
