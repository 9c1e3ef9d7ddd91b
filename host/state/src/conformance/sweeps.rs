//! What nobody asks for any more goes as fast as it comes: the part of the conformance suite about sweeps. Time is virtual.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array};
use arrow::datatypes::DataType;
use tidemill_model::component::{StateDescriptor, StateKind, Ttl};
use tidemill_model::key::hash_i64;
use tidemill_model::snapshot::Form;
use tidemill_model::state::{StateBackend, StateBackendFactory, StateContext};

use super::snapshots::move_on;

/// In which a tenth of a core removes what is left in the end.
const PAUSE_MS: i64 = 5_000;

/// Keys that come once and never again.
struct Stream {
    ttl_ms: i64,
    tick_ms: i64,
    /// New keys in each tick.
    keys: i64,
    lives: i64,
    kind: StateKind,
}

/// Runs these checks.
pub(super) fn sweeps(factory: &dyn StateBackendFactory) {
    let list = StateKind::List;
    for (ttl_ms, tick_ms, keys, lives, kind) in [
        (200, 10, 1_500, 6, StateKind::Value),
        (2_000, 1_000, 4_000, 8, StateKind::Value),
        (60_000, 10, 2, 2, StateKind::Value),
        (200, 10, 50, 6, list.clone()),
        (2_000, 1_000, 2_000, 5, list),
    ] {
        what_comes_goes(factory, &Stream { ttl_ms, tick_ms, keys, lives, kind });
    }
}

impl Stream {
    fn state(&self) -> StateDescriptor {
        let ttl = Some(Ttl { ms: self.ttl_ms as u64, on_read: false });
        StateDescriptor { ttl, kind: self.kind.clone(), ..StateDescriptor::value("t", DataType::Int64) }
    }

    /// Writes the keys of a tick.
    fn write(&self, backend: &mut dyn StateBackend, tick: i64) {
        let keys: Vec<i64> = (tick * self.keys..(tick + 1) * self.keys).collect();
        let hashes: Vec<u64> = keys.iter().map(|&key| hash_i64(key)).collect();
        let mut slots = Vec::new();
        backend.resolve_i64(&keys, &hashes, &mut slots).expect("resolve");
        let values: ArrayRef = Arc::new(Int64Array::from(keys));
        match self.kind {
            StateKind::Value => backend.scatter(0, &slots, &values).expect("scatter"),
            _ => backend.append_entries(0, &slots, &values).expect("append"),
        }
        backend.release(&slots);
    }
}

fn what_comes_goes(factory: &dyn StateBackendFactory, stream: &Stream) {
    let states = [stream.state()];
    let mut backend =
        factory.open(&StateContext { node: "node", worker: 0, workers: 1, states: &states }).expect("open");
    let (ticks, start) = (stream.lives * stream.ttl_ms / stream.tick_ms, 1_000_000);
    // Those that live, those that have expired since the last tick, and half of that.
    let most = (stream.keys * (stream.ttl_ms / stream.tick_ms + 1) * 3 / 2) as usize;
    for tick in 0..ticks {
        backend.set_now(start + tick * stream.tick_ms).expect("set_now");
        stream.write(backend.as_mut(), tick);
        let held = backend.keys();
        let (ttl, each) = (stream.ttl_ms, stream.tick_ms);
        assert!(held <= most, "{held} keys held at tick {tick} of {each} ms with a life of {ttl} ms");
        if tick % (ticks / 8) == 1 {
            // Written by another thread, while keys come and go.
            drop(backend.snapshot(Form::Native).expect("snapshot"));
        }
    }
    let now = start + (ticks - 1) * stream.tick_ms;
    let mut restored = move_on(factory, backend.as_mut(), Form::Native, &states, now);
    assert!(restored.keys() <= most, "{} keys in a snapshot", restored.keys());
    for backend in [&mut backend, &mut restored] {
        let ticks = (2 * stream.ttl_ms + PAUSE_MS) / stream.tick_ms;
        (0..ticks).for_each(|tick| backend.set_now(now + tick * stream.tick_ms).expect("set_now"));
        assert_eq!(backend.keys(), 0, "when no more come");
    }
}
