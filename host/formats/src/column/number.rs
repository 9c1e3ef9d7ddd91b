//! Numbers from text, exactly: a number that its type cannot hold is refused, never rounded or cut.
//! (Except binary floats, which are rounded to the nearest value as everywhere.)

/// Integer types that a column can have.
pub(crate) trait Integer: Copy + TryFrom<i64> + TryFrom<i128> {
    const NAME: &'static str;
}

macro_rules! integers {
    ($($ty:ty => $name:literal),*) => { $(impl Integer for $ty { const NAME: &'static str = $name; })* };
}
integers!(i8 => "int8", i16 => "int16", i32 => "int32", i64 => "int64", u8 => "uint8", u16 => "uint16", u32 => "uint32",
          u64 => "uint64");

/// Digits that always fit into an i64.
pub(crate) const SAFE_DIGITS: usize = 18;

/// `-12`, `+12`, and what is a whole number in another notation: `1.0`, `1e3`.
pub(crate) fn integer<T: Integer>(text: &[u8]) -> Option<T> {
    let (negative, digits) = sign(text);
    if digits.is_empty() || digits.len() > SAFE_DIGITS || !digits.iter().all(u8::is_ascii_digit) {
        return T::try_from(decimal(text, 38, 0)?).ok();
    }
    let value = digits.iter().fold(0i64, |v, d| v * 10 + i64::from(d - b'0'));
    T::try_from(if negative { -value } else { value }).ok()
}

fn sign(text: &[u8]) -> (bool, &[u8]) {
    match text.first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    }
}

/// A decimal number as a multiple of 10^-scale, if it is one exactly and has at most `precision` digits.
pub(crate) fn decimal(text: &[u8], precision: u8, scale: i8) -> Option<i128> {
    let (negative, rest) = sign(text);
    let (number, exponent) = match rest.iter().position(|b| matches!(b, b'e' | b'E')) {
        Some(at) => (&rest[..at], small_exponent(&rest[at + 1..])?),
        None => (rest, 0),
    };
    let (whole, fraction) = match number.iter().position(|&b| b == b'.') {
        Some(at) => (&number[..at], &number[at + 1..]),
        None => (number, &[][..]),
    };
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    // Zeros at the end say nothing; without them the shift below is exact or impossible.
    let (mut value, mut zeros) = (0i128, 0u32);
    for &digit in whole.iter().chain(fraction) {
        match digit {
            b'0' if value == 0 => {}
            b'0' => zeros += 1,
            b'1'..=b'9' => {
                value = value.checked_mul(10i128.checked_pow(zeros + 1)?)?.checked_add(i128::from(digit - b'0'))?;
                zeros = 0;
            }
            _ => return None,
        }
    }
    let shift = i64::from(zeros) - fraction.len() as i64 + i64::from(exponent) + i64::from(scale);
    if value != 0 {
        value = value.checked_mul(10i128.checked_pow(u32::try_from(shift).ok()?)?)?;
    }
    let fits = value.unsigned_abs() < 10u128.pow(u32::from(precision));
    fits.then_some(if negative { -value } else { value })
}

/// Exponent of a decimal number; beyond four digits nothing but zero is representable.
fn small_exponent(text: &[u8]) -> Option<i32> {
    let (negative, digits) = sign(text);
    if digits.is_empty() || digits.len() > 4 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value = digits.iter().fold(0i32, |v, d| v * 10 + i32::from(d - b'0'));
    Some(if negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_exact() {
        let cases: &[(&str, Option<i64>)] = &[
            ("0", Some(0)),
            ("-0", Some(0)),
            ("+7", Some(7)),
            ("007", Some(7)),
            ("1e3", Some(1000)),
            ("1.0", Some(1)),
            ("1.50e1", Some(15)),
            ("1.5", None),
            ("1e-1", None),
            ("", None),
            ("-", None),
            ("1 ", None),
            ("abc", None),
            ("1e", None),
            ("9223372036854775807", Some(i64::MAX)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("9223372036854775808", None),
            ("0.0000000e99", Some(0)),
        ];
        for (text, expected) in cases {
            assert_eq!(integer::<i64>(text.as_bytes()), *expected, "{text}");
        }
        assert_eq!(integer::<u64>(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!(integer::<u64>(b"-1"), None);
        assert_eq!(integer::<i8>(b"128"), None);
        assert_eq!(integer::<i8>(b"-128"), Some(-128));
    }

    #[test]
    fn decimals_keep_every_digit_or_are_refused() {
        let cases: &[(&str, u8, i8, Option<i128>)] = &[
            ("1.25", 10, 2, Some(125)),
            ("1.250", 10, 2, Some(125)),
            ("1.255", 10, 2, None),
            ("-.5", 10, 2, Some(-50)),
            ("5.", 10, 2, Some(500)),
            (".", 10, 2, None),
            ("1.5e1", 10, 2, Some(1500)),
            ("99999999.99", 10, 2, Some(9_999_999_999)),
            ("100000000", 10, 2, None),
            ("1200", 10, -2, Some(12)),
            ("1250", 10, -2, None),
            ("1e9999", 38, 0, None),
            ("0e9999", 38, 0, Some(0)),
            ("99999999999999999999999999999999999999", 38, 0, Some(10i128.pow(38) - 1)),
            ("100000000000000000000000000000000000000", 38, 0, None),
        ];
        for (text, precision, scale, expected) in cases {
            assert_eq!(decimal(text.as_bytes(), *precision, *scale), *expected, "{text}");
        }
    }
}
