//! Operators by name: `describe`, `open`, and the calls that an opened one answers.

use super::records::*;
use crate::config::Config;
use crate::operator::Operator;

/// One exported operator. `export!` makes a list of them, `OPERATORS`, in the user's crate.
pub struct Entry {
    name: &'static str,
    describe: fn() -> Descriptor,
    create: fn(&Config) -> Result<Box<dyn Instance>, OpError>,
}

impl Entry {
    pub const fn of<O: Operator>() -> Self {
        Self { name: O::NAME, describe: O::descriptor, create: O::open_instance }
    }

    pub fn name(&self) -> &'static str {
        self.name
    }

    pub fn describe(&self) -> Descriptor {
        (self.describe)()
    }

    /// A configured instance. Settings that the operator has not asked for are refused.
    pub fn open(&self, context: &OpenContext) -> Result<Box<dyn Instance>, OpError> {
        let config = Config::new(context);
        let instance = (self.create)(&config)?;
        config.refuse_unread()?;
        Ok(instance)
    }
}

/// An opened operator. An operator answers the calls of its kind and refuses the others.
pub trait Instance {
    fn process(&mut self, _input: u16, _rows: &BatchRef<'_>, _now: Now) -> Result<Effects, OpError> {
        Err(wrong_kind("stateless.process"))
    }
    fn keep(&mut self, _input: u16, _rows: &BatchRef<'_>, _now: Now) -> Result<Kept, OpError> {
        Err(wrong_kind("stateless.keep"))
    }
    fn process_keyed(&mut self, _batch: KeyedBatch<'_>) -> Result<Effects, OpError> {
        Err(wrong_kind("keyed.process"))
    }
    fn on_timers(&mut self, _due: DueTimers<'_>) -> Result<Effects, OpError> {
        Err(wrong_kind("keyed.on-timers"))
    }
    fn migrate_state(&mut self, _name: &str, _from: u32, _values: Column) -> Result<Column, OpError> {
        Err(wrong_kind("keyed.migrate-state"))
    }
}

fn wrong_kind(call: &str) -> OpError {
    OpError::Fatal(format!("the operator's kind has no call {call}"))
}

/// Two operators of one name do not compile.
#[doc(hidden)]
pub const fn assert_distinct(operators: &[Entry]) {
    let mut i = 0;
    while i < operators.len() {
        let mut j = i + 1;
        while j < operators.len() {
            let same = equal(operators[i].name.as_bytes(), operators[j].name.as_bytes());
            assert!(!same, "two exported operators have the same name: use #[operator(name = ...)]");
            j += 1;
        }
        i += 1;
    }
}

const fn equal(a: &[u8], b: &[u8]) -> bool {
    let mut i = 0;
    while i < a.len() && i < b.len() && a[i] == b[i] {
        i += 1;
    }
    i == a.len() && i == b.len()
}

pub fn describe(operators: &[Entry]) -> Vec<Descriptor> {
    operators.iter().map(Entry::describe).collect()
}

pub fn find<'e>(operators: &'e [Entry], name: &str) -> Option<&'e Entry> {
    operators.iter().find(|e| e.name == name)
}

/// Opens the operator that the context names.
pub fn open(operators: &[Entry], context: &OpenContext) -> Result<Box<dyn Instance>, OpError> {
    let Some(entry) = find(operators, &context.operator) else {
        let names: Vec<&str> = operators.iter().map(|e| e.name).collect();
        let (wanted, names) = (&context.operator, names.join(", "));
        return Err(OpError::Config(format!("the component has no operator `{wanted}`; it has: {names}")));
    };
    entry.open(context)
}
