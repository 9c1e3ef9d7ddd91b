//! What a component says about itself, checked and turned into the model's descriptors.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field};

use tidemill_model::component::{Descriptor, LogicKind, Port, StateDescriptor, StateKind, StateScope, Ttl};
use tidemill_model::schema::type_name;

use crate::abi::effects::cut;
use crate::abi::fields::{check_name, schema};
use crate::bindings::exports::tidemill::operator::lifecycle as wit;
use crate::bindings::tidemill::operator::types::FieldResult;

/// Operators in a component.
const OPERATORS_MAX: usize = 256;
/// Inputs, and outputs, of an operator.
const PORTS_MAX: usize = 16;
/// States of an operator: each is a column in every call.
const STATES_MAX: usize = 64;

/// All operators of a component, or what is wrong with one.
pub(crate) fn descriptors(said: Vec<wit::Descriptor>) -> Result<Vec<Descriptor>, String> {
    if said.is_empty() {
        return Err("it has no operators".to_owned());
    }
    if said.len() > OPERATORS_MAX {
        return Err(format!("it has {} operators, at most {OPERATORS_MAX} fit", said.len()));
    }
    unique("operator", said.iter().map(|d| d.name.as_str()))?;
    said.into_iter().map(named).collect()
}

fn named(said: wit::Descriptor) -> Result<Descriptor, String> {
    let name = said.name.clone();
    descriptor(said).map_err(|wrong| format!("operator `{name}`: {wrong}"))
}

fn descriptor(said: wit::Descriptor) -> Result<Descriptor, String> {
    let kind = match said.kind.as_str() {
        "map" => LogicKind::Map,
        "filter" => LogicKind::Filter,
        "keyed" => LogicKind::Keyed,
        other => {
            let shown = cut(other.to_owned());
            return Err(format!("kind `{shown}` is unknown to this host; it knows `map`, `filter` and `keyed`"));
        }
    };
    if said.inputs.is_empty() {
        return Err("it has no input".to_owned());
    }
    if kind == LogicKind::Filter && !said.outputs.is_empty() {
        return Err("a filter has no outputs of its own: its output is its input".to_owned());
    }
    if kind != LogicKind::Keyed && !said.states.is_empty() {
        return Err(format!("it has states, which only kind `keyed` can have, not `{}`", said.kind));
    }
    let described = Descriptor {
        name: said.name,
        doc: cut(said.doc.lines().next().unwrap_or_default().to_owned()),
        kind,
        inputs: ports("input", said.inputs)?,
        outputs: ports("output", said.outputs)?,
        states: states(said.states)?,
        reads_time: said.reads_time,
        reads_keys: said.reads_keys,
        changes: said.changes,
    };
    check_broadcast(&described)?;
    Ok(described)
}

/// Whether what is said of broadcast inputs and states goes together.
fn check_broadcast(described: &Descriptor) -> Result<(), String> {
    let mut broadcast = described.inputs.iter().filter(|port| port.broadcast);
    let Some(first) = broadcast.next() else {
        let state = described.states.iter().find(|state| state.scope == StateScope::Broadcast);
        return state.map_or(Ok(()), |state| {
            Err(format!("state `{}` is broadcast, but no input is: nothing could ever change it", state.name))
        });
    };
    if described.kind != LogicKind::Keyed {
        let name = &first.name;
        return Err(format!("input `{name}` is broadcast, which only kind `keyed` can have: others remember nothing"));
    }
    if described.needs_key() && described.inputs.iter().all(|port| port.broadcast) {
        return Err("all its inputs are broadcast, so there is no key, which it needs".to_owned());
    }
    Ok(())
}

fn ports(what: &str, said: Vec<wit::Port>) -> Result<Vec<Port>, String> {
    if said.len() > PORTS_MAX {
        return Err(format!("it has {} {what}s, at most {PORTS_MAX} fit", said.len()));
    }
    unique(what, said.iter().map(|p| p.name.as_str()))?;
    said.into_iter().map(|port| self::port(what, port)).collect()
}

fn port(what: &str, said: wit::Port) -> Result<Port, String> {
    if what == "input" && said.carry {
        return Err(format!("input `{}` says `carry`, which is for outputs", said.name));
    }
    if what == "output" && said.broadcast {
        return Err(format!("output `{}` says `broadcast`, which is for inputs", said.name));
    }
    let schema = schema(&said.fields).map_err(|wrong| format!("{what} `{}`: {wrong}", said.name))?;
    Ok(Port { name: said.name, schema: Arc::new(schema), carry: said.carry, broadcast: said.broadcast })
}

fn states(said: Vec<wit::StateDescriptor>) -> Result<Vec<StateDescriptor>, String> {
    if said.len() > STATES_MAX {
        return Err(format!("it has {} states, at most {STATES_MAX} fit", said.len()));
    }
    unique("state", said.iter().map(|s| s.name.as_str()))?;
    said.into_iter().map(state).collect()
}

fn state(said: wit::StateDescriptor) -> Result<StateDescriptor, String> {
    let wrong = |what: String| format!("state `{}`: {what}", said.name);
    let value = schema(std::slice::from_ref(&said.value)).map_err(wrong)?;
    let ty = value.field(0).data_type();
    if matches!(ty, DataType::List(_) | DataType::Struct(_)) {
        return Err(wrong(format!("a value is fixed-width, utf8 or binary, not {}", type_name(ty))));
    }
    let ttl = (said.ttl > 0).then_some(Ttl { ms: said.ttl, on_read: said.ttl_on_read });
    if ttl.is_none() && said.ttl_on_read {
        return Err(wrong("it says `ttl-on-read`, but has no time to live".to_owned()));
    }
    // Null is "no value", so every state is nullable, whatever the component says.
    let field = Field::new(value.field(0).name(), ty.clone(), true);
    let (kind, codec) = (state_kind(&said.kind, &said.entry_key).map_err(wrong)?, cut(said.codec));
    let scope = state_scope(&said.scope, &kind, ttl.is_some()).map_err(wrong)?;
    Ok(StateDescriptor { name: said.name, scope, kind, field, codec, version: said.version, ttl })
}

fn state_scope(said: &str, kind: &StateKind, has_ttl: bool) -> Result<StateScope, String> {
    let Some(scope) = StateScope::of_name(said) else {
        let shown = cut(said.to_owned());
        return Err(format!(
            "scope `{shown}` is unknown to this host; it knows `key`, `broadcast`, `split` and `union`"
        ));
    };
    if matches!(scope, StateScope::Split | StateScope::Union) && *kind != StateKind::List {
        return Err(format!("its scope is `{said}`, which only a list can have: its values are dealt to the workers"));
    }
    if scope != StateScope::Key && has_ttl {
        return Err(format!("its scope is `{said}`, but only states of keys have a time to live"));
    }
    Ok(scope)
}

fn state_kind(kind: &str, entry_key: &[FieldResult]) -> Result<StateKind, String> {
    let entry = schema(entry_key).map_err(|wrong| format!("entry key: {wrong}"))?;
    let count = entry.fields().len();
    match (kind, count) {
        ("map", 1) => {
            let ty = entry.field(0).data_type();
            if ty.is_nested() {
                return Err(format!("an entry key is fixed-width, utf8 or binary, not {}", type_name(ty)));
            }
            Ok(StateKind::Map(Field::new(entry.field(0).name(), ty.clone(), false)))
        }
        ("map", _) => Err(format!("a map has 1 entry key, not {count}")),
        ("value", 0) => Ok(StateKind::Value),
        ("list", 0) => Ok(StateKind::List),
        ("value" | "list", _) => Err(format!("a {kind} has no entry key, which is for maps")),
        (other, _) => {
            let shown = cut(other.to_owned());
            Err(format!("kind `{shown}` is unknown to this host; it knows `value`, `list` and `map`"))
        }
    }
}

fn unique<'a>(what: &str, names: impl Iterator<Item = &'a str>) -> Result<(), String> {
    let mut seen: Vec<&str> = Vec::new();
    for name in names {
        check_name(what, name)?;
        if seen.contains(&name) {
            return Err(format!("{what} `{name}` is described twice"));
        }
        seen.push(name);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(ty: &str) -> FieldResult {
        FieldResult { name: "a".into(), type_name: ty.into(), nullable: false, children: 0 }
    }

    fn port(name: &str) -> wit::Port {
        wit::Port { name: name.into(), fields: vec![field("int64")], carry: false, broadcast: false }
    }

    fn state(name: &str, ty: &str) -> wit::StateDescriptor {
        wit::StateDescriptor {
            name: name.into(),
            scope: "key".into(),
            kind: "value".into(),
            entry_key: vec![],
            value: field(ty),
            codec: String::new(),
            version: 1,
            ttl: 0,
            ttl_on_read: false,
        }
    }

    fn keyed() -> wit::Descriptor {
        wit::Descriptor {
            name: "op".into(),
            doc: String::new(),
            kind: "keyed".into(),
            inputs: vec![port("in")],
            outputs: vec![port("out")],
            states: vec![state("s", "binary")],
            reads_time: false,
            reads_keys: false,
            changes: false,
        }
    }

    #[test]
    fn wrong_descriptions_are_refused_with_the_place() {
        type Bend = fn(&mut wit::Descriptor);
        let cases: &[(Bend, &str)] = &[
            (
                |d| d.kind = "window".into(),
                "kind `window` is unknown to this host; it knows `map`, `filter` and `keyed`",
            ),
            (|d| d.inputs.clear(), "it has no input"),
            (|d| d.inputs.push(port("in")), "input `in` is described twice"),
            (|d| d.inputs[0].carry = true, "input `in` says `carry`, which is for outputs"),
            (|d| d.outputs[0].name.clear(), "output has an empty name"),
            (
                |d| d.outputs[0].fields[0].type_name = "date64".into(),
                "output `out`: column `a`: `date64` is not a type",
            ),
            (|d| d.outputs = (0..17).map(|i| port(&i.to_string())).collect(), "it has 17 outputs, at most 16 fit"),
            (
                |d| d.states = (0..65).map(|i| state(&i.to_string(), "bool")).collect(),
                "it has 65 states, at most 64 fit",
            ),
            (|d| d.states.push(state("s", "bool")), "state `s` is described twice"),
            (|d| d.states[0].value.children = 1, "state `s`: column `a`: binary has no children, not 1"),
            (|d| d.states[0].value.type_name = "list".into(), "state `s`: column `a`: a list has 1 child, not 0"),
            (
                |d| d.states[0].kind = "queue".into(),
                "state `s`: kind `queue` is unknown to this host; it knows `value`, `list` and `map`",
            ),
            (|d| d.states[0].kind = "map".into(), "state `s`: a map has 1 entry key, not 0"),
            (|d| d.states[0].entry_key.push(field("utf8")), "state `s`: a value has no entry key, which is for maps"),
            (
                |d| {
                    d.states[0].kind = "map".into();
                    d.states[0].entry_key = vec![FieldResult { children: 1, ..field("list") }, field("int8")];
                },
                "state `s`: an entry key is fixed-width, utf8 or binary, not list(int8)",
            ),
            (|d| d.states[0].ttl_on_read = true, "state `s`: it says `ttl-on-read`, but has no time to live"),
            (
                |d| d.states[0].scope = "worker".into(),
                "state `s`: scope `worker` is unknown to this host; it knows `key`, `broadcast`, `split` and `union`",
            ),
            (
                |d| d.states[0].scope = "broadcast".into(),
                "state `s` is broadcast, but no input is: nothing could ever change it",
            ),
            (
                |d| d.states[0].scope = "union".into(),
                "state `s`: its scope is `union`, which only a list can have: its values are dealt to the workers",
            ),
            (
                |d| (d.states[0].scope, d.states[0].ttl) = ("broadcast".into(), 1),
                "state `s`: its scope is `broadcast`, but only states of keys have a time to live",
            ),
            (|d| d.outputs[0].broadcast = true, "output `out` says `broadcast`, which is for inputs"),
            (|d| d.inputs[0].broadcast = true, "all its inputs are broadcast, so there is no key, which it needs"),
            (
                |d| (d.kind, d.states, d.inputs[0].broadcast) = ("map".into(), vec![], true),
                "input `in` is broadcast, which only kind `keyed` can have: others remember nothing",
            ),
            (|d| d.kind = "map".into(), "it has states, which only kind `keyed` can have, not `map`"),
            (
                |d| (d.kind, d.states) = ("filter".into(), vec![]),
                "a filter has no outputs of its own: its output is its input",
            ),
        ];
        for (bend, expected) in cases {
            let mut said = keyed();
            bend(&mut said);
            assert_eq!(descriptors(vec![said]).unwrap_err(), format!("operator `op`: {expected}"));
        }
        assert_eq!(descriptors(vec![]).unwrap_err(), "it has no operators");
        assert_eq!(descriptors(vec![keyed(), keyed()]).unwrap_err(), "operator `op` is described twice");
        assert!(descriptors(vec![keyed()]).unwrap()[0].states[0].field.is_nullable());
    }
}
