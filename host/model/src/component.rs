//! What a component says about itself (`describe`), as plain data. Mirrors `wit/` without depending on it.

use arrow::datatypes::{DataType, Field, SchemaRef};

use crate::schema::{parse_type, type_name};

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
    /// Inputs of keyed operators only: every worker gets every row, and the rows have no key.
    pub broadcast: bool,
}

/// Whose a state is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StateScope {
    /// Each key's own.
    #[default]
    Key,
    /// The operator's, and the same on all workers: only rows of a broadcast input change it (Flink's broadcast state).
    Broadcast,
    /// Each worker's own. A restore deals the values of all workers anew (Flink's operator state, a list).
    Split,
    /// The same, but a restore gives each worker the values of all (Flink's union list).
    Union,
}

impl StateScope {
    pub const ALL: [Self; 4] = [Self::Key, Self::Broadcast, Self::Split, Self::Union];

    /// As the contract, manifests and tables have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Broadcast => "broadcast",
            Self::Split => "split",
            Self::Union => "union",
        }
    }

    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.name() == name)
    }
}

/// What a state keeps for each key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum StateKind {
    /// One value.
    #[default]
    Value,
    /// Values in the order in which they were appended.
    List,
    /// One value per entry key, in their order. The entry key is fixed-width, utf8 or binary, and not null.
    Map(Field),
}

/// When a value is dropped: so long after the clock of processing time stood where it was last written (Flink's `StateTtlConfig`). In
/// a list or map this is said of each entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ttl {
    /// At least 1.
    pub ms: u64,
    /// Reading counts as writing: for a value each call that is about its key, for an entry that it was asked for.
    pub on_read: bool,
}

/// One state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateDescriptor {
    pub name: String,
    pub scope: StateScope,
    pub kind: StateKind,
    /// Type of a value, nullable: null is "no value". Fixed-width, utf8 or binary.
    pub field: Field,
    /// How the guest reads a binary value ("postcard"), empty for plain Arrow values.
    pub codec: String,
    /// Raised by the user when the meaning of the value changes.
    pub version: u32,
    /// None: values stay until they are deleted. Only keys have values that do not.
    pub ttl: Option<Ttl>,
}

impl StateDescriptor {
    /// A state of one value per key, version 1, that stays.
    pub fn value(name: &str, data_type: DataType) -> Self {
        let (name, field) = (name.to_owned(), Field::new(name, data_type, true));
        let (scope, kind, codec) = Default::default();
        Self { name, scope, kind, field, codec, version: 1, ttl: None }
    }

    /// Whether it belongs to no key.
    pub fn is_shared(&self) -> bool {
        self.scope != StateScope::Key
    }

    /// What it keeps, for people: `int64`, `list of int64`, `map of utf8 to int64`.
    pub fn type_text(&self) -> String {
        let value = type_name(self.field.data_type());
        match &self.kind {
            StateKind::Value => value,
            StateKind::List => format!("list of {value}"),
            StateKind::Map(entry) => format!("map of {} to {value}", type_name(entry.data_type())),
        }
    }

    /// The same from what [`StateDescriptor::type_text`] said.
    pub fn of_text(name: &str, text: &str) -> Result<Self, String> {
        let value = |text: &str| parse_type(text).map(|data_type| Self::value(name, data_type));
        if let Some(of) = text.strip_prefix("list of ") {
            return Ok(Self { kind: StateKind::List, ..value(of)? });
        }
        match text.strip_prefix("map of ").and_then(|of| of.split_once(" to ")) {
            Some((entry, of)) => {
                let entry = Field::new("entry", parse_type(entry)?, false);
                Ok(Self { kind: StateKind::Map(entry), ..value(of)? })
            }
            None => value(text),
        }
    }

    /// The type of the column that crosses with each call: the values, or whether a key has any entries.
    pub fn column_type(&self) -> &DataType {
        match self.kind {
            StateKind::Value => self.field.data_type(),
            StateKind::List | StateKind::Map(_) => &DataType::Boolean,
        }
    }
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

impl Descriptor {
    /// Whether it makes no sense without a key. One that needs none, and sets timers nevertheless, fails when it does.
    pub fn needs_key(&self) -> bool {
        self.kind == LogicKind::Keyed
            && (self.reads_keys || self.states.is_empty() || self.states.iter().any(|state| !state.is_shared()))
    }
}
