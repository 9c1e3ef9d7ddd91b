//! The leader's side of a job on several processes: it tells the others what to do, and gathers what they say.
//!
//! Laws: a process that says nothing for too long, or whose connection ends before the job has, fails the job; a barrier is announced
//! to all before any source may pass it; nothing is committed anywhere before the leader has published.

use std::collections::BTreeMap;
use std::io::BufReader;
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use tidemill_model::Fault;
use tidemill_model::checkpoint::PartManifest;
use tidemill_model::snapshot::Form;

use super::gate::{Gate, Member};
use super::messages::{self, Order, Report, UpgradeStep};
use super::wire::Wire;
use crate::barrier::Barrier;
use crate::checkpoint::ended;
use crate::job::Shared;
use crate::upgrade::NewComponent;

/// How often the others hear that the leader is still there.
const PING_EVERY: Duration = Duration::from_millis(250);

/// The other processes of a job, and how the leader reaches them.
#[derive(Clone)]
pub struct Team {
    pub(crate) gate: Arc<Gate>,
    /// In order; the first is process 1.
    pub(crate) members: Vec<Member>,
    /// A process that has not been heard of for so long is lost.
    silence: Duration,
    /// As long as somebody has it, the members hear that the leader is there, whatever else it does.
    _company: Arc<()>,
}

impl Team {
    pub fn new(gate: Arc<Gate>, members: Vec<Member>, silence: Duration) -> Result<Self, Fault> {
        let company = Arc::new(());
        let (wires, kept): (Vec<Wire>, _) =
            (members.iter().map(|member| member.wire.clone()).collect(), Arc::downgrade(&company));
        let ping = move || {
            while kept.upgrade().is_some() {
                // Who is lost is noticed where it is listened to.
                wires.iter().for_each(|wire| drop(messages::send(wire, &Order::Ping)));
                std::thread::sleep(PING_EVERY);
            }
        };
        let spawned = std::thread::Builder::new().name("tidemill-ping".into()).spawn(ping);
        spawned.map_err(|e| Fault::io(format!("no thread for connections: {e}")))?;
        Ok(Self { gate, members, silence, _company: company })
    }

    /// In ms.
    pub(crate) fn silence_ms(&self) -> u64 {
        self.silence.as_millis() as u64
    }
}

pub(crate) struct Leader {
    pub team: Team,
    pub generation: u64,
    /// Components that have taken over since the pipeline was read.
    pub components: Vec<NewComponent>,
    /// By process, from 1 on.
    orders: Vec<Sender<Order>>,
    queues: Mutex<Vec<Receiver<Order>>>,
    heard: Mutex<Heard>,
    changed: Condvar,
    /// All is done and committed: the others may hang up.
    finished: AtomicBool,
    /// Nothing will be ordered any more.
    over: AtomicBool,
}

/// What the others have said, by process.
#[derive(Default)]
struct Heard {
    frozen: BTreeMap<usize, u64>,
    announced: BTreeMap<usize, ()>,
    stored: BTreeMap<usize, Result<(Vec<PartManifest>, u64), Fault>>,
    committed: BTreeMap<usize, Option<Fault>>,
    ended: BTreeMap<usize, ()>,
    upgrade: BTreeMap<usize, (UpgradeStep, Option<Fault>)>,
    /// What their sinks have prepared; each says all of it each time.
    prepared: BTreeMap<usize, Vec<PartManifest>>,
    /// The barrier or commit that they are to answer for.
    number: u64,
    /// The checkpoint whose objects they may rely on.
    base: Option<u64>,
}

impl Leader {
    pub fn new(team: Team, generation: u64, base: Option<u64>, components: Vec<NewComponent>) -> Arc<Self> {
        let (orders, queues) = team.members.iter().map(|_| unbounded()).unzip();
        Arc::new(Self {
            team,
            generation,
            components,
            orders,
            queues: Mutex::new(queues),
            heard: Mutex::new(Heard { base, ..Heard::default() }),
            changed: Condvar::new(),
            finished: AtomicBool::new(false),
            over: AtomicBool::new(false),
        })
    }

    /// Where each process takes connections.
    pub fn addresses(&self) -> Vec<String> {
        let others = self.team.members.iter().map(|member| member.address.clone());
        // The others have dialled the leader already, and know how.
        std::iter::once(String::new()).chain(others).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().expect("no panic while held")
    }

    /// Tells all others.
    pub fn order(&self, order: &Order) {
        for queue in &self.orders {
            // Who is not there any more has been noticed.
            let _ = queue.send(order.clone());
        }
    }

    /// The job has ended well.
    pub fn finish(&self) {
        self.finished.store(true, Ordering::SeqCst);
        self.order(&Order::Finish);
    }

    /// Whoever waits for others shall look whether the job has failed.
    pub fn wake(&self) {
        drop(self.lock());
        self.changed.notify_all();
    }

    /// Runs `work` while threads listen to the others and speak to them.
    pub fn attend(&self, shared: &Shared, work: impl FnOnce()) {
        let queues = std::mem::take(&mut *self.queues.lock().expect("no panic while held"));
        std::thread::scope(|scope| {
            let mut speakers = Vec::new();
            for ((process, member), queue) in (1..).zip(&self.team.members).zip(queues) {
                scope.spawn(move || self.listen(shared, process, member));
                speakers.push(scope.spawn(move || self.speak(shared, process, member, &queue)));
            }
            work();
            self.over.store(true, Ordering::SeqCst);
            // The last order is out when its queue is empty and the speaker has gone.
            speakers.into_iter().for_each(|speaker| drop(speaker.join()));
            // Who has heard that all is well hangs up; who has not, is not waited for.
            let how = if shared.fault().is_some() { Shutdown::Both } else { Shutdown::Write };
            self.team.members.iter().for_each(|member| member.wire.shut(how));
        });
    }

    fn speak(&self, shared: &Shared, process: usize, member: &Member, queue: &Receiver<Order>) {
        loop {
            let order = queue.recv_timeout(PING_EVERY);
            shared.look_at_suspicion();
            let order = match order {
                Ok(order) => order,
                Err(RecvTimeoutError::Timeout) if !self.over.load(Ordering::SeqCst) => continue,
                Err(_) => return,
            };
            if let Err(error) = messages::send(&member.wire, &order) {
                return self.lose(shared, process, &error);
            }
            let last = matches!(order, Order::Finish | Order::Halt | Order::Abort(_));
            if last && queue.is_empty() {
                // What is said now nobody needs.
                return;
            }
        }
    }

    fn listen(&self, shared: &Shared, process: usize, member: &Member) {
        if let Err(error) = member.wire.set_timeout(Some(self.team.silence)) {
            return self.lose(shared, process, &error);
        }
        let mut from = BufReader::new(&member.wire);
        loop {
            match messages::receive::<Report>(&mut from) {
                Ok(Some(report)) => self.hear(shared, process, report),
                Ok(None) => return self.lose(shared, process, &"its connection ended"),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    let silence = format!("nothing was heard of it for {} s", self.team.silence.as_secs_f32());
                    return self.lose(shared, process, &silence);
                }
                Err(error) => return self.lose(shared, process, &error),
            }
        }
    }

    fn lose(&self, shared: &Shared, process: usize, why: &dyn std::fmt::Display) {
        if !self.finished.load(Ordering::SeqCst) && !shared.is_aborted() {
            shared.fail(Fault::io(format!("process {process} was lost: {why}")));
        }
    }

    fn hear(&self, shared: &Shared, process: usize, report: Report) {
        let mut heard = self.lock();
        let current = heard.number;
        match report {
            Report::Frozen { number, tick } if number == current => drop(heard.frozen.insert(process, tick)),
            Report::Announced { number } if number == current => drop(heard.announced.insert(process, ())),
            Report::Stored { number, mut parts, prepared, written } if number == current => {
                // With what was prepared up to the barrier: by the time this is published the process may have said more.
                parts.extend(prepared.iter().cloned());
                heard.prepared.insert(process, prepared);
                heard.stored.insert(process, Ok((parts, written)));
            }
            Report::NotStored { number, prepared, fault } if number == current => {
                heard.prepared.insert(process, prepared);
                heard.stored.insert(process, Err(fault.into()));
            }
            Report::Committed { number, fault } if number == current => {
                heard.committed.insert(process, fault.map(Fault::from));
            }
            Report::Ended { prepared, latency } => {
                heard.prepared.insert(process, prepared);
                heard.ended.insert(process, ());
                let mut all = shared.metrics.latency.lock().expect("no panic while held");
                latency.into_iter().for_each(|(us, rows)| all.saturating_record_n(us, rows));
            }
            Report::Upgrade { step, fault } => {
                heard.upgrade.insert(process, (step, fault.map(Fault::from)));
            }
            Report::Numbers { nodes, first_row_ns } => return shared.metrics.take_in(nodes, first_row_ns),
            Report::Failed(told) => {
                drop(heard);
                if !self.finished.load(Ordering::SeqCst) {
                    shared.fail(told.into());
                }
                return;
            }
            // Of a barrier that has come to nothing.
            Report::Frozen { .. }
            | Report::Announced { .. }
            | Report::Stored { .. }
            | Report::NotStored { .. }
            | Report::Committed { .. } => {}
        }
        self.changed.notify_all();
    }

    /// Waits until all others have answered; what they said. None: the job has failed or was ended.
    fn answers<T: Clone>(&self, shared: &Shared, of: impl Fn(&Heard) -> &BTreeMap<usize, T>) -> Option<Vec<T>> {
        self.answers_by(shared, of, None)
    }

    /// The same. Who has not answered in time is waited for nevertheless, but told of.
    fn answers_by<T: Clone>(
        &self,
        shared: &Shared,
        of: impl Fn(&Heard) -> &BTreeMap<usize, T>,
        mut late: Option<(Instant, &mut dyn FnMut())>,
    ) -> Option<Vec<T>> {
        let mut heard = self.lock();
        while of(&heard).len() < self.team.members.len() {
            if shared.is_aborted() {
                return None;
            }
            let left = late.as_ref().map(|(by, _)| by.saturating_duration_since(Instant::now()));
            heard = match left {
                None => self.changed.wait(heard).expect("no panic while held"),
                Some(left) if !left.is_zero() => self.changed.wait_timeout(heard, left).expect("no panic while held").0,
                Some(_) => {
                    // Whoever is told may want to fail the job, which looks in here.
                    drop(heard);
                    if let Some((_, tell)) = late.take() {
                        tell();
                    }
                    self.lock()
                }
            };
        }
        Some(of(&heard).values().cloned().collect())
    }

    /// Agrees with all others on a barrier. None: the job has failed or was ended.
    pub fn announce(&self, shared: &Shared, number: u64, form: Form) -> Option<()> {
        let base = {
            let mut heard = self.lock();
            heard.number = number;
            heard.frozen.clear();
            heard.announced.clear();
            heard.stored.clear();
            heard.base
        };
        self.order(&Order::Freeze { number });
        let own = shared.barriers.freeze();
        let others = self.answers(shared, |heard| &heard.frozen)?;
        let tick = others.into_iter().fold(own, u64::max);
        shared.barriers.announce_at(Barrier { number, tick, form });
        self.order(&Order::Barrier { number, tick, native: form == Form::Native, base });
        self.answers(shared, |heard| &heard.announced)?;
        self.order(&Order::Thaw);
        shared.barriers.thaw();
        Some(())
    }

    /// What all others have stored, with what their sinks have prepared, and the bytes written. None: the job has failed
    /// or was ended. `late` is told if they have not by then.
    #[allow(clippy::type_complexity)]
    pub fn stored(
        &self,
        shared: &Shared,
        number: u64,
        by: Instant,
        late: &mut dyn FnMut(Fault),
    ) -> Option<Result<(Vec<PartManifest>, u64), Fault>> {
        debug_assert_eq!(self.lock().number, number, "one barrier at a time");
        let mut tell = || {
            let help =
                "something there takes rows too slowly, or the store does: see which node is busy, or raise `timeout`";
            late(Fault::io("another process has stored no snapshot in time").with_help(help));
        };
        let all = self.answers_by(shared, |heard| &heard.stored, Some((by, &mut tell)))?;
        let all: Result<Vec<(Vec<PartManifest>, u64)>, Fault> = all.into_iter().collect();
        Some(all.map(|all| {
            let written = all.iter().map(|(_, written)| written).sum();
            (all.into_iter().flat_map(|(parts, _)| parts).collect(), written)
        }))
    }

    /// What the sinks of the others have prepared, as far as they have said.
    pub fn prepared(&self) -> Vec<PartManifest> {
        self.lock().prepared.values().flatten().cloned().collect()
    }

    /// Lets the others commit.
    pub fn commit(&self, shared: &Shared, number: u64) -> Result<(), Fault> {
        {
            let mut heard = self.lock();
            heard.number = number;
            heard.committed.clear();
        }
        self.order(&Order::Commit { number });
        let lost = || Fault::io("the job has failed before all processes had committed");
        let faults = self.answers(shared, |heard| &heard.committed).ok_or_else(lost)?;
        faults.into_iter().flatten().next().map_or(Ok(()), Err)
    }

    /// Lets the others open a component; the first reason why one can't.
    pub fn prepare(&self, shared: &Shared, component: &NewComponent) -> Result<(), Fault> {
        self.lock().upgrade.clear();
        self.order(&Order::Prepare(component.into()));
        self.upgraded(shared, UpgradeStep::Prepared)
    }

    /// Whether it works with all others.
    pub fn tried(&self, shared: &Shared) -> Result<(), Fault> {
        self.upgraded(shared, UpgradeStep::Tried)
    }

    /// All others have settled.
    pub fn settled(&self, shared: &Shared) -> Result<(), Fault> {
        self.upgraded(shared, UpgradeStep::Settled)
    }

    /// Waits until all others have come so far.
    fn upgraded(&self, shared: &Shared, step: UpgradeStep) -> Result<(), Fault> {
        let mut heard = self.lock();
        while heard.upgrade.values().filter(|(at, _)| *at == step).count() < self.team.members.len() {
            if shared.is_aborted() {
                return Err(ended());
            }
            heard = self.changed.wait(heard).expect("no panic while held");
        }
        heard.upgrade.values().find_map(|(_, fault)| fault.clone()).map_or(Ok(()), Err)
    }

    /// A checkpoint was published: the others may rely on what they have stored for it. None: on nothing.
    pub fn set_base(&self, base: Option<u64>) {
        self.lock().base = base;
    }

    /// Waits until all others have read all input.
    pub fn wait_for_end(&self, shared: &Shared) {
        let _ = self.answers(shared, |heard| &heard.ended);
    }
}
