//! Patterns of the plan.

use serde_json::Value;
use tidemill_model::fault::OnError;
use tidemill_model::pattern::PatternSpec;
use tidemill_model::plan::Exchange;

use super::operator::Made;
use super::refusal::{config_error, expression_error};
use super::{Builder, EventTimes};
use crate::diagnostic::Span;
use crate::spec::{OperatorSpec, Text};

impl Builder<'_> {
    pub(super) fn pattern(
        &mut self,
        spec: &OperatorSpec,
        span: &Span,
        pattern: &Value,
        select: &[Text],
        on_error: OnError,
    ) -> Option<Made> {
        let arrived = self.only_input(spec)?;
        let name = &spec.name.text;
        let timed = self.need_times(span, &format!("`{name}` is a pattern over event time"), &arrived.times);
        if let Some((_, span)) = &spec.exchange {
            let error =
                self.report.error(span, format!("`{name}` is a pattern: its rows go to the worker of their key"));
            error.label("remove it");
        }
        let key = spec.key.as_ref()?;
        if let Some((port, _)) = key.by_input.first() {
            let error = self.report.error(&port.span, "a pattern has one input");
            error.label("no input name here").help("`key: [COLUMN]`");
            return None;
        }
        let keys = self.key_columns(&key.all, &arrived)?;
        if !timed {
            return None;
        }
        let node = PatternSpec {
            pattern: pattern.clone(),
            select: select.iter().map(|item| item.text.clone()).collect(),
            key: keys.clone(),
            on_error,
        };
        let built = match self.catalog.pattern(node, &arrived.schema) {
            Ok(built) => built,
            Err(error) => {
                let in_select = error.path.first().is_some_and(|part| part == "select");
                match self.blamed(&error, None, select).filter(|_| in_select) {
                    Some(text) => expression_error(self.report, text, &error),
                    None => config_error(self.report, &spec.settings, &spec.name.span, &error),
                }
                return None;
            }
        };
        let stages = pattern.get("stages").and_then(Value::as_array).map_or(0, Vec::len);
        Some(Made {
            built,
            edges: arrived.edges(0, &Exchange::Key(keys)),
            times: EventTimes::Given,
            kind: format!("pattern of {stages} stage{}", if stages == 1 { "" } else { "s" }),
            inputs: vec![(String::new(), arrived.names)],
            key: key.all.iter().map(|column| column.text.clone()).collect(),
        })
    }
}
