//! Rows that are dealt out: each worker makes every n-th row of a generator.
//!
//! Dealing row by row rather than in ranges keeps the event times of all workers close together. Law:
//! the shares of a source together are rows `0..rows`, each once, however many shares there are.

use tidemill_model::Fault;
use tidemill_model::source::{Position, Split};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    index: u64,
    of: u64,
}

impl Share {
    /// `rows`: of the whole source, `None` without end.
    pub(crate) fn splits(of: usize, rows: Option<u64>) -> Vec<Split> {
        let of = of.max(1) as u64;
        let split = |index: u64| {
            let share = Self { index, of };
            Split { id: format!("{index}/{of}"), spec: share.encode(), size: rows.map(|rows| share.count(rows)) }
        };
        (0..of).map(split).collect()
    }

    fn encode(self) -> Vec<u8> {
        [self.index.to_le_bytes(), self.of.to_le_bytes()].concat()
    }

    pub(crate) fn decode(spec: &[u8]) -> Result<Self, Fault> {
        let decoded = || {
            let (index, of) = spec.split_first_chunk::<8>()?;
            Some(Self { index: u64::from_le_bytes(*index), of: u64::from_le_bytes(of.try_into().ok()?) })
        };
        let valid = decoded().filter(|share| share.index < share.of);
        valid.ok_or_else(|| Fault::internal("the description of a generator's split is damaged"))
    }

    /// How many of `rows` rows are in this share.
    pub(crate) fn count(self, rows: u64) -> u64 {
        rows.saturating_sub(self.index).div_ceil(self.of)
    }

    /// Number of the `nth` row of this share.
    pub(crate) fn row(self, nth: u64) -> u64 {
        self.index.wrapping_add(self.of.wrapping_mul(nth))
    }

    pub(crate) fn stride(self) -> u64 {
        self.of
    }
}

/// A position is the number of rows of the share that have been returned.
pub(crate) fn position(returned: u64) -> Position {
    Position(returned.to_le_bytes().to_vec())
}

pub(crate) fn returned(position: &Position) -> Result<u64, Fault> {
    match <[u8; 8]>::try_from(position.0.as_slice()) {
        Ok(bytes) => Ok(u64::from_le_bytes(bytes)),
        Err(_) if position.0.is_empty() => Ok(0),
        Err(_) => Err(Fault::internal("the stored position of a generator is damaged")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_deal_out_each_row_once() {
        for of in 1..6 {
            for rows in 0..20 {
                let mut all = Vec::new();
                for split in Share::splits(of, Some(rows)) {
                    let share = Share::decode(&split.spec).unwrap();
                    assert_eq!(split.size, Some(share.count(rows)));
                    all.extend((0..share.count(rows)).map(|nth| share.row(nth)));
                }
                all.sort_unstable();
                assert_eq!(all, (0..rows).collect::<Vec<_>>(), "{rows} rows in {of} shares");
            }
        }
    }
}
