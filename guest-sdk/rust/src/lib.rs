//! Write Tidemill operators in Rust: typed rows, keyed state, timers, side outputs, and tests without a server.
//!
//! ```
//! use tidemill_sdk::prelude::*;
//!
//! #[derive(Row)]
//! struct Order<'a> {
//!     customer: &'a str,
//! }
//!
//! #[derive(Row)]
//! struct Total<'a> {
//!     customer: &'a str,
//!     orders: i64,
//! }
//!
//! #[derive(Keyed)]
//! struct CountOrders {
//!     orders: Value<i64>,
//! }
//!
//! impl KeyedOperator for CountOrders {
//!     type In<'a> = Order<'a>;
//!     type Out<'a> = Total<'a>;
//!     fn process(&mut self, order: Order<'_>, ctx: &mut Context<Self>) -> Result<()> {
//!         let orders = self.orders.get_or_default() + 1;
//!         self.orders.set(orders);
//!         ctx.emit(Total { customer: order.customer, orders });
//!         Ok(())
//!     }
//! }
//!
//! tidemill_sdk::export!(CountOrders);
//! # fn main() {}
//! ```
//!
//! Rows are read from and written to Arrow columns; a call handles a batch, and none of it allocates per row.
//! An instance's memory is a cache: the host may drop it between two batches. What must last is in [`Value`]s, [`ListState`]s and [`MapState`]s.

// The derives name this crate by its name, also within itself.
extern crate self as tidemill_sdk;

/// The code of the guide compiles and runs.
#[cfg(doctest)]
#[doc = include_str!("../../../OPERATORS.md")]
mod guide {}

mod config;
mod context;
mod error;
mod log;
pub mod native;
mod operator;
mod outputs;
mod row;
mod run;
mod state;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;
mod types;
#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
pub mod wasm;

pub use config::{Config, Setting};
pub use context::{Context, RowKind};
pub use error::{Error, Result};
pub use log::{Counter, Gauge, Level, log};
pub use native::{Domain, OpError};
pub use operator::{FilterOperator, KeyedOperator, MapOperator, Operator, Timer};
pub use row::{Ports, Row};
pub use state::{Aggregate, AggregatingState, ListState, MapState, Reduce, ReducingState, StateKey, StateValue, Value};
pub use types::{Date, Decimal128, Decode, Encode, List, Timestamp, TimestampNs, TimestampS, TimestampUs, Type};

pub use serde;
pub use tidemill_sdk_derive::{Filter, Keyed, Map, Ports, Row};

/// All that an operator needs.
pub mod prelude {
    pub use crate::{
        Aggregate, AggregatingState, Config, Context, Counter, Date, Decimal128, Domain, Error, Filter, FilterOperator,
        Gauge, Keyed, KeyedOperator, List, ListState, Map, MapOperator, MapState, Ports, Reduce, ReducingState, Result,
        Row, RowKind, Timer, Timestamp, TimestampNs, TimestampS, TimestampUs, Value, bail, debug, ensure, error, info,
        trace, warn,
    };
}

/// What the derives need; no promise is made about it.
#[doc(hidden)]
pub mod internal {
    pub use crate::config::Config;
    pub use crate::error::contract;
    pub use crate::native::{Column, ColumnRef, Effects, Field, Instance, OpError, Port, StateDescriptor};
    pub use crate::operator::Kind;
    pub use crate::row::{no_port, port_of, row_reader};
    pub use crate::run::{open_filter, open_keyed, open_map};
    pub use crate::types::{ColumnBuilder, Cursor};

    /// The column of the next state.
    pub fn next_state(states: &mut impl Iterator<Item = Column>) -> Result<Column, OpError> {
        states.next().ok_or_else(|| contract("a state column is missing"))
    }
}

/// Makes the crate a component with these operators: `export!(CountOrders, CheapOnly)`. Once per crate, in `lib.rs`.
///
/// They are also listed in the static `OPERATORS`, through which native programs can drive them.
#[macro_export]
macro_rules! export {
    ($($operator:ty),+ $(,)?) => {
        /// The operators of this crate.
        pub static OPERATORS: &[$crate::native::Entry] = &[$($crate::native::Entry::of::<$operator>()),+];

        const _: () = $crate::native::assert_distinct(&[$($crate::native::Entry::of::<$operator>()),+]);

        #[cfg(target_arch = "wasm32")]
        const _: () = {
            struct Crate;
            impl $crate::wasm::Crate for Crate {
                fn operators() -> &'static [$crate::native::Entry] {
                    OPERATORS
                }
            }
            type Exports = $crate::wasm::Exports<Crate>;
            $crate::wasm::bindings::export_component!(Exports with_types_in $crate::wasm::bindings);
        };
    };
}
