//! Components that keep the contract, and one that breaks each rule of it.

mod admission;
mod caching;
mod echo;
mod evil;
mod keyed;
mod support;
mod trapping;
