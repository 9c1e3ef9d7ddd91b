//! What can go wrong with a row, and with all of them.

use crate::native::OpError;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a row (or a due timer) could not be processed.
///
/// Everything that the operator emitted or changed for that row is undone, the rest of the batch
/// goes on, and the row takes the way that the pipeline says (dead letters or failure of the job).
/// Any `std::error::Error` turns into one with `?`.
#[derive(Debug)]
pub struct Error(Box<Cause>);

/// Boxed, so that the result of a good row is one register.
#[derive(Debug)]
struct Cause {
    message: String,
    fatal: bool,
}

impl Error {
    /// This row is bad.
    pub fn new(message: impl Into<String>) -> Self {
        Self::of(message.into(), false)
    }

    /// The operator can't go on: the whole call fails, and the job with it.
    pub fn fatal(message: impl Into<String>) -> Self {
        Self::of(message.into(), true)
    }

    #[cold]
    fn of(message: String, fatal: bool) -> Self {
        Self(Box::new(Cause { message, fatal }))
    }

    pub fn is_fatal(&self) -> bool {
        self.0.fatal
    }

    pub fn message(&self) -> &str {
        &self.0.message
    }

    pub(crate) fn into_message(self) -> String {
        self.0.message
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.message)
    }
}

/// `Error` is no `std::error::Error` itself, so that this can exist (as in `anyhow`).
impl<E: std::error::Error> From<E> for Error {
    fn from(error: E) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            message.push_str(": ");
            message.push_str(&cause.to_string());
            source = cause.source();
        }
        Self::new(message)
    }
}

/// The host broke the contract: never the user's fault.
pub fn contract(what: impl std::fmt::Display) -> OpError {
    OpError::Fatal(format!("the host sent a malformed call: {what}"))
}

/// Returns early with an error for this row: `bail!("no price for {item}")`.
#[macro_export]
macro_rules! bail {
    ($($arg:tt)*) => { return ::core::result::Result::Err($crate::Error::new(::std::format!($($arg)*))) };
}

/// Returns early with an error for this row unless the condition holds.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($arg:tt)*) => { if !$condition { $crate::bail!($($arg)*) } };
}
