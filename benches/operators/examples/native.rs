//! ns per row of the operators called natively, without crossing into WASM: `cargo run -p bench-operators --example native`.

use std::hint::black_box;
use std::time::Instant;

use bench_operators::OPERATORS;
use tidemill_sdk::native::{BatchRef, Column, ColumnRef, Instance, KeyedBatch, Keys, Now, OpenContext, open};

/// Rows in all per measurement: long enough for a steady clock, short enough to repeat.
const ROWS: usize = 1 << 22;
const NOW: Now = Now { watermark: i64::MIN, processing: 0 };

fn main() {
    println!("{:10} {:>6} {:>8} {:>8}  ns/row", "operator", "rows", "p5", "median");
    for rows in [64, 1024, 8192] {
        let auctions = column(rows, |row| row as i64 * 7919 % 100_000);
        let prices = column(rows, |row| 100 + row as i64);
        let keys: Vec<u8> = (0..rows as u32).flat_map(|row| (row % distinct(rows) as u32).to_le_bytes()).collect();
        measure("filter", rows, |operator| black_box(operator.keep(0, &batch(rows, &[&auctions]), NOW)).is_ok());
        measure("map", rows, |operator| {
            black_box(operator.process(0, &batch(rows, &[&auctions, &prices]), NOW)).is_ok()
        });
        measure("count", rows, |operator| {
            let keyed = KeyedBatch {
                input: 0,
                rows: batch(rows, &[&auctions]),
                key_index: &keys,
                keys: Keys { count: distinct(rows) as u32, columns: Vec::new(), states: vec![counts(distinct(rows))] },
                now: NOW,
            };
            black_box(operator.process_keyed(keyed)).is_ok()
        });
    }
}

/// Distinct keys among `rows` rows: most bids of a batch are on different auctions.
fn distinct(rows: usize) -> usize {
    (rows * 15 / 16).max(1)
}

fn measure(name: &str, rows: usize, mut call: impl FnMut(&mut dyn Instance) -> bool) {
    let context = OpenContext { operator: name.into(), ..OpenContext::default() };
    let mut operator = open(OPERATORS, &context).expect("the benchmark's own operators open without settings");
    let mut calls: Vec<f64> = (0..ROWS / rows)
        .map(|_| {
            let start = Instant::now();
            assert!(call(operator.as_mut()));
            start.elapsed().as_nanos() as f64 / rows as f64
        })
        .collect();
    calls.sort_by(f64::total_cmp);
    let (quiet, median) = (calls[calls.len() / 20], calls[calls.len() / 2]);
    println!("{name:10} {rows:6} {quiet:8.2} {median:8.2}");
}

fn column(rows: usize, value: impl Fn(usize) -> i64) -> Vec<u8> {
    (0..rows).flat_map(|row| value(row).to_le_bytes()).collect()
}

fn batch<'a>(rows: usize, data: &[&'a Vec<u8>]) -> BatchRef<'a> {
    let columns = data.iter().map(|data| ColumnRef { data, ..ColumnRef::default() }).collect();
    BatchRef { rows: rows as u32, columns, ..BatchRef::default() }
}

/// A state column: every second key is new.
fn counts(keys: usize) -> Column {
    Column { validity: vec![0x55; keys.div_ceil(8)], offsets: Vec::new(), data: vec![1; keys * 8] }
}
