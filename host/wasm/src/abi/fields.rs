//! Schemas as the flat lists of fields that cross, and back.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema};

use tidemill_model::limits::NAME_BYTES_MAX;
use tidemill_model::schema::{parse_type, type_name};

use crate::bindings::exports::tidemill::operator::lifecycle::{FieldParam, FieldResult};

/// Lists and structs inside each other: deeper than any data, shallow enough for recursion.
const DEPTH_MAX: usize = 16;

/// Columns that a field takes when flattened, itself included.
pub(crate) fn width(field: &Field) -> usize {
    1 + match field.data_type() {
        DataType::List(item) => width(item),
        DataType::Struct(fields) => fields.iter().map(|f| width(f)).sum(),
        _ => 0,
    }
}

/// A name as it may stand in a component.
pub(crate) fn check_name(what: &str, name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err(format!("{what} has an empty name"));
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(format!("{what} `{name}` has a name of {} bytes, at most {NAME_BYTES_MAX} fit", name.len()));
    }
    if name.chars().any(char::is_control) {
        return Err(format!("{what} {name:?} has control characters in its name"));
    }
    Ok(())
}

/// The schema that a list of fields in pre-order spells.
pub(crate) fn schema(flat: &[FieldResult]) -> Result<Schema, String> {
    let mut rest = flat.iter();
    let mut fields: Vec<Field> = Vec::new();
    while rest.len() > 0 {
        push_unique(&mut fields, field(&mut rest, 0)?)?;
    }
    Ok(Schema::new(fields))
}

fn push_unique(fields: &mut Vec<Field>, field: Field) -> Result<(), String> {
    if fields.iter().any(|f| f.name() == field.name()) {
        return Err(format!("column `{}` is declared twice", field.name()));
    }
    fields.push(field);
    Ok(())
}

fn field(rest: &mut std::slice::Iter<'_, FieldResult>, depth: usize) -> Result<Field, String> {
    let Some(head) = rest.next() else {
        return Err("fields end before all children have come".to_owned());
    };
    check_name("column", &head.name)?;
    if depth > DEPTH_MAX {
        return Err(format!("column `{}` is nested more than {DEPTH_MAX} deep", head.name));
    }
    let wrong = |what: String| Err(format!("column `{}`: {what}", head.name));
    let ty = match (head.type_name.as_str(), head.children) {
        ("list", 1) => DataType::List(Arc::new(field(rest, depth + 1)?)),
        ("list", n) => return wrong(format!("a list has 1 child, not {n}")),
        ("struct", 0) => return wrong("a struct needs at least one child".to_owned()),
        ("struct", n) => {
            let mut children = Vec::new();
            for _ in 0..n {
                push_unique(&mut children, field(rest, depth + 1)?)?;
            }
            DataType::Struct(Fields::from(children))
        }
        (name, _) if name.starts_with("list(") || name.starts_with("struct(") => {
            return wrong(format!("`{name}`: nested types are `list` and `struct` with their children behind them"));
        }
        (name, 0) => match parse_type(name) {
            Ok(ty) => ty,
            Err(error) => return wrong(error),
        },
        (name, n) => return wrong(format!("{name} has no children, not {n}")),
    };
    Ok(Field::new(&head.name, ty, head.nullable))
}

/// A schema in pre-order: (name, type name, nullable, children).
pub(crate) struct Flat(Vec<(String, String, bool, u32)>);

impl Flat {
    pub(crate) fn of(schema: Option<&Schema>) -> Self {
        let mut flat = Self(Vec::new());
        for field in schema.into_iter().flat_map(|s| s.fields().iter()) {
            flat.push(field);
        }
        flat
    }

    pub(crate) fn fields<'a>(&'a self) -> Vec<FieldParam<'a>> {
        let field = |(name, type_name, nullable, children): &'a (String, String, bool, u32)| FieldParam {
            name,
            type_name,
            nullable: *nullable,
            children: *children,
        };
        self.0.iter().map(field).collect()
    }

    fn push(&mut self, field: &Field) {
        let (type_name, children): (String, Vec<&Field>) = match field.data_type() {
            DataType::List(item) => ("list".to_owned(), vec![item.as_ref()]),
            DataType::Struct(fields) => ("struct".to_owned(), fields.iter().map(|f| f.as_ref()).collect()),
            other => (type_name(other), Vec::new()),
        };
        self.0.push((field.name().clone(), type_name, field.is_nullable(), children.len() as u32));
        for child in children {
            self.push(child);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `name type children` per line, `?` behind the type for nullable.
    fn flat(text: &str) -> Vec<FieldResult> {
        let field = |line: &str| {
            let mut words = line.split(' ').map(str::to_owned);
            let (name, ty) = (words.next().unwrap(), words.next().unwrap());
            let children = words.next().map_or(0, |n| n.parse().unwrap());
            FieldResult { name, type_name: ty.trim_end_matches('?').to_owned(), nullable: ty.ends_with('?'), children }
        };
        text.split("; ").filter(|line| !line.is_empty()).map(field).collect()
    }

    #[test]
    fn schemas_are_flattened_in_pre_order_and_back() {
        for (text, expected) in [
            ("", ""),
            ("a int64; b utf8?", "a:int64,b:utf8?"),
            ("a list 1; item utf8?", "a:list(utf8?)"),
            (
                "a struct? 2; x list 1; item struct 1; y date; z bool; b decimal128(5,2)",
                "a:struct(x:list(struct(y:date)),z:bool)?,b:decimal128(5,2)",
            ),
        ] {
            let schema = schema(&flat(text)).unwrap();
            let shown = type_name(&DataType::Struct(schema.fields().clone()));
            assert_eq!(shown, format!("struct({expected})"));
            let back: Vec<(String, String, bool, u32)> =
                flat(text).into_iter().map(|f| (f.name, f.type_name, f.nullable, f.children)).collect();
            assert_eq!(Flat::of(Some(&schema)).0, back);
            assert_eq!(schema.fields().iter().map(|f| width(f)).sum::<usize>(), back.len());
        }
    }

    #[test]
    fn fields_that_spell_no_schema() {
        let (long, deep) = (format!("{} int8", "x".repeat(65)), "a list 1; ".repeat(18));
        for (text, expected) in [
            ("a int", "column `a`: `int` is not a type"),
            ("a int64; a utf8", "column `a` is declared twice"),
            ("a struct 2; x int8; x int8", "column `x` is declared twice"),
            ("a list 2; x int8; y int8", "column `a`: a list has 1 child, not 2"),
            ("a list 1", "fields end before all children have come"),
            ("a struct 0", "column `a`: a struct needs at least one child"),
            ("a int64 1; b int64", "column `a`: int64 has no children, not 1"),
            (
                "a list(int8)",
                "column `a`: `list(int8)`: nested types are `list` and `struct` with their children behind them",
            ),
            (" int64", "column has an empty name"),
            ("a\nb int64", "column \"a\\nb\" has control characters in its name"),
            (
                &long,
                "column `xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx` has a name of 65 bytes, at most 64 fit",
            ),
            (&deep, "column `a` is nested more than 16 deep"),
        ] {
            assert_eq!(schema(&flat(text)).unwrap_err(), expected);
        }
    }
}
