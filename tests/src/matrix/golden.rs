//! Goldens: reading, writing, and the difference to what a run has written, for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;

use serde_json::Value;

use super::case::{Case, Directives};

/// Rows shown of each kind of a difference.
const SHOWN_MAX: usize = 12;

/// What came of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Lines of JSON by sink.
    Rows(BTreeMap<String, Vec<String>>),
    /// The text of the error; nothing is visible.
    Error(String),
}

/// The golden of a case.
pub(super) fn read(case: &Case) -> Result<Outcome, String> {
    let dir = case.expected();
    let how = match &case.directives.oracle {
        Some(_) => "run `./dev oracle`",
        None => "run with UPDATE=1 and look at what it writes",
    };
    let entries = fs::read_dir(&dir).map_err(|e| format!("  no expected rows ({e}): {how}\n"))?;
    let mut rows = BTreeMap::new();
    for entry in entries {
        let path = entry.map_err(|e| e.to_string())?.path();
        let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        match path.extension().and_then(|e| e.to_str()) {
            Some("txt") => return Ok(Outcome::Error(text.trim_end().to_owned())),
            Some("ndjson") => rows.insert(stem, text.lines().map(str::to_owned).collect()),
            _ => return Err(format!("{} is neither SINK.ndjson nor error.txt", path.display())),
        };
    }
    Ok(Outcome::Rows(rows))
}

/// Makes the outcome the golden.
pub(super) fn write(case: &Case, outcome: &Outcome) -> Result<(), String> {
    let dir = case.expected();
    let failed = |e: std::io::Error| format!("{}: {e}", dir.display());
    if dir.exists() {
        fs::remove_dir_all(&dir).map_err(failed)?;
    }
    fs::create_dir_all(&dir).map_err(failed)?;
    match outcome {
        Outcome::Error(text) => fs::write(dir.join("error.txt"), format!("{text}\n")).map_err(failed),
        Outcome::Rows(sinks) => sinks.iter().try_for_each(|(sink, lines)| {
            let lines = arranged(sink, lines, &case.directives);
            let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
            fs::write(dir.join(format!("{sink}.ndjson")), text).map_err(failed)
        }),
    }
}

/// The difference as text; `None` if there is none.
pub fn compare(expected: &Outcome, found: &Outcome, directives: &Directives) -> Option<String> {
    let (expected, found) = match (expected, found) {
        (Outcome::Rows(expected), Outcome::Rows(found)) => (expected, found),
        (Outcome::Error(expected), Outcome::Error(found)) if expected == found => return None,
        (Outcome::Error(expected), Outcome::Error(found)) => {
            return Some(format!("  the error should be\n{}\n  but is\n{}\n", indented(expected), indented(found)));
        }
        (Outcome::Error(expected), Outcome::Rows(_)) => {
            return Some(format!(
                "  it should fail, but it ran to its end. The error should be\n{}\n",
                indented(expected)
            ));
        }
        (Outcome::Rows(_), Outcome::Error(found)) => return Some(format!("  it fails:\n{}\n", indented(found))),
    };
    let mut text = String::new();
    for sink in expected.keys().filter(|sink| !found.contains_key(*sink)) {
        let _ = writeln!(text, "  sink `{sink}` is expected, but the pipeline has none that writes to out/{sink}");
    }
    for (sink, lines) in found {
        match expected.get(sink) {
            None => {
                let _ = writeln!(text, "  sink `{sink}` has no expected rows; it wrote {}", lines.len());
            }
            Some(wanted) => {
                compare_sink(sink, &arranged(sink, wanted, directives), &arranged(sink, lines, directives), &mut text);
            }
        }
    }
    (!text.is_empty()).then_some(text)
}

fn compare_sink(sink: &str, expected: &[String], found: &[String], text: &mut String) {
    if expected == found {
        return;
    }
    let (missing, surplus) = (without(expected, found), without(found, expected));
    let _ = writeln!(text, "  sink `{sink}`: {} rows expected, {} found", expected.len(), found.len());
    if missing.is_empty() && surplus.is_empty() {
        let (at, (wanted, came)) = (expected.iter().zip(found).enumerate())
            .find(|(_, (wanted, came))| wanted != came)
            .expect("as many rows, and not the same");
        let _ = writeln!(
            text,
            "  the same rows in another order; line {} should be\n    {wanted}\n  but is\n    {came}",
            at + 1
        );
    }
    for (what, rows) in [("missing", missing), ("surplus", surplus)] {
        if !rows.is_empty() {
            let _ = writeln!(text, "  {what}:");
        }
        for row in rows.iter().take(SHOWN_MAX) {
            let _ = writeln!(text, "    {row}");
        }
        if rows.len() > SHOWN_MAX {
            let _ = writeln!(text, "    ... {} more", rows.len() - SHOWN_MAX);
        }
    }
}

/// The rows that stand more often in `these` than in `those`.
fn without<'a>(these: &'a [String], those: &[String]) -> Vec<&'a String> {
    let mut counts = BTreeMap::<&str, usize>::new();
    those.iter().for_each(|row| *counts.entry(row).or_default() += 1);
    let mut surplus = Vec::new();
    for row in these {
        match counts.get_mut(row.as_str()) {
            Some(left) if *left > 0 => *left -= 1,
            _ => surplus.push(row),
        }
    }
    surplus
}

/// Lines in the order in which they are compared: sorted, or by key with the rows of a key as they came.
fn arranged(sink: &str, lines: &[String], directives: &Directives) -> Vec<String> {
    let mut lines: Vec<String> = lines.iter().map(|line| plain_panic(line, "\\n")).collect();
    if let Some(columns) = directives.columns.get(sink) {
        lines = lines.iter().map(|line| project(line, columns)).collect();
    }
    match directives.order.get(sink) {
        Some(key) => lines.sort_by_cached_key(|line| project(line, key)),
        None => lines.sort(),
    }
    lines
}

/// Some columns of a line of JSON, in this order.
fn project(line: &str, columns: &[String]) -> String {
    let row: Value = serde_json::from_str(line).unwrap_or_default();
    let cells: Vec<String> =
        columns.iter().map(|column| format!("{}:{}", Value::from(column.as_str()), row[column])).collect();
    format!("{{{}}}", cells.join(","))
}

/// A panic without its place: a component tells file, line and stack, native code does not. `newline`: as it stands in
/// the text, which may be JSON.
pub(super) fn plain_panic(text: &str, newline: &str) -> String {
    let Some((before, panic)) = text.split_once("panicked at ") else { return text.to_owned() };
    let Some((_place, said)) = panic.split_once(newline) else { return text.to_owned() };
    let (message, stack) = said.split_once(&format!("{newline}  guest stack:")).unwrap_or((said, ""));
    let after = stack.find("\",\"").map_or("", |end| &stack[end..]);
    format!("{before}panicked: {message}{after}")
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(lines: &[&str]) -> Outcome {
        Outcome::Rows([("out".to_owned(), lines.iter().map(|l| (*l).to_owned()).collect())].into())
    }

    #[test]
    fn rows_are_compared_as_multisets() {
        let none = Directives::default();
        assert_eq!(compare(&rows(&["1", "2", "2"]), &rows(&["2", "1", "2"]), &none), None);
        let text = compare(&rows(&["1", "2", "2"]), &rows(&["1", "2", "3"]), &none).unwrap_or_default();
        assert_eq!(text, "  sink `out`: 3 rows expected, 3 found\n  missing:\n    2\n  surplus:\n    3\n");
    }

    #[test]
    fn rows_of_a_key_are_compared_in_order() {
        let ordered = Directives::read("#: order out k\n").unwrap_or_default();
        let line = |k: &str, n: i64| format!("{{\"k\":\"{k}\",\"n\":{n}}}");
        let (a2, a1, b) = (line("a", 2), line("a", 1), line("b", 0));
        assert_eq!(compare(&rows(&[&a2, &a1, &b]), &rows(&[&b, &a2, &a1]), &ordered), None);
        let text = compare(&rows(&[&a2, &a1, &b]), &rows(&[&a1, &a2, &b]), &ordered).unwrap_or_default();
        assert!(text.contains("the same rows in another order; line 1 should be"), "{text}");
    }

    #[test]
    fn sinks_and_errors_are_compared() {
        let none = Directives::default();
        let error = Outcome::Error("no".into());
        assert_eq!(compare(&error, &error, &none), None);
        for (expected, found, what) in [
            (&error, &Outcome::Error("yes".into()), "the error should be"),
            (&error, &rows(&[]), "it should fail"),
            (&rows(&[]), &error, "it fails"),
            (&rows(&[]), &Outcome::Rows(BTreeMap::new()), "sink `out` is expected"),
            (&Outcome::Rows(BTreeMap::new()), &rows(&["1"]), "has no expected rows; it wrote 1"),
        ] {
            let text = compare(expected, found, &none).unwrap_or_default();
            assert!(text.contains(what), "{text}");
        }
    }

    #[test]
    fn panics_lose_their_place_and_stack_only() {
        let wasm = r#"{"error":"panicked at a/b.rs:1:2:\n13 is \"poison\"\n  guest stack:\n    0: f at a\\b.rs:1","row":"{\"n\":13}"}"#;
        assert_eq!(plain_panic(wasm, "\\n"), r#"{"error":"panicked: 13 is \"poison\"","row":"{\"n\":13}"}"#);
        assert_eq!(plain_panic("panicked at a:1:\nno\n  guest stack:\n    0: f", "\n"), "panicked: no");
        assert_eq!(plain_panic(r#"{"error":"panicked: no"}"#, "\\n"), r#"{"error":"panicked: no"}"#);
    }

    #[test]
    fn directives_are_read_and_mistakes_reported() {
        let read =
            Directives::read("# A case.\n#: workers 1\n#: columns out a b\n#: because it is so\nsources: {}\n#: no");
        let expected = Directives {
            workers: Some(1),
            because: Some("it is so".into()),
            columns: [("out".to_owned(), vec!["a".to_owned(), "b".to_owned()])].into(),
            ..Directives::default()
        };
        assert_eq!(read, Ok(expected));
        for (text, what) in [
            ("#: workers 1\n", "says why"),
            ("#: workers one\n", "`one` is not a number"),
            ("#: wrokers 1\n", "no such directive"),
            ("#: order out\n", "columns are missing"),
        ] {
            let error = Directives::read(text).unwrap_err();
            assert!(error.contains(what), "{error}");
        }
    }
}
