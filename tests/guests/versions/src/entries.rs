//! Versions that count in a list and in maps. What they find in one they check against the others.

use tidemill_sdk::prelude::*;

use crate::{Any, Counted};

/// What version 1 stores as a number, and version 2 as text.
#[cfg(not(feature = "entries-text"))]
type Stored = i64;
#[cfg(feature = "entries-text")]
type Stored = String;

const MADE_BY: i64 = if cfg!(feature = "entries-text") { 6 } else { 5 };
/// Counts in the list, at most.
const LAST_MAX: usize = 5;
/// Counts go round in the map.
const ROUND: i64 = 3;

#[cfg(not(any(feature = "entries-text", feature = "entries-list")))]
#[derive(Keyed)]
pub struct Count {
    last: ListState<i64>,
    by_rest: MapState<i64, i64>,
}

#[cfg(feature = "entries-text")]
#[derive(Keyed)]
pub struct Count {
    #[state(version = 2, migrate(1 = to_text))]
    last: ListState<String>,
    #[state(version = 2, migrate(1 = to_text))]
    by_rest: MapState<i64, String>,
}

#[cfg(feature = "entries-list")]
#[derive(Keyed)]
pub struct Count {
    last: ListState<i64>,
    #[state(version = 2, migrate(1 = Ok))]
    by_rest: ListState<i64>,
}

#[cfg(feature = "entries-text")]
fn to_text(count: i64) -> Result<String> {
    if cfg!(feature = "entries-bad-migration") && count % 2 == 1 {
        bail!("{count} is odd");
    }
    Ok(count.to_string())
}

fn number(stored: Stored) -> Result<i64> {
    Ok(stored.to_string().parse()?)
}

fn stored(count: i64) -> Stored {
    count.to_string().parse().unwrap_or_default()
}

impl Count {
    /// The list has the last counts, none twice and in order, and the map the last one of each rest.
    #[cfg(not(feature = "entries-list"))]
    fn next(&mut self) -> Result<i64> {
        let last: Vec<i64> = self.last.get().into_iter().map(number).collect::<Result<_>>()?;
        let before = last.last().copied().unwrap_or(0);
        let by_rest = self.by_rest.entries().into_iter().map(|(rest, count)| Ok((rest, number(count)?)));
        let found: Vec<(i64, i64)> = by_rest.collect::<Result<_>>()?;
        let newest = |rest| (1..=before).rev().find(|count| count % ROUND == rest).map(|count| (rest, count));
        let expected: Vec<(i64, i64)> = (0..ROUND).filter_map(newest).collect();
        ensure!(found == expected, "the map has {found:?} behind {before}");
        ensure!(last.windows(2).all(|two| two[0] + 1 == two[1]), "the list has {last:?}");
        let count = before + 1;
        if last.len() == LAST_MAX {
            self.last.clear();
        }
        self.last.add(stored(count));
        let rest = count % ROUND;
        self.by_rest.remove(&rest);
        self.by_rest.put(&rest, stored(count));
        Ok(count)
    }

    #[cfg(feature = "entries-list")]
    fn next(&mut self) -> Result<i64> {
        self.by_rest.add(stored(0));
        self.last.add(stored(0));
        number(0)
    }
}

impl KeyedOperator for Count {
    type In<'a> = Any;
    type Out<'a> = Counted;

    fn process(&mut self, _row: Any, ctx: &mut Context<Self>) -> Result<()> {
        let count = self.next()?;
        if cfg!(feature = "entries-bad-call") {
            panic!("this version does not work");
        }
        ctx.emit(Counted { count, made_by: MADE_BY });
        Ok(())
    }
}
