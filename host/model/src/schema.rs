//! Types that a pipeline can name, and which schema fits which.
//!
//! Names are one word or a call: `int64`, `timestamp(ms)`, `decimal128(10,2)`, `list(utf8)`,
//! `struct(a:int64,b:utf8)`; a trailing `?` marks a nullable field inside list and struct.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema, TimeUnit};

/// The plain names, for messages and completion.
pub const TYPE_NAMES: &[&str] = &[
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float32",
    "float64",
    "utf8",
    "binary",
    "date",
    "timestamp(s)",
    "timestamp(ms)",
    "timestamp(us)",
    "timestamp(ns)",
    "decimal128(P,S)",
    "list(T)",
    "struct(NAME:T,...)",
];

/// Name of a type; types outside of the list are shown in Arrow's notation.
pub fn type_name(data_type: &DataType) -> String {
    let plain = match data_type {
        DataType::Boolean => "bool",
        DataType::Int8 => "int8",
        DataType::Int16 => "int16",
        DataType::Int32 => "int32",
        DataType::Int64 => "int64",
        DataType::UInt8 => "uint8",
        DataType::UInt16 => "uint16",
        DataType::UInt32 => "uint32",
        DataType::UInt64 => "uint64",
        DataType::Float32 => "float32",
        DataType::Float64 => "float64",
        DataType::Utf8 => "utf8",
        DataType::Binary => "binary",
        DataType::Date32 => "date",
        DataType::Timestamp(unit, None) => match unit {
            TimeUnit::Second => "timestamp(s)",
            TimeUnit::Millisecond => "timestamp(ms)",
            TimeUnit::Microsecond => "timestamp(us)",
            TimeUnit::Nanosecond => "timestamp(ns)",
        },
        DataType::Decimal128(p, s) => return format!("decimal128({p},{s})"),
        DataType::List(item) => return format!("list({})", field_name(item)),
        DataType::Struct(fields) => {
            let inner: Vec<String> = fields.iter().map(|f| format!("{}:{}", f.name(), field_name(f))).collect();
            return format!("struct({})", inner.join(","));
        }
        other => return other.to_string(),
    };
    plain.to_owned()
}

fn field_name(field: &Field) -> String {
    let mark = if field.is_nullable() { "?" } else { "" };
    format!("{}{mark}", type_name(field.data_type()))
}

/// The type with this name. `Err` says what is wrong with it.
pub fn parse_type(text: &str) -> Result<DataType, String> {
    let text = text.trim();
    let (head, args) = match text.find('(') {
        Some(open) if text.ends_with(')') => (&text[..open], Some(&text[open + 1..text.len() - 1])),
        Some(_) => return Err(format!("`{text}` has no closing bracket")),
        None => (text, None),
    };
    let unit = |u: &str| match u.trim() {
        "s" => Ok(TimeUnit::Second),
        "ms" => Ok(TimeUnit::Millisecond),
        "us" => Ok(TimeUnit::Microsecond),
        "ns" => Ok(TimeUnit::Nanosecond),
        other => Err(format!("`{other}` is not a unit of timestamp: use s, ms, us or ns")),
    };
    Ok(match (head.trim(), args) {
        ("bool", None) => DataType::Boolean,
        ("int8", None) => DataType::Int8,
        ("int16", None) => DataType::Int16,
        ("int32", None) => DataType::Int32,
        ("int64", None) => DataType::Int64,
        ("uint8", None) => DataType::UInt8,
        ("uint16", None) => DataType::UInt16,
        ("uint32", None) => DataType::UInt32,
        ("uint64", None) => DataType::UInt64,
        ("float32", None) => DataType::Float32,
        ("float64", None) => DataType::Float64,
        ("utf8", None) => DataType::Utf8,
        ("binary", None) => DataType::Binary,
        ("date", None) => DataType::Date32,
        ("timestamp", None) => DataType::Timestamp(TimeUnit::Millisecond, None),
        ("timestamp", Some(u)) => DataType::Timestamp(unit(u)?, None),
        ("decimal128", Some(args)) => parse_decimal(args)?,
        ("list", Some(item)) => DataType::List(Arc::new(parse_field("item", item)?)),
        ("struct", Some(inner)) => {
            let fields: Result<Vec<Field>, String> = split_top(inner).into_iter().map(parse_member).collect();
            DataType::Struct(Fields::from(fields?))
        }
        _ => return Err(format!("`{text}` is not a type")),
    })
}

fn parse_decimal(args: &str) -> Result<DataType, String> {
    let parsed =
        args.split_once(',').and_then(|(p, s)| Some((p.trim().parse::<u8>().ok()?, s.trim().parse::<i8>().ok()?)));
    match parsed {
        Some((p, s)) if (1..=38).contains(&p) && i32::from(s).abs() <= i32::from(p) => Ok(DataType::Decimal128(p, s)),
        _ => Err(format!("`decimal128({args})` needs a precision of 1 to 38 and a scale not above it")),
    }
}

fn parse_member(text: &str) -> Result<Field, String> {
    let (name, ty) = text.split_once(':').ok_or_else(|| format!("`{text}` is not NAME:TYPE"))?;
    parse_field(name.trim(), ty)
}

/// A field from a type name with an optional trailing `?`.
pub fn parse_field(name: &str, text: &str) -> Result<Field, String> {
    let text = text.trim();
    let (text, nullable) = text.strip_suffix('?').map_or((text, false), |t| (t, true));
    Ok(Field::new(name, parse_type(text)?, nullable))
}

/// Splits at commas outside of brackets.
fn split_top(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0usize, 0);
    for (i, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    if !text[start..].trim().is_empty() {
        parts.push(&text[start..]);
    }
    parts
}

/// Whether a value of type `have` can be read where `want` is declared: equal types, and nested
/// fields may become nullable but not the other way round.
pub fn type_fits(have: &DataType, want: &DataType) -> bool {
    let inner = |h: &Field, w: &Field| type_fits(h.data_type(), w.data_type()) && (w.is_nullable() || !h.is_nullable());
    match (have, want) {
        (DataType::List(h), DataType::List(w)) => inner(h, w),
        (DataType::Struct(h), DataType::Struct(w)) => {
            h.len() == w.len() && h.iter().zip(w).all(|(h, w)| h.name() == w.name() && inner(h, w))
        }
        _ => have == want,
    }
}

/// What keeps a stream from reaching an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mismatch {
    Missing { column: String },
    Type { column: String, have: String, want: String },
    Nullable { column: String },
}

impl std::fmt::Display for Mismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Mismatch::Missing { column } => write!(f, "column `{column}` is missing"),
            Mismatch::Type { column, have, want } => {
                write!(f, "column `{column}` is {have}, but the operator declares {want}")
            }
            Mismatch::Nullable { column } => {
                write!(f, "column `{column}` may be null, but the operator declares it as not null")
            }
        }
    }
}

/// Indices in `have` of the columns that `want` declares, in its order; or all that does not fit.
pub fn project(have: &Schema, want: &Schema) -> Result<Vec<usize>, Vec<Mismatch>> {
    let (mut indices, mut wrong) = (Vec::new(), Vec::new());
    for field in want.fields() {
        let column = field.name().clone();
        let Some((index, found)) = have.column_with_name(&column) else {
            wrong.push(Mismatch::Missing { column });
            continue;
        };
        if !type_fits(found.data_type(), field.data_type()) {
            let (have, want) = (type_name(found.data_type()), type_name(field.data_type()));
            wrong.push(Mismatch::Type { column, have, want });
        } else if found.is_nullable() && !field.is_nullable() {
            wrong.push(Mismatch::Nullable { column });
        } else {
            indices.push(index);
        }
    }
    if wrong.is_empty() { Ok(indices) } else { Err(wrong) }
}

/// Columns of a row that carries its parent's columns: those of `parent`, with `own` in place of
/// columns of the same name and appended otherwise. For each column: (from own?, index).
pub fn carry(parent: &Schema, own: &Schema) -> (Schema, Vec<(bool, usize)>) {
    let mut fields: Vec<Arc<Field>> = Vec::new();
    let mut from = Vec::new();
    for (i, field) in parent.fields().iter().enumerate() {
        match own.column_with_name(field.name()) {
            Some((j, _)) => {
                fields.push(own.fields()[j].clone());
                from.push((true, j));
            }
            None => {
                fields.push(field.clone());
                from.push((false, i));
            }
        }
    }
    for (j, field) in own.fields().iter().enumerate() {
        if parent.column_with_name(field.name()).is_none() {
            fields.push(field.clone());
            from.push((true, j));
        }
    }
    (Schema::new(fields), from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_names_round_trip() {
        for text in [
            "bool",
            "int8",
            "uint64",
            "float32",
            "utf8",
            "binary",
            "date",
            "timestamp(us)",
            "decimal128(10,2)",
            "list(utf8?)",
            "struct(a:int64,b:list(struct(x:date?)))",
        ] {
            assert_eq!(type_name(&parse_type(text).unwrap()), text);
        }
    }

    #[test]
    fn bad_type_names_say_what_is_wrong() {
        for (text, expected) in [
            ("int", "`int` is not a type"),
            ("timestamp(m)", "`m` is not a unit of timestamp: use s, ms, us or ns"),
            ("decimal128(50,2)", "`decimal128(50,2)` needs a precision of 1 to 38 and a scale not above it"),
            ("list(utf8", "`list(utf8` has no closing bracket"),
            ("struct(a)", "`a` is not NAME:TYPE"),
        ] {
            assert_eq!(parse_type(text).unwrap_err(), expected);
        }
    }
}
