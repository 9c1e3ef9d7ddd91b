//! Work on other threads while the caller prepares more of it.
//!
//! Laws: results come in the order in which the work was given; after the first fault nothing new begins; only so many are under way.

use std::collections::VecDeque;
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, Scope, ScopedJoinHandle};

use tidemill_model::Fault;

/// Enough to keep a store busy that takes milliseconds per request. Each holds a segment in memory.
const AT_ONCE: usize = 4;

/// See the module.
pub struct Ahead<'scope, 'env, T> {
    scope: &'scope Scope<'scope, 'env>,
    under_way: VecDeque<ScopedJoinHandle<'scope, Result<T, Fault>>>,
    done: Vec<T>,
}

impl<'scope, 'env, T: Send + 'scope> Ahead<'scope, 'env, T> {
    pub fn new(scope: &'scope Scope<'scope, 'env>) -> Self {
        Self { scope, under_way: VecDeque::new(), done: Vec::new() }
    }

    /// On another thread, once there is room for one more. The fault, if any, is that of earlier work.
    pub fn beside(&mut self, work: impl FnOnce() -> Result<T, Fault> + Send + 'scope) -> Result<(), Fault> {
        self.wait(AT_ONCE - 1)?;
        // Whoever comes to it takes it: the thread, or, where none can be had, this one.
        let work = Arc::new(Mutex::new(Some(work)));
        let same = work.clone();
        match Builder::new().name("tidemill-write".into()).spawn_scoped(self.scope, move || run(&same)) {
            Ok(handle) => {
                self.under_way.push_back(handle);
                Ok(())
            }
            Err(_) => self.here(|| run(&work)),
        }
    }

    /// On this thread.
    pub fn here(&mut self, work: impl FnOnce() -> Result<T, Fault>) -> Result<(), Fault> {
        self.wait(0)?;
        self.done.push(work()?);
        Ok(())
    }

    /// All results.
    pub fn finish(mut self) -> Result<Vec<T>, Fault> {
        self.wait(0)?;
        Ok(self.done)
    }

    /// Until no more than so many are under way.
    fn wait(&mut self, most: usize) -> Result<(), Fault> {
        while self.under_way.len() > most {
            let Some(first) = self.under_way.pop_front() else { break };
            self.done.push(first.join().unwrap_or_else(|panic| resume_unwind(panic))?);
        }
        Ok(())
    }
}

fn run<T>(work: &Mutex<Option<impl FnOnce() -> Result<T, Fault>>>) -> Result<T, Fault> {
    let taken = work.lock().unwrap_or_else(PoisonError::into_inner).take();
    taken.ok_or_else(|| Fault::internal("a piece of work was taken twice"))?()
}

#[cfg(test)]
mod tests {
    use std::sync::Condvar;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread::scope;

    use super::*;

    #[test]
    fn results_come_in_order_though_the_first_ends_last() {
        let (ended, changed) = (Mutex::new(0), Condvar::new());
        let results = scope(|scope| {
            let mut ahead = Ahead::new(scope);
            for number in 0..AT_ONCE {
                let (ended, changed) = (&ended, &changed);
                ahead.beside(move || {
                    let mut ended = ended.lock().unwrap();
                    while number == 0 && *ended < AT_ONCE - 1 {
                        ended = changed.wait(ended).unwrap();
                    }
                    *ended += 1;
                    changed.notify_all();
                    Ok(number)
                })?;
            }
            ahead.here(|| Ok(AT_ONCE))?;
            ahead.finish()
        });
        assert_eq!(results.unwrap(), (0..=AT_ONCE).collect::<Vec<_>>());
    }

    #[test]
    fn no_more_than_so_many_are_under_way_and_a_fault_ends_it() {
        let (now, most, begun) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        let failed = scope(|scope| {
            let mut ahead = Ahead::new(scope);
            for number in 0..100 {
                let (now, most, begun) = (&now, &most, &begun);
                ahead.beside(move || {
                    begun.fetch_add(1, Ordering::SeqCst);
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    now.fetch_sub(1, Ordering::SeqCst);
                    if number == 50 { Err(Fault::io("full")) } else { Ok(()) }
                })?;
            }
            ahead.finish()
        });
        assert_eq!(failed.unwrap_err().message, "full");
        assert!(most.into_inner() <= AT_ONCE);
        assert!(begun.into_inner() <= 51 + AT_ONCE);
    }
}
