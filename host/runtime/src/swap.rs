//! Other logic for a node of a running job.
//!
//! Each worker switches between two calls of its own: rows of a key are on one worker, so nothing has to be aligned. What the new
//! logic does first is a trial: its outputs are held back and its inputs kept, until it has worked on all workers. Then all let
//! go what they hold; or, if one has failed, all undo what it did and repeat the calls with the logic from before.
//!
//! Laws: no row is lost or comes twice, whichever way it ends; no checkpoint is taken while a swap is under way; a worker
//! waits for no other: it stops taking rows when its trial has gone on for long enough.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tidemill_model::Fault;
use tidemill_model::operator::OpenedLogic;

use crate::checkpoint::ended;

/// A worker that has no rows for the new logic does not hold up the others for longer.
const TRIAL: Duration = Duration::from_millis(15);
/// How long rows are waited for if no worker has any: nothing is held up then.
const IDLE_TRIAL: Duration = Duration::from_millis(500);
/// A worker switches between two calls: one that takes longer is stuck, or has nothing left to do.
const TAKE: Duration = Duration::from_secs(10);

/// What has been decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Open,
    /// It works here: no more calls until it is known whether it works everywhere.
    Sealed,
    Keep,
    GoBack,
}

/// Where a worker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Before,
    Trying,
    /// A call has gone well.
    Tried,
    Settled,
}

/// One replacement of one node's logic.
pub(crate) struct Swap {
    /// The first worker of this process.
    first: usize,
    verdict: AtomicU8,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// By worker.
    logic: Vec<Option<OpenedLogic>>,
    stages: Vec<Stage>,
    /// Workers that are in a call of the new logic.
    calling: Vec<bool>,
    last_taken: Instant,
    failed: Option<Fault>,
}

impl Swap {
    /// With logic for each worker of this process, of which the first has the number `first`.
    pub fn new(first: usize, logic: Vec<OpenedLogic>) -> Self {
        let stages = vec![Stage::Before; logic.len()];
        let logic = logic.into_iter().map(Some).collect();
        let calling = vec![false; stages.len()];
        let state = State { logic, stages, calling, last_taken: Instant::now(), failed: None };
        Self { first, verdict: AtomicU8::new(0), state: Mutex::new(state), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }

    pub fn verdict(&self) -> Verdict {
        match self.verdict.load(Ordering::Acquire) {
            0 => Verdict::Open,
            1 => Verdict::Keep,
            2 => Verdict::GoBack,
            _ => Verdict::Sealed,
        }
    }

    /// A worker switches; none if it has already, or shall not any more.
    pub fn take(&self, worker: usize) -> Option<OpenedLogic> {
        let mut state = self.lock();
        if self.verdict() != Verdict::Open {
            return None;
        }
        let worker = worker - self.first;
        let logic = state.logic[worker].take()?;
        state.stages[worker] = Stage::Trying;
        state.last_taken = Instant::now();
        self.changed.notify_all();
        Some(logic)
    }

    /// A worker is about to call the new logic. False: it shall not, since there is a verdict.
    pub fn begin_call(&self, worker: usize) -> bool {
        let mut state = self.lock();
        let calling = &mut state.calling[worker - self.first];
        *calling = self.verdict() == Verdict::Open;
        *calling
    }

    /// The call has gone well. `tells`: it says something about the logic.
    pub fn end_call(&self, worker: usize, tells: bool) {
        let (mut state, worker) = (self.lock(), worker - self.first);
        state.calling[worker] = false;
        if tells && state.stages[worker] == Stage::Trying {
            state.stages[worker] = Stage::Tried;
            self.changed.notify_all();
        }
    }

    /// The new logic has failed on a worker. The first fault counts.
    pub fn failed(&self, fault: Fault) {
        self.lock().failed.get_or_insert(fault);
        self.changed.notify_all();
    }

    /// A worker has done what the verdict says.
    pub fn settled(&self, worker: usize) {
        self.lock().stages[worker - self.first] = Stage::Settled;
        self.changed.notify_all();
    }

    /// Waits until it is known whether the new logic works here; then no more calls are made. `is_over`: the job has ended.
    pub fn seal(&self, is_over: impl Fn() -> bool) -> Result<(), Fault> {
        let began = Instant::now();
        let mut state = self.lock();
        loop {
            if let Some(fault) = state.failed.take() {
                return Err(fault);
            }
            if is_over() {
                return Err(ended());
            }
            let untaken = state.stages.iter().position(|&stage| stage == Stage::Before);
            let tried = state.stages.iter().filter(|&&stage| stage == Stage::Tried).count();
            let patience = if tried > 0 { TRIAL } else { IDLE_TRIAL };
            let is_clear = tried == state.stages.len() || state.last_taken.elapsed() > patience;
            match untaken {
                None if is_clear && !state.calling.contains(&true) => {
                    // Under the lock under which calls begin.
                    self.verdict.store(3, Ordering::Release);
                    return Ok(());
                }
                Some(worker) if began.elapsed() > TAKE => {
                    let message = format!("the operator takes no other logic within {} s", TAKE.as_secs());
                    let help = "its input has ended, or one of its calls takes long: `tidemill status` tells";
                    return Err(Fault::io(message).on_worker(worker + self.first).with_help(help));
                }
                _ => {}
            }
            state = self.changed.wait_timeout(state, Duration::from_millis(1)).expect("no panic while held").0;
        }
    }

    /// Whether all keep the new logic. To be kept it has to be sealed.
    pub fn decide(&self, keep: bool) {
        let _state = self.lock();
        self.verdict.store(if keep { 1 } else { 2 }, Ordering::Release);
        self.changed.notify_all();
    }

    /// Waits until all that have switched have done what was decided, or the job has ended.
    pub fn wait(&self, is_over: impl Fn() -> bool) -> Result<(), Fault> {
        let mut state = self.lock();
        let open = |stage: &Stage| matches!(stage, Stage::Trying | Stage::Tried);
        while state.stages.iter().any(open) {
            if is_over() {
                return Err(ended());
            }
            state = self.changed.wait_timeout(state, Duration::from_millis(1)).expect("no panic while held").0;
        }
        Ok(())
    }
}
