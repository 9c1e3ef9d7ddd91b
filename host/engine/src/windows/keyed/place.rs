//! Rows into windows.

use tidemill_model::logic::TimeDomain;
use tidemill_model::window::{Fires, Gap, Windows};
use tidemill_model::{Batch, Fault};

use arrow::array::Array;

use super::super::start::window_start;
use super::operator::{Keyed, PROCESSING, Read};
use super::store::{NEVER, NONE, Window};

impl Keyed {
    /// Puts a row into its windows. Whether there is one that takes it.
    pub(super) fn place(
        &mut self,
        row: usize,
        key: u32,
        time: i64,
        event_time: Option<i64>,
        batch: &Batch,
        read: &Read,
    ) -> Result<bool, Fault> {
        let (size, step) = match self.plan.spec.windows {
            Windows::Global => {
                let slot = match self.store.head(key) {
                    NONE => self.store.add(Window::new(key, i64::MIN, i64::MAX), NONE),
                    slot => slot,
                };
                self.put(row, slot, time, event_time, batch, read)?;
                return Ok(true);
            }
            Windows::Session(ref gap) => {
                let gap = match (gap, &read.gaps) {
                    (Gap::Ms(gap), _) => *gap,
                    (_, gaps) => gaps.as_ref().map_or(1, |gaps| gaps.value(row)),
                };
                let slot = self.session(key, time, time.saturating_add(gap), batch, read)?;
                if let Some(slot) = slot {
                    self.put(row, slot, time, event_time, batch, read)?;
                }
                return Ok(slot.is_some());
            }
            Windows::Tumbling { size_ms } => (size_ms, size_ms),
            Windows::Sliding { size_ms, slide_ms } => (size_ms, slide_ms),
            Windows::Cumulate { size_ms, step_ms } => (size_ms, step_ms),
        };
        let offset = self.plan.spec.offset_ms;
        let cumulates = matches!(self.plan.spec.windows, Windows::Cumulate { .. });
        let first = window_start(time, offset, if cumulates { size } else { step });
        let mut end = first.saturating_add(size);
        let (mut taken, mut before) = (false, NONE);
        // The one that ends last comes first: when that is gone, so are the others.
        while end > time && !self.is_gone(end) {
            let slot = match self.store.find(key, before, end) {
                Ok(slot) => slot,
                Err(behind) => {
                    let start = if cumulates { first } else { end.saturating_sub(size) };
                    self.store.add(Window::new(key, start, end), behind)
                }
            };
            self.put(row, slot, time, event_time, batch, read)?;
            (taken, before) = (true, slot);
            end = end.saturating_sub(step);
        }
        Ok(taken)
    }

    /// The session that takes `[start, end)`, which may be several that become one. None: it would be gone already.
    fn session(
        &mut self,
        key: u32,
        mut start: i64,
        mut end: i64,
        batch: &Batch,
        read: &Read,
    ) -> Result<Option<u32>, Fault> {
        let mut stays = self.store.head(key);
        while stays != NONE && self.store[stays].start > end {
            stays = self.store[stays].next;
        }
        if stays == NONE || self.store[stays].end < start {
            return Ok((!self.is_gone(end)).then(|| self.store.add(Window::new(key, start, end), NONE)));
        }
        end = end.max(self.store[stays].end);
        // Those that overlap or touch lie one behind the other; the earliest of them stays.
        loop {
            let earlier = self.store[stays].next;
            if earlier == NONE || self.store[earlier].end < start {
                break;
            }
            if self.store[stays].number != NONE || self.store[earlier].number != NONE {
                self.finish_step(batch, read)?;
            }
            self.number(earlier);
            self.merge(stays, earlier);
            stays = earlier;
        }
        if self.store[stays].fires {
            // It fires as it was.
            self.finish_step(batch, read)?;
        }
        start = start.min(self.store[stays].start);
        if (start, end) != (self.store[stays].start, self.store[stays].end) {
            let firing = &mut self.store.firing[stays as usize];
            firing.fire_at = firing.fire_at.min(std::mem::replace(&mut firing.fired_at, NEVER));
        }
        let window = &mut self.store[stays];
        (window.start, window.end) = (start, end);
        Ok(Some(stays))
    }

    /// Leaves what `gone` has to `stays`, which is in the step.
    fn merge(&mut self, gone: u32, stays: u32) {
        self.store.unlink(gone);
        if self.store[gone].filled {
            self.step.stored.push(gone);
            self.step.stored_numbers.push(self.store[stays].number as usize);
            self.store[stays].filled = true;
        }
        self.merged.push(gone);
        let from = self.store.firing[gone as usize].clone();
        let into = &mut self.store.firing[stays as usize];
        into.rows += from.rows;
        into.max_time = into.max_time.max(from.max_time);
        into.fire_at = into.fire_at.min(from.fire_at).min(from.fired_at);
    }

    /// The number of a window in the step.
    fn number(&mut self, slot: u32) -> usize {
        let window = &mut self.store[slot];
        if window.number == NONE {
            window.number = self.step.slots.len() as u32;
            self.step.slots.push(slot);
            if window.filled {
                self.step.stored.push(slot);
                self.step.stored_numbers.push(window.number as usize);
            }
        }
        window.number as usize
    }

    /// Adds a row to a window.
    fn put(
        &mut self,
        row: usize,
        slot: u32,
        time: i64,
        event_time: Option<i64>,
        batch: &Batch,
        read: &Read,
    ) -> Result<(), Fault> {
        if self.store[slot].fires {
            self.finish_step(batch, read)?;
        }
        let number = self.number(slot);
        self.step.rows.push(row as u32);
        self.step.numbers.push(number);
        self.store[slot].filled = true;
        let is_over = self.plan.bounded && self.store[slot].last_time() <= self.clock();
        if is_over && self.plan.fires_at_end && !self.store[slot].again {
            self.store[slot].again = true;
            self.again.push(slot);
        }
        if self.plan.by_rows {
            self.trigger(row, slot, time, event_time, is_over, read);
        }
        self.schedule(slot, self.clocks);
        Ok(())
    }

    /// What a row does to a trigger that is not simply the end of the window.
    fn trigger(&mut self, row: usize, slot: u32, time: i64, event_time: Option<i64>, is_over: bool, read: &Read) {
        let last_time = self.store[slot].last_time();
        let firing = &mut self.store.firing[slot as usize];
        firing.max_time = firing.max_time.max(event_time.unwrap_or(i64::MIN));
        let fires = match self.plan.trigger.fires {
            Fires::Count(rows) => {
                firing.rows += 1;
                let full = firing.rows >= rows;
                firing.rows = if full { 0 } else { firing.rows };
                full
            }
            Fires::Delta { threshold, .. } => {
                let value = read.deltas.as_ref().filter(|deltas| deltas.is_valid(row)).map(|deltas| deltas.value(row));
                let differs =
                    matches!((firing.last, value), (Some(last), Some(value)) if (value - last).abs() > threshold);
                firing.last = if differs { value } else { firing.last.or(value) };
                differs
            }
            Fires::AtEnd | Fires::Early(_) | Fires::Every(..) => false,
        };
        if let Some((domain, every)) = self.plan.every
            && firing.fire_at == NEVER
            && !is_over
        {
            let now = if domain == TimeDomain::Event { time } else { self.clocks[PROCESSING] + 1 };
            // Flink's Java rounds towards zero.
            firing.fire_at = (now - now % every).saturating_add(every);
            if self.plan.ends_by(domain) {
                firing.fire_at = firing.fire_at.min(last_time);
            }
        }
        if fires {
            self.store[slot].fires = true;
            self.fires.push(slot);
        }
    }

    /// Puts a window into the queues for what is due behind `after`.
    pub(super) fn schedule(&mut self, slot: u32, after: [i64; 2]) {
        let time = self.plan.spec.time;
        let mut due = NEVER;
        if self.plan.bounded {
            let last = self.store[slot].last_time();
            if self.plan.fires_at_end && last > after[time as usize] {
                due = last;
            }
            due = due.min(last.saturating_add(self.plan.spec.allowed_lateness_ms));
        }
        if let Some((every, _)) = self.plan.every {
            let fire_at = self.store.firing[slot as usize].fire_at;
            if every == time {
                due = due.min(fire_at);
            } else {
                self.store.schedule(slot, true, fire_at);
            }
        }
        self.store.schedule(slot, false, due);
    }
}
