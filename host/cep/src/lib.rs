//! Complex event processing: finds sequences of events in the order of their times, as Flink's CEP library defines them.
//!
//! A [`Pattern`] is data. [`Automaton::new`] checks it and makes states and transitions of it, [`Matcher`] moves the partial
//! matches of a key, a [`KeyState`], along them. Conditions are numbers, evaluated by the owner ([`Conditions`]); events are
//! numbers too ([`EventId`]), and their rows stay with the owner.
//!
//! Laws: what comes out is what Flink 2.3 gives, including the order among matches that begin with the same event
//! (`tests/flink.rs` compares the two); a key without a partial match needs no memory at all; the same calls give the same
//! answers, and [`KeyState::encode`] and [`KeyState::decode`] between any two of them change nothing.

mod automaton;
mod check;
mod compile;
mod formula;
mod heap;
mod history;
mod key;
mod matcher;
mod output;
mod pattern;
mod stored;

pub use automaton::Automaton;
pub use check::Refused;
pub use formula::{CONDITIONS_MAX, Condition, Formula};
pub use history::PartialMatch;
pub use key::KeyState;
pub use matcher::{Conditions, Matcher, Miss};
pub use output::{Match, Output};
pub use pattern::{Contiguity, Element, Inner, Item, Pattern, Repeat, Skip};
pub use stored::Damaged;

/// The number of an event. Of a key, numbers ascend in the order in which its events are processed.
pub type EventId = u64;

/// The number of a stage: its place in the pattern, groups unfolded, stages that must not occur included.
pub type Stage = u16;
