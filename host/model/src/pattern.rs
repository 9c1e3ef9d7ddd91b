//! What a pattern node is asked to do, as the pipeline file says it.

use serde_json::Value;

use crate::fault::OnError;

/// A pattern of events, per key.
#[derive(Clone, Debug)]
pub struct PatternSpec {
    /// `pattern:`
    pub pattern: Value,
    /// `select:`, what comes out for a match.
    pub select: Vec<String>,
    /// Indices of the key columns, at least one.
    pub key: Vec<usize>,
    /// What becomes of rows for which a condition fails, and of matches for which the select list does.
    pub on_error: OnError,
}
