//! The file as a small tree in which everything knows its place.
//!
//! Laws: keys of a map are unique and in file order; the tree is finite and at most
//! [`crate::yaml::DEPTH_MAX`] deep, aliases included.

use serde_json::{Map, Number, Value};

use crate::diagnostic::Span;

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub span: Span,
    pub value: Tree,
}

#[derive(Clone, Debug)]
pub(crate) enum Tree {
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// Text, with the knowledge whether it was quoted: only unquoted text may be a number, bool or null.
#[derive(Clone, Debug)]
pub(crate) struct Scalar {
    pub text: String,
    pub plain: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub key: String,
    pub key_span: Span,
    pub value: Node,
}

impl Node {
    pub(crate) fn is_null(&self) -> bool {
        matches!(&self.value, Tree::Scalar(s) if s.is_null())
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        match &self.value {
            Tree::Map(entries) => entries,
            _ => &[],
        }
    }

    /// What it is, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match &self.value {
            Tree::Scalar(s) if s.is_null() => "nothing",
            Tree::Scalar(_) => "text",
            Tree::List(_) => "a list",
            Tree::Map(_) => "a map",
        }
    }

    /// The subtree as JSON, by the core schema of YAML 1.2: `on`, `no` and `0755` are text.
    pub(crate) fn to_json(&self) -> Value {
        match &self.value {
            Tree::Scalar(scalar) => scalar.to_json(),
            Tree::List(items) => Value::Array(items.iter().map(Node::to_json).collect()),
            Tree::Map(entries) => {
                Value::Object(entries.iter().map(|e| (e.key.clone(), e.value.to_json())).collect::<Map<_, _>>())
            }
        }
    }

    /// The place for a path of keys and list indices: of the deepest part that exists. A map or a
    /// block list has its key's place, since its own would be many lines. `name`: the wrong key or
    /// text there, if one is to blame.
    pub(crate) fn place(&self, own: &Span, path: &[String], name: Option<&str>, text: &str) -> Span {
        let (mut node, mut place) = (self, own);
        for part in path {
            let entry = match &node.value {
                Tree::Map(entries) => entries.iter().find(|e| e.key == *part),
                // `columns` may be a list of maps: a name means the one in any of them.
                Tree::List(items) => items.iter().flat_map(Node::entries).find(|e| e.key == *part),
                Tree::Scalar(_) => None,
            };
            match (&node.value, entry, index(part)) {
                (_, Some(entry), _) => (node, place) = (&entry.value, &entry.key_span),
                (Tree::List(items), None, Some(i)) if i < items.len() => (node, place) = (&items[i], &items[i].span),
                // ... and a map of them is read as a list.
                (Tree::Map(_), None, Some(_)) => {}
                _ => break,
            }
        }
        if let (Some(name), Some(last)) = (name, path.last())
            && last == name
            && text.get(place.clone()).is_some_and(|t| t.contains(name))
        {
            return place.clone();
        }
        node.narrow(place, name, text)
    }

    /// The part of this node that a wrong `name` stands at.
    fn narrow(&self, own: &Span, name: Option<&str>, text: &str) -> Span {
        match (&self.value, name) {
            (Tree::Map(entries), Some(name)) => {
                entries.iter().find(|e| e.key == name).map_or_else(|| own.clone(), |e| e.key_span.clone())
            }
            (Tree::Scalar(_), Some(name)) => word_in(text, &self.span, name).unwrap_or_else(|| self.span.clone()),
            (Tree::Scalar(_), None) if !self.span.is_empty() => self.span.clone(),
            _ => own.clone(),
        }
    }
}

impl Scalar {
    pub(crate) fn is_null(&self) -> bool {
        self.plain && matches!(self.text.as_str(), "" | "~" | "null" | "Null" | "NULL")
    }

    pub(crate) fn to_json(&self) -> Value {
        let text = self.text.as_str();
        if !self.plain {
            return Value::from(text);
        }
        match text {
            _ if self.is_null() => Value::Null,
            "true" | "True" | "TRUE" => Value::Bool(true),
            "false" | "False" | "FALSE" => Value::Bool(false),
            _ => integer(text).or_else(|| float(text)).map_or_else(|| Value::from(text), Value::Number),
        }
    }
}

/// Integers that JSON can hold too. Leading zeros are kept by taking it for text.
fn integer(text: &str) -> Option<Number> {
    if let Some(hex) = text.strip_prefix("0x") {
        return digits(hex, 16).map(Number::from);
    }
    if let Some(octal) = text.strip_prefix("0o") {
        return digits(octal, 8).map(Number::from);
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if !decimal(unsigned) {
        return None;
    }
    let text = text.strip_prefix('+').unwrap_or(text);
    text.parse::<i64>().map(Number::from).or_else(|_| text.parse::<u64>().map(Number::from)).ok()
}

fn digits(text: &str, radix: u32) -> Option<u64> {
    text.starts_with(|c: char| c.is_digit(radix)).then(|| u64::from_str_radix(text, radix).ok())?
}

fn decimal(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) && (text.len() == 1 || !text.starts_with('0'))
}

fn float(text: &str) -> Option<Number> {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = unsigned.split_once(['e', 'E']).map_or((unsigned, None), |(m, e)| (m, Some(e)));
    let (whole, fraction) = mantissa.split_once('.').map_or((mantissa, None), |(w, f)| (w, Some(f)));
    let all_digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    let exponent_ok = exponent.is_none_or(|e| {
        let e = e.strip_prefix(['-', '+']).unwrap_or(e);
        !e.is_empty() && all_digits(e)
    });
    let some_digit = !whole.is_empty() || fraction.is_some_and(|f| !f.is_empty());
    let whole_ok = whole.is_empty() || decimal(whole);
    if !(exponent_ok && some_digit && whole_ok && fraction.is_none_or(all_digits)) {
        return None;
    }
    if fraction.is_none() && exponent.is_none() {
        return None; // an integer too large for 64 bits: text, rather than another number
    }
    text.parse::<f64>().ok().and_then(Number::from_f64)
}

/// `3` or `[3]`.
fn index(part: &str) -> Option<usize> {
    part.strip_prefix('[').and_then(|p| p.strip_suffix(']')).unwrap_or(part).parse().ok()
}

/// The first place of `word` inside `span`, not as a part of a longer word.
pub(crate) fn word_in(text: &str, span: &Span, word: &str) -> Option<Span> {
    let inside = text.get(span.clone())?;
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
    inside.match_indices(word).filter(|_| !word.is_empty()).find_map(|(at, _)| {
        let (before, after) = (&inside[..at], &inside[at + word.len()..]);
        let alone = !before.ends_with(part_of_word) && !after.starts_with(part_of_word);
        alone.then(|| span.start + at..span.start + at + word.len())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn plain_text_becomes_what_the_core_schema_says() {
        for (text, expected) in [
            ("", json!(null)),
            ("~", json!(null)),
            ("null", json!(null)),
            ("true", json!(true)),
            ("FALSE", json!(false)),
            ("on", json!("on")),
            ("no", json!("no")),
            ("12", json!(12)),
            ("-7", json!(-7)),
            ("+7", json!(7)),
            ("0", json!(0)),
            ("007", json!("007")),
            ("0x1F", json!(31)),
            ("0x+1", json!("0x+1")),
            ("0o17", json!(15)),
            ("18446744073709551615", json!(u64::MAX)),
            ("18446744073709551616", json!("18446744073709551616")),
            ("1.5", json!(1.5)),
            ("1e3", json!(1000.0)),
            (".5", json!(0.5)),
            (".", json!(".")),
            ("1e", json!("1e")),
            ("1e999", json!("1e999")),
            (".inf", json!(".inf")),
            ("1:30", json!("1:30")),
            ("2013-01-01", json!("2013-01-01")),
            ("-", json!("-")),
        ] {
            assert_eq!(Scalar { text: text.to_owned(), plain: true }.to_json(), expected, "{text}");
            assert_eq!(Scalar { text: text.to_owned(), plain: false }.to_json(), json!(text), "{text}");
        }
    }

    #[test]
    fn words_are_found_whole() {
        assert_eq!(word_in("price_x + price", &(0..15), "price"), Some(10..15));
        assert_eq!(word_in("price_x", &(0..7), "price"), None);
        assert_eq!(word_in("abc", &(0..9), "a"), None);
    }
}
