//! A process that takes part in a job and does not lead it: one generation, from the leader's word to its end.
//!
//! Laws: it does nothing of which the leader does not know; it commits only what the leader has published; when it can't hear
//! the leader any more, it ends what it does.

use std::collections::BTreeMap;
use std::io::BufReader;
use std::net::Shutdown;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use tidemill_model::checkpoint::{CheckpointStore, Manifest, ObjectRef, PartManifest};
use tidemill_model::snapshot::Form;
use tidemill_model::{Fault, Plan};

use super::gate::Gate;
use super::handshake::{Kind, Refused};
use super::links::Mesh;
use super::messages::{self, Component, Order, Report, Start, UpgradeStep};
use super::wire::Wire;
use crate::barrier::{Barrier, Barriers, Reached};
use crate::job::{PhaseHook, Setup, Shared, parts};
use crate::keeper::{Keeper, Urgency};
use crate::restore::{self, StartFrom};
use crate::upgrade::{Loader, NewComponent, Opened, with_components};

/// How often the leader hears how this process is doing.
const NUMBERS_EVERY: Duration = Duration::from_millis(200);
/// How long the leader may take to say what has become of a job that has failed here.
const LAST_WORD: Duration = Duration::from_secs(3);
/// How long a process that waits for the job to begin believes in a leader that says nothing.
const SILENCE: Duration = Duration::from_secs(10);
/// How soon a verdict is noticed that came at the worst moment.
const VERDICT_POLL: Duration = Duration::from_millis(2);

/// What a process needs to take part.
pub struct FollowOptions<'a> {
    pub plan: &'a Plan,
    pub gate: &'a Gate,
    /// Of the leader.
    pub leader: &'a str,
    /// Where the others reach this process.
    pub own: &'a str,
    /// None: the pipeline takes no checkpoints.
    pub store: Option<Arc<dyn CheckpointStore>>,
    /// For files on their way to a state backend.
    pub scratch: PathBuf,
    pub phases: Option<PhaseHook>,
    /// For components that take over.
    pub loader: Loader,
}

/// How a generation came to its end.
#[derive(Debug)]
pub enum Followed {
    /// The job has ended well.
    Finished,
    /// It has ended at a checkpoint, perhaps to go on.
    Halted,
    /// It has failed, or the leader was lost.
    Failed(Fault),
}

/// Takes part in the job once. `Err`: the leader can't be reached, does not want this process, or has gone before the job began: a
/// process that was quick to come back finds the leader of a job that was stopped on its way out.
pub fn follow(options: &FollowOptions<'_>) -> Result<Followed, Refused> {
    let wire = options.gate.dial(0, options.leader, options.own, Kind::Control, 0)?;
    let lost = |why: &dyn std::fmt::Display| Err(Refused::for_now(leader_lost(why)));
    if let Err(error) = wire.set_timeout(Some(SILENCE)) {
        return lost(&error);
    }
    let mut from = BufReader::new(&wire);
    let start = loop {
        match messages::receive(&mut from) {
            Ok(Some(Order::Start(start))) => break start,
            Ok(Some(Order::Finish)) => return Ok(Followed::Finished),
            Ok(Some(_)) => {}
            Ok(None) => return lost(&"its connection ended"),
            Err(error) => return lost(&error),
        }
    };
    Ok(Follower::new(&wire, &start).run(options, *start, from))
}

fn leader_lost(why: &dyn std::fmt::Display) -> Fault {
    Fault::io(format!("process 0, which leads the job, was lost: {why}"))
}

/// The side of the leader that this process knows.
pub(crate) struct Follower {
    wire: Wire,
    generation: u64,
    reports: Sender<Report>,
    queue: Receiver<Report>,
    /// What the leader has said of the end.
    last: Mutex<Option<Last>>,
    said: Condvar,
    /// What was stored for checkpoints, by number.
    stored: Mutex<BTreeMap<u64, Vec<ObjectRef>>>,
    /// What the leader says of a component on trial.
    verdict: Mutex<Option<bool>>,
    over: AtomicBool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    Finish,
    Halt,
    Abort,
    /// Nothing will come.
    Silence,
}

/// For the thread that stores and commits.
enum Task {
    Barrier {
        number: u64,
        base: Option<u64>,
    },
    Commit {
        number: u64,
    },
    Prepare(Component),
    Swap,
    /// All input has ended.
    End,
}

impl Follower {
    fn new(wire: &Wire, start: &Start) -> Arc<Self> {
        let (reports, queue) = unbounded();
        let known = start.from.as_ref().map(|manifest| (manifest.id, objects_of(&manifest.parts)));
        Arc::new(Self {
            wire: wire.clone(),
            generation: start.generation,
            reports,
            queue,
            last: Mutex::default(),
            said: Condvar::new(),
            stored: Mutex::new(known.into_iter().collect()),
            verdict: Mutex::default(),
            over: AtomicBool::new(false),
        })
    }

    pub fn report(&self, report: Report) {
        // It is sent as long as somebody listens.
        let _ = self.reports.send(report);
    }

    fn run(self: &Arc<Self>, options: &FollowOptions<'_>, start: Start, from: BufReader<&Wire>) -> Followed {
        options.gate.begin(self.generation);
        let silence = Duration::from_millis(start.silence_ms);
        if let Err(error) = self.wire.set_timeout(Some(silence)) {
            return Followed::Failed(leader_lost(&error));
        }
        let mut addresses = start.addresses.clone();
        // As this process has reached it.
        if let Some(first) = addresses.first_mut() {
            options.leader.clone_into(first);
        }
        let shared = match self.in_company(silence, || self.prepare(options, start)) {
            Ok(shared) => shared,
            Err(fault) => return self.refuse(fault),
        };
        let keeper = Keeper::new(shared.clone());
        let (tasks, todo) = unbounded();
        std::thread::scope(|scope| {
            let (own, store) = (&shared, options.store.as_deref());
            scope.spawn(move || self.speak(own, silence));
            let orders = tasks.clone();
            scope.spawn(move || self.listen(own, from, &orders));
            let keeper = &keeper;
            let storing = scope.spawn(move || self.keep(keeper, store, &options.loader, &todo));
            match Mesh::connect(options.gate, self.generation, &addresses, &shared) {
                Ok(mesh) => crate::job::work_in(&mesh, &shared, || self.await_last_word(&shared)),
                Err(fault) => shared.fail(fault),
            }
            if !shared.is_aborted() {
                let _ = tasks.send(Task::End);
            }
            self.await_end(&shared);
            drop(tasks);
            self.over.store(true, Ordering::SeqCst);
            self.wire.shut(Shutdown::Both);
            shared.barriers.end();
            let _ = storing.join();
        });
        let last = *self.last.lock().expect("no panic while held");
        if last != Some(Last::Finish) && last != Some(Last::Halt) {
            keeper.remember(shared.barriers.take_last());
            // What a manifest names is another process's to commit now.
            if options.store.is_none() {
                keeper.discard();
            }
        }
        match last {
            Some(Last::Finish) => Followed::Finished,
            Some(Last::Halt) => Followed::Halted,
            _ => Followed::Failed(shared.fault().unwrap_or_else(|| leader_lost(&"it says nothing"))),
        }
    }

    /// Does something that may take its time, while the leader hears that this process is there.
    fn in_company<T>(&self, silence: Duration, work: impl FnOnce() -> T) -> T {
        let (done, is_done) = bounded::<()>(0);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                while is_done.recv_timeout(NUMBERS_EVERY.min(silence / 4)) == Err(RecvTimeoutError::Timeout) {
                    // A leader that is lost is noticed where it is listened to.
                    let _ = messages::send(&self.wire, &Report::Numbers { nodes: Vec::new(), first_row_ns: 0 });
                }
            });
            let outcome = work();
            drop(done);
            outcome
        })
    }

    /// Everything that can go wrong before the workers start.
    fn prepare(self: &Arc<Self>, options: &FollowOptions<'_>, start: Start) -> Result<Arc<Shared>, Fault> {
        let FollowOptions { plan, gate, store, scratch, phases, .. } = options;
        if let Some(store) = store {
            store.join_generation(start.generation, gate.process())?;
        }
        let from = start_from(start.from, start.dropped, store.as_ref(), scratch)?;
        // Files that an earlier generation has left here are nobody's any more.
        restore::recover(plan, store.as_ref(), from.as_ref())?;
        let components: Result<Vec<NewComponent>, Fault> = start.components.into_iter().map(Component::read).collect();
        let plan = with_components(plan, &components?, &options.loader)?;
        let processes = start.addresses.len();
        let workers = start.threads * processes;
        let local = gate.process() * start.threads..(gate.process() + 1) * start.threads;
        Ok(Arc::new(Shared::new(Setup {
            process: gate.process(),
            barriers: Barriers::new(parts(&plan, local.clone())),
            plan,
            local,
            workers,
            splits: start.splits,
            from,
            phases: phases.clone(),
            checkpoints: None,
            start_ms: start.start_ms,
            team: crate::job::Role::Follower(self.clone()),
        })?))
    }

    /// This process can't take part: the leader has to know why.
    fn refuse(&self, fault: Fault) -> Followed {
        let _ = messages::send(&self.wire, &Report::Failed(fault.clone().into()));
        // So that the word arrives before the end of the connection does.
        self.wire.shut(Shutdown::Write);
        Followed::Failed(fault)
    }

    fn speak(&self, shared: &Shared, silence: Duration) {
        let pause = NUMBERS_EVERY.min(silence / 4);
        loop {
            let report = match self.queue.recv_timeout(pause) {
                Ok(report) => report,
                Err(RecvTimeoutError::Timeout) if self.over.load(Ordering::SeqCst) => return,
                Err(_) => numbers(shared),
            };
            shared.look_at_suspicion();
            let ended = matches!(report, Report::Ended { .. });
            let sent = ended.then(|| numbers(shared)).into_iter().chain([report]);
            for report in sent {
                if let Err(error) = messages::send(&self.wire, &report) {
                    return self.lose(shared, &error);
                }
            }
        }
    }

    fn lose(&self, shared: &Shared, why: &dyn std::fmt::Display) {
        // After its last word it may hang up.
        if self.hear_last(Last::Silence) == Last::Silence {
            shared.fail(leader_lost(why));
        }
    }

    /// The first word about the end counts; returns that.
    fn hear_last(&self, last: Last) -> Last {
        let first = *self.last.lock().expect("no panic while held").get_or_insert(last);
        self.said.notify_all();
        first
    }

    fn listen(&self, shared: &Shared, mut from: BufReader<&Wire>, tasks: &Sender<Task>) {
        loop {
            match messages::receive(&mut from) {
                Ok(Some(order)) => self.obey(shared, order, tasks),
                Ok(None) => return self.lose(shared, &"its connection ended"),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    return self.lose(shared, &"nothing was heard of it");
                }
                Err(error) => return self.lose(shared, &error),
            }
        }
    }

    fn obey(&self, shared: &Shared, order: Order, tasks: &Sender<Task>) {
        match order {
            Order::Start(_) | Order::Ping => {}
            Order::Freeze { number } => {
                let tick = shared.barriers.freeze();
                self.report(Report::Frozen { number, tick });
            }
            Order::Barrier { number, tick, native, base } => {
                let form = if native { Form::Native } else { Form::Portable };
                shared.barriers.announce_at(Barrier { number, tick, form });
                self.report(Report::Announced { number });
                let _ = tasks.send(Task::Barrier { number, base });
            }
            Order::Thaw => shared.barriers.thaw(),
            Order::Commit { number } => drop(tasks.send(Task::Commit { number })),
            Order::Stop { tick } => drop(shared.stop_at.fetch_min(tick, Ordering::SeqCst)),
            Order::Prepare(component) => drop(tasks.send(Task::Prepare(component))),
            Order::Swap => {
                *self.verdict.lock().expect("no panic while held") = None;
                drop(tasks.send(Task::Swap));
            }
            Order::Verdict { keep } => {
                *self.verdict.lock().expect("no panic while held") = Some(keep);
                self.said.notify_all();
            }
            Order::Abort(told) => {
                shared.fail(told.into());
                self.hear_last(Last::Abort);
            }
            Order::Halt => {
                shared.halt();
                self.hear_last(Last::Halt);
            }
            Order::Finish => {
                self.hear_last(Last::Finish);
            }
        }
    }

    /// The workers have ended. If that is a failure of this process, the leader shall hear of it before it sees
    /// connections end.
    fn await_last_word(&self, shared: &Shared) {
        if shared.is_aborted() {
            self.await_last(Some(Instant::now() + LAST_WORD));
        }
    }

    fn await_end(&self, shared: &Shared) {
        let deadline = shared.is_aborted().then(|| Instant::now() + LAST_WORD);
        self.await_last(deadline);
    }

    fn await_last(&self, deadline: Option<Instant>) {
        let mut last = self.last.lock().expect("no panic while held");
        while last.is_none() {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return;
            }
            let left = left.unwrap_or(LAST_WORD);
            last = self.said.wait_timeout(last, left).expect("no panic while held").0;
        }
    }

    /// Stores and commits what the leader asks for, in order.
    fn keep(&self, keeper: &Keeper, store: Option<&dyn CheckpointStore>, loader: &Loader, todo: &Receiver<Task>) {
        let mut prepared = None;
        // What the leader knows of, by the checkpoint that names it: at the end of the input more is prepared, perhaps
        // before the last checkpoint is published.
        let mut named = BTreeMap::new();
        while let Ok(task) = todo.recv() {
            match task {
                Task::Barrier { number, base } => {
                    let Some(parts) = self.reached(&keeper.shared) else { continue };
                    let report = self.stored(keeper, store, number, base, parts);
                    named = BTreeMap::from([(number, keeper.all_prepared())]);
                    self.report(report);
                }
                Task::Commit { number } => {
                    let committed = match named.remove(&number) {
                        Some(published) => keeper.commit_of(&published),
                        None => keeper.commit(),
                    };
                    let fault = committed.err().map(Into::into);
                    self.report(Report::Committed { number, fault });
                }
                Task::Prepare(component) => {
                    prepared = None;
                    let opened = component.read().and_then(|component| {
                        let opened = keeper.shared.open_component(&component, loader)?;
                        prepared = Some((component, opened));
                        Ok(())
                    });
                    self.report_upgrade(UpgradeStep::Prepared, opened);
                }
                Task::Swap => match prepared.take() {
                    Some((component, opened)) => self.go_over(&keeper.shared, component, opened),
                    None => self.report_upgrade(UpgradeStep::Tried, Err(Fault::internal("no component was prepared"))),
                },
                Task::End => {
                    keeper.remember(keeper.shared.barriers.take_last());
                    let latency = keeper.shared.metrics.latency.lock().expect("no panic while held");
                    let latency = latency.iter_recorded().map(|v| (v.value_iterated_to(), v.count_at_value()));
                    self.report(Report::Ended { prepared: keeper.prepared(), latency: latency.collect() });
                }
            }
        }
    }

    fn report_upgrade(&self, step: UpgradeStep, outcome: Result<(), Fault>) {
        self.report(Report::Upgrade { step, fault: outcome.err().map(Into::into) });
    }

    /// Goes over to another component, as far as the leader agrees.
    fn go_over(&self, shared: &Arc<Shared>, component: NewComponent, opened: Opened) {
        let Opened { node, successor, logic } = opened;
        let (swap, works) = shared.try_logic(node, logic);
        self.report_upgrade(UpgradeStep::Tried, works);
        let keep = self.await_verdict(shared);
        swap.decide(keep);
        let settled = shared.settle(&swap);
        if keep && settled.is_ok() {
            shared.replaced(node, successor.factory(), component);
        }
        self.report_upgrade(UpgradeStep::Settled, settled);
    }

    /// Whether a component on trial is to be kept. Not if the job ends before anybody has said so.
    fn await_verdict(&self, shared: &Shared) -> bool {
        loop {
            if let Some(keep) = *self.verdict.lock().expect("no panic while held") {
                return keep;
            }
            if shared.is_aborted() || self.over.load(Ordering::SeqCst) {
                return false;
            }
            let last = self.last.lock().expect("no panic while held");
            drop(self.said.wait_timeout(last, VERDICT_POLL).expect("no panic while held"));
        }
    }

    /// What the parts held at the barrier. None: the job has ended.
    fn reached(&self, shared: &Shared) -> Option<Vec<crate::barrier::Part>> {
        loop {
            match shared.barriers.wait(SILENCE) {
                Reached::All(parts) => return Some(parts),
                // The leader says when that is too late.
                Reached::Late(_) => {}
                Reached::Ended => return None,
            }
        }
    }

    fn stored(
        &self,
        keeper: &Keeper,
        store: Option<&dyn CheckpointStore>,
        number: u64,
        base: Option<u64>,
        parts: Vec<crate::barrier::Part>,
    ) -> Report {
        let stored = self.rely(store, base).and_then(|store| keeper.store(store, parts, Urgency::Behind, || Ok(())));
        let prepared = keeper.prepared();
        match stored {
            Ok((parts, written)) => {
                let objects = objects_of(&parts);
                self.stored.lock().expect("no panic while held").insert(number, objects);
                Report::Stored { number, parts, prepared, written }
            }
            Err(fault) => Report::NotStored { number, prepared, fault: fault.into() },
        }
    }

    /// The store, which relies on what is known to be there.
    fn rely<'a>(
        &self,
        store: Option<&'a dyn CheckpointStore>,
        base: Option<u64>,
    ) -> Result<&'a dyn CheckpointStore, Fault> {
        let store = store.ok_or_else(|| Fault::internal("a checkpoint of a pipeline that takes none"))?;
        let mut known = self.stored.lock().expect("no panic while held");
        known.retain(|number, _| Some(*number) == base);
        let objects = known.values().next().cloned().unwrap_or_default();
        store.rely_on(&objects)?;
        Ok(store)
    }
}

fn start_from(
    manifest: Option<Manifest>,
    dropped: Vec<String>,
    store: Option<&Arc<dyn CheckpointStore>>,
    scratch: &std::path::Path,
) -> Result<Option<StartFrom>, Fault> {
    let Some(manifest) = manifest else { return Ok(None) };
    let store = store.ok_or_else(|| Fault::internal("a checkpoint to start from, of a pipeline that takes none"))?;
    let (store, manifest) = (store.clone(), Arc::new(manifest));
    Ok(Some(StartFrom { store, manifest, dropped, scratch: scratch.to_owned() }))
}

fn objects_of(parts: &[PartManifest]) -> Vec<ObjectRef> {
    let segments = parts.iter().flat_map(|part| &part.tables).flat_map(|table| &table.segments);
    let files = parts.iter().flat_map(|part| &part.files).map(|file| file.object.clone());
    segments.map(|segment| segment.object.clone()).chain(files).collect()
}

fn numbers(shared: &Shared) -> Report {
    Report::Numbers {
        nodes: shared.metrics.of_workers(shared.local.clone()),
        first_row_ns: shared.metrics.first_row_ns.load(Ordering::Relaxed),
    }
}
