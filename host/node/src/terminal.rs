//! Words on standard error and standard output.
//!
//! Law: an output that is closed or full makes nothing panic, unlike `println!`. What cannot be said on standard error
//! is lost; what cannot be said on standard output is an error, since a program may wait for it.

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Context as _;

/// What the shell shows for a process that wrote to a pipe that nobody reads: no other word is said about it.
pub const EXIT_CLOSED: u8 = 141;

/// A line for people, on standard error.
pub fn note(line: impl Display) {
    // In one piece, so that lines of several processes don't mix. There is no other place to complain at.
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// A result, on standard output, as it is.
pub fn print(text: impl Display) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    write!(out, "{text}").and_then(|()| out.flush()).context("cannot write to stdout")
}

/// Ends the process at once. Threads may still be at work, in the C++ of RocksDB too: destructors of its globals, which an ordinary exit
/// runs, would take the ground from under their feet.
pub fn leave(code: ExitCode) -> ! {
    // Nothing waits in a buffer: `print` flushes. And the lock of standard output may be held by a sink that will never get rid of its rows.
    let status = (0..=u8::MAX).find(|&status| ExitCode::from(status) == code);
    signal_hook::low_level::exit(status.map_or(1, i32::from))
}
