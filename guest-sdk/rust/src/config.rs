//! The operator's settings from the pipeline file, typed.
//!
//! Law: a setting that nobody asked for is an error, so that a misspelt name never goes unnoticed.

use std::cell::RefCell;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::native::{OpError, OpenContext};

/// Settings and surroundings of an operator that is being opened.
pub struct Config<'c> {
    context: &'c OpenContext,
    read: RefCell<Vec<&'static str>>,
}

impl<'c> Config<'c> {
    pub(crate) fn new(context: &'c OpenContext) -> Self {
        Self { context, read: RefCell::default() }
    }

    /// A setting that must be there.
    pub fn get<T: Setting>(&self, name: &'static str) -> Result<T> {
        self.optional(name)?
            .ok_or_else(|| Error::new(format!("setting `{name}` is missing: it must be {}", T::EXPECTED)))
    }

    /// A setting with a default.
    pub fn get_or<T: Setting>(&self, name: &'static str, default: T) -> Result<T> {
        Ok(self.optional(name)?.unwrap_or(default))
    }

    /// A setting that may be absent.
    pub fn optional<T: Setting>(&self, name: &'static str) -> Result<Option<T>> {
        self.read.borrow_mut().push(name);
        let Some((_, text)) = self.context.config.iter().find(|(n, _)| n == name) else { return Ok(None) };
        match T::parse(text) {
            Some(value) => Ok(Some(value)),
            None => Err(Error::new(format!("setting `{name}` is `{text}`, but must be {}", T::EXPECTED))),
        }
    }

    /// Name of the node in the pipeline.
    pub fn node(&self) -> &str {
        &self.context.node
    }

    /// Index of this worker.
    pub fn worker(&self) -> u32 {
        self.context.worker
    }

    /// Number of workers.
    pub fn workers(&self) -> u32 {
        self.context.workers
    }

    pub(crate) fn context(&self) -> &OpenContext {
        self.context
    }

    pub(crate) fn refuse_unread(&self) -> Result<(), OpError> {
        let read = self.read.borrow();
        let Some((name, _)) = self.context.config.iter().find(|(n, _)| !read.contains(&n.as_str())) else {
            return Ok(());
        };
        let known = match read.len() {
            0 => "has no settings".to_owned(),
            _ => format!("has: {}", read.join(", ")),
        };
        let operator = &self.context.operator;
        Err(OpError::Config(format!("there is no setting `{name}`: operator `{operator}` {known}")))
    }
}

/// A type that a setting can have.
pub trait Setting: Sized {
    /// What to write, as in "must be a whole number".
    const EXPECTED: &'static str;
    fn parse(text: &str) -> Option<Self>;
}

macro_rules! from_str {
    ($expected:literal: $($ty:ty),*) => { $(
        impl Setting for $ty {
            const EXPECTED: &'static str = $expected;
            fn parse(text: &str) -> Option<Self> {
                text.trim().parse().ok()
            }
        }
    )* };
}
from_str!("a whole number": i8, i16, i32, i64);
from_str!("a whole number that is not negative": u8, u16, u32, u64, usize);
from_str!("a number": f32, f64);
from_str!("true or false": bool);

impl Setting for String {
    const EXPECTED: &'static str = "text";
    fn parse(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }
}

/// `10ms`, `5s`, `1.5m`, `2h`, `1d`, or whole ms, as everywhere in a pipeline file.
impl Setting for Duration {
    const EXPECTED: &'static str = "a duration such as 10ms, 5s, 1m, 2h or 1d";
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
        let number: f64 = text[..end].parse().ok()?;
        let ms = match text[end..].trim() {
            "ms" | "" => 1.0,
            "s" => 1e3,
            "m" => 60e3,
            "h" => 3600e3,
            "d" => 86400e3,
            _ => return None,
        };
        Duration::try_from_secs_f64(number * ms / 1e3).ok()
    }
}
