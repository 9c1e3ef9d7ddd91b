//! Sources and sinks of the plan.

use arrow::datatypes::{DataType, Schema};
use tidemill_model::event_time::is_event_time;
use tidemill_model::fault::OnError;
use tidemill_model::plan::{EventTimeSpec, Exchange, Node as PlanNode, NodeKind};
use tidemill_model::schema::type_name;
use tidemill_model::time::WatermarkStrategy;

use super::input::column_names;
use super::refusal::config_error;
use super::{Builder, EventTimes};
use crate::describe::duration;
use crate::graph::Item;
use crate::names::{listed, shown};
use crate::spec::{EventTime, ExchangeSpec, SinkSpec, SourceSpec};
use crate::{NodeSummary, diagnostic::Report};

impl Builder<'_> {
    pub(super) fn source(&mut self, item: Item, spec: &SourceSpec) {
        let on_error = self.on_error(spec.on_error.as_ref());
        let Some(connector) = &spec.connector else { return };
        let settings = connector.json();
        let source = match self.catalog.source(&connector.kind.text, &settings, self.base) {
            Ok(source) => source,
            Err(error) => return config_error(self.report, &connector.settings, &connector.kind.span, &error),
        };
        let schema = source.schema();
        let event_time = match &spec.event_time {
            Some(given) => match event_time(self.report, given, &schema) {
                Some(event_time) => Some(event_time),
                None => return,
            },
            None => None,
        };
        let times = match event_time {
            Some(_) => EventTimes::Given,
            None => EventTimes::Missing { source: spec.name.text.clone() },
        };
        let summary = NodeSummary {
            name: spec.name.text.clone(),
            kind: format!("source, {}{}", connector.kind.text, if source.bounded() { "" } else { ", unbounded" }),
            inputs: Vec::new(),
            key: Vec::new(),
            outputs: vec![("rows".to_owned(), schema.clone())],
            event_time: spec.event_time.as_ref().map(event_time_words),
            dead_letter: on_error == OnError::DeadLetter,
        };
        let kind = NodeKind::Source { source, event_time, on_error };
        let node = PlanNode { name: spec.name.text.clone(), kind, inputs: Vec::new(), outputs: vec![schema] };
        self.add(item, node, times, summary);
    }

    pub(super) fn sink(&mut self, item: Item, spec: &SinkSpec) {
        let sink = spec.connector.as_ref().and_then(|connector| Some((connector, self.unchecked_sink(connector)?)));
        let Some(arrived) = self.arrive(&spec.input) else { return };
        let Some((connector, sink)) = sink else { return };
        if !self.check_accepts(connector, sink.as_ref(), &arrived.schema) {
            return;
        }
        let why = format!("`{}` makes directories by event time", spec.name.text);
        if sink.needs_times() && !self.need_times(&connector.kind.span, &why, &arrived.times) {
            return;
        }
        let exchange = match spec.exchange {
            Some((ExchangeSpec::Rebalance, _)) => Exchange::Rebalance,
            _ => Exchange::Forward,
        };
        let inputs = arrived.edges(0, &exchange);
        let kind = NodeKind::Sink { sink, schema: arrived.schema };
        let node = PlanNode { name: spec.name.text.clone(), kind, inputs, outputs: Vec::new() };
        let summary = NodeSummary {
            name: spec.name.text.clone(),
            kind: format!("sink, {}", connector.kind.text),
            inputs: vec![(String::new(), arrived.names)],
            key: Vec::new(),
            outputs: Vec::new(),
            event_time: None,
            dead_letter: false,
        };
        self.add(item, node, arrived.times, summary);
    }
}

fn event_time_words(given: &EventTime) -> String {
    let idle = given.idle_ms.map_or_else(String::new, |ms| format!(", idle after {}", duration(ms)));
    format!("{}, at most {} late{idle}", given.column.text, duration(given.delay_ms))
}

fn event_time(report: &mut Report, given: &EventTime, schema: &Schema) -> Option<EventTimeSpec> {
    let column = &given.column;
    let Some((index, field)) = schema.column_with_name(&column.text) else {
        let error = report.error(&column.span, format!("the source has no column `{}`", shown(&column.text)));
        error.suggest(&column.text, "columns", &column_names(schema));
        return None;
    };
    if !is_event_time(field.data_type()) {
        let message =
            format!("column `{}` cannot be the event time: it is {}", column.text, type_name(field.data_type()));
        let error = report.error(&column.span, message);
        error.label("neither int64 (ms since 1970) nor a timestamp");
        let others = time_columns(schema);
        if !others.is_empty() {
            error.help(format!("columns that can be: {}", listed(&others)));
        }
        return None;
    }
    let strategy = WatermarkStrategy { delay_ms: given.delay_ms, idle_after_ms: given.idle_ms };
    Some(EventTimeSpec { column: index, strategy })
}

/// Timestamps if there are any, else the columns that may hold ms.
pub(super) fn time_columns(schema: &Schema) -> Vec<&str> {
    let of = |wanted: fn(&DataType) -> bool| -> Vec<&str> {
        schema.fields().iter().filter(|field| wanted(field.data_type())).map(|field| field.name().as_str()).collect()
    };
    let timestamps = of(|t| matches!(t, DataType::Timestamp(..)));
    if timestamps.is_empty() { of(is_event_time) } else { timestamps }
}
