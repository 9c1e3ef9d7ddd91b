//! Runs shell commands in a folder of their own, with `tidemill` in the path, and sees that they end.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{LazyLock, mpsc};
use std::time::{Duration, Instant};

/// No command here takes longer than some seconds on a busy machine: one that does hangs.
const DEADLINE: Duration = Duration::from_secs(90);

/// The component `tests/guests/evil`, built once by `tidemill build`.
pub static EVIL: LazyLock<PathBuf> = LazyLock::new(|| build("guests/evil", "evil.wasm", &["--profile", "dev"], &[]));

/// The operators of the cases, `tests/operators`.
pub fn operators() -> &'static Path {
    static OPERATORS: LazyLock<PathBuf> = LazyLock::new(|| build("operators", "cli-operators.wasm", &[], &[]));
    &OPERATORS
}

/// Builds a crate below `tests`; `flags` are for cargo.
pub fn build(guest: &str, out: &str, words: &[&str], flags: &[&str]) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let out = folder.join(out);
    std::fs::create_dir_all(out.parent().unwrap()).unwrap();
    let built = Command::new(env!("CARGO_BIN_EXE_tidemill"))
        .arg("build")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests").join(guest))
        .args(words)
        .arg("--out")
        .arg(&out)
        // Not the folder of the tests of `host/wasm`, which build the same guests in other ways.
        .args(["--", "--locked", "--target-dir"])
        .arg(folder.join("cli-guests"))
        .args(flags)
        // Flags for the host's own code (coverage, for example) mean nothing to this target.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .output()
        .unwrap();
    assert!(built.status.success(), "{guest} {flags:?}: {}", String::from_utf8_lossy(&built.stderr));
    out
}

/// A folder for one test.
pub struct Folder(tempfile::TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn with(files: &[(&str, &str)]) -> Self {
        let folder = Self::new();
        files.iter().for_each(|(name, text)| folder.write(name, text.as_bytes()));
        folder
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    /// Names of all files below, relative and sorted; hidden ones too.
    pub fn files(&self) -> Vec<String> {
        let (mut open, mut files) = (vec![self.path().to_owned()], Vec::new());
        while let Some(folder) = open.pop() {
            for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap()) {
                match entry.file_type().unwrap().is_dir() {
                    true => open.push(entry.path()),
                    false => files.push(entry.path().strip_prefix(self.path()).unwrap().display().to_string()),
                }
            }
        }
        files.sort();
        files
    }

    /// All rows (lines) of the visible files in a folder, sorted.
    pub fn rows(&self, folder: &str) -> Vec<String> {
        let visible = |name: &&String| name.strip_prefix(folder).is_some_and(|rest| rest.starts_with("/part-"));
        let read = |name: &String| std::fs::read_to_string(self.path().join(name)).unwrap();
        let mut rows: Vec<String> = self
            .files()
            .iter()
            .filter(visible)
            .flat_map(|n| read(n).lines().map(str::to_owned).collect::<Vec<_>>())
            .collect();
        rows.sort();
        rows
    }

    /// A shell that runs `script` here, with `tidemill` in its path.
    pub fn shell(&self, script: &str) -> Command {
        let program = Path::new(env!("CARGO_BIN_EXE_tidemill")).parent().unwrap();
        let path = std::env::var("PATH").unwrap_or_default();
        let mut shell = Command::new("sh");
        shell.args(["-c", script]).current_dir(self.path());
        shell.env("PATH", format!("{}:{path}", program.display()));
        shell.env("XDG_CACHE_HOME", Path::new(env!("CARGO_TARGET_TMPDIR")).join("cli-cache"));
        // Log lines carry the time of day.
        shell.env("TIDEMILL_LOG", "off").env_remove("NO_COLOR");
        shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        shell
    }

    /// Runs `script` to its end.
    pub fn run(&self, script: &str) -> Ended {
        Running::start(self.shell(script)).end()
    }
}

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    /// As a shell shows it.
    pub fn code(&self) -> i32 {
        self.status.code().or(self.status.signal().map(|signal| 128 + signal)).unwrap()
    }
}

/// A command that runs, in a process group of its own, with what it has said so far.
pub struct Running {
    child: Child,
    stdout: Lines,
    stderr: Lines,
}

impl Running {
    pub fn start(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let stdout = child.stdout.take().map(Lines::of).unwrap_or_default();
        let stderr = child.stderr.take().map(Lines::of).unwrap_or_default();
        Self { child, stdout, stderr }
    }

    /// The next line on standard output.
    pub fn line(&mut self) -> String {
        self.stdout.next().expect("another line")
    }

    /// The next line on standard error.
    pub fn note(&mut self) -> String {
        self.stderr.next().expect("another line")
    }

    /// The next line on standard error that begins so.
    pub fn note_of(&mut self, beginning: &str) -> String {
        loop {
            let line = self.note();
            if line.starts_with(beginning) {
                return line;
            }
        }
    }

    /// Sends a signal (`INT`) to the process.
    pub fn signal(&self, name: &str) {
        kill(name, &self.child.id().to_string());
    }

    /// Waits for the end of the process and of its output.
    pub fn end(mut self) -> Ended {
        let (stdout, stderr) = (self.stdout.rest(), self.stderr.rest());
        if stdout.is_none() || stderr.is_none() {
            kill("KILL", &format!("-{}", self.child.id()));
            self.child.wait().unwrap();
            panic!("hangs; stdout:\n{}\nstderr:\n{}", self.stdout.heard, self.stderr.heard);
        }
        let status = self.child.wait().unwrap();
        Ended { status, stdout: std::mem::take(&mut self.stdout.heard), stderr: std::mem::take(&mut self.stderr.heard) }
    }
}

impl Drop for Running {
    /// A test that has failed leaves no process behind, and tells what those have said that it had started.
    fn drop(&mut self) {
        if std::thread::panicking() {
            for (name, lines) in [("stdout", &mut self.stdout), ("stderr", &mut self.stderr)] {
                lines.so_far();
                eprintln!("{name} of a process:\n{}", lines.heard);
            }
        }
        if matches!(self.child.try_wait(), Ok(None)) {
            kill("KILL", &format!("-{}", self.child.id()));
            let _ = self.child.wait();
        }
    }
}

fn kill(signal: &str, process: &str) {
    // The shell's own `kill`: there may be no other.
    let sent = Command::new("sh").args(["-c", &format!("kill -{signal} {process}")]).status().unwrap();
    assert!(sent.success(), "no process {process}");
}

/// Lines that another thread reads.
#[derive(Default)]
struct Lines {
    from: Option<mpsc::Receiver<String>>,
    heard: String,
}

impl Lines {
    fn of(stream: impl Read + Send + 'static) -> Self {
        let (send, from) = mpsc::channel();
        std::thread::spawn(move || {
            let mut stream = BufReader::new(stream);
            let mut line = Vec::new();
            while stream.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                let _ = send.send(String::from_utf8_lossy(&line).into_owned());
                line.clear();
            }
        });
        Self { from: Some(from), heard: String::new() }
    }

    fn next(&mut self) -> Option<String> {
        let line = self.from.as_ref()?.recv_timeout(DEADLINE).ok()?;
        self.heard.push_str(&line);
        Some(line.trim_end_matches('\n').to_owned())
    }

    /// Hears what there is already.
    fn so_far(&mut self) {
        for line in self.from.iter().flat_map(mpsc::Receiver::try_iter) {
            self.heard.push_str(&line);
        }
    }

    /// Hears the stream to its end; `None` if that does not come in time.
    fn rest(&mut self) -> Option<()> {
        let end = Instant::now() + DEADLINE;
        while let Some(from) = &self.from {
            match from.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => self.heard.push_str(&line),
                Err(mpsc::RecvTimeoutError::Timeout) => return None,
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            }
        }
        Some(())
    }
}
