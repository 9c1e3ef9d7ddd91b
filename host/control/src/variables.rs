//! `${NAME}` and `${NAME:-default}` in the texts of the file.
//!
//! Law: substitution happens after parsing, inside one value; what a variable holds can't add keys.

use crate::diagnostic::{Report, Span};
use crate::names::shown;
use crate::tree::{Node, Scalar, Tree, word_in};

/// Bytes of one value after substitution.
const VALUE_BYTES_MAX: usize = 64 << 10;

/// Looks a variable up.
pub(crate) type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Replaces the variables in all values below `node`. `$${` stands for a literal `${`.
pub(crate) fn substitute(node: &mut Node, lookup: Lookup<'_>, report: &mut Report) {
    match &mut node.value {
        Tree::Scalar(scalar) => {
            if scalar.text.contains("${") {
                replace(scalar, &node.span, lookup, report);
            }
        }
        Tree::List(items) => items.iter_mut().for_each(|item| substitute(item, lookup, report)),
        Tree::Map(entries) => entries.iter_mut().for_each(|entry| substitute(&mut entry.value, lookup, report)),
    }
}

fn replace(scalar: &mut Scalar, span: &Span, lookup: Lookup<'_>, report: &mut Report) {
    let (mut out, mut rest) = (String::new(), scalar.text.as_str());
    while let Some(at) = rest.find("${") {
        let literal = rest[..at].ends_with('$');
        out.push_str(&rest[..at - usize::from(literal)]);
        rest = &rest[at + 2..];
        if literal {
            out.push_str("${");
            continue;
        }
        let Some(end) = rest.find('}') else {
            let error = report.error(span, "`${` without `}`");
            error.help("write `${NAME}` or `${NAME:-default}` for a variable, and `$${` for a literal `${`");
            return;
        };
        let (name, default) = rest[..end].split_once(":-").map_or((&rest[..end], None), |(n, d)| (n, Some(d)));
        match value(name, default, lookup) {
            Ok(text) => out.push_str(&text),
            Err((message, help)) => {
                let place = word_in(report.text(), span, name).unwrap_or_else(|| span.clone());
                report.error(&place, message).help(help);
                return;
            }
        }
        if out.len() > VALUE_BYTES_MAX {
            report.error(span, format!("more than {VALUE_BYTES_MAX} bytes with its variables"));
            return;
        }
        rest = &rest[end + 1..];
    }
    out.push_str(rest);
    // An empty variable is an empty text, not "nothing".
    scalar.plain &= !out.is_empty();
    scalar.text = out;
}

/// `Err`: what is wrong, and what to do.
fn value(name: &str, default: Option<&str>, lookup: Lookup<'_>) -> Result<String, (String, String)> {
    let first = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if !first || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        let help = "write `${NAME}` or `${NAME:-default}` for a variable, and `$${` for a literal `${`";
        return Err((format!("`{}` is not the name of an environment variable", shown(name)), help.to_owned()));
    }
    // As in a shell, `:-` also stands in for an empty variable.
    match (lookup(name), default) {
        (Some(text), None) => Ok(text),
        (Some(text), Some(_)) if !text.is_empty() => Ok(text),
        (_, Some(default)) => Ok(default.to_owned()),
        (None, None) => {
            let help = format!("set it, or give a default: `${{{}:-default}}`", shown(name));
            Err((format!("the environment variable `{}` is not set", shown(name)), help))
        }
    }
}
