//! Other logic for a running node: whether it fits, and what it needs on each worker.
//!
//! Law: whatever can be known before the node stops for it is checked before.

use std::sync::Arc;

use arrow::array::new_empty_array;
use tidemill_model::component::{Descriptor, StateDescriptor, StateScope};
use tidemill_model::logic::{Logic, LogicError};
use tidemill_model::operator::{OpenedLogic, StateChange, StateFate, Successor};
use tidemill_model::schema::type_name;
use tidemill_model::{Fault, OperatorContext, OperatorFactory};

use super::shared::Shared;
use super::{Common, Factory, migrate};

/// What an operator goes on with.
pub(super) struct Next {
    pub common: Common,
    pub logic: Box<dyn Logic>,
    /// For states that belong to no key, still empty.
    pub shared: Option<Box<Shared>>,
    /// States that the user gives up.
    pub dropped: Vec<String>,
}

pub(super) struct Replacement {
    factory: Arc<Factory>,
    changes: Vec<StateChange>,
    /// What is to be migrated, as the version before describes it.
    migrated: Vec<StateDescriptor>,
    dropped: Vec<String>,
}

impl Replacement {
    pub fn new(before: &Factory, after: Factory, dropped: &[String]) -> Result<Self, Fault> {
        fits(before, &after)?;
        let (old, new) = (&before.descriptor, &after.descriptor);
        if let Some(state) = old.states.iter().chain(&new.states).find(|state| state.scope == StateScope::Broadcast) {
            // Workers switch at different moments: a row that all get would be one version's on this and the other's on that worker.
            let message = format!("state `{}` is broadcast: such operators can't be upgraded in place", state.name);
            let help = "stop the job at a savepoint, and start it with `--from` and the new component";
            return Err(Fault::config(message).with_help(help));
        }
        let version = |of: &Descriptor, name: &str| of.states.iter().find(|s| s.name == name).map(|s| s.version);
        let stays = |name: &&String| version(old, name).is_some() && version(old, name) == version(new, name);
        if let Some(name) = dropped.iter().find(stays) {
            return Err(Fault::config(format!("it declares the state `{name}` as it was, so its values stay"))
                .with_help("raise the version of the state to have it start empty, or leave `--drop-state` away"));
        }
        let mut changes = Vec::new();
        let mut migrated = Vec::new();
        for state in &new.states {
            let known = old.states.iter().find(|s| s.name == state.name && !dropped.contains(&s.name));
            let fate = match known {
                None => StateFate::New,
                Some(known) => fate(known, state)?,
            };
            if let (Some(known), StateFate::Migrated { .. }) = (known, fate) {
                migrated.push(known.clone());
            }
            changes.push(StateChange { state: state.name.clone(), fate });
        }
        for state in &old.states {
            let name = &state.name;
            if dropped.contains(name) {
                changes.push(StateChange { state: name.clone(), fate: StateFate::Dropped });
            } else if new.states.iter().all(|s| s.name != *name) {
                return Err(Fault::config(format!("it does not declare the state `{name}`, which has values"))
                    .with_help(format!("declare it, or give its values up with `--drop-state {name}`")));
            }
        }
        if let Some(name) = dropped.iter().find(|name| old.states.iter().all(|s| s.name != **name)) {
            return Err(Fault::config(format!("there is no state `{name}` to give up")).with_help(declared(old)));
        }
        Ok(Self { factory: Arc::new(after), changes, migrated, dropped: dropped.to_vec() })
    }
}

fn declared(descriptor: &Descriptor) -> String {
    let names: Vec<&str> = descriptor.states.iter().map(|s| s.name.as_str()).collect();
    if names.is_empty() { "the operator has no states".into() } else { format!("it has {}", names.join(", ")) }
}

/// What becomes of the values of a state.
fn fate(before: &StateDescriptor, after: &StateDescriptor) -> Result<StateFate, Fault> {
    let (name, from, to) = (&after.name, before.version, after.version);
    if before.scope != after.scope {
        let (old, new) = (before.scope.name(), after.scope.name());
        return Err(Fault::config(format!("state `{name}` has the scope `{old}`, but it declares `{new}`"))
            .with_help("give the new one another name, and give the values of the old one up with `--drop-state`"));
    }
    if to < from {
        return Err(Fault::config(format!("state `{name}` has version {from}, but it declares version {to}"))
            .with_help(format!(
                "a version never goes back: raise it to {}, and migrate what {from} has written",
                from + 1
            )));
    }
    if to > from {
        migrate::fits(before, after)?;
        return Ok(StateFate::Migrated { from, to });
    }
    let words = |state: &StateDescriptor| match state.codec.as_str() {
        "" => state.type_text(),
        codec => format!("{} ({codec})", state.type_text()),
    };
    if words(before) != words(after) {
        let (old, new) = (words(before), words(after));
        return Err(Fault::config(format!("state `{name}` is {old}, but it declares {new} as the same version"))
            .with_help(format!("raise the version of the state to {}, and migrate its values", from + 1)));
    }
    Ok(StateFate::Kept)
}

/// Whether the edges of the node stay as they are.
fn fits(before: &Factory, after: &Factory) -> Result<(), Fault> {
    let help = "stop the job at a savepoint, change the pipeline, and start it with `--from`";
    let (old, new) = (&before.descriptor, &after.descriptor);
    if old.kind != new.kind {
        let message =
            format!("operator `{}` is of the kind {:?}, the running one is {:?}", new.name, new.kind, old.kind);
        return Err(Fault::config(message).with_help(help));
    }
    let broadcast = |of: &Descriptor| of.inputs.iter().map(|port| port.broadcast).collect::<Vec<_>>();
    if broadcast(old) != broadcast(new) {
        return Err(Fault::config("only one of the two versions takes an input as broadcast").with_help(help));
    }
    if before.uses_time() != after.uses_time() {
        let message = "only one of the two versions reads event times";
        return Err(Fault::config(message).with_help(help));
    }
    let ports = |factory: &Factory| {
        let port = |port: &super::OutPort| {
            let columns = port.schema.fields().iter().map(|f| {
                format!("{} {}{}", f.name(), type_name(f.data_type()), if f.is_nullable() { "?" } else { "" })
            });
            format!("{}: {}", port.name, columns.collect::<Vec<_>>().join(", "))
        };
        factory.ports.iter().map(port).collect::<Vec<_>>()
    };
    let (old, new) = (ports(before), ports(after));
    match old == new {
        true => Ok(()),
        false => {
            let message = format!("its outputs are ({}), the running ones are ({})", new.join("; "), old.join("; "));
            Err(Fault::config(message).with_help(help))
        }
    }
}

impl Successor for Replacement {
    fn changes(&self) -> &[StateChange] {
        &self.changes
    }

    fn open(&self, context: &OperatorContext) -> Result<OpenedLogic, Fault> {
        let (common, mut logic) = self.factory.open(context)?;
        for state in &self.migrated {
            let nothing = new_empty_array(state.field.data_type());
            let could = logic.migrate_state(&state.name, state.version, &nothing);
            could.map_err(|(LogicError::Trap(text) | LogicError::Fatal(text))| {
                let (name, version) = (&state.name, state.version);
                Fault::component(format!("it can't migrate state `{name}` from version {version}: {text}"))
                    .at(&context.node)
                    .with_help(format!("or give its values up with `--drop-state {name}`"))
            })?;
        }
        let shared = self.factory.open_shared(context)?;
        Ok(Box::new(Next { common, logic, shared, dropped: self.dropped.clone() }))
    }

    fn factory(&self) -> Arc<dyn OperatorFactory> {
        self.factory.clone()
    }
}
