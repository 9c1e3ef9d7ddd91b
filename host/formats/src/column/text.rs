//! Values from the text of a CSV field.

use super::{Column, Integer, Slot, Values, date, decimal, integer, timestamp};
use crate::reject::Flaw;

impl Slot {
    /// `text` is UTF-8. Spaces around a value count in text columns only.
    pub(crate) fn push_text(&mut self, text: &[u8]) -> Result<(), Flaw> {
        match &mut self.column {
            Column::I64(v) => push_integer(v, text),
            Column::F64(v) => push_parsed::<f64>(v, text, "float64"),
            Column::Utf8(v) => {
                v.push(text);
                Ok(())
            }
            Column::Timestamp(unit, v) => {
                let unit = *unit;
                push_or(v, text, "timestamp (2013-01-31T10:05:06, or whole units since 1970)", |t| timestamp(t, unit))
            }
            Column::Bool(v) => push_or(v, text, "bool (true or false)", boolean),
            Column::I8(v) => push_integer(v, text),
            Column::I16(v) => push_integer(v, text),
            Column::I32(v) => push_integer(v, text),
            Column::U8(v) => push_integer(v, text),
            Column::U16(v) => push_integer(v, text),
            Column::U32(v) => push_integer(v, text),
            Column::U64(v) => push_integer(v, text),
            Column::F32(v) => push_parsed::<f32>(v, text, "float32"),
            Column::Date(v) => push_or(v, text, "date (2013-01-31)", date),
            Column::Decimal(precision, scale, v) => {
                let (precision, scale) = (*precision, *scale);
                push_or(v, text, "decimal", |t| decimal(t, precision, scale))
                    .map_err(|_| Flaw::value(text, &format!("decimal128({precision},{scale})")))
            }
            Column::Binary(v) => {
                if unhex(text.trim_ascii(), v.open()) {
                    v.end_value();
                    return Ok(());
                }
                Err(Flaw::value(text, "binary (pairs of hexadecimal digits)"))
            }
            Column::List(_) | Column::Struct(_) => Err(Flaw::new("a text field cannot hold nested values")),
        }
    }
}

/// Appends the bytes that `text` spells in hexadecimal digits; false if it does not.
pub(crate) fn unhex(text: &[u8], out: &mut Vec<u8>) -> bool {
    let nibble = |b: u8| (b as char).to_digit(16).map(|d| d as u8);
    let (pairs, rest) = text.as_chunks::<2>();
    for pair in pairs {
        let (Some(high), Some(low)) = (nibble(pair[0]), nibble(pair[1])) else { return false };
        out.push(high << 4 | low);
    }
    rest.is_empty()
}

pub(crate) fn boolean(text: &[u8]) -> Option<bool> {
    let is = |word: &[u8]| text.eq_ignore_ascii_case(word);
    (is(b"true") || is(b"false")).then(|| is(b"true"))
}

fn push_integer<T: Integer + Default>(values: &mut Values<T>, text: &[u8]) -> Result<(), Flaw> {
    push_or(values, text, T::NAME, integer)
}

fn push_parsed<T: Copy + Default + std::str::FromStr>(
    values: &mut Values<T>,
    text: &[u8],
    name: &str,
) -> Result<(), Flaw> {
    push_or(values, text, name, |t| std::str::from_utf8(t).ok()?.parse().ok())
}

fn push_or<T: Copy + Default>(
    values: &mut Values<T>,
    text: &[u8],
    expected: &str,
    parse: impl Fn(&[u8]) -> Option<T>,
) -> Result<(), Flaw> {
    match parse(text).or_else(|| parse(text.trim_ascii())) {
        Some(value) => {
            values.push(value);
            Ok(())
        }
        None => Err(Flaw::value(text, expected)),
    }
}
