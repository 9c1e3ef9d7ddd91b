//! Operators of the plan: expressions; components and windows stand in their own files.

use tidemill_model::ConfigError;
use tidemill_model::fault::OnError;
use tidemill_model::plan::{Built, Edge, Exchange, Node as PlanNode, NodeKind};

use super::input::{Arrived, column_names};
use super::node::time_columns;
use super::refusal::{config_error, expression_error};
use super::{Builder, EventTimes};
use crate::NodeSummary;
use crate::diagnostic::Span;
use crate::graph::Item;
use crate::names::listed;
use crate::spec::{ExchangeSpec, Input, Inputs, LogicSpec, OperatorSpec, Text};
use crate::tree::word_in;

/// An operator that was built, and what is to be told about it.
pub(super) struct Made {
    pub built: Built,
    pub edges: Vec<Edge>,
    pub times: EventTimes,
    pub kind: String,
    /// By input: its name if it has one, and its streams.
    pub inputs: Vec<(String, Vec<String>)>,
    pub key: Vec<String>,
}

impl Builder<'_> {
    pub(super) fn operator(&mut self, item: Item, spec: &OperatorSpec) {
        let on_error = self.on_error(spec.on_error.as_ref());
        let made = match &spec.logic {
            Some(LogicSpec::Expression { filter, select }) => {
                self.expression(spec, filter.as_ref(), select.as_deref(), on_error)
            }
            Some(LogicSpec::Window(window)) => self.window(spec, window, on_error),
            Some(LogicSpec::Join(join)) => self.join(spec, join, on_error),
            Some(LogicSpec::Component { path, operator, config }) => {
                self.process(spec, path, operator.as_ref(), config, on_error)
            }
            None => None,
        };
        let Some(made) = made else { return };
        let name = spec.name.text.clone();
        let outputs = made.built.outputs;
        let summary = NodeSummary {
            name: name.clone(),
            kind: made.kind,
            inputs: made.inputs,
            key: made.key,
            outputs: outputs.clone(),
            event_time: None,
            dead_letter: on_error == OnError::DeadLetter,
        };
        let schemas = outputs.iter().map(|(_, schema)| schema.clone()).collect();
        let kind = NodeKind::Operator { factory: made.built.factory };
        let node = PlanNode { name, kind, inputs: made.edges, outputs: schemas };
        self.add(item, node, made.times, summary);
    }

    fn expression(
        &mut self,
        spec: &OperatorSpec,
        filter: Option<&Text>,
        select: Option<&[Text]>,
        on_error: OnError,
    ) -> Option<Made> {
        let arrived = self.only_input(spec)?;
        let where_ = filter.map(|text| text.text.as_str());
        let columns: Option<Vec<String>> = select.map(|texts| texts.iter().map(|text| text.text.clone()).collect());
        let built = match self.catalog.expression(where_, columns.as_deref(), &arrived.schema, on_error) {
            Ok(built) => built,
            Err(error) => {
                let text = self.blamed(&error, filter, select.unwrap_or_default());
                match text {
                    Some(text) => expression_error(self.report, text, &error),
                    None => config_error(self.report, &spec.settings, &spec.name.span, &error),
                }
                return None;
            }
        };
        let kind = match (filter, select) {
            (Some(_), Some(_)) => "where and select",
            (Some(_), None) => "where",
            _ => "select",
        };
        let edges = arrived.edges(0, &stateless_exchange(spec));
        let inputs = vec![(String::new(), arrived.names)];
        Some(Made { built, edges, times: arrived.times, kind: kind.to_owned(), inputs, key: Vec::new() })
    }

    /// The expression that an error is about: by its path, by its wrong name, or the first one.
    pub(super) fn blamed<'t>(
        &self,
        error: &ConfigError,
        filter: Option<&'t Text>,
        select: &'t [Text],
    ) -> Option<&'t Text> {
        match error.path.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["where", ..] => return filter,
            ["select", index, ..] => return index.parse::<usize>().ok().and_then(|index| select.get(index)),
            _ => {}
        }
        let mut texts = filter.into_iter().chain(select);
        let mut has =
            |name: &String| texts.clone().find(|text| word_in(self.report.text(), &text.span, name).is_some());
        error.name.as_ref().and_then(&mut has).or_else(|| texts.next())
    }

    /// Whether the rows have event times; if not, `why` they must is an error.
    pub(super) fn need_times(&mut self, span: &Span, why: &str, times: &EventTimes) -> bool {
        let EventTimes::Missing { source } = times else { return true };
        let message = format!("{why}, but rows from source `{source}` have none");
        let columns = self.streams.get(source.as_str()).and_then(|stream| stream.outputs.first());
        let columns = columns.map_or_else(Vec::new, |(_, schema)| {
            time_columns(schema).into_iter().map(str::to_owned).collect::<Vec<_>>()
        });
        let help = match columns.as_slice() {
            [] => format!("`{source}` has no column that could be one: int64 (ms since 1970) or a timestamp"),
            [one] => format!("give `{source}` one: `event_time: {{ column: {one}, delay: 5s }}`"),
            several => {
                format!("give `{source}` one: `event_time: {{ column: NAME, delay: 5s }}` with {}", listed(several))
            }
        };
        self.report.error(span, message).label("needs event time").help(help);
        false
    }

    /// The input of a node that has only one.
    pub(super) fn only_input(&mut self, spec: &OperatorSpec) -> Option<Arrived> {
        match &spec.inputs {
            Inputs::One(input) => self.arrive(input),
            Inputs::Named(_, span) => {
                let message = format!("`{}` has one input without a name", spec.name.text);
                let error = self.report.error(span, message);
                error
                    .label("for components and joins")
                    .help("write `input: NODE`, or `input: [NODE, NODE]` for a union");
                None
            }
        }
    }

    /// The input, resolved, with the place where it stands.
    pub(super) fn arrive_at(&mut self, input: &Input) -> Option<(Arrived, Span)> {
        let span = input.from.first()?.span.clone();
        Some((self.arrive(input)?, span))
    }
}

/// The columns' names of a key.
pub(super) fn key_names(keys: &[usize], arrived: &Arrived) -> Vec<String> {
    let names = column_names(&arrived.schema);
    keys.iter().map(|&k| names[k].to_owned()).collect()
}

pub(super) fn stateless_exchange(spec: &OperatorSpec) -> Exchange {
    match spec.exchange {
        Some((ExchangeSpec::Rebalance, _)) => Exchange::Rebalance,
        _ => Exchange::Forward,
    }
}
