//! Limits, each with its unit and its reason. What a user may change is in the pipeline file.

/// Rows in a batch. 8192 rows amortise a call into a component to a few ns per row and stay in L2.
pub const BATCH_ROWS_MAX: usize = 8192;
/// Bytes in a batch: keeps one message well under the in-flight budget.
pub const BATCH_BYTES_MAX: usize = 4 << 20;
/// Key groups, Flink's "max parallelism": the unit in which keyed state moves between workers.
pub const KEY_GROUPS: u32 = 1024;
/// Length of a tick in ms: how often watermarks travel and timers fire.
pub const TICK_MS: u64 = 10;
/// Ticks that may be in flight between sources and sinks before sources wait.
pub const TICKS_IN_FLIGHT: u64 = 16;
/// Ticks between two boundaries, the only places where a stop (later: checkpoint, swap) may happen.
pub const BOUNDARY_TICKS: u64 = 20;
/// Bytes that one source and worker may emit within one tick: 12 GiB a second, more than a worker can pass on. What is
/// in flight is bounded by [`EDGE_BYTES_MAX`]; this bounds what a tick can hold up.
pub const TICK_BYTES_MAX: usize = 128 << 20;
/// Bytes that one operator's output may hold in flight on one worker before it waits.
pub const EDGE_BYTES_MAX: usize = 16 << 20;
/// Bytes that rows may take on their way between nodes, over all nodes and workers of a process.
pub const BUFFER_BYTES_MAX: usize = 512 << 20;
/// The least share of it that one node on one worker can do with: a batch of eight-byte values.
pub const EDGE_BYTES_MIN: usize = 64 << 10;
/// Component file size: componentize-py makes 18 to 35 MB, so 64 MiB leaves room.
pub const COMPONENT_BYTES_MAX: u64 = 64 << 20;
/// Linear memory of one instance by default.
pub const GUEST_MEMORY_BYTES_MAX: usize = 256 << 20;
/// Wall time of one call into a component by default: a batch takes micro- to milliseconds.
pub const GUEST_CALL_MS_MAX: u64 = 5_000;
/// Bytes that one call may return, summed over all lists.
pub const GUEST_RETURN_BYTES_MAX: usize = 64 << 20;
/// Names of operators, ports, fields and states.
pub const NAME_BYTES_MAX: usize = 64;
/// Bytes of an entry key of a map: it stands in every index of the storage.
pub const ENTRY_KEY_BYTES_MAX: usize = 4 << 10;
/// Bytes of one value in a list or map.
pub const ENTRY_VALUE_BYTES_MAX: usize = 4 << 20;
/// Entries that one answer to a component may hold, and their bytes (it may be passed by one entry): as a batch.
pub const SCAN_ENTRIES_MAX: usize = BATCH_ROWS_MAX;
pub const SCAN_BYTES_MAX: usize = BATCH_BYTES_MAX;
/// Text of an error or log line that a component may produce; longer texts are cut.
pub const TEXT_BYTES_MAX: usize = 10_000;
