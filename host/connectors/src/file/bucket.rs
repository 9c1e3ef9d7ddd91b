//! Directories by event time and by columns: which rows of a batch belong into which.
//!
//! Laws: a row's bucket depends on the row alone; its name has no character that leads to another directory or that
//! readers take for something else; rows of a bucket keep their order. A batch is copied at most once, however many
//! buckets it has, and not at all if it has one.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int64Array, RecordBatch, UInt32Array};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow::row::{RowConverter, SortField};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use tidemill_model::batch::take_rows;
use tidemill_model::schema::type_name;
use tidemill_model::{Batch, Fault};

use super::time_pattern::TimePattern;

/// What Hive and those who follow it call the bucket of null.
const NULL_VALUE: &str = "__HIVE_DEFAULT_PARTITION__";
/// Of the name of a directory, on common file systems.
const NAME_BYTES_MAX: usize = 255;
/// What Hive escapes in names, besides control characters.
const ESCAPED: &str = "\"#%'*/:=?\\{[]^";

/// Buckets as the pipeline file says.
#[derive(Clone, Debug)]
pub(super) struct Bucketing {
    pub time: Option<TimePattern>,
    pub columns: Vec<String>,
    /// Whether the files have the columns, too.
    pub keep_columns: bool,
}

/// The buckets of a stream.
pub(super) struct Buckets {
    time: Option<TimePattern>,
    /// Place of the column, and the beginning of its directories: `country=`.
    columns: Vec<(usize, String)>,
    /// Columns that go into the files.
    kept: Vec<usize>,
    pub schema: SchemaRef,
    /// Of what decides, if that is more than time.
    converter: Option<RowConverter>,
}

impl Buckets {
    pub(super) fn new(bucketing: &Bucketing, schema: &SchemaRef) -> Result<Self, Fault> {
        let mut columns = Vec::with_capacity(bucketing.columns.len());
        for name in &bucketing.columns {
            let Some((place, field)) = schema.column_with_name(name) else {
                let known: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
                return Err(Fault::config(format!("there is no column `{name}` to make buckets by"))
                    .with_help(format!("the columns are {}", known.join(", "))));
            };
            if !is_discrete(field.data_type()) {
                let given = type_name(field.data_type());
                return Err(Fault::config(format!("cannot make buckets by column `{name}`: it is {given}"))
                    .with_help("take one of text, whole numbers, decimals, bool, dates or times"));
            }
            // A dot or `_` at the beginning would make the directory hidden.
            let begin = match name.strip_prefix(['.', '_']) {
                Some(rest) => format!("%{:02X}{}=", name.as_bytes()[0], escape(rest)),
                None => format!("{}=", escape(name)),
            };
            columns.push((place, begin));
        }
        let kept: Vec<usize> = (0..schema.fields().len())
            .filter(|&c| bucketing.keep_columns || columns.iter().all(|&(place, _)| place != c))
            .collect();
        if kept.is_empty() {
            return Err(Fault::config("no column is left for the files: all make buckets")
                .with_help("set `keep_columns: true`"));
        }
        let fields: Vec<_> = kept.iter().map(|&c| schema.fields()[c].clone()).collect();
        let deciding = bucketing.time.iter().map(|_| DataType::Int64);
        let deciding = deciding.chain(columns.iter().map(|&(place, _)| schema.field(place).data_type().clone()));
        let converter =
            if columns.is_empty() { None } else { Some(RowConverter::new(deciding.map(SortField::new).collect())?) };
        let schema = Arc::new(Schema::new(fields));
        Ok(Self { time: bucketing.time.clone(), columns, kept, schema, converter })
    }

    /// The rows of each bucket, with its path below the sink's directory.
    pub(super) fn split(&mut self, batch: &Batch) -> Result<Vec<(String, RecordBatch)>, Fault> {
        let rows = batch.project(&self.kept, self.schema.clone())?;
        let units = self.units(batch)?;
        let groups = self.groups(batch, units.as_ref())?;
        if groups.first_rows.len() == 1 {
            return Ok(vec![(self.path(batch, 0)?, rows)]);
        }
        let (order, ends) = groups.sorted();
        let rows = take_rows(&rows, &order)?;
        let mut begin = 0;
        let bucket = |(&first, &end): (&usize, &usize)| {
            let part = rows.slice(begin, end - begin);
            begin = end;
            Ok((self.path(batch, first)?, part))
        };
        groups.first_rows.iter().zip(&ends).map(bucket).collect()
    }

    /// Days, hours or minutes of the rows, as fine as the pattern is; of those with the same name the first that came.
    fn units(&self, batch: &Batch) -> Result<Option<Int64Array>, Fault> {
        let Some(pattern) = &self.time else { return Ok(None) };
        let times = batch.times.as_ref().ok_or_else(no_times)?;
        let unit_ms = pattern.unit_ms();
        let mut first_of: HashMap<String, i64> = HashMap::new();
        let mut known: HashMap<i64, i64> = HashMap::new();
        let mut last = None;
        let first = |ms: &i64| {
            let unit = ms.div_euclid(unit_ms);
            let first = match last {
                Some((before, first)) if before == unit => first,
                _ => *known.entry(unit).or_insert_with(|| *first_of.entry(pattern.show(*ms)).or_insert(unit)),
            };
            last = Some((unit, first));
            first
        };
        Ok(Some(times.iter().map(first).collect()))
    }

    fn groups(&mut self, batch: &Batch, units: Option<&Int64Array>) -> Result<Groups, Fault> {
        let Some(converter) = &mut self.converter else {
            return Ok(Groups::of(units.into_iter().flat_map(|units| units.values().iter().copied())));
        };
        let mut deciding: Vec<ArrayRef> = units.map(|units| Arc::new(units.clone()) as ArrayRef).into_iter().collect();
        deciding.extend(self.columns.iter().map(|&(place, _)| batch.column(place).clone()));
        let rows = converter.convert_columns(&deciding)?;
        Ok(Groups::of(rows.iter()))
    }

    /// Where a row belongs: `dt=2024-01-31/country=DE`.
    fn path(&self, batch: &Batch, row: usize) -> Result<String, Fault> {
        let mut path = String::new();
        if let Some(pattern) = &self.time {
            path += &pattern.show(batch.times.as_ref().ok_or_else(no_times)?[row]);
        }
        for (place, name) in &self.columns {
            let segment = name.clone() + &value(batch.column(*place), row)?;
            if segment.len() > NAME_BYTES_MAX {
                let column = name.trim_end_matches('=');
                return Err(Fault::data(format!(
                    "a value of column `{column}` is too long for the name of a directory"
                ))
                .with_row(segment.chars().take(NAME_BYTES_MAX).collect::<String>())
                .with_help("make buckets by another column, or cut it with `select`"));
            }
            if !path.is_empty() {
                path.push('/');
            }
            path += &segment;
        }
        Ok(path)
    }
}

/// Rows that belong together.
struct Groups {
    /// Group of each row, numbered in the order in which they come.
    of_row: Vec<u32>,
    first_rows: Vec<usize>,
}

impl Groups {
    /// Rows with equal keys. Rows like the one before them, which are most, are not looked up.
    fn of<K: Eq + Hash + Copy>(keys: impl Iterator<Item = K>) -> Self {
        let mut groups = Self { of_row: Vec::with_capacity(keys.size_hint().0), first_rows: Vec::new() };
        let mut known: HashMap<K, u32> = HashMap::new();
        let mut last: Option<(K, u32)> = None;
        for (row, key) in keys.enumerate() {
            let group = match last {
                Some((before, group)) if before == key => group,
                _ => *known.entry(key).or_insert_with(|| {
                    groups.first_rows.push(row);
                    groups.first_rows.len() as u32 - 1
                }),
            };
            last = Some((key, group));
            groups.of_row.push(group);
        }
        groups
    }

    /// Row numbers group by group, in order within each; and where each group ends.
    fn sorted(&self) -> (UInt32Array, Vec<usize>) {
        let mut next = vec![0; self.first_rows.len()];
        self.of_row.iter().for_each(|&group| next[group as usize] += 1);
        let mut begin = 0;
        for place in &mut next {
            (begin, *place) = (begin + *place, begin);
        }
        let mut order = vec![0; self.of_row.len()];
        for (row, &group) in self.of_row.iter().enumerate() {
            order[next[group as usize]] = row as u32;
            next[group as usize] += 1;
        }
        (order.into(), next)
    }
}

fn no_times() -> Fault {
    Fault::config("the rows have no event time to make buckets by")
        .with_help("give each source above an `event_time`, or make buckets by columns only")
}

/// Whether equal values are the same text: binary floating point has several zeros and no equality for NaN.
fn is_discrete(data_type: &DataType) -> bool {
    data_type.is_integer()
        || matches!(
            data_type,
            DataType::Boolean
                | DataType::Utf8
                | DataType::Date32
                | DataType::Timestamp(_, _)
                | DataType::Decimal128(_, _)
        )
}

fn value(column: &ArrayRef, row: usize) -> Result<String, Fault> {
    let text = match column.is_null(row) {
        true => String::new(),
        false => ArrayFormatter::try_new(column, &FormatOptions::default())?.value(row).to_string(),
    };
    // A directory `country=` would be read as one without a value.
    Ok(if text.is_empty() { NULL_VALUE.to_owned() } else { escape(&text) })
}

/// Text that can be (part of) the name of a directory: others as `%` and two digits, as Hive does.
fn escape(text: &str) -> String {
    let mut name = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii_control() || ESCAPED.contains(c) {
            name += &format!("%{:02X}", c as u32);
        } else {
            name.push(c);
        }
    }
    name
}
