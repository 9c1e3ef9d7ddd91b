//! Flow control between processes: rows that were sent stay charged to the node that emitted them until the process that got them
//! has dropped them.
//!
//! The sender keeps the permit of a batch under a number and sends the number with the rows. The receiver's copy carries
//! a loan; when its last clone is dropped, the number goes back over a connection of its own, and the sender lets the
//! permit go. Law: what is on its way between two processes is charged to one gauge, so it is bounded like the rest.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{BufReader, Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use crossbeam_channel::{Receiver, Sender, unbounded};
use tidemill_model::batch::Permit;

use super::wire::Wire;

/// What a process has lent to others and borrowed from them, in one generation.
#[derive(Debug)]
pub(crate) struct Ledger {
    process: usize,
    next: AtomicU64,
    lent: Mutex<HashMap<u64, Permit>>,
    /// By process: where numbers go back to.
    back: Mutex<Vec<Option<Sender<u64>>>>,
}

/// The receiver's side of a permit.
struct Loan {
    ledger: Arc<Ledger>,
    process: usize,
    number: u64,
}

impl Drop for Loan {
    fn drop(&mut self) {
        if let Some(Some(back)) = self.ledger.back().get(self.process) {
            // When the job has ended, nobody wants it back.
            let _ = back.send(self.number);
        }
    }
}

thread_local! {
    static LEDGER: RefCell<Option<Arc<Ledger>>> = const { RefCell::new(None) };
}

/// Rows that this thread encodes and decodes are booked here.
pub(crate) fn enter(ledger: Option<Arc<Ledger>>) {
    LEDGER.set(ledger);
}

/// Keeps a permit until the receiver of its rows gives it back. The lender and the number, 0 for none.
pub(crate) fn lend(permit: Option<&Permit>) -> (usize, u64) {
    LEDGER.with_borrow(|ledger| match (ledger, permit) {
        (Some(ledger), Some(permit)) => {
            let number = ledger.next.fetch_add(1, Ordering::Relaxed);
            ledger.lent().insert(number, permit.clone());
            (ledger.process, number)
        }
        _ => (0, 0),
    })
}

/// The permit of rows that came from another process.
pub(crate) fn borrowed(process: usize, number: u64) -> Option<Permit> {
    let ledger = LEDGER.with_borrow(Clone::clone).filter(|_| number > 0)?;
    Some(Arc::new(Loan { ledger, process, number }))
}

impl Ledger {
    /// Of a process among `processes`; and what is to be given back to each.
    pub fn new(process: usize, processes: usize) -> (Arc<Self>, Vec<Receiver<u64>>) {
        let (back, given): (Vec<_>, Vec<_>) = (0..processes).map(|_| unbounded()).unzip();
        let back = Mutex::new(back.into_iter().map(Some).collect());
        (Arc::new(Self { process, next: AtomicU64::new(1), lent: Mutex::default(), back }), given)
    }

    fn lent(&self) -> MutexGuard<'_, HashMap<u64, Permit>> {
        self.lent.lock().expect("no panic while held")
    }

    fn back(&self) -> MutexGuard<'_, Vec<Option<Sender<u64>>>> {
        self.back.lock().expect("no panic while held")
    }

    /// The generation has ended: nothing goes back any more, and nothing is owed.
    pub fn close(&self) {
        self.back().clear();
        self.lent().clear();
    }

    /// Takes back what another process gives back, until the connection ends.
    pub fn take_back(&self, wire: &Wire) {
        let (mut from, mut number) = (BufReader::new(wire), [0; 8]);
        while from.read_exact(&mut number).is_ok() {
            self.lent().remove(&u64::from_le_bytes(number));
        }
    }
}

/// Gives back to another process, until the ledger is closed or the connection ends.
pub(crate) fn give_back(given: &Receiver<u64>, mut wire: &Wire) {
    let mut bytes = Vec::new();
    while let Ok(number) = given.recv() {
        bytes.clear();
        for number in std::iter::once(number).chain(given.try_iter()) {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        if wire.write_all(&bytes).is_err() {
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permit_is_held_until_the_last_clone_at_the_receiver_is_dropped() {
        let (lender, _) = Ledger::new(0, 2);
        let (receiver, given) = Ledger::new(1, 2);
        let permit: Permit = Arc::new(());
        enter(Some(lender.clone()));
        let (process, number) = lend(Some(&permit));
        assert_eq!((process, lend(None)), (0, (0, 0)), "rows without a permit owe nothing");
        enter(Some(receiver.clone()));
        let loan = borrowed(process, number).expect("it was lent");
        let clone = loan.clone();
        drop(loan);
        assert!(given[0].try_recv().is_err(), "a clone is there");
        drop(clone);
        assert_eq!(given[0].try_recv(), Ok(number));
        assert_eq!(Arc::strong_count(&permit), 2);
        lender.close();
        assert_eq!(Arc::strong_count(&permit), 1, "after the end nothing is owed");
        receiver.close();
        drop(borrowed(process, number));
        enter(None);
    }
}
