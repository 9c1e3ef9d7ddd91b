//! Columns that a guest returned, checked and turned into Arrow arrays.
//!
//! Law: nothing that comes back is trusted. Lengths, offsets, UTF-8, nulls and decimals are checked
//! once per column; a buffer that passes is used where it lies, or copied if it is not aligned.

use std::fmt;
use std::sync::Arc;
use std::vec::IntoIter;

use arrow::array::types::*;
use arrow::array::{Array, ArrayRef, BinaryArray, BooleanArray, ListArray, PrimitiveArray, StringArray, StructArray};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{ArrowNativeType, ArrowPrimitiveType, DataType, Field, Fields, SchemaRef, TimeUnit};

use tidemill_model::schema::type_name;

use super::ColumnOut;
use super::fields::width;

/// Items in a list column: more than the bytes that a call may return can hold, but for lists of bools.
const LIST_ITEMS_MAX: usize = 64 << 20;

/// Where a column stands, for messages: built as it goes, written only when something is wrong.
#[derive(Clone, Copy)]
pub(crate) enum Place<'a> {
    Port(&'a str),
    State(&'a str),
    Field(&'a Place<'a>, &'a str),
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Port(name) => write!(f, "port `{name}`"),
            Place::State(name) => write!(f, "state `{name}`"),
            Place::Field(within, _) => {
                let mut root = *within;
                while let Place::Field(outer, _) = root {
                    root = outer;
                }
                write!(f, "{root}, column `")?;
                self.path(f)?;
                write!(f, "`")
            }
        }
    }
}

impl Place<'_> {
    fn path(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place::Field(within, name) = self else { return Ok(()) };
        if matches!(within, Place::Field(..)) {
            within.path(f)?;
            write!(f, ".")?;
        }
        write!(f, "{name}")
    }

    fn wrong<T>(&self, what: impl fmt::Display) -> Result<T, String> {
        Err(format!("{self}: {what}"))
    }
}

/// The columns of a port with `rows` rows.
pub(crate) fn rows(
    schema: &SchemaRef,
    rows: usize,
    columns: Vec<ColumnOut>,
    place: &Place,
) -> Result<Vec<ArrayRef>, String> {
    let wanted: usize = schema.fields().iter().map(|f| width(f)).sum();
    if columns.len() != wanted {
        return place.wrong(format_args!("has {} columns, flattened, and {wanted} are declared", columns.len()));
    }
    let mut columns = columns.into_iter();
    schema.fields().iter().map(|f| column(f, rows, &mut columns, None, &Place::Field(place, f.name()))).collect()
}

/// The one column of a state.
pub(crate) fn values(field: &Field, rows: usize, column: ColumnOut, place: &Place) -> Result<ArrayRef, String> {
    self::column(field, rows, &mut vec![column].into_iter(), None, place)
}

/// `mask`: the nulls of the struct around it, under which anything goes.
fn column(
    field: &Field,
    rows: usize,
    columns: &mut IntoIter<ColumnOut>,
    mask: Option<&NullBuffer>,
    at: &Place,
) -> Result<ArrayRef, String> {
    let Some(ColumnOut { validity, offsets, data }) = columns.next() else {
        return at.wrong("is missing");
    };
    let ty = field.data_type();
    let nulls = nulls(validity, rows, field, mask, at)?;
    if !offsets.is_empty() && !matches!(ty, DataType::Utf8 | DataType::Binary | DataType::List(_)) {
        return at.wrong(format_args!("has offsets, which {} has not", type_name(ty)));
    }
    if !data.is_empty() && ty.is_nested() {
        return at.wrong(format_args!("has data of its own, which {} has not", type_name(ty)));
    }
    match ty {
        DataType::Boolean => {
            let bits = bitmap(data, rows, "data", at)?;
            Ok(Arc::new(BooleanArray::new(bits, nulls)))
        }
        DataType::Int8 => primitive::<Int8Type>(ty, data, rows, nulls, at),
        DataType::Int16 => primitive::<Int16Type>(ty, data, rows, nulls, at),
        DataType::Int32 => primitive::<Int32Type>(ty, data, rows, nulls, at),
        DataType::Int64 => primitive::<Int64Type>(ty, data, rows, nulls, at),
        DataType::UInt8 => primitive::<UInt8Type>(ty, data, rows, nulls, at),
        DataType::UInt16 => primitive::<UInt16Type>(ty, data, rows, nulls, at),
        DataType::UInt32 => primitive::<UInt32Type>(ty, data, rows, nulls, at),
        DataType::UInt64 => primitive::<UInt64Type>(ty, data, rows, nulls, at),
        DataType::Float32 => primitive::<Float32Type>(ty, data, rows, nulls, at),
        DataType::Float64 => primitive::<Float64Type>(ty, data, rows, nulls, at),
        DataType::Date32 => primitive::<Date32Type>(ty, data, rows, nulls, at),
        DataType::Timestamp(TimeUnit::Second, _) => primitive::<TimestampSecondType>(ty, data, rows, nulls, at),
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            primitive::<TimestampMillisecondType>(ty, data, rows, nulls, at)
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            primitive::<TimestampMicrosecondType>(ty, data, rows, nulls, at)
        }
        DataType::Timestamp(TimeUnit::Nanosecond, _) => primitive::<TimestampNanosecondType>(ty, data, rows, nulls, at),
        DataType::Decimal128(precision, _) => {
            let array = primitive::<Decimal128Type>(ty, data, rows, nulls, at)?;
            decimals(array, *precision, at)
        }
        DataType::Utf8 => utf8(offsets, data, rows, nulls, at),
        DataType::Binary => {
            let offsets = self::offsets(offsets, rows, at)?;
            within(&offsets, data.len(), "bytes", at)?;
            Ok(Arc::new(BinaryArray::new(offsets, Buffer::from_vec(data), nulls)))
        }
        DataType::List(item) => list(item, offsets, rows, nulls, columns, at),
        DataType::Struct(fields) => structs(fields, rows, nulls, columns, at),
        other => at.wrong(format_args!("{other} can't cross")),
    }
}

fn nulls(
    validity: Vec<u8>,
    rows: usize,
    field: &Field,
    mask: Option<&NullBuffer>,
    at: &Place,
) -> Result<Option<NullBuffer>, String> {
    if validity.is_empty() {
        return Ok(None);
    }
    let nulls = NullBuffer::new(bitmap(validity, rows, "validity", at)?);
    if nulls.null_count() == 0 {
        return Ok(None);
    }
    if !field.is_nullable() {
        let masked = |row| mask.is_some_and(|m| m.is_null(row));
        if let Some(row) = (0..rows).find(|&row| nulls.is_null(row) && !masked(row)) {
            return at.wrong(format_args!("row {row} is null, but the column is declared as not null"));
        }
    }
    Ok(Some(nulls))
}

fn bitmap(bytes: Vec<u8>, rows: usize, what: &str, at: &Place) -> Result<BooleanBuffer, String> {
    if bytes.len() < rows.div_ceil(8) {
        return at.wrong(format_args!("{what} has {} bytes, {rows} rows need {}", bytes.len(), rows.div_ceil(8)));
    }
    Ok(BooleanBuffer::new(Buffer::from_vec(bytes), 0, rows))
}

/// Bytes as numbers: in place if aligned, else copied. `None` if the length is not that of `count` numbers.
pub(crate) fn numbers<T: ArrowNativeType>(bytes: Vec<u8>, count: usize) -> Option<ScalarBuffer<T>> {
    let fits = Some(bytes.len()) == count.checked_mul(size_of::<T>());
    fits.then(|| ScalarBuffer::new(aligned::<T>(Buffer::from_vec(bytes)), 0, count))
}

fn aligned<T>(buffer: Buffer) -> Buffer {
    if buffer.as_ptr().cast::<T>().is_aligned() {
        return buffer;
    }
    // `From<&[u8]>` copies into memory that is aligned for every type.
    Buffer::from(buffer.as_slice())
}

fn primitive<T: ArrowPrimitiveType>(
    ty: &DataType,
    data: Vec<u8>,
    rows: usize,
    nulls: Option<NullBuffer>,
    at: &Place,
) -> Result<ArrayRef, String> {
    let length = data.len();
    let Some(values) = numbers::<T::Native>(data, rows) else {
        let (name, needed) = (type_name(ty), rows * size_of::<T::Native>());
        return at.wrong(format_args!("data has {length} bytes, {rows} rows of {name} need {needed}"));
    };
    Ok(Arc::new(PrimitiveArray::<T>::new(values, nulls).with_data_type(ty.clone())))
}

fn decimals(array: ArrayRef, precision: u8, at: &Place) -> Result<ArrayRef, String> {
    let values = arrow::array::AsArray::as_primitive::<Decimal128Type>(&array);
    let fits = |value| Decimal128Type::is_valid_decimal_precision(value, precision);
    let wrong = (0..values.len()).find(|&row| !fits(values.value(row)) && values.is_valid(row));
    match wrong {
        Some(row) => at.wrong(format_args!("row {row} has more than {precision} digits")),
        None => Ok(array),
    }
}

fn offsets(bytes: Vec<u8>, rows: usize, at: &Place) -> Result<OffsetBuffer<i32>, String> {
    if rows == 0 && bytes.is_empty() {
        return Ok(OffsetBuffer::new_empty());
    }
    let length = bytes.len();
    let Some(offsets) = numbers::<i32>(bytes, rows + 1) else {
        return at.wrong(format_args!("offsets have {length} bytes, {rows} rows need {}", (rows + 1) * 4));
    };
    // Without a branch per row: the fold is vectorised.
    if !offsets.windows(2).fold(true, |sorted, w| sorted & (w[0] <= w[1])) {
        let row = offsets.windows(2).position(|w| w[0] > w[1]).unwrap_or(0);
        return at.wrong(format_args!("offsets go back at row {row}, from {} to {}", offsets[row], offsets[row + 1]));
    }
    if offsets[0] < 0 {
        return at.wrong(format_args!("offsets start at {}", offsets[0]));
    }
    // SAFETY: not empty, sorted, and the least is not negative: checked above.
    Ok(unsafe { OffsetBuffer::new_unchecked(offsets) })
}

fn within(offsets: &OffsetBuffer<i32>, length: usize, what: &str, at: &Place) -> Result<(), String> {
    let last = offsets[offsets.len() - 1] as usize;
    if last > length {
        return at.wrong(format_args!("offsets end at {last}, but there are {length} {what}"));
    }
    Ok(())
}

fn utf8(
    offsets: Vec<u8>,
    data: Vec<u8>,
    rows: usize,
    nulls: Option<NullBuffer>,
    at: &Place,
) -> Result<ArrayRef, String> {
    let offsets = self::offsets(offsets, rows, at)?;
    within(&offsets, data.len(), "bytes", at)?;
    let valid = match simdutf8::basic::from_utf8(&data) {
        Ok(text) => text.is_ascii() || offsets.iter().all(|&o| text.is_char_boundary(o as usize)),
        Err(_) => false,
    };
    if !valid {
        return utf8_by_row(&offsets, &data, nulls, at);
    }
    // SAFETY: the bytes are UTF-8, and each offset is in range and between two characters.
    Ok(Arc::new(unsafe { StringArray::new_unchecked(offsets, Buffer::from_vec(data), nulls) }))
}

/// Finds the row that is not UTF-8; bytes under a null or outside of all rows are allowed to be.
fn utf8_by_row(
    offsets: &OffsetBuffer<i32>,
    data: &[u8],
    nulls: Option<NullBuffer>,
    at: &Place,
) -> Result<ArrayRef, String> {
    let row_text = |row: usize, w: &[i32]| {
        if nulls.as_ref().is_some_and(|n| n.is_null(row)) {
            return Ok(None);
        }
        match std::str::from_utf8(&data[w[0] as usize..w[1] as usize]) {
            Ok(text) => Ok(Some(text)),
            Err(error) => at.wrong(format_args!("row {row} is not UTF-8: {error}")),
        }
    };
    let texts: Result<StringArray, String> = offsets.windows(2).enumerate().map(|(row, w)| row_text(row, w)).collect();
    Ok(Arc::new(texts?))
}

fn list(
    item: &Arc<Field>,
    offsets: Vec<u8>,
    rows: usize,
    nulls: Option<NullBuffer>,
    columns: &mut IntoIter<ColumnOut>,
    at: &Place,
) -> Result<ArrayRef, String> {
    let offsets = self::offsets(offsets, rows, at)?;
    let items = offsets[offsets.len() - 1] as usize;
    if items > LIST_ITEMS_MAX {
        return at.wrong(format_args!("has {items} items, at most {LIST_ITEMS_MAX} can cross"));
    }
    let values = column(item, items, columns, None, &Place::Field(at, item.name()))?;
    match ListArray::try_new(item.clone(), offsets, values, nulls) {
        Ok(array) => Ok(Arc::new(array)),
        Err(error) => at.wrong(error),
    }
}

fn structs(
    fields: &Fields,
    rows: usize,
    nulls: Option<NullBuffer>,
    columns: &mut IntoIter<ColumnOut>,
    at: &Place,
) -> Result<ArrayRef, String> {
    let arrays: Result<Vec<ArrayRef>, String> =
        fields.iter().map(|f| column(f, rows, columns, nulls.as_ref(), &Place::Field(at, f.name()))).collect();
    match StructArray::try_new_with_length(fields.clone(), arrays?, nulls, rows) {
        Ok(array) => Ok(Arc::new(array)),
        Err(error) => at.wrong(error),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tidemill_model::schema::parse_field;

    use super::*;

    const TYPES: &[&str] = &[
        "utf8?",
        "int64",
        "bool?",
        "binary",
        "decimal128(5,2)",
        "timestamp(us)?",
        "list(utf8?)",
        "list(list(int8)?)?",
        "struct(a:utf8,b:list(bool?))?",
    ];

    /// Offsets that go up now and then, text that is UTF-8 now and then, lengths that fit now and then.
    fn buffer() -> impl Strategy<Value = Vec<u8>> {
        let offsets = prop::collection::vec(-1i32..12, 0..8).prop_map(|mut offsets| {
            if offsets.iter().sum::<i32>() % 4 != 0 {
                offsets.sort_unstable();
            }
            offsets.into_iter().flat_map(i32::to_le_bytes).collect::<Vec<u8>>()
        });
        let bytes = prop::collection::vec(any::<u8>(), 0..40);
        let text = "[aé]{0,12}".prop_map(String::into_bytes);
        prop_oneof![Just(Vec::new()), offsets, bytes, text]
    }

    proptest! {
        /// What passes the checks is an array that Arrow finds nothing wrong with.
        #[test]
        fn bent_answers_never_panic(
            types in prop::collection::vec(prop::sample::select(TYPES), 1..4),
            rows in prop_oneof![0usize..6, Just(u32::MAX as usize)],
            buffers in prop::collection::vec((buffer(), buffer(), buffer()), 0..12),
        ) {
            let fields: Vec<Field> = types.iter().map(|ty| parse_field("c", ty).unwrap()).collect();
            let schema: SchemaRef = Arc::new(arrow::datatypes::Schema::new(fields));
            let width = schema.fields().iter().map(|f| width(f)).sum::<usize>();
            let columns = buffers.into_iter().cycle().take(if rows % 5 == 4 { 3 } else { width });
            let columns: Vec<ColumnOut> =
                columns.map(|(validity, offsets, data)| ColumnOut { validity, offsets, data }).collect();
            for array in super::rows(&schema, rows, columns, &Place::Port("out")).unwrap_or_default() {
                prop_assert_eq!(array.len(), rows);
                array.to_data().validate_full().unwrap();
            }
        }
    }

    #[test]
    fn bytes_are_used_in_place_only_if_they_are_aligned() {
        let bytes = Buffer::from_vec((0..33u8).collect::<Vec<u8>>());
        let shifted = bytes.slice(1);
        assert_eq!(aligned::<u8>(shifted.clone()).as_ptr(), shifted.as_ptr());
        let copied = aligned::<i128>(shifted.clone());
        assert!(copied.as_ptr().cast::<i128>().is_aligned());
        assert_eq!(copied.as_slice(), shifted.as_slice());
        assert!(numbers::<i64>(vec![0; 17], 2).is_none());
        assert!(numbers::<i64>(vec![], usize::MAX).is_none());
    }

    #[test]
    fn places_have_names() {
        let port = Place::Port("out");
        let (a, state) = (Place::Field(&port, "a"), Place::State("s"));
        let b = Place::Field(&a, "b");
        let shown: Vec<String> = [port, a, b, state].iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["port `out`", "port `out`, column `a`", "port `out`, column `a.b`", "state `s`"]);
    }
}
