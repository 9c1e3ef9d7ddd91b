//! Operators over New York's departures: `enrich` makes sense of a line, `streak` follows each aircraft.

mod enrich;
mod streak;

pub use enrich::Enrich;
pub use streak::Streak;

tidemill_sdk::export!(Enrich, Streak);

/// A departure counts as delayed from this many minutes on, as in the statistics of the US Bureau of Transportation.
const DELAYED_MINUTES: f64 = 15.0;
