//! A store on which calls fail, by seed: before they do anything, after they have done it, or, worst, so that they do it
//! some calls later. It keeps what every store promises: an object is there as a whole or not at all.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidemill_model::Fault;
use tidemill_model::checkpoint::ObjectStore;

/// How often, in 1000 calls.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rates {
    /// A fault; nothing was done.
    pub failed: u64,
    /// A fault, but it was done; of a removal, the first half.
    pub unanswered: u64,
    /// A fault, and it is done up to eight calls later.
    pub late: u64,
}

pub struct FlakyStore {
    inner: Arc<dyn ObjectStore>,
    rates: Rates,
    state: Mutex<State>,
}

struct State {
    random: u64,
    /// What comes late, and in how many calls.
    late: Vec<(u64, Call)>,
}

type Call = Box<dyn FnOnce(&dyn ObjectStore) + Send>;

enum Fate {
    Done,
    Failed,
    Unanswered,
    Late,
}

impl FlakyStore {
    pub fn new(inner: Arc<dyn ObjectStore>, seed: u64, rates: Rates) -> Self {
        // Xorshift must not start with zero.
        let random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        Self { inner, rates, state: Mutex::new(State { random, late: Vec::new() }) }
    }

    /// Lets everything happen that is still to come.
    pub fn settle(&self) {
        let late = std::mem::take(&mut self.state().late);
        late.into_iter().for_each(|(_, call)| call(&*self.inner));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to become of this call. Lets those happen whose time has come.
    fn fate(&self) -> Fate {
        let mut state = self.state();
        state.late.iter_mut().for_each(|(calls, _)| *calls = calls.saturating_sub(1));
        let (due, late) = std::mem::take(&mut state.late).into_iter().partition::<Vec<_>, _>(|(calls, _)| *calls == 0);
        state.late = late;
        let draw = state.next() % 1000;
        drop(state);
        due.into_iter().for_each(|(_, call)| call(&*self.inner));
        let Rates { failed, unanswered, late } = self.rates;
        match draw {
            draw if draw < failed => Fate::Failed,
            draw if draw < failed + unanswered => Fate::Unanswered,
            draw if draw < failed + unanswered + late => Fate::Late,
            _ => Fate::Done,
        }
    }

    fn later(&self, call: impl FnOnce(&dyn ObjectStore) + Send + 'static) {
        let mut state = self.state();
        let calls = 1 + state.next() % 8;
        state.late.push((calls, Box::new(call)));
    }

    fn read<T>(&self, read: impl FnOnce(&dyn ObjectStore) -> Result<T, Fault>) -> Result<T, Fault> {
        match self.fate() {
            Fate::Done => read(&*self.inner),
            Fate::Failed | Fate::Unanswered | Fate::Late => Err(fault()),
        }
    }

    fn write<T>(&self, write: impl FnOnce(&dyn ObjectStore) -> Result<T, Fault> + Send + 'static) -> Result<T, Fault> {
        match self.fate() {
            Fate::Done => return write(&*self.inner),
            Fate::Failed => {}
            Fate::Unanswered => drop(write(&*self.inner)?),
            Fate::Late => self.later(move |store| drop(write(store))),
        }
        Err(fault())
    }
}

fn fault() -> Fault {
    Fault::io("the store gave no answer").with_help("this is a test")
}

impl State {
    fn next(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random >> 11
    }
}

impl ObjectStore for FlakyStore {
    fn location(&self, name: &str) -> String {
        self.inner.location(name)
    }

    fn put(&self, name: &str, content: &[u8]) -> Result<(), Fault> {
        let (name, content) = (name.to_owned(), content.to_vec());
        self.write(move |store| store.put(&name, &content))
    }

    fn put_file(&self, name: &str, path: &Path) -> Result<(), Fault> {
        let (name, path) = (name.to_owned(), path.to_owned());
        self.write(move |store| store.put_file(&name, &path))
    }

    fn create(&self, name: &str, content: &[u8]) -> Result<bool, Fault> {
        let (name, content) = (name.to_owned(), content.to_vec());
        self.write(move |store| store.create(&name, &content))
    }

    fn get(&self, name: &str) -> Result<Option<Vec<u8>>, Fault> {
        self.read(|store| store.get(name))
    }

    fn get_file(&self, name: &str, path: &Path) -> Result<bool, Fault> {
        self.read(|store| store.get_file(name, path))
    }

    fn size(&self, name: &str) -> Result<Option<u64>, Fault> {
        self.read(|store| store.size(name))
    }

    fn list(&self, prefix: &str) -> Result<Vec<(String, u64)>, Fault> {
        self.read(|store| store.list(prefix))
    }

    fn delete(&self, names: &[String]) -> Result<(), Fault> {
        let all = names.to_vec();
        match self.fate() {
            Fate::Done => return self.inner.delete(&all),
            Fate::Failed => {}
            Fate::Unanswered => self.inner.delete(&all[..all.len() / 2])?,
            Fate::Late => self.later(move |store| drop(store.delete(&all))),
        }
        Err(fault())
    }
}
