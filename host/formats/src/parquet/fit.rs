//! Brings columns as a Parquet file has them to the types that a pipeline declares.
//!
//! Law: a value is converted exactly or its row is rejected.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, ListArray, StructArray};
use arrow::compute::{CastOptions, can_cast_types, cast, cast_with_options};
use arrow::datatypes::*;
use arrow::error::ArrowError;

/// The type under which pipelines hold a column of the file; `None` if they cannot.
pub(super) fn plain_type(data_type: &DataType) -> Option<DataType> {
    Some(match data_type {
        DataType::Boolean | DataType::Float32 | DataType::Float64 | DataType::Utf8 | DataType::Binary => {
            data_type.clone()
        }
        integer if integer.is_integer() => integer.clone(),
        DataType::Float16 => DataType::Float32,
        DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => DataType::Binary,
        DataType::Date32 | DataType::Date64 => DataType::Date32,
        DataType::Timestamp(unit, _) => DataType::Timestamp(*unit, None),
        DataType::Decimal32(p, s) | DataType::Decimal64(p, s) | DataType::Decimal128(p, s) => {
            DataType::Decimal128(*p, *s)
        }
        DataType::Dictionary(_, value) => plain_type(value)?,
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            DataType::List(plain_field(item)?)
        }
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(plain_field).collect::<Option<_>>()?),
        _ => return None,
    })
}

fn plain_field(field: &FieldRef) -> Option<FieldRef> {
    Some(Arc::new(Field::new(field.name(), plain_type(field.data_type())?, field.is_nullable())))
}

/// Whether values of the file's type `have` may be read as `want`, perhaps with rejected rows.
pub(super) fn can_fit(have: &DataType, want: &DataType) -> bool {
    let Some(have) = plain_type(have) else { return false };
    let number = |t: &DataType| t.is_integer() || t.is_floating() || matches!(t, DataType::Decimal128(_, _));
    match (&have, want) {
        (have, want) if have == want => true,
        (DataType::List(h), DataType::List(w)) => can_fit(h.data_type(), w.data_type()),
        (DataType::Struct(h), DataType::Struct(w)) => {
            h.len() == w.len()
                && w.iter().all(|w| h.find(w.name()).is_some_and(|(_, h)| can_fit(h.data_type(), w.data_type())))
        }
        (DataType::Timestamp(_, _), DataType::Timestamp(_, _)) | (DataType::Date32, DataType::Timestamp(_, _)) => true,
        // A float rarely is the number that was meant once it is made an integer or a decimal.
        (have, want) if have.is_floating() => want.is_floating(),
        (have, want) => number(have) && number(want) && can_cast_types(have, want),
    }
}

/// The column as `want`; null where a value has no exact counterpart.
pub(super) fn fit(column: &ArrayRef, want: &DataType) -> Result<ArrayRef, ArrowError> {
    if column.data_type() == want {
        return Ok(column.clone());
    }
    match (column.data_type(), want) {
        (DataType::Timestamp(unit, Some(_)), _) => fit(&without_zone(column, *unit), want),
        (DataType::List(_), DataType::List(item)) => {
            let list = column.as_list::<i32>();
            let items = fit(list.values(), item.data_type())?;
            let item = Arc::new(Field::new(item.name(), item.data_type().clone(), true));
            Ok(Arc::new(ListArray::try_new(item, list.offsets().clone(), items, list.nulls().cloned())?))
        }
        (DataType::LargeList(i) | DataType::FixedSizeList(i, _), DataType::List(_)) => {
            fit(&cast(column, &DataType::List(i.clone()))?, want)
        }
        (DataType::Struct(_), DataType::Struct(fields)) => fit_struct(column.as_struct(), fields),
        (have, want) => {
            let safe = CastOptions { safe: true, ..CastOptions::default() };
            let cast = cast_with_options(column, want, &safe)?;
            if may_round(have, want) { only_exact(column, cast, &safe) } else { Ok(cast) }
        }
    }
}

fn fit_struct(column: &StructArray, fields: &Fields) -> Result<ArrayRef, ArrowError> {
    let mut columns = Vec::with_capacity(fields.len());
    let mut loose = Vec::with_capacity(fields.len());
    for field in fields {
        let inner = column
            .column_by_name(field.name())
            .ok_or_else(|| ArrowError::SchemaError(format!("no field {}", field.name())))?;
        columns.push(fit(inner, field.data_type())?);
        loose.push(Field::new(field.name(), columns[columns.len() - 1].data_type().clone(), true));
    }
    Ok(Arc::new(StructArray::try_new_with_length(loose.into(), columns, column.nulls().cloned(), column.len())?))
}

/// The same instants; a zone says only how they are shown.
fn without_zone(column: &ArrayRef, unit: TimeUnit) -> ArrayRef {
    match unit {
        TimeUnit::Second => {
            Arc::new(column.as_primitive::<TimestampSecondType>().clone().with_timezone_opt(None::<&str>))
        }
        TimeUnit::Millisecond => {
            Arc::new(column.as_primitive::<TimestampMillisecondType>().clone().with_timezone_opt(None::<&str>))
        }
        TimeUnit::Microsecond => {
            Arc::new(column.as_primitive::<TimestampMicrosecondType>().clone().with_timezone_opt(None::<&str>))
        }
        TimeUnit::Nanosecond => {
            Arc::new(column.as_primitive::<TimestampNanosecondType>().clone().with_timezone_opt(None::<&str>))
        }
    }
}

/// Conversions that may lose something without saying so.
fn may_round(have: &DataType, want: &DataType) -> bool {
    match (have, want) {
        (DataType::Timestamp(_, _), DataType::Timestamp(_, _)) | (DataType::Decimal128(_, _), _) => true,
        (have, want) if have.is_integer() => want.is_floating(),
        _ => false,
    }
}

/// Null where converting back does not give the same value.
fn only_exact(before: &ArrayRef, after: ArrayRef, safe: &CastOptions) -> Result<ArrayRef, ArrowError> {
    let back = cast_with_options(&after, before.data_type(), safe)?;
    let same: BooleanArray = arrow::compute::kernels::cmp::not_distinct(&back, before)?;
    arrow::compute::nullif(&after, &arrow::compute::not(&same)?)
}

/// Makes the column fit its field, whose nested fields may forbid nulls: the rows that break that.
///
/// `true` = the row is fine. A row is not fine if it is null where the field or one inside of it forbids that.
pub(super) fn allowed(column: &ArrayRef, field: &Field) -> Option<BooleanArray> {
    let own =
        (!field.is_nullable() && column.null_count() > 0).then(|| arrow::compute::is_not_null(column).ok()).flatten();
    let inner = match field.data_type() {
        DataType::Struct(fields) => {
            let parent = column.as_struct();
            let parts = fields.iter().zip(parent.columns()).filter_map(|(f, c)| allowed(c, f));
            // Under a null struct anything may stand.
            parts.reduce(|a, b| both(&a, &b)).map(|all| or_null(&all, column))
        }
        DataType::List(item) => {
            let list = column.as_list::<i32>();
            allowed(list.values(), item).map(|items| {
                let fine = |row: usize| {
                    let (from, to) = (list.offsets()[row] as usize, list.offsets()[row + 1] as usize);
                    list.is_null(row) || (from..to).all(|i| items.value(i))
                };
                (0..list.len()).map(|row| Some(fine(row))).collect()
            })
        }
        _ => None,
    };
    match (own, inner) {
        (Some(a), Some(b)) => Some(both(&a, &b)),
        (one, other) => one.or(other),
    }
}

pub(super) fn both(a: &BooleanArray, b: &BooleanArray) -> BooleanArray {
    BooleanArray::from(a.values() & b.values())
}

fn or_null(fine: &BooleanArray, column: &ArrayRef) -> BooleanArray {
    (0..fine.len()).map(|row| Some(fine.value(row) || column.is_null(row))).collect()
}

/// The column with exactly the nested fields that are declared, once no forbidden null is left.
pub(super) fn tighten(column: &ArrayRef, want: &DataType) -> Result<ArrayRef, ArrowError> {
    match want {
        _ if column.data_type() == want => Ok(column.clone()),
        DataType::List(item) => {
            let list = column.as_list::<i32>();
            let items = tighten(list.values(), item.data_type())?;
            Ok(Arc::new(ListArray::try_new(item.clone(), list.offsets().clone(), items, list.nulls().cloned())?))
        }
        DataType::Struct(fields) => {
            let parent = column.as_struct();
            let columns = fields.iter().zip(parent.columns()).map(|(f, c)| tighten(c, f.data_type()));
            let columns = columns.collect::<Result<Vec<_>, _>>()?;
            let nulls = parent.nulls().cloned();
            Ok(Arc::new(StructArray::try_new_with_length(fields.clone(), columns, nulls, parent.len())?))
        }
        _ => Ok(column.clone()),
    }
}
