//! What the component says about itself, true or bent.

use crate::exports::tidemill::operator::lifecycle::{Descriptor, Port, StateDescriptor};
use crate::tidemill::operator::types::Field;

pub fn describe(case: &[u8]) -> Vec<Descriptor> {
    let mut all = vec![
        operator("echo", "map", vec![port("in", every_type())], vec![port("out", every_type())]),
        operator("map", "map", vec![port("in", vec![field("n", "int64", false, 0)])], outputs()),
        operator("filter", "filter", vec![port("in", vec![field("n", "int64", false, 0)])], vec![]),
        operator("echo_keyed", "keyed", vec![port("in", every_type())], vec![port("out", every_type())]),
        operator("keyed", "keyed", vec![port("in", vec![field("n", "int64", false, 0)])], outputs()),
        operator("shared", "keyed", vec![port("in", vec![field("n", "int64", false, 0)])], outputs()),
    ];
    let to_all = Port { broadcast: true, ..port("all", vec![field("n", "int64", false, 0)]) };
    all[5].inputs.push(to_all);
    let scoped = |scope: &str, of: StateDescriptor| StateDescriptor { scope: scope.into(), ..of };
    let list = |name: &str| StateDescriptor { kind: "list".into(), ..state(name, "int64") };
    all[5].states = vec![
        state("count", "int64"),
        scoped("broadcast", state("total", "int64")),
        scoped("broadcast", list("rules")),
        scoped("split", list("parked")),
    ];
    all[0].changes = true;
    all[0].reads_time = true;
    all[3].states = every_state();
    all[3].reads_keys = true;
    let seen = StateDescriptor {
        kind: "map".into(),
        entry_key: vec![field("word", "utf8", false, 0)],
        ..state("seen", "int64")
    };
    let trail = StateDescriptor { kind: "list".into(), ..state("trail", "int64") };
    all[4].states = vec![state("count", "int64"), state("text", "utf8"), seen, trail];
    match case {
        b"01" => panic!("who am I?"),
        b"02" => all[1].kind = "aggregate".into(),
        b"03" => all.clear(),
        b"04" => crate::ruin::forever(),
        b"05" => all[1].outputs[0].fields[0].type_name = "int".into(),
        b"06" => all[1].inputs[0].name = "x".repeat(100),
        b"08" => all.truncate(3),
        _ => {}
    }
    all
}

fn operator(name: &str, kind: &str, inputs: Vec<Port>, outputs: Vec<Port>) -> Descriptor {
    Descriptor {
        name: name.into(),
        doc: format!("Does evil as `{kind}`.\nAnd more."),
        kind: kind.into(),
        inputs,
        outputs,
        states: vec![],
        reads_time: false,
        reads_keys: false,
        changes: false,
    }
}

fn port(name: &str, fields: Vec<Field>) -> Port {
    Port { name: name.into(), fields, carry: false, broadcast: false }
}

fn field(name: &str, type_name: &str, nullable: bool, children: u32) -> Field {
    Field { name: name.into(), type_name: type_name.into(), nullable, children }
}

fn state(name: &str, type_name: &str) -> StateDescriptor {
    let value = field("value", type_name, true, 0);
    StateDescriptor {
        name: name.into(),
        scope: "key".into(),
        kind: "value".into(),
        entry_key: Vec::new(),
        value,
        codec: String::new(),
        version: 1,
        ttl: 0,
        ttl_on_read: false,
    }
}

/// `out`: see `rows::good`; `side`: one number.
fn outputs() -> Vec<Port> {
    let out = vec![
        field("n", "int64", false, 0),
        field("text", "utf8", true, 0),
        field("list", "list", false, 1),
        field("item", "int32", false, 0),
        field("point", "struct", true, 2),
        field("x", "float64", false, 0),
        field("y", "float64", true, 0),
        field("small", "decimal128(5,2)", true, 0),
        field("flag", "bool", false, 0),
    ];
    vec![port("out", out), port("side", vec![field("n", "int64", false, 0)])]
}

const PLAIN: &[&str] = &[
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float32",
    "float64",
    "utf8",
    "binary",
    "date",
    "timestamp(s)",
    "timestamp(ms)",
    "timestamp(us)",
    "timestamp(ns)",
    "decimal128(30,5)",
];

/// Every type, nullable (`a...`) and not (`b...`), then nested ones.
fn every_type() -> Vec<Field> {
    let mut fields: Vec<Field> = Vec::new();
    for (prefix, nullable) in [("a", true), ("b", false)] {
        for name in PLAIN {
            fields.push(field(&format!("{prefix}_{name}"), name, nullable, 0));
        }
    }
    fields.extend([
        field("texts", "list", true, 1),
        field("item", "utf8", true, 0),
        field("matrix", "list", false, 1),
        field("item", "list", true, 1),
        field("item", "float32", false, 0),
        field("who", "struct", true, 3),
        field("name", "utf8", false, 0),
        field("alive", "bool", true, 0),
        field("at", "struct", false, 2),
        field("x", "int16", false, 0),
        field("y", "decimal128(10,2)", true, 0),
        field("visits", "list", true, 1),
        field("item", "struct", true, 2),
        field("day", "date", false, 0),
        field("tags", "list", true, 1),
        field("item", "binary", true, 0),
    ]);
    fields
}

fn every_state() -> Vec<StateDescriptor> {
    PLAIN.iter().map(|name| state(&format!("s_{name}"), name)).collect()
}
