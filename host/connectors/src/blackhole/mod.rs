//! `blackhole`: drops all rows. For measurements, and for parts of a pipeline that run for their metrics.

mod sink;

pub use sink::sink;
