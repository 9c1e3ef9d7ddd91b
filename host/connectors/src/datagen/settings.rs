//! What the pipeline file says about made-up rows.

use serde::Deserialize;
use serde_json::{Map, Value};
use tidemill_model::config::DurationMs;

/// Settings of a `datagen` source: `columns` with a generator each, or `elements`.
///
/// ```yaml
/// datagen:
///   rows: 1000000
///   columns:
///     id: { sequence: { start: 1 } }
///     auction: { hash: { modulo: 100000 } }
///     channel: { prefix: { text: "channel-", modulo: 10 } }
///     price: { type: float64, random: { min: 0.5, max: 100.0 } }
///     at: { timestamp: { start: "2024-01-01T00:00:00", step_every: 10 } }
/// ```
///
/// Row `i` (from 0) is the same for the same settings, however many workers make the rows.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatagenSettings {
    /// Rows in all, over all workers. Without it rows come without end.
    pub rows: Option<u64>,
    /// Rows per second of processing time, over all workers. Without it rows come as fast as they are taken.
    pub rate: Option<f64>,
    /// Other seeds give other random values.
    #[serde(default)]
    pub seed: u64,
    /// Generators of the columns; or, beside `elements`, the types of the columns (`{id: int64}`). A map, or a list of
    /// maps.
    pub columns: Option<Value>,
    /// The rows themselves: a list of maps. Their columns are told from the values unless `columns` names them.
    pub elements: Option<Vec<Map<String, Value>>>,
}

/// A column: exactly one generator, and a type if it is not the generator's own. `i` is the number of the row.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ColumnSettings {
    /// Type that the values are converted to: `int32`, `utf8`, `decimal128(10,2)`.
    #[serde(rename = "type")]
    pub data_type: Option<String>,
    pub sequence: Option<Sequence>,
    pub hash: Option<Hash>,
    pub random: Option<RandomSettings>,
    /// The same value in each row: a number, a text or a bool.
    pub constant: Option<Value>,
    pub prefix: Option<Prefix>,
    pub timestamp: Option<TimestampSettings>,
}

/// `start + i * step`, int64; with `modulo` the remainder of that (never negative).
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sequence {
    pub start: i64,
    pub step: i64,
    pub modulo: Option<u64>,
}

impl Default for Sequence {
    fn default() -> Self {
        Self { start: 0, step: 1, modulo: None }
    }
}

/// `(i * 2654435761 >> 8) % modulo`, int64: spread evenly, in no visible order (Knuth's multiplicative hash).
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hash {
    pub modulo: u64,
}

/// One of: `min` and `max` (whole numbers: int64, `max` included; otherwise float64, `max` excluded), `length` (text of
/// so many letters), `choices` (one of the values listed, each as likely).
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RandomSettings {
    pub min: Option<serde_json::Number>,
    pub max: Option<serde_json::Number>,
    pub length: Option<usize>,
    pub choices: Option<Vec<Value>>,
}

/// `text` followed by `i % modulo`, utf8.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prefix {
    pub text: String,
    pub modulo: u64,
}

/// `start + (i / step_every) * step`, timestamp(ms).
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TimestampSettings {
    /// ISO 8601 text, or ms since 1970.
    pub start: Value,
    /// Rows with the same time.
    pub step_every: u64,
    pub step: DurationMs,
}

impl Default for TimestampSettings {
    fn default() -> Self {
        Self { start: Value::from(0), step_every: 1, step: DurationMs(1) }
    }
}
