//! Results out of windows.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, TimestampMillisecondArray};
use arrow::buffer::ScalarBuffer;
use tidemill_model::limits::BATCH_ROWS_MAX;
use tidemill_model::logic::TimeDomain;
use tidemill_model::time::WATERMARK_MAX;
use tidemill_model::window::Fires;
use tidemill_model::{Batch, Collector, Fault, Progress};

use super::operator::{EVENT, Keyed};
use super::store::{AHEAD, NEVER, Window};

impl Keyed {
    /// Results of windows, in this order. Each is there once.
    pub(super) fn fire(&mut self, slots: &[u32]) -> Result<(), Fault> {
        let filled: Vec<u32> = slots.iter().copied().filter(|&slot| self.store[slot].filled).collect();
        for slots in filled.chunks(BATCH_ROWS_MAX) {
            let mut columns = self.contents.results(slots).map_err(|e| self.broken(&e))?;
            let windows = || slots.iter().map(|&slot| &self.store[slot]);
            let keys: Vec<u32> = windows().map(|window| window.key).collect();
            let mut all = self.keys.columns(&self.reader, &keys)?;
            let times: Option<Vec<i64>> = if self.plan.bounded {
                let time = |of: fn(&Window) -> i64| {
                    Arc::new(TimestampMillisecondArray::from_iter_values(windows().map(of))) as ArrayRef
                };
                all.extend([time(|window| window.start), time(|window| window.end)]);
                Some(windows().map(Window::last_time).collect())
            } else {
                // Without event times of the rows there is none.
                let times = slots.iter().map(|&slot| self.store.firing[slot as usize].max_time);
                times.map(|time| Some(time).filter(|&time| time != i64::MIN)).collect()
            };
            all.append(&mut columns);
            let rows = RecordBatch::try_new(self.plan.schema.clone(), all)?;
            self.results.push(Batch::new(rows).with_times(times.map(ScalarBuffer::from)));
        }
        if self.plan.trigger.purge {
            for &slot in &filled {
                self.store[slot].filled = false;
                self.contents.forget(slot);
            }
            if !self.plan.bounded {
                self.purged.extend(filled);
            }
        }
        Ok(())
    }

    /// Fires about a batch of windows for which it is time by a clock. Whether there may be more.
    fn fire_due(&mut self, domain: TimeDomain) -> Result<bool, Fault> {
        let (clock, now) = (domain as usize, self.clocks[domain as usize]);
        let (other, ends) = (domain != self.plan.spec.time, self.plan.ends_by(domain));
        let (mut fired, mut gone) = (Vec::new(), Vec::new());
        while fired.len() < BATCH_ROWS_MAX && gone.len() < BATCH_ROWS_MAX {
            let Some((time, slot)) = self.store.due(other, now) else { break };
            let (last, mut fires) = (self.store[slot].last_time(), false);
            if let Some((_, every)) = self.plan.every.filter(|every| every.0 == domain)
                && self.store.firing[slot as usize].fire_at <= time
            {
                fires = true;
                let is_over = self.plan.bounded && last <= self.clock();
                let firing = &mut self.store.firing[slot as usize];
                firing.fire_at = match domain {
                    TimeDomain::Event if now == WATERMARK_MAX && !self.plan.bounded => NEVER,
                    TimeDomain::Event => firing.fire_at.saturating_add(every),
                    // Times that have passed while nobody looked, such as those before a restart, are one.
                    TimeDomain::Processing => (now - now.rem_euclid(every)).saturating_add(every),
                };
                if ends && time >= last {
                    (firing.fire_at, firing.fired_at) = (NEVER, last);
                } else if ends {
                    firing.fire_at = firing.fire_at.min(last);
                } else if is_over {
                    firing.fire_at = NEVER;
                }
            }
            fires |= ends && self.plan.fires_at_end && time == last;
            let is_gone = ends && time >= last.saturating_add(self.plan.spec.allowed_lateness_ms);
            if fires {
                if self.store[slot].fires {
                    // Twice in one go: with what it has now.
                    self.fire_now(&mut fired)?;
                }
                self.store[slot].fires = true;
                fired.push(slot);
            }
            if is_gone {
                gone.push(slot);
            } else {
                let mut after = self.clocks;
                after[clock] = time;
                self.schedule(slot, after);
            }
        }
        let more = !fired.is_empty() || !gone.is_empty();
        self.fire_now(&mut fired)?;
        for at in 0..gone.len() {
            if let Some(&later) = gone.get(at + AHEAD) {
                let key = self.store[later].key;
                self.store.prefetch_head(key);
                self.keys.prefetch(key);
            }
            self.drop_window(gone[at]);
        }
        self.drop_purged();
        Ok(more)
    }

    fn fire_now(&mut self, fired: &mut Vec<u32>) -> Result<(), Fault> {
        fired.iter().for_each(|&slot| self.store[slot].fires = false);
        self.fire(fired)?;
        fired.clear();
        Ok(())
    }

    /// At the end of the input what has no other end fires.
    pub(super) fn fire_rest(&mut self) -> Result<(), Fault> {
        let is_end = self.clocks[EVENT] == WATERMARK_MAX && !self.plan.bounded;
        if is_end && self.plan.trigger.fires == Fires::AtEnd && !self.ended {
            self.ended = true;
            let all: Vec<u32> = self.store.live().collect();
            self.fire(&all)?;
        }
        Ok(())
    }

    fn drop_window(&mut self, slot: u32) {
        let key = self.store[slot].key;
        if !self.store.unlink(slot) {
            self.keys.remove(key);
        }
        self.contents.forget(slot);
        self.store.release(slot);
    }

    /// A window without an end goes when there is nothing more to know of it.
    pub(super) fn drop_purged(&mut self) {
        for slot in std::mem::take(&mut self.purged) {
            let (window, firing) = (&self.store[slot], &self.store.firing[slot as usize]);
            if window.live && !window.filled && firing.rows == 0 && firing.last.is_none() {
                self.drop_window(slot);
            }
        }
    }

    /// Emits what is there, and what is due, about a batch at a time.
    pub(super) fn emit(&mut self, out: &mut dyn Collector) -> Result<Progress, Fault> {
        loop {
            if !self.results.is_empty() {
                let results = std::mem::take(&mut self.results);
                let rows: usize = results.iter().map(Batch::num_rows).sum();
                match rows <= BATCH_ROWS_MAX {
                    true => out.emit(0, Batch::concat(&results)?),
                    false => results.into_iter().for_each(|batch| out.emit(0, batch)),
                }
                return Ok(Progress::More);
            }
            self.advanced = self.advanced && self.fire_due(TimeDomain::Event)?;
            if !self.advanced && !self.fire_due(TimeDomain::Processing)? {
                return Ok(Progress::Done);
            }
        }
    }
}
