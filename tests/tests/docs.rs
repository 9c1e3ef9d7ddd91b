//! PIPELINE.md and README.md are true: every pipeline that they show passes the check, and every name that the
//! code knows (settings, values, types, functions, columns) is in the reference, and no others.
//!
//! The code is asked as a user would ask it: with a wrong name, `zzz`, whose error has all the right ones.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use serde_json::{Value, json};
use tidemill_connectors::registry::{self, SINKS, SOURCES};
use tidemill_control::{Catalog, Diagnostics, Loaded, ProcessNode, load_text};
use tidemill_engine::process::ProcessSpec;
use tidemill_formats::BuiltIn;
use tidemill_model::component::Descriptor;
use tidemill_model::config::ConfigContext;
use tidemill_model::dead::DEAD_SCHEMA;
use tidemill_model::fault::OnError;
use tidemill_model::join::JoinSpec;
use tidemill_model::logic::{GuestLimits, LogicFactory};
use tidemill_model::plan::{Built, JobOptions};
use tidemill_model::schema::type_name;
use tidemill_model::sink::Sink;
use tidemill_model::source::Source;
use tidemill_model::window::WindowSpec;
use tidemill_model::{ConfigError, Fault, limits};
use tidemill_sdk::native::Entry;
use tidemill_sdk::{Config, Context, Filter, FilterOperator, Keyed, KeyedOperator, Ports, Row};
use tidemill_state::HeapFactory;
use tidemill_tests::native::NativeFactory;

/// Places where settings have names: the sections of PIPELINE.md whose tables list them, and a pipeline with a wrong one.
const SETTINGS: &[(&[&str], &str)] = &[
    (&["Top level"], "zzz: 1"),
    (&["Options"], "options: { zzz: 1 }"),
    (&["State"], "state: { zzz: 1 }"),
    (&["Checkpoints"], "checkpoints: { zzz: 1 }"),
    (&["Restart"], "restart: { zzz: 1 }"),
    (&["Sources"], "sources: { a: { zzz: 1 } }"),
    (&["Sources"], "sources: { a: { nexmark: { kind: bid }, zzz: 1 } }"),
    (&["Event time"], "sources: { a: { nexmark: { kind: bid }, event_time: { zzz: 1 } } }"),
    (&["Source file", "Format csv"], "sources: { a: { file: { path: x.csv, columns: { c: bool }, zzz: 1 } } }"),
    (&["Source file", "Format ndjson"], "sources: { a: { file: { path: x.json, columns: { c: bool }, zzz: 1 } } }"),
    (&["Source file", "Format parquet"], "sources: { a: { file: { path: x.parquet, columns: { c: bool }, zzz: 1 } } }"),
    (&["Source nexmark"], "sources: { a: { nexmark: { zzz: 1 } } }"),
    (&["Source datagen"], "sources: { a: { datagen: { zzz: 1 } } }"),
    (&["Source datagen"], "sources: { a: { datagen: { columns: { c: { zzz: 1 } } } } }"),
    (&["join", "Operators", "where and select", "component", "window"], "operators: { a: { zzz: 1 } }"),
    (&["join"], "operators: { a: { input: b, join: { zzz: 1 } } }"),
    (&["join"], "operators: { a: { input: b, join: { interval: { zzz: 1 } } } }"),
    (&["join"], "operators: { a: { input: b, join: { window: { zzz: 1 } } } }"),
    (&["window"], "operators: { a: { input: b, window: { zzz: 1 } } }"),
    (&["Triggers"], "operators: { a: { input: b, window: { tumbling: 1s, trigger: { zzz: 1 } } } }"),
    (&["Sinks"], "sinks: { a: { zzz: 1 } }"),
    (&["Sinks"], "sinks: { a: { blackhole: , zzz: 1 } }"),
    (&["Sink file", "Format csv"], "sinks: { a: { file: { path: x, format: csv, zzz: 1 } } }"),
    (&["Sink file", "Format ndjson"], "sinks: { a: { file: { path: x, format: ndjson, zzz: 1 } } }"),
    (&["Sink file", "Format parquet"], "sinks: { a: { file: { path: x, format: parquet, zzz: 1 } } }"),
    (&["Sink file"], "sinks: { a: { file: { path: x, format: csv, bucket: { zzz: 1 } } } }"),
    (&["Sink stdout"], "sinks: { a: { stdout: { zzz: 1 } } }"),
];

/// The same for the values of settings and for the settings of a generator: they stand in the text of a section.
const VALUES: &[(&str, &str)] = &[
    ("Options", "options: { ticks: zzz }"),
    ("State", "state: { backend: zzz }"),
    ("Checkpoints", "checkpoints: { retain: zzz }"),
    ("Restart", "restart: { strategy: zzz }"),
    ("Bad rows", "on_error: zzz"),
    ("Bad rows", "sources: { a: { nexmark: { kind: bid }, on_error: zzz } }"),
    ("Operators", "operators: { a: { input: b, where: c, exchange: zzz } }"),
    ("window", "operators: { a: { input: b, window: { tumbling: 1s, time: zzz } } }"),
    ("Triggers", "operators: { a: { input: b, window: { tumbling: 1s, trigger: { end: , purge: zzz } } } }"),
    ("join", "operators: { a: { input: b, join: { type: zzz } } }"),
    ("Sinks", "sinks: { a: { blackhole: , exchange: zzz } }"),
    ("Source file", "sources: { a: { file: { path: x, format: zzz } } }"),
    ("Sink file", "sinks: { a: { file: { path: x, format: zzz } } }"),
    ("Sink file", "sinks: { a: { file: { path: x, format: csv, missing_files: zzz } } }"),
    ("Source nexmark", "sources: { a: { nexmark: { kind: zzz } } }"),
    ("Source datagen", "sources: { a: { datagen: { columns: { c: { sequence: { zzz: 1 } } } } } }"),
    ("Source datagen", "sources: { a: { datagen: { columns: { c: { hash: { zzz: 1 } } } } } }"),
    ("Source datagen", "sources: { a: { datagen: { columns: { c: { random: { zzz: 1 } } } } } }"),
    ("Source datagen", "sources: { a: { datagen: { columns: { c: { prefix: { zzz: 1 } } } } } }"),
    ("Source datagen", "sources: { a: { datagen: { columns: { c: { timestamp: { zzz: 1 } } } } } }"),
    ("Format csv", "sinks: { a: { file: { path: x, format: csv, compression: zzz } } }"),
    ("Format ndjson", "sinks: { a: { file: { path: x, format: ndjson, compression: zzz } } }"),
    ("Format parquet", "sinks: { a: { file: { path: x, format: parquet, compression: zzz } } }"),
    ("Sink stdout", "sinks: { a: { stdout: { format: zzz } } }"),
    ("Columns and types", "sources: { a: { file: { path: x.csv, columns: { c: zzz } } } }"),
];

#[test]
fn every_pipeline_that_is_shown_passes_the_check() {
    for (file, least) in [("README.md", 1), ("PIPELINE.md", 20), ("OPERATORS.md", 0)] {
        let text = read(file);
        let blocks = yaml_blocks(&text);
        assert!(blocks.len() >= least, "{file} has {} YAML blocks only", blocks.len());
        for (line, info, yaml) in blocks {
            assert_eq!(info, "yaml pipeline", "{file}:{line}: a YAML block is a whole pipeline, and marked as one");
            match check(&yaml) {
                Ok(loaded) => {
                    let warnings: Vec<String> = loaded.warnings.iter().map(|w| w.plain()).collect();
                    assert!(warnings.is_empty(), "{file}:{line}: {}", warnings.join("\n"));
                }
                Err(errors) => panic!("{file}:{line}:\n{}", errors.render(false)),
            }
        }
    }
}

#[test]
fn the_reference_has_every_setting_and_no_others() {
    let text = read("PIPELINE.md");
    let mut known: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (sections, probe) in SETTINGS {
        let documented: BTreeSet<String> = sections.iter().flat_map(|s| rows_of(&text, s)).collect();
        let names = right_names(probe);
        for name in &names {
            assert!(documented.contains(name), "PIPELINE.md, {sections:?}: no table has a row for `{name}` ({probe})");
        }
        for section in *sections {
            known.entry(section).or_default().extend(names.iter().cloned());
        }
    }
    for (section, known) in known {
        for name in rows_of(&text, section) {
            assert!(known.contains(&name), "PIPELINE.md, {section}: the code knows no setting `{name}`");
        }
    }
}

#[test]
fn the_reference_has_every_value_and_type() {
    let text = read("PIPELINE.md");
    for (section, probe) in VALUES {
        let quoted = quoted(&section_of(&text, section));
        for name in right_names(probe) {
            assert!(quoted.contains(&name), "PIPELINE.md, {section}: `{name}` is missing ({probe})");
        }
    }
}

#[test]
fn the_reference_has_every_function_and_no_others() {
    let text = read("PIPELINE.md");
    let input = "sources: { a: { nexmark: { kind: bid }, event_time: { column: date_time } } }\n\
                 sinks: { c: { input: b, blackhole: } }\n";
    for (section, operator) in [
        ("Functions", "operators: { b: { input: a, where: zzz(price) } }"),
        (
            "Aggregates",
            "operators: { b: { input: a, key: [auction], window: { tumbling: 1s }, aggregates: { n: zzz(price) } } }",
        ),
    ] {
        let known: BTreeSet<String> = right_names(&format!("{input}{operator}")).into_iter().collect();
        let section = section_of(&text, section);
        let names = quoted(&section.lines().filter(|line| line.starts_with("| ")).collect::<String>());
        // What is no plain name is an example.
        let documented: BTreeSet<String> = names.into_iter().filter(|name| !name.contains('(')).collect();
        let missing: Vec<&String> = known.difference(&documented).collect();
        assert!(missing.is_empty(), "PIPELINE.md lacks the functions {missing:?}");
        let invented: Vec<&String> = documented.difference(&known).collect();
        assert!(invented.is_empty(), "PIPELINE.md has functions that do not exist: {invented:?}");
    }
}

#[test]
fn the_reference_has_the_columns_that_come_ready_made() {
    let text = read("PIPELINE.md");
    let bad = section_of(&text, "Bad rows");
    for field in DEAD_SCHEMA.fields() {
        let mark = if field.is_nullable() { "?" } else { "" };
        let row = format!("| `{}` | {}{mark} |", field.name(), type_name(field.data_type()));
        assert!(bad.contains(&row), "the columns of dead letters lack {row}");
    }
    let nexmark = section_of(&text, "Source nexmark");
    for kind in ["person", "auction", "bid"] {
        let source = registry::source("nexmark", &json!({"kind": kind}), &context(Path::new(""))).unwrap();
        let schema = source.schema();
        let columns = schema.fields().iter().map(|f| format!("`{}` {}", f.name(), type_name(f.data_type())));
        let row = format!("| `{kind}` | {} |", columns.collect::<Vec<_>>().join(", "));
        assert!(nexmark.contains(&row), "the reference lacks {row}");
    }
}

#[test]
fn the_reference_has_the_defaults_and_limits_of_the_code() {
    let text = read("PIPELINE.md");
    let options = JobOptions::default();
    let mib = |bytes: usize| format!("`{}MiB`", bytes >> 20);
    for (name, default) in [
        ("tick", format!("`{}ms`", options.tick_ms)),
        ("batch_rows", options.batch_rows.to_string()),
        ("ticks_in_flight", options.ticks_in_flight.to_string()),
        ("tick_memory", mib(options.tick_bytes)),
        ("edge_memory", mib(options.edge_bytes)),
        ("buffer_memory", mib(options.buffer_bytes)),
        ("call_time", format!("`{}s`", options.guest.call_ms / 1000)),
        ("guest_memory", mib(options.guest.memory_bytes)),
    ] {
        let row = format!("| `{name}` | {default} |");
        assert!(section_of(&text, "Options").contains(&row), "the options lack {row}");
    }
    for file in ["PIPELINE.md", "OPERATORS.md"] {
        let table = section_of(&read(file), "Limits");
        for limit in [
            format!("{} MiB", limits::GUEST_MEMORY_BYTES_MAX >> 20),
            format!("{} s", limits::GUEST_CALL_MS_MAX / 1000),
            format!("{} MiB", limits::GUEST_RETURN_BYTES_MAX >> 20),
            format!("{} MiB", limits::COMPONENT_BYTES_MAX >> 20),
            format!("{} bytes", limits::NAME_BYTES_MAX),
            format!("{} bytes", grouped(limits::TEXT_BYTES_MAX)),
        ] {
            assert!(table.contains(&format!("| {limit}")), "the limits in {file} lack {limit}");
        }
    }
    let table = section_of(&text, "Limits");
    for (what, limit) in [("rows in a batch", limits::BATCH_ROWS_MAX), ("key groups", limits::KEY_GROUPS as usize)] {
        assert!(table.contains(&format!("| {what} | {limit} |")), "the limits lack {what}");
    }
}

#[test]
fn links_lead_somewhere() {
    for file in ["README.md", "PIPELINE.md", "OPERATORS.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHECKPOINTS.md"] {
        let text = read(file);
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            if path.contains("://") {
                continue;
            }
            let target = if path.is_empty() { file } else { path };
            assert!(root().join(target).exists(), "{file}: there is no {target}");
            let found = anchor.is_empty() || anchors_of(&read(target)).contains(anchor);
            assert!(found, "{file}: {target} has no heading for #{anchor}");
        }
    }
}

/// What headings are called in links: small letters, `-` for spaces, nothing for signs.
fn anchors_of(text: &str) -> BTreeSet<String> {
    let titles = text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let letters = |title: &str| title.to_lowercase().replace(' ', "-");
    titles.map(|t| letters(t).chars().filter(|c| c.is_alphanumeric() || *c == '-').collect()).collect()
}

/// 10000 as `10,000`.
fn grouped(n: usize) -> String {
    format!("{},{:03}", n / 1000, n % 1000)
}

/// The names that the code says would be right in place of `zzz`.
fn right_names(yaml: &str) -> Vec<String> {
    let Err(errors) = check(yaml) else { panic!("no error about zzz in {yaml}") };
    let about = errors.items.iter().find(|e| e.message.contains("zzz"));
    let about = about.unwrap_or_else(|| panic!("no error about zzz in {yaml}:\n{}", errors.render(false)));
    assert!(!about.candidates.is_empty(), "no names for zzz in {yaml}:\n{}", errors.render(false));
    about.candidates.clone()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the root").to_owned()
}

fn read(file: &str) -> String {
    std::fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// Line, info string and content of each fenced YAML block.
fn yaml_blocks(text: &str) -> Vec<(usize, String, String)> {
    let (mut blocks, mut open) = (Vec::new(), None::<(usize, String, String)>);
    for (number, line) in text.lines().enumerate() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(info)) => open = Some((number + 1, info.to_owned(), String::new())),
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some((_, _, content)), None) => *content += &format!("{line}\n"),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block is not closed");
    blocks.retain(|(_, info, _)| info.starts_with("yaml") || info.starts_with("yml"));
    blocks
}

/// What stands between the heading with this title and the next heading of any level.
fn section_of(text: &str, title: &str) -> String {
    let mut lines =
        text.lines().skip_while(|line| line.trim_start_matches('#').trim() != title || !line.starts_with('#'));
    assert!(lines.next().is_some(), "there is no section `{title}`");
    let mut fenced = false;
    let own = lines.take_while(|line| {
        fenced ^= line.starts_with("```");
        fenced || !line.starts_with('#')
    });
    own.collect::<Vec<_>>().join("\n")
}

/// The names in the first cells of the tables of settings in a section.
fn rows_of(text: &str, title: &str) -> Vec<String> {
    let (mut names, mut settings) = (Vec::new(), false);
    for line in section_of(text, title).lines() {
        match line.strip_prefix("| ").and_then(|row| row.split(" |").next()) {
            Some("setting") => settings = true,
            Some(cell) if settings => names.extend(quoted(cell)),
            Some(_) => {}
            None => settings = false,
        }
    }
    names
}

/// Everything in backticks.
fn quoted(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn check(yaml: &str) -> Result<Loaded, Diagnostics> {
    load_text("pipeline.yaml", yaml.as_bytes(), &root().join("examples/orders"), &Shown)
}

fn context(base: &Path) -> ConfigContext {
    ConfigContext::new(base, Arc::new(BuiltIn))
}

/// Everything that is built in, and the components that the pages name, natively.
struct Shown;

impl Shown {
    fn entries(path: &Path) -> Result<&'static [Entry], Fault> {
        match path.file_name().and_then(|name| name.to_str()) {
            Some("orders.wasm") => Ok(ORDERS),
            Some("shop.wasm") => Ok(SHOP),
            _ => Err(Fault::config(format!("no page has the component {}", path.display()))),
        }
    }
}

impl Catalog for Shown {
    fn sources(&self) -> Vec<&'static str> {
        SOURCES.iter().map(|kind| kind.name).collect()
    }
    fn sinks(&self) -> Vec<&'static str> {
        SINKS.iter().map(|kind| kind.name).collect()
    }
    fn source(&self, kind: &str, settings: &Value, base: &Path) -> Result<Arc<dyn Source>, ConfigError> {
        registry::source(kind, settings, &context(base))
    }
    fn sink(&self, kind: &str, settings: &Value, base: &Path) -> Result<Arc<dyn Sink>, ConfigError> {
        registry::sink(kind, settings, &context(base))
    }
    fn component(&self, path: &Path) -> Result<Vec<Descriptor>, Fault> {
        Ok(Self::entries(path)?.iter().map(|entry| NativeFactory::new(entry).descriptor().clone()).collect())
    }
    fn logic(&self, path: &Path, operator: &str, _limits: GuestLimits) -> Result<Arc<dyn LogicFactory>, Fault> {
        let entry = Self::entries(path)?.iter().find(|entry| entry.name() == operator).expect("it was described");
        Ok(NativeFactory::new(entry))
    }
    fn process(&self, node: ProcessNode) -> Result<Built, ConfigError> {
        let ProcessNode { logic, inputs, keys, config, on_error, .. } = node;
        tidemill_engine::process::node(ProcessSpec {
            logic,
            inputs,
            keys,
            config,
            on_error,
            state: Arc::new(HeapFactory),
            shared: Arc::new(HeapFactory),
        })
    }
    fn expression(
        &self,
        where_: Option<&str>,
        select: Option<&[String]>,
        input: &SchemaRef,
        on_error: OnError,
    ) -> Result<Built, ConfigError> {
        tidemill_engine::expr::node(where_, select, input, on_error)
    }
    fn window(&self, spec: WindowSpec, input: &SchemaRef) -> Result<Built, ConfigError> {
        tidemill_engine::windows::window(spec, input)
    }
    fn join(&self, spec: JoinSpec, inputs: [&SchemaRef; 2]) -> Result<Built, ConfigError> {
        tidemill_engine::joins::join(spec, inputs)
    }
    fn variable(&self, _: &str) -> Option<String> {
        None
    }
}

static ORDERS: &[Entry] = &[Entry::of::<CountOrders>()];
static SHOP: &[Entry] = &[Entry::of::<CountOrders>(), Entry::of::<DearOnly>(), Entry::of::<Join>()];

#[derive(Row)]
struct Order<'a> {
    customer: &'a str,
}

#[derive(Row)]
struct Total<'a> {
    customer: &'a str,
    orders: i64,
}

#[derive(Keyed)]
struct CountOrders {
    orders: tidemill_sdk::Value<i64>,
}

impl KeyedOperator for CountOrders {
    type In<'a> = Order<'a>;
    type Out<'a> = Total<'a>;
    fn process(&mut self, order: Order<'_>, ctx: &mut Context<Self>) -> tidemill_sdk::Result<()> {
        let orders = self.orders.get_or_default() + 1;
        self.orders.set(orders);
        ctx.emit(Total { customer: order.customer, orders });
        Ok(())
    }
}

#[derive(Row)]
struct Amount {
    amount: f64,
}

#[derive(Filter)]
struct DearOnly {
    above: f64,
}

impl FilterOperator for DearOnly {
    type In<'a> = Amount;
    fn open(&mut self, config: &Config<'_>) -> tidemill_sdk::Result<()> {
        self.above = config.get("above")?;
        Ok(())
    }
    fn keep(&mut self, row: Amount) -> tidemill_sdk::Result<bool> {
        Ok(row.amount > self.above)
    }
}

#[derive(Row)]
struct Ordered {
    order: i64,
}

#[derive(Row)]
struct Payment<'a> {
    order_id: i64,
    method: &'a str,
}

#[derive(Ports)]
enum Either<'a> {
    Orders(Ordered),
    Payments(Payment<'a>),
}

#[derive(Keyed)]
struct Join {
    seen: tidemill_sdk::Value<i64>,
}

impl KeyedOperator for Join {
    type In<'a> = Either<'a>;
    type Out<'a> = Payment<'a>;
    fn process(&mut self, row: Either<'_>, ctx: &mut Context<Self>) -> tidemill_sdk::Result<()> {
        match row {
            Either::Orders(row) => self.seen.set(row.order),
            Either::Payments(row) if self.seen.get() == Some(row.order_id) => ctx.emit(row),
            Either::Payments(_) => {}
        }
        Ok(())
    }
}
