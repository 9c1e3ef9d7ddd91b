//! Who feeds whom: names to nodes, the order to build in, cycles, and nodes that feed nobody.
//!
//! Law: the order is topological and otherwise that of the file, so that it never depends on chance.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

use crate::diagnostic::Report;
use crate::names::{listed, shown};
use crate::spec::{OperatorSpec, Pipeline, StreamRef, Text};

/// A node by its section and place in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Item {
    Source(usize),
    Operator(usize),
    Sink(usize),
}

pub(crate) struct Graph {
    /// Sources, operators that are in no cycle and below none, sinks.
    pub order: Vec<Item>,
    /// Those of `order` from which a sink can be reached: the nodes of the plan.
    pub live: HashSet<Item>,
}

pub(crate) fn graph(report: &mut Report, pipeline: &Pipeline) -> Graph {
    let names = index(report, pipeline);
    check_refs(report, pipeline, &names);
    let above: Vec<Vec<usize>> = pipeline.operators.iter().map(|op| operators_above(op, &names)).collect();
    let operators = topological(&above);
    report_cycles(report, pipeline, &above, &operators);
    let live = live(pipeline, &names);
    let order = (0..pipeline.sources.len())
        .map(Item::Source)
        .chain(operators.into_iter().map(Item::Operator))
        .chain((0..pipeline.sinks.len()).map(Item::Sink))
        .collect();
    warn_unused(report, pipeline, &live);
    Graph { order, live }
}

fn items(pipeline: &Pipeline) -> impl Iterator<Item = (&Text, Item)> {
    let sources = pipeline.sources.iter().enumerate().map(|(i, s)| (&s.name, Item::Source(i)));
    let operators = pipeline.operators.iter().enumerate().map(|(i, o)| (&o.name, Item::Operator(i)));
    let sinks = pipeline.sinks.iter().enumerate().map(|(i, s)| (&s.name, Item::Sink(i)));
    sources.chain(operators).chain(sinks)
}

fn index<'a>(report: &mut Report, pipeline: &'a Pipeline) -> HashMap<&'a str, Item> {
    let mut names: HashMap<&str, (Item, &Text)> = HashMap::new();
    for (name, item) in items(pipeline) {
        if let Some((_, first)) = names.get(name.text.as_str()) {
            let error = report.error(&name.span, format!("two nodes are called `{}`", shown(&name.text)));
            error.label("again here").also(&first.span, "first here");
            error.help("sources, operators and sinks share their names: rename one of the two");
        } else {
            names.insert(&name.text, (item, name));
        }
    }
    names.into_iter().map(|(name, (item, _))| (name, item)).collect()
}

fn check_refs(report: &mut Report, pipeline: &Pipeline, names: &HashMap<&str, Item>) {
    let operators = pipeline.operators.iter().map(|op| (&op.name, op.inputs.refs().collect::<Vec<_>>()));
    let sinks = pipeline.sinks.iter().map(|sink| (&sink.name, sink.input.from.iter().collect()));
    for (own, refs) in operators.chain(sinks) {
        for stream in refs {
            check_ref(report, pipeline, names, own, stream);
        }
    }
}

fn check_ref(report: &mut Report, pipeline: &Pipeline, names: &HashMap<&str, Item>, own: &Text, stream: &StreamRef) {
    match names.get(stream.node.as_str()) {
        Some(Item::Sink(_)) if own.text != stream.node => {
            let error = report.error(&stream.span, format!("`{}` is a sink: no rows come out of it", stream.node));
            error.label("not a stream").help("take the rows from where the sink takes them");
        }
        Some(Item::Sink(_)) => {
            report.error(&stream.span, format!("`{}` takes its own rows", stream.node)).label("its own name");
        }
        Some(_) => {}
        // That there are no sources has been said.
        None if pipeline.sources.is_empty() => {}
        None => {
            let streams =
                items(pipeline).filter(|(name, item)| !matches!(item, Item::Sink(_)) && name.text != own.text);
            let candidates: Vec<&str> = streams.map(|(name, _)| name.text.as_str()).collect();
            let message = format!("there is no source or operator `{}`", shown(&stream.node));
            report.error(&stream.span, message).suggest(&stream.node, "streams", &candidates);
        }
    }
}

fn operators_above(op: &OperatorSpec, names: &HashMap<&str, Item>) -> Vec<usize> {
    let above = op.inputs.refs().filter_map(|stream| match names.get(stream.node.as_str()) {
        Some(Item::Operator(i)) => Some(*i),
        _ => None,
    });
    let mut above: Vec<usize> = above.collect();
    above.sort_unstable();
    above.dedup();
    above
}

/// Kahn's algorithm, the first in the file first.
fn topological(above: &[Vec<usize>]) -> Vec<usize> {
    let mut waiting: Vec<usize> = above.iter().map(Vec::len).collect();
    let mut below = vec![Vec::new(); above.len()];
    for (node, parents) in above.iter().enumerate() {
        parents.iter().for_each(|&parent| below[parent].push(node));
    }
    let mut ready: BinaryHeap<Reverse<usize>> = (0..above.len()).filter(|&n| waiting[n] == 0).map(Reverse).collect();
    let mut order = Vec::with_capacity(above.len());
    while let Some(Reverse(node)) = ready.pop() {
        order.push(node);
        for &child in &below[node] {
            waiting[child] -= 1;
            if waiting[child] == 0 {
                ready.push(Reverse(child));
            }
        }
    }
    order
}

/// Each cycle among the operators that have no place in the order, once.
fn report_cycles(report: &mut Report, pipeline: &Pipeline, above: &[Vec<usize>], order: &[usize]) {
    let mut seen: HashSet<usize> = order.iter().copied().collect();
    for start in 0..above.len() {
        let mut path = Vec::new();
        let mut node = start;
        while seen.insert(node) {
            path.push(node);
            // Whoever is left over has a parent that is left over.
            match above[node]
                .iter()
                .find(|&&p| path.contains(&p))
                .or_else(|| above[node].iter().find(|p| !seen.contains(p)))
            {
                Some(&parent) => node = parent,
                None => break,
            }
        }
        if let Some(at) = path.iter().position(|&n| n == node)
            && above[path[path.len() - 1]].contains(&node)
        {
            let flow: Vec<usize> = path[at..].iter().rev().copied().collect();
            report_cycle(report, pipeline, &flow);
        }
    }
}

/// `flow`: the nodes of the cycle in the direction of the rows.
fn report_cycle(report: &mut Report, pipeline: &Pipeline, flow: &[usize]) {
    let first = *flow.iter().min().expect("a cycle has nodes");
    let turn = flow.iter().position(|&n| n == first).unwrap_or(0);
    let flow: Vec<&OperatorSpec> = flow[turn..].iter().chain(&flow[..turn]).map(|&n| &pipeline.operators[n]).collect();
    let arrows: Vec<&str> = flow.iter().chain(flow.first()).map(|op| op.name.text.as_str()).collect();
    let message = match flow.as_slice() {
        [one] => format!("`{}` takes its own rows", one.name.text),
        _ => format!("rows would go round in a circle: {}", arrows.join(" → ")),
    };
    let place = |i: usize| {
        let from = &flow[(i + flow.len() - 1) % flow.len()].name.text;
        let stream = flow[i].inputs.refs().find(|stream| stream.node == *from);
        stream.map_or_else(|| flow[i].name.span.clone(), |stream| stream.span.clone())
    };
    let error = report.error(&place(0), message);
    for i in 1..flow.len().min(5) {
        error.also(&place(i), "");
    }
    error.help("a pipeline has no cycles: take one of these inputs from elsewhere");
}

fn live(pipeline: &Pipeline, names: &HashMap<&str, Item>) -> HashSet<Item> {
    let mut live: HashSet<Item> = (0..pipeline.sinks.len()).map(Item::Sink).collect();
    let mut open: Vec<&StreamRef> = pipeline.sinks.iter().flat_map(|sink| &sink.input.from).collect();
    while let Some(stream) = open.pop() {
        let Some(&item) = names.get(stream.node.as_str()) else { continue };
        if live.insert(item)
            && let Item::Operator(i) = item
        {
            open.extend(pipeline.operators[i].inputs.refs());
        }
    }
    live
}

fn warn_unused(report: &mut Report, pipeline: &Pipeline, live: &HashSet<Item>) {
    let sinks: Vec<&str> = pipeline.sinks.iter().map(|sink| sink.name.text.as_str()).collect();
    for (name, item) in items(pipeline).filter(|(_, item)| !live.contains(item)) {
        let what = if matches!(item, Item::Source(_)) { "source" } else { "operator" };
        let warning = report.warning(&name.span, format!("no sink takes rows from {what} `{}`", shown(&name.text)));
        warning.label("left out").help(format!("remove it, or lead its rows to a sink (there is {})", listed(&sinks)));
    }
}
