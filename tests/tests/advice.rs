//! What `tidemill check` advises works: the select list that it proposes for columns that do not fit makes them fit.
//!
//! The words come from `control`, which knows no SQL; here the engine judges them.

use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use serde_json::Value;
use tidemill_control::{Catalog, ProcessNode, load_text};
use tidemill_engine::expr;
use tidemill_model::component::{Descriptor, LogicKind, Port};
use tidemill_model::fault::OnError;
use tidemill_model::join::JoinSpec;
use tidemill_model::logic::{GuestLimits, LogicFactory};
use tidemill_model::plan::Built;
use tidemill_model::schema::{parse_field, project};
use tidemill_model::sink::Sink;
use tidemill_model::source::{Position, Source, Split, SplitReader};
use tidemill_model::window::WindowSpec;
use tidemill_model::{ConfigError, Fault};

const PIPELINE: &str = "\
sources: { rows: { given: {} } }
operators: { x: { input: rows, component: ops.wasm } }
sinks: { out: { input: x, nowhere: {} } }
";

/// Types whose values can stand in for one another, one way or the other.
const NUMBERS: &[&str] = &[
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
    "decimal128(10,2)",
];
const TIMES: &[&str] = &["timestamp(s)", "timestamp(ms)", "timestamp(us)", "timestamp(ns)", "date"];
const OTHERS: &[&str] = &["utf8", "bool", "int64"];

#[test]
fn other_types_are_converted() {
    for group in [NUMBERS, TIMES, OTHERS] {
        for have in group {
            for want in group.iter().filter(|want| *want != have) {
                assert_advice_works(have, want);
                assert_advice_works(&format!("{have}?"), &format!("{want}?"));
            }
        }
    }
}

#[test]
fn nulls_are_filled_in() {
    for name in NUMBERS.iter().chain(&["utf8", "bool"]) {
        assert_advice_works(&format!("{name}?"), name);
    }
    for name in NUMBERS.iter().filter(|name| **name != "int32") {
        assert_advice_works("int32?", name);
    }
}

#[test]
fn several_columns_are_repaired_at_once() {
    let have = schema(&[("a", "int32?"), ("b", "utf8"), ("c", "float32"), ("d", "date")]);
    let want = schema(&[("a", "int64"), ("c", "float64"), ("b", "utf8")]);
    assert_repairs(&have, &want);
}

fn assert_advice_works(have: &str, want: &str) {
    assert_repairs(&schema(&[("id", "int64"), ("v", have)]), &schema(&[("v", want)]));
}

fn assert_repairs(have: &SchemaRef, want: &SchemaRef) {
    let catalog = Given { have: have.clone(), want: want.clone() };
    let errors = load_text("pipeline.yaml", PIPELINE.as_bytes(), Path::new(""), &catalog).err().expect("does not fit");
    let help = errors.items[0].help.clone().unwrap_or_default();
    let list = help.split_once("select: ").and_then(|(_, rest)| rest.split_once('`'));
    let (list, _) = list.unwrap_or_else(|| panic!("no select list for {have:?} as {want:?}: {help}"));
    let items: Vec<String> = serde_json::from_str(list).unwrap_or_else(|error| panic!("{list}: {error}"));
    let built = expr::node(None, Some(&items), have, OnError::Fail);
    let built = built.unwrap_or_else(|error| panic!("{list} for {have:?}: {error}"));
    let (_, repaired) = &built.outputs[0];
    if let Err(wrong) = project(repaired, want) {
        panic!("{list} leaves {}", wrong[0]);
    }
    assert_eq!(repaired.fields().len(), have.fields().len(), "{list} keeps all columns");
}

fn schema(columns: &[(&str, &str)]) -> SchemaRef {
    let fields: Vec<Field> = columns.iter().map(|(name, ty)| parse_field(name, ty).expect("a type")).collect();
    Arc::new(Schema::new(fields))
}

/// A source with `have` and an operator that wants `want`.
struct Given {
    have: SchemaRef,
    want: SchemaRef,
}

impl Catalog for Given {
    fn sources(&self) -> Vec<&'static str> {
        vec!["given"]
    }
    fn sinks(&self) -> Vec<&'static str> {
        vec!["nowhere"]
    }
    fn source(&self, _kind: &str, _settings: &Value, _base: &Path) -> Result<Arc<dyn Source>, ConfigError> {
        Ok(Arc::new(Rows(self.have.clone())))
    }
    fn sink(&self, _kind: &str, _settings: &Value, _base: &Path) -> Result<Arc<dyn Sink>, ConfigError> {
        Err(ConfigError::new(&[], "not asked for"))
    }
    fn component(&self, _path: &Path) -> Result<Vec<Descriptor>, Fault> {
        let port = |name: &str| Port { name: name.into(), schema: self.want.clone(), carry: false, broadcast: false };
        Ok(vec![Descriptor {
            name: "x".into(),
            doc: String::new(),
            kind: LogicKind::Map,
            inputs: vec![port("in")],
            outputs: vec![port("out")],
            states: Vec::new(),
            reads_time: false,
            reads_keys: false,
            changes: false,
        }])
    }
    fn logic(&self, _path: &Path, _operator: &str, _limits: GuestLimits) -> Result<Arc<dyn LogicFactory>, Fault> {
        Err(Fault::internal("not asked for"))
    }
    fn process(&self, _spec: ProcessNode) -> Result<Built, ConfigError> {
        Err(ConfigError::new(&[], "not asked for"))
    }
    fn expression(
        &self,
        where_: Option<&str>,
        select: Option<&[String]>,
        input: &SchemaRef,
        on_error: OnError,
    ) -> Result<Built, ConfigError> {
        expr::node(where_, select, input, on_error)
    }
    fn window(&self, _spec: WindowSpec, _input: &SchemaRef) -> Result<Built, ConfigError> {
        Err(ConfigError::new(&[], "not asked for"))
    }
    fn join(&self, _spec: JoinSpec, _inputs: [&SchemaRef; 2]) -> Result<Built, ConfigError> {
        Err(ConfigError::new(&[], "not asked for"))
    }
}

struct Rows(SchemaRef);

impl Source for Rows {
    fn schema(&self) -> SchemaRef {
        self.0.clone()
    }
    fn splits(&self, _workers: usize) -> Result<Vec<Split>, Fault> {
        Ok(Vec::new())
    }
    fn open(&self, _split: &Split, _position: &Position) -> Result<Box<dyn SplitReader>, Fault> {
        Err(Fault::internal("not asked for"))
    }
    fn bounded(&self) -> bool {
        true
    }
}
