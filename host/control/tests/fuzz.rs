//! Any bytes: an answer in bounded time, never a panic, and one that can be shown.

mod fake;

use std::path::Path;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::sample::Index;
use tidemill_control::{describe, load_text};

/// For a file of at most 1 MiB, with room for a busy machine. Typical files take well under a millisecond.
const TIME_MAX: Duration = Duration::from_secs(20);

fn check(bytes: &[u8]) {
    let start = Instant::now();
    match load_text("file.yaml", bytes, Path::new(""), &fake::Fake) {
        Ok(loaded) => {
            loaded.warnings.iter().for_each(|warning| assert_clean(&warning.render(false)));
            assert_clean(&describe(&loaded));
            for (id, node) in loaded.plan.nodes.iter().enumerate() {
                assert!(node.inputs.iter().all(|edge| edge.from < id), "topological order");
            }
        }
        Err(diagnostics) => {
            assert!(!diagnostics.items.is_empty());
            assert_clean(&diagnostics.render(false));
            assert_clean(&diagnostics.to_string());
        }
    }
    assert!(start.elapsed() < TIME_MAX, "{:?} for {} bytes", start.elapsed(), bytes.len());
}

/// Nothing that a terminal would obey.
fn assert_clean(text: &str) {
    assert!(!text.contains(|c: char| c.is_control() && !matches!(c, '\n' | '\r' | '\t')), "{text:?}");
}

fn cases() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/cases/check");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files.filter(|path| path.extension().is_some_and(|e| e == "yaml")).collect();
    files.sort();
    files.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

proptest! {
    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        check(&bytes);
    }

    #[test]
    fn any_yaml_like_text(text in "[-a-c:{}\\[\\]\"'&*!|>?%@#,. \n\t$~<]{0,200}") {
        check(text.as_bytes());
    }

    /// Pieces of cases cut out, doubled, swapped and overwritten.
    #[test]
    fn mutated_cases(
        case in any::<Index>(), other in any::<Index>(),
        edits in prop::collection::vec((any::<Index>(), any::<Index>(), 0u8..4, any::<u8>()), 1..6),
    ) {
        let cases = cases();
        let (mut bytes, other) = (case.get(&cases).clone(), other.get(&cases));
        for (from, to, kind, byte) in edits {
            if bytes.is_empty() { break }
            let (a, b) = (from.index(bytes.len()), to.index(bytes.len()));
            let (start, end) = (a.min(b), a.max(b).min(a.min(b) + 40));
            match kind {
                0 => drop(bytes.drain(start..end)),
                1 => { let piece = bytes[start..end].to_vec(); bytes.splice(b..b, piece); }
                2 => bytes[start] = byte,
                _ if !other.is_empty() => {
                    let at = to.index(other.len());
                    let piece = other[at..other.len().min(at + 40)].to_vec();
                    bytes.splice(start..end, piece);
                }
                _ => {}
            }
        }
        check(&bytes);
    }
}

#[test]
fn a_mebibyte_of_anything_is_answered() {
    let mib = |piece: &str| piece.repeat((1 << 20) / piece.len());
    for text in [
        mib("["),
        mib("{a: "),
        mib("- "),
        mib("a\n"),
        mib("? "),
        mib("x"),
        mib("a: b\n"),
        mib("\""),
        mib("${"),
        mib("# c\n"),
        mib("*a "),
        mib("&a "),
        mib("\n"),
        mib("\u{7f}"),
        format!("sources: {{{}}}", mib("a,").trim_end_matches(',').trim_start_matches("a,")),
        format!("a: \"{}\"", mib("${A:-b}").get(..1 << 19).unwrap()),
        format!("sinks: {{ o: {{ input: [{}] }} }}", (0..60_000).map(|i| format!("n{i}, ")).collect::<String>()),
        format!(
            "operators:\n{}",
            (0..20_000).map(|i| format!("  n{i}: {{ input: n{} }}\n", i + 1)).collect::<String>()
        ),
        format!(
            "operators:\n{}",
            (0..9_000).map(|i| format!("  n{i}: {{ input: [n{i}, n0, n{}], where: a }}\n", i / 2)).collect::<String>()
        ),
    ] {
        check(text.as_bytes());
    }
    check(&vec![b'a'; 2 << 20]);
    check(&[0xff; 1000]);
}
