//! Operators that a component holds: found, and checked against what reaches them.

use std::collections::HashMap;
use std::path::PathBuf;

use arrow::datatypes::{DataType, SchemaRef};
use tidemill_model::Fault;
use tidemill_model::component::{Descriptor, LogicKind, Port};
use tidemill_model::fault::OnError;
use tidemill_model::plan::Exchange;
use tidemill_model::schema::type_name;

use super::input::Arrived;
use super::operator::{Made, key_names, stateless_exchange};
use super::refusal::config_error;
use super::{Builder, EventTimes, fit};
use crate::catalog::ProcessNode;
use crate::diagnostic::{Report, Span};
use crate::names::{listed, nearest, shown};
use crate::spec::{Inputs, Key, OperatorSpec, Text};

/// What was asked of the catalog: the operators by path, `None` if that failed.
pub(super) type Cache = HashMap<PathBuf, Option<Vec<Descriptor>>>;

impl Builder<'_> {
    pub(super) fn process(
        &mut self,
        spec: &OperatorSpec,
        component: &Text,
        operator: Option<&Text>,
        config: &[(String, String)],
        on_error: OnError,
    ) -> Option<Made> {
        let (path, place) = self.component_path(component)?;
        self.load(&path, &place)?;
        let descriptors = self.components[&path].clone()?;
        let descriptor = choose(self.report, &descriptors, component, operator)?;
        let arrived = self.inputs(spec, descriptor)?;
        let keys = self.keys(spec, descriptor, &arrived)?;
        let logic = match self.catalog.logic(&path, &descriptor.name, self.pipeline.options.guest) {
            Ok(logic) => logic,
            Err(fault) => {
                report_fault(self.report, &place, &fault);
                return None;
            }
        };
        let exchange = |i: usize| match (descriptor.inputs[i].broadcast, keys[i].is_empty()) {
            (true, _) => Exchange::Broadcast,
            (false, false) => Exchange::Key(keys[i].clone()),
            (false, true) => stateless_exchange(spec),
        };
        let edges = arrived.iter().enumerate().flat_map(|(i, input)| input.edges(i, &exchange(i))).collect();
        let several = descriptor.inputs.len() > 1;
        let port_name = |i: usize| {
            let Port { name, broadcast, .. } = &descriptor.inputs[i];
            let name = if several { name.as_str() } else { "" };
            if *broadcast { format!("{name} (broadcast)").trim_start().to_owned() } else { name.to_owned() }
        };
        let keyed = keys.iter().zip(&arrived).find(|(key, _)| !key.is_empty());
        let made = Made {
            edges,
            times: times(&arrived),
            kind: format!("component {}, operator {}", component.text, descriptor.name),
            inputs: arrived.iter().enumerate().map(|(i, input)| (port_name(i), input.names.clone())).collect(),
            key: keyed.map_or_else(Vec::new, |(key, input)| key_names(key, input)),
            built: {
                let inputs: Vec<SchemaRef> = arrived.iter().map(|input| input.schema.clone()).collect();
                let (name, config) = (spec.name.text.clone(), config.to_vec());
                let (options, base) = (self.pipeline.options.clone(), self.base.to_owned());
                let node = ProcessNode { name, logic, inputs, keys: keys.clone(), config, on_error, options, base };
                match self.catalog.process(node) {
                    Ok(built) => built,
                    Err(error) => {
                        config_error(self.report, &spec.settings, &spec.name.span, &error);
                        return None;
                    }
                }
            },
        };
        self.warn_times(spec, descriptor, &made.times);
        Some(made)
    }

    /// By alias or by path. The place is where the path stands.
    fn component_path(&mut self, component: &Text) -> Option<(PathBuf, Span)> {
        let aliases = &self.pipeline.components;
        if let Some((_, path)) = aliases.iter().find(|(name, _)| name.text == component.text) {
            return Some((self.base.join(&path.text), path.span.clone()));
        }
        if component.text.contains(['/', '\\']) || component.text.ends_with(".wasm") {
            return Some((self.base.join(&component.text), component.span.clone()));
        }
        let names: Vec<&str> = aliases.iter().map(|(name, _)| name.text.as_str()).collect();
        let error = self.report.error(&component.span, format!("there is no component `{}`", shown(&component.text)));
        error.suggest(&component.text, "components", &names);
        if nearest(&component.text, &names).is_none() {
            error.help("name its file here, or give it a name at the top: `components: { NAME: PATH.wasm }`");
        }
        None
    }

    /// Asks the catalog once per path.
    fn load(&mut self, path: &PathBuf, place: &Span) -> Option<()> {
        if !self.components.contains_key(path) {
            let loaded = match self.catalog.component(path) {
                Ok(descriptors) => Some(descriptors),
                Err(fault) => {
                    report_fault(self.report, place, &fault);
                    None
                }
            };
            self.components.insert(path.clone(), loaded);
        }
        self.components[path].as_ref().map(|_| ())
    }

    /// Components that are named at the top: loaded if a node uses them, else worth a warning.
    pub(super) fn check_components(&mut self) {
        let mut seen: HashMap<&str, &Span> = HashMap::new();
        for (name, path) in &self.pipeline.components {
            seen.insert(&name.text, &name.span);
            if !self.pipeline.operators.iter().any(|op| uses(op, &name.text)) {
                let warning =
                    self.report.warning(&name.span, format!("no operator uses component `{}`", shown(&name.text)));
                warning
                    .label(format!("not loaded: {}", shown(&path.text)))
                    .help("remove it, or use it: `component: NAME`");
            }
        }
    }

    /// What reaches each input of the operator, in its order.
    fn inputs(&mut self, spec: &OperatorSpec, descriptor: &Descriptor) -> Option<Vec<Arrived>> {
        let node = &spec.name.text;
        let named: Vec<(usize, &crate::spec::Input)> = match &spec.inputs {
            Inputs::One(input) if descriptor.inputs.len() == 1 => vec![(0, input)],
            Inputs::One(input) => {
                let names = port_names(descriptor);
                let place = input.from.first().map_or(&spec.name.span, |stream| &stream.span);
                let message = format!("operator `{}` has {} inputs: {}", descriptor.name, names.len(), listed(&names));
                let ports: Vec<String> = names.iter().map(|name| format!("{name}: NODE")).collect();
                let error = self.report.error(place, message);
                error.label("which one?").help(format!("`inputs: {{ {} }}`", ports.join(", ")));
                return None;
            }
            Inputs::Named(inputs, span) => self.ports(descriptor, inputs, span)?,
        };
        let mut arrived = Vec::new();
        let mut good = true;
        for (port, input) in named {
            match self.arrive_at(input) {
                Some((input, place)) => {
                    good &= fit::check(self.report, node, &descriptor.inputs[port], &input, &place);
                    arrived.push(input);
                }
                None => good = false,
            }
        }
        good.then_some(arrived)
    }

    /// `inputs:` in the order of the descriptor, complete.
    fn ports<'b>(
        &mut self,
        descriptor: &Descriptor,
        inputs: &'b [(Text, crate::spec::Input)],
        span: &Span,
    ) -> Option<Vec<(usize, &'b crate::spec::Input)>> {
        let names = port_names(descriptor);
        let mut good = true;
        for (name, _) in inputs.iter().filter(|(name, _)| !names.contains(&name.text.as_str())) {
            let message = format!("operator `{}` has no input `{}`", descriptor.name, shown(&name.text));
            self.report.error(&name.span, message).suggest(&name.text, "inputs", &names);
            good = false;
        }
        let mut found = Vec::new();
        for (index, name) in names.iter().enumerate() {
            match inputs.iter().find(|(given, _)| given.text == *name) {
                Some((_, input)) => found.push((index, input)),
                None if good => {
                    let error = self.report.error(span, format!("nothing reaches the input `{name}`"));
                    error.label("not complete").help(format!(
                        "operator `{}` has the inputs {}",
                        descriptor.name,
                        listed(&names)
                    ));
                    good = false;
                }
                None => {}
            }
        }
        good.then_some(found)
    }

    /// The key columns of each input.
    fn keys(&mut self, spec: &OperatorSpec, descriptor: &Descriptor, arrived: &[Arrived]) -> Option<Vec<Vec<usize>>> {
        let name = &descriptor.name;
        match (descriptor.kind, &spec.key) {
            (LogicKind::Keyed, Some(key)) => {
                if let Some((_, span)) = &spec.exchange {
                    let message = format!("operator `{name}` is keyed: its rows go to the worker of their key");
                    self.report.error(span, message).label("remove it");
                    return None;
                }
                self.keys_by_input(key, descriptor, arrived)
            }
            (LogicKind::Keyed, None) if !descriptor.needs_key() => Some(vec![Vec::new(); arrived.len()]),
            (LogicKind::Keyed, None) => {
                let error = self.report.error(
                    &spec.name.span,
                    format!("operator `{name}` keeps state per key, but the node has no `key`"),
                );
                error.label("needs a key").help("say by what its rows are partitioned: `key: [COLUMN]`");
                None
            }
            (_, Some(key)) => {
                let error = self.report.error(&key.span, format!("operator `{name}` has no state: it needs no `key`"));
                error.label("no use here").help("remove `key`");
                None
            }
            (_, None) => Some(vec![Vec::new(); arrived.len()]),
        }
    }

    fn keys_by_input(&mut self, key: &Key, descriptor: &Descriptor, arrived: &[Arrived]) -> Option<Vec<Vec<usize>>> {
        let names = port_names(descriptor);
        if let Some((name, _)) = key.by_input.iter().find(|(name, _)| !names.contains(&name.text.as_str())) {
            let message = format!("operator `{}` has no input `{}`", descriptor.name, shown(&name.text));
            self.report.error(&name.span, message).suggest(&name.text, "inputs", &names);
            return None;
        }
        let is_broadcast = |port: usize| descriptor.inputs[port].broadcast;
        if let Some((name, _)) = key
            .by_input
            .iter()
            .find(|(name, _)| descriptor.inputs.iter().any(|port| port.broadcast && port.name == name.text))
        {
            let message = format!("the input `{}` is broadcast: every worker gets all its rows", shown(&name.text));
            let error = self.report.error(&name.span, message);
            error.label("has no key").help("name the key columns of the other inputs only");
            return None;
        }
        if (0..arrived.len()).all(is_broadcast) {
            let message = format!("all inputs of operator `{}` are broadcast: their rows have no key", descriptor.name);
            self.report.error(&key.span, message).label("no use here").help("remove `key`");
            return None;
        }
        let mut keys = Vec::new();
        for (port, input) in arrived.iter().enumerate() {
            if is_broadcast(port) {
                keys.push(Some(Vec::new()));
                continue;
            }
            let own = key.by_input.iter().find(|(name, _)| name.text == names[port]).map(|(_, columns)| columns);
            let columns = if key.by_input.is_empty() { Some(&key.all) } else { own };
            let Some(columns) = columns else {
                self.report.error(&key.span, format!("no key for the input `{}`", names[port])).label("not complete");
                return None;
            };
            keys.push(self.key_columns(columns, input));
        }
        let keys: Vec<Vec<usize>> = keys.into_iter().collect::<Option<_>>()?;
        check_key_types(self.report, key, &names, arrived, &keys).then_some(keys)
    }

    /// An operator that reads event times from a stream that has none will see none.
    fn warn_times(&mut self, spec: &OperatorSpec, descriptor: &Descriptor, times: &EventTimes) {
        if let EventTimes::Missing { source } = times
            && descriptor.reads_time
        {
            let message =
                format!("operator `{}` reads event times, but rows from source `{source}` have none", descriptor.name);
            let warning = self.report.warning(&spec.name.span, message);
            warning.help(format!("give `{source}` one: `event_time: {{ column: NAME, delay: 5s }}`"));
        }
    }
}

/// One key has one type, whatever the input: else equal keys would not meet.
pub(super) fn check_key_types(
    report: &mut Report,
    key: &Key,
    names: &[&str],
    arrived: &[Arrived],
    keys: &[Vec<usize>],
) -> bool {
    let types = |input: usize| -> Vec<&DataType> {
        keys[input].iter().map(|&column| arrived[input].schema.field(column).data_type()).collect()
    };
    let words = |types: &[&DataType]| types.iter().map(|t| type_name(t)).collect::<Vec<_>>().join(", ");
    // Rows of a broadcast input have no key.
    let mut keyed = (0..names.len()).filter(|&input| !keys[input].is_empty());
    let Some(first) = keyed.next() else { return true };
    for input in keyed {
        if types(input) != types(first) {
            let error = report.error(&key.span, "the key has another type in each input");
            let (name, other) = (names[first], names[input]);
            error.label(format!("{} in `{name}`, {} in `{other}`", words(&types(first)), words(&types(input))));
            error.help("equal keys must have equal types to meet: convert one with CAST in a `select` before");
            return false;
        }
    }
    true
}

fn uses(op: &OperatorSpec, alias: &str) -> bool {
    op.settings.entries().iter().any(|entry| entry.key == "component" && entry.value.to_json().as_str() == Some(alias))
}

pub(super) fn times(arrived: &[Arrived]) -> EventTimes {
    let missing = arrived.iter().find(|input| matches!(input.times, EventTimes::Missing { .. }));
    missing.map_or(EventTimes::Given, |input| input.times.clone())
}

fn port_names(descriptor: &Descriptor) -> Vec<&str> {
    descriptor.inputs.iter().map(|port| port.name.as_str()).collect()
}

/// The operator that is meant: by name, or the only one.
fn choose<'b>(
    report: &mut Report,
    descriptors: &'b [Descriptor],
    component: &Text,
    operator: Option<&Text>,
) -> Option<&'b Descriptor> {
    let names: Vec<&str> = descriptors.iter().map(|d| d.name.as_str()).collect();
    match (operator, descriptors) {
        (Some(name), _) => descriptors.iter().find(|d| d.name == name.text).or_else(|| {
            let message = format!("component `{}` has no operator `{}`", shown(&component.text), shown(&name.text));
            report.error(&name.span, message).suggest(&name.text, "operators", &names);
            None
        }),
        (None, [one]) => Some(one),
        (None, []) => {
            report.error(&component.span, "the component has no operators").label("empty");
            None
        }
        (None, _) => {
            let message = format!("component `{}` has {} operators: which one?", shown(&component.text), names.len());
            report.error(&component.span, message).help(format!("`operator: NAME` with {}", listed(&names)));
            None
        }
    }
}

fn report_fault(report: &mut Report, place: &Span, fault: &Fault) {
    let error = report.error(place, &fault.message);

    if let Some(help) = &fault.help {
        error.help(help);
    }
}
