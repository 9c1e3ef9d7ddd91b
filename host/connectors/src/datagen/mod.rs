//! `datagen`: rows made up by rules, column by column, or given in the pipeline file.

mod elements;
mod generator;
mod repeated;
mod settings;
mod source;

pub use settings::{ColumnSettings, DatagenSettings};
pub use source::source;
