//! The story of a job: lives with faults, one after the other, and the last one without.
//!
//! Law: the seed decides everything; what a life may do and how it may fail is one list.

use std::sync::Arc;

use tidemill_model::Fault;
use tidemill_model::checkpoint::{Listed, Purpose};
use tidemill_model::plan::Backend;

use super::check;
use super::life::{Life, undisturbed};
use super::shape::Shape;
use super::version::Version;
use super::wire::{Call, How, SinkFault, StoreFault, Trap, Tried, Wire};
use super::world::{Rows, World};
use crate::chance::Chance;

/// Lives with faults.
const LIVES_MAX: usize = 6;
/// Things that happen in one.
const EVENTS_MAX: usize = 8;
/// Steps of the driver between two events: 1, 2, 4, ...
const DOUBLINGS_MAX: usize = 10;
/// Thousands of steps in which any job comes to its end.
const ROUNDS_MAX: usize = 1000;
/// Checkpoints that may fail in a row before the job is started again.
const FAILURES_MAX: usize = 2;

pub struct Story {
    shape: Shape,
    world: Arc<World>,
    expected: Rows,
    chance: Chance,
    lives: usize,
    /// Of checkpoints, in a row.
    failures: usize,
    savepoints: usize,
}

/// How an event ended.
enum Event {
    GoesOn,
    /// The life is over: it has crashed, failed or been stopped.
    Over,
    /// The job is done.
    Done,
}

impl Story {
    /// `accepts_torn`: with a store that is broken.
    pub fn new(seed: u64, accepts_torn: bool) -> Result<Self, String> {
        let mut chance = Chance::new(seed);
        let shape = Shape::draw(&mut chance);
        let world = World::new(accepts_torn);
        let expected = undisturbed(&shape, &world, 1, Backend::Heap, None);
        let expected = expected.map_err(|fault| format!("the run without a fault: {fault}"))?;
        world.note(format!("{}{:?}\nslow {:?}, pieces of {}", shape.text, shape.options, shape.slow, shape.piece));
        Ok(Self { shape, world, expected, chance, lives: 0, failures: 0, savepoints: 0 })
    }

    pub fn trace(&self) -> Vec<String> {
        self.world.trace()
    }

    pub fn run(&mut self) -> Result<(), String> {
        let lives = self.chance.below(LIVES_MAX + 1);
        let mut done = false;
        while self.lives < lives && !done {
            done = self.live(false)?;
        }
        self.world.settle();
        if !self.live(true)? {
            return Err("the job did not come to its end".into());
        }
        self.at_the_end()?;
        // Started once more, it finds nothing to do.
        self.live(true)?;
        self.at_the_end()
    }

    fn at_the_end(&self) -> Result<(), String> {
        check::same(&self.expected, &self.world.visible())?;
        check::same(&self.expected, &self.world.files()?).map_err(|what| format!("in the files: {what}"))?;
        let lost = check::lost_files(&self.world)?;
        if lost.is_empty() { Ok(()) } else { Err(format!("hidden files stay: {lost:?}")) }
    }

    /// One life. Whether the job is done.
    fn live(&mut self, quiet: bool) -> Result<bool, String> {
        self.lives += 1;
        self.world.note(format!("life {}", self.lives));
        let mut life = match self.start(quiet) {
            Ok(life) => life,
            Err(fault) if quiet => return Err(format!("an undisturbed start fails: {fault}")),
            Err(fault) => {
                self.world.note_fault("  no start", &fault);
                return self.world.check().map(|()| false);
            }
        };
        self.failures = 0;
        let mut left = if quiet { 0 } else { self.chance.below(EVENTS_MAX + 1) };
        loop {
            let event = if left == 0 && quiet { self.finish(&mut life) } else { self.event(&mut life, left) };
            self.look(&life);
            self.world.check()?;
            check::no_more(&self.expected, &self.world.visible())?;
            match event {
                Ok(Event::GoesOn) => left = left.saturating_sub(1),
                Ok(Event::Over) => return Ok(false),
                Ok(Event::Done) => return Ok(true),
                Err(fault) if quiet => return Err(format!("an undisturbed life fails: {fault}")),
                Err(fault) => {
                    self.world.note_fault("  the job fails", &fault);
                    return Ok(false);
                }
            }
        }
    }

    fn start(&mut self, quiet: bool) -> Result<Life, Fault> {
        let wire = Wire::new(self.lives, &self.world);
        if !quiet && self.chance.one_in(6) {
            let call = self.chance.pick(&[Call::List, Call::Read, Call::Create]);
            let how = self.chance.pick(&[How::Failed, How::Unanswered, How::Late, How::CrashBefore, How::CrashAfter]);
            self.arm_store(&wire, call, how);
        }
        let (workers, seed) = (1 + self.chance.below(3), self.chance.next());
        let life = Life::start(&self.shape, &wire, workers, self.shape.options.state.backend, seed)?;
        wire.disarm();
        Ok(life)
    }

    fn arm_store(&mut self, wire: &Wire, call: Call, how: How) {
        let nth = if call == Call::PutFile { 0 } else { self.chance.below(4) };
        self.world.note(format!("  {how:?} at {call:?} {nth}"));
        wire.arm_store(StoreFault { call, nth, how });
    }

    /// What the trace says after each event.
    fn look(&self, life: &Life) {
        let (batches, ticks) = life.driver.in_flight();
        let low = life.driver.watermarks().map(|(_, _, watermark)| watermark).min().unwrap_or_default();
        let dead = life.driver.dead().len();
        self.world.note(format!(
            "  now {} ms, {batches} batches, {ticks} ticks, watermark {low}, {dead} dead",
            life.driver.now_ms()
        ));
        self.world.note_visible();
    }

    fn finish(&mut self, life: &mut Life) -> Result<Event, Fault> {
        let mut rounds = 0;
        while life.steps(1000)? {
            rounds += 1;
            if rounds > ROUNDS_MAX {
                self.world.violation("the job does not come to its end");
                return Ok(Event::Over);
            }
        }
        life.end()?;
        self.world.note("  the end");
        Ok(Event::Done)
    }

    fn event(&mut self, life: &mut Life, left: usize) -> Result<Event, Fault> {
        if left == 0 {
            return self.last_event(life);
        }
        match self.chance.below(10) {
            8 | 9 => self.upgrade(life),
            0..=2 => self.steps(life),
            3 | 4 => self.checkpoint(life, Purpose::Checkpoint, false),
            5 => {
                self.savepoints += 1;
                let purpose = Purpose::Savepoint { name: format!("s{}", self.savepoints) };
                self.checkpoint(life, purpose, false)
            }
            6 => {
                self.arm(life);
                self.steps(life)
            }
            _ => {
                self.world.settle();
                self.steps(life)
            }
        }
    }

    fn last_event(&mut self, life: &mut Life) -> Result<Event, Fault> {
        match self.chance.below(6) {
            0 => {
                let stopped = self.checkpoint(life, Purpose::Checkpoint, true)?;
                self.world.note("  stopped");
                Ok(if matches!(stopped, Event::GoesOn) { Event::Over } else { stopped })
            }
            1 => {
                self.savepoints += 1;
                let purpose = Purpose::Savepoint { name: format!("s{}", self.savepoints) };
                let stopped = self.checkpoint(life, purpose, true)?;
                if matches!(stopped, Event::GoesOn) && self.chance.one_in(2) {
                    let before = self.shape.options.state.backend;
                    self.shape.options.state.backend =
                        if before == Backend::Heap { Backend::RocksDb } else { Backend::Heap };
                }
                self.world.note("  stopped at a savepoint");
                Ok(Event::Over)
            }
            2 => self.finish(life),
            3 => self.survivor(life),
            _ => {
                self.world.note("  crash");
                life.wire.cut();
                Ok(Event::Over)
            }
        }
    }

    fn steps(&mut self, life: &mut Life) -> Result<Event, Fault> {
        let steps = 1 << self.chance.below(DOUBLINGS_MAX);
        let more = life.steps(steps)?;
        self.world.note(format!("  {steps} steps"));
        if more { Ok(Event::GoesOn) } else { self.finish(life) }
    }

    /// An operator gets another version, which may work or not, and stays or has to go.
    fn upgrade(&mut self, life: &mut Life) -> Result<Event, Fault> {
        if self.shape.keyed.is_empty() {
            return self.steps(life);
        }
        let (node, operator) = self.chance.pick(&self.shape.keyed);
        let version = self.other_version(operator);
        self.world.note(format!("  {node} gets {version:?}"));
        let factory = match life.swap(&self.shape, (node, operator), version) {
            Ok(Some(factory)) => factory,
            Ok(None) => {
                self.world.note("  it is in the middle of a call");
                return self.steps(life);
            }
            Err(fault) => {
                self.world.note_fault("  it stays as it is", &fault);
                return self.steps(life);
            }
        };
        if self.chance.one_in(4) {
            let trap = Trap { after: self.chance.below(3), times: 1, late: self.chance.one_in(2) };
            self.world.note(format!("  {trap:?}"));
            life.wire.arm_trap(trap);
        }
        let steps = 1 << self.chance.below(DOUBLINGS_MAX);
        life.steps(steps)?;
        life.wire.disarm_trap();
        let Tried { workers, failed } = life.wire.take_tried();
        let keep = failed.is_none() && !version.refuses && !self.chance.one_in(3);
        self.world.note(format!("  {workers} workers have tried it in {steps} steps, kept: {keep}"));
        failed.iter().for_each(|fault| self.world.note_fault("  it fails", fault));
        life.driver.settle(node, keep)?;
        if keep {
            life.replace(node, factory);
            self.shape.versions.insert(operator, version);
        }
        self.steps(life)
    }

    fn other_version(&mut self, operator: &str) -> Version {
        let number = self.shape.version(operator).number + self.chance.below(3) as u32;
        Version { number, timed: self.chance.one_in(2), refuses: self.chance.one_in(4) }
    }

    /// Something that will go wrong while rows are processed.
    fn arm(&mut self, life: &Life) {
        match self.chance.below(4) {
            0 => {
                let nth = self.chance.below(20);
                self.world.note(format!("  a source fails at poll {nth}"));
                life.wire.arm_read(nth);
            }
            1 => {
                let nth = self.chance.below(20);
                self.world.note(format!("  a sink fails at write {nth}"));
                life.wire.arm_sink(nth, SinkFault::WriteFails);
            }
            _ => {
                // Where bad rows are put aside, a call that traps again and again would be one.
                let forever = !self.shape.forgiving && self.chance.one_in(3);
                let times = if forever { usize::MAX } else { 1 };
                let trap = Trap { after: self.chance.below(30), times, late: self.chance.one_in(2) };
                self.world.note(format!("  {trap:?}"));
                life.wire.arm_trap(trap);
            }
        }
    }

    /// A checkpoint or savepoint, perhaps with a fault in the middle.
    fn checkpoint(&mut self, life: &mut Life, purpose: Purpose, stop: bool) -> Result<Event, Fault> {
        if self.chance.one_in(2) {
            self.arm_checkpoint(life);
        }
        let taken = life.checkpoint(&purpose, stop)?;
        life.wire.disarm();
        match &taken {
            Ok(id) => self.world.note(format!("  {purpose:?} {id}")),
            Err(fault) => self.world.note_fault("  no checkpoint", fault),
        }
        if life.wire.is_cut() {
            self.world.note("  crashed");
            return Ok(Event::Over);
        }
        match taken {
            Ok(id) => {
                self.failures = 0;
                self.restores(life, id);
                Ok(Event::GoesOn)
            }
            Err(fault) => {
                self.failures += 1;
                if stop || self.failures > FAILURES_MAX { Err(fault) } else { Ok(Event::GoesOn) }
            }
        }
    }

    fn arm_checkpoint(&mut self, life: &Life) {
        if self.chance.one_in(3) {
            let fault =
                self.chance.pick(&[SinkFault::CommitFails, SinkFault::CrashBeforeCommit, SinkFault::CrashAfterCommit]);
            let nth = self.chance.below(4);
            self.world.note(format!("  {fault:?} at commit {nth}"));
            return life.wire.arm_sink(nth, fault);
        }
        let calls = [Call::Put, Call::PutFile, Call::Create, Call::Read, Call::List, Call::Delete];
        let hows = [How::Failed, How::Unanswered, How::Late, How::CrashBefore, How::CrashTorn, How::CrashAfter];
        let (call, how) = (self.chance.pick(&calls), self.chance.pick(&hows));
        self.arm_store(&life.wire, call, how);
    }

    /// Checks a checkpoint that was published.
    fn restores(&mut self, life: &Life, id: u64) {
        let listed =
            life.store.list().and_then(|all| all.into_iter().find(|l| l.id == id).map_or(Ok(None), |l| Ok(Some(l))));
        let manifest = match listed {
            Ok(Some(listed)) => life.store.load(&listed),
            Ok(None) => return self.world.violation(format!("checkpoint {id} was taken, but is not there")),
            Err(fault) => Err(fault),
        };
        let checked = manifest.map_err(|fault| fault.to_string()).and_then(|manifest| {
            check::restores(&self.shape, &self.world, &manifest, &self.expected, &mut self.chance)
        });
        if let Err(what) = checked {
            self.world.violation(what);
        }
    }

    /// The life is taken for dead, and another begins; but it goes on.
    fn survivor(&mut self, old: &mut Life) -> Result<Event, Fault> {
        self.world.note("  taken for dead");
        self.lives += 1;
        let mut new = self.start(false)?;
        let steps = 1 << self.chance.below(DOUBLINGS_MAX);
        new.steps(steps)?;
        let committed = self.chance.one_in(2);
        if committed {
            let id = new.checkpoint(&Purpose::Checkpoint, false)??;
            self.restores(&new, id);
        }
        let before: Vec<Listed> = new.store.list()?;
        let steps = 1 << self.chance.below(DOUBLINGS_MAX);
        let moved = old.steps(steps);
        let result = match moved {
            Ok(true) => old.checkpoint(&Purpose::Checkpoint, false).flatten().map(drop),
            Ok(false) => old.end(),
            Err(fault) => Err(fault),
        };
        match result {
            Ok(()) => self.world.violation("a life of an older generation publishes a checkpoint"),
            Err(fault) => self.world.note_fault("  the older one", &fault),
        }
        if new.store.list()? != before {
            self.world.violation("a life of an older generation changes what is there");
        }
        new.steps(steps)?;
        let id = new.checkpoint(&Purpose::Checkpoint, false)??;
        self.restores(&new, id);
        self.world.note(format!("  the newer one: checkpoint {id}"));
        Ok(Event::Over)
    }
}
