//! A catalog for tests: a few sources, sinks and components with fixed schemas. Nothing in it runs.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use serde::Deserialize;
use serde_json::Value;
use tidemill_control::{Catalog, ProcessNode};
use tidemill_model::component::{Descriptor, LogicKind, Port, StateDescriptor, StateScope};
use tidemill_model::fault::OnError;
use tidemill_model::join::JoinSpec;
use tidemill_model::logic::{GuestLimits, Logic, LogicFactory, OpenContext};
use tidemill_model::operator::{Operator, OperatorContext, OperatorFactory};
use tidemill_model::plan::Built;
use tidemill_model::schema::{carry, parse_field};
use tidemill_model::sink::{Committable, Sink, SinkWriter};
use tidemill_model::source::{Position, Source, Split, SplitReader};
use tidemill_model::window::WindowSpec;
use tidemill_model::{ConfigError, Fault, config};

pub struct Fake;

/// `"a int64, b utf8?"`
pub fn schema(text: &str) -> SchemaRef {
    let field = |column: &str| {
        let (name, ty) = column.trim().split_once(' ').expect("NAME TYPE");
        parse_field(name, ty).expect("a type")
    };
    Arc::new(Schema::new(text.split(", ").map(field).collect::<Vec<Field>>()))
}

const BIDS: &str = "auction int64, bidder int64, price int64, channel utf8, url utf8?, date_time timestamp(ms)";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nexmark {
    kind: String,
    rows: Option<u64>,
    #[allow(dead_code)]
    seed: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct File {
    path: String,
    format: String,
    columns: Option<Columns>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct Stdout {
    format: Option<String>,
}

/// `[NAME TYPE, ...]`, or a list of maps as the `file` source takes it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Columns {
    Texts(Vec<String>),
    Maps(Vec<BTreeMap<String, String>>),
}

impl Columns {
    fn schema(self) -> Result<SchemaRef, ConfigError> {
        let columns: Vec<(String, String)> = match self {
            Columns::Maps(maps) => maps.into_iter().flatten().collect(),
            Columns::Texts(texts) => {
                let column = |text: &String| text.split_once(' ').map(|(name, ty)| (name.to_owned(), ty.to_owned()));
                let columns = texts.iter().map(column).collect::<Option<_>>();
                columns.ok_or_else(|| ConfigError::new(&["columns"], "a column is NAME TYPE"))?
            }
        };
        let field = |(name, ty): (String, String)| {
            let error =
                |message| ConfigError { name: Some(ty.clone()), ..ConfigError::new(&["columns", &name], message) };
            parse_field(&name, &ty).map_err(error)
        };
        let fields: Result<Vec<Field>, ConfigError> = columns.into_iter().map(field).collect();
        Ok(Arc::new(Schema::new(fields?)))
    }
}

impl Catalog for Fake {
    fn sources(&self) -> Vec<&'static str> {
        vec!["file", "nexmark"]
    }
    fn sinks(&self) -> Vec<&'static str> {
        vec!["file", "stdout", "blackhole"]
    }
    fn source(&self, kind: &str, settings: &Value, _base: &Path) -> Result<Arc<dyn Source>, ConfigError> {
        if kind == "nexmark" {
            let settings: Nexmark = config::read(settings)?;
            let columns = match settings.kind.as_str() {
                "bid" => BIDS,
                "person" => "id int64, name utf8, email utf8?, date_time timestamp(ms)",
                other => return Err(ConfigError::unknown(&["kind"], "kind of event", other, ["bid", "person"])),
            };
            return Ok(Arc::new(FakeSource { schema: schema(columns), bounded: settings.rows.is_some() }));
        }
        let settings: File = config::read(settings)?;
        format(&settings.format)?;
        let columns = settings.columns.map_or_else(|| Ok(schema("id int64, text utf8?")), Columns::schema)?;
        Ok(Arc::new(FakeSource { schema: columns, bounded: true }))
    }
    fn sink(&self, kind: &str, settings: &Value, _base: &Path) -> Result<Arc<dyn Sink>, ConfigError> {
        let mut csv = false;
        let mut needs_times = false;
        match kind {
            "file" => {
                let mut settings = settings.clone();
                needs_times = settings.as_object_mut().is_some_and(|settings| settings.remove("bucket").is_some());
                let settings: File = config::read(&settings)?;
                format(&settings.format)?;
                csv = settings.format == "csv";
            }
            "stdout" => drop(config::read::<Stdout>(settings)?),
            _ => {
                config::read::<Nothing>(settings)?;
            }
        }
        Ok(Arc::new(FakeSink { csv, needs_times }))
    }
    fn component(&self, path: &Path) -> Result<Vec<Descriptor>, Fault> {
        match path.file_name().and_then(|name| name.to_str()) {
            Some("ops.wasm") => Ok(operators()),
            Some("one.wasm") => Ok(operators().into_iter().take(1).collect()),
            Some("text.wasm") => Err(Fault::component("text.wasm is not a component: it begins with `hello`")
                .with_help("build it with `tidemill build`")),
            _ => Err(Fault::io("no such file")),
        }
    }
    fn logic(&self, _path: &Path, operator: &str, _limits: GuestLimits) -> Result<Arc<dyn LogicFactory>, Fault> {
        let descriptor =
            operators().into_iter().find(|d| d.name == operator).expect("asked for an operator that is there");
        Ok(Arc::new(FakeLogic(descriptor)))
    }
    fn process(&self, spec: ProcessNode) -> Result<Built, ConfigError> {
        for (key, value) in &spec.config {
            if key == "threshold" && value.parse::<i64>().is_err() {
                return Err(ConfigError::new(&["config", "threshold"], format!("`{value}` is not a whole number")));
            }
        }
        let outputs = spec.logic.descriptor().outputs.iter().map(|port| {
            let carried = port.carry.then(|| Arc::new(carry(&spec.inputs[0], &port.schema).0));
            (port.name.clone(), carried.unwrap_or_else(|| port.schema.clone()))
        });
        Ok(built(outputs.collect()))
    }
    /// Knows expressions of the form `WORD ...`, where the word is a column, and `... AS NAME`.
    fn expression(
        &self,
        where_: Option<&str>,
        select: Option<&[String]>,
        input: &SchemaRef,
        _on_error: OnError,
    ) -> Result<Built, ConfigError> {
        if let Some(text) = where_ {
            column(text, input).map_err(|e| e.inside("where"))?;
        }
        let mut fields = Vec::new();
        for (i, item) in select.unwrap_or_default().iter().enumerate() {
            if item == "*" {
                fields.extend(input.fields().iter().cloned());
                continue;
            }
            let (expression, name) = item.split_once(" AS ").unwrap_or((item, item));
            // Without its place: the caller finds it by the name.
            let index = if i == 0 {
                column(expression, input).map_err(|e| e.inside("0").inside("select"))?
            } else {
                column(expression, input)?
            };
            let field = input.field(index);
            fields.push(Arc::new(Field::new(name, field.data_type().clone(), field.is_nullable())));
        }
        let schema = if select.is_some() { Arc::new(Schema::new(fields)) } else { input.clone() };
        Ok(built(vec![("out".to_owned(), schema)]))
    }
    fn window(&self, spec: WindowSpec, input: &SchemaRef) -> Result<Built, ConfigError> {
        let mut fields: Vec<Field> = spec.key.iter().map(|&k| input.field(k).clone()).collect();
        let time = || DataType::Timestamp(arrow::datatypes::TimeUnit::Millisecond, None);
        fields.extend(["window_start", "window_end"].map(|name| Field::new(name, time(), false)));
        for (name, sql) in &spec.aggregates {
            let call = sql.split('(').next().unwrap_or_default();
            if !["count", "avg", "sum"].contains(&call) {
                let error = ConfigError::unknown(&["aggregates", name], "function", call, ["count", "avg", "sum"]);
                return Err(error);
            }
            fields.push(Field::new(name, DataType::Int64, false));
        }
        let late = ("late".to_owned(), input.clone());
        Ok(built(vec![("out".to_owned(), Arc::new(Schema::new(fields))), late]))
    }
    fn join(&self, spec: JoinSpec, inputs: [&SchemaRef; 2]) -> Result<Built, ConfigError> {
        let of = |(side, schema): (&str, &SchemaRef)| (format!("late_{side}"), schema.clone());
        let late = ["left", "right"].into_iter().zip(inputs).map(of);
        let right = inputs[1].fields().iter().filter(|field| inputs[0].column_with_name(field.name()).is_none());
        let fields: Vec<_> = inputs[0].fields().iter().chain(right).cloned().collect();
        if spec.select.is_none() && fields.len() < inputs[0].fields().len() + inputs[1].fields().len() {
            return Err(ConfigError::new(&["join"], "both sides have a column of one name"));
        }
        Ok(built([("out".to_owned(), Arc::new(Schema::new(fields)))].into_iter().chain(late).collect()))
    }
    fn variable(&self, name: &str) -> Option<String> {
        match name {
            "OUT" => Some("/tmp/out".to_owned()),
            "EVIL" => Some("x\nsinks: {}".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

fn format(name: &str) -> Result<(), ConfigError> {
    let known = ["csv", "ndjson", "parquet"];
    if known.contains(&name) { Ok(()) } else { Err(ConfigError::unknown(&["format"], "format", name, known)) }
}

fn column(expression: &str, input: &SchemaRef) -> Result<usize, ConfigError> {
    let word: String = expression.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    let columns = input.fields().iter().map(|field| field.name().clone());
    input.index_of(&word).map_err(|_| ConfigError::unknown(&[], "column", &word, columns))
}

fn operators() -> Vec<Descriptor> {
    let port = |name: &str, columns: &str, carry| Port {
        name: name.to_owned(),
        schema: schema(columns),
        carry,
        broadcast: name == "rules",
    };
    let op = |name: &str, kind, inputs, outputs| Descriptor {
        name: String::from(name),
        doc: String::new(),
        kind,
        inputs,
        outputs,
        states: Vec::new(),
        reads_time: false,
        reads_keys: false,
        changes: false,
    };
    let enrich = op(
        "enrich",
        LogicKind::Map,
        vec![port("in", "price float64", false)],
        vec![port("out", "euros float64", true)],
    );
    let count = op(
        "count",
        LogicKind::Keyed,
        vec![port("in", "auction int64", false)],
        vec![port("out", "auction int64, n uint64", false)],
    );
    let strict = port("in", "auction int64, url utf8, bidr int64, price decimal128(10,2)", false);
    let strict = op("strict", LogicKind::Map, vec![strict], vec![port("out", "auction int64", false)]);
    let inputs = vec![port("orders", "bidder int64", false), port("people", "id int64", false)];
    let join = op(
        "join",
        LogicKind::Keyed,
        inputs,
        vec![port("out", "id int64", false), port("unmatched", "bidder int64", false)],
    );
    let timed = Descriptor {
        reads_time: true,
        ..op("timed", LogicKind::Map, vec![port("in", "price int64", false)], vec![port("out", "price int64", true)])
    };
    let inputs = vec![port("bids", "auction int64", false), port("rules", "id int64", false)];
    let judge = op("judge", LogicKind::Keyed, inputs, vec![port("out", "auction int64", false)]);
    // Needs no key: all that it keeps is its worker's.
    let parked = StateDescriptor { scope: StateScope::Split, ..StateDescriptor::value("parked", DataType::Int64) };
    let inputs = vec![port("bids", "auction int64", false), port("rules", "id int64", false)];
    let park = Descriptor {
        states: vec![parked],
        ..op("park", LogicKind::Keyed, inputs, vec![port("out", "auction int64", false)])
    };
    vec![enrich, count, strict, join, timed, judge, park]
}

fn built(outputs: Vec<(String, SchemaRef)>) -> Built {
    Built { factory: Arc::new(Nobody), outputs }
}

struct FakeSource {
    schema: SchemaRef,
    bounded: bool,
}

impl Source for FakeSource {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
    fn splits(&self, _workers: usize) -> Result<Vec<Split>, Fault> {
        Ok(Vec::new())
    }
    fn open(&self, _split: &Split, _position: &Position) -> Result<Box<dyn SplitReader>, Fault> {
        Err(Fault::internal("not in tests"))
    }
    fn bounded(&self) -> bool {
        self.bounded
    }
}

struct FakeSink {
    csv: bool,
    needs_times: bool,
}

impl Sink for FakeSink {
    fn blocks(&self) -> bool {
        false
    }
    fn accepts(&self, schema: &SchemaRef) -> Result<(), Fault> {
        let nested = schema.fields().iter().find(|field| field.data_type().is_nested());
        match nested {
            Some(field) if self.csv => {
                Err(Fault::config(format!("CSV cannot hold column `{}`: it is nested", field.name()))
                    .with_help("write ndjson or parquet"))
            }
            _ => Ok(()),
        }
    }
    fn open(&self, _worker: usize, _workers: usize, _schema: SchemaRef) -> Result<Box<dyn SinkWriter>, Fault> {
        Err(Fault::internal("not in tests"))
    }
    fn commit(&self, _committables: &[Committable]) -> Result<(), Fault> {
        Ok(())
    }
    fn needs_times(&self) -> bool {
        self.needs_times
    }
}

struct FakeLogic(Descriptor);

impl LogicFactory for FakeLogic {
    fn descriptor(&self) -> &Descriptor {
        &self.0
    }
    fn open(&self, _context: &OpenContext) -> Result<Box<dyn Logic>, Fault> {
        Err(Fault::internal("not in tests"))
    }
}

struct Nobody;

impl OperatorFactory for Nobody {
    fn build(&self, _context: &OperatorContext) -> Result<Box<dyn Operator>, Fault> {
        Err(Fault::internal("not in tests"))
    }
    fn uses_time(&self) -> bool {
        false
    }
}
