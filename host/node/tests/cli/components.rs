//! Components that break their limits or the contract for one row of four: that row is named, and the others are kept.

use serde_json::Value;

use crate::support::{EVIL, Ended, Folder};

/// What `do:` makes the operator `map` of `tests/guests/evil` do when it sees a negative number, and what is said then.
const EVIL_DEEDS: &[(&str, &str)] = &[
    ("loop", "ran longer than 300 ms"),
    ("grow", "wanted more than 16 MiB of memory"),
    ("recurse", "left its memory: endless recursion, or a wild pointer"),
    ("panic", "panicked at "),
    ("abort", "aborted (wasm `unreachable`), without a message"),
    ("unequal", "returned a malformed answer: port `out`, column `n`: data has 0 bytes, 1 rows of int64 need 8"),
    ("width", "returned a malformed answer: port `out`, column `n`: data has 4 bytes, 1 rows of int64 need 8"),
    ("column-missing", "returned a malformed answer: port `out`: has 8 columns, flattened, and 9 are declared"),
    ("column-extra", "returned a malformed answer: port `out`: has 10 columns, flattened, and 9 are declared"),
    ("offsets-on-int", "returned a malformed answer: port `out`, column `n`: has offsets, which int64 has not"),
    (
        "offsets-beyond",
        "returned a malformed answer: port `out`, column `text`: offsets end at 3, but there are 2 bytes",
    ),
    ("offsets-negative", "returned a malformed answer: port `out`, column `text`: offsets start at -2"),
    ("utf8", "returned a malformed answer: port `out`, column `text`: row 0 is not UTF-8"),
    ("port", "returned a malformed answer: rows for port 9; the operator has 2 ports: `out`, `side`"),
    ("kinds-unknown", "returned a malformed answer: port `out`: row kinds have 4 bytes, 1 rows need 1"),
    ("rows-huge", "returned a malformed answer: port `out`: 4294967295 rows without parents"),
];

fn run(deed: &str, dead_letter: bool, ending: &str) -> (Folder, Ended) {
    let dead = if dead_letter { "dead_letter: { file: { path: dead, format: ndjson } }" } else { "" };
    let pipeline = format!(
        "{dead}
options: {{ call_time: 300ms, guest_memory: 16MiB }}
sources:
  rows: {{ file: {{ path: rows.csv, columns: {{ n: int64 }} }} }}
operators:
  work: {{ input: rows, component: evil.wasm, operator: map, config: {{ do: {deed}{ending} }} }}
  plain: {{ input: work, select: [text] }}
sinks:
  out: {{ input: plain, file: {{ path: out, format: ndjson }} }}
"
    );
    let folder = Folder::with(&[("rows.csv", "n\n2\n4\n-6\n8\n"), ("pipeline.yaml", &pipeline)]);
    std::os::unix::fs::symlink(&*EVIL, folder.path().join("evil.wasm")).unwrap();
    let ended = folder.run("tidemill run pipeline.yaml --workers 2 --quiet --summary json");
    (folder, ended)
}

fn counts(ended: &Ended) -> [u64; 3] {
    let summary: Value = serde_json::from_str(ended.stdout.lines().last().unwrap_or_default())
        .unwrap_or_else(|error| panic!("no summary ({error}): {ended:?}"));
    ["rows_in", "rows_out", "rows_dead"].map(|name| summary[name].as_u64().unwrap())
}

#[test]
fn the_row_that_does_it_is_put_aside() {
    for (deed, said) in EVIL_DEEDS {
        let (folder, ended) = run(deed, true, "-on-negative");
        assert_eq!((ended.code(), ended.stderr.as_str()), (0, ""), "{deed}");
        assert_eq!(counts(&ended), [4, 3, 1], "{deed}");
        assert_eq!(folder.rows("out").len(), 3, "{deed}");
        let dead: Vec<Value> = folder.rows("dead").iter().map(|row| serde_json::from_str(row).unwrap()).collect();
        assert_eq!(
            (dead.len(), dead[0]["operator"].as_str(), dead[0]["row"].as_str()),
            (1, Some("work"), Some(r#"{"n":-6}"#))
        );
        let error = dead[0]["error"].as_str().unwrap();
        assert!(error.starts_with(said), "{deed}: {error}");
    }
}

#[test]
fn without_a_dead_letter_output_the_job_fails_with_the_row() {
    for (deed, said) in EVIL_DEEDS {
        let (folder, ended) = run(deed, false, "-on-negative");
        assert_eq!((ended.code(), ended.stdout.as_str()), (1, ""), "{deed}");
        assert!(ended.stderr.starts_with(&format!("error: work (worker 0): {said}")), "{deed}: {}", ended.stderr);
        let end = "\n  row: {\"n\":-6}\n  help: set `on_error: dead_letter` to put such rows aside and go on\n";
        assert!(ended.stderr.ends_with(end), "{deed}: {}", ended.stderr);
        assert_eq!(folder.files(), ["evil.wasm", "pipeline.yaml", "rows.csv"], "{deed}");
    }
}

#[test]
fn if_all_rows_do_it_all_are_put_aside() {
    for deed in ["loop", "unequal"] {
        let (folder, ended) = run(deed, true, "");
        assert_eq!((ended.code(), counts(&ended)), (0, [4, 0, 4]), "{deed}");
        let rows = folder
            .rows("dead")
            .iter()
            .map(|row| serde_json::from_str::<Value>(row).unwrap()["row"].to_string())
            .collect::<Vec<_>>();
        assert_eq!(rows, [r#""{\"n\":-6}""#, r#""{\"n\":2}""#, r#""{\"n\":4}""#, r#""{\"n\":8}""#], "{deed}");
    }
}

#[test]
fn a_component_that_gives_up_ends_the_job_whatever_is_asked_for() {
    let (folder, ended) = run("fatal", true, "");
    assert_eq!((ended.code(), ended.stderr.as_str()), (1, "error: work (worker 0): the ink has run out\n"));
    assert_eq!(folder.files(), ["evil.wasm", "pipeline.yaml", "rows.csv"]);
}

#[test]
fn inspect_shows_whose_a_state_is_and_which_inputs_go_to_all() {
    let ended = Folder::with(&[]).run(&format!("tidemill inspect '{}'", EVIL.display()));
    assert_eq!(ended.code(), 0, "{ended:?}");
    for line in [
        "  input all (broadcast): n int64\n",
        "  state  count: int64 per key (version 1)\n",
        "  state  total: int64 broadcast (version 1)\n",
        "  state  rules: list of int64 broadcast (version 1)\n",
        "  state  parked: list of int64 per worker, split (version 1)\n",
    ] {
        assert!(ended.stdout.contains(line), "no {line}: {ended:?}");
    }
}
