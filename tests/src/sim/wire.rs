//! What connects one life of a job with the world. A crash cuts it: whatever the life still does has no effect.
//!
//! Law: a fault is armed by the story, and comes at a call that the seed alone decides: it is counted in calls of one kind, and
//! where their number depends on threads of RocksDB, it is the first.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidemill_model::Fault;

use super::world::World;

/// Kinds of requests to a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Put,
    /// Files of RocksDB: how many there are is not known before.
    PutFile,
    Create,
    Read,
    List,
    Delete,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Nothing was done.
    Failed,
    /// It was done, but nobody says so.
    Unanswered,
    /// A fault, and it is done later, perhaps in another life.
    Late,
    CrashBefore,
    /// Half of the bytes are there.
    CrashTorn,
    CrashAfter,
}

#[derive(Clone, Copy, Debug)]
pub struct StoreFault {
    pub call: Call,
    /// Of the calls of this kind, from 0.
    pub nth: usize,
    pub how: How,
}

/// A fault of a sink while it commits or writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SinkFault {
    CommitFails,
    CrashBeforeCommit,
    CrashAfterCommit,
    WriteFails,
}

/// Calls of logic that trap.
#[derive(Clone, Copy, Debug)]
pub struct Trap {
    /// Calls until then.
    pub after: usize,
    /// Calls that trap.
    pub times: usize,
    /// The call does its work first, which must not be seen.
    pub late: bool,
}

pub struct Wire {
    pub life: usize,
    pub world: Arc<World>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    cut: bool,
    store: Option<StoreFault>,
    sink: Option<(usize, SinkFault)>,
    read: Option<usize>,
    trap: Option<Trap>,
    tried: Tried,
}

/// What became of calls of logic on trial, so far.
#[derive(Clone, Debug, Default)]
pub struct Tried {
    pub workers: usize,
    pub failed: Option<Fault>,
}

impl Wire {
    pub fn new(life: usize, world: &Arc<World>) -> Arc<Self> {
        Arc::new(Self { life, world: world.clone(), state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn cut(&self) {
        self.state().cut = true;
    }

    pub fn is_cut(&self) -> bool {
        self.state().cut
    }

    pub fn arm_store(&self, fault: StoreFault) {
        self.state().store = Some(fault);
    }

    /// `nth`: of the commits, or of the writes.
    pub fn arm_sink(&self, nth: usize, fault: SinkFault) {
        self.state().sink = Some((nth, fault));
    }

    /// The `nth` poll from now on fails.
    pub fn arm_read(&self, nth: usize) {
        self.state().read = Some(nth);
    }

    pub fn arm_trap(&self, trap: Trap) {
        self.state().trap = Some(trap);
    }

    /// A worker has called logic on trial.
    pub fn tried(&self, result: Result<(), Fault>) {
        let tried = &mut self.state().tried;
        tried.workers += 1;
        if let Err(fault) = result {
            tried.failed.get_or_insert(fault);
        }
    }

    /// What came of a trial.
    pub fn take_tried(&self) -> Tried {
        std::mem::take(&mut self.state().tried)
    }

    pub fn disarm_trap(&self) {
        self.state().trap = None;
    }

    /// What was armed and has not come is not to come.
    pub fn disarm(&self) {
        let mut state = self.state();
        *state = State { cut: state.cut, ..State::default() };
    }

    /// A request to the store: what becomes of it. None: it is done.
    pub fn store(&self, call: Call) -> Result<Option<How>, Fault> {
        let mut state = self.state();
        if state.cut {
            return Err(crashed());
        }
        let Some(fault) = &mut state.store else { return Ok(None) };
        if fault.call != call {
            return Ok(None);
        }
        if fault.nth > 0 {
            fault.nth -= 1;
            return Ok(None);
        }
        let how = fault.how;
        state.store = None;
        Ok(Some(how))
    }

    /// A commit or a write of a sink: what becomes of it.
    pub fn sink(&self, commits: bool) -> Result<Option<SinkFault>, Fault> {
        let mut state = self.state();
        if state.cut {
            return Err(crashed());
        }
        let Some((nth, fault)) = &mut state.sink else { return Ok(None) };
        if commits != (*fault != SinkFault::WriteFails) {
            return Ok(None);
        }
        if *nth > 0 {
            *nth -= 1;
            return Ok(None);
        }
        let fault = *fault;
        state.sink = None;
        Ok(Some(fault))
    }

    pub fn read(&self) -> Result<(), Fault> {
        match &mut self.state().read {
            Some(0) => Err(Fault::io("a source can't be read").with_help("this is a test")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Whether this call of logic traps, and if so, whether it does its work first.
    pub fn trap(&self) -> Option<bool> {
        let mut state = self.state();
        let trap = state.trap.as_mut()?;
        if trap.after > 0 {
            trap.after -= 1;
            return None;
        }
        let late = trap.late;
        trap.times = trap.times.saturating_sub(1);
        if trap.times == 0 {
            state.trap = None;
        }
        Some(late)
    }
}

/// The answer to whoever has crashed and does not know it.
pub fn crashed() -> Fault {
    Fault::io("the process is dead").with_help("this is a test")
}
