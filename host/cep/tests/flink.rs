//! The matcher and Flink give the same, for cases at random and for those of `cases.txt`.
//!
//! Needs Java and Flink's jars, which `./dev bench peers` fetches; without them it says so and is done. So many random cases
//! as `TIDEMILL_CEP_CASES` says, chosen by `TIDEMILL_CEP_SEED`. With `UPDATE=1` the goldens of `cases.txt` are Flink's.

mod common;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use common::random::{Chance, case, shrunk};

const FLINK: &str = "apache-flink-libraries-2.3.0";
/// About five seconds of Flink.
const CASES: u64 = 2000;
/// Then it stops.
const DIFFERENCES_MAX: usize = 5;

#[test]
fn flink_gives_the_same() {
    let mut flink = match Flink::start() {
        Ok(flink) => flink,
        // Not by `eprintln!`, which is kept from view when the test passes.
        Err(why) => {
            let _ = writeln!(std::io::stderr(), "the CEP matcher is not compared with Flink: {why}");
            return;
        }
    };
    goldens(&mut flink);
    let number = |name: &str, default| std::env::var(name).map_or(default, |text| text.parse().expect("a number"));
    let (cases, seed) = (number("TIDEMILL_CEP_CASES", CASES), number("TIDEMILL_CEP_SEED", 1));
    let mut chance = Chance(seed);
    let mut tally = Tally::default();
    while tally.compared < cases && tally.differences.len() < DIFFERENCES_MAX {
        let text = case(&mut chance);
        if !endless(&text) {
            tally.compare(&text, &mut flink);
        }
    }
    let Tally { compared, refused, matches, failed, differences } = tally;
    let _ = writeln!(
        std::io::stderr(),
        "{compared} cases compared with Flink (seed {seed}): {refused} refused by both, {matches} matches and time-outs; \
         in {failed} more, Flink failed"
    );
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert!(failed < cases / 100 + 2, "Flink failed too often to be an oracle");
}

#[derive(Default)]
struct Tally {
    compared: u64,
    refused: u64,
    matches: usize,
    failed: u64,
    differences: Vec<String>,
}

impl Tally {
    fn compare(&mut self, text: &str, flink: &mut Flink) {
        let (ours, theirs) = (common::run(text, |_, key| key), flink.run(text));
        // Flink has lost a state that it needs (`go_around` in `compile.rs`), or wants to release events of a match that
        // has not begun: a stage that must not occur behind a group of which nothing need occur.
        if theirs.starts_with("failed ") {
            self.failed += 1;
            return;
        }
        self.compared += 1;
        self.refused += u64::from(ours == "refused");
        self.matches += ours.matches('{').count();
        if ours != theirs {
            let small = shrunk(text, |text| !endless(text) && common::run(text, |_, key| key) != flink.run(text));
            let (ours, theirs) = (common::run(&small, |_, key| key), flink.run(&small));
            self.differences.push(format!("{small}\n  Flink:    {theirs}\n  Tidemill: {ours}\n  (from: {text})"));
        }
    }
}

/// Flink would never come to an end: no use to ask it.
fn endless(text: &str) -> bool {
    common::refused(text).is_some_and(|refused| refused.message.contains("repeated without an event"))
}

/// The cases of `cases.txt`, of which each line that begins with `=` is the golden of the case above it.
fn goldens(flink: &mut Flink) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases.txt");
    let text = std::fs::read_to_string(&path).expect("cases.txt can be read");
    let mut fresh = String::new();
    for line in text.lines() {
        if line.starts_with('=') {
            continue;
        }
        fresh += line;
        fresh.push('\n');
        if !line.starts_with('#') && !line.is_empty() {
            fresh += format!("= {}", flink.run(line)).trim_end();
            fresh.push('\n');
        }
    }
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, fresh).expect("cases.txt can be written");
    } else {
        assert_eq!(text, fresh, "cases.txt is not what Flink gives");
    }
}

/// Each case leaves a thread behind in Flink.
const CASES_PER_PROCESS: u32 = 4000;

/// Flink's automaton in a process of its own, a case per line.
struct Flink {
    cases: u32,
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Flink {
    fn start() -> Result<Self, String> {
        let jars = jars()?;
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/flink/Cep.java");
        let path: Vec<String> = jars.iter().map(|jar| jar.display().to_string()).collect();
        let mut child = Command::new("java")
            .args(["-Xmx1g", "--add-opens=java.base/java.lang=ALL-UNNAMED", "-cp", &path.join(":")])
            .arg(source)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("`java` does not start ({error}); install a Java 17 development kit"))?;
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().ok_or("`java` has no output")?);
        Ok(Self { cases: 0, child, input, output })
    }

    fn run(&mut self, case: &str) -> String {
        if self.cases == CASES_PER_PROCESS {
            *self = Self::start().expect("Flink starts once more");
        }
        self.cases += 1;
        let input = self.input.as_mut().expect("Flink is running");
        writeln!(input, "{case}").and_then(|()| input.flush()).expect("Flink takes a case");
        let mut line = String::new();
        self.output.read_line(&mut line).expect("Flink answers");
        assert!(!line.is_empty(), "Flink ended at the case {case}");
        line.trim_end().to_owned()
    }
}

impl Drop for Flink {
    fn drop(&mut self) {
        self.input = None;
        let _ = self.child.wait();
    }
}

fn jars() -> Result<Vec<PathBuf>, String> {
    let cache = std::env::var_os("TIDEMILL_CACHE_DIR").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache/tidemill"));
    let folder = cache.or_else(home).ok_or("there is no HOME")?.join(FLINK);
    let missing = |_| format!("Flink's jars are not in {}; `./dev bench peers` fetches them", folder.display());
    let entries = std::fs::read_dir(&folder).map_err(missing)?;
    let wanted = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        ["flink-dist-", "flink-cep-", "log4j-"].iter().any(|start| name.starts_with(start))
    };
    Ok(entries.filter_map(|entry| Some(entry.ok()?.path())).filter(wanted).collect())
}
