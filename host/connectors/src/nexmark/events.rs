//! The sequence of events: which kind event `n` has, which ids exist by then, and when it happens.

use crate::random::{Divisor, below};

/// Of 50 events one is a person, three are auctions, the others are bids, in this order.
pub(super) const EVENTS_PER_EPOCH: u64 = 50;
pub(super) const PERSONS_PER_EPOCH: u64 = 1;
pub(super) const AUCTIONS_PER_EPOCH: u64 = 3;
pub(super) const BIDS_PER_EPOCH: u64 = 46;

pub(super) const FIRST_PERSON_ID: i64 = 1000;
pub(super) const FIRST_AUCTION_ID: i64 = 1000;
pub(super) const FIRST_CATEGORY_ID: i64 = 10;
pub(super) const CATEGORIES: u64 = 5;
/// Auctions that still take bids, and persons that still do something.
pub(super) const AUCTIONS_IN_FLIGHT: u64 = 100;
const PERSONS_ACTIVE: u64 = 1000;
/// References may be this far ahead of what exists: late rows in real systems do that.
const AUCTION_ID_LEAD: u64 = 10;
const PERSON_ID_LEAD: u64 = 10;
/// One id in so many is hot.
pub(super) const HOT_ID_STEP: u64 = 100;

/// Number of the `k`-th person, auction or bid in the sequence of all events.
pub(super) fn person_event(k: u64) -> u64 {
    k * EVENTS_PER_EPOCH
}

pub(super) fn auction_event(k: u64) -> u64 {
    k / AUCTIONS_PER_EPOCH * EVENTS_PER_EPOCH + PERSONS_PER_EPOCH + k % AUCTIONS_PER_EPOCH
}

pub(super) fn bid_event(k: u64) -> u64 {
    k / BIDS_PER_EPOCH * EVENTS_PER_EPOCH + PERSONS_PER_EPOCH + AUCTIONS_PER_EPOCH + k % BIDS_PER_EPOCH
}

/// Ids here count from 0. The person that event `n` is, or the last one before it.
#[inline(always)]
pub(super) fn last_person(n: u64) -> u64 {
    n / EVENTS_PER_EPOCH
}

/// The auction that event `n` (not the first event, which is a person) is, or the last one before it.
#[inline(always)]
pub(super) fn last_auction(n: u64) -> u64 {
    let (epoch, offset) = (n / EVENTS_PER_EPOCH, n % EVENTS_PER_EPOCH);
    // Auctions so far: those of the epochs before, and of this one up to `n`.
    let in_epoch = offset.min(AUCTIONS_PER_EPOCH);
    (epoch * AUCTIONS_PER_EPOCH + in_epoch).saturating_sub(1)
}

/// Some person that is active at event `n`.
#[inline(always)]
pub(super) fn any_person(n: u64, random: u64) -> u64 {
    let persons = last_person(n) + 1;
    let active = persons.min(PERSONS_ACTIVE);
    persons - active + below(random, active + PERSON_ID_LEAD)
}

/// Some auction that is in flight at event `n`.
#[inline(always)]
pub(super) fn any_auction(n: u64, random: u64) -> u64 {
    let last = last_auction(n);
    let first = last.saturating_sub(AUCTIONS_IN_FLIGHT);
    first + below(random, last - first + 1 + AUCTION_ID_LEAD)
}

/// Event time: events follow each other at a constant rate.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    base_ms: i64,
    rate: Divisor,
}

impl Clock {
    /// `rate`: events per second of event time, at least 1.
    pub(super) fn new(base_ms: i64, rate: u64) -> Self {
        Self { base_ms, rate: Divisor::new(rate) }
    }

    #[inline(always)]
    pub(super) fn at(self, n: u64) -> i64 {
        self.base_ms.wrapping_add(self.rate.divide(n.wrapping_mul(1000)).0 as i64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_events_partition_the_sequence() {
        let mut all: Vec<u64> = (0..20).map(person_event).collect();
        all.extend((0..60).map(auction_event));
        all.extend((0..920).map(bid_event));
        all.sort_unstable();
        assert_eq!(all, (0..1000).collect::<Vec<_>>());
        for k in 0..1000 {
            assert_eq!(last_person(person_event(k)), k);
            assert_eq!(last_auction(auction_event(k)), k);
        }
        assert_eq!(last_auction(50), 2, "a person comes before the auctions of its epoch");
        assert_eq!(last_auction(99), 5);
    }
}
