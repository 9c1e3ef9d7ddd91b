//! Rows that could not be decoded, and why.

use tidemill_model::DeadRow;
use tidemill_model::limits::TEXT_BYTES_MAX;

/// What is wrong with one row. Boxed text: made only on the error path, so results stay small.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Flaw(Box<str>);

impl Flaw {
    #[cold]
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into().into_boxed_str())
    }

    /// A value that is not of its column's type.
    #[cold]
    pub(crate) fn value(text: &[u8], expected: &str) -> Self {
        Self::new(format!("expected {expected}, found `{}`", show(text, SHOWN_BYTES_MAX)))
    }

    #[cold]
    pub(crate) fn null() -> Self {
        Self::new("null, but the column is declared as not null".to_owned())
    }

    /// The same flaw, seen from outside of the column (or field, or list item) `name`.
    #[cold]
    pub(crate) fn within(self, name: &str) -> Self {
        match self.0.strip_prefix("column `") {
            Some(inner) => Self::new(format!("column `{name}.{inner}")),
            None => Self::new(format!("column `{name}`: {}", self.0)),
        }
    }

    pub(crate) fn text(&self) -> &str {
        &self.0
    }
}

/// A value in a message: enough to recognise it.
const SHOWN_BYTES_MAX: usize = 60;

/// `bytes` as text of at most `limit` bytes (and a mark if something is cut off), whatever they are.
fn show(bytes: &[u8], limit: usize) -> String {
    if bytes.len() <= limit {
        return String::from_utf8_lossy(bytes).into_owned();
    }
    let mut cut = limit;
    while cut > limit - 4 && bytes[cut] & 0xC0 == 0x80 {
        cut -= 1;
    }
    format!("{}…", String::from_utf8_lossy(&bytes[..cut]))
}

/// The dead letter of a row: `file`, 1-based `line` and the first 10 kB of its text.
#[cold]
pub(crate) fn dead_row(file: &str, line: Option<u64>, raw: &[u8], flaw: &Flaw) -> DeadRow {
    let raw = raw.strip_suffix(b"\n").unwrap_or(raw);
    let raw = raw.strip_suffix(b"\r").unwrap_or(raw);
    let mut row = show(raw, TEXT_BYTES_MAX - '…'.len_utf8());
    if row.len() > TEXT_BYTES_MAX {
        // Replacement characters are longer than the bytes that they stand for.
        row.truncate((TEXT_BYTES_MAX - 3..=TEXT_BYTES_MAX).rev().find(|&i| row.is_char_boundary(i)).unwrap_or(0));
    }
    DeadRow {
        error: flaw.text().to_owned(),
        row,
        file: Some(file.to_owned()),
        line: line.and_then(|l| i64::try_from(l).ok()),
        ..DeadRow::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raw_text_is_cut_to_10_kb_at_a_character() {
        let flaw = Flaw::new("x");
        for raw in ["ä".repeat(20_000).into_bytes(), vec![0xFF; 20_000], b"a".repeat(TEXT_BYTES_MAX + 1)] {
            let dead = dead_row("f", Some(1), &raw, &flaw);
            assert!(dead.row.len() <= TEXT_BYTES_MAX && dead.row.len() > TEXT_BYTES_MAX - 8, "{}", dead.row.len());
        }
        assert_eq!(dead_row("f", Some(1), b"abc\r\n", &flaw).row, "abc");
    }

    #[test]
    fn places_nest() {
        let flaw = Flaw::value(b"x", "int64").within("inner").within("outer");
        assert_eq!(flaw.text(), "column `outer.inner`: expected int64, found `x`");
    }
}
