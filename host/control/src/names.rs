//! Names: which ones are allowed, and the nearest right one to a wrong one.

use crate::diagnostic::Diagnostic;

/// Bytes of a node's name: as for the names in components.
const NAME_BYTES_MAX: usize = tidemill_model::limits::NAME_BYTES_MAX;
/// Texts longer than this are cut in messages, and not compared with others.
const SHOWN_CHARS_MAX: usize = 80;
/// Candidates that are listed when none is near.
const LISTED_MAX: usize = 16;

/// Whether `name` may name a node: a letter or `_`, then letters, digits, `_` and `-`.
pub(crate) fn is_name(name: &str) -> bool {
    let mut chars = name.chars();
    let first = chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    first && name.len() <= NAME_BYTES_MAX && chars.all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
}

/// The rule of [`is_name`] in words.
pub(crate) const NAME_RULE: &str =
    "a name begins with a letter or `_`, goes on with letters, digits, `_` and `-`, and has at most 64 characters";

/// The candidate that was probably meant.
pub(crate) fn nearest<'a>(name: &str, candidates: &[&'a str]) -> Option<&'a str> {
    if name.is_empty() || name.len() > SHOWN_CHARS_MAX {
        return None;
    }
    let lower = name.to_lowercase();
    let distance = |candidate: &str| match candidate.to_lowercase() {
        c if c == lower => 0,
        // `dest` for `destination`: a beginning is a near miss however long the rest is.
        c if lower.len() >= 3 && c.starts_with(&lower) => 1,
        c if c.len() >= 3 && lower.starts_with(&c) => 1,
        c => strsim::damerau_levenshtein(&c, &lower),
    };
    let allowed = (name.chars().count() / 3).max(1);
    let near = candidates.iter().map(|&c| (distance(c), c)).filter(|(d, c)| *d <= allowed && *d < c.chars().count());
    near.min_by_key(|(d, _)| *d).map(|(_, c)| c)
}

/// Text of the file for a message: on one line, cut if it is long.
pub(crate) fn shown(text: &str) -> String {
    let cut = match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    };
    cut.replace('\n', "\\n").replace('\r', "\\r").replace('\t', "\\t")
}

/// `a`, `b` and `c`, each in backticks; the first ones if there are many.
pub(crate) fn listed<S: AsRef<str>>(names: &[S]) -> String {
    let mut quoted: Vec<String> = names.iter().take(LISTED_MAX).map(|n| format!("`{}`", shown(n.as_ref()))).collect();
    if names.len() > LISTED_MAX {
        quoted.push(format!("{} more", names.len() - LISTED_MAX));
    }
    match quoted.pop() {
        None => "nothing".to_owned(),
        Some(last) if quoted.is_empty() => last,
        Some(last) => format!("{} and {last}", quoted.join(", ")),
    }
}

impl Diagnostic {
    /// Says which of `candidates` was meant, or which ones there are.
    pub(crate) fn suggest<S: AsRef<str>>(&mut self, name: &str, what: &str, candidates: &[S]) -> &mut Self {
        let names: Vec<&str> = candidates.iter().map(AsRef::as_ref).collect();
        self.candidates = names.iter().map(|&name| name.to_owned()).collect();
        match nearest(name, &names) {
            Some(near) => self.label(format!("did you mean `{near}`?")),
            None if names.is_empty() => self.label("there are none"),
            None => self.label("not known"),
        };
        // With one name only, "did you mean" has said it all.
        if names.len() > 1 || (names.len() == 1 && nearest(name, &names).is_none()) {
            let known = if what.is_empty() { "known".to_owned() } else { format!("known {what}") };
            self.help(format!("{known}: {}", listed(&names)));
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_names() {
        let names = ["price", "destination", "origin", "id", "bid"];
        for (wrong, right) in [
            ("pirce", Some("price")),
            ("PRICE", Some("price")),
            ("dest", Some("destination")),
            ("orign", Some("origin")),
            ("ids", Some("id")),
            ("zebra", None),
            ("", None),
            ("x", None),
        ] {
            assert_eq!(nearest(wrong, &names), right, "{wrong}");
        }
        assert_eq!(nearest(&"p".repeat(1 << 20), &names), None);
    }

    #[test]
    fn names_follow_the_rule() {
        for good in ["a", "_x", "a-b_C9", &"n".repeat(64)] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "9a", "-a", "a.b", "a b", "ä", &"n".repeat(65)] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
