//! What a guest can reach, one interface per file. This list is all there is: no files, no clock, no
//! randomness, no network.

pub(crate) mod logging;
pub(crate) mod metrics;
pub(crate) mod state;

use wasmtime::component::{HasSelf, Linker};

use crate::bindings::tidemill::operator;
use crate::sandbox::GuestState;

/// The interfaces that a component may import, under their full names.
pub(crate) const GRANTED: &[&str] = &[
    "tidemill:operator/types@0.1.0",
    "tidemill:operator/logging@0.1.0",
    "tidemill:operator/metrics@0.1.0",
    "tidemill:operator/state@0.1.0",
];

/// A linker with all of [`GRANTED`].
pub(crate) fn linker(engine: &wasmtime::Engine) -> wasmtime::Result<Linker<GuestState>> {
    let mut linker = Linker::new(engine);
    operator::types::add_to_linker::<_, HasSelf<_>>(&mut linker, |state: &mut GuestState| state)?;
    operator::logging::add_to_linker::<_, HasSelf<_>>(&mut linker, |state: &mut GuestState| state)?;
    operator::metrics::add_to_linker::<_, HasSelf<_>>(&mut linker, |state: &mut GuestState| state)?;
    operator::state::add_to_linker::<_, HasSelf<_>>(&mut linker, |state: &mut GuestState| state)?;
    Ok(linker)
}

impl operator::types::Host for GuestState {}
