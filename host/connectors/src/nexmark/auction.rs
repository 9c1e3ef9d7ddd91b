//! Auctions.

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;

use super::events::{
    AUCTIONS_IN_FLIGHT, AUCTIONS_PER_EPOCH, CATEGORIES, EVENTS_PER_EPOCH, FIRST_AUCTION_ID, FIRST_CATEGORY_ID,
    FIRST_PERSON_ID, HOT_ID_STEP, any_person, last_auction, last_person,
};
use super::table::{Context, EventColumn, TIME, date_time, ints, letters, times};
use crate::random::below;

pub(super) fn columns() -> Vec<EventColumn> {
    vec![
        EventColumn { name: "id", data_type: DataType::Int64, make: id },
        EventColumn { name: "item_name", data_type: DataType::Utf8, make: |c, n| letters(c, n, "auction.item", 3, 17) },
        EventColumn {
            name: "description",
            data_type: DataType::Utf8,
            make: |c, n| letters(c, n, "auction.text", 3, 97),
        },
        EventColumn { name: "initial_bid", data_type: DataType::Int64, make: initial_bid },
        EventColumn { name: "reserve", data_type: DataType::Int64, make: reserve },
        EventColumn { name: "date_time", data_type: TIME, make: date_time },
        EventColumn { name: "expires", data_type: TIME, make: expires },
        EventColumn { name: "seller", data_type: DataType::Int64, make: seller },
        EventColumn { name: "category", data_type: DataType::Int64, make: category },
        // 500 bytes per auction on average with its other columns, give or take a fifth.
        EventColumn { name: "extra", data_type: DataType::Utf8, make: |c, n| letters(c, n, "auction.extra", 304, 152) },
    ]
}

fn id(_: &Context, events: &[u64]) -> ArrayRef {
    ints(events, |n| FIRST_AUCTION_ID + last_auction(n) as i64)
}

fn initial_bid(context: &Context, events: &[u64]) -> ArrayRef {
    let random = context.random("auction.initial_bid");
    ints(events, |n| context.prices.at(random.at(n)))
}

fn reserve(context: &Context, events: &[u64]) -> ArrayRef {
    let (initial, more) = (context.random("auction.initial_bid"), context.random("auction.reserve"));
    ints(events, |n| context.prices.at(initial.at(n)) + context.prices.at(more.at(n)))
}

/// An auction lasts as long as it takes until so many others have begun, on average.
fn expires(context: &Context, events: &[u64]) -> ArrayRef {
    let (random, clock) = (context.random("auction.expires"), context.clock);
    times(events, |n| {
        let now = clock.at(n);
        let horizon_ms = clock.at(n + AUCTIONS_IN_FLIGHT * EVENTS_PER_EPOCH / AUCTIONS_PER_EPOCH) - now;
        now + 1 + below(random.at(n), (horizon_ms as u64 * 2).max(1)) as i64
    })
}

/// Three of four auctions are the hot seller's.
fn seller(context: &Context, events: &[u64]) -> ArrayRef {
    let random = context.random("auction.seller");
    ints(events, |n| {
        let bits = random.at(n);
        let hot = last_person(n) / HOT_ID_STEP * HOT_ID_STEP;
        FIRST_PERSON_ID + if bits & 3 > 0 { hot } else { any_person(n, bits) } as i64
    })
}

fn category(context: &Context, events: &[u64]) -> ArrayRef {
    let random = context.random("auction.category");
    ints(events, |n| FIRST_CATEGORY_ID + below(random.at(n), CATEGORIES) as i64)
}
