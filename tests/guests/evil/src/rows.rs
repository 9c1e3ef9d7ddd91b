//! A correct answer, and the ways to spoil it.

use crate::tidemill::operator::types::{Batch, Column, Output, RowError};

pub fn i64s(bytes: &[u8]) -> Vec<i64> {
    bytes.chunks_exact(8).map(|c| i64::from_le_bytes(c.try_into().unwrap())).collect()
}

pub fn le<const N: usize, T>(numbers: impl IntoIterator<Item = T>, to: fn(T) -> [u8; N]) -> Vec<u8> {
    numbers.into_iter().flat_map(to).collect()
}

pub fn u32s(numbers: &[u32]) -> Vec<u8> {
    le(numbers.iter().copied(), u32::to_le_bytes)
}

pub fn offsets(numbers: &[i32]) -> Vec<u8> {
    le(numbers.iter().copied(), i32::to_le_bytes)
}

fn column(data: Vec<u8>) -> Column {
    Column { validity: vec![], offsets: vec![], data }
}

/// Row i: n = i, text = "é", list = [i], point = (i, i), small = i, flag = true. Port `out`.
pub fn good(rows: u32) -> Output {
    let steps: Vec<i32> = (0..=rows as i32).collect();
    let doubles: Vec<i32> = steps.iter().map(|s| s * 2).collect();
    let floats = || column(le((0..rows).map(f64::from), f64::to_le_bytes));
    let columns = vec![
        column(le((0..rows).map(i64::from), i64::to_le_bytes)),
        Column { validity: vec![], offsets: offsets(&doubles), data: "é".repeat(rows as usize).into_bytes() },
        Column { validity: vec![], offsets: offsets(&steps), data: vec![] },
        column(le(0..rows as i32, i32::to_le_bytes)),
        column(vec![]),
        floats(),
        floats(),
        column(le((0..rows).map(i128::from), i128::to_le_bytes)),
        column(vec![255; rows.div_ceil(8) as usize]),
    ];
    Output { port: 0, rows: Batch { rows, times: vec![], kinds: vec![], columns }, parents: vec![] }
}

/// Some ways expect four rows; those that a pipeline meets in tests, at least one.
pub fn spoil(mode: &str, outputs: &mut Vec<Output>, errors: &mut Vec<RowError>) {
    let out = &mut outputs[0];
    let c = &mut out.rows.columns;
    match mode {
        "unequal" => drop(c[0].data.drain(..8)),
        "width" => {
            let half = c[0].data.len() / 2;
            c[0].data.truncate(half);
        }
        "column-missing" => drop(c.pop()),
        "column-extra" => c.push(column(vec![])),
        "offsets-back" => c[1].offsets = offsets(&[0, 4, 2, 6, 8]),
        "offsets-beyond" => {
            let (last, end) = (c[1].offsets.len() - 4, c[1].data.len() as i32 + 1);
            c[1].offsets[last..].copy_from_slice(&end.to_le_bytes());
        }
        "offsets-negative" => c[1].offsets[..4].copy_from_slice(&(-2i32).to_le_bytes()),
        "offsets-short" => c[1].offsets.truncate(16),
        "offsets-on-int" => c[0].offsets = offsets(&[0]),
        "utf8" => {
            let at = c[1].data.len().min(4) - 2;
            c[1].data[at] = 0xff;
        }
        "utf8-split" => c[1].offsets = offsets(&[0, 2, 3, 6, 8]),
        "utf8-under-null" => {
            c[1].data[2] = 0xff;
            c[1].validity = vec![0b1101];
        }
        "null" => c[0].validity = vec![0b1011],
        "null-in-struct" => {
            c[4].validity = vec![0b1110];
            c[5].validity = vec![0b1100];
        }
        "null-under-null" => {
            c[4].validity = vec![0b1110];
            c[5].validity = vec![0b1110];
        }
        "null-item" => c[3].validity = vec![0b0111],
        "validity-short" => {
            *out = good(9);
            out.rows.columns[1].validity = vec![0];
            out.parents = u32s(&[0; 9]);
        }
        "struct-data" => c[4].data = vec![1],
        "list-short" => c[2].offsets = offsets(&[0, 1, 2, 3, 5]),
        "list-huge" => c[2].offsets = offsets(&[0, 1, 2, 3, i32::MAX]),
        "decimal" => c[7].data = le([1, 100_000, 2, 3], i128::to_le_bytes),
        "decimal-under-null" => {
            c[7].data = le([1, 100_000, 2, 3], i128::to_le_bytes);
            c[7].validity = vec![0b1101];
        }
        "bool-short" => c[8].data.clear(),
        "port" => out.port = 9,
        "side" => {
            let n = column(le([7i64, 8], i64::to_le_bytes));
            let rows = Batch { rows: 2, times: le([70, 80], i64::to_le_bytes), kinds: vec![0, 0], columns: vec![n] };
            outputs.push(Output { port: 1, rows, parents: u32s(&[3, 0]) });
        }
        "parents-range" => out.parents = u32s(&[0, 1, 2, 4]),
        "parents-short" => out.parents = u32s(&[0, 1, 2]),
        "parents-none" => *out = good(5),
        "rows-huge" => out.rows.rows = u32::MAX,
        "times-short" => out.rows.times = vec![0; 24],
        "kinds-unknown" => out.rows.kinds = vec![0, 1, 2, 4],
        "kinds-undeclared" => out.rows.kinds = vec![0, 0, 0, 3],
        "kinds-short" => out.rows.kinds = vec![0],
        "error-range" => errors.push(RowError { row: 4, message: "beyond".into() }),
        "errors" => {
            for row in [2, 0, 2] {
                errors.push(RowError { row, message: "ü".repeat(10_000) });
            }
        }
        "huge" => c[1].data = vec![b'x'; 3 << 20],
        "empty" => *out = good(0),
        _ => {}
    }
}
