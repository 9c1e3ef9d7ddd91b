//! Joins of the plan.

use tidemill_model::fault::OnError;
use tidemill_model::join::{JoinKind, JoinSpec, JoinType, SIDES};
use tidemill_model::plan::Exchange;

use super::Builder;
use super::component::{check_key_types, times};
use super::input::Arrived;
use super::operator::{Made, key_names};
use super::refusal::{config_error, expression_error};
use crate::describe::duration;
use crate::names::shown;
use crate::spec::{Inputs, JoinLogic, Key, OperatorSpec};

const INPUTS: &str = "`inputs: { left: NODE, right: NODE }`";

impl Builder<'_> {
    pub(super) fn join(&mut self, spec: &OperatorSpec, join: &JoinLogic, on_error: OnError) -> Option<Made> {
        let arrived = self.both(spec)?;
        let name = &spec.name.text;
        if let Some((_, span)) = &spec.exchange {
            self.report
                .error(span, format!("`{name}` is a join: its rows go to the worker of their key"))
                .label("remove it");
        }
        let timed = self.need_times(&join.span, &format!("`{name}` joins by event time"), &times(&arrived));
        let keys = self.join_keys(spec.key.as_ref()?, &arrived)?;
        if !timed {
            return None;
        }
        let node = JoinSpec {
            kind: join.kind,
            join_type: join.join_type,
            keys: keys.clone(),
            condition: join.filter.as_ref().map(|text| text.text.clone()),
            select: join.select.as_ref().map(|texts| texts.iter().map(|text| text.text.clone()).collect()),
            on_error,
        };
        let built = match self.catalog.join(node, [&arrived[0].schema, &arrived[1].schema]) {
            Ok(built) => built,
            Err(error) => {
                let of_text = matches!(error.path.first().map(String::as_str), Some("where" | "select"));
                let select = join.select.as_deref().unwrap_or_default();
                match self.blamed(&error, join.filter.as_ref(), select).filter(|_| of_text) {
                    Some(text) => expression_error(self.report, text, &error),
                    None => config_error(self.report, &spec.settings, &spec.name.span, &error),
                }
                return None;
            }
        };
        let sides = arrived.iter().zip(&keys).enumerate();
        let edges = sides.flat_map(|(side, (input, key))| input.edges(side, &Exchange::Key(key.clone()))).collect();
        Some(Made {
            built,
            edges,
            times: times(&arrived),
            kind: kind(join),
            inputs: arrived.iter().zip(SIDES).map(|(input, side)| (side.to_owned(), input.names.clone())).collect(),
            key: key_names(&keys[0], &arrived[0]),
        })
    }

    /// Left and right.
    fn both(&mut self, spec: &OperatorSpec) -> Option<Vec<Arrived>> {
        let inputs = match &spec.inputs {
            Inputs::Named(inputs, span) => {
                let mut good = true;
                for (name, _) in inputs.iter().filter(|(name, _)| !SIDES.contains(&name.text.as_str())) {
                    let message = format!("a join has no input `{}`", shown(&name.text));
                    self.report.error(&name.span, message).suggest(&name.text, "inputs", &SIDES);
                    good = false;
                }
                for side in SIDES.iter().filter(|side| good && !inputs.iter().any(|(name, _)| name.text == **side)) {
                    let error = self.report.error(span, format!("nothing reaches the input `{side}`"));
                    error.label("not complete").help(INPUTS);
                }
                inputs
            }
            Inputs::One(input) => {
                // Without any the file has been told so.
                if let Some(first) = input.from.first() {
                    let error = self.report.error(&first.span, "a join has two inputs: `left` and `right`");
                    error.label("which one?").help(INPUTS);
                }
                return None;
            }
        };
        let input = |side: &str| inputs.iter().find(|(name, _)| name.text == side).map(|(_, input)| input);
        let (left, right) = (input(SIDES[0]), input(SIDES[1]));
        let (left, right) = (left.and_then(|input| self.arrive(input)), right.and_then(|input| self.arrive(input)));
        Some(vec![left?, right?])
    }

    fn join_keys(&mut self, key: &Key, arrived: &[Arrived]) -> Option<[Vec<usize>; 2]> {
        if let Some((name, _)) = key.by_input.iter().find(|(name, _)| !SIDES.contains(&name.text.as_str())) {
            let message = format!("a join has no input `{}`", shown(&name.text));
            self.report.error(&name.span, message).suggest(&name.text, "inputs", &SIDES);
            return None;
        }
        let mut keys = Vec::new();
        for (side, input) in SIDES.iter().zip(arrived) {
            let own = key.by_input.iter().find(|(name, _)| name.text == *side).map(|(_, columns)| columns);
            let columns = if key.by_input.is_empty() { Some(&key.all) } else { own };
            let Some(columns) = columns else {
                self.report.error(&key.span, format!("no key for the input `{side}`")).label("not complete");
                return None;
            };
            keys.push(self.key_columns(columns, input));
        }
        let keys: Vec<Vec<usize>> = keys.into_iter().collect::<Option<_>>()?;
        check_key_types(self.report, key, &SIDES, arrived, &keys).then_some(())?;
        keys.try_into().ok()
    }
}

fn kind(join: &JoinLogic) -> String {
    let time = match join.kind {
        JoinKind::Interval { lower_ms, upper_ms } => {
            format!("interval join, right from {} to {}", signed(lower_ms), signed(upper_ms))
        }
        JoinKind::Temporal => "temporal join".to_owned(),
        JoinKind::Window { size_ms, slide_ms, .. } if size_ms == slide_ms => {
            format!("join by tumbling window, {}", duration(size_ms))
        }
        JoinKind::Window { size_ms, slide_ms, .. } => {
            format!("join by sliding window, {} each {}", duration(size_ms), duration(slide_ms))
        }
    };
    match join.join_type {
        JoinType::Inner => time,
        other => format!("{time}, {}", other.name()),
    }
}

fn signed(ms: i64) -> String {
    let sign = if ms < 0 { "-" } else { "" };
    format!("{sign}{}", duration(ms.saturating_abs()))
}
