//! States of which an earlier version of the logic has written the values: migrated when a call needs them, and the rest
//! little by little.
//!
//! Laws: the backend holds both versions side by side, and a key has a value, or entries, in one of them at most; logic never sees a
//! value of another version; an entry stays where it is in its list or map; what can't be migrated is a fault that names the state.

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, BooleanArray, new_null_array};
use arrow::compute::{concat, filter};
use tidemill_model::Fault;
use tidemill_model::component::{StateDescriptor, StateKind};
use tidemill_model::entries::Most;
use tidemill_model::logic::{Logic, LogicError};
use tidemill_model::state::{Slot, StateBackend};

/// Keys whose values are migrated in one go when nobody asks for them.
const SWEPT_AT_ONCE: usize = 2048;
/// The same for lists and maps, of which a key has more.
const SWEPT_AT_ONCE_ENTRIES: usize = 128;
/// Entries that cross into the logic in one go, about.
const CROSSING: Most = Most { entries: 8192, bytes: 4 << 20 };

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

    /// Lists and maps of an earlier version and what they are to become, by their places in the backend.
    pub fn entry_states(&self) -> impl Iterator<Item = (usize, usize)> {
        let has_entries = |earlier: &&Earlier| earlier.descriptor.kind != StateKind::Value;
        self.earlier.iter().filter(has_entries).map(|earlier| (earlier.held, earlier.state))
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
        let count = match earlier.descriptor.kind {
            StateKind::Value => SWEPT_AT_ONCE,
            StateKind::List | StateKind::Map(_) => SWEPT_AT_ONCE_ENTRIES,
        };
        let more = state.walk(earlier.held, &mut self.place, count, &mut slots)?;
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
        match self.descriptor.kind {
            StateKind::Value => self.lift_values(state, logic, slots),
            StateKind::List | StateKind::Map(_) => self.lift_entries(state, logic, slots),
        }
    }

    fn lift_values(&self, state: &mut dyn StateBackend, logic: &mut dyn Logic, slots: &[Slot]) -> Result<(), Fault> {
        let old = state.gather(self.held, slots)?;
        if old.null_count() == old.len() {
            return Ok(());
        }
        let having: Vec<Slot> = (0..old.len()).filter(|&i| old.is_valid(i)).map(|i| slots[i]).collect();
        let values = if having.len() == slots.len() { old } else { dense(&old)? };
        let migrated = self.migrate(logic, &values)?;
        state.scatter(self.state, &having, &migrated)?;
        state.scatter(self.held, &having, &new_null_array(values.data_type(), having.len()))
    }

    fn lift_entries(&self, state: &mut dyn StateBackend, logic: &mut dyn Logic, slots: &[Slot]) -> Result<(), Fault> {
        let having = present(state, self.held, slots)?;
        let mut lot = Lot::default();
        for &slot in &having {
            let mut after: Option<Vec<u8>> = None;
            loop {
                let found = state.scan_entries(self.held, slot, after.as_deref(), CROSSING)?;
                after = found.entries.iter().next_back().flatten().map(<[u8]>::to_vec);
                lot.add(slot, found.entries, found.values);
                if lot.is_full() {
                    self.lift_lot(&mut lot, state, logic)?;
                }
                if !found.more {
                    break;
                }
            }
        }
        self.lift_lot(&mut lot, state, logic)?;
        state.clear_entries(self.held, &having)
    }

    /// Puts entries into the present version, under the entry keys that they had.
    fn lift_lot(&self, lot: &mut Lot, state: &mut dyn StateBackend, logic: &mut dyn Logic) -> Result<(), Fault> {
        let Lot { slots, entries, values, .. } = std::mem::take(lot);
        if slots.is_empty() {
            return Ok(());
        }
        let entries = concat(&entries.iter().map(|part| part as &dyn Array).collect::<Vec<_>>())?;
        let values = concat(&values.iter().map(|part| part.as_ref()).collect::<Vec<_>>())?;
        let migrated = self.migrate(logic, &values)?;
        state.put_entries(self.state, &slots, entries.as_binary(), &migrated)
    }

    fn migrate(&self, logic: &mut dyn Logic, values: &ArrayRef) -> Result<ArrayRef, Fault> {
        let (name, version) = (&self.descriptor.name, self.descriptor.version);
        let migrated = logic.migrate_state(name, version, values).map_err(|error| match error {
            LogicError::Trap(text) | LogicError::Fatal(text) => {
                Fault::component(format!("state `{name}` can't be migrated from version {version}: {text}"))
            }
        })?;
        if migrated.len() != values.len() {
            let (given, back) = (values.len(), migrated.len());
            let message = format!("migrating {given} values of state `{name}` from version {version} gave {back}");
            return Err(Fault::component(message));
        }
        Ok(migrated)
    }
}

/// Entries that cross together.
#[derive(Default)]
struct Lot {
    /// One per entry.
    slots: Vec<Slot>,
    entries: Vec<BinaryArray>,
    values: Vec<ArrayRef>,
    bytes: usize,
}

impl Lot {
    fn add(&mut self, slot: Slot, entries: BinaryArray, values: ArrayRef) {
        self.slots.extend(std::iter::repeat_n(slot, entries.len()));
        self.bytes += entries.value_data().len() + values.get_buffer_memory_size();
        self.entries.push(entries);
        self.values.push(values);
    }

    fn is_full(&self) -> bool {
        self.slots.len() >= CROSSING.entries || self.bytes >= CROSSING.bytes
    }
}

/// Those of the slots that have entries.
pub(super) fn present(state: &mut dyn StateBackend, index: usize, slots: &[Slot]) -> Result<Vec<Slot>, Fault> {
    let some = state.gather(index, slots)?;
    let some = some.as_boolean();
    Ok(slots.iter().enumerate().filter(|(i, _)| some.value(*i)).map(|(_, &slot)| slot).collect())
}

/// Whether what one version has written can become what another one declares: values one by one, each in its place.
pub(super) fn fits(before: &StateDescriptor, after: &StateDescriptor) -> Result<(), Fault> {
    let fits = match (&before.kind, &after.kind) {
        (StateKind::Map(before), StateKind::Map(after)) => before.data_type() == after.data_type(),
        (before, after) => before == after,
    };
    if fits {
        return Ok(());
    }
    let (name, from, to) = (&before.name, before.version, after.version);
    let (old, new) = (before.type_text(), after.type_text());
    let message = format!("state `{name}` is {old} in version {from}, but {new} in version {to}");
    Err(Fault::config(message).with_help(
        "a list stays a list and a map a map with the same entry keys, only their values are migrated: declare a state of \
         another name, and give up what this one holds with `--drop-state`",
    ))
}

/// The values without the nulls between them.
fn dense(values: &ArrayRef) -> Result<ArrayRef, Fault> {
    let present: BooleanArray = (0..values.len()).map(|i| Some(values.is_valid(i))).collect();
    Ok(filter(values, &present)?)
}
