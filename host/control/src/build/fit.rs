//! What a component declares against what reaches it, and the words that repair it.

use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use tidemill_model::component::Port;
use tidemill_model::schema::{Mismatch, project, type_name};

use super::input::{Arrived, column_names};
use crate::diagnostic::{Report, Span};
use crate::names::{listed, nearest};

/// Columns up to which a repair lists them all: a select list has to name those that stay.
const LISTED_COLUMNS_MAX: usize = 12;

/// Reports each column that does not fit at `place`, the `input:` of the node.
pub(super) fn check(report: &mut Report, node: &str, port: &Port, arrived: &Arrived, place: &Span) -> bool {
    let Err(mismatches) = project(&arrived.schema, &port.schema) else { return true };
    let repairs: Vec<Option<String>> =
        mismatches.iter().map(|m| expression(m, &arrived.schema, &port.schema)).collect();
    let mut select = Some(select(&mismatches, &repairs, &arrived.schema));
    for (mismatch, repair) in mismatches.iter().zip(&repairs) {
        let message =
            format!("`{node}` cannot read `{}`: {}", arrived.names.join("`, `"), in_words(mismatch, &port.schema));
        let error = report.error(place, message);
        error.label(label(mismatch, &arrived.schema));
        error.help(match (repair, mismatch) {
            (None, _) => declare(mismatch),
            // The first one tells the whole list, the others their part of it.
            (Some(repair), _) => select.take().unwrap_or_else(|| format!("with `{repair}` in the same `select`")),
        });
    }
    false
}

/// A select list that repairs all that can be.
fn select(mismatches: &[Mismatch], repairs: &[Option<String>], have: &Schema) -> String {
    let repaired =
        |name: &str| mismatches.iter().zip(repairs).find(|(m, _)| column(m) == name).and_then(|(_, r)| r.clone());
    let mut items: Vec<String> = Vec::new();
    if have.fields().len() > LISTED_COLUMNS_MAX {
        items.push("COLUMNS THAT STAY".to_owned());
    } else {
        let stay = have.fields().iter().filter(|field| repaired(field.name()).is_none());
        items.extend(stay.map(|field| format!("\"{}\"", field.name())));
    }
    items.extend(repairs.iter().flatten().map(|repair| format!("\"{repair}\"")));
    let missing_only = mismatches.iter().all(|m| matches!(m, Mismatch::Missing { .. }));
    if missing_only {
        items.retain(|item| item.contains(" AS "));
        items.insert(0, "\"*\"".to_owned());
    }
    format!("put a node before it: `select: [{}]`", items.join(", "))
}

fn column(mismatch: &Mismatch) -> &str {
    match mismatch {
        Mismatch::Missing { column } | Mismatch::Type { column, .. } | Mismatch::Nullable { column } => column,
    }
}

/// What only the operator can repair.
fn declare(mismatch: &Mismatch) -> String {
    match mismatch {
        Mismatch::Type { column, have, .. } => format!("declare `{column}` as {have} in the operator"),
        other => format!("declare `{}` as an option in the operator", column(other)),
    }
}

/// The item of a select list that makes the column fit.
fn expression(mismatch: &Mismatch, have: &Schema, want: &Schema) -> Option<String> {
    let name = column(mismatch);
    let field = want.field_with_name(name).ok()?;
    let nullable = have.field_with_name(name).is_ok_and(Field::is_nullable);
    let expression = match mismatch {
        Mismatch::Missing { .. } => nearest(name, &column_names(have)).unwrap_or("EXPRESSION").to_owned(),
        Mismatch::Type { .. } => cast(name, field, nullable)?,
        Mismatch::Nullable { .. } => filled(name, field.data_type())?,
    };
    Some(format!("{expression} AS {name}"))
}

fn in_words(mismatch: &Mismatch, want: &Schema) -> String {
    match mismatch {
        Mismatch::Missing { column } => {
            let declared = want.field_with_name(column).map_or_else(|_| String::new(), |f| type_name(f.data_type()));
            format!("it declares a column `{column}` ({declared}) that is not there")
        }
        other => other.to_string(),
    }
}

fn label(mismatch: &Mismatch, have: &Schema) -> String {
    match mismatch {
        Mismatch::Missing { column } => match nearest(column, &column_names(have)) {
            Some(near) => format!("has `{near}`"),
            None => format!("has {}", listed(&column_names(have))),
        },
        Mismatch::Type { column, have, .. } => format!("`{column}` is {have}"),
        Mismatch::Nullable { column } => format!("`{column}` may be null"),
    }
}

/// SQL that makes `column` what `want` says.
fn cast(column: &str, want: &Field, nullable: bool) -> Option<String> {
    let cast = format!("CAST({column} AS {})", sql_type(want.data_type())?);
    if nullable && !want.is_nullable() { filled(&cast, want.data_type()) } else { Some(cast) }
}

/// SQL that puts a value in place of null, of exactly this type.
fn filled(expression: &str, data_type: &DataType) -> Option<String> {
    let filled = format!("coalesce({expression}, {})", zero(data_type)?);
    // Numbers in SQL are int64 and float64, and so is what they stand in for.
    let exact = matches!(data_type, DataType::Boolean | DataType::Utf8 | DataType::Int64 | DataType::Float64);
    if exact { Some(filled) } else { Some(format!("CAST({filled} AS {})", sql_type(data_type)?)) }
}

fn sql_type(data_type: &DataType) -> Option<String> {
    let plain = match data_type {
        DataType::Boolean => "BOOLEAN",
        DataType::Int8 => "TINYINT",
        DataType::Int16 => "SMALLINT",
        DataType::Int32 => "INT",
        DataType::Int64 => "BIGINT",
        DataType::UInt8 => "TINYINT UNSIGNED",
        DataType::UInt16 => "SMALLINT UNSIGNED",
        DataType::UInt32 => "INT UNSIGNED",
        DataType::UInt64 => "BIGINT UNSIGNED",
        DataType::Float32 => "REAL",
        DataType::Float64 => "DOUBLE",
        DataType::Utf8 => "VARCHAR",
        DataType::Binary => "BYTEA",
        DataType::Date32 => "DATE",
        DataType::Timestamp(TimeUnit::Second, None) => "TIMESTAMP(0)",
        DataType::Timestamp(TimeUnit::Millisecond, None) => "TIMESTAMP(3)",
        DataType::Timestamp(TimeUnit::Microsecond, None) => "TIMESTAMP(6)",
        DataType::Timestamp(TimeUnit::Nanosecond, None) => "TIMESTAMP(9)",
        DataType::Decimal128(p, s) => return Some(format!("DECIMAL({p}, {s})")),
        _ => return None,
    };
    Some(plain.to_owned())
}

/// A literal to stand in for null, where one is short and exact.
fn zero(data_type: &DataType) -> Option<&'static str> {
    match data_type {
        DataType::Boolean => Some("false"),
        DataType::Utf8 => Some("''"),
        DataType::Float32 | DataType::Float64 | DataType::Decimal128(..) => Some("0.0"),
        _ if data_type.is_integer() => Some("0"),
        _ => None,
    }
}
