//! Flink in a process of its own: a program of `tests/flink` that reads cases and prints what Flink gives for them.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

const VERSION: &str = "apache-flink-libraries-2.3.0";

pub struct Flink {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Flink {
    /// `program`: a class of `tests/flink`; `jars`: how the names of the jars that it needs begin. An error says what is missing.
    pub fn start(program: &str, jars: &[&str]) -> Result<Self, String> {
        let jars: Vec<String> = found(jars)?.iter().map(|jar| jar.display().to_string()).collect();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("flink").join(format!("{program}.java"));
        // Flink looks up classes by name, and would not find those of a program that is run from its source.
        let classes = Path::new(env!("CARGO_TARGET_TMPDIR")).join("flink");
        let mut compiled = Command::new("javac");
        let compiled = compiled.arg("-nowarn").arg("-d").arg(&classes).args(["-cp", &jars.join(":")]).arg(source);
        let compiled = compiled.output().map_err(|error| needs_java("javac", &error))?;
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        let mut child = Command::new("java")
            .args([
                "-Xmx2g",
                "--add-opens=java.base/java.lang=ALL-UNNAMED",
                "--add-opens=java.base/java.util=ALL-UNNAMED",
            ])
            .args(["-cp", &format!("{}:{}", classes.display(), jars.join(":"))])
            .arg(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| needs_java("java", &error))?;
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().ok_or("`java` has no output")?);
        Ok(Self { child, input, output })
    }

    /// What it gives for cases of a line each, which run together.
    pub fn run(&mut self, cases: &[String]) -> Vec<String> {
        let input = self.input.as_mut().expect("Flink is running");
        writeln!(input, "{}\n", cases.join("\n")).and_then(|()| input.flush()).expect("Flink takes cases");
        let answer = |case: &String| {
            let mut line = String::new();
            self.output.read_line(&mut line).expect("Flink answers");
            assert!(!line.is_empty(), "Flink ended at the case {case}");
            line.trim_end().to_owned()
        };
        cases.iter().map(answer).collect()
    }
}

impl Drop for Flink {
    fn drop(&mut self) {
        self.input = None;
        let _ = self.child.wait();
    }
}

fn needs_java(program: &str, error: &std::io::Error) -> String {
    format!("`{program}` does not start ({error}); install a Java 17 development kit")
}

fn found(wanted: &[&str]) -> Result<Vec<PathBuf>, String> {
    let cache = std::env::var_os("TIDEMILL_CACHE_DIR").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache/tidemill"));
    let folder = cache.or_else(home).ok_or("there is no HOME")?.join(VERSION);
    let missing = |_| format!("Flink's jars are not in {}; `./dev bench peers` fetches them", folder.display());
    let entries = std::fs::read_dir(&folder).map_err(missing)?;
    let is_wanted = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        wanted.iter().any(|start| name.starts_with(start))
    };
    Ok(entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_wanted).collect())
}
