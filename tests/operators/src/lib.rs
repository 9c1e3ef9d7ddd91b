//! Operators for the cases in `tests/cases/pipelines`: each shows one thing that the SDK can do.
//!
//! Natively they are reached through `OPERATORS`, so that WASM and native runs share every line.

mod entries;
mod fussy;
mod keyed;
mod lives;
mod shared;
mod stateless;
mod timers;
mod types;

pub use entries::{Baskets, Digits, Vocabulary};
pub use fussy::{Fussy, FussyCount, FussyFilter};
pub use keyed::{Count, Patience, Profile, Tickets};
pub use lives::{Lately, LatelyListed};
pub use shared::{Alarms, Depots, Known};
pub use stateless::{Even, Merge, Route, Square, Stamp, Words};
pub use timers::{Scripted, Sessions, Totals};
pub use types::Echo;

tidemill_sdk::export!(
    Even,
    Square,
    Words,
    Route,
    Merge,
    Stamp,
    Fussy,
    FussyFilter,
    FussyCount,
    Count,
    Profile,
    Tickets,
    Patience,
    Sessions,
    Scripted,
    Totals,
    Lately,
    LatelyListed,
    Baskets,
    Vocabulary,
    Digits,
    Alarms,
    Depots,
    Known,
    Echo,
);
