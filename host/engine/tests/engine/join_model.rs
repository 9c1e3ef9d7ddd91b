//! The rules of joins, row by row: what the operators are compared with.

use std::collections::BTreeMap;

use tidemill_model::join::{JoinKind, JoinSpec};
use tidemill_model::time::{WATERMARK_MAX, WATERMARK_MIN};

use crate::support::sorted;
use Step::{Rows, Watermark};

#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub key: Option<i64>,
    pub time: i64,
    pub id: i64,
}

#[derive(Clone, Debug)]
pub enum Step {
    Rows(usize, Vec<Row>),
    Watermark(i64),
    /// Goes on from a checkpoint with so many workers.
    Move(usize),
}
/// The rules, row by row.
struct Model<'a> {
    spec: &'a JoinSpec,
    /// The sum of two ids that is no pair.
    forbidden: Option<i64>,
    watermark: i64,
    held: [Vec<Held>; 2],
    seen: Vec<String>,
}

struct Held {
    row: Row,
    matched: bool,
}

impl Model<'_> {
    fn run(mut self, steps: &[Step]) -> Vec<Vec<String>> {
        let mut all = Vec::new();
        for step in steps {
            match step {
                Rows(side, rows) => rows.iter().for_each(|row| self.row(*side, *row)),
                Watermark(watermark) if *watermark > self.watermark => self.advance(*watermark),
                _ => {}
            }
            all.push(sorted(std::mem::take(&mut self.seen)));
        }
        self.advance(WATERMARK_MAX);
        all.push(sorted(self.seen));
        all
    }

    fn is_late(&self, time: i64) -> bool {
        match self.spec.kind {
            JoinKind::Interval { .. } => time < self.watermark,
            JoinKind::Temporal => time <= self.watermark,
            JoinKind::Window { .. } => {
                self.windows_of(time).iter().map(|w| w.1 - 1).max().unwrap_or(time) <= self.watermark
            }
        }
    }

    fn windows_of(&self, time: i64) -> Vec<(i64, i64)> {
        let JoinKind::Window { size_ms, slide_ms, offset_ms } = self.spec.kind else { return Vec::new() };
        let near = (time - offset_ms).div_euclid(slide_ms);
        let starts = (near - size_ms / slide_ms - 1..=near).map(|n| n * slide_ms + offset_ms);
        starts.map(|start| (start, start + size_ms)).filter(|w| (w.0..w.1).contains(&time)).collect()
    }

    fn row(&mut self, side: usize, row: Row) {
        let is_version = side == 1 && self.spec.kind == JoinKind::Temporal;
        if !is_version && self.is_late(row.time) {
            self.seen.push(format!("late {side} {}", row.id));
            return;
        }
        let mut matched = false;
        if let JoinKind::Interval { lower_ms, upper_ms } = self.spec.kind {
            for other in 0..self.held[1 - side].len() {
                let partner = self.held[1 - side][other].row;
                let (left, right) = if side == 0 { (row, partner) } else { (partner, row) };
                if self.agree(left, right) && (lower_ms..=upper_ms).contains(&(right.time - left.time)) {
                    self.pair(Some(left), Some(right), left.time.max(right.time));
                    matched = true;
                    self.held[1 - side][other].matched = true;
                }
            }
        }
        self.held[side].push(Held { row, matched });
    }

    fn agree(&self, left: Row, right: Row) -> bool {
        left.key.is_some() && left.key == right.key && Some(left.id + right.id) != self.forbidden
    }

    fn pair(&mut self, left: Option<Row>, right: Option<Row>, time: i64) {
        let id = |row: Option<Row>| row.map_or("-".to_owned(), |row| row.id.to_string());
        self.seen.push(format!("{}|{} at {time}", id(left), id(right)));
    }

    fn advance(&mut self, watermark: i64) {
        let before = std::mem::replace(&mut self.watermark, watermark);
        match self.spec.kind {
            JoinKind::Interval { lower_ms, upper_ms } => self.expire([upper_ms.max(0), (-lower_ms).max(0)]),
            JoinKind::Window { .. } => self.fire(before),
            JoinKind::Temporal => self.look_up(),
        }
    }

    fn expire(&mut self, kept_ms: [i64; 2]) {
        for (side, kept_ms) in kept_ms.into_iter().enumerate() {
            let watermark = self.watermark;
            let (gone, stays) =
                std::mem::take(&mut self.held[side]).into_iter().partition(|h| h.row.time + kept_ms <= watermark);
            self.held[side] = stays;
            let gone: Vec<Held> = gone;
            for held in gone.into_iter().filter(|held| !held.matched && self.spec.join_type.keeps(side)) {
                let (left, right) = if side == 0 { (Some(held.row), None) } else { (None, Some(held.row)) };
                self.pair(left, right, held.row.time + kept_ms);
            }
        }
    }

    /// Rows whose time has come, each with the last version up to its time.
    fn look_up(&mut self) {
        let (due, waiting): (Vec<Held>, Vec<Held>) =
            std::mem::take(&mut self.held[0]).into_iter().partition(|held| held.row.time <= self.watermark);
        self.held[0] = waiting;
        for Held { row, .. } in due {
            let versions = self.held[1].iter().map(|held| held.row);
            let versions = versions.filter(|v| v.key.is_some() && v.key == row.key && v.time <= row.time);
            // The last one of several.
            let version = versions.max_by_key(|v| v.time).filter(|version| self.agree(row, *version));
            if version.is_some() || self.spec.join_type.keeps(0) {
                self.pair(Some(row), version, row.time);
            }
        }
    }

    /// Windows that the watermark has reached just now.
    fn fire(&mut self, before: i64) {
        let reached = before + 1..=self.watermark;
        let mut due: BTreeMap<(i64, i64), [Vec<Row>; 2]> = BTreeMap::new();
        for side in 0..2 {
            for held in &self.held[side] {
                let windows = self.windows_of(held.row.time).into_iter().filter(|w| reached.contains(&(w.1 - 1)));
                windows.for_each(|w| due.entry(w).or_default()[side].push(held.row));
            }
        }
        for ((_, end), [lefts, rights]) in due {
            let pairs = lefts.iter().flat_map(|l| rights.iter().map(move |r| (*l, *r)));
            let pairs: Vec<(Row, Row)> = pairs.filter(|(l, r)| self.agree(*l, *r)).collect();
            pairs.iter().for_each(|(l, r)| self.pair(Some(*l), Some(*r), end - 1));
            for left in lefts.into_iter().filter(|l| pairs.iter().all(|pair| pair.0.id != l.id)) {
                if self.spec.join_type.keeps(0) {
                    self.pair(Some(left), None, end - 1);
                }
            }
            for right in rights.into_iter().filter(|r| pairs.iter().all(|pair| pair.1.id != r.id)) {
                if self.spec.join_type.keeps(1) {
                    self.pair(None, Some(right), end - 1);
                }
            }
        }
    }
}

/// What comes out of each step, and of the end.
pub fn model(spec: &JoinSpec, forbidden: Option<i64>, steps: &[Step]) -> Vec<Vec<String>> {
    let held = [Vec::new(), Vec::new()];
    Model { spec, forbidden, watermark: WATERMARK_MIN, held, seen: Vec::new() }.run(steps)
}
