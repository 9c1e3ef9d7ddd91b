//! What a component says about itself (`describe`), as plain data. Mirrors `wit/` without depending on it.

use arrow::datatypes::{Field, SchemaRef};

/// How the host calls an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogicKind {
    /// Stateless, any number of rows out per row in: `stateless.process`.
    Map,
    /// Stateless, keeps or drops rows: `stateless.keep`.
    Filter,
    /// Keyed state and timers: `keyed.process`, `keyed.on-timers`.
    Keyed,
}

/// One input or output port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    pub name: String,
    /// The columns that the component reads or writes, in the order in which they cross.
    pub schema: SchemaRef,
    /// Outputs only: each row carries all columns of the input row that it comes from, with the
    /// columns of `schema` appended (or in place of those with the same name).
    pub carry: bool,
}

/// One keyed state: one value per key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateDescriptor {
    pub name: String,
    /// Type of the value, nullable: null is "no value". Fixed-width, utf8 or binary.
    pub field: Field,
    /// How the guest reads a binary value ("postcard"), empty for plain Arrow values.
    pub codec: String,
    /// Raised by the user when the meaning of the value changes.
    pub version: u32,
}

/// One operator of a component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    pub name: String,
    /// One line for people.
    pub doc: String,
    pub kind: LogicKind,
    pub inputs: Vec<Port>,
    /// Port 0 is the main output, the others are side outputs.
    pub outputs: Vec<Port>,
    pub states: Vec<StateDescriptor>,
    /// The guest wants the event time of each row.
    pub reads_time: bool,
    /// The guest wants the key columns of the batch's distinct keys.
    pub reads_keys: bool,
    /// The guest understands row kinds other than insert.
    pub changes: bool,
}
