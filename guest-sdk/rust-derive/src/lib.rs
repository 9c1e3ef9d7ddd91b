//! The derives of `tidemill-sdk`: `Row` and `Ports` for data, `Keyed`, `Map` and `Filter` for operators.
//!
//! Law: a mistake is reported at the word that is wrong, with what to write instead.

mod attrs;
mod operator;
mod ports;
mod row;

use proc_macro::TokenStream;
use syn::{DeriveInput, parse_macro_input};

/// A struct with named fields is a row: each field is a column. `#[row(name = "...")]` on a field names its column;
/// `#[row(carry)]` on the struct makes the host append the columns to the input row.
#[proc_macro_derive(Row, attributes(row))]
pub fn row(input: TokenStream) -> TokenStream {
    finish(row::expand(&parse_macro_input!(input as DeriveInput)))
}

/// An enum with one row type per variant is a set of inputs or outputs. `#[port(name = "...")]` names a port; `#[port(broadcast)]`
/// makes every worker get all rows of an input.
#[proc_macro_derive(Ports, attributes(port))]
pub fn ports(input: TokenStream) -> TokenStream {
    finish(ports::expand(&parse_macro_input!(input as DeriveInput)))
}

/// An operator with state and timers per key. `#[operator(name = "...", key = Row<'a>, time, changes)]` on the struct,
/// `#[state(name = "...", version = 2, ttl = "12h", ttl_on_read, migrate(1 = function))]` on fields that are states; `broadcast`,
/// `split` or `union` for a state that belongs to no key. Other fields start with their default.
#[proc_macro_derive(Keyed, attributes(operator, state))]
pub fn keyed(input: TokenStream) -> TokenStream {
    finish(operator::expand(&parse_macro_input!(input as DeriveInput), operator::Kind::Keyed))
}

/// A stateless operator with any number of rows out. `#[operator(name = "...", time, changes)]` on the struct.
#[proc_macro_derive(Map, attributes(operator, state))]
pub fn map(input: TokenStream) -> TokenStream {
    finish(operator::expand(&parse_macro_input!(input as DeriveInput), operator::Kind::Map))
}

/// An operator that keeps or drops rows. `#[operator(name = "...")]` on the struct.
#[proc_macro_derive(Filter, attributes(operator, state))]
pub fn filter(input: TokenStream) -> TokenStream {
    finish(operator::expand(&parse_macro_input!(input as DeriveInput), operator::Kind::Filter))
}

fn finish(expanded: syn::Result<proc_macro2::TokenStream>) -> TokenStream {
    expanded.unwrap_or_else(syn::Error::into_compile_error).into()
}
