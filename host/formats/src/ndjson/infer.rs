//! The schema that the first lines of a file show.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use tidemill_model::Fault;

use crate::lines::{Lines, Ready};

/// Rows looked at: enough to meet the usual optional keys, quick enough for `check`.
const INFER_ROWS_MAX: usize = 1000;

/// All columns are nullable: rows further on may lack what the first ones have. Lines that are not JSON
/// objects are passed over; reading rejects them.
pub(super) fn schema(mut lines: Lines) -> Result<SchemaRef, Fault> {
    let (mut all, mut rows) = (Shape::Null, 0);
    while rows < INFER_ROWS_MAX {
        match lines.ready()? {
            Ready::Region => {}
            Ready::TooLong(_) => continue,
            Ready::End => break,
        }
        let region = lines.region();
        let bytes = memchr::memchr(b'\n', region).map_or(region.len(), |i| i + 1);
        if let Ok(shape @ Shape::Object(_)) = serde_json::from_slice(&region[..bytes]) {
            all = all.merge(shape).map_err(|clash| {
                let line = lines.line_number().unwrap_or_default();
                Fault::data(format!("`{}`, line {line}: {clash}", lines.name()))
                    .with_help("name the columns and their types under `columns`")
            })?;
            rows += 1;
        }
        lines.consume(bytes, 1);
    }
    match all {
        Shape::Object(fields) => Ok(Arc::new(Schema::new(arrow_fields(&fields)))),
        _ => Err(Fault::config(format!("`{}` has no row to tell its columns from", lines.name()))
            .with_help("name the columns and their types under `columns`")),
    }
}

/// What a JSON value, or all values of a column, look like.
#[derive(Clone, Debug, PartialEq)]
enum Shape {
    Null,
    Bool,
    Int,
    /// Beyond int64.
    Unsigned,
    Float,
    Text,
    List(Box<Shape>),
    /// In the order of the file.
    Object(Vec<(String, Shape)>),
}

impl Shape {
    /// The shape that holds both. `Err` says why there is none.
    fn merge(self, other: Shape) -> Result<Shape, String> {
        use Shape::*;
        Ok(match (self, other) {
            (Null, shape) | (shape, Null) => shape,
            (a, b) if a == b => a,
            (Int, Unsigned) | (Unsigned, Int) => Unsigned,
            (Int | Unsigned | Float, Int | Unsigned | Float) => Float,
            (List(a), List(b)) => List(Box::new(a.merge(*b)?)),
            (Object(a), Object(b)) => Object(merge_fields(a, b)?),
            (a, b) => return Err(format!("{} here, but {} before", b.name(), a.name())),
        })
    }

    fn name(&self) -> &'static str {
        match self {
            Shape::Null => "null",
            Shape::Bool => "bool",
            Shape::Int | Shape::Unsigned | Shape::Float => "a number",
            Shape::Text => "text",
            Shape::List(_) => "a list",
            Shape::Object(_) => "an object",
        }
    }

    fn data_type(&self) -> DataType {
        match self {
            Shape::Null | Shape::Text => DataType::Utf8,
            Shape::Bool => DataType::Boolean,
            Shape::Int => DataType::Int64,
            Shape::Unsigned => DataType::UInt64,
            Shape::Float => DataType::Float64,
            Shape::List(item) => DataType::List(Arc::new(Field::new("item", item.data_type(), true))),
            Shape::Object(fields) => DataType::Struct(arrow_fields(fields)),
        }
    }
}

fn merge_fields(mut all: Vec<(String, Shape)>, more: Vec<(String, Shape)>) -> Result<Vec<(String, Shape)>, String> {
    for (name, shape) in more {
        match all.iter_mut().find(|(n, _)| *n == name) {
            Some((_, old)) => {
                let before = std::mem::replace(old, Shape::Null);
                *old = before.merge(shape).map_err(|clash| format!("column `{name}`: {clash}"))?;
            }
            None => all.push((name, shape)),
        }
    }
    Ok(all)
}

fn arrow_fields(fields: &[(String, Shape)]) -> Fields {
    fields.iter().map(|(name, shape)| Field::new(name, shape.data_type(), true)).collect()
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ShapeVisitor)
    }
}

struct ShapeVisitor;

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_unit<E>(self) -> Result<Shape, E> {
        Ok(Shape::Null)
    }
    fn visit_bool<E>(self, _: bool) -> Result<Shape, E> {
        Ok(Shape::Bool)
    }
    fn visit_i64<E>(self, _: i64) -> Result<Shape, E> {
        Ok(Shape::Int)
    }
    fn visit_u64<E>(self, value: u64) -> Result<Shape, E> {
        Ok(if i64::try_from(value).is_ok() { Shape::Int } else { Shape::Unsigned })
    }
    fn visit_f64<E>(self, _: f64) -> Result<Shape, E> {
        Ok(Shape::Float)
    }
    fn visit_str<E>(self, _: &str) -> Result<Shape, E> {
        Ok(Shape::Text)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Shape, A::Error> {
        let mut all = Shape::Null;
        while let Some(item) = items.next_element::<Shape>()? {
            all = all.merge(item).map_err(serde::de::Error::custom)?;
        }
        Ok(Shape::List(Box::new(all)))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Shape, A::Error> {
        let mut fields = Vec::new();
        while let Some(entry) = entries.next_entry::<String, Shape>()? {
            fields = merge_fields(fields, vec![entry]).map_err(serde::de::Error::custom)?;
        }
        Ok(Shape::Object(fields))
    }
}
