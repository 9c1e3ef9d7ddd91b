//! Log lines and numbers on their way to the host.
//!
//! In a component they are host calls; natively they are kept per thread for the test driver, and log
//! lines also go to stderr.

use std::fmt::Arguments;

/// Severity of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

/// One line to the job's log. The macros `trace!` to `error!` are shorter.
pub fn log(level: Level, message: Arguments<'_>) {
    sink::log(level, message.to_string());
}

/// A number that only grows, shown beside the host's own. A field of an operator; its name is the field's.
/// It travels once per call, so counting costs an addition. Not undone when a row fails.
#[derive(Debug, Default)]
pub struct Counter(u64);

impl Counter {
    pub fn add(&mut self, n: u64) {
        self.0 += n;
    }

    #[doc(hidden)]
    pub fn flush(&mut self, name: &'static str) {
        if self.0 > 0 {
            sink::count(name, std::mem::take(&mut self.0));
        }
    }
}

/// A number that goes up and down. A field of an operator; its name is the field's.
#[derive(Debug, Default)]
pub struct Gauge(Option<f64>);

impl Gauge {
    pub fn set(&mut self, value: f64) {
        self.0 = Some(value);
    }

    #[doc(hidden)]
    pub fn flush(&mut self, name: &'static str) {
        if let Some(value) = self.0.take() {
            sink::gauge(name, value);
        }
    }
}

#[cfg(target_arch = "wasm32")]
use crate::wasm::sink;

#[cfg(not(target_arch = "wasm32"))]
pub(crate) mod sink {
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    use super::Level;

    #[derive(Default)]
    pub struct Kept {
        pub lines: Vec<(Level, String)>,
        pub counters: BTreeMap<&'static str, u64>,
        pub gauges: BTreeMap<&'static str, f64>,
    }

    thread_local! {
        static KEPT: RefCell<Kept> = RefCell::default();
    }

    /// Lines beyond this are not kept: a benchmark must not grow without end.
    const LINES_MAX: usize = 10_000;

    pub fn log(level: Level, message: String) {
        eprintln!("{level:?}: {message}");
        KEPT.with_borrow_mut(|kept| {
            if kept.lines.len() < LINES_MAX {
                kept.lines.push((level, message));
            }
        });
    }

    pub fn count(name: &'static str, n: u64) {
        KEPT.with_borrow_mut(|kept| *kept.counters.entry(name).or_default() += n);
    }

    pub fn gauge(name: &'static str, value: f64) {
        KEPT.with_borrow_mut(|kept| kept.gauges.insert(name, value));
    }

    /// All since the last call on this thread.
    pub fn take() -> Kept {
        KEPT.take()
    }
}

/// Logs a line that only the author wants to see.
#[macro_export]
macro_rules! trace {
    ($($arg:tt)*) => { $crate::log($crate::Level::Trace, ::core::format_args!($($arg)*)) };
}

/// Logs a line for finding faults.
#[macro_export]
macro_rules! debug {
    ($($arg:tt)*) => { $crate::log($crate::Level::Debug, ::core::format_args!($($arg)*)) };
}

/// Logs a line that operators of the pipeline want to see.
#[macro_export]
macro_rules! info {
    ($($arg:tt)*) => { $crate::log($crate::Level::Info, ::core::format_args!($($arg)*)) };
}

/// Logs a line about something suspicious.
#[macro_export]
macro_rules! warn {
    ($($arg:tt)*) => { $crate::log($crate::Level::Warn, ::core::format_args!($($arg)*)) };
}

/// Logs a line about something that went wrong.
#[macro_export]
macro_rules! error {
    ($($arg:tt)*) => { $crate::log($crate::Level::Error, ::core::format_args!($($arg)*)) };
}
