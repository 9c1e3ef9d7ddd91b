//! Pipeline to plan: everything looked up in the catalog and checked against what reaches it.
//!
//! Law: a node whose inputs are in error is silent about everything that depends on them.

mod component;
mod fit;
mod input;
mod join;
mod node;
mod operator;
mod refusal;
mod window;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use tidemill_model::dead::DEAD_SCHEMA;
use tidemill_model::fault::OnError;
use tidemill_model::plan::{Node as PlanNode, NodeId, Plan};
use tidemill_model::sink::Sink;

use crate::NodeSummary;
use crate::catalog::Catalog;
use crate::diagnostic::{Report, Span};
use crate::graph::{Graph, Item};
use crate::spec::{Connector, Pipeline};
use refusal::config_error;

/// The plan and what is to be told about each of its nodes. Both incomplete if errors were reported.
pub(crate) fn build(
    report: &mut Report,
    pipeline: &Pipeline,
    graph: &Graph,
    name: &str,
    base: &Path,
    catalog: &dyn Catalog,
) -> (Plan, Vec<NodeSummary>) {
    let ids = graph.order.iter().filter(|item| graph.live.contains(item)).enumerate();
    let ids = ids.map(|(id, item)| (*item, id)).collect();
    let mut builder = Builder {
        report,
        pipeline,
        base,
        catalog,
        ids,
        streams: HashMap::new(),
        components: HashMap::new(),
        nodes: Vec::new(),
        summaries: Vec::new(),
    };
    builder.check_on_error(pipeline.on_error.as_ref());
    for item in &graph.order {
        match *item {
            Item::Source(i) => builder.source(*item, &pipeline.sources[i]),
            Item::Operator(i) => builder.operator(*item, &pipeline.operators[i]),
            Item::Sink(i) => builder.sink(*item, &pipeline.sinks[i]),
        }
    }
    builder.check_components();
    builder.check_targets();
    let dead_letter = builder.dead_letter();
    let plan = Plan { name: name.to_owned(), nodes: builder.nodes, dead_letter, options: pipeline.options.clone() };
    (plan, builder.summaries)
}

/// Whether the rows of a stream have event times; if not, one of the sources without.
#[derive(Clone, Debug)]
enum EventTimes {
    Given,
    Missing { source: String },
}

/// What comes out of a node.
struct Stream {
    /// `None`: not in the plan.
    id: Option<NodeId>,
    outputs: Vec<(String, SchemaRef)>,
    times: EventTimes,
}

struct Builder<'a> {
    report: &'a mut Report,
    pipeline: &'a Pipeline,
    base: &'a Path,
    catalog: &'a dyn Catalog,
    ids: HashMap<Item, NodeId>,
    /// By name; those in error are missing.
    streams: HashMap<String, Stream>,
    components: component::Cache,
    nodes: Vec<PlanNode>,
    summaries: Vec<NodeSummary>,
}

impl<'a> Builder<'a> {
    /// A resolved node: into the plan if it is live, and for those below it.
    fn add(&mut self, item: Item, node: PlanNode, times: EventTimes, summary: NodeSummary) {
        let id = self.ids.get(&item).copied();
        if !matches!(item, Item::Sink(_)) {
            let outputs = summary.outputs.clone();
            self.streams.insert(node.name.clone(), Stream { id, outputs, times });
        }
        if id.is_some() {
            self.nodes.push(node);
            self.summaries.push(summary);
        }
    }

    fn on_error(&mut self, own: Option<&(OnError, Span)>) -> OnError {
        self.check_on_error(own);
        let default = if self.pipeline.dead_letter.is_some() { OnError::DeadLetter } else { OnError::Fail };
        own.or(self.pipeline.on_error.as_ref()).map_or(default, |(on_error, _)| *on_error)
    }

    fn check_on_error(&mut self, given: Option<&(OnError, Span)>) {
        if let Some((OnError::DeadLetter, span)) = given
            && !self.pipeline.dead_letter_given
        {
            let error = self.report.error(span, "the pipeline has no dead-letter output");
            error.label("bad rows have nowhere to go");
            error.help("add one at the top: `dead_letter: { file: { path: out/dead, format: ndjson } }`");
        }
    }

    fn dead_letter(&mut self) -> Option<Arc<dyn Sink>> {
        let connector = self.pipeline.dead_letter.as_ref()?;
        let sink = self.open_sink(connector, &DEAD_SCHEMA)?;
        if sink.needs_times() {
            let error = self.report.error(&connector.kind.span, "dead letters are not written by event time");
            error
                .label("makes directories by event time")
                .help("a bad row may have none: make them by columns, such as `operator`");
            return None;
        }
        Some(sink)
    }

    /// A configured sink that accepts `schema`.
    fn open_sink(&mut self, connector: &Connector, schema: &SchemaRef) -> Option<Arc<dyn Sink>> {
        let sink = self.unchecked_sink(connector)?;
        self.check_accepts(connector, sink.as_ref(), schema).then_some(sink)
    }

    fn unchecked_sink(&mut self, connector: &Connector) -> Option<Arc<dyn Sink>> {
        let settings = connector.json();
        match self.catalog.sink(&connector.kind.text, &settings, self.base) {
            Ok(sink) => Some(sink),
            Err(error) => {
                config_error(self.report, &connector.settings, &connector.kind.span, &error);
                None
            }
        }
    }

    fn check_accepts(&mut self, connector: &Connector, sink: &dyn Sink, schema: &SchemaRef) -> bool {
        let Err(fault) = sink.accepts(schema) else { return true };
        let error = self.report.error(&connector.kind.span, &fault.message);
        error.label("cannot take these rows");
        if let Some(help) = fault.help {
            error.help(help);
        }
        false
    }

    /// Warns where two sinks would write to the same place.
    fn check_targets(&mut self) {
        let dead = self.pipeline.dead_letter.as_ref();
        let connectors = self.pipeline.sinks.iter().filter_map(|sink| sink.connector.as_ref()).chain(dead);
        let mut seen: HashMap<(&str, String), &Span> = HashMap::new();
        for connector in connectors {
            let path = connector.settings.entries().iter().find(|entry| entry.key == "path");
            let Some(path) =
                path.and_then(|entry| Some((entry.value.to_json().as_str()?.to_owned(), &entry.value.span)))
            else {
                continue;
            };
            match seen.get(&(connector.kind.text.as_str(), path.0.clone())) {
                Some(first) => {
                    let warning = self.report.warning(path.1, "two sinks write to the same path");
                    warning
                        .label("again here")
                        .also(first, "first here")
                        .help("give each its own, or union their inputs");
                }
                None => {
                    seen.insert((&connector.kind.text, path.0), path.1);
                }
            }
        }
    }
}
