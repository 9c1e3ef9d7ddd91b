//! Rows of a CSV file into typed columns.

use arrow::datatypes::{Schema, SchemaRef};
use tidemill_model::Fault;
use tidemill_model::format::{RowReader, Section};

use super::fields::{Fields, RowEnd, chomp};
use super::{Csv, Dialect};
use crate::column::{Column, Record};
use crate::lines::{Lines, Ready};
use crate::reject::Flaw;
use crate::text::{Found, RowDecoder, Step, TextReader};

pub(super) fn open(csv: &Csv, section: Section, schema: SchemaRef, skip: u64) -> Result<Box<dyn RowReader>, Fault> {
    let record = Record::new(schema.fields()).map_err(|e| Fault::config(format!("`{}`: {e}", section.name)))?;
    let start = section.start;
    let mut lines = Lines::open(section)?;
    let names = if csv.options.header { header(csv, &mut lines)? } else { None };
    let columns = match names {
        Some(names) => place_columns(lines.name(), &names, &schema)?,
        None => (0..schema.fields().len()).map(Some).collect(),
    };
    lines.start_at(start, skip)?;
    let nulls: Vec<Vec<u8>> = csv.options.nulls.iter().map(|n| n.clone().into_bytes()).collect();
    let empty_is_null = nulls.iter().any(Vec::is_empty);
    let nulls = nulls.into_iter().filter(|n| !n.is_empty()).collect();
    let decoder = CsvRows { dialect: csv.dialect, columns, nulls, empty_is_null, fields: Fields::default() };
    Ok(Box::new(TextReader { lines, schema, record, decoder }))
}

/// The names in the first line; `None` if the file is empty.
pub(super) fn header(csv: &Csv, lines: &mut Lines) -> Result<Option<Vec<String>>, Fault> {
    let mut fields = Fields::default();
    let broken = |lines: &Lines, why: &str| Fault::data(format!("`{}`: the header is broken: {why}", lines.name()));
    loop {
        match lines.ready()? {
            Ready::Region => {}
            Ready::TooLong(_) => return Err(broken(lines, "it is too long")),
            Ready::End => return Ok(None),
        }
        match fields.split(lines.region(), csv.dialect) {
            RowEnd::Row { bytes, lines: count } => {
                let blank = chomp(&lines.region()[..bytes]).is_empty();
                lines.consume(bytes, count);
                if !blank {
                    break;
                }
            }
            RowEnd::Broken(why) => return Err(broken(lines, why)),
            RowEnd::Open if lines.extend()? => {}
            RowEnd::Open => return Err(broken(lines, "a quote is not closed")),
        }
    }
    let name = |field: &[u8]| std::str::from_utf8(field).map(|n| n.trim().to_owned());
    let names: Result<Vec<String>, _> = fields.iter().map(|(field, _)| name(field)).collect();
    names.map(Some).map_err(|_| broken(lines, "it is not UTF-8"))
}

/// For each field of a row the column it goes to.
fn place_columns(file: &str, names: &[String], schema: &Schema) -> Result<Vec<Option<usize>>, Fault> {
    let mut columns = vec![None; names.len()];
    for (i, field) in schema.fields().iter().enumerate() {
        let mut places = names.iter().enumerate().filter(|(_, name)| *name == field.name()).map(|(place, _)| place);
        let place = places.next().ok_or_else(|| no_column(file, field.name(), names))?;
        if places.next().is_some() {
            return Err(Fault::config(format!("`{file}` has two columns `{}`", field.name())));
        }
        columns[place] = Some(i);
    }
    Ok(columns)
}

/// A declared column that the file lacks, with the name that was probably meant.
pub(crate) fn no_column(file: &str, column: &str, names: &[String]) -> Fault {
    let fault = Fault::config(format!("`{file}` has no column `{column}`"));
    let nearest = names.iter().max_by(|a, b| {
        let near = |name: &str| strsim::jaro_winkler(&name.to_lowercase(), &column.to_lowercase());
        near(a).total_cmp(&near(b))
    });
    match nearest {
        Some(name) => fault.with_help(format!("did you mean `{name}`? The file has {}", names.join(", "))),
        None => fault,
    }
}

struct CsvRows {
    dialect: Dialect,
    /// For each field of a row the column it goes to; `None`: nobody asked for it.
    columns: Vec<Option<usize>>,
    /// Texts that mean null, besides the empty one.
    nulls: Vec<Vec<u8>>,
    empty_is_null: bool,
    fields: Fields,
}

impl RowDecoder for CsvRows {
    fn row(&mut self, region: &[u8], utf8: bool, all: bool, record: &mut Record) -> Step {
        let bytes = memchr::memchr(b'\n', region).map_or(region.len(), |i| i + 1);
        let line = &region[..bytes];
        let step = |found| Step { bytes, lines: 1, found };
        let plain = chomp(line);
        if plain.is_empty() && self.columns.len() != 1 {
            return step(Found::Blank);
        }
        if memchr::memchr(self.dialect.quote, plain).is_some() {
            return self.quoted_row(region, step(Found::Row), utf8, all, record);
        }
        step(match self.plain_row(plain, utf8, record) {
            Ok(()) => Found::Row,
            Err(flaw) => Found::Flaw(flaw),
        })
    }
}

impl CsvRows {
    fn plain_row(&self, line: &[u8], utf8: bool, record: &mut Record) -> Result<(), Flaw> {
        check_utf8(line, utf8)?;
        let (mut begin, mut count) = (0, 0);
        for end in memchr::memchr_iter(self.dialect.delimiter, line).chain([line.len()]) {
            match self.columns.get(count) {
                Some(Some(column)) => self.push(&line[begin..end], false, *column, record)?,
                Some(None) => {}
                None => return Err(self.wrong_count(1 + memchr::memchr_iter(self.dialect.delimiter, line).count())),
            }
            count += 1;
            begin = end + 1;
        }
        if count < self.columns.len() {
            return Err(self.wrong_count(count));
        }
        record.end_row();
        Ok(())
    }

    /// A row with quotes. `first_line`: what to consume if its quoting is broken.
    fn quoted_row(&mut self, region: &[u8], first_line: Step, utf8: bool, all: bool, record: &mut Record) -> Step {
        let flaw = |flaw| Step { found: Found::Flaw(flaw), ..first_line };
        match self.fields.split(region, self.dialect) {
            RowEnd::Open if !all => Step { found: Found::More, ..first_line },
            RowEnd::Open => flaw(Flaw::new("a quote is not closed")),
            RowEnd::Broken(why) => flaw(Flaw::new(why)),
            RowEnd::Row { .. } if self.fields.len() != self.columns.len() => flaw(self.wrong_count(self.fields.len())),
            RowEnd::Row { bytes, lines } => match self.push_fields(&region[..bytes], utf8, record) {
                Ok(()) => Step { bytes, lines, found: Found::Row },
                Err(flaw) => Step { bytes, lines, found: Found::Flaw(flaw) },
            },
        }
    }

    fn push_fields(&self, row: &[u8], utf8: bool, record: &mut Record) -> Result<(), Flaw> {
        check_utf8(row, utf8)?;
        for ((text, quoted), column) in self.fields.iter().zip(&self.columns) {
            if let Some(column) = column {
                self.push(text, quoted, *column, record)?;
            }
        }
        record.end_row();
        Ok(())
    }

    #[inline]
    fn push(&self, text: &[u8], quoted: bool, column: usize, record: &mut Record) -> Result<(), Flaw> {
        let slot = &mut record.slots[column];
        let result = if !quoted && self.is_null(text) {
            match &mut slot.column {
                Column::Utf8(values) if text.is_empty() && !slot.nullable => {
                    values.push(b"");
                    Ok(())
                }
                _ => slot.push_null(),
            }
        } else {
            slot.push_text(text)
        };
        result.map_err(|flaw| flaw.within(slot.field.name()))
    }

    #[inline]
    fn is_null(&self, text: &[u8]) -> bool {
        if text.is_empty() { self.empty_is_null } else { self.nulls.iter().any(|n| n == text) }
    }

    #[cold]
    fn wrong_count(&self, count: usize) -> Flaw {
        let fields = |n: usize| if n == 1 { "1 field".to_owned() } else { format!("{n} fields") };
        Flaw::new(format!("the row has {}, but {} are expected", fields(count), self.columns.len()))
    }
}

#[inline]
fn check_utf8(row: &[u8], known: bool) -> Result<(), Flaw> {
    if known {
        return Ok(());
    }
    std::str::from_utf8(row)
        .map(drop)
        .map_err(|e| Flaw::new(format!("invalid UTF-8 at byte {} of the row", e.valid_up_to() + 1)))
}
