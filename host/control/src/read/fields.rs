//! Reading settings of known names and types out of the tree, with an error for each that is wrong.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use crate::diagnostic::{Report, Span};
use crate::names::{listed, nearest, shown};
use crate::spec::Text;
use crate::tree::{Entry, Node, Tree};

/// The settings of one thing.
pub(crate) struct Fields<'a> {
    entries: &'a [Entry],
    /// A key was reported as unknown: what seems to be missing may be there under a wrong name.
    pub misspelt: bool,
}

impl<'a> Fields<'a> {
    /// The map `node`, whose keys must be among `allowed`. `what`: "an operator", for messages; `at`:
    /// where it is named.
    pub(crate) fn read(report: &mut Report, node: &'a Node, what: &str, at: &Span, allowed: &[&str]) -> Option<Self> {
        let mut fields = Self::any(report, node, what, at)?;
        for entry in fields.entries.iter().filter(|entry| !allowed.contains(&entry.key.as_str())) {
            unknown(report, entry, what, allowed);
            fields.misspelt = true;
        }
        Some(fields)
    }

    /// A map with any keys.
    pub(crate) fn any(report: &mut Report, node: &'a Node, what: &str, at: &Span) -> Option<Self> {
        if !matches!(node.value, Tree::Map(_)) {
            let place = if node.span.is_empty() { at } else { &node.span };
            let message = match node.is_null() {
                true => format!("{what} is empty"),
                false => format!("{what} must be a map of settings, not {}", node.kind()),
            };
            report.error(place, message);
            return None;
        }
        Some(Self { entries: node.entries(), misspelt: false })
    }

    pub(crate) fn entries(&self) -> &'a [Entry] {
        self.entries
    }

    pub(crate) fn get(&self, key: &str) -> Option<&'a Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    pub(crate) fn text(&self, report: &mut Report, key: &str) -> Option<Text> {
        self.get(key).and_then(|entry| text(report, &entry.value, &entry.key, &entry.key_span))
    }

    /// A value that is read from text, like a duration, within a range.
    pub(crate) fn parsed<T>(&self, report: &mut Report, key: &str, range: &Limits<T>) -> Option<T>
    where
        T: FromStr<Err: Display> + PartialOrd + Copy,
    {
        let text = self.text(report, key)?;
        match text.text.parse::<T>() {
            Ok(value) if range.range.contains(&value) => Some(value),
            Ok(_) => {
                report.error(&text.span, format!("`{key}` must be {}", range.words)).label("out of range");
                None
            }
            Err(error) => {
                let message =
                    range.type_error.map_or_else(|| error.to_string(), |e| format!("`{}` {e}", shown(&text.text)));
                report.error(&text.span, message).label(format!("`{key}` must be {}", range.words));
                None
            }
        }
    }
}

/// What a value may be, and the words for it.
pub(crate) struct Limits<T> {
    pub range: RangeInclusive<T>,
    pub words: &'static str,
    /// Replaces the parser's own message, behind the text in backticks.
    pub type_error: Option<&'static str>,
}

/// A key that has no meaning where it stands.
pub(crate) fn unknown(report: &mut Report, entry: &Entry, what: &str, allowed: &[&str]) {
    let error = report.error(&entry.key_span, format!("{what} has no setting `{}`", shown(&entry.key)));
    error.suggest(&entry.key, "settings", allowed);
}

/// Text that is there. `name` and `at`: the key that it belongs to.
pub(crate) fn text(report: &mut Report, node: &Node, name: &str, at: &Span) -> Option<Text> {
    match &node.value {
        Tree::Scalar(scalar) if !scalar.is_null() => {
            let span = if node.span.is_empty() { at.clone() } else { node.span.clone() };
            Some(Text { text: scalar.text.clone(), span })
        }
        Tree::Scalar(_) => {
            report.error(at, format!("`{}` has no value", shown(name))).label("nothing behind the colon");
            None
        }
        _ => {
            let place = if matches!(node.value, Tree::Map(_)) { at } else { &node.span };
            report.error(place, format!("`{}` must be text, not {}", shown(name), node.kind())).label("not text");
            None
        }
    }
}

/// A list of texts, or one text for a list of one.
pub(crate) fn texts(report: &mut Report, node: &Node, name: &str, at: &Span) -> Vec<Text> {
    match &node.value {
        Tree::List(items) if items.is_empty() => {
            report.error(&node.span, format!("`{name}` is empty")).label("needs at least one");
            Vec::new()
        }
        Tree::List(items) => items.iter().filter_map(|item| text(report, item, name, &node.span)).collect(),
        _ => text(report, node, name, at).into_iter().collect(),
    }
}

/// One of a few words.
pub(crate) fn choice<T: Copy>(report: &mut Report, entry: &Entry, choices: &[(&str, T)]) -> Option<(T, Span)> {
    let text = text(report, &entry.value, &entry.key, &entry.key_span)?;
    if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text.text) {
        return Some((*value, text.span));
    }
    let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
    let error = report.error(&text.span, format!("`{}` cannot be `{}`", entry.key, shown(&text.text)));
    match nearest(&text.text, &words) {
        Some(near) => error.label(format!("did you mean `{near}`?")),
        None => error.label("not known"),
    };
    error.help(format!("`{}` is one of {}", entry.key, listed(&words)));
    error.candidates = words.iter().map(|&word| word.to_owned()).collect();
    None
}
