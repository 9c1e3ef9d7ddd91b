//! One JSON object into the columns of a record. This is the per-row path: it allocates nothing.

use std::str::FromStr;

use super::cursor::{Cursor, unescape};
use crate::column::{Bytes, Column, ExpectedKey, Integer, Lists, Record, SAFE_DIGITS, Slot, Values};
use crate::column::{date, decimal, integer, timestamp, unhex};
use crate::reject::Flaw;

/// Keys that are remembered as they are written: more would take longer to search than to look up by name.
const EXPECTED_KEYS_MAX: usize = 64;

/// Appends the row that `line` holds. After an error the record must be rolled back.
pub(crate) fn row(line: &[u8], record: &mut Record) -> Result<(), Flaw> {
    let mut cursor = Cursor::new(line);
    cursor.skip_space();
    if cursor.peek() != b'{' {
        return Err(cursor.expected("an object, `{`"));
    }
    object(&mut cursor, record)?;
    cursor.skip_space();
    if cursor.at < line.len() {
        return Err(cursor.expected("the end of the line"));
    }
    record.end_row();
    Ok(())
}

/// The values of an object; the row stays open.
fn object(cursor: &mut Cursor, record: &mut Record) -> Result<(), Flaw> {
    cursor.at += 1;
    cursor.skip_space();
    let (row, mut filled, mut hint) = (record.len(), 0, 0);
    if cursor.peek() == b'}' {
        cursor.at += 1;
    } else {
        loop {
            let slot = match record.expected.get(hint) {
                Some(key) if cursor.rest().starts_with(&key.raw) => {
                    cursor.at += key.raw.len();
                    hint += 1;
                    key.slot
                }
                _ => key(cursor, record, &mut hint)?,
            };
            cursor.skip_space();
            match slot {
                Some(i) => {
                    let slot = &mut record.slots[i];
                    if slot.column.len() > row {
                        // The key came before: the last one wins.
                        slot.column.truncate(row);
                    } else {
                        filled += 1;
                    }
                    value(cursor, slot)?;
                }
                None => drop(cursor.skip_value()?),
            }
            cursor.skip_space();
            match cursor.peek() {
                b',' => cursor.at += 1,
                b'}' => break cursor.at += 1,
                _ => return Err(cursor.expected("`,` or `}`")),
            }
            cursor.skip_space();
        }
    }
    if filled < record.slots.len() {
        record.fill_missing()?;
    }
    Ok(())
}

/// A key that is not the one expected at this place: one that was seen elsewhere, or a new one.
fn key(cursor: &mut Cursor, record: &mut Record, hint: &mut usize) -> Result<Option<usize>, Flaw> {
    if cursor.peek() != b'"' {
        return Err(cursor.expected("a key in quotes"));
    }
    let seen = record.expected.iter().position(|key| cursor.rest().starts_with(&key.raw));
    if let Some(at) = seen {
        cursor.at += record.expected[at].raw.len();
        *hint = at + 1;
        return Ok(record.expected[at].slot);
    }
    let begin = cursor.at;
    let slot = record.find(&cursor.string()?);
    cursor.skip_space();
    cursor.word(b":", "`:`")?;
    if record.expected.len() < EXPECTED_KEYS_MAX {
        record.expected.push(ExpectedKey { raw: cursor.text[begin..cursor.at].to_vec(), slot });
        *hint = record.expected.len();
    }
    Ok(slot)
}

#[inline]
fn value(cursor: &mut Cursor, slot: &mut Slot) -> Result<(), Flaw> {
    let result = if cursor.peek() == b'n' {
        cursor.word(b"null", "a value").and_then(|()| slot.push_null())
    } else {
        typed(cursor, &mut slot.column)
    };
    result.map_err(|flaw| flaw.within(slot.field.name()))
}

#[inline]
fn typed(cursor: &mut Cursor, column: &mut Column) -> Result<(), Flaw> {
    match column {
        Column::I64(v) => push_integer(cursor, v),
        Column::Utf8(v) => push_string(cursor, v),
        Column::F64(v) => push_float(cursor, v, "float64", f64::is_finite),
        Column::Timestamp(unit, v) => {
            let unit = *unit;
            push_calendar(cursor, v, "timestamp (\"2013-01-31T10:05:06\", or whole units since 1970)", |t| {
                timestamp(t, unit)
            })
        }
        Column::Bool(v) => push_bool(cursor, v),
        Column::I8(v) => push_integer(cursor, v),
        Column::I16(v) => push_integer(cursor, v),
        Column::I32(v) => push_integer(cursor, v),
        Column::U8(v) => push_integer(cursor, v),
        Column::U16(v) => push_integer(cursor, v),
        Column::U32(v) => push_integer(cursor, v),
        Column::U64(v) => push_integer(cursor, v),
        Column::F32(v) => push_float(cursor, v, "float32", f32::is_finite),
        Column::Date(v) => push_calendar(cursor, v, "date (\"2013-01-31\", or whole days since 1970)", date),
        Column::Decimal(precision, scale, v) => push_decimal(cursor, v, *precision, *scale),
        Column::Binary(v) => push_binary(cursor, v),
        Column::List(v) => list(cursor, v),
        Column::Struct(v) if cursor.peek() == b'{' => {
            object(cursor, v)?;
            v.end_row();
            Ok(())
        }
        Column::Struct(_) => Err(wrong(cursor, "an object")),
    }
}

/// The value here is of another kind than its column, or no value at all.
#[cold]
fn wrong(cursor: &mut Cursor, expected: &str) -> Flaw {
    match cursor.skip_value() {
        Ok(found) => Flaw::value(found, expected),
        Err(broken) => broken,
    }
}

#[inline]
fn push_integer<T: Integer + Default>(cursor: &mut Cursor, values: &mut Values<T>) -> Result<(), Flaw> {
    let begin = cursor.at;
    let negative = cursor.peek() == b'-';
    let first = begin + usize::from(negative);
    let (mut at, mut value) = (first, 0i64);
    while let Some(digit) = cursor.text.get(at).map(|b| b.wrapping_sub(b'0')).filter(|&d| d < 10) {
        value = value.wrapping_mul(10).wrapping_add(i64::from(digit));
        at += 1;
    }
    let next = cursor.text.get(at).copied().unwrap_or(0);
    let digits = at - first;
    let plain = (1..=SAFE_DIGITS).contains(&digits)
        && !matches!(next, b'.' | b'e' | b'E')
        && (digits == 1 || cursor.text[first] != b'0');
    if plain && let Ok(value) = T::try_from(if negative { -value } else { value }) {
        cursor.at = at;
        values.push(value);
        return Ok(());
    }
    push_odd_integer(cursor, values)
}

/// Integers that are long, written like `1e3`, out of range, or none.
#[cold]
fn push_odd_integer<T: Integer + Default>(cursor: &mut Cursor, values: &mut Values<T>) -> Result<(), Flaw> {
    if !is_number(cursor) {
        return Err(wrong(cursor, T::NAME));
    }
    let text = cursor.number()?;
    values.push(integer(text).ok_or_else(|| Flaw::value(text, T::NAME))?);
    Ok(())
}

fn is_number(cursor: &Cursor) -> bool {
    matches!(cursor.peek(), b'-' | b'0'..=b'9')
}

fn push_float<T: Copy + Default + FromStr>(
    cursor: &mut Cursor,
    values: &mut Values<T>,
    name: &str,
    finite: fn(T) -> bool,
) -> Result<(), Flaw> {
    if !is_number(cursor) {
        return Err(wrong(cursor, name));
    }
    let text = cursor.number()?;
    let value = std::str::from_utf8(text).ok().and_then(|t| t.parse().ok()).filter(|&v| finite(v));
    values.push(value.ok_or_else(|| Flaw::value(text, name))?);
    Ok(())
}

#[inline]
fn push_string(cursor: &mut Cursor, values: &mut Bytes) -> Result<(), Flaw> {
    if cursor.peek() != b'"' {
        return Err(wrong(cursor, "utf8 (text in quotes)"));
    }
    match cursor.raw_string()? {
        (text, false) => values.push(text),
        (raw, true) => {
            unescape(raw, values.open())?;
            values.end_value();
        }
    }
    Ok(())
}

fn push_bool(cursor: &mut Cursor, values: &mut Values<bool>) -> Result<(), Flaw> {
    let value = match cursor.peek() {
        b't' => cursor.word(b"true", "a value").map(|()| true)?,
        b'f' => cursor.word(b"false", "a value").map(|()| false)?,
        _ => return Err(wrong(cursor, "bool")),
    };
    values.push(value);
    Ok(())
}

fn push_calendar<T: Integer + Default>(
    cursor: &mut Cursor,
    values: &mut Values<T>,
    expected: &str,
    parse: impl Fn(&[u8]) -> Option<T>,
) -> Result<(), Flaw> {
    if is_number(cursor) {
        let text = cursor.number()?;
        values.push(integer(text).ok_or_else(|| Flaw::value(text, expected))?);
        return Ok(());
    }
    if cursor.peek() != b'"' {
        return Err(wrong(cursor, expected));
    }
    let text = cursor.string()?;
    values.push(parse(&text).ok_or_else(|| Flaw::value(&text, expected))?);
    Ok(())
}

/// Also as text, as some writers do, since many readers would take a number for a float.
fn push_decimal(cursor: &mut Cursor, values: &mut Values<i128>, precision: u8, scale: i8) -> Result<(), Flaw> {
    let name = || format!("decimal128({precision},{scale})");
    let text = match cursor.peek() {
        b'"' => cursor.string()?,
        _ if is_number(cursor) => cursor.number()?.into(),
        _ => return Err(wrong(cursor, &name())),
    };
    values.push(decimal(&text, precision, scale).ok_or_else(|| Flaw::value(&text, &name()))?);
    Ok(())
}

fn push_binary(cursor: &mut Cursor, values: &mut Bytes) -> Result<(), Flaw> {
    const EXPECTED: &str = "binary (pairs of hexadecimal digits in quotes)";
    if cursor.peek() != b'"' {
        return Err(wrong(cursor, EXPECTED));
    }
    let text = cursor.string()?;
    if !unhex(&text, values.open()) {
        return Err(Flaw::value(&text, EXPECTED));
    }
    values.end_value();
    Ok(())
}

fn list(cursor: &mut Cursor, lists: &mut Lists) -> Result<(), Flaw> {
    if cursor.peek() != b'[' {
        return Err(wrong(cursor, "a list"));
    }
    cursor.at += 1;
    cursor.skip_space();
    if cursor.peek() == b']' {
        cursor.at += 1;
    } else {
        loop {
            value(cursor, &mut lists.item)?;
            cursor.skip_space();
            match cursor.peek() {
                b',' => cursor.at += 1,
                b']' => break cursor.at += 1,
                _ => return Err(cursor.expected("`,` or `]`")),
            }
            cursor.skip_space();
        }
    }
    lists.end_list();
    Ok(())
}
