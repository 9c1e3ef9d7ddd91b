//! What the catalog refuses, at its place in the file and in words for people.
//!
//! Settings are read with serde, whose messages speak of Rust's types: those are translated here, and
//! whatever is not recognised is shown as it is.

use tidemill_model::ConfigError;

use crate::diagnostic::{Report, Span};
use crate::spec::Text;
use crate::tree::{Node, word_in};

/// Reports an error about `settings`. `own`: the key that they stand behind.
pub(super) fn config_error(report: &mut Report, settings: &Node, own: &Span, error: &ConfigError) {
    let place = settings.place(own, &error.path, error.name.as_deref(), report.text());
    refuse(report, &place, error);
}

/// Reports an error about an expression: at its wrong name, if one is to blame.
pub(super) fn expression_error(report: &mut Report, text: &Text, error: &ConfigError) {
    let word = error.name.as_ref().and_then(|name| word_in(report.text(), &text.span, name));
    refuse(report, &word.unwrap_or_else(|| text.span.clone()), error);
}

fn refuse(report: &mut Report, place: &Span, error: &ConfigError) {
    let diagnostic = report.error(place, in_words(&error.message));
    if let Some(name) = error.name.as_ref().filter(|_| !error.candidates.is_empty()) {
        diagnostic.suggest(name, "", &error.candidates);
    }
    if let Some(help) = &error.help {
        diagnostic.help(help);
    } else if error.message.starts_with("invalid type:") && error.message.contains("expected a string") {
        diagnostic.help("put quotes around it to make it text");
    }
}

fn in_words(message: &str) -> String {
    match message.split('`').nth(1) {
        Some(name) if message.starts_with("unknown field") => return format!("there is no setting `{name}`"),
        Some(name) if message.starts_with("unknown variant") => return format!("`{name}` is not possible here"),
        Some(name) if message.starts_with("missing field") => return format!("the setting `{name}` is missing"),
        _ => {}
    }
    let parts = message.strip_prefix("invalid type: ").or_else(|| message.strip_prefix("invalid value: "));
    match parts.and_then(|parts| parts.split_once(", expected ")) {
        Some((found, expected)) => {
            format!("{} is expected here, not {}", expected_words(expected), found_words(found))
        }
        None => message.to_owned(),
    }
}

fn expected_words(expected: &str) -> &str {
    match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number of 0 or more",
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a string" => "text",
        "a boolean" => "`true` or `false`",
        "a sequence" => "a list",
        _ if expected.starts_with("struct ") => "a map of settings",
        other => other,
    }
}

fn found_words(found: &str) -> String {
    let rest = |prefix: &str| found.strip_prefix(prefix).map(|rest| rest.trim_matches(['`', '"']));
    let number = || rest("integer ").or_else(|| rest("floating point "));
    match found {
        "map" => "a map".to_owned(),
        "sequence" => "a list".to_owned(),
        "null" | "unit value" | "Option value" => "nothing".to_owned(),
        _ => (rest("string ").map(|text| format!("the text `{text}`")))
            .or_else(|| number().map(|number| format!("the number {number}")))
            .or_else(|| rest("boolean ").map(|bool| format!("`{bool}`")))
            .unwrap_or_else(|| found.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::in_words;

    #[test]
    fn serde_speaks_plainly() {
        let whole = "a whole number of 0 or more is expected here, not";
        for (message, words) in [
            ("unknown field `row`, expected one of `rows`, `seed`", "there is no setting `row`"),
            ("unknown variant `x`, expected `y`", "`x` is not possible here"),
            ("missing field `kind`", "the setting `kind` is missing"),
            ("invalid type: string \"many\", expected u64", &format!("{whole} the text `many`")),
            ("invalid value: integer `-5`, expected usize", &format!("{whole} the number -5")),
            ("invalid type: null, expected a string", "text is expected here, not nothing"),
            ("invalid type: map, expected a sequence", "a list is expected here, not a map"),
            ("`5x` is not a size", "`5x` is not a size"),
        ] {
            assert_eq!(in_words(message), words);
        }
    }
}
