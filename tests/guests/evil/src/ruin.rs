//! Calls that do not come back as they should.

use crate::exports::tidemill::operator::lifecycle::OpError;
use crate::rows::i64s;
use crate::tidemill::operator::types::Batch;

pub fn forever() -> ! {
    let mut n = 0u64;
    loop {
        n = std::hint::black_box(n.wrapping_add(1));
    }
}

#[inline(never)]
fn recurse(depth: u64) -> u64 {
    let here = std::hint::black_box([depth; 64]);
    recurse(here[3] + 1) + here[0]
}

pub fn before(mode: &str, rows: &Batch) -> Result<(), OpError> {
    match mode {
        "loop" => forever(),
        "grow" => {
            let mut all: Vec<Vec<u8>> = Vec::new();
            loop {
                all.push(std::hint::black_box(vec![1; 1 << 20]));
            }
        }
        "recurse" => drop(recurse(0)),
        "panic" => panic!("the {} rows are cursed", rows.rows),
        "panic-on-negative" => {
            if let Some(row) = i64s(&rows.columns[0].data).iter().position(|n| *n < 0) {
                panic!("row {row} is negative");
            }
        }
        "abort" => std::process::abort(),
        "fatal" => return Err(OpError::Fatal("the ink has run out".into())),
        "config" => return Err(OpError::Config("too late to say".into())),
        _ => {}
    }
    Ok(())
}
