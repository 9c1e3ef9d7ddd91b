//! How batches on an edge find their worker.

use std::cell::RefCell;
use std::rc::Rc;

use tidemill_model::Fault;
use tidemill_model::key::Partitioner;
use timely::communication::Push;
use timely::dataflow::channels::Message;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::channels::pushers::exchange::Distributor;
use timely::dataflow::operators::generic::operator::Operator as _;

use crate::frame::{Rows, RowsBuilder};
use crate::worker::RowStream;

/// Splits batches by key.
pub struct ByKey {
    pub partitioner: Partitioner,
    /// First fault of this edge; read by the operator behind it.
    pub fault: Rc<RefCell<Option<Fault>>>,
}

impl Distributor<Rows> for ByKey {
    fn partition<T: Clone, P: Push<Message<T, Rows>>>(&mut self, rows: &mut Rows, time: &T, pushers: &mut [P]) {
        for batch in rows.0.drain(..) {
            let send = |worker: usize, part| {
                Message::push_at(&mut Rows::of(part), time.clone(), &mut pushers[worker]);
            };
            if let Err(error) = self.partitioner.partition(batch, send) {
                self.fault.borrow_mut().get_or_insert(error.into());
            }
        }
    }
    fn flush<T: Clone, P: Push<Message<T, Rows>>>(&mut self, _time: &T, _pushers: &mut [P]) {}
}

/// Deals batches to the workers in turn.
pub struct RoundRobin {
    pub next: usize,
}

impl Distributor<Rows> for RoundRobin {
    fn partition<T: Clone, P: Push<Message<T, Rows>>>(&mut self, rows: &mut Rows, time: &T, pushers: &mut [P]) {
        for batch in rows.0.drain(..) {
            self.next = (self.next + 1) % pushers.len();
            Message::push_at(&mut Rows::of(batch), time.clone(), &mut pushers[self.next]);
        }
    }
    fn flush<T: Clone, P: Push<Message<T, Rows>>>(&mut self, _time: &T, _pushers: &mut [P]) {}
}

/// Each batch as often as there are workers, one behind the other: then [`RoundRobin`] gives each worker one. Timely counts what goes
/// into an exchange and what comes out, so it is not the exchange that makes copies.
pub fn copies(stream: RowStream<'_>, workers: usize) -> RowStream<'_> {
    stream.unary::<RowsBuilder, _, _, _>(Pipeline, "broadcast", move |_cap, _info| {
        move |input, output| {
            input.for_each(|cap, rows| {
                let mut session = output.session_with_builder(&cap);
                for batch in rows.0.drain(..) {
                    (0..workers).for_each(|_| session.give(batch.clone()));
                }
            });
        }
    })
}
