//! Upgrades: the logic of a node is replaced while the job runs, and a restart knows it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tidemill_model::logic::{GuestLimits, LogicFactory};
use tidemill_model::operator::{OpenedLogic, StateChange, Successor};
use tidemill_model::plan::{Node, NodeKind};
use tidemill_model::{Fault, OperatorContext, OperatorFactory, Plan};

use crate::cluster::Order;
use crate::job::Shared;
use crate::job_control::JobControl;
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
    /// A request is under way.
    requested: AtomicBool,
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
            requested: AtomicBool::new(false),
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
    /// The first checkpoint that can hold its state. A restart from one before it begins with the logic from before.
    since: u64,
    component: NewComponent,
}

/// A component that has taken over, or is to.
#[derive(Clone)]
pub struct NewComponent {
    /// The node that it is for.
    pub node: String,
    pub bytes: Arc<Vec<u8>>,
    /// States that were given up for it.
    pub dropped: Vec<String>,
}

/// Makes logic of a component's bytes and the name of an operator in it.
pub type Loader = Arc<dyn Fn(&[u8], &str, GuestLimits) -> Result<Arc<dyn LogicFactory>, Fault> + Send + Sync>;

/// The plan with these components in the places of earlier ones, in order.
pub(crate) fn with_components(plan: &Plan, components: &[NewComponent], load: &Loader) -> Result<Plan, Fault> {
    let mut plan = plan.clone();
    let limits = plan.options.guest;
    for component in components {
        let node = plan.nodes.iter_mut().find(|node| node.name == component.node);
        let Some(Node { kind: NodeKind::Operator { factory }, .. }) = node else {
            return Err(Fault::internal(format!("a component for a node `{}` that is none", component.node)));
        };
        let logic = load(&component.bytes, &factory.about().operator, limits)?;
        let successor = factory.successor(logic, &component.dropped).map_err(|fault| fault.at(&component.node))?;
        *factory = successor.factory();
    }
    Ok(plan)
}

impl Shared {
    pub fn place(&self, node: usize, worker: usize) -> OperatorContext {
        let (node, processing_ms) = (self.plan.nodes[node].name.clone(), self.processing_ms());
        OperatorContext { node, worker, workers: self.workers, processing_ms }
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

    /// Puts logic on trial, opened for each worker of this process, until it is known whether it works here.
    pub fn try_logic(&self, node: usize, logic: Vec<OpenedLogic>) -> (Arc<Swap>, Result<(), Fault>) {
        let swap = Arc::new(Swap::new(self.local.start, logic));
        *self.upgrades.swap.lock().expect("no panic while held") = Some(swap.clone());
        self.upgrades.swapping.store(node, Ordering::Release);
        let sealed = swap.seal(|| self.is_over());
        (swap, sealed)
    }

    /// Ends a trial as it was decided.
    pub fn settle(&self, swap: &Swap) -> Result<(), Fault> {
        let settled = swap.wait(|| self.is_over());
        self.upgrades.swapping.store(NO_SWAP, Ordering::Release);
        *self.upgrades.swap.lock().expect("no panic while held") = None;
        settled
    }

    /// From now on a node is made of this.
    pub fn replaced(&self, node: usize, factory: Arc<dyn OperatorFactory>, component: NewComponent) {
        let since = self.checkpoints.as_ref().map_or(0, |checkpoints| checkpoints.next_id());
        let replaced = Replaced { node, factory, since, component };
        self.upgrades.replaced.lock().expect("no panic while held").push(replaced);
    }

    /// Finds out what becomes of a node with another component, and opens it for each worker of this process.
    pub fn open_component(&self, component: &NewComponent, load: &Loader) -> Result<Opened, Fault> {
        let name = &component.node;
        let is_it = |n: &Node| n.name == *name && matches!(n.kind, NodeKind::Operator { .. });
        let found = self.plan.nodes.iter().position(is_it);
        let Some((node, factory)) = found.and_then(|index| Some((index, self.factory(index)?))) else {
            let operators = self.plan.nodes.iter().filter(|n| matches!(n.kind, NodeKind::Operator { .. }));
            let names: Vec<&str> = operators.map(|n| n.name.as_str()).collect();
            let help = format!("the operators are {}", names.join(", "));
            return Err(Fault::config(format!("the job has no operator `{name}`")).with_help(help));
        };
        let at = |fault: Fault| fault.at(name);
        let logic = load(&component.bytes, &factory.about().operator, self.plan.options.guest)?;
        let successor = factory.successor(logic, &component.dropped).map_err(at)?;
        // The user's `open` runs here, and says what it has to say before anything stops.
        let logic = self.local.clone().map(|worker| successor.open(&self.place(node, worker)));
        let logic = logic.collect::<Result<_, _>>().map_err(at)?;
        Ok(Opened { node, successor, logic })
    }
}

/// Other logic for a node, opened for the workers of a process.
pub(crate) struct Opened {
    pub node: usize,
    pub successor: Arc<dyn Successor>,
    pub logic: Vec<OpenedLogic>,
}

impl JobControl {
    /// Whether another component for a node would fit, and what would become of its state. Nothing changes yet.
    pub fn plan_upgrade(&self, component: NewComponent, load: &Loader) -> Result<Upgrade, Fault> {
        let shared = &self.0;
        let ticket = Ticket::take(shared)?;
        let opened = shared.open_component(&component, load)?;
        if let Some(leader) = shared.leader() {
            leader.prepare(shared, &component)?;
        }
        Ok(Upgrade { shared: shared.clone(), opened, component, ticket })
    }

    /// The plan with which the job is to be started again from this checkpoint (none: from the beginning), and the components that were put
    /// into it: those that the checkpoint knows. Names of nodes that go back to what they were.
    pub fn plan_for_restart(&self, checkpoint: Option<u64>) -> (Plan, Vec<NewComponent>, Vec<String>) {
        let mut plan = self.0.plan.clone();
        let (mut components, mut back) = (Vec::new(), Vec::new());
        for replaced in self.0.upgrades.replaced.lock().expect("no panic while held").iter() {
            let node = &mut plan.nodes[replaced.node];
            match &mut node.kind {
                NodeKind::Operator { factory } if checkpoint.is_some_and(|id| id >= replaced.since) => {
                    *factory = replaced.factory.clone();
                    components.push(replaced.component.clone());
                }
                _ => back.push(node.name.clone()),
            }
        }
        (plan, components, back)
    }

    /// Whether a checkpoint of this run exists: a restart begins at the latest one then.
    pub fn has_published(&self) -> bool {
        self.0.checkpoints.as_ref().is_some_and(|checkpoints| checkpoints.has_published())
    }
}

/// The right to upgrade: one request has it at a time, from its plan to its end.
struct Ticket(Arc<Shared>);

impl Ticket {
    fn take(shared: &Arc<Shared>) -> Result<Self, Fault> {
        if shared.upgrades.requested.swap(true, Ordering::AcqRel) {
            let fault = Fault::config("another upgrade of the job is under way");
            return Err(fault.with_help("try again when it has ended"));
        }
        Ok(Self(shared.clone()))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.upgrades.requested.store(false, Ordering::Release);
    }
}

/// Another component for a node of a running job, opened and found to fit.
pub struct Upgrade {
    shared: Arc<Shared>,
    opened: Opened,
    component: NewComponent,
    ticket: Ticket,
}

impl Upgrade {
    /// Lets the new logic work beside the one that runs, on a copy of the state, and compares what comes out. Of several processes, on the
    /// workers of this one.
    pub fn shadow(&self, duration: Duration) -> Result<ShadowReport, Fault> {
        let (shared, node) = (&self.shared, self.opened.node);
        let upgrades = &shared.upgrades;
        let places = shared.local.clone().map(|worker| shared.place(node, worker));
        let factory = self.opened.successor.factory();
        if let Some(state) = factory.about().states.iter().find(|state| !state.scope.is_empty()) {
            // What the first worker holds for all, and each of its own, a copy for one worker would not have.
            let message =
                format!("state `{}` is of the scope `{}`: such operators have no shadow", state.name, state.scope);
            return Err(
                Fault::config(message).with_help("upgrade it without `--shadow`: what fails at once is taken back")
            );
        }
        let (shadow, threads) = Shadow::start(&factory, shared.local.start, places, &self.component.dropped)?;
        *upgrades.shadow.lock().expect("no panic while held") = Some(shadow.clone());
        upgrades.swapping.store(node, Ordering::Release);
        let end = Instant::now() + duration;
        while Instant::now() < end && !shared.is_over() && !threads.have_ended() {
            std::thread::sleep(SHADOW_POLL);
        }
        shadow.end();
        let report = threads.join();
        upgrades.swapping.store(NO_SWAP, Ordering::Release);
        *upgrades.shadow.lock().expect("no panic while held") = None;
        report.map_err(|fault| fault.at(&shared.plan.nodes[node].name))
    }

    /// What becomes of each state.
    pub fn changes(&self) -> &[StateChange] {
        self.opened.successor.changes()
    }

    /// Goes over to the new logic, between two calls on each worker. If it fails in its first calls, all goes on with the logic from
    /// before, as if nothing had been; the fault says why.
    pub fn run(self) -> Result<Duration, Fault> {
        let Self { shared, opened: Opened { node, successor, logic }, component, ticket: _ticket } = self;
        let _turn = shared.turn();
        let began = Instant::now();
        if let Some(leader) = shared.leader() {
            leader.order(&Order::Swap);
        }
        let (swap, here) = shared.try_logic(node, logic);
        let there = shared.leader().map_or(Ok(()), |leader| leader.tried(&shared));
        let works = here.and(there);
        swap.decide(works.is_ok());
        if let Some(leader) = shared.leader() {
            leader.order(&Order::Verdict { keep: works.is_ok() });
        }
        let settled = shared.settle(&swap);
        let others = shared.leader().map_or(Ok(()), |leader| leader.settled(&shared));
        works.and(settled).and(others)?;
        shared.replaced(node, successor.factory(), component);
        Ok(began.elapsed())
    }
}
