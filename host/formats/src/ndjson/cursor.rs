//! JSON text, read from left to right (RFC 8259), without building a tree.
//!
//! Law: what [`Cursor::skip_value`] accepts is exactly what JSON allows, so that a broken line is found
//! even where nobody asked for its columns. The text must be UTF-8.

use std::borrow::Cow;

use crate::reject::Flaw;

/// Deeper values are refused: no recursion and no memory grows with the input.
const DEPTH_MAX: usize = 128;

pub(crate) struct Cursor<'a> {
    pub(crate) text: &'a [u8],
    pub(crate) at: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0 }
    }

    /// The next byte; 0 (which JSON allows nowhere) at the end.
    #[inline(always)]
    pub(crate) fn peek(&self) -> u8 {
        self.text.get(self.at).copied().unwrap_or(0)
    }

    #[inline(always)]
    pub(crate) fn rest(&self) -> &'a [u8] {
        &self.text[self.at.min(self.text.len())..]
    }

    #[inline(always)]
    pub(crate) fn skip_space(&mut self) {
        while matches!(self.peek(), b' ' | b'\t' | b'\r' | b'\n') {
            self.at += 1;
        }
    }

    #[cold]
    pub(crate) fn expected(&self, what: &str) -> Flaw {
        match self.text.get(self.at..).and_then(|rest| std::str::from_utf8(rest).ok()?.chars().next()) {
            Some(found) => Flaw::new(format!("broken JSON: expected {what}, found `{found}` at byte {}", self.at + 1)),
            None => Flaw::new(format!("broken JSON: expected {what}, but the line ends")),
        }
    }

    #[inline]
    pub(crate) fn word(&mut self, word: &[u8], what: &str) -> Result<(), Flaw> {
        if !self.rest().starts_with(word) {
            return Err(self.expected(what));
        }
        self.at += word.len();
        Ok(())
    }

    /// The string that begins here, still escaped, without its quotes; and whether it has escapes.
    #[inline]
    pub(crate) fn raw_string(&mut self) -> Result<(&'a [u8], bool), Flaw> {
        let begin = self.at + 1;
        let mut at = begin + plain_prefix(&self.text[begin.min(self.text.len())..]);
        if self.text.get(at) == Some(&b'"') {
            self.at = at + 1;
            return Ok((&self.text[begin..at], false));
        }
        loop {
            match self.text.get(at) {
                Some(b'"') => break,
                Some(b'\\') => at += 2,
                Some(_) => return Err(control(at)),
                None => return Err(Flaw::new("broken JSON: a string is not closed")),
            }
            at += plain_prefix(self.text.get(at..).unwrap_or_default());
        }
        self.at = at + 1;
        Ok((&self.text[begin..at], true))
    }

    /// What the string that begins here means. For the places where escapes are rare: they allocate.
    pub(crate) fn string(&mut self) -> Result<Cow<'a, [u8]>, Flaw> {
        let (raw, escaped) = self.raw_string()?;
        if !escaped {
            return Ok(Cow::Borrowed(raw));
        }
        let mut plain = Vec::new();
        unescape(raw, &mut plain)?;
        Ok(Cow::Owned(plain))
    }

    /// The number that begins here.
    pub(crate) fn number(&mut self) -> Result<&'a [u8], Flaw> {
        let begin = self.at;
        if self.peek() == b'-' {
            self.at += 1;
        }
        match self.peek() {
            b'0' => self.at += 1,
            b'1'..=b'9' => self.digits()?,
            _ => return Err(self.expected("a value")),
        }
        if self.peek() == b'.' {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), b'e' | b'E') {
            self.at += 1;
            if matches!(self.peek(), b'+' | b'-') {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(&self.text[begin..self.at])
    }

    fn digits(&mut self) -> Result<(), Flaw> {
        let begin = self.at;
        while self.peek().is_ascii_digit() {
            self.at += 1;
        }
        if self.at == begin { Err(self.expected("a digit")) } else { Ok(()) }
    }

    /// Passes over one value of any kind. Returns its text.
    pub(crate) fn skip_value(&mut self) -> Result<&'a [u8], Flaw> {
        let begin = self.at;
        // One bit per open bracket: set for objects.
        let (mut depth, mut kinds) = (0usize, 0u128);
        loop {
            match self.peek() {
                open @ (b'{' | b'[') => {
                    if depth == DEPTH_MAX {
                        return Err(Flaw::new(format!("nested deeper than {DEPTH_MAX} levels")));
                    }
                    depth += 1;
                    kinds = kinds << 1 | u128::from(open == b'{');
                    self.at += 1;
                    self.skip_space();
                    let close = if open == b'{' { b'}' } else { b']' };
                    if self.peek() != close {
                        if open == b'{' {
                            self.skip_key()?;
                        }
                        continue;
                    }
                }
                _ => {
                    self.skip_scalar()?;
                    if depth == 0 {
                        return Ok(&self.text[begin..self.at]);
                    }
                    self.skip_space();
                    if self.next_item(kinds)? {
                        continue;
                    }
                }
            }
            // At a closing bracket.
            loop {
                self.at += 1;
                depth -= 1;
                kinds >>= 1;
                if depth == 0 {
                    return Ok(&self.text[begin..self.at]);
                }
                self.skip_space();
                if self.next_item(kinds)? {
                    break;
                }
            }
        }
    }

    /// Behind a value inside brackets: true at the next value, false at the closing bracket.
    fn next_item(&mut self, kinds: u128) -> Result<bool, Flaw> {
        let object = kinds & 1 == 1;
        match self.peek() {
            b',' => {
                self.at += 1;
                self.skip_space();
                if object {
                    self.skip_key()?;
                }
                Ok(true)
            }
            b'}' if object => Ok(false),
            b']' if !object => Ok(false),
            _ => Err(self.expected(if object { "`,` or `}`" } else { "`,` or `]`" })),
        }
    }

    fn skip_key(&mut self) -> Result<(), Flaw> {
        self.skip_string("a key in quotes")?;
        self.colon()
    }

    pub(crate) fn colon(&mut self) -> Result<(), Flaw> {
        self.skip_space();
        self.word(b":", "`:`")?;
        self.skip_space();
        Ok(())
    }

    fn skip_scalar(&mut self) -> Result<(), Flaw> {
        match self.peek() {
            b'"' => self.skip_string("a string"),
            b't' => self.word(b"true", "a value"),
            b'f' => self.word(b"false", "a value"),
            b'n' => self.word(b"null", "a value"),
            _ => self.number().map(drop),
        }
    }

    fn skip_string(&mut self, what: &str) -> Result<(), Flaw> {
        if self.peek() != b'"' {
            return Err(self.expected(what));
        }
        self.string().map(drop)
    }
}

/// Length of the part of a string up to a quote, a backslash or a control character.
///
/// Eight bytes at a time: most strings are too short for vector instructions to pay.
#[inline(always)]
fn plain_prefix(text: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    // For each byte: the high bit is set if the byte is zero. (False marks stand behind a true one only.)
    let zero = |v: u64| v.wrapping_sub(ONES) & !v & HIGHS;
    let (words, _) = text.as_chunks::<8>();
    for (i, word) in words.iter().enumerate() {
        let v = u64::from_le_bytes(*word);
        let control = v.wrapping_sub(ONES * 0x20) & !v & HIGHS;
        let hits = zero(v ^ (ONES * b'"' as u64)) | zero(v ^ (ONES * b'\\' as u64)) | control;
        if hits != 0 {
            return i * 8 + hits.trailing_zeros() as usize / 8;
        }
    }
    let done = words.len() * 8;
    done + text[done..].iter().position(|&b| matches!(b, b'"' | b'\\' | 0..0x20)).unwrap_or(text.len() - done)
}

#[cold]
fn control(at: usize) -> Flaw {
    Flaw::new(format!("broken JSON: a control character at byte {} must be escaped", at + 1))
}

/// Appends what an escaped string means. A surrogate without its partner is refused: it is no text.
pub(crate) fn unescape(raw: &[u8], out: &mut Vec<u8>) -> Result<(), Flaw> {
    let mut rest = raw;
    while let Some(slash) = memchr::memchr(b'\\', rest) {
        out.extend_from_slice(&rest[..slash]);
        let (bytes, used) = escape(&rest[slash + 1..]).ok_or_else(|| broken_escape(&rest[slash..]))?;
        let mut utf8 = [0; 4];
        out.extend_from_slice(bytes.encode_utf8(&mut utf8).as_bytes());
        rest = &rest[slash + 1 + used..];
    }
    out.extend_from_slice(rest);
    Ok(())
}

#[cold]
fn broken_escape(text: &[u8]) -> Flaw {
    Flaw::new(format!("broken JSON: `{}` is no escape", String::from_utf8_lossy(&text[..text.len().min(12)])))
}

/// The character behind a backslash, and how many bytes stand for it.
fn escape(text: &[u8]) -> Option<(char, usize)> {
    Some(match text.first()? {
        b'"' => ('"', 1),
        b'\\' => ('\\', 1),
        b'/' => ('/', 1),
        b'b' => ('\u{8}', 1),
        b'f' => ('\u{c}', 1),
        b'n' => ('\n', 1),
        b'r' => ('\r', 1),
        b't' => ('\t', 1),
        b'u' => match hex4(text.get(1..5)?)? {
            high @ 0xD800..0xDC00 => {
                let low = text.get(5..11)?.strip_prefix(b"\\u").and_then(hex4)?;
                let low = (0xDC00..0xE000).contains(&low).then_some(low)?;
                (char::from_u32(0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00))?, 11)
            }
            code => (char::from_u32(code)?, 5),
        },
        _ => return None,
    })
}

fn hex4(text: &[u8]) -> Option<u32> {
    text.iter().try_fold(0, |v, &b| Some(v << 4 | (b as char).to_digit(16)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// serde_json as the judge of what JSON is.
    fn judge(text: &str) {
        let mut cursor = Cursor::new(text.as_bytes());
        cursor.skip_space();
        let mine = cursor.skip_value().is_ok() && {
            cursor.skip_space();
            cursor.at == text.len()
        };
        // Numbers too large for f64 are JSON, but not for serde_json.
        let theirs = serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
        assert_eq!(mine, theirs, "{text:?}");
    }

    #[test]
    fn accepts_json_and_nothing_else() {
        for text in [
            "1",
            "-0",
            "01",
            "1.",
            ".5",
            "1e5",
            "1e",
            "1E+5",
            "-",
            "+1",
            "true",
            "tru",
            "null",
            "nul",
            "[]",
            "[1]",
            "[1,]",
            "[,1]",
            "{}",
            r#"{"a":1}"#,
            r#"{"a":1,}"#,
            r#"{"a"}"#,
            r#"{a:1}"#,
            r#"{"a":}"#,
            r#"{"a":[1,{"b":[]}]}"#,
            r#"{"a":[1,{"b":[]]}"#,
            r#"["\u00e9\ud83d\ude00"]"#,
            r#"["\x"]"#,
            r#""\u12g4""#,
            r#""\"#,
            r#""abc"#,
            "\"a\tb\"",
            "\"a\u{1f}bcdefghij\"",
            r#""abcdefgh\\""#,
            "[1 2]",
            "1 2",
            "",
            " ",
            "[",
            "]",
            "{]",
            "[}",
            r#"{"a" : 1 , "b" : [ ] }"#,
        ] {
            judge(text);
        }
    }

    #[test]
    fn depth_is_bounded() {
        let deep = "[".repeat(200_000);
        assert!(Cursor::new(deep.as_bytes()).skip_value().unwrap_err().text().contains("128 levels"));
        let fits = format!("{}{}", "[".repeat(128), "]".repeat(128));
        assert!(Cursor::new(fits.as_bytes()).skip_value().is_ok());
    }

    proptest::proptest! {
        #[test]
        fn agrees_with_serde_json_on_anything(text in r#"[\[\]{}:,"\\ 0-9.eEtruefalsn+\-]{0,24}"#) {
            judge(&text);
        }
    }
}
