//! Windows of the plan.

use tidemill_model::fault::OnError;
use tidemill_model::logic::TimeDomain;
use tidemill_model::plan::Exchange;
use tidemill_model::window::{Fires, Gap, Trigger, WindowSpec as WindowNode, Windows};

use super::operator::Made;
use super::refusal::config_error;
use super::{Builder, EventTimes};
use crate::describe::duration;
use crate::spec::{OperatorSpec, WindowSpec};

impl Builder<'_> {
    pub(super) fn window(&mut self, spec: &OperatorSpec, window: &WindowSpec, on_error: OnError) -> Option<Made> {
        let arrived = self.only_input(spec)?;
        let name = &spec.name.text;
        let fires_by_event = matches!(window.trigger, Some(Trigger { fires: Fires::Every(TimeDomain::Event, _), .. }));
        let needs_times = fires_by_event || window.time == TimeDomain::Event && window.windows.bounded();
        let timed = !needs_times
            || self.need_times(&window.span, &format!("`{name}` is a window over event time"), &arrived.times);
        if let Some((_, span)) = &spec.exchange {
            self.report
                .error(span, format!("`{name}` is a window: its rows go to the worker of their key"))
                .label("remove it");
        }
        let key = spec.key.as_ref()?;
        if let Some((port, _)) = key.by_input.first() {
            self.report.error(&port.span, "a window has one input").label("no input name here").help("`key: [COLUMN]`");
            return None;
        }
        let keys = self.key_columns(&key.all, &arrived)?;
        if !timed {
            return None;
        }
        let node = WindowNode {
            windows: window.windows.clone(),
            time: window.time,
            offset_ms: window.offset_ms,
            allowed_lateness_ms: window.allowed_lateness_ms,
            trigger: window.trigger.clone(),
            key: keys.clone(),
            aggregates: window.aggregates.iter().map(|(n, sql)| (n.text.clone(), sql.text.clone())).collect(),
            on_error,
        };
        let built = match self.catalog.window(node, &arrived.schema) {
            Ok(built) => built,
            Err(error) => {
                config_error(self.report, &spec.settings, &spec.name.span, &error);
                return None;
            }
        };
        Some(Made {
            built,
            edges: arrived.edges(0, &Exchange::Key(keys)),
            times: if needs_times { EventTimes::Given } else { arrived.times },
            kind: describe(window),
            inputs: vec![(String::new(), arrived.names)],
            key: key.all.iter().map(|column| column.text.clone()).collect(),
        })
    }
}

/// In a few words.
fn describe(window: &WindowSpec) -> String {
    let count = |trigger: &Trigger| match trigger {
        Trigger { fires: Fires::Count(rows), purge: true } => Some(*rows),
        _ => None,
    };
    let kind = match &window.windows {
        Windows::Tumbling { size_ms } => format!("tumbling window, {}", duration(*size_ms)),
        Windows::Sliding { size_ms, slide_ms } => {
            format!("sliding window, {} each {}", duration(*size_ms), duration(*slide_ms))
        }
        Windows::Cumulate { size_ms, step_ms } => {
            format!("cumulating window, {} in steps of {}", duration(*size_ms), duration(*step_ms))
        }
        Windows::Session(Gap::Ms(gap)) => format!("session window, gap {}", duration(*gap)),
        Windows::Session(Gap::Of(gap)) => format!("session window, gap `{gap}`"),
        Windows::Global => match window.trigger.as_ref().and_then(count) {
            Some(rows) => return format!("count window, {rows} rows"),
            None => "global window".to_owned(),
        },
    };
    let clock = if window.time == TimeDomain::Processing { ", processing time" } else { "" };
    let trigger = match window.trigger.as_ref().map(|trigger| &trigger.fires) {
        None | Some(Fires::AtEnd) => String::new(),
        Some(Fires::Count(rows)) => format!(", fires each {rows} rows"),
        Some(Fires::Every(_, ms)) => format!(", fires each {}", duration(*ms)),
        Some(Fires::Early(ms)) => format!(", fires early each {}", duration(*ms)),
        Some(Fires::Delta { threshold, .. }) => format!(", fires at a difference of {threshold}"),
    };
    kind + clock + &trigger
}
