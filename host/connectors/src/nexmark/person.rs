//! Persons.

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;

use super::events::{FIRST_PERSON_ID, last_person};
use super::table::{Context, EventColumn, TIME, choose, date_time, ints, letters};
use crate::random::below;
use crate::texts::{Dictionary, Texts};

pub(super) fn columns() -> Vec<EventColumn> {
    vec![
        EventColumn { name: "id", data_type: DataType::Int64, make: |_, events| ints(events, id) },
        EventColumn {
            name: "name",
            data_type: DataType::Utf8,
            make: |c, n| choose(n, &c.people.names, c.random("person.name")),
        },
        EventColumn { name: "email_address", data_type: DataType::Utf8, make: email },
        EventColumn { name: "credit_card", data_type: DataType::Utf8, make: credit_card },
        EventColumn {
            name: "city",
            data_type: DataType::Utf8,
            make: |c, n| choose(n, &c.people.cities, c.random("person.city")),
        },
        EventColumn {
            name: "state",
            data_type: DataType::Utf8,
            make: |c, n| choose(n, &c.people.states, c.random("person.state")),
        },
        EventColumn { name: "date_time", data_type: TIME, make: date_time },
        // 200 bytes per person on average with its other columns, give or take a fifth.
        EventColumn { name: "extra", data_type: DataType::Utf8, make: |c, n| letters(c, n, "person.extra", 96, 48) },
    ]
}

fn id(n: u64) -> i64 {
    FIRST_PERSON_ID + last_person(n) as i64
}

/// The names that the reference generator uses.
pub(super) struct People {
    names: Dictionary,
    cities: Dictionary,
    states: Dictionary,
}

const FIRST_NAMES: [&str; 11] =
    ["Peter", "Paul", "Luke", "John", "Saul", "Vicky", "Kate", "Julie", "Sarah", "Deiter", "Walter"];
const LAST_NAMES: [&str; 9] = ["Shultz", "Abrams", "Spencer", "White", "Bartels", "Walton", "Smith", "Jones", "Noris"];
const CITIES: [&str; 10] =
    ["Phoenix", "Los Angeles", "San Francisco", "Boise", "Portland", "Bend", "Redmond", "Seattle", "Kent", "Cheyenne"];
const STATES: [&str; 6] = ["AZ", "CA", "ID", "OR", "WA", "WY"];

impl People {
    pub(super) fn new() -> Self {
        let with = |first: &'static str| LAST_NAMES.iter().map(move |last| format!("{first} {last}"));
        Self {
            names: FIRST_NAMES.iter().flat_map(|first| with(first)).collect(),
            cities: CITIES.iter().collect(),
            states: STATES.iter().collect(),
        }
    }
}

fn email(context: &Context, events: &[u64]) -> ArrayRef {
    let random = context.random("person.email");
    let mut texts = Texts::new(events.len(), events.len() * 20);
    for &n in events {
        let bits = random.at(n);
        texts.values.extend_from_slice(context.letters.cut(bits, 3 + below(bits, 5) as usize));
        texts.values.push(b'@');
        texts.values.extend_from_slice(context.letters.cut(bits >> 32, 3 + (bits >> 61) as usize % 3));
        texts.push(b".com");
    }
    texts.finish()
}

fn credit_card(context: &Context, events: &[u64]) -> ArrayRef {
    let random = context.random("person.credit_card");
    let mut texts = Texts::new(events.len(), events.len() * 19);
    for &n in events {
        // Sixteen digits in four groups.
        let mut number = below(random.at(n), 10_000_000_000_000_000);
        let mut text = [b' '; 19];
        for place in (0..19).rev().filter(|place| place % 5 != 4) {
            text[place] = b'0' + (number % 10) as u8;
            number /= 10;
        }
        texts.push(&text);
    }
    texts.finish()
}
