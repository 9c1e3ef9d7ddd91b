//! States of which an earlier version of the logic has written the values: migrated when a call needs them, and the rest
//! little by little.
//!
//! Laws: the backend holds both versions side by side, and a key has a value in one of them at most; logic never sees a value
//! of another version; what can't be migrated is a fault that names the state.

use arrow::array::{Array, ArrayRef, BooleanArray, new_null_array};
use arrow::compute::filter;
use tidemill_model::Fault;
use tidemill_model::component::StateDescriptor;
use tidemill_model::logic::{Logic, LogicError};
use tidemill_model::state::{Slot, StateBackend};

/// Keys whose values are migrated in one go when nobody asks for them.
const SWEPT_AT_ONCE: usize = 2048;

/// Values of one earlier version.
#[derive(Clone, Debug)]
struct Earlier {
    /// Which state of the logic they are to become, and where the backend holds them.
    state: usize,
    held: usize,
    descriptor: StateDescriptor,
}

/// What is left to be migrated.
#[derive(Debug, Default)]
pub(super) struct Migration {
    earlier: Vec<Earlier>,
    /// Where the walk through the first of them stands.
    place: Vec<u8>,
}

impl Migration {
    /// For logic with the states `now`, when `before` is what else there is: it stands behind `now` in the backend. Values of states
    /// in `dropped` are not wanted.
    pub fn new(now: &[StateDescriptor], before: &[StateDescriptor], dropped: &[String]) -> Self {
        let wanted = before.iter().enumerate().filter(|(_, descriptor)| !dropped.contains(&descriptor.name));
        let earlier = wanted.filter_map(|(index, descriptor)| {
            let state = now.iter().position(|s| s.name == descriptor.name)?;
            Some(Earlier { state, held: now.len() + index, descriptor: descriptor.clone() })
        });
        Self { earlier: earlier.collect(), place: Vec::new() }
    }

    pub fn is_done(&self) -> bool {
        self.earlier.is_empty()
    }

    /// What the backend holds of earlier versions.
    pub fn held(&self) -> Vec<StateDescriptor> {
        self.earlier.iter().map(|earlier| earlier.descriptor.clone()).collect()
    }

    /// Migrates the values of these keys, all different, that are still as an earlier version wrote them.
    pub fn lift(&self, state: &mut dyn StateBackend, logic: &mut dyn Logic, slots: &[Slot]) -> Result<(), Fault> {
        self.earlier.iter().try_for_each(|earlier| earlier.lift(state, logic, slots))
    }

    /// Migrates some of what nobody has asked for. When all is done, the backend holds `now` only.
    pub fn sweep(
        &mut self,
        state: &mut dyn StateBackend,
        logic: &mut dyn Logic,
        now: &[StateDescriptor],
    ) -> Result<(), Fault> {
        let Some(earlier) = self.earlier.first() else { return Ok(()) };
        let mut slots = Vec::new();
        let more = state.walk(earlier.held, &mut self.place, SWEPT_AT_ONCE, &mut slots)?;
        let lifted = earlier.lift(state, logic, &slots);
        state.release(&slots);
        lifted?;
        if !more {
            self.earlier.remove(0);
            self.place.clear();
            let before = self.held();
            state.redescribe(&[now, before.as_slice()].concat())?;
            *self = Self::new(now, &before, &[]);
        }
        Ok(())
    }
}

impl Earlier {
    fn lift(&self, state: &mut dyn StateBackend, logic: &mut dyn Logic, slots: &[Slot]) -> Result<(), Fault> {
        let old = state.gather(self.held, slots)?;
        if old.null_count() == old.len() {
            return Ok(());
        }
        let having: Vec<Slot> = (0..old.len()).filter(|&i| old.is_valid(i)).map(|i| slots[i]).collect();
        let values = if having.len() == slots.len() { old } else { dense(&old)? };
        let (name, version) = (&self.descriptor.name, self.descriptor.version);
        let migrated = logic.migrate_state(name, version, &values).map_err(|error| match error {
            LogicError::Trap(text) | LogicError::Fatal(text) => {
                Fault::component(format!("state `{name}` can't be migrated from version {version}: {text}"))
            }
        })?;
        if migrated.len() != having.len() {
            let (given, back) = (having.len(), migrated.len());
            let message = format!("migrating {given} values of state `{name}` from version {version} gave {back}");
            return Err(Fault::component(message));
        }
        state.scatter(self.state, &having, &migrated)?;
        state.scatter(self.held, &having, &new_null_array(values.data_type(), having.len()))
    }
}

/// The values without the nulls between them.
fn dense(values: &ArrayRef) -> Result<ArrayRef, Fault> {
    let present: BooleanArray = (0..values.len()).map(|i| Some(values.is_valid(i))).collect();
    Ok(filter(values, &present)?)
}
