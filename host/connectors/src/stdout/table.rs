//! Rows as an aligned table for people.

use std::fmt::Write as _;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use tidemill_model::Fault;

/// Wider cells push their row to the right instead of cutting the text.
const WIDTH_MAX: usize = 40;

/// Column widths are settled by the header and the first batch, so that rows can be shown as they come.
#[derive(Default)]
pub(super) struct Table {
    widths: Vec<usize>,
}

impl Table {
    pub(super) fn render(&mut self, rows: &RecordBatch) -> Result<String, Fault> {
        let options = FormatOptions::new().with_null("null").with_display_error(true);
        let formatters = rows.columns().iter().map(|c| ArrayFormatter::try_new(c, &options));
        let formatters = formatters.collect::<Result<Vec<_>, _>>()?;
        let cells: Vec<Vec<String>> =
            (0..rows.num_rows()).map(|row| formatters.iter().map(|f| f.value(row).to_string()).collect()).collect();
        let schema = rows.schema();
        let mut out = String::new();
        if self.widths.is_empty() {
            self.settle(&schema, &cells);
            self.line(&mut out, &schema, schema.fields().iter().map(|f| f.name().as_str()));
            let rules: Vec<String> = self.widths.iter().map(|&w| "─".repeat(w)).collect();
            self.line(&mut out, &schema, rules.iter().map(String::as_str));
        }
        for row in &cells {
            self.line(&mut out, &schema, row.iter().map(String::as_str));
        }
        Ok(out)
    }

    fn settle(&mut self, schema: &Schema, cells: &[Vec<String>]) {
        let cell = |i: usize| cells.iter().map(move |row| row[i].chars().count());
        let width = |(i, name): (usize, &str)| cell(i).max().unwrap_or(0).min(WIDTH_MAX).max(name.chars().count());
        self.widths = schema.fields().iter().map(|f| f.name().as_str()).enumerate().map(width).collect();
    }

    fn line<'a>(&self, out: &mut String, schema: &Schema, cells: impl Iterator<Item = &'a str>) {
        let begin = out.len();
        for ((cell, &width), field) in cells.zip(&self.widths).zip(schema.fields()) {
            if out.len() > begin {
                out.push_str("  ");
            }
            // Writing to a string cannot fail.
            let _ = match field.data_type().is_numeric() {
                true => write!(out, "{cell:>width$}"),
                false => write!(out, "{cell:<width$}"),
            };
        }
        out.truncate(begin + out[begin..].trim_end().len());
        out.push('\n');
    }
}
