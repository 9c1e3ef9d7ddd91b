//! Settings from the pipeline file on their way to the part that understands them.
//!
//! A part declares a serde struct with `deny_unknown_fields`, whose doc comments are its manual, and
//! reads it with [`read`]. Errors carry the path inside the settings, so that the caller can point at
//! the place in the file.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::format::FormatRef;
use crate::remote::Remotes;

/// What is wrong in some settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ConfigError {
    /// Keys (or list indices) from the settings' root to the place.
    pub path: Vec<String>,
    pub message: String,
    /// The wrong name, where a name is wrong.
    pub name: Option<String>,
    /// The names that would be right there.
    pub candidates: Vec<String>,
    pub help: Option<String>,
}

impl ConfigError {
    pub fn new(path: &[&str], message: impl Into<String>) -> Self {
        Self { path: path.iter().map(|&p| p.to_owned()).collect(), message: message.into(), ..Self::default() }
    }
    /// A name that is not one of `candidates`.
    pub fn unknown<S: Into<String>>(
        path: &[&str],
        what: &str,
        name: &str,
        candidates: impl IntoIterator<Item = S>,
    ) -> Self {
        Self {
            name: Some(name.to_owned()),
            candidates: candidates.into_iter().map(Into::into).collect(),
            ..Self::new(path, format!("there is no {what} `{name}`"))
        }
    }
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
    /// The same error seen from one level further out.
    pub fn inside(mut self, key: &str) -> Self {
        self.path.insert(0, key.to_owned());
        self
    }
}

/// Reads settings into a part's own struct.
pub fn read<T: DeserializeOwned>(settings: &Value) -> Result<T, ConfigError> {
    serde_path_to_error::deserialize(settings).map_err(|error| {
        let path = error.path().iter().map(ToString::to_string).filter(|p| p != "?").collect();
        let message = error.inner().to_string();
        let (name, candidates) = unknown_name(&message);
        ConfigError { path, message, name, candidates, help: None }
    })
}

/// Takes serde's "unknown field `x`, expected one of `a`, `b`" apart.
fn unknown_name(message: &str) -> (Option<String>, Vec<String>) {
    if !message.starts_with("unknown ") {
        return (None, Vec::new());
    }
    let mut quoted = message.split('`').skip(1).step_by(2).map(str::to_owned);
    (quoted.next(), quoted.collect())
}

/// A span of time: `10ms`, `5s`, `1.5m`, `2h`, `1d`, or whole ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DurationMs(pub i64);

impl std::str::FromStr for DurationMs {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let units: &[(&str, f64)] = &[("ms", 1.0), ("s", 1e3), ("m", 60e3), ("h", 3600e3), ("d", 86400e3), ("", 1.0)];
        scaled(text, units)
            .map(|v| Self(v as i64))
            .ok_or_else(|| format!("`{text}` is not a duration: write 10ms, 5s, 1m, 2h or 1d"))
    }
}

/// A number of bytes: `64KiB`, `16MiB`, `1GiB`, `10MB`, or a whole number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl std::str::FromStr for ByteSize {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let units: &[(&str, f64)] = &[
            ("KiB", 1024.0),
            ("MiB", 1048576.0),
            ("GiB", 1073741824.0),
            ("kB", 1e3),
            ("KB", 1e3),
            ("MB", 1e6),
            ("GB", 1e9),
            ("B", 1.0),
            ("", 1.0),
        ];
        match scaled(text, units) {
            Some(v) if v >= 0.0 => Ok(Self(v as u64)),
            _ => Err(format!("`{text}` is not a size: write 64KiB, 16MiB or 1GiB")),
        }
    }
}

fn scaled(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    let text = text.trim();
    let digits = text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '-')).unwrap_or(text.len());
    let number: f64 = text[..digits].parse().ok()?;
    let unit = text[digits..].trim();
    let value = number * units.iter().find(|(name, _)| *name == unit)?.1;
    (value.is_finite() && value.abs() < 9e15).then_some(value)
}

macro_rules! from_text_or_number {
    ($ty:ident) => {
        impl<'de> Deserialize<'de> for $ty {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = match Value::deserialize(deserializer)? {
                    Value::String(text) => text,
                    Value::Number(n) => n.to_string(),
                    other => return Err(D::Error::custom(format!("expected text or a number, found {other}"))),
                };
                text.parse().map_err(D::Error::custom)
            }
        }
    };
}
from_text_or_number!(DurationMs);
from_text_or_number!(ByteSize);

/// What connectors need to know of the world around their settings.
#[derive(Clone)]
pub struct ConfigContext {
    /// Folder of the pipeline file: relative paths start here.
    pub base: PathBuf,
    pub formats: Arc<dyn Formats>,
    /// None: the program was built without any.
    pub remotes: Option<Arc<dyn Remotes>>,
}

impl ConfigContext {
    /// Without remote folders.
    pub fn new(base: &Path, formats: Arc<dyn Formats>) -> Self {
        Self { base: base.to_owned(), formats, remotes: None }
    }
}

/// The file formats that are built in.
pub trait Formats: Send + Sync {
    fn names(&self) -> Vec<&'static str>;
    /// `options`: the format's own settings, a map (perhaps empty).
    fn make(&self, name: &str, options: &Value) -> Result<FormatRef, ConfigError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Inner {
        wait: DurationMs,
        size: Option<ByteSize>,
    }
    #[derive(Debug, Deserialize)]
    #[allow(dead_code)]
    struct Outer {
        inner: Inner,
    }

    #[test]
    fn errors_carry_the_path_and_the_right_names() {
        let error = read::<Outer>(&serde_json::json!({"inner": {"weit": "1s"}})).unwrap_err();
        assert_eq!(error.name.as_deref(), Some("weit"));
        assert_eq!(error.candidates, ["wait", "size"]);
        let error = read::<Outer>(&serde_json::json!({"inner": {"wait": "1 year"}})).unwrap_err();
        assert_eq!(error.path, ["inner", "wait"]);
        assert_eq!(error.message, "`1 year` is not a duration: write 10ms, 5s, 1m, 2h or 1d");
    }

    #[test]
    fn durations_and_sizes() {
        for (text, ms) in [("10ms", 10), ("1.5m", 90_000), ("2h", 7_200_000), ("250", 250), ("-1s", -1000)] {
            assert_eq!(text.parse::<DurationMs>().unwrap().0, ms);
        }
        assert_eq!("16MiB".parse::<ByteSize>().unwrap().0, 16 << 20);
        assert!("-1B".parse::<ByteSize>().is_err());
    }
}
