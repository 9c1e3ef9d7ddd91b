//! The events of a key's partial matches: a tree, in which each match is the way from its last event to the root.
//!
//! Laws: a node lives as long as a partial match or another node refers to it, an event as long as a node does; numbers of
//! nodes are used again. A node knows how many events its stage has so far and which was the first, and where the stage
//! before it ended, so that a condition finds the events of a stage without a walk through all of them.

use crate::{EventId, Stage};

/// Of no node and no slot.
pub(crate) const NONE: u32 = u32::MAX;

#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    nodes: Vec<Node>,
    free_nodes: Vec<u32>,
    slots: Vec<Slot>,
    free_slots: Vec<u32>,
}

#[derive(Clone, Debug)]
struct Node {
    event: EventId,
    /// The first event of the stage on this way.
    first: EventId,
    prev: u32,
    /// The last node of another stage before this one.
    other: u32,
    slot: u32,
    /// Events of the stage on this way.
    count: u32,
    refs: u32,
    stage: Stage,
}

/// An event that nodes refer to.
#[derive(Clone, Debug)]
struct Slot {
    event: EventId,
    refs: u32,
}

impl History {
    pub fn is_empty(&self) -> bool {
        self.nodes.len() == self.free_nodes.len() && self.slots.len() == self.free_slots.len()
    }

    /// Begins anew, if nothing is held, and keeps the memory.
    pub fn forget(&mut self) {
        debug_assert!(self.is_empty());
        self.nodes.clear();
        self.free_nodes.clear();
        self.slots.clear();
        self.free_slots.clear();
    }

    /// Bytes of memory.
    pub fn memory(&self) -> usize {
        self.nodes.capacity() * size_of::<Node>() + self.slots.capacity() * size_of::<Slot>()
    }

    /// A place for an event. It holds the event until [`Self::release_event`].
    pub fn hold_event(&mut self, event: EventId) -> u32 {
        let slot = Slot { event, refs: 1 };
        match self.free_slots.pop() {
            Some(free) => {
                self.slots[free as usize] = slot;
                free
            }
            None => {
                self.slots.push(slot);
                (self.slots.len() - 1) as u32
            }
        }
    }

    pub fn release_event(&mut self, slot: u32, released: &mut Vec<EventId>) {
        let held = &mut self.slots[slot as usize];
        held.refs -= 1;
        if held.refs == 0 {
            released.push(held.event);
            self.free_slots.push(slot);
        }
    }

    /// A node behind `prev`, to which nobody refers yet.
    pub fn push(&mut self, stage: Stage, slot: u32, prev: u32) -> u32 {
        let event = self.slots[slot as usize].event;
        self.slots[slot as usize].refs += 1;
        let (mut first, mut count, mut other) = (event, 1, prev);
        if prev != NONE {
            self.nodes[prev as usize].refs += 1;
            if self.nodes[prev as usize].stage == stage {
                other = self.nodes[prev as usize].other;
            }
            if let Some(last) = self.last(stage, prev) {
                (first, count) = (last.first, last.count + 1);
            }
        }
        let node = Node { event, first, prev, other, slot, count, refs: 0, stage };
        match self.free_nodes.pop() {
            Some(free) => {
                self.nodes[free as usize] = node;
                free
            }
            None => {
                self.nodes.push(node);
                (self.nodes.len() - 1) as u32
            }
        }
    }

    pub fn hold(&mut self, node: u32) {
        self.nodes[node as usize].refs += 1;
    }

    /// One reference less. What nobody refers to any more goes, and what only that referred to.
    pub fn release(&mut self, node: u32, released: &mut Vec<EventId>) {
        let mut at = node;
        while at != NONE {
            let here = &mut self.nodes[at as usize];
            here.refs -= 1;
            if here.refs > 0 {
                return;
            }
            let (slot, prev) = (here.slot, here.prev);
            self.free_nodes.push(at);
            self.release_event(slot, released);
            at = prev;
        }
    }

    /// Drops a node that [`Self::push`] made and nobody refers to.
    pub fn drop_unused(&mut self, node: u32, released: &mut Vec<EventId>) {
        if self.nodes[node as usize].refs == 0 {
            self.hold(node);
            self.release(node, released);
        }
    }

    /// Stages and events from `node` back to the first.
    pub fn back_from(&self, node: u32) -> impl Iterator<Item = (Stage, EventId)> + '_ {
        let mut at = node;
        std::iter::from_fn(move || {
            let here = self.nodes.get(at as usize)?;
            at = here.prev;
            Some((here.stage, here.event))
        })
    }

    fn last(&self, stage: Stage, node: u32) -> Option<&Node> {
        let mut at = node;
        loop {
            let here = self.nodes.get(at as usize)?;
            if here.stage == stage {
                return Some(here);
            }
            at = here.other;
        }
    }

    /// Stage, event and the node before.
    pub fn at(&self, node: u32) -> (Stage, EventId, u32) {
        let node = &self.nodes[node as usize];
        (node.stage, node.event, node.prev)
    }
}

/// The events that a partial match has so far, as a condition sees them.
#[derive(Clone, Copy)]
pub struct PartialMatch<'a> {
    pub(crate) history: &'a History,
    pub(crate) node: u32,
}

impl<'a> PartialMatch<'a> {
    /// The first event of a stage.
    pub fn first(&self, stage: Stage) -> Option<EventId> {
        self.history.last(stage, self.node).map(|node| node.first)
    }
    /// The last event of a stage.
    pub fn last(&self, stage: Stage) -> Option<EventId> {
        self.history.last(stage, self.node).map(|node| node.event)
    }
    /// How many events a stage has.
    pub fn count(&self, stage: Stage) -> u32 {
        self.history.last(stage, self.node).map_or(0, |node| node.count)
    }
    /// The events of a stage, from the last to the first.
    pub fn backwards(&self, stage: Stage) -> impl Iterator<Item = EventId> + use<'a> {
        let history = self.history;
        let mut at = self.node;
        std::iter::from_fn(move || {
            let node = history.last(stage, at)?;
            at = node.prev;
            Some(node.event)
        })
    }
}
