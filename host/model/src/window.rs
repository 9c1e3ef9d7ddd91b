//! What a window node does, as the pipeline file states it: the words between `control`, which reads them, and `engine`, which acts on them.

use crate::fault::OnError;
use crate::logic::TimeDomain;

/// A window node.
#[derive(Clone, Debug)]
pub struct WindowSpec {
    pub windows: Windows,
    /// Which clock assigns rows to windows and ends them. By the wall clock no row is late.
    pub time: TimeDomain,
    /// Shifts tumbling, sliding and cumulating windows against the epoch; less than their step in either direction.
    pub offset_ms: i64,
    /// How long after its end a window still takes rows.
    pub allowed_lateness_ms: i64,
    /// `None`: when the window ends.
    pub trigger: Option<Trigger>,
    /// Indices of the key columns; none: one group for all rows of a worker.
    pub key: Vec<usize>,
    /// Name and SQL aggregate call, in the order of the output columns.
    pub aggregates: Vec<(String, String)>,
    /// What becomes of rows for which an argument or a filter of an aggregate fails.
    pub on_error: OnError,
}

impl WindowSpec {
    /// By event time, firing at their end; a row that can't be read fails the job.
    pub fn new(windows: Windows, key: Vec<usize>, aggregates: Vec<(String, String)>) -> Self {
        Self {
            windows,
            time: TimeDomain::Event,
            offset_ms: 0,
            allowed_lateness_ms: 0,
            trigger: None,
            key,
            aggregates,
            on_error: OnError::Fail,
        }
    }
}

/// How windows are laid out in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Windows {
    Tumbling {
        size_ms: i64,
    },
    /// A window of `size_ms` begins each `slide_ms`.
    Sliding {
        size_ms: i64,
        slide_ms: i64,
    },
    /// Windows of one start that end at each `step_ms`, up to `size_ms`, where the next ones begin (Flink's `CUMULATE`).
    Cumulate {
        size_ms: i64,
        step_ms: i64,
    },
    /// Of each key: as long as no row is further from the next than the gap.
    Session(Gap),
    /// One window per key, without an end: it needs a trigger.
    Global,
}

/// How long a session waits for the next row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gap {
    Ms(i64),
    /// A SQL expression: the gap behind each row, ms.
    Of(String),
}

/// When the results of a window come out (Flink's triggers, by name). A window is dropped at its end, whatever its trigger.
#[derive(Clone, Debug, PartialEq)]
pub struct Trigger {
    pub fires: Fires,
    /// What has fired is forgotten.
    pub purge: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Fires {
    /// At the end of the window; of global ones, at the end of the input. Rows that come later, within the allowed lateness, fire again.
    AtEnd,
    /// With each so many rows.
    Count(u64),
    /// Whenever so much time has passed by a clock. By event time also at the end of the window.
    Every(TimeDomain, i64),
    /// At the end of the window, and before it whenever so much time has passed by the wall clock.
    Early(i64),
    /// When the value of a SQL expression differs by more than `threshold` from that of the row that fired last.
    Delta { value: String, threshold: f64 },
}

impl Windows {
    /// From the start of a window to that of the next, ms; none if that depends on the rows.
    pub fn step_ms(&self) -> Option<i64> {
        match *self {
            Windows::Tumbling { size_ms: step } | Windows::Sliding { slide_ms: step, .. } => Some(step),
            Windows::Cumulate { step_ms, .. } => Some(step_ms),
            Windows::Session(_) | Windows::Global => None,
        }
    }

    /// Whether a window begins and ends at some time.
    pub fn bounded(&self) -> bool {
        *self != Windows::Global
    }
}
