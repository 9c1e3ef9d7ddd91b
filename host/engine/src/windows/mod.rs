//! Window operators: one module per kind of window, over shared panes, key tables and aggregates.
//!
//! Laws (Flink's): a result carries the event time `end - 1`; a window fires when the watermark reaches it; a row
//! whose window is past `end - 1 + allowed lateness` is late and leaves through the port `late` as it came.

mod aggregate;
mod aligned;
pub(crate) mod groups;
mod pane;
pub(crate) mod start;
mod stored;
mod sums;

pub use aligned::{AlignedSpec, aligned};
