//! What went wrong, where, and what to do: the one error that crosses crates.
//!
//! User faults, traps and I/O errors travel as values. Assertions are for the host's own bugs only.

use std::fmt;

/// Whose fault it is; decides the exit code and the tone of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// Rows that do not fit (broken line, wrong type, null where none may be).
    Data,
    /// The component: a trap, an error it returned, a malformed answer, a limit it broke.
    Component,
    /// The pipeline file or a flag.
    Config,
    /// The world outside: a file, a disk, a socket.
    Io,
    /// Nobody reads the output any more, as in `... | head`: the end, but nobody's mistake.
    Closed,
    /// Tidemill itself.
    Internal,
}

/// An error with the place where it happened. `Display` is one line: place, message; then `help`.
#[derive(Clone, Debug, thiserror::Error)]
pub struct Fault {
    pub kind: FaultKind,
    /// Name of the node in the pipeline, empty if none is to blame.
    pub operator: String,
    pub worker: Option<usize>,
    /// The key in a readable form, where one is known.
    pub key: Option<String>,
    /// The row as JSON, where one is known.
    pub row: Option<String>,
    pub message: String,
    /// What the user can do about it.
    pub help: Option<String>,
}

impl Fault {
    pub fn new(kind: FaultKind, message: impl Into<String>) -> Self {
        Self { kind, operator: String::new(), worker: None, key: None, row: None, message: message.into(), help: None }
    }
    pub fn data(message: impl Into<String>) -> Self {
        Self::new(FaultKind::Data, message)
    }
    pub fn component(message: impl Into<String>) -> Self {
        Self::new(FaultKind::Component, message)
    }
    pub fn config(message: impl Into<String>) -> Self {
        Self::new(FaultKind::Config, message)
    }
    pub fn io(message: impl Into<String>) -> Self {
        Self::new(FaultKind::Io, message)
    }
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(FaultKind::Internal, message)
    }
    /// Names the node, unless one is named already: the first place that knows is the right one.
    pub fn at(mut self, operator: &str) -> Self {
        if self.operator.is_empty() {
            self.operator = operator.to_owned();
        }
        self
    }
    pub fn on_worker(mut self, worker: usize) -> Self {
        self.worker.get_or_insert(worker);
        self
    }
    pub fn with_key(mut self, key: impl Into<String>) -> Self {
        self.key.get_or_insert(key.into());
        self
    }
    pub fn with_row(mut self, row: impl Into<String>) -> Self {
        self.row.get_or_insert(row.into());
        self
    }
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help.get_or_insert(help.into());
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.operator.is_empty() {
            write!(f, "{}", self.operator)?;
            if let Some(worker) = self.worker {
                write!(f, " (worker {worker})")?;
            }
            write!(f, ": ")?;
        }
        write!(f, "{}", self.message)?;
        if let Some(key) = &self.key {
            write!(f, "\n  key: {key}")?;
        }
        if let Some(row) = &self.row {
            write!(f, "\n  row: {row}")?;
        }
        if let Some(help) = &self.help {
            write!(f, "\n  help: {help}")?;
        }
        Ok(())
    }
}

impl From<arrow::error::ArrowError> for Fault {
    fn from(error: arrow::error::ArrowError) -> Self {
        Fault::internal(format!("arrow: {error}"))
    }
}

/// What to do with rows that fail, as the pipeline says per node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OnError {
    /// The job fails with the first bad row.
    #[default]
    Fail,
    /// Bad rows go to the dead-letter output, the others go on.
    DeadLetter,
}
