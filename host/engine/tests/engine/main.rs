//! The engine's operators on the deterministic driver.

mod clock;
mod driver;
mod expr;
mod join_model;
mod joins;
mod keyed_windows;
mod logic;
mod pattern;
mod process;
mod shared;
mod snapshots;
mod support;
mod swaps;
mod windows;
