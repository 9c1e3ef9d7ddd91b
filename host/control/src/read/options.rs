//! `options:`, the settings of the job.

use tidemill_model::config::{ByteSize, DurationMs};
use tidemill_model::limits::BATCH_ROWS_MAX;
use tidemill_model::plan::{JobOptions, TickMode};

use super::fields::{self, Fields, Limits};
use crate::diagnostic::Report;

/// Below 1 ms ticks cost more than they carry; above 1 s nobody sees watermarks move.
const TICK: Limits<DurationMs> =
    Limits { range: DurationMs(1)..=DurationMs(1000), words: "a duration of 1ms to 1s", type_error: None };
const BATCH_ROWS: Limits<u64> = Limits {
    range: 1..=BATCH_ROWS_MAX as u64,
    words: "a whole number of 1 to 8192",
    type_error: Some("is not a number of rows"),
};
/// One tick would stop sources until sinks are done; far more than a thousand bounds nothing.
const TICKS: Limits<u64> =
    Limits { range: 2..=1024, words: "a whole number of 2 to 1024", type_error: Some("is not a number of ticks") };
/// A few batches at least, and not the machine's whole memory by mistake.
const MEMORY: Limits<ByteSize> =
    Limits { range: ByteSize(64 << 10)..=ByteSize(4 << 30), words: "a size of 64KiB to 4GiB", type_error: None };
const TICK_MODES: &[(&str, TickMode)] = &[("wall", TickMode::Wall), ("batch", TickMode::Batch)];
/// Calls are timed in steps of 10 ms; a worker does nothing else while it waits for one.
const CALL_TIME: Limits<DurationMs> =
    Limits { range: DurationMs(10)..=DurationMs(600_000), words: "a duration of 10ms to 10m", type_error: None };
/// Compilers give a guest 1 MiB of stack; more than 4 GiB it cannot address.
const GUEST_MEMORY: Limits<ByteSize> =
    Limits { range: ByteSize(1 << 20)..=ByteSize(4 << 30), words: "a size of 1MiB to 4GiB", type_error: None };
const NAMES: &[&str] = &[
    "ticks",
    "tick",
    "batch_rows",
    "ticks_in_flight",
    "tick_memory",
    "edge_memory",
    "buffer_memory",
    "call_time",
    "guest_memory",
];

pub(super) fn options(report: &mut Report, top: &Fields<'_>) -> JobOptions {
    let mut options = JobOptions::default();
    let Some(entry) = top.get("options").filter(|entry| !entry.value.is_null()) else {
        return options;
    };
    let Some(fields) = Fields::read(report, &entry.value, "`options`", &entry.key_span, NAMES) else {
        return options;
    };
    if let Some((mode, _)) = fields.get("ticks").and_then(|entry| fields::choice(report, entry, TICK_MODES)) {
        options.ticks = mode;
    }
    if let Some(tick) = fields.parsed(report, "tick", &TICK) {
        options.tick_ms = tick.0.unsigned_abs();
    }
    if let Some(rows) = fields.parsed(report, "batch_rows", &BATCH_ROWS) {
        options.batch_rows = rows as usize;
    }
    if let Some(ticks) = fields.parsed(report, "ticks_in_flight", &TICKS) {
        options.ticks_in_flight = ticks;
    }
    if let Some(bytes) = fields.parsed(report, "tick_memory", &MEMORY) {
        options.tick_bytes = bytes.0 as usize;
    }
    if let Some(bytes) = fields.parsed(report, "edge_memory", &MEMORY) {
        options.edge_bytes = bytes.0 as usize;
    }
    if let Some(time) = fields.parsed(report, "call_time", &CALL_TIME) {
        options.guest.call_ms = time.0.unsigned_abs();
    }
    if let Some(bytes) = fields.parsed(report, "guest_memory", &GUEST_MEMORY) {
        options.guest.memory_bytes = bytes.0 as usize;
    }
    if let Some(bytes) = fields.parsed(report, "buffer_memory", &MEMORY) {
        options.buffer_bytes = bytes.0 as usize;
    }
    options
}
