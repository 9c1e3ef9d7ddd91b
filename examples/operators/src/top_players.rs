//! `top_players`: ranks of a window, out of the sums of its players. It keeps those that are on the list, and no others.

use tidemill_sdk::prelude::*;
use tidemill_sdk::serde::{Deserialize, Serialize};

/// A result of the window before: what a player has scored in it.
#[derive(Row, Clone, Copy)]
pub struct Score<'a> {
    player: &'a str,
    points: i64,
    window_end: Timestamp,
}

/// The key: all results of a window come to one place, whoever the player is.
#[derive(Row)]
pub struct Window {
    window_end: Timestamp,
}

#[derive(Row, Debug, PartialEq)]
pub struct Ranked<'a> {
    window_end: Timestamp,
    /// From 1.
    rank: u32,
    player: &'a str,
    points: i64,
}

/// A place on the list.
#[derive(Serialize, Deserialize)]
#[serde(crate = "tidemill_sdk::serde")]
struct Place {
    player: String,
    points: i64,
}

/// The players with the most points in a window, with their ranks; of two with as many points the first by name.
#[derive(Keyed)]
#[operator(key = Window)]
pub struct TopPlayers {
    /// Best first, never longer than `top`.
    places: Value<Vec<Place>>,
    /// Setting `top`: length of the list.
    top: usize,
}

impl KeyedOperator for TopPlayers {
    type In<'a> = Score<'a>;
    type Out<'a> = Ranked<'a>;

    fn open(&mut self, config: &Config<'_>) -> Result<()> {
        self.top = config.get_or("top", 3)?;
        ensure!(self.top > 0, "setting `top` must be above 0");
        Ok(())
    }

    fn process(&mut self, score: Score<'_>, ctx: &mut Context<Self>) -> Result<()> {
        let mut places = self.places.get_or_default();
        let before =
            |p: &Place| p.points > score.points || p.points == score.points && p.player.as_str() < score.player;
        let place = places.partition_point(before);
        if place < self.top {
            places.insert(place, Place { player: score.player.to_owned(), points: score.points });
            places.truncate(self.top);
            self.places.set(places);
        }
        // The results of a window come when the watermark has reached its last ms. At its end, all are here.
        ctx.set_event_timer(score.window_end.0);
        Ok(())
    }

    fn on_timer(&mut self, timer: Timer<Window>, ctx: &mut Context<Self>) -> Result<()> {
        for (rank, place) in (1..).zip(self.places.get_or_default()) {
            let window_end = timer.key.window_end;
            ctx.emit(Ranked { window_end, rank, player: &place.player, points: place.points });
        }
        self.places.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemill_sdk::OpError;
    use tidemill_sdk::testing::TestDriver;

    const MINUTE: i64 = 60_000;

    fn driver(top: usize) -> TestDriver<TopPlayers> {
        TestDriver::new().key(["window_end"]).config("top", top).open().unwrap()
    }

    fn score(minute: i64, player: &str, points: i64) -> (Option<i64>, Score<'_>) {
        let end = minute * MINUTE;
        (Some(end - 1), Score { player, points, window_end: Timestamp(end) })
    }

    fn shown(driver: &TestDriver<TopPlayers>) -> Vec<(i64, u32, &str, i64)> {
        driver.rows().into_iter().map(|r| (r.window_end.0 / MINUTE, r.rank, r.player, r.points)).collect()
    }

    #[test]
    fn the_best_come_out_in_order_when_their_window_ends() {
        let mut driver = driver(2);
        driver.push_all([score(1, "ada", 5), score(1, "bob", 9), score(2, "ada", 1), score(1, "cleo", 7)]);
        driver.watermark(MINUTE - 1);
        assert_eq!(shown(&driver), []);
        driver.watermark(MINUTE);
        assert_eq!(shown(&driver), [(1, 1, "bob", 9), (1, 2, "cleo", 7)]);
        driver.clear();
        driver.finish();
        assert_eq!(shown(&driver), [(2, 1, "ada", 1)]);
        assert_eq!((driver.keys().len(), driver.timers().len()), (0, 0), "a window that is over takes nothing");
    }

    #[test]
    fn of_equals_the_first_by_name_wins_whatever_the_order_of_arrival() {
        let names = ["ada", "bob", "cleo"];
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let mut driver = driver(2);
            driver.push_all(order.map(|i| score(1, names[i], 4)));
            driver.finish();
            assert_eq!(shown(&driver), [(1, 1, "ada", 4), (1, 2, "bob", 4)], "{order:?}");
        }
    }

    #[test]
    fn a_list_without_places_is_refused() {
        let opened = TestDriver::<TopPlayers>::new().key(["window_end"]).config("top", 0).open();
        assert_eq!(opened.err(), Some(OpError::Config("setting `top` must be above 0".into())));
    }
}
