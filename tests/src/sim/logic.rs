//! Logic that traps where the story says so: before a call has done anything, or when it has done its work, which must not be
//! seen then.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray};
use tidemill_model::Fault;
use tidemill_model::component::Descriptor;
use tidemill_model::entries::EntryReads;
use tidemill_model::logic::{
    Effects, KeyedIn, Logic, LogicError, LogicFactory, OpenContext, RowError, RowsIn, TimersIn,
};

use super::wire::Wire;

pub struct Trapping {
    pub inner: Arc<dyn LogicFactory>,
    pub wire: Arc<Wire>,
}

impl LogicFactory for Trapping {
    fn descriptor(&self) -> &Descriptor {
        self.inner.descriptor()
    }

    fn digest(&self) -> &str {
        self.inner.digest()
    }

    fn open(&self, context: &OpenContext) -> Result<Box<dyn Logic>, Fault> {
        Ok(Box::new(Opened { inner: self.inner.open(context)?, wire: self.wire.clone() }))
    }
}

struct Opened {
    inner: Box<dyn Logic>,
    wire: Arc<Wire>,
}

impl Opened {
    fn call<T>(&mut self, call: impl FnOnce(&mut dyn Logic) -> Result<T, LogicError>) -> Result<T, LogicError> {
        let trap = || Err(LogicError::Trap("a trap of the simulation".into()));
        match self.wire.trap() {
            None => call(self.inner.as_mut()),
            Some(false) => trap(),
            Some(true) => call(self.inner.as_mut()).and_then(|_| trap()),
        }
    }
}

impl Logic for Opened {
    fn descriptor(&self) -> &Descriptor {
        self.inner.descriptor()
    }

    fn process(&mut self, input: &RowsIn) -> Result<Effects, LogicError> {
        self.call(|logic| logic.process(input))
    }

    fn keep(&mut self, input: &RowsIn) -> Result<(BooleanArray, Vec<RowError>), LogicError> {
        self.call(|logic| logic.keep(input))
    }

    fn process_keyed(&mut self, input: &KeyedIn, reads: &mut dyn EntryReads) -> Result<Effects, LogicError> {
        self.call(|logic| logic.process_keyed(input, reads))
    }

    fn on_timers(&mut self, due: &TimersIn, reads: &mut dyn EntryReads) -> Result<Effects, LogicError> {
        self.call(|logic| logic.on_timers(due, reads))
    }

    fn migrate_state(&mut self, name: &str, from: u32, values: &ArrayRef) -> Result<ArrayRef, LogicError> {
        self.inner.migrate_state(name, from, values)
    }
}
