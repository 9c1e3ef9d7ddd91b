//! A keyed operator whose logic is replaced, or that is restored from what other logic has written.

use tidemill_model::Fault;
use tidemill_model::component::StateDescriptor;
use tidemill_model::operator::OpenedLogic;
use tidemill_model::snapshot::Restore;
use tidemill_model::state::state_of_table;

use super::super::entries::EntryKeys;
use super::super::migrate::{Migration, fits};
use super::super::shared::same;
use super::super::stored;
use super::super::swap::Next;
use super::super::trial::{Before, Trial};
use super::{Keyed, of_keys};

impl Keyed {
    /// What a snapshot holds of earlier versions of the states. A fault names what has no place.
    pub(super) fn earlier(&self, from: &dyn Restore) -> Result<Vec<StateDescriptor>, Fault> {
        let operator = &self.common.descriptor.name;
        let tables = from.tables();
        let foreign = |table: &str| !stored::is_timers(table) && state_of_table(table).is_none();
        if let Some((table, _)) = tables.iter().find(|(table, _)| foreign(table)) {
            return Err(Fault::config(format!("the snapshot holds `{table}`, which `{operator}` has no place for")));
        }
        let mut earlier = Vec::new();
        for stored in from.states() {
            let declared = &self.common.descriptor.states;
            let Some(state) = declared.iter().find(|state| state.name == stored.name) else {
                let message =
                    format!("the snapshot holds the state `{}`, which `{operator}` does not declare", stored.name);
                return Err(
                    Fault::config(message).with_help("declare it, or give up what it holds with `--drop-state`")
                );
            };
            if stored.version > state.version {
                let (name, newer, own) = (&stored.name, stored.version, state.version);
                return Err(Fault::config(format!(
                    "state `{name}` was written by version {newer}, but `{operator}` declares version {own}"
                ))
                .with_help("use the component that wrote it, or a newer one"));
            }
            if stored.scope != state.scope {
                let (name, before, now) = (&stored.name, stored.scope.name(), state.scope.name());
                let message =
                    format!("state `{name}` was stored with the scope `{before}`, but `{operator}` declares `{now}`");
                let help = "give the new one another name, and give up what the old one holds with `--drop-state`";
                return Err(Fault::config(message).with_help(help));
            }
            if stored.version < state.version {
                fits(&stored, state)?;
                // How long its values live the present version says.
                earlier.push(StateDescriptor { ttl: state.ttl, ..stored });
            }
        }
        Ok(earlier)
    }

    pub(super) fn try_other(&mut self, next: OpenedLogic) -> Result<(), Fault> {
        let next = next.downcast::<Next>().map_err(|_| Fault::internal("this logic was opened for another node"))?;
        let Next { common, mut logic, mut shared, dropped } = *next;
        let now = &of_keys(&common, &shared).to_vec();
        let is_new = |state: &StateDescriptor| !self.states().iter().any(|s| same(s, state));
        if let Some(state) = self.migration.held().iter().find(|h| now.iter().any(|s| s.name == h.name && is_new(s))) {
            let (name, version) = (&state.name, state.version);
            let message = format!("values of state `{name}` are still being migrated from version {version}");
            return Err(Fault::config(message).with_help("try again when that is done"));
        }
        let before = self.held_states();
        // While it is on trial, all that there was stays.
        let others: Vec<StateDescriptor> =
            before.iter().filter(|state| !now.iter().any(|s| same(s, state))).cloned().collect();
        let entry_keys = EntryKeys::new(now)?;
        if let (Some(before), Some(next)) = (&mut self.shared, &mut shared) {
            next.take_over(before, &dropped, logic.as_mut()).map_err(|fault| fault.at(&common.rejects.node))?;
        }
        let held = [now.as_slice(), &others].concat();
        self.state.redescribe(&held)?;
        let migration = Migration::new(now, &others, &dropped);
        let before_it = Before {
            common: std::mem::replace(&mut self.common, common),
            logic: std::mem::replace(&mut self.logic, logic),
            migration: std::mem::replace(&mut self.migration, migration),
            entry_keys: std::mem::replace(&mut self.entry_keys, entry_keys),
            shared: std::mem::replace(&mut self.shared, shared),
            now: self.now,
            firing: self.firing,
            advanced: self.advanced,
            rows_in: std::mem::take(&mut self.rows_in),
            timers_in: std::mem::take(&mut self.timers_in),
        };
        self.trial = Some(Trial::new(before_it, before, &held));
        Ok(())
    }

    pub(super) fn end_trial(&mut self, keep: bool) -> Result<(), Fault> {
        let Some(trial) = self.trial.take() else { return Ok(()) };
        if keep {
            trial.forget(self.state.as_mut());
            let held = self.held_states();
            self.state.redescribe(&held)?;
            let count = self.states().len();
            self.migration = Migration::new(&held[..count], &held[count..], &[]);
            return Ok(());
        }
        let before = trial.undo(self.state.as_mut(), &mut self.timers)?;
        self.common = before.common;
        self.logic = before.logic;
        self.migration = before.migration;
        self.entry_keys = before.entry_keys;
        self.shared = before.shared;
        (self.now, self.firing, self.advanced) = (before.now, before.firing, before.advanced);
        (self.rows_in, self.timers_in) = (before.rows_in, before.timers_in);
        self.work = None;
        Ok(())
    }
}
