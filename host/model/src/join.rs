//! What a join of two streams is asked to do: vocabulary of the pipeline file and of the engine.
//!
//! Law: of the two sides `left` is number 0, `right` number 1, everywhere.

use crate::fault::OnError;

/// Names of the inputs, by number.
pub const SIDES: [&str; 2] = ["left", "right"];

/// Which rows come out that have found no partner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinType {
    Inner,
    Left,
    Right,
    Full,
}

impl JoinType {
    pub const ALL: [(&'static str, JoinType); 4] =
        [("inner", Self::Inner), ("left", Self::Left), ("right", Self::Right), ("full", Self::Full)];

    /// Whether rows of this side come out without a partner.
    pub fn keeps(self, side: usize) -> bool {
        match self {
            Self::Inner => false,
            Self::Left => side == 0,
            Self::Right => side == 1,
            Self::Full => true,
        }
    }

    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, join_type)| *join_type == self).map_or("", |(name, _)| name)
    }
}

/// Which rows of equal keys are partners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinKind {
    /// Those whose times differ by `lower_ms <= right - left <= upper_ms`.
    Interval { lower_ms: i64, upper_ms: i64 },
    /// Those of one window. `slide_ms` is from the start of a window to that of the next; of tumbling windows the size.
    Window { size_ms: i64, slide_ms: i64, offset_ms: i64 },
    /// Each row on the left with the last one on the right up to its time. Inner or left.
    Temporal,
}

/// A node that joins two streams.
#[derive(Clone, Debug)]
pub struct JoinSpec {
    pub kind: JoinKind,
    pub join_type: JoinType,
    /// Indices of the key columns of each side; as many on both, of the same types.
    pub keys: [Vec<usize>; 2],
    /// A condition over both sides, by which partners are chosen as well.
    pub condition: Option<String>,
    /// The output columns; none: all of left, then all of right.
    pub select: Option<Vec<String>>,
    pub on_error: OnError,
}
