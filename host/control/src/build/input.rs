//! What reaches an input: streams by name and port, unions, key columns.

use arrow::datatypes::{Schema, SchemaRef};
use arrow::row::{RowConverter, SortField};
use tidemill_model::plan::{Edge, Exchange, NodeId};
use tidemill_model::schema::type_name;

use super::{Builder, EventTimes, Stream};
use crate::diagnostic::Report;
use crate::names::shown;
use crate::spec::{Input, StreamRef, Text};

/// One input, resolved.
#[derive(Clone)]
pub(super) struct Arrived {
    pub schema: SchemaRef,
    pub from: Vec<(NodeId, usize)>,
    pub times: EventTimes,
    /// The streams as the file names them.
    pub names: Vec<String>,
}

impl Arrived {
    /// Edges into the input number `input`.
    pub(super) fn edges(&self, input: usize, exchange: &Exchange) -> Vec<Edge> {
        let edge = |&(from, port): &(NodeId, usize)| Edge { from, port, input, exchange: exchange.clone() };
        self.from.iter().map(edge).collect()
    }
}

impl Builder<'_> {
    /// `None` if there is nothing to go on: an error has been reported here or above.
    pub(super) fn arrive(&mut self, input: &Input) -> Option<Arrived> {
        let mut arrived: Option<Arrived> = None;
        let mut complete = true;
        for stream in &input.from {
            let Some((schema, id, port, times)) = self.stream(stream) else {
                complete = false;
                continue;
            };
            let name =
                stream.port.as_ref().map_or_else(|| stream.node.clone(), |port| format!("{}.{port}", stream.node));
            let Some(union) = &mut arrived else {
                arrived = Some(Arrived { schema, from: vec![(id, port)], times, names: vec![name] });
                continue;
            };
            complete &= check_union(self.report, union, stream, &schema);
            union.from.push((id, port));
            union.names.push(name);
            if let EventTimes::Missing { .. } = times {
                union.times = times;
            }
        }
        arrived.filter(|_| complete)
    }

    /// Schema, node, port number and times of a stream.
    fn stream(&mut self, stream: &StreamRef) -> Option<(SchemaRef, NodeId, usize, EventTimes)> {
        let found: &Stream = self.streams.get(stream.node.as_str())?;
        let port = match &stream.port {
            None => 0,
            Some(port) => match found.outputs.iter().position(|(name, _)| name == port) {
                Some(index) => index,
                None => {
                    let names: Vec<String> = found.outputs.iter().map(|(name, _)| name.clone()).collect();
                    let error =
                        self.report.error(&stream.span, format!("`{}` has no output `{}`", stream.node, shown(port)));
                    match names.as_slice() {
                        [_] => error.help(format!("it has one output only: write `{}`", stream.node)),
                        _ => error.suggest(port, "outputs", &names),
                    };
                    return None;
                }
            },
        };
        let Some((_, schema)) = found.outputs.get(port) else {
            self.report
                .error(&stream.span, format!("`{}` has no outputs", stream.node))
                .label("no rows come out of it");
            return None;
        };
        // A node outside of the plan feeds only nodes outside of the plan, whose edges are dropped with them.
        Some((schema.clone(), found.id.unwrap_or_default(), port, found.times.clone()))
    }

    /// Indices of the key columns in `schema`.
    pub(super) fn key_columns(&mut self, columns: &[Text], arrived: &Arrived) -> Option<Vec<usize>> {
        let indices: Vec<usize> = columns.iter().filter_map(|column| self.key_column(column, arrived)).collect();
        (indices.len() == columns.len()).then_some(indices)
    }

    fn key_column(&mut self, column: &Text, arrived: &Arrived) -> Option<usize> {
        let Some((index, field)) = arrived.schema.column_with_name(&column.text) else {
            let message = format!("`{}` has no column `{}`", arrived.names.join("`, `"), shown(&column.text));
            let names = column_names(&arrived.schema);
            self.report.error(&column.span, message).suggest(&column.text, "columns", &names);
            return None;
        };
        // Files may have types that no pipeline can name, and some of those have no encoding as a key.
        if !RowConverter::supports_fields(&[SortField::new(field.data_type().clone())]) {
            let message = format!("column `{}` cannot be a key: it is {}", column.text, type_name(field.data_type()));
            self.report.error(&column.span, message);
            return None;
        }
        Some(index)
    }
}

pub(super) fn column_names(schema: &Schema) -> Vec<&str> {
    schema.fields().iter().map(|field| field.name().as_str()).collect()
}

/// All streams of a union have the same columns in the same order.
fn check_union(report: &mut Report, union: &Arrived, stream: &StreamRef, schema: &SchemaRef) -> bool {
    let differences = differences(&union.schema, schema);
    if differences.is_empty() {
        return true;
    }
    let first = &union.names[0];
    let message = format!("`{first}` and `{}` cannot be one stream: their columns differ", stream.node);
    let mut label = differences.iter().take(4).cloned().collect::<Vec<_>>().join("; ");
    if differences.len() > 4 {
        label.push_str(&format!("; {} more", differences.len() - 4));
    }
    let error = report.error(&stream.span, message);
    error.label(label);
    let columns: Vec<String> = column_names(&union.schema).iter().take(8).map(|c| format!("\"{c}\"")).collect();
    let more = if union.schema.fields().len() > 8 { ", ..." } else { "" };
    let columns = columns.join(", ");
    error.help(format!(
        "bring them to the same columns with a node before the union: `select: [{columns}{more}]`, \
         with CAST(c AS T) AS c where types differ"
    ));
    false
}

/// What `other` has that `first` has not, and so on, in words.
fn differences(first: &Schema, other: &Schema) -> Vec<String> {
    let mut words = Vec::new();
    for field in first.fields() {
        match other.column_with_name(field.name()) {
            None => words.push(format!("`{}` is missing here", field.name())),
            Some((_, found)) if found.data_type() != field.data_type() => words.push(format!(
                "`{}` is {} here, {} there",
                field.name(),
                type_name(found.data_type()),
                type_name(field.data_type())
            )),
            Some((_, found)) if found.is_nullable() != field.is_nullable() => {
                let (here, there) = if found.is_nullable() { ("may", "may not") } else { ("may not", "may") };
                words.push(format!("`{}` {here} be null here, {there} there", field.name()));
            }
            Some(_) => {}
        }
    }
    let extra = other.fields().iter().filter(|field| first.column_with_name(field.name()).is_none());
    words.extend(extra.map(|field| format!("`{}` is here only", field.name())));
    if words.is_empty() && column_names(first) != column_names(other) {
        words.push("the same columns in another order".to_owned());
    }
    words
}
