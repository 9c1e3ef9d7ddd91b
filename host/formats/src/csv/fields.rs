//! Where the fields of a row begin and end.
//!
//! Two ways: rows without quotes are cut at delimiters as they lie in the buffer; rows with quotes are
//! taken apart into [`Fields`], which undoes the quoting.

use super::Dialect;

/// The fields of one row with quotes, reused from row to row.
#[derive(Default)]
pub(crate) struct Fields {
    text: Vec<u8>,
    /// End of each field in `text`, and whether it stood in quotes.
    ends: Vec<(usize, bool)>,
}

/// How taking a row apart ended. `bytes` and `lines` include the line feed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum RowEnd {
    Row {
        bytes: usize,
        lines: u64,
    },
    /// A quote is open at the end of the region.
    Open,
    /// The quoting is broken; the message says how.
    Broken(&'static str),
}

impl Fields {
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], bool)> {
        let mut begin = 0;
        self.ends.iter().map(move |&(end, quoted)| {
            let field = &self.text[begin..end];
            begin = end;
            (field, quoted)
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Takes the row at the beginning of `region` apart.
    pub(crate) fn split(&mut self, region: &[u8], dialect: Dialect) -> RowEnd {
        self.text.clear();
        self.ends.clear();
        let (mut at, mut lines) = (0, 1);
        loop {
            let quoted = region.get(at) == Some(&dialect.quote);
            if quoted {
                match self.quoted(region, at + 1, dialect) {
                    Ok((next, inner)) => (at, lines) = (next, lines + inner),
                    Err(end) => return end,
                }
            } else {
                let rest = &region[at..];
                let end = memchr::memchr2(dialect.delimiter, b'\n', rest).unwrap_or(rest.len());
                let last = rest.get(end) != Some(&dialect.delimiter);
                self.text.extend_from_slice(if last { chomp(&rest[..end]) } else { &rest[..end] });
                at += end;
            }
            self.ends.push((self.text.len(), quoted));
            match region.get(at) {
                Some(&b) if b == dialect.delimiter => at += 1,
                Some(_) => return RowEnd::Row { bytes: at + 1, lines },
                None => return RowEnd::Row { bytes: at, lines },
            }
        }
    }

    /// A field whose opening quote stands before `at`: where what follows it stands, and the line feeds inside.
    fn quoted(&mut self, region: &[u8], mut at: usize, dialect: Dialect) -> Result<(usize, u64), RowEnd> {
        let mut lines = 0;
        loop {
            let rest = &region[at..];
            let found = memchr::memchr2(dialect.quote, b'\n', rest).ok_or(RowEnd::Open)?;
            self.text.extend_from_slice(&rest[..found]);
            at += found + 1;
            if rest[found] == b'\n' {
                if !dialect.multiline {
                    return Err(RowEnd::Broken("a quote is not closed on its line"));
                }
                self.text.push(b'\n');
                lines += 1;
                continue;
            }
            match &region[at..] {
                [b, ..] if *b == dialect.quote => {
                    self.text.push(dialect.quote);
                    at += 1;
                }
                [b, ..] if *b == dialect.delimiter || *b == b'\n' => return Ok((at, lines)),
                [b'\r', b'\n', ..] | [b'\r'] => return Ok((at + 1, lines)),
                [] => return Ok((at, lines)),
                _ => return Err(RowEnd::Broken("text follows a closing quote")),
            }
        }
    }
}

/// A line without its line end.
pub(crate) fn chomp(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIALECT: Dialect = Dialect { delimiter: b',', quote: b'"', multiline: true };

    #[test]
    fn rows_with_quotes() {
        let cases: &[(&str, &[&str], RowEnd)] = &[
            ("a,b\nc", &["a", "b"], RowEnd::Row { bytes: 4, lines: 1 }),
            ("a,b\r\nc", &["a", "b"], RowEnd::Row { bytes: 5, lines: 1 }),
            ("\"a,b\",c", &["a,b", "c"], RowEnd::Row { bytes: 7, lines: 1 }),
            ("\"a\"\"b\",\"\"\n", &["a\"b", ""], RowEnd::Row { bytes: 10, lines: 1 }),
            ("\"a\nb\",c\nd", &["a\nb", "c"], RowEnd::Row { bytes: 8, lines: 2 }),
            ("a\"b,c\n", &["a\"b", "c"], RowEnd::Row { bytes: 6, lines: 1 }),
            ("\"a\"\r\nb", &["a"], RowEnd::Row { bytes: 5, lines: 1 }),
            ("a,\n", &["a", ""], RowEnd::Row { bytes: 3, lines: 1 }),
            ("\n", &[""], RowEnd::Row { bytes: 1, lines: 1 }),
        ];
        for (text, expected, end) in cases {
            let mut fields = Fields::default();
            assert_eq!(fields.split(text.as_bytes(), DIALECT), *end, "{text:?}");
            let found: Vec<_> = fields.iter().map(|(f, _)| std::str::from_utf8(f).unwrap()).collect();
            assert_eq!(&found, expected, "{text:?}");
        }
        let mut fields = Fields::default();
        assert_eq!(fields.split(b"a,\"b\nc\n", DIALECT), RowEnd::Open);
        assert_eq!(fields.split(b"\"a\"b,c\n", DIALECT), RowEnd::Broken("text follows a closing quote"));
        let one_line = Dialect { multiline: false, ..DIALECT };
        assert_eq!(fields.split(b"\"a\nb\"\n", one_line), RowEnd::Broken("a quote is not closed on its line"));
    }
}
