//! The schema that the header and the first rows of a CSV file show.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use tidemill_model::Fault;
use tidemill_model::format::Section;

use super::Csv;
use super::fields::{Fields, RowEnd, chomp};
use super::reader::header;
use crate::column::{boolean, date, integer, timestamp};
use crate::lines::{Lines, Ready};

/// Rows looked at: enough to meet the usual odd values, quick enough for `check`.
const INFER_ROWS_MAX: usize = 1000;

/// Types tried for a column, from the narrowest: the first that holds all values seen is taken.
/// A column without values is text. All columns are nullable: rows further on may lack values.
const TYPES: &[(DataType, Holds)] = &[
    (DataType::Boolean, |t| boolean(t).is_some()),
    (DataType::Int64, |t| is_number(t) && integer::<i64>(t).is_some() && t.iter().all(|b| !b"eE.".contains(b))),
    (DataType::Float64, |t| is_number(t) && std::str::from_utf8(t).is_ok_and(|t| t.parse::<f64>().is_ok())),
    (DataType::Date32, |t| date(t).is_some()),
    (DataType::Timestamp(TimeUnit::Millisecond, None), |t| is_time(t, TimeUnit::Millisecond)),
    (DataType::Timestamp(TimeUnit::Nanosecond, None), |t| is_time(t, TimeUnit::Nanosecond)),
];

/// Whether a type holds a text.
type Holds = fn(&[u8]) -> bool;

/// A leading zero speaks of a code (a postcode, a time of day as 0530), not of a number.
fn is_number(text: &[u8]) -> bool {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    !matches!(digits, [b'0', b'0'..=b'9', ..]) && digits.iter().any(u8::is_ascii_digit)
}

/// Whole units are times only where the pipeline says so.
fn is_time(text: &[u8], unit: TimeUnit) -> bool {
    text.get(..10).is_some_and(|day| date(day).is_some()) && timestamp(text, unit).is_some()
}

/// What the values of a column have shown: a bit for each of [`TYPES`] that holds them all.
#[derive(Clone, Copy, Default)]
struct Guess {
    excluded: u8,
    seen: bool,
}

impl Guess {
    fn refine(&mut self, text: &[u8]) {
        self.seen = true;
        for (i, (_, holds)) in TYPES.iter().enumerate() {
            if self.excluded & 1 << i == 0 && !holds(text) {
                self.excluded |= 1 << i;
            }
        }
    }

    fn data_type(self) -> DataType {
        let narrowest = TYPES.get(self.excluded.trailing_ones() as usize).filter(|_| self.seen);
        narrowest.map_or(DataType::Utf8, |(data_type, _)| data_type.clone())
    }
}

pub(super) fn schema(csv: &Csv, section: Section) -> Result<SchemaRef, Fault> {
    let mut lines = Lines::open(section)?;
    let empty = |lines: &Lines| {
        Fault::config(format!("`{}` has no row to tell its columns from", lines.name()))
            .with_help("name the columns and their types under `columns`")
    };
    let mut names = None;
    if csv.options.header {
        names = Some(header(csv, &mut lines)?.ok_or_else(|| empty(&lines))?);
    }
    let mut guesses = vec![Guess::default(); names.as_ref().map_or(0, Vec::len)];
    let (mut fields, mut rows) = (Fields::default(), 0);
    while rows < INFER_ROWS_MAX {
        match lines.ready()? {
            Ready::Region => {}
            Ready::TooLong(_) => continue,
            Ready::End => break,
        }
        let first = memchr::memchr(b'\n', lines.region()).map_or(lines.region().len(), |i| i + 1);
        let (bytes, count) = match fields.split(lines.region(), csv.dialect) {
            RowEnd::Row { bytes, lines } => (bytes, lines),
            RowEnd::Open if lines.extend()? => continue,
            RowEnd::Open | RowEnd::Broken(_) => {
                fields.split(b"", csv.dialect);
                (first, 1)
            }
        };
        let blank = chomp(&lines.region()[..bytes]).is_empty();
        lines.consume(bytes, count);
        if guesses.is_empty() && !blank {
            guesses = vec![Guess::default(); fields.len()];
        }
        // Rows that do not fit are passed over; reading rejects them.
        if !blank && fields.len() == guesses.len() {
            rows += 1;
            refine(&mut guesses, &fields, &csv.options.nulls);
        }
    }
    if guesses.is_empty() {
        return Err(empty(&lines));
    }
    let name = |i: usize| names.as_ref().map_or_else(|| format!("column_{}", i + 1), |n| n[i].clone());
    let field = |(i, guess): (usize, &Guess)| Field::new(name(i), guess.data_type(), true);
    Ok(Arc::new(Schema::new(guesses.iter().enumerate().map(field).collect::<Vec<_>>())))
}

fn refine(guesses: &mut [Guess], fields: &Fields, nulls: &[String]) {
    for (guess, (text, quoted)) in guesses.iter_mut().zip(fields.iter()) {
        if quoted || nulls.iter().all(|n| n.as_bytes() != text) {
            guess.refine(text);
        }
    }
}
