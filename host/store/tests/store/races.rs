//! Several starts of a job at once, on a store on which calls fail: what was published stays, and no two go on.
//!
//! The starts are threads, of which one runs at a time; at each call on the store the seed decides who is next. So a
//! seed is one history, down to the single call.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use crate::common::{collect, manifest, rows, table};
use proptest::prelude::*;
use std::path::Path;
use tidemill_model::Fault;
use tidemill_model::checkpoint::{CheckpointStore, Listed, ObjectStore};
use tidemill_model::fault::FaultKind;
use tidemill_store::Snapshots;
use tidemill_store::testing::{FlakyStore, Memory, Rates};

const STARTS: usize = 3;
const CHECKPOINTS: usize = 5;
const ROWS: usize = 20;

/// Who runs.
struct Turns {
    state: Mutex<(u64, Vec<usize>, usize)>,
    changed: Condvar,
}

impl Turns {
    fn new(seed: u64) -> Self {
        let alive: Vec<usize> = (0..STARTS).collect();
        Self { state: Mutex::new((seed | 1, alive, 0)), changed: Condvar::new() }
    }

    /// Gives the turn to whom the seed says and waits for the own one; a thread that ends does not wait.
    fn next(&self, me: usize, ends: bool) {
        let mut state = self.state.lock().unwrap();
        if ends {
            state.1.retain(|other| *other != me);
        }
        state.0 ^= state.0 << 13;
        state.0 ^= state.0 >> 7;
        state.0 ^= state.0 << 17;
        if !state.1.is_empty() {
            state.2 = state.1[(state.0 >> 20) as usize % state.1.len()];
        }
        self.changed.notify_all();
        if !ends {
            self.wait(state, me);
        }
    }

    fn begin(&self, me: usize) {
        self.wait(self.state.lock().unwrap(), me);
    }

    fn wait(&self, mut state: std::sync::MutexGuard<'_, (u64, Vec<usize>, usize)>, me: usize) {
        while state.2 != me {
            state = self.changed.wait(state).unwrap();
        }
    }
}

/// A store whose calls are the turns of a thread.
struct InTurns {
    inner: FlakyStore,
    turns: Arc<Turns>,
    me: usize,
}

impl InTurns {
    fn turn(&self) -> &FlakyStore {
        self.turns.next(self.me, false);
        &self.inner
    }
}

impl ObjectStore for InTurns {
    fn location(&self, name: &str) -> String {
        self.inner.location(name)
    }
    fn put(&self, name: &str, content: &[u8]) -> Result<(), Fault> {
        self.turn().put(name, content)
    }
    fn put_file(&self, name: &str, path: &Path) -> Result<(), Fault> {
        self.turn().put_file(name, path)
    }
    fn create(&self, name: &str, content: &[u8]) -> Result<bool, Fault> {
        self.turn().create(name, content)
    }
    fn get(&self, name: &str) -> Result<Option<Vec<u8>>, Fault> {
        self.turn().get(name)
    }
    fn get_file(&self, name: &str, path: &Path) -> Result<bool, Fault> {
        self.turn().get_file(name, path)
    }
    fn size(&self, name: &str) -> Result<Option<u64>, Fault> {
        self.turn().size(name)
    }
    fn list(&self, prefix: &str) -> Result<Vec<(String, u64)>, Fault> {
        self.turn().list(prefix)
    }
    fn delete(&self, names: &[String]) -> Result<(), Fault> {
        self.turn().delete(names)
    }
}

/// What is observed of a history.
#[derive(Default)]
struct Seen {
    /// By generation: the largest id that it found when it began.
    found: Mutex<BTreeMap<u64, u64>>,
    /// Id and generation of what was published with success.
    published: Mutex<Vec<(u64, u64)>>,
    /// Calls to begin, whether or not they succeed.
    begun: AtomicU64,
}

/// A job from its start to its first fault. Faults of the store are fine; damage is not.
fn job(store: &dyn CheckpointStore, seen: &Seen) -> Result<(), Fault> {
    let begun = seen.begun.fetch_add(1, Ordering::SeqCst);
    let generation = store.begin_generation()?;
    let newest = store.list()?.pop();
    let mut id = newest.as_ref().map_or(0, |listed| listed.id);
    seen.found.lock().unwrap().insert(generation, id);
    if let Some(listed) = newest
        && let Err(fault) = restore(store, &listed)
    {
        let alone = seen.begun.load(Ordering::SeqCst) == begun + 1;
        assert!(fault.kind == FaultKind::Io || !alone, "nobody has removed it, but: {fault}");
        return Err(fault);
    }
    for _ in 0..CHECKPOINTS {
        id += 1;
        // Some content is new and some is always the same.
        let (own, _) = store.write_table(table("own", &rows(ROWS, content(id, generation)), ROWS))?;
        let (same, _) = store.write_table(table("same", &rows(ROWS, (id % 2) as i64), ROWS))?;
        // A checkpoint that fails is no reason to stop: the next one may come about, unless the store says no.
        if store.publish(&manifest(id, generation, vec![own, same], Vec::new())).is_ok() {
            seen.published.lock().unwrap().push((id, generation));
            let _ = store.retain(2);
        }
    }
    Ok(())
}

fn content(id: u64, generation: u64) -> i64 {
    (id * 1000 + generation * 10) as i64
}

fn restore(store: &dyn CheckpointStore, listed: &Listed) -> Result<(), Fault> {
    let manifest = store.load(listed)?;
    store.verify(&manifest)?;
    let expected = [content(listed.id, listed.generation), (listed.id % 2) as i64];
    for (table, seed) in manifest.parts[0].tables.iter().zip(expected) {
        assert_eq!(collect(store.read_table(table, 0..1024)?)?, rows(ROWS, seed));
    }
    Ok(())
}

/// Runs one history and holds the laws against it.
fn history(seed: u64, rates: Rates) -> Seen {
    let (memory, turns, seen) = (Arc::new(Memory::default()), Arc::new(Turns::new(seed)), Seen::default());
    let stores: Vec<Arc<InTurns>> = (0..STARTS)
        .map(|me| {
            let inner = FlakyStore::new(memory.clone(), seed.wrapping_add(me as u64 * 7919), rates);
            Arc::new(InTurns { inner, turns: turns.clone(), me })
        })
        .collect();
    std::thread::scope(|scope| {
        for (me, store) in stores.iter().enumerate() {
            let (turns, seen) = (&turns, &seen);
            scope.spawn(move || {
                turns.begin(me);
                let run = || job(&Snapshots::new(store.clone(), "job"), seen);
                let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
                turns.next(me, true);
                if let Err(panic) = result {
                    std::panic::resume_unwind(panic);
                }
            });
        }
    });
    check(&memory, &seen);
    // What was still on its way arrives long after everybody has gone on.
    stores.iter().for_each(|store| store.inner.settle());
    check(&memory, &seen);
    seen
}

fn check(memory: &Arc<Memory>, seen: &Seen) {
    let store = Snapshots::new(memory.clone(), "job");
    let listed = store.list().unwrap();
    for checkpoint in &listed {
        restore(&store, checkpoint).unwrap_or_else(|fault| panic!("{checkpoint:?} can't be restored: {fault}"));
    }
    let (found, published) = (seen.found.lock().unwrap(), seen.published.lock().unwrap());
    if let Some(newest) = published.iter().map(|(id, _)| *id).max() {
        let last = listed.last().expect("what was published is there");
        assert!(last.id >= newest, "checkpoint {newest} was published, but the newest is {last:?}");
    }
    for (id, generation) in published.iter() {
        for (newer, known) in found.range(generation + 1..) {
            assert!(id <= known, "generation {newer} began at {known}, but {generation} published {id} all the same");
        }
    }
    let ids: Vec<u64> = published.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids.iter().collect::<std::collections::BTreeSet<_>>().len(), ids.len(), "{published:?}");
}

proptest! {
    #[test]
    fn histories_with_faults_keep_the_laws(seed in any::<u64>(), failed in 0u64..60, lost in 0u64..60, late in 0u64..60) {
        history(seed, Rates { failed, unanswered: lost, late });
    }

    #[test]
    fn histories_without_faults_lose_nothing(seed in any::<u64>()) {
        let seen = history(seed, Rates::default());
        let last = *seen.found.lock().unwrap().keys().last().unwrap();
        let published = seen.published.lock().unwrap();
        prop_assert_eq!(published.iter().filter(|(_, generation)| *generation == last).count(), CHECKPOINTS);
    }
}
