//! A key's state as bytes, for checkpoints.
//!
//! Laws: what was encoded and decoded behaves as if it had not been; whatever the bytes are, decoding ends with a state that
//! fits the pattern, or with [`Damaged`]. Numbers are LEB128, with the sign in the lowest bit where they have one.
//!
//! Version 1: version; nodes (count; each: stage, event, node before + 1), parents first; partial matches in the order of
//! the heap (count; each: state, node + 1, first time, last time), of which one is the start state, with node 0; matches
//! that wait, likewise. A key with nothing is no bytes at all.

use std::collections::HashMap;
use std::fmt;

use crate::EventId;
use crate::automaton::Automaton;
use crate::compile::Kind;
use crate::heap;
use crate::history::{History, NONE};
use crate::key::{KeyState, Live, Partial};
use crate::matcher::deadline;

const VERSION: u64 = 1;

/// Bytes that are no state of this pattern, with the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damaged(pub &'static str);

impl fmt::Display for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "partial matches can't be read: {}", self.0)
    }
}

impl std::error::Error for Damaged {}

impl KeyState {
    /// Appends the state.
    pub fn encode(&self, into: &mut Vec<u8>) {
        let Some(live) = &self.live else { return };
        put(into, VERSION);
        let (order, numbers) = live.numbered();
        put(into, order.len() as u64);
        for node in order {
            let (stage, event, prev) = live.history.at(node);
            put(into, stage.into());
            put(into, event);
            put(into, numbers.get(&prev).map_or(0, |prev| prev + 1));
        }
        for partials in [&live.partials, &live.completed] {
            put(into, partials.len() as u64);
            for partial in partials {
                put(into, partial.state.into());
                put(into, numbers.get(&partial.node).map_or(0, |node| node + 1));
                put(into, zigzag(partial.start_ms));
                put(into, zigzag(partial.last_ms));
            }
        }
    }

    /// The state that `bytes` hold, of a pattern.
    pub fn decode(automaton: &Automaton, bytes: &[u8]) -> Result<Self, Damaged> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        let mut live = Live::default();
        let mut reader = Reader { bytes };
        if reader.number()? != VERSION {
            return Err(Damaged("the version of the format is not known"));
        }
        let nodes = read_nodes(&mut reader, automaton, &mut live.history)?;
        let mut fits = |kind, is_start: bool| match kind {
            Kind::Start => is_start,
            Kind::Normal | Kind::Pending => !is_start,
            Kind::Final | Kind::Stop => false,
        };
        live.partials = read_partials(&mut reader, automaton, &nodes, &mut live.history, &mut fits)?;
        let mut fits = |kind, is_start: bool| !is_start && matches!(kind, Kind::Final | Kind::Pending);
        live.completed = read_partials(&mut reader, automaton, &nodes, &mut live.history, &mut fits)?;
        if !reader.bytes.is_empty() {
            return Err(Damaged("something follows"));
        }
        if live.partials.len() != live.running().count() + 1 {
            return Err(Damaged("there has to be one start state"));
        }
        if live.partials.len() == 1 && live.completed.is_empty() {
            return Err(Damaged("there is no partial match"));
        }
        let mut released = Vec::new();
        for (node, _) in nodes {
            live.history.release(node, &mut released);
        }
        if !released.is_empty() {
            return Err(Damaged("an event belongs to no partial match"));
        }
        live.deadline = deadline(automaton, &live);
        Ok(Self { live: Some(Box::new(live)) })
    }
}

impl Live {
    /// All nodes, parents first, and the place of each.
    fn numbered(&self) -> (Vec<u32>, HashMap<u32, u64>) {
        let (mut order, mut numbers) = (Vec::new(), HashMap::new());
        let mut way = Vec::new();
        for partial in self.partials.iter().chain(&self.completed) {
            let mut at = partial.node;
            while at != NONE && !numbers.contains_key(&at) {
                way.push(at);
                at = self.history.at(at).2;
            }
            for node in way.drain(..).rev() {
                numbers.insert(node, order.len() as u64);
                order.push(node);
            }
        }
        (order, numbers)
    }
}

/// Nodes, each held once by the reader, with the first event of their way.
type Nodes = Vec<(u32, EventId)>;

fn read_nodes(reader: &mut Reader<'_>, automaton: &Automaton, history: &mut History) -> Result<Nodes, Damaged> {
    let mut nodes: Nodes = Vec::new();
    let mut slots = HashMap::new();
    for _ in 0..reader.number()? {
        let (stage, event, before) = (reader.number()?, reader.number()?, reader.number()?);
        if stage >= automaton.stages().len() as u64 || event == EventId::MAX {
            return Err(Damaged("an event without a stage"));
        }
        let (prev, first) = match before.checked_sub(1) {
            None => (NONE, event),
            Some(prev) => *nodes.get(prev as usize).ok_or(Damaged("an event before which is nothing"))?,
        };
        if prev != NONE && history.at(prev).1 >= event {
            return Err(Damaged("events that do not ascend"));
        }
        let slot = *slots.entry(event).or_insert_with(|| history.hold_event(event));
        let node = history.push(stage as u16, slot, prev);
        history.hold(node);
        nodes.push((node, first));
    }
    for slot in slots.into_values() {
        history.release_event(slot, &mut Vec::new());
    }
    Ok(nodes)
}

fn read_partials(
    reader: &mut Reader<'_>,
    automaton: &Automaton,
    nodes: &Nodes,
    history: &mut History,
    fits: &mut impl FnMut(Kind, bool) -> bool,
) -> Result<Vec<Partial>, Damaged> {
    let mut partials = Vec::new();
    for _ in 0..reader.number()? {
        let (state, node) = (reader.number()?, reader.number()?);
        let (start_ms, last_ms) = (unzigzag(reader.number()?), unzigzag(reader.number()?));
        let known = automaton.states.get(state as usize).ok_or(Damaged("a state that the pattern does not have"))?;
        if !fits(known.kind, node == 0) {
            return Err(Damaged("a state in the wrong place"));
        }
        let mut partial = Partial { start_ms, last_ms, ..Partial::waiting(state as u16) };
        if let Some(node) = node.checked_sub(1) {
            let (node, first) = *nodes.get(node as usize).ok_or(Damaged("a partial match without events"))?;
            history.hold(node);
            (partial.node, partial.start) = (node, first);
        }
        heap::push(&mut partials, partial);
    }
    Ok(partials)
}

fn put(into: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        into.push(number as u8 | 0x80);
        number >>= 7;
    }
    into.push(number as u8);
}

fn zigzag(number: i64) -> u64 {
    (number << 1 ^ number >> 63) as u64
}

fn unzigzag(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}

struct Reader<'a> {
    bytes: &'a [u8],
}

impl Reader<'_> {
    fn number(&mut self) -> Result<u64, Damaged> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.bytes.split_first().ok_or(Damaged("the bytes end too early"))?;
            self.bytes = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Damaged("a number that is too long"))
    }
}
