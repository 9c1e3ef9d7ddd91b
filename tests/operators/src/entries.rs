//! Lists and maps: what is read of them, and what becomes of them.

use std::time::Duration;

use tidemill_sdk::prelude::*;

use crate::timers::{Part, Slice};

#[derive(Row)]
pub struct Bought<'a> {
    item: &'a str,
    amount: i64,
}

#[derive(Row)]
#[row(carry)]
pub struct Basket<'a> {
    /// Entries of the map in order.
    items: &'a str,
    /// Amount of this item.
    of_item: i64,
    trail: &'a str,
    largest: i64,
    mean: f64,
}

pub struct Largest;

impl Reduce<i64> for Largest {
    fn reduce(before: i64, added: i64) -> i64 {
        before.max(added)
    }
}

pub struct Mean;

impl Aggregate for Mean {
    type In = i64;
    type Accumulator = (i64, i64);
    type Out = f64;

    fn add((sum, count): &mut (i64, i64), value: i64) {
        (*sum, *count) = (*sum + value, *count + 1);
    }

    fn result((sum, count): (i64, i64)) -> f64 {
        sum as f64 / count as f64
    }
}

/// What each key has bought. An amount of 0 takes the item back, one below empties the basket; one above 1000 fails, and leaves
/// nothing behind; each fifth thing in the trail ends it.
#[derive(Keyed)]
pub struct Baskets {
    items: MapState<String, i64>,
    trail: ListState<String>,
    largest: ReducingState<i64, Largest>,
    mean: AggregatingState<Mean>,
}

impl KeyedOperator for Baskets {
    type In<'a> = Bought<'a>;
    type Out<'a> = Basket<'a>;

    fn process(&mut self, row: Bought<'_>, ctx: &mut Context<Self>) -> Result<()> {
        self.trail.add(row.item.to_owned());
        match row.amount {
            ..0 => self.items.clear(),
            0 => self.items.remove(row.item),
            amount => self.items.put(row.item, self.items.get(row.item).unwrap_or_default() + amount),
        }
        self.largest.add(row.amount);
        self.mean.add(row.amount);
        ensure!(row.amount <= 1000, "nobody buys {} of {}", row.amount, row.item);
        let items: Vec<String> = self.items.entries().iter().map(|(item, amount)| format!("{item}={amount}")).collect();
        let trail = self.trail.get();
        ctx.emit(Basket {
            items: &items.join(" "),
            of_item: self.items.get(row.item).unwrap_or_default(),
            trail: &trail.join(" "),
            largest: self.largest.get().unwrap_or_default(),
            mean: self.mean.get().unwrap_or_default(),
        });
        if trail.len() >= 5 {
            self.trail.clear();
            self.mean.clear();
        }
        if self.items.is_empty() {
            self.largest.clear();
        }
        Ok(())
    }
}

#[derive(Row)]
pub struct Word<'a> {
    word: &'a str,
}

#[derive(Row)]
pub struct Key<'a> {
    k: &'a str,
}

#[derive(Row)]
pub struct Counted<'a> {
    k: &'a str,
    word: &'a str,
    count: u64,
}

/// Counts words in a map per key, and tells all of them when the input ends.
#[derive(Keyed)]
#[operator(key = Key<'a>)]
pub struct Vocabulary {
    words: MapState<String, u64>,
}

impl KeyedOperator for Vocabulary {
    type In<'a> = Word<'a>;
    type Out<'a> = Counted<'a>;

    fn prefetch(&mut self, row: Word<'_>) {
        self.words.prefetch(row.word);
    }

    fn process(&mut self, row: Word<'_>, ctx: &mut Context<Self>) -> Result<()> {
        self.words.put(row.word, self.words.get(row.word).unwrap_or_default() + 1);
        ctx.set_event_timer(i64::MAX);
        Ok(())
    }

    fn on_timer(&mut self, timer: Timer<Key<'_>>, ctx: &mut Context<Self>) -> Result<()> {
        for (word, count) in self.words.entries() {
            ctx.emit(Counted { k: timer.key.k, word: &word, count });
        }
        self.words.clear();
        Ok(())
    }
}

#[derive(Row)]
pub struct Digest<'a> {
    k: i64,
    slice: i64,
    sum: i64,
    parts: i64,
    digits: &'a str,
}

/// Numbers in the list, at most: then their sum stands for them.
const NUMBERS_MAX: usize = 4;

/// Numbers of a key and slice of `size` of event time in a list, and how often each last digit came in a map, in which every third goes
/// again. A timer at the end of the slice tells them: the order of rows does not matter.
#[derive(Keyed)]
#[operator(key = Slice, time)]
pub struct Digits {
    numbers: ListState<i64>,
    digits: MapState<i64, i64>,
    size_ms: i64,
}

impl KeyedOperator for Digits {
    type In<'a> = Part;
    type Out<'a> = Digest<'a>;

    fn open(&mut self, config: &Config<'_>) -> Result<()> {
        self.size_ms = config.get::<Duration>("size")?.as_millis() as i64;
        Ok(())
    }

    fn prefetch(&mut self, row: Part) {
        self.digits.prefetch(&row.n.rem_euclid(10));
    }

    fn process(&mut self, row: Part, ctx: &mut Context<Self>) -> Result<()> {
        let Some(time) = ctx.timestamp() else { bail!("a row without event time") };
        self.numbers.add(row.n);
        let numbers = self.numbers.get();
        if numbers.len() == NUMBERS_MAX {
            self.numbers.update([numbers.iter().sum()]);
        }
        let digit = row.n.rem_euclid(10);
        match self.digits.get(&digit).unwrap_or(0) {
            2 => self.digits.remove(&digit),
            before => self.digits.put(&digit, before + 1),
        }
        ctx.set_event_timer((time.div_euclid(self.size_ms) + 1) * self.size_ms - 1);
        Ok(())
    }

    fn on_timer(&mut self, timer: Timer<Slice>, ctx: &mut Context<Self>) -> Result<()> {
        let digits: Vec<String> = self.digits.entries().iter().map(|(digit, n)| format!("{digit}x{n}")).collect();
        let numbers = self.numbers.get();
        ctx.emit(Digest {
            k: timer.key.k,
            slice: timer.key.slice,
            sum: numbers.iter().sum(),
            parts: numbers.len() as i64,
            digits: &digits.join(" "),
        });
        self.numbers.clear();
        self.digits.clear();
        Ok(())
    }
}
