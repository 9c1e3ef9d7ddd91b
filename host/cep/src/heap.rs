//! A priority queue in a `Vec`, laid out exactly as `java.util.PriorityQueue` does it.
//!
//! Law: after the same calls, the elements lie in the same order as in Java. Flink walks through its queues of matches in
//! the order of the array, so which of several matches that begin with the same event comes first, and by that which of
//! them survives a skip strategy, depends on it. The key is the event that a match begins with.

use crate::key::Partial;

pub(crate) fn push(heap: &mut Vec<Partial>, partial: Partial) {
    heap.push(partial);
    let mut at = heap.len() - 1;
    while at > 0 {
        let parent = (at - 1) / 2;
        if partial.start >= heap[parent].start {
            break;
        }
        heap[at] = heap[parent];
        at = parent;
    }
    heap[at] = partial;
}

pub(crate) fn pop(heap: &mut Vec<Partial>) -> Option<Partial> {
    let last = heap.pop()?;
    let Some(first) = heap.first().copied() else { return Some(last) };
    sift_down(heap, 0, last);
    Some(first)
}

/// Removes those for which `remove` says so, and reports each.
pub(crate) fn remove_if(heap: &mut Vec<Partial>, mut remove: impl FnMut(&Partial) -> bool) {
    let before = heap.len();
    heap.retain(|partial| !remove(partial));
    if heap.len() < before {
        for at in (0..heap.len() / 2).rev() {
            let partial = heap[at];
            sift_down(heap, at, partial);
        }
    }
}

fn sift_down(heap: &mut [Partial], mut at: usize, partial: Partial) {
    while at < heap.len() / 2 {
        let mut child = 2 * at + 1;
        if child + 1 < heap.len() && heap[child].start > heap[child + 1].start {
            child += 1;
        }
        if partial.start <= heap[child].start {
            break;
        }
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = partial;
}
