//! Random numbers as a pure function of (seed, row, purpose), and arithmetic that generators need per row.
//!
//! Law: nothing here has state, so that row `n` is the same whoever generates it, and in which order.

/// The random numbers of one purpose (a column, mostly).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Random {
    key: u64,
}

/// Odd constants with well spread bits, from wyhash.
const STEP: u64 = 0xA076_1D64_78BD_642F;
const FLIP: u64 = 0xE703_7ED1_A0B4_28DB;

impl Random {
    pub(crate) fn new(seed: u64, purpose: &str) -> Self {
        let mut key = mix(seed ^ STEP, FLIP);
        for byte in purpose.bytes() {
            key = mix(key ^ u64::from(byte), STEP);
        }
        Self { key }
    }

    /// 64 bits for row `n`: wyrand with the counter in place of its state.
    #[inline(always)]
    pub(crate) fn at(self, n: u64) -> u64 {
        let state = self.key.wrapping_add(n.wrapping_mul(STEP));
        mix(state, state ^ FLIP)
    }
}

#[inline(always)]
fn mix(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product >> 64) as u64 ^ product as u64
}

/// `0..range` from the high bits of `random`; the low ones remain for other decisions if `range` is small.
#[inline(always)]
pub(crate) fn below(random: u64, range: u64) -> u64 {
    ((u128::from(random) * u128::from(range)) >> 64) as u64
}

/// `0..1` with 53 bits.
#[inline(always)]
pub(crate) fn unit(random: u64) -> f64 {
    (random >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

/// Division by a number that is known only at run time, without the slow instruction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Divisor {
    divisor: u64,
    /// 2^64 / divisor, rounded down.
    reciprocal: u64,
}

impl Divisor {
    /// `divisor` must not be 0.
    pub(crate) fn new(divisor: u64) -> Self {
        let reciprocal = ((1u128 << 64) / u128::from(divisor)).min(u128::from(u64::MAX)) as u64;
        Self { divisor, reciprocal }
    }

    /// Quotient and remainder. The estimate by the reciprocal is at most one too small.
    #[inline(always)]
    pub(crate) fn divide(self, value: u64) -> (u64, u64) {
        let quotient = ((u128::from(value) * u128::from(self.reciprocal)) >> 64) as u64;
        let rest = value.wrapping_sub(quotient.wrapping_mul(self.divisor));
        let more = rest >= self.divisor;
        (quotient + u64::from(more), if more { rest - self.divisor } else { rest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_balanced_and_purposes_independent() {
        let (a, b) = (Random::new(1, "a"), Random::new(1, "b"));
        let rows = 100_000u64;
        for bit in 0..64 {
            let ones = (0..rows).filter(|&n| a.at(n) >> bit & 1 == 1).count() as f64;
            let equal = (0..rows).filter(|&n| (a.at(n) ^ b.at(n)) >> bit & 1 == 0).count() as f64;
            let next = (0..rows).filter(|&n| (a.at(n) ^ a.at(n + 1)) >> bit & 1 == 0).count() as f64;
            for share in [ones, equal, next].map(|count| count / rows as f64) {
                // Six standard deviations of a fair coin.
                assert!((share - 0.5).abs() < 0.0095, "bit {bit}: {share}");
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn division_is_exact(value: u64, divisor in 1u64.., small in 1u64..1000) {
            for d in [divisor, small] {
                proptest::prop_assert_eq!(Divisor::new(d).divide(value), (value / d, value % d));
            }
        }
    }
}
