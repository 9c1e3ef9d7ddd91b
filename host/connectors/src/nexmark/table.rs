//! A table of one kind of events: its columns, each made on its own, so that only those asked for cost time.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, TimestampMillisecondArray};
use arrow::datatypes::{DataType, Field, TimeUnit};

use super::events::Clock;
use crate::random::{Random, below};
use crate::texts::{Dictionary, Letters, Texts};

/// What columns are made from.
pub(super) struct Context {
    pub(super) seed: u64,
    pub(super) clock: Clock,
    pub(super) letters: Letters,
    pub(super) prices: Prices,
    pub(super) channels: super::bid::Channels,
    pub(super) people: super::person::People,
}

/// Makes the values of a column for the events whose numbers are given.
pub(super) type Make = fn(&Context, &[u64]) -> ArrayRef;

pub(super) struct EventColumn {
    pub(super) name: &'static str,
    pub(super) data_type: DataType,
    pub(super) make: Make,
}

impl EventColumn {
    pub(super) fn field(&self) -> Field {
        Field::new(self.name, self.data_type.clone(), false)
    }
}

pub(super) const TIME: DataType = DataType::Timestamp(TimeUnit::Millisecond, None);

impl Context {
    pub(super) fn random(&self, purpose: &str) -> Random {
        Random::new(self.seed, purpose)
    }
}

pub(super) fn ints(events: &[u64], value: impl Fn(u64) -> i64) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(events.iter().map(|&n| value(n))))
}

pub(super) fn times(events: &[u64], value: impl Fn(u64) -> i64) -> ArrayRef {
    Arc::new(TimestampMillisecondArray::from_iter_values(events.iter().map(|&n| value(n))))
}

pub(super) fn choose(events: &[u64], texts: &Dictionary, random: Random) -> ArrayRef {
    let count = texts.len() as u64;
    texts.column(events.len(), events.iter().map(|&n| below(random.at(n), count) as usize))
}

/// Random letters: at least `min`, fewer than `min + spread`.
pub(super) fn letters(context: &Context, events: &[u64], purpose: &str, min: usize, spread: usize) -> ArrayRef {
    let random = context.random(purpose);
    let mut texts = Texts::new(events.len(), events.len() * (min + spread));
    for &n in events {
        let bits = random.at(n);
        texts.push(context.letters.cut(bits, min + below(bits, spread as u64) as usize));
    }
    texts.finish()
}

pub(super) fn date_time(context: &Context, events: &[u64]) -> ArrayRef {
    let clock = context.clock;
    times(events, |n| clock.at(n))
}

/// Prices in cents: 10^(6u) times 100, rounded, for u spread evenly over 0..1.
pub(super) struct Prices([[f64; 256]; 3]);

impl Prices {
    /// The power is taken apart by the bytes of u, since a table is much faster than the function.
    pub(super) fn new() -> Self {
        let table = |byte: i32| std::array::from_fn(|i| 10f64.powf(6.0 * i as f64 / 256f64.powi(byte)));
        Self([table(1), table(2), table(3)])
    }

    #[inline(always)]
    pub(super) fn at(&self, random: u64) -> i64 {
        let [a, b, c, ..] = random.to_le_bytes();
        let power = self.0[0][usize::from(a)] * self.0[1][usize::from(b)] * self.0[2][usize::from(c)];
        (power * 100.0 + 0.5) as i64
    }
}
