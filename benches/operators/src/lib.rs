//! Operators over Nexmark's bids for the benchmarks: a filter, a map, keyed counts, a flat-map.
//!
//! Natively they are reached through `OPERATORS`, so that WASM and native runs share every line.

use tidemill_sdk::prelude::*;

#[derive(Row)]
struct Auction {
    auction: i64,
}

/// Bids on every 123rd auction (Nexmark query 2).
#[derive(Filter)]
#[operator(name = "filter")]
struct Every123rd;

impl FilterOperator for Every123rd {
    type In<'a> = Auction;

    fn keep(&mut self, bid: Auction) -> Result<bool> {
        Ok(bid.auction % 123 == 0)
    }
}

#[derive(Row)]
struct Bid {
    auction: i64,
    price: i64,
}

#[derive(Row)]
#[row(carry)]
struct Computed {
    euros: f64,
    bucket: i64,
}

/// Price in euros (Nexmark query 1) and a bucket of auctions, beside all columns of the bid.
#[derive(Map)]
#[operator(name = "map")]
struct Euros;

impl MapOperator for Euros {
    type In<'a> = Bid;
    type Out<'a> = Computed;

    fn process(&mut self, bid: Bid, ctx: &mut Context<Self>) -> Result<()> {
        ctx.emit(Computed { euros: bid.price as f64 * 0.908, bucket: bid.auction % 1000 });
        Ok(())
    }
}

#[derive(Row)]
struct Count {
    auction: i64,
    count: i64,
}

/// Bids per auction so far, for each bid.
#[derive(Keyed)]
#[operator(name = "count")]
struct CountBids {
    count: Value<i64>,
}

impl KeyedOperator for CountBids {
    type In<'a> = Auction;
    type Out<'a> = Count;

    fn process(&mut self, bid: Auction, ctx: &mut Context<Self>) -> Result<()> {
        let count = self.count.get_or_default() + 1;
        self.count.set(count);
        ctx.emit(Count { auction: bid.auction, count });
        Ok(())
    }
}

/// Bids per auction and price so far, for each bid, in a map per auction.
#[derive(Keyed)]
#[operator(name = "entries")]
struct CountPrices {
    counts: MapState<i64, i64>,
}

impl KeyedOperator for CountPrices {
    type In<'a> = Bid;
    type Out<'a> = Count;

    fn process(&mut self, bid: Bid, ctx: &mut Context<Self>) -> Result<()> {
        let count = self.counts.get(&bid.price).unwrap_or(0) + 1;
        self.counts.put(&bid.price, count);
        ctx.emit(Count { auction: bid.auction, count });
        Ok(())
    }
}

/// The same, but what it will read it says before.
#[derive(Keyed)]
#[operator(name = "entries_prefetched")]
struct CountPricesAhead {
    counts: MapState<i64, i64>,
}

impl KeyedOperator for CountPricesAhead {
    type In<'a> = Bid;
    type Out<'a> = Count;

    fn prefetch(&mut self, bid: Bid) {
        self.counts.prefetch(&bid.price);
    }

    fn process(&mut self, bid: Bid, ctx: &mut Context<Self>) -> Result<()> {
        let count = self.counts.get(&bid.price).unwrap_or(0) + 1;
        self.counts.put(&bid.price, count);
        ctx.emit(Count { auction: bid.auction, count });
        Ok(())
    }
}

/// Rows out per row in of `amplify`.
const AMPLIFICATION: i64 = 100;

#[derive(Row)]
#[row(carry)]
struct Copy {
    copy: i64,
}

/// A hundred rows out per row in, for tests of flow control.
#[derive(Map)]
#[operator(name = "amplify")]
struct Amplify;

impl MapOperator for Amplify {
    type In<'a> = Auction;
    type Out<'a> = Copy;

    fn process(&mut self, _bid: Auction, ctx: &mut Context<Self>) -> Result<()> {
        for copy in 0..AMPLIFICATION {
            ctx.emit(Copy { copy });
        }
        Ok(())
    }
}

tidemill_sdk::export!(Every123rd, Euros, CountBids, CountPrices, CountPricesAhead, Amplify);
