//! The operator: takes rows, and gives out matches when the watermark has reached them.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, RecordBatchOptions, UInt32Array};
use hashbrown::HashMap;
use tidemill_cep::{Condition, Conditions, EventId, Match, Matcher, Miss, Output, PartialMatch, Stage};
use tidemill_model::key::{KeyEncoder, hash_rows};
use tidemill_model::limits::BATCH_ROWS_MAX;
use tidemill_model::logic::LogicError;
use tidemill_model::snapshot::{Form, Restore, Snapshot};
use tidemill_model::time::{Now, WATERMARK_MIN};
use tidemill_model::{Batch, Collector, Fault, Operator, Progress};

use super::keys::Keys;
use super::looked::Look;
use super::program::Program;
use super::rows::{Chunk, Due, Kept, Row, Waiting};
use super::stored;
use crate::poison::{Attempt, Rejects, search};
use crate::sql::message;

const LATE: usize = 2;

pub(super) struct Cep {
    program: Arc<Program>,
    encoder: KeyEncoder,
    kept: Kept,
    rejects: Rejects,
    stored: stored::Form,
    matcher: Matcher,
    pub(super) watermark: i64,
    pub(super) waiting: Waiting,
    pub(super) keys: Keys,
    /// The number of the next event.
    pub(super) next_event: EventId,
    /// Rows whose time has come, and how many of them are done.
    due: Vec<Due>,
    done: usize,
    /// Of the call that is made.
    output: Output,
    /// By port: matches, and what timed out.
    found: [Found; 2],
    /// The events of a key that has none.
    nothing: HashMap<EventId, Row>,
}

/// Matches that have not been emitted yet, in columns.
#[derive(Default)]
struct Found {
    keys: Vec<Arc<[u8]>>,
    times: Vec<i64>,
    /// By question.
    answers: Vec<Answers>,
}

enum Answers {
    Rows(Vec<Option<Row>>),
    Counts(Vec<i64>),
}

impl Cep {
    pub fn new(program: Arc<Program>, encoder: KeyEncoder, kept: Kept, rejects: Rejects, stored: stored::Form) -> Self {
        let matcher = Matcher::new(program.automaton.clone());
        let found = [Found::of(&program.select.looks), Found::of(&program.select.looks)];
        Self {
            program,
            encoder,
            kept,
            rejects,
            stored,
            matcher,
            watermark: WATERMARK_MIN,
            waiting: Waiting::default(),
            keys: Keys::default(),
            next_event: 0,
            due: Vec::new(),
            done: 0,
            output: Output::default(),
            found,
            nothing: HashMap::new(),
        }
    }

    /// Takes the late rows out. None: there is nothing left.
    fn without_late(&self, batch: Batch, out: &mut dyn Collector) -> Result<Option<Batch>, Fault> {
        let times = batch.times.clone().unwrap_or_default();
        if times.iter().all(|time| *time > self.watermark) {
            return Ok(Some(batch));
        }
        let (late, rest): (Vec<u32>, Vec<u32>) =
            (0..times.len() as u32).partition(|row| times[*row as usize] <= self.watermark);
        out.count("late_rows", late.len() as u64);
        let mut late = batch.take(&UInt32Array::from(late))?;
        late.hashes = None;
        out.emit(LATE, late);
        Ok(if rest.is_empty() { None } else { Some(batch.take(&UInt32Array::from(rest))?) })
    }

    /// Keeps rows until it is their time. Fails if a condition fails for any of them.
    fn keep(&self, batch: &Batch) -> Result<Chunk, datafusion_common::DataFusionError> {
        let answers = self.program.answers(batch.rows())?;
        let keys = self.encoder.encode(batch)?;
        let hashes = batch.hashes.as_ref().map_or_else(|| hash_rows(&keys).to_vec(), |hashes| hashes.to_vec());
        let times = batch.times.as_ref().map_or_else(Vec::new, |times| times.to_vec());
        Ok(Chunk::new(times, answers, hashes, keys.try_into_binary()?, self.kept.bytes(batch.rows())?))
    }

    /// Does what is due, until about a batch is to be emitted.
    fn go_on(&mut self, out: &mut dyn Collector) -> Result<Progress, Fault> {
        while self.found.iter().all(|found| found.times.len() < BATCH_ROWS_MAX) {
            if let Some(&due) = self.due.get(self.done) {
                self.done += 1;
                self.event(due, out)?;
            } else if let Some(slot) = self.keys.next_due(self.watermark) {
                self.advance(slot, self.watermark)?;
                self.keys.done(slot);
            } else {
                self.waiting.forget();
                self.emit(out)?;
                return Ok(Progress::Done);
            }
        }
        self.emit(out)?;
        Ok(Progress::More)
    }

    fn event(&mut self, (time, chunk, row): Due, out: &mut dyn Collector) -> Result<(), Fault> {
        let (chunk, row) = (&self.waiting.chunks[chunk as usize], row as usize);
        let (hash, answers) = (chunk.hashes[row], chunk.answers[row]);
        let (key, row) = (chunk.keys.value(row), chunk.rows.value(row));
        let (event, mut failed) = (self.next_event, None);
        let slot = match self.keys.find(hash, key) {
            Some(slot) => slot,
            None => {
                let (program, kept, events) = (&*self.program, &self.kept, &self.nothing);
                let mut judge = Judge { program, kept, answers, row, events, failed: &mut failed };
                if !self.matcher.begins(event, &mut judge) {
                    return if failed.is_some() { self.blame(failed, time, out, &Row::from(row)) } else { Ok(()) };
                }
                self.keys.add(hash, key)
            }
        };
        self.next_event += 1;
        let row = Row::from(row);
        self.advance(slot, time)?;
        let key = self.keys.get(slot);
        let (program, kept, events) = (&*self.program, &self.kept, &key.events);
        let mut judge = Judge { program, kept, answers, row: &row, events, failed: &mut failed };
        let taken = self.matcher.process(&mut key.state, event, time, &mut judge, &mut self.output);
        if taken.map_err(|miss| self.missed(miss))? {
            self.keys.get(slot).events.insert(event, row.clone());
        }
        self.collect(slot);
        self.keys.done(slot);
        self.blame(failed, time, out, &row)
    }

    /// The clock of a key: from one end of a partial match to the next.
    fn advance(&mut self, slot: u32, time: i64) -> Result<(), Fault> {
        while let Some(deadline) = self.keys.get(slot).state.deadline().filter(|deadline| *deadline <= time) {
            let key = self.keys.get(slot);
            let advanced = self.matcher.advance(&mut key.state, deadline, &mut self.output);
            advanced.map_err(|miss| self.missed(miss))?;
            self.collect(slot);
        }
        Ok(())
    }

    /// Takes over what the matcher has found, and drops rows that no match needs any more.
    fn collect(&mut self, slot: u32) {
        let key = self.keys.get(slot);
        for (found, matches) in self.found.iter_mut().zip([&self.output.matches, &self.output.timed_out]) {
            for one in matches {
                found.add(one, self.output.events(one), &self.program.select.looks, &key.bytes, &key.events);
            }
        }
        for event in &self.output.released {
            key.events.remove(event);
        }
        self.output.clear();
    }

    fn missed(&self, _: Miss) -> Fault {
        Fault::data("a match has no event of the stage to which the skip strategy goes, or begins with it")
            .at(&self.rejects.node)
            .with_help("leave `must_exist` out to skip nothing behind such matches")
    }

    /// A condition has failed for a row: it counts as not fulfilled.
    fn blame(&self, failed: Option<String>, time: i64, out: &mut dyn Collector, row: &[u8]) -> Result<(), Fault> {
        let Some(error) = failed else { return Ok(()) };
        out.count("row_errors", 1);
        let columns = self.kept.columns_of(std::iter::once(Some(row)))?;
        let rows = RecordBatch::try_new(self.stored.kept.clone(), columns)?;
        self.rejects.reject(out, &rows, 0, Some(time), None, error)
    }

    fn emit(&mut self, out: &mut dyn Collector) -> Result<(), Fault> {
        for port in 0..self.found.len() {
            let found = std::mem::replace(&mut self.found[port], Found::of(&self.program.select.looks));
            for from in (0..found.times.len()).step_by(BATCH_ROWS_MAX) {
                let rows = from..found.times.len().min(from + BATCH_ROWS_MAX);
                let matches = self.columns(&found, rows.clone())?;
                let batch = Batch::new(matches).with_times(Some(found.times[rows].to_vec().into()));
                let mut shown = Shown { cep: self, batch: &batch, out, port };
                search(&mut shown, 0..batch.num_rows(), 0, &self.rejects.node)?;
            }
        }
        Ok(())
    }

    /// Key columns and answers of some matches.
    fn columns(&self, found: &Found, rows: Range<usize>) -> Result<RecordBatch, Fault> {
        let mut columns = self.encoder.decode(found.keys[rows.clone()].iter().map(|key| key.as_ref()))?;
        for (look, answers) in self.program.select.looks.iter().zip(&found.answers) {
            columns.push(match answers {
                Answers::Counts(counts) => Arc::new(Int64Array::from(counts[rows.clone()].to_vec())),
                Answers::Rows(events) => {
                    let all = self.kept.columns_of(events[rows.clone()].iter().map(Option::as_deref))?;
                    all[self.kept.place(look.column().unwrap_or_default())].clone()
                }
            });
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        Ok(RecordBatch::try_new_with_options(self.program.select.schema.clone(), columns, &options)?)
    }
}

impl Look {
    fn column(&self) -> Option<usize> {
        match self {
            Look::First(_, column) | Look::Last(_, column) => Some(*column),
            Look::Count(_) => None,
        }
    }
}

impl Found {
    fn of(looks: &[Look]) -> Self {
        let answers = looks.iter().map(|look| match look {
            Look::Count(_) => Answers::Counts(Vec::new()),
            _ => Answers::Rows(Vec::new()),
        });
        Self { answers: answers.collect(), ..Self::default() }
    }

    fn add(
        &mut self,
        found: &Match,
        events: &[(Stage, EventId)],
        looks: &[Look],
        key: &Arc<[u8]>,
        rows: &HashMap<EventId, Row>,
    ) {
        self.keys.push(key.clone());
        self.times.push(found.time);
        for (look, answers) in looks.iter().zip(&mut self.answers) {
            let event = match look {
                Look::First(stage, _) => events.iter().find(|(own, _)| own == stage),
                Look::Last(stage, _) => events.iter().rfind(|(own, _)| own == stage),
                Look::Count(_) => None,
            };
            match (answers, look) {
                (Answers::Rows(all), _) => all.push(event.and_then(|(_, event)| rows.get(event)).cloned()),
                (Answers::Counts(all), Look::Count(stage)) => {
                    all.push(events.iter().filter(|(own, _)| own == stage).count() as i64);
                }
                (Answers::Counts(_), _) => {}
            }
        }
    }
}

/// Evaluates the conditions for a row.
struct Judge<'a> {
    program: &'a Program,
    kept: &'a Kept,
    answers: u64,
    row: &'a [u8],
    events: &'a HashMap<EventId, Row>,
    /// Why a condition could not be evaluated.
    failed: &'a mut Option<String>,
}

impl Conditions for Judge<'_> {
    fn simple(&mut self, _: EventId) -> u64 {
        self.answers
    }

    fn iterative(&mut self, condition: Condition, _: EventId, before: PartialMatch<'_>) -> bool {
        let Some(asked) = &self.program.iterative[usize::from(condition)] else { return false };
        let held = self.columns(&asked.columns, &asked.looks, before).and_then(|columns| asked.holds(columns));
        held.unwrap_or_else(|error| {
            *self.failed = Some(message(&error));
            false
        })
    }
}

impl Judge<'_> {
    fn columns(
        &self,
        own: &[usize],
        looks: &[Look],
        before: PartialMatch<'_>,
    ) -> Result<Vec<ArrayRef>, datafusion_common::DataFusionError> {
        let row = self.kept.columns_of(std::iter::once(Some(self.row)))?;
        let mut columns: Vec<ArrayRef> = own.iter().map(|&place| row[place].clone()).collect();
        for look in looks {
            let event = match look {
                Look::Count(stage) => {
                    columns.push(Arc::new(Int64Array::from(vec![i64::from(before.count(*stage))])));
                    continue;
                }
                Look::First(stage, _) => before.first(*stage),
                Look::Last(stage, _) => before.last(*stage),
            };
            let row = event.and_then(|event| self.events.get(&event)).map(|row| &**row);
            let all = self.kept.columns_of(std::iter::once(row))?;
            columns.push(all[self.kept.place(look.column().unwrap_or_default())].clone());
        }
        Ok(columns)
    }
}

/// Tells rows for which all conditions can be evaluated from those for which not.
struct Sieve<'a> {
    cep: &'a Cep,
    batch: &'a Batch,
    out: &'a mut dyn Collector,
    chunks: Vec<Chunk>,
}

impl Attempt for Sieve<'_> {
    fn attempt(&mut self, rows: Range<usize>) -> Result<Result<(), LogicError>, Fault> {
        match self.cep.keep(&self.batch.slice(rows.start, rows.len())) {
            Ok(chunk) => {
                self.chunks.push(chunk);
                Ok(Ok(()))
            }
            Err(error) => Ok(Err(LogicError::Trap(message(&error)))),
        }
    }

    fn condemn(&mut self, row: usize, error: String) -> Result<(), Fault> {
        self.cep.rejects.reject_row(self.out, self.batch, row, error)
    }
}

/// Evaluates the select list on matches, and emits them.
struct Shown<'a> {
    cep: &'a Cep,
    batch: &'a Batch,
    out: &'a mut dyn Collector,
    port: usize,
}

impl Attempt for Shown<'_> {
    fn attempt(&mut self, rows: Range<usize>) -> Result<Result<(), LogicError>, Fault> {
        let matches = self.batch.slice(rows.start, rows.len());
        match self.cep.program.select.apply(matches.rows(), self.cep.stored.keys) {
            Ok(rows) => {
                self.out.emit(self.port, Batch::new(rows).with_times(matches.times.clone()));
                Ok(Ok(()))
            }
            Err(error) => Ok(Err(LogicError::Trap(message(&error)))),
        }
    }

    fn condemn(&mut self, row: usize, error: String) -> Result<(), Fault> {
        self.cep.rejects.reject_row(self.out, self.batch, row, error)
    }
}

impl Operator for Cep {
    fn on_batch(&mut self, _input: usize, batch: Batch, out: &mut dyn Collector) -> Result<Progress, Fault> {
        if batch.is_empty() {
            return Ok(Progress::Done);
        }
        if batch.times.is_none() {
            return Err(Fault::config("rows without event time reach a pattern")
                .at(&self.rejects.node)
                .with_help("give the source an `event_time:`"));
        }
        if batch.kinds.is_some() {
            return Err(Fault::config("a stream with updates and deletes reaches a pattern, which takes inserts only")
                .at(&self.rejects.node));
        }
        let Some(batch) = self.without_late(batch, out)? else { return Ok(Progress::Done) };
        let mut sieve = Sieve { cep: self, batch: &batch, out, chunks: Vec::new() };
        // Expressions are deterministic: no use in trying twice.
        search(&mut sieve, 0..batch.num_rows(), 0, &self.rejects.node)?;
        let chunks = sieve.chunks;
        self.waiting.chunks.extend(chunks);
        Ok(Progress::Done)
    }

    fn on_time(&mut self, now: Now, out: &mut dyn Collector) -> Result<Progress, Fault> {
        if now.watermark > self.watermark {
            self.watermark = now.watermark;
            self.due = self.waiting.due(now.watermark);
            self.done = 0;
        }
        self.go_on(out)
    }

    fn resume(&mut self, out: &mut dyn Collector) -> Result<Progress, Fault> {
        self.go_on(out)
    }

    fn snapshot(&mut self, _form: Form) -> Result<Snapshot, Fault> {
        Ok(Snapshot { tables: self.stored.tables(self), ..Snapshot::default() })
    }

    fn restore(&mut self, from: &dyn Restore) -> Result<(), Fault> {
        self.watermark = from.now().watermark;
        let form = self.stored.clone();
        form.restore(self, &self.program.automaton.clone(), from)
    }

    fn held(&self) -> u64 {
        (self.keys.len() + self.waiting.len()) as u64
    }
}
