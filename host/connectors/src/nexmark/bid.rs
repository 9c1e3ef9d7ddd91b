//! Bids.

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;

use super::events::{
    FIRST_AUCTION_ID, FIRST_PERSON_ID, HOT_ID_STEP, any_auction, any_person, last_auction, last_person,
};
use super::table::{Context, EventColumn, TIME, date_time, ints, letters};
use crate::random::{Random, below};
use crate::texts::{Dictionary, Letters};

pub(super) fn columns() -> Vec<EventColumn> {
    vec![
        EventColumn { name: "auction", data_type: DataType::Int64, make: auction },
        EventColumn { name: "bidder", data_type: DataType::Int64, make: bidder },
        EventColumn { name: "price", data_type: DataType::Int64, make: price },
        EventColumn { name: "channel", data_type: DataType::Utf8, make: channel },
        EventColumn { name: "url", data_type: DataType::Utf8, make: url },
        EventColumn { name: "date_time", data_type: TIME, make: date_time },
        // 100 bytes per bid on average, less the 32 of its numbers, give or take a fifth.
        EventColumn { name: "extra", data_type: DataType::Utf8, make: |c, n| letters(c, n, "bid.extra", 54, 28) },
    ]
}

/// Every second bid is for the hot auction.
fn auction(context: &Context, events: &[u64]) -> ArrayRef {
    let random = context.random("bid.auction");
    ints(events, |n| {
        let bits = random.at(n);
        let hot = last_auction(n) / HOT_ID_STEP * HOT_ID_STEP;
        let any = any_auction(n, bits);
        FIRST_AUCTION_ID + if bits & 1 == 1 { hot } else { any } as i64
    })
}

/// Three of four bids are made by the hot bidder, who is not the hot seller.
fn bidder(context: &Context, events: &[u64]) -> ArrayRef {
    let random = context.random("bid.bidder");
    ints(events, |n| {
        let bits = random.at(n);
        let hot = last_person(n) / HOT_ID_STEP * HOT_ID_STEP + 1;
        let any = any_person(n, bits);
        FIRST_PERSON_ID + if bits & 3 > 0 { hot } else { any } as i64
    })
}

fn price(context: &Context, events: &[u64]) -> ArrayRef {
    let random = context.random("bid.price");
    ints(events, |n| context.prices.at(random.at(n)))
}

fn channel(context: &Context, events: &[u64]) -> ArrayRef {
    context.channels.column(context, events, &context.channels.names)
}

fn url(context: &Context, events: &[u64]) -> ArrayRef {
    context.channels.column(context, events, &context.channels.urls)
}

/// Where bids come from: half of them from four hot channels, the others from 10,000.
pub(super) struct Channels {
    names: Dictionary,
    urls: Dictionary,
}

const HOT_CHANNELS: [&str; 4] = ["Google", "Facebook", "Baidu", "Apple"];
const COLD_CHANNELS: u64 = 10_000;

impl Channels {
    pub(super) fn new(seed: u64, letters: &Letters) -> Self {
        let random = Random::new(seed, "bid.url");
        let base = |i: u64| {
            let part = |k: u64| String::from_utf8_lossy(letters.cut(random.at(i * 4 + k), 5)).into_owned();
            format!("https://www.nexmark.com/{}/{}/{}/item.htm?query=1", part(0), part(1), part(2))
        };
        // Nine of ten urls name their channel.
        let cold = |i: u64| match random.at(i * 4 + 3) {
            bits if below(bits, 10) > 0 => format!("{}&channel_id={}", base(i), (bits as u32).reverse_bits() >> 1),
            _ => base(i),
        };
        let hot = HOT_CHANNELS.len() as u64;
        Self {
            names: HOT_CHANNELS
                .iter()
                .map(|name| (*name).to_owned())
                .chain((0..COLD_CHANNELS).map(|i| format!("channel-{i}")))
                .collect(),
            urls: (0..hot).map(base).chain((0..COLD_CHANNELS).map(|i| cold(hot + i))).collect(),
        }
    }

    fn column(&self, context: &Context, events: &[u64], texts: &Dictionary) -> ArrayRef {
        let random = context.random("bid.channel");
        let hot = HOT_CHANNELS.len() as u64;
        let index = |n: u64| {
            let bits = random.at(n);
            if bits & 1 == 1 { below(bits, hot) } else { hot + below(bits, COLD_CHANNELS) }
        };
        texts.column(events.len(), events.iter().map(|&n| index(n) as usize))
    }
}
