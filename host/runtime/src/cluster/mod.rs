//! A job on several processes, of one machine or of several.
//!
//! Process 0 leads: it claims the generation, deals the splits, agrees with the others on barriers, publishes, and fails the job when
//! one of them is lost. The others follow. All exchange rows over connections of timely's, which this module makes
//! and takes down again. Laws: a generation shares no connection and no thread with another; the first fault counts, wherever
//! it happened; whoever does not know the secret learns nothing.
//!
//! `wire` and `tls` are connections, `handshake` their first words, `gate` the port, `messages` what is said, `leader` and
//! `follower` who says it, `links` and `credit` the way of the rows.

pub(crate) mod credit;
mod follower;
mod gate;
mod handshake;
mod leader;
mod links;
mod messages;
mod tls;
mod wire;

pub(crate) use follower::Follower;
pub use follower::{FollowOptions, Followed, follow};
pub use gate::{Gate, GateOptions, Member};
pub use handshake::{Identity, Refused, random_secret};
pub(crate) use leader::Leader;
pub use leader::Team;
pub(crate) use links::Mesh;
pub(crate) use messages::{NodeNumbers, Order, Report, Start};
pub use tls::TlsFiles;
