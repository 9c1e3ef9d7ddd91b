//! Upgrades: the logic of a node is replaced while the job runs, and a restart knows it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tidemill_model::logic::LogicFactory;
use tidemill_model::operator::{OpenedLogic, StateChange, Successor};
use tidemill_model::plan::{Node, NodeKind};
use tidemill_model::{Fault, OperatorContext, OperatorFactory, Plan};

use crate::job::{JobControl, Shared};
use crate::shadow::{Shadow, ShadowReport};
use crate::swap::Swap;

/// How often it is seen whether a shadow is to end.
const SHADOW_POLL: Duration = Duration::from_millis(5);

/// What a job knows of its upgrades.
pub(crate) struct Upgrades {
    /// Held while a checkpoint is taken and while logic is replaced.
    turn: Mutex<()>,
    swap: Mutex<Option<Arc<Swap>>>,
    shadow: Mutex<Option<Arc<Shadow>>>,
    /// Node of the swap or shadow that is under way, or [`NO_SWAP`].
    swapping: AtomicUsize,
    replaced: Mutex<Vec<Replaced>>,
}

impl Default for Upgrades {
    fn default() -> Self {
        let swapping = AtomicUsize::new(NO_SWAP);
        Self {
            turn: Mutex::default(),
            swap: Mutex::default(),
            shadow: Mutex::default(),
            swapping,
            replaced: Mutex::default(),
        }
    }
}

/// No logic is being replaced.
const NO_SWAP: usize = usize::MAX;

/// A node whose logic has been replaced while it ran.
#[derive(Clone)]
struct Replaced {
    node: usize,
    factory: Arc<dyn OperatorFactory>,
    /// Checkpoints that had been completed by then. Until there is another one, a restart begins with the logic from before.
    completed: u64,
}

impl Shared {
    pub fn place(&self, node: usize, worker: usize) -> OperatorContext {
        OperatorContext { node: self.plan.nodes[node].name.clone(), worker, workers: self.workers }
    }

    /// The node whose logic is being replaced.
    pub fn swapping(&self) -> Option<usize> {
        Some(self.upgrades.swapping.load(Ordering::Acquire)).filter(|&node| node != NO_SWAP)
    }

    /// The replacement of a node's logic that is under way.
    pub fn swap_of(&self, node: usize) -> Option<Arc<Swap>> {
        if self.upgrades.swapping.load(Ordering::Acquire) != node {
            return None;
        }
        self.upgrades.swap.lock().expect("no panic while held").clone()
    }

    /// The shadow of a node, if it has one.
    pub fn shadow_of(&self, node: usize) -> Option<Arc<Shadow>> {
        if self.upgrades.swapping.load(Ordering::Acquire) != node {
            return None;
        }
        self.upgrades.shadow.lock().expect("no panic while held").clone()
    }

    fn is_over(&self) -> bool {
        self.is_aborted() || self.barriers.has_ended()
    }

    /// What a node is made of now; for operators.
    pub fn factory(&self, node: usize) -> Option<Arc<dyn OperatorFactory>> {
        let replaced = self.upgrades.replaced.lock().expect("no panic while held");
        let NodeKind::Operator { factory } = &self.plan.nodes[node].kind else { return None };
        Some(replaced.iter().rev().find(|r| r.node == node).map_or(factory, |r| &r.factory).clone())
    }

    /// Whoever holds it takes a checkpoint or replaces logic; nobody else does then.
    pub fn turn(&self) -> MutexGuard<'_, ()> {
        self.upgrades.turn.lock().expect("no panic while held")
    }

    /// Replaces the logic of a node, opened for each worker. When this has failed all is as it was.
    pub fn replace(
        &self,
        node: usize,
        factory: Arc<dyn OperatorFactory>,
        logic: Vec<OpenedLogic>,
    ) -> Result<(), Fault> {
        let _turn = self.turn();
        let swap = Arc::new(Swap::new(logic));
        *self.upgrades.swap.lock().expect("no panic while held") = Some(swap.clone());
        self.upgrades.swapping.store(node, Ordering::Release);
        let judged = swap.judge(|| self.is_over());
        let settled = swap.wait(|| self.is_over());
        self.upgrades.swapping.store(NO_SWAP, Ordering::Release);
        *self.upgrades.swap.lock().expect("no panic while held") = None;
        judged.and(settled)?;
        let completed = self.checkpoints.as_ref().map_or(0, |c| c.stats.lock().expect("no panic while held").completed);
        self.upgrades.replaced.lock().expect("no panic while held").push(Replaced { node, factory, completed });
        Ok(())
    }
}

impl JobControl {
    /// Whether other logic for a node would fit, and what would become of its state. Nothing changes; `dropped` are names of
    /// states that the user gives up.
    pub fn plan_upgrade(
        &self,
        node: &str,
        logic: impl FnOnce(&str) -> Result<Arc<dyn LogicFactory>, Fault>,
        dropped: &[String],
    ) -> Result<Upgrade, Fault> {
        let shared = &self.0;
        if shared.local.len() != shared.workers {
            return Err(Fault::config("the job runs in several processes, where components can't be replaced yet")
                .with_help("stop it at a savepoint, and start it with the new component"));
        }
        let is_it = |n: &Node| n.name == node && matches!(n.kind, NodeKind::Operator { .. });
        let found = shared.plan.nodes.iter().position(is_it);
        let Some((index, factory)) = found.and_then(|index| Some((index, shared.factory(index)?))) else {
            let operators = shared.plan.nodes.iter().filter(|n| matches!(n.kind, NodeKind::Operator { .. }));
            let names: Vec<&str> = operators.map(|n| n.name.as_str()).collect();
            let help = format!("the operators are {}", names.join(", "));
            return Err(Fault::config(format!("the job has no operator `{node}`")).with_help(help));
        };
        let at = |fault: Fault| fault.at(node);
        let successor = factory.successor(logic(&factory.about().operator)?, dropped).map_err(at)?;
        // The user's `open` runs here, and says what it has to say before anything stops.
        let logic = (0..shared.workers).map(|worker| successor.open(&shared.place(index, worker)));
        let logic = logic.collect::<Result<_, _>>().map_err(at)?;
        Ok(Upgrade { shared: shared.clone(), node: index, successor, logic, dropped: dropped.to_vec() })
    }

    /// The plan with which the job is to be started again: with the logic that has replaced other logic since, if there is a
    /// checkpoint of it. Names of nodes that go back to what they were.
    pub fn plan_for_restart(&self) -> (Plan, Vec<String>) {
        let mut plan = self.0.plan.clone();
        let mut back = Vec::new();
        let completed = self.checkpoint_stats().map_or(0, |stats| stats.completed);
        for replaced in self.0.upgrades.replaced.lock().expect("no panic while held").iter() {
            let node = &mut plan.nodes[replaced.node];
            match &mut node.kind {
                NodeKind::Operator { factory } if completed > replaced.completed => *factory = replaced.factory.clone(),
                _ => back.push(node.name.clone()),
            }
        }
        (plan, back)
    }
}

/// Other logic for a node of a running job, opened and found to fit.
pub struct Upgrade {
    shared: Arc<Shared>,
    node: usize,
    successor: Arc<dyn Successor>,
    logic: Vec<OpenedLogic>,
    /// States that the user gives up.
    dropped: Vec<String>,
}

impl Upgrade {
    /// Lets the new logic work beside the one that runs, on a copy of the state, and compares what comes out.
    pub fn shadow(&self, duration: Duration) -> Result<ShadowReport, Fault> {
        let shared = &self.shared;
        let upgrades = &shared.upgrades;
        let places = (0..shared.workers).map(|worker| shared.place(self.node, worker));
        let (shadow, threads) = Shadow::start(&self.successor.factory(), places, &self.dropped)?;
        {
            let mut slot = upgrades.shadow.lock().expect("no panic while held");
            if slot.is_some() {
                shadow.end();
                return Err(Fault::config("another upgrade of the job is under way"));
            }
            *slot = Some(shadow.clone());
        }
        upgrades.swapping.store(self.node, Ordering::Release);
        let end = Instant::now() + duration;
        while Instant::now() < end && !shared.is_over() && !threads.have_ended() {
            std::thread::sleep(SHADOW_POLL);
        }
        shadow.end();
        let report = threads.join();
        upgrades.swapping.store(NO_SWAP, Ordering::Release);
        *upgrades.shadow.lock().expect("no panic while held") = None;
        report.map_err(|fault| fault.at(&shared.plan.nodes[self.node].name))
    }

    /// What becomes of each state.
    pub fn changes(&self) -> &[StateChange] {
        self.successor.changes()
    }

    /// Goes over to the new logic, between two calls on each worker. If it fails in its first calls, all goes on with the logic from
    /// before, as if nothing had been; the fault says why.
    pub fn run(self) -> Result<Duration, Fault> {
        let began = Instant::now();
        self.shared.replace(self.node, self.successor.factory(), self.logic)?;
        Ok(began.elapsed())
    }
}
