//! The traits that users implement, one per kind, and the one that the derives fill in.

use crate::config::Config;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::native::{Column, Descriptor, Domain, Effects, Instance, OpError, StateDescriptor};
use crate::row::{Ports, Row};

/// Keeps or drops rows. Derive `Filter`.
pub trait FilterOperator: Operator {
    /// The columns that the decision needs; the host keeps the whole row.
    type In<'a>: Row<'a>;

    /// Called once per instance. Errors are shown as faults of the settings.
    fn open(&mut self, _config: &Config<'_>) -> Result<()> {
        Ok(())
    }

    /// Whether the row stays.
    fn keep(&mut self, row: Self::In<'_>) -> Result<bool>;
}

/// Any number of rows out per row in, without state. Derive `Map`.
pub trait MapOperator: Operator {
    type In<'a>: Ports<'a>;
    type Out<'a>: Ports<'a>;

    /// Called once per instance. Errors are shown as faults of the settings.
    fn open(&mut self, _config: &Config<'_>) -> Result<()> {
        Ok(())
    }

    fn process(&mut self, row: Self::In<'_>, ctx: &mut Context<Self>) -> Result<()>;
}

/// State and timers per key. Derive `Keyed`; state handles ([`Value`](crate::Value)) are fields.
pub trait KeyedOperator: Operator {
    type In<'a>: Ports<'a>;
    type Out<'a>: Ports<'a>;

    /// Called once per instance. Errors are shown as faults of the settings.
    fn open(&mut self, _config: &Config<'_>) -> Result<()> {
        Ok(())
    }

    /// Says which entries of maps `process` will ask for, with [`MapState::prefetch`](crate::MapState::prefetch): they are read together, which
    /// is several times as fast as one by one. Called for each row of a batch before the first of them is processed; the
    /// handles speak of the row's key. What was not said is read when it is asked for.
    fn prefetch(&mut self, _row: Self::In<'_>) {
        crate::run::nothing_to_prefetch();
    }

    /// Rows of one key come in the order of their arrival; the handles speak of the row's key.
    fn process(&mut self, row: Self::In<'_>, ctx: &mut Context<Self>) -> Result<()>;

    /// A timer of a key has come due; the handles speak of that key.
    fn on_timer(&mut self, _timer: Timer<Self::Key<'_>>, _ctx: &mut Context<Self>) -> Result<()> {
        Err(Error::fatal("the operator sets timers but has no on_timer"))
    }
}

/// A timer that has come due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timer<K> {
    /// The key columns, if the operator declares `#[operator(key = ...)]`.
    pub key: K,
    /// What it was set to, ms.
    pub time: i64,
    pub domain: Domain,
}

/// What the derives `Keyed`, `Map` and `Filter` write: name, flags, handles. Not to be implemented by hand.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an operator yet",
    note = "add #[derive(Keyed)], #[derive(Map)] or #[derive(Filter)] to the struct"
)]
pub trait Operator: Sized + 'static {
    const NAME: &'static str;
    const DOC: &'static str;
    const KIND: Kind;
    /// `#[operator(time)]`: event times cross.
    const READS_TIME: bool;
    /// `#[operator(changes)]`: row kinds other than insert are understood.
    const CHANGES: bool;
    type Input<'a>: Ports<'a>;
    type Output<'a>: Ports<'a>;
    /// `#[operator(key = ...)]`; `()` if not declared.
    type Key<'a>: Row<'a>;

    fn create() -> Self;
    fn open_instance(config: &Config<'_>) -> Result<Box<dyn Instance>, OpError>;

    fn states() -> Vec<StateDescriptor> {
        Vec::new()
    }
    /// Hands each state handle its column.
    fn load(&mut self, states: Vec<Column>, _keys: usize) -> Result<(), OpError> {
        if states.is_empty() { Ok(()) } else { Err(crate::error::contract("state for an operator without states")) }
    }
    /// From now on the handles speak of this key.
    #[inline(always)]
    fn begin(&mut self, _key: usize) {}
    /// Reads what maps were told to prefetch since `load`.
    #[inline(always)]
    fn fetch(&mut self) -> Result<(), OpError> {
        Ok(())
    }
    /// What was changed since `begin` stays.
    #[inline(always)]
    fn commit(&mut self) -> Result<(), OpError> {
        Ok(())
    }
    /// What was changed since `begin` is undone.
    fn rollback(&mut self) {}
    /// What has changed since `load`.
    fn updates(&mut self, _out: &mut Effects) {}
    fn migrate(name: &str, _from: u32, _values: Column) -> Result<Column, OpError> {
        Err(crate::error::contract(format_args!("there is no state `{name}`")))
    }
    /// Sends counters and gauges.
    fn flush_metrics(&mut self) {}

    fn descriptor() -> Descriptor {
        let outputs = if Self::KIND == Kind::Filter { Vec::new() } else { <Self::Output<'_> as Ports>::ports("out") };
        Descriptor {
            name: Self::NAME.to_owned(),
            doc: Self::DOC.to_owned(),
            kind: Self::KIND.name(),
            inputs: <Self::Input<'_> as Ports>::ports("in"),
            outputs,
            states: Self::states(),
            reads_time: Self::READS_TIME,
            reads_keys: !<Self::Key<'_> as Row>::fields().is_empty(),
            changes: Self::CHANGES,
        }
    }
}

/// How the host calls an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Map,
    Filter,
    Keyed,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Map => "map",
            Kind::Filter => "filter",
            Kind::Keyed => "keyed",
        }
    }
}
