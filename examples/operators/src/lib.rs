//! Operators of the examples, one file each. Which example uses which stands in its `pipeline.yaml`.

mod alarms;
mod deduplicate;
mod outliers;
mod top_players;

pub use alarms::Alarms;
pub use deduplicate::Deduplicate;
pub use outliers::Outliers;
pub use top_players::TopPlayers;

tidemill_sdk::export!(TopPlayers, Outliers, Deduplicate, Alarms);
