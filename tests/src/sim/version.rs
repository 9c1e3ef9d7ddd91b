//! Versions of an operator: those with an even number store every bit of a value turned around, and know how to read the others.
//!
//! Law: what an operator emits does not depend on its version.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, BooleanArray, StringArray};
use arrow::datatypes::{DataType, Int64Type, UInt64Type};
use tidemill_model::Fault;
use tidemill_model::component::{Descriptor, StateKind, Ttl};
use tidemill_model::entries::{EntryReads, EntryRows};
use tidemill_model::logic::{
    Effects, KeyedIn, Logic, LogicError, LogicFactory, OpenContext, RowError, RowsIn, TimersIn,
};

/// Longer than any story: what has this time to live has times, and stays.
const FOR_EVER: Ttl = Ttl { ms: 1 << 50, on_read: false };

/// How an operator of a life differs from what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    pub number: u32,
    /// Its states have a time to live.
    pub timed: bool,
    /// It can migrate nothing that there is.
    pub refuses: bool,
}

impl Version {
    pub const FIRST: Self = Self { number: 1, timed: false, refuses: false };
}

pub struct Versioned {
    pub inner: Arc<dyn LogicFactory>,
    pub version: Version,
    pub descriptor: Descriptor,
}

impl Versioned {
    pub fn new(inner: Arc<dyn LogicFactory>, version: Version) -> Self {
        let mut descriptor = inner.descriptor().clone();
        for state in &mut descriptor.states {
            state.version = version.number;
            state.ttl = version.timed.then_some(FOR_EVER);
        }
        Self { inner, version, descriptor }
    }
}

impl LogicFactory for Versioned {
    fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    fn digest(&self) -> &str {
        self.inner.digest()
    }

    fn open(&self, context: &OpenContext) -> Result<Box<dyn Logic>, Fault> {
        let (inner, descriptor) = (self.inner.open(context)?, self.descriptor.clone());
        Ok(Box::new(Opened { inner, version: self.version, descriptor }))
    }
}

struct Opened {
    inner: Box<dyn Logic>,
    version: Version,
    descriptor: Descriptor,
}

impl Opened {
    /// Stored values of all states.
    fn columns(&self, stored: &[ArrayRef]) -> Vec<ArrayRef> {
        let column = |(state, stored): (&tidemill_model::component::StateDescriptor, &ArrayRef)| match state.kind {
            StateKind::Value => other_form(self.version.number, stored),
            StateKind::List | StateKind::Map(_) => stored.clone(),
        };
        self.descriptor.states.iter().zip(stored).map(column).collect()
    }

    fn stored(&self, mut effects: Effects) -> Effects {
        for values in effects.updates.iter_mut().map(|update| &mut update.values) {
            *values = other_form(self.version.number, values);
        }
        for values in effects.entries.iter_mut().map(|update| &mut update.values) {
            *values = other_form(self.version.number, values);
        }
        effects
    }
}

impl Logic for Opened {
    fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    fn process(&mut self, input: &RowsIn) -> Result<Effects, LogicError> {
        self.inner.process(input)
    }

    fn keep(&mut self, input: &RowsIn) -> Result<(BooleanArray, Vec<RowError>), LogicError> {
        self.inner.keep(input)
    }

    fn process_keyed(&mut self, input: &KeyedIn, reads: &mut dyn EntryReads) -> Result<Effects, LogicError> {
        let input = KeyedIn { states: self.columns(&input.states), ..input.clone() };
        let mut reads = Reads { inner: reads, version: self.version.number };
        let effects = self.inner.process_keyed(&input, &mut reads)?;
        Ok(self.stored(effects))
    }

    fn on_timers(&mut self, due: &TimersIn, reads: &mut dyn EntryReads) -> Result<Effects, LogicError> {
        let due = TimersIn { states: self.columns(&due.states), ..due.clone() };
        let mut reads = Reads { inner: reads, version: self.version.number };
        let effects = self.inner.on_timers(&due, &mut reads)?;
        Ok(self.stored(effects))
    }

    fn migrate_state(&mut self, _name: &str, from: u32, values: &ArrayRef) -> Result<ArrayRef, LogicError> {
        if self.version.refuses && !values.is_empty() {
            return Err(LogicError::Fatal("a migration that the simulation refuses".into()));
        }
        Ok(other_form(self.version.number, &other_form(from, values)))
    }
}

/// Entries in the form that the logic knows.
struct Reads<'a> {
    inner: &'a mut dyn EntryReads,
    version: u32,
}

impl EntryReads for Reads<'_> {
    fn get_many(&mut self, state: usize, keys: &[u32], entries: &ArrayRef) -> Result<ArrayRef, String> {
        Ok(other_form(self.version, &self.inner.get_many(state, keys, entries)?))
    }

    fn scan(
        &mut self,
        state: usize,
        keys: &[u32],
        after: Option<&ArrayRef>,
        limit: usize,
    ) -> Result<EntryRows, String> {
        let found = self.inner.scan(state, keys, after, limit)?;
        Ok(EntryRows { values: other_form(self.version, &found.values), ..found })
    }
}

/// From one form to the other, which is the way back as well.
fn other_form(version: u32, values: &ArrayRef) -> ArrayRef {
    if version % 2 == 1 {
        return values.clone();
    }
    match values.data_type() {
        DataType::Int64 => Arc::new(values.as_primitive::<Int64Type>().unary::<_, Int64Type>(|value| !value)),
        DataType::UInt64 => Arc::new(values.as_primitive::<UInt64Type>().unary::<_, UInt64Type>(|value| !value)),
        DataType::Utf8 => {
            let turned = |text: &str| text.chars().rev().collect::<String>();
            Arc::new(values.as_string::<i32>().iter().map(|text| text.map(turned)).collect::<StringArray>())
        }
        DataType::Binary => {
            let turned = |bytes: &[u8]| bytes.iter().map(|byte| !byte).collect::<Vec<u8>>();
            Arc::new(values.as_binary::<i32>().iter().map(|bytes| bytes.map(turned)).collect::<BinaryArray>())
        }
        _ => values.clone(),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::Int64Array;

    use super::*;

    #[test]
    fn a_value_comes_back_from_its_other_form() {
        let columns: [ArrayRef; 3] = [
            Arc::new(Int64Array::from(vec![Some(5), None, Some(-1)])),
            Arc::new(StringArray::from(vec![Some("ab"), None, Some("")])),
            Arc::new(BinaryArray::from_opt_vec(vec![Some(b"\x00\x7f"), None])),
        ];
        for column in &columns {
            let other = other_form(2, column);
            assert_eq!((&other_form(2, &other), &other_form(1, column)), (column, column));
            assert_ne!(&other, column);
        }
    }
}
