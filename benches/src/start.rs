//! Time to the first row: from the start of the process until a row reached a sink, component compiled.

use crate::child::{self, component};
use crate::report::{Figure, median};

const RUNS: usize = 10;

pub fn run() -> anyhow::Result<Vec<Figure>> {
    component()?;
    // The first run compiles the component into the cache.
    child::run("start.yaml", &[])?;
    let mut first_row = Vec::new();
    for _ in 0..RUNS {
        first_row.push(child::first_row_ms("start.yaml")?);
    }
    let more = [("first_row_ms".to_owned(), median(first_row))].into();
    Ok(vec![Figure { work: "start".into(), engine: "tidemill".into(), more, ..Figure::default() }])
}
