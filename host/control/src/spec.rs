//! The pipeline as the file states it: everything named and in place, nothing resolved.
//!
//! Law: an item that could be read in part is kept, so that what refers to it is not called unknown.

use serde_json::Value;
use tidemill_model::fault::OnError;
use tidemill_model::join::{JoinKind, JoinType};
use tidemill_model::logic::TimeDomain;
use tidemill_model::plan::JobOptions;
use tidemill_model::window::{Trigger, Windows};

use crate::diagnostic::Span;
use crate::tree::{Entry, Node, Tree};

/// Text with its place.
#[derive(Clone, Debug)]
pub(crate) struct Text {
    pub text: String,
    pub span: Span,
}

/// A whole file.
#[derive(Debug)]
pub(crate) struct Pipeline {
    pub name: Option<Text>,
    /// For nodes that say nothing themselves.
    pub on_error: Option<(OnError, Span)>,
    pub dead_letter: Option<Connector>,
    /// Also if it could not be read.
    pub dead_letter_given: bool,
    pub options: JobOptions,
    pub components: Vec<(Text, Text)>,
    pub sources: Vec<SourceSpec>,
    pub operators: Vec<OperatorSpec>,
    pub sinks: Vec<SinkSpec>,
}

/// A source's or sink's kind with its settings.
#[derive(Debug)]
pub(crate) struct Connector {
    pub kind: Text,
    pub settings: Node,
}

impl Connector {
    /// The settings as a connector reads them. JSON maps have no order, but columns have one: the names
    /// and types in `columns: { b: int64, a: utf8 }` go as a list of maps of one, `[{ b: int64 }, { a: utf8 }]`.
    pub(crate) fn json(&self) -> Value {
        let mut json = self.settings.to_json();
        let columns = self.settings.entries().iter().find(|entry| entry.key == "columns");
        if let (Value::Object(settings), Some(entry)) = (&mut json, columns) {
            let maps = match &entry.value.value {
                Tree::List(items) => items.as_slice(),
                _ => std::slice::from_ref(&entry.value),
            };
            let all_maps = maps.iter().all(|map| matches!(map.value, Tree::Map(_)));
            let mut named = maps.iter().flat_map(Node::entries);
            if all_maps
                && named.clone().all(|entry| matches!(entry.value.value, Tree::Scalar(_)))
                && named.next().is_some()
            {
                let single = |e: &Entry| Value::Object([(e.key.clone(), e.value.to_json())].into_iter().collect());
                settings.insert(entry.key.clone(), maps.iter().flat_map(Node::entries).map(single).collect());
            }
        }
        json
    }
}

#[derive(Debug)]
pub(crate) struct SourceSpec {
    pub name: Text,
    pub connector: Option<Connector>,
    pub event_time: Option<EventTime>,
    pub on_error: Option<(OnError, Span)>,
}

#[derive(Debug)]
pub(crate) struct EventTime {
    pub column: Text,
    pub delay_ms: i64,
    pub idle_ms: Option<i64>,
}

#[derive(Debug)]
pub(crate) struct SinkSpec {
    pub name: Text,
    pub input: Input,
    pub exchange: Option<(ExchangeSpec, Span)>,
    pub connector: Option<Connector>,
}

#[derive(Debug)]
pub(crate) struct OperatorSpec {
    pub name: Text,
    pub inputs: Inputs,
    pub key: Option<Key>,
    pub exchange: Option<(ExchangeSpec, Span)>,
    /// `None`: its kind could not be told.
    pub logic: Option<LogicSpec>,
    pub on_error: Option<(OnError, Span)>,
    /// All settings, for errors with a path.
    pub settings: Node,
}

/// What reaches one input: one stream, or the union of several.
#[derive(Debug, Default)]
pub(crate) struct Input {
    pub from: Vec<StreamRef>,
}

#[derive(Debug)]
pub(crate) enum Inputs {
    /// `input:`, whatever the operator calls it.
    One(Input),
    /// `inputs:`, by the name of the port.
    Named(Vec<(Text, Input)>, Span),
}

impl Inputs {
    pub(crate) fn refs(&self) -> impl Iterator<Item = &StreamRef> {
        let (one, named) = match self {
            Inputs::One(input) => (Some(input), None),
            Inputs::Named(inputs, _) => (None, Some(inputs)),
        };
        one.into_iter().chain(named.into_iter().flatten().map(|(_, input)| input)).flat_map(|input| &input.from)
    }
}

/// `NODE` or `NODE.PORT`.
#[derive(Clone, Debug)]
pub(crate) struct StreamRef {
    pub node: String,
    pub port: Option<String>,
    pub span: Span,
}

/// Key columns: of all inputs, or by input.
#[derive(Debug)]
pub(crate) struct Key {
    pub span: Span,
    pub all: Vec<Text>,
    pub by_input: Vec<(Text, Vec<Text>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExchangeSpec {
    Forward,
    Rebalance,
}

#[derive(Debug)]
pub(crate) enum LogicSpec {
    Expression { filter: Option<Text>, select: Option<Vec<Text>> },
    Component { path: Text, operator: Option<Text>, config: Vec<(String, String)> },
    Window(WindowSpec),
    Join(JoinLogic),
}

#[derive(Debug)]
pub(crate) struct JoinLogic {
    pub span: Span,
    pub kind: JoinKind,
    pub join_type: JoinType,
    pub filter: Option<Text>,
    pub select: Option<Vec<Text>>,
}

#[derive(Debug)]
pub(crate) struct WindowSpec {
    pub span: Span,
    pub windows: Windows,
    pub time: TimeDomain,
    pub offset_ms: i64,
    pub allowed_lateness_ms: i64,
    pub trigger: Option<Trigger>,
    pub aggregates: Vec<(Text, Text)>,
}
