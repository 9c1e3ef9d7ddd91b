//! Logic on trial in a life: as in the runtime, what it emits is held back and its call is kept, until the story has its verdict.
//!
//! Then what it emitted goes on its way, or all is undone and the call is made again with the logic from before. An operator on trial says
//! that it is not done, so its tick stays open.

use tidemill_model::dead::DeadRow;
use tidemill_model::time::Now;
use tidemill_model::{Batch, Collector};

/// Where a trial stands.
pub enum Trial {
    /// There was no call.
    Begun,
    Called(Call, Held),
    /// What is to be kept, or made again.
    Decided(bool, Call, Held),
}

#[derive(Clone)]
pub enum Call {
    Rows(usize, Batch),
    Time(Now),
}

/// What a call has put out.
#[derive(Default)]
pub struct Held {
    batches: Vec<(usize, Batch)>,
    dead: Vec<DeadRow>,
    counts: Vec<(&'static str, u64)>,
}

impl Held {
    pub fn release(self, out: &mut dyn Collector) {
        self.batches.into_iter().for_each(|(port, batch)| out.emit(port, batch));
        self.dead.into_iter().for_each(|row| out.dead(row));
        self.counts.into_iter().for_each(|(counter, n)| out.count(counter, n));
    }
}

impl Collector for Held {
    fn emit(&mut self, port: usize, batch: Batch) {
        self.batches.push((port, batch));
    }
    fn dead(&mut self, row: DeadRow) {
        self.dead.push(row);
    }
    fn count(&mut self, counter: &'static str, n: u64) {
        self.counts.push((counter, n));
    }
}
