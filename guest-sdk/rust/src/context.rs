//! What an operator can do besides changing its state: emit rows, set timers, ask for the time.
//!
//! Law: everything done since `begin` is undone by `rollback`; nothing leaves before `finish`.

use std::marker::PhantomData;

use crate::native::{BatchRef, Domain, Now, OpError, Output, TimerChanges};
use crate::operator::{Kind, Operator};
use crate::outputs::PortBuilder;
use crate::row::Ports;

/// What a row does to the table that the stream describes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum RowKind {
    #[default]
    Insert = 0,
    UpdateBefore = 1,
    UpdateAfter = 2,
    Delete = 3,
}

/// The surroundings of the row (or due timer) that is being processed.
pub struct Context<O> {
    ports: Vec<PortBuilder>,
    timers: Vec<TimerChange>,
    now: Now,
    row: u32,
    key: u32,
    timestamp: Option<i64>,
    kind: RowKind,
    operator: PhantomData<fn() -> O>,
}

#[derive(Clone, Copy)]
struct TimerChange {
    row: u32,
    key: u32,
    domain: Domain,
    time: i64,
    delete: bool,
}

impl<O: Operator> Context<O> {
    /// Emits a row. Its event time is that of the row or timer being processed.
    #[inline(always)]
    pub fn emit(&mut self, row: O::Output<'_>) {
        let port = &mut self.ports[row.port() as usize];
        row.write(port.columns());
        port.pushed(self.row);
    }

    /// Emits a row with an event time of its own, ms. Needs `#[operator(time)]`.
    pub fn emit_at(&mut self, row: O::Output<'_>, timestamp: i64) {
        const { assert!(O::READS_TIME, "emit_at needs #[operator(time)] on the operator") };
        let port = row.port() as usize;
        self.emit(row);
        self.ports[port].set_time(timestamp);
    }

    /// Emits a row that changes or takes back an earlier one.
    pub fn emit_as(&mut self, kind: RowKind, row: O::Output<'_>) {
        let port = row.port() as usize;
        self.emit(row);
        self.ports[port].set_kind(kind as u8);
    }

    /// Event time in ms of the row, or of the due timer; `None` if the stream has no event time.
    /// Needs `#[operator(time)]`, because event times that nobody reads do not cross.
    #[inline(always)]
    pub fn timestamp(&self) -> Option<i64> {
        const { assert!(O::READS_TIME, "timestamp() needs #[operator(time)] on the operator") };
        self.timestamp
    }

    /// What the row does. Always `Insert` without `#[operator(changes)]`.
    pub fn kind(&self) -> RowKind {
        self.kind
    }

    /// Event-time watermark in ms: no row at or below it is expected. The least `i64` before the first.
    pub fn watermark(&self) -> i64 {
        self.now.watermark
    }

    /// Processing time in ms since the epoch; constant during a call, and the same when it is replayed.
    pub fn processing_time(&self) -> i64 {
        self.now.processing
    }

    /// Calls `on_timer` for this key when the watermark reaches `time` (ms); if it has done so already, when it next moves
    /// on. Setting it twice is setting it once.
    pub fn set_event_timer(&mut self, time: i64) {
        self.change_timer(Domain::Event, time, false);
    }

    /// Calls `on_timer` for this key when processing time reaches `time` (ms).
    pub fn set_processing_timer(&mut self, time: i64) {
        self.change_timer(Domain::Processing, time, false);
    }

    /// Takes back an event-time timer of this key.
    pub fn delete_event_timer(&mut self, time: i64) {
        self.change_timer(Domain::Event, time, true);
    }

    /// Takes back a processing-time timer of this key.
    pub fn delete_processing_timer(&mut self, time: i64) {
        self.change_timer(Domain::Processing, time, true);
    }

    fn change_timer(&mut self, domain: Domain, time: i64, delete: bool) {
        const { assert!(matches!(O::KIND, Kind::Keyed), "timers need a keyed operator: #[derive(Keyed)]") };
        self.timers.push(TimerChange { row: self.row, key: self.key, domain, time, delete });
    }

    pub(crate) fn new() -> Self {
        let ports = if O::KIND == Kind::Filter { Vec::new() } else { <O::Output<'_> as Ports>::ports("out") };
        Self {
            ports: ports.iter().map(PortBuilder::new).collect(),
            timers: Vec::new(),
            now: Now { watermark: i64::MIN, processing: 0 },
            row: 0,
            key: 0,
            timestamp: None,
            kind: RowKind::Insert,
            operator: PhantomData,
        }
    }

    /// A call begins.
    pub(crate) fn start(&mut self, now: Now) {
        self.now = now;
        self.timers.clear();
        self.ports.iter_mut().for_each(PortBuilder::start);
    }

    /// A row or timer begins.
    #[inline(always)]
    pub(crate) fn begin(&mut self, row: u32, key: u32) {
        self.row = row;
        self.key = key;
    }

    pub(crate) fn set_timestamp(&mut self, timestamp: Option<i64>) {
        self.timestamp = timestamp;
    }

    pub(crate) fn set_kind(&mut self, kind: u8) {
        self.kind = match kind {
            1 => RowKind::UpdateBefore,
            2 => RowKind::UpdateAfter,
            3 => RowKind::Delete,
            _ => RowKind::Insert,
        };
    }

    /// The row failed: what it emitted and set is taken back.
    pub(crate) fn rollback(&mut self) {
        let row = self.row;
        self.ports.iter_mut().for_each(|port| port.rollback(row));
        while self.timers.pop_if(|change| change.row == row).is_some() {}
    }

    /// The call ends. `times` are the event times of the rows or timers that came in.
    pub(crate) fn finish_outputs(&mut self, rows: u32, times: &[[u8; 8]]) -> Result<Vec<Output>, OpError> {
        let mut outputs = Vec::new();
        for (index, port) in self.ports.iter_mut().enumerate() {
            outputs.extend(port.finish(index as u16, rows, times)?);
        }
        Ok(outputs)
    }

    pub(crate) fn finish_timers(&mut self) -> Vec<TimerChanges> {
        [Domain::Event, Domain::Processing].into_iter().filter_map(|domain| changes_of(&self.timers, domain)).collect()
    }
}

fn changes_of(timers: &[TimerChange], domain: Domain) -> Option<TimerChanges> {
    let (mut key_index, mut times, mut deletes) = (Vec::new(), Vec::new(), Vec::new());
    for change in timers.iter().filter(|c| c.domain == domain) {
        key_index.extend_from_slice(&change.key.to_le_bytes());
        times.extend_from_slice(&change.time.to_le_bytes());
        deletes.push(change.delete as u8);
    }
    if deletes.is_empty() {
        return None;
    }
    if !deletes.contains(&1) {
        deletes.clear();
    }
    Some(TimerChanges { domain, key_index, times, deletes })
}

/// Event times of the rows, empty if the stream has none.
pub(crate) fn times_of<'a>(rows: &BatchRef<'a>) -> Result<&'a [[u8; 8]], OpError> {
    if rows.times.is_empty() { Ok(&[]) } else { crate::types::words(rows.times, rows.rows as usize) }
}
