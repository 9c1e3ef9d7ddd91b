//! Lists, maps, and values that are folded, as operators use them.

use tidemill_sdk::native::{
    BatchRef, Column, ColumnRef, Entries, Entry, EntryReads, KeyedBatch, Keys, Now, OpError, OpenContext, with_entries,
};
use tidemill_sdk::prelude::*;
use tidemill_sdk::testing::TestDriver;

#[derive(Row, Clone, Copy)]
struct Step<'a> {
    k: i64,
    action: &'a str,
    entry: &'a str,
    n: i64,
}

#[derive(Row, Debug, PartialEq)]
struct Seen<'a> {
    map: &'a str,
    list: &'a str,
    empty: bool,
}

struct Most;

impl Reduce<i64> for Most {
    fn reduce(before: i64, added: i64) -> i64 {
        before.max(added)
    }
}

struct Mean;

impl Aggregate for Mean {
    type In = i64;
    type Accumulator = (i64, i64);
    type Out = f64;
    fn add((sum, count): &mut (i64, i64), value: i64) {
        (*sum, *count) = (*sum + value, *count + 1);
    }
    fn result((sum, count): (i64, i64)) -> f64 {
        sum as f64 / count as f64
    }
}

/// Does what its rows say, and shows all it knows.
#[derive(Keyed)]
struct Script {
    map: MapState<String, i64>,
    #[state(name = "trail", ttl = "1s")]
    list: ListState<String>,
    numbers: MapState<i16, bool>,
    most: ReducingState<i64, Most>,
    mean: AggregatingState<Mean>,
}

impl KeyedOperator for Script {
    type In<'a> = Step<'a>;
    type Out<'a> = Seen<'a>;

    fn process(&mut self, step: Step<'_>, ctx: &mut Context<Self>) -> Result<()> {
        let Step { action, entry, n, .. } = step;
        match action {
            "put" => self.map.put(entry, n),
            "remove" => self.map.remove(entry),
            "add" => self.list.add(entry.to_owned()),
            "update" => self.list.update([entry.to_owned(), entry.to_owned()]),
            "clear" => {
                self.map.clear();
                self.list.clear();
            }
            "get" => ensure!(self.map.get(entry) == Some(n), "{entry} is {:?}", self.map.get(entry)),
            "number" => self.numbers.put(&(n as i16), n > 0),
            "fold" => {
                self.most.add(n);
                self.mean.add(n);
            }
            "fail" => {
                self.map.put(entry, n);
                self.map.clear();
                self.map.put("other", n);
                self.list.add(entry.to_owned());
                self.list.clear();
                self.list.add(entry.to_owned());
                bail!("never mind");
            }
            _ => {}
        }
        let map: Vec<String> = self.map.entries().iter().map(|(key, value)| format!("{key}={value}")).collect();
        let list = self.list.get().join(",");
        ctx.emit(Seen { map: &map.join(","), list: &list, empty: self.map.is_empty() && self.list.is_empty() });
        Ok(())
    }
}

fn driver() -> TestDriver<Script> {
    TestDriver::<Script>::new().key(["k"]).open().unwrap()
}

fn step<'a>(action: &'a str, entry: &'a str, n: i64) -> Step<'a> {
    Step { k: 7, action, entry, n }
}

/// What is known after each of the steps: in one call, and in one call each.
fn check(steps: &[(Step<'_>, (&str, &str))]) {
    for at_once in [true, false] {
        let mut driver = driver();
        match at_once {
            true => driver.push_all(steps.iter().map(|(step, _)| (None, *step))),
            false => steps.iter().for_each(|(step, _)| driver.push(*step)),
        }
        let expected: Vec<Seen<'_>> = steps
            .iter()
            .filter(|(step, _)| step.action != "fail")
            .map(|(_, (map, list))| Seen { map, list, empty: map.is_empty() && list.is_empty() })
            .collect();
        assert_eq!(driver.rows(), expected, "all in one call: {at_once}");
    }
}

#[test]
fn a_call_reads_its_own_writes_and_those_before_it() {
    check(&[
        (step("look", "", 0), ("", "")),
        (step("put", "b", 2), ("b=2", "")),
        (step("put", "a", 1), ("a=1,b=2", "")),
        (step("get", "a", 1), ("a=1,b=2", "")),
        (step("add", "x", 0), ("a=1,b=2", "x")),
        (step("put", "a", 5), ("a=5,b=2", "x")),
        (step("remove", "b", 0), ("a=5", "x")),
        (step("add", "y", 0), ("a=5", "x,y")),
        (step("update", "z", 0), ("a=5", "z,z")),
        (step("clear", "", 0), ("", "")),
        (step("put", "c", 3), ("c=3", "")),
        (step("add", "w", 0), ("c=3", "w")),
    ]);
}

#[test]
fn a_row_that_fails_leaves_no_trace() {
    check(&[
        (step("put", "a", 1), ("a=1", "")),
        (step("add", "x", 0), ("a=1", "x")),
        (step("fail", "a", 9), ("", "")),
        (step("look", "", 0), ("a=1", "x")),
        (step("clear", "", 0), ("", "")),
        (step("fail", "b", 9), ("", "")),
        (step("put", "c", 1), ("c=1", "")),
    ]);
}

#[test]
fn keys_are_apart_and_states_can_be_looked_at() {
    let mut driver = driver();
    let other = |step: Step<'static>| (None, Step { k: 8, ..step });
    driver.push_all([(None, step("put", "a", 1)), other(step("put", "a", 2)), (None, step("add", "x", 0))]);
    driver.push_all([-3, 2, -300, 0].map(|n| (None, step("number", "", n))));
    driver.push_all([4, 9, 2].map(|n| (None, step("fold", "", n))));
    assert_eq!(driver.map::<String, i64>("map", 7), [("a".to_owned(), 1)]);
    assert_eq!(driver.map::<String, i64>("map", 8), [("a".to_owned(), 2)]);
    assert_eq!(driver.list::<String>("trail", 7), ["x"]);
    assert!(driver.list::<String>("trail", 8).is_empty());
    let numbers = driver.map::<i16, bool>("numbers", 7);
    assert_eq!(numbers, [(-300, false), (-3, false), (0, false), (2, true)], "in the order of numbers");
    assert_eq!((driver.state::<i64>("most", 7), driver.state::<(i64, i64)>("mean", 7)), (Some(9), Some((15, 3))));
    driver.push(step("clear", "", 0));
    driver.push(Step { k: 8, ..step("clear", "", 0) });
    assert_eq!(driver.keys().len(), 1, "a key without entries and values is forgotten");
}

#[test]
fn each_value_of_a_list_has_its_own_time() {
    let mut driver = driver();
    for (now, action, expected) in
        [(1000, "add", "x"), (1500, "add", "x,x"), (2000, "look", "x"), (2499, "look", "x"), (2500, "look", "")]
    {
        driver.processing_time(now);
        driver.push(step(action, "x", 0));
        assert_eq!(driver.rows().last().map(|row| row.list), Some(expected), "at {now}");
    }
}

#[test]
fn large_maps_come_in_pages() {
    let mut driver = driver();
    driver.push_all((0..3000).map(|n| (None, step("number", "", n))));
    driver.clear();
    driver.push(step("look", "", 0));
    assert_eq!(driver.map::<i16, bool>("numbers", 7).len(), 3000);
}

/// Version 1 had texts.
#[derive(Keyed)]
struct Later {
    #[state(version = 2, migrate(1 = Self::length))]
    list: ListState<u64>,
    #[state(version = 2, migrate(1 = Self::length))]
    map: MapState<String, u64>,
}

impl Later {
    fn length(old: String) -> Result<u64> {
        ensure!(!old.is_empty(), "nothing is stored for nothing");
        Ok(old.len() as u64)
    }
}

impl KeyedOperator for Later {
    type In<'a> = Step<'a>;
    type Out<'a> = Seen<'a>;

    fn process(&mut self, step: Step<'_>, _ctx: &mut Context<Self>) -> Result<()> {
        self.list.add(1);
        self.map.put(step.entry, 1);
        Ok(())
    }
}

#[test]
fn entries_are_migrated_value_by_value() {
    let mut later = Entry::of::<Later>().open(&OpenContext::default()).unwrap();
    let texts = |data: &str, offsets: [u32; 4]| Column {
        offsets: offsets.iter().flat_map(|offset| offset.to_le_bytes()).collect(),
        data: data.into(),
        validity: Vec::new(),
    };
    for state in ["list", "map"] {
        let migrated = later.migrate_state(state, 1, texts("aaabbc", [0, 3, 5, 6])).unwrap();
        assert_eq!(migrated.data, [3u64, 2, 1].iter().flat_map(|length| length.to_le_bytes()).collect::<Vec<u8>>());
        let failed = later.migrate_state(state, 1, texts("aaa", [0, 3, 3, 3]));
        let expected = format!("state `{state}` could not be migrated: nothing is stored for nothing");
        assert_eq!(failed, Err(OpError::Fatal(expected)));
        assert!(later.migrate_state(state, 2, Column::default()).is_err());
    }
}

#[derive(Row, Clone, Copy)]
struct Wish {
    entry: i64,
}

/// Adds up what the host has of the entries of its rows. Says before which these are, but for every tenth.
#[derive(Keyed)]
struct Adder {
    numbers: MapState<i64, i64>,
}

impl KeyedOperator for Adder {
    type In<'a> = Wish;
    type Out<'a> = Wish;

    fn prefetch(&mut self, wish: Wish) {
        if wish.entry % 10 > 0 {
            self.numbers.prefetch(&wish.entry);
        }
    }

    fn process(&mut self, wish: Wish, ctx: &mut Context<Self>) -> Result<()> {
        let found = self.numbers.get(&wish.entry).unwrap_or(-1);
        // It is known by now.
        self.numbers.prefetch(&wish.entry);
        self.numbers.put(&wish.entry, found + 1);
        ctx.emit(Wish { entry: self.numbers.get(&wish.entry).unwrap_or_default() });
        Ok(())
    }
}

/// A host that has the double of each even entry, and counts what it is asked for.
#[derive(Default)]
struct Doubles(Vec<usize>);

impl EntryReads for Doubles {
    fn get_many(&mut self, _state: u16, keys: &[u8], entries: &Column) -> std::result::Result<Column, String> {
        self.0.push(keys.len() / 4);
        let entries: Vec<i64> = entries.data.as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect();
        let mut validity = vec![0; entries.len().div_ceil(8)];
        entries.iter().enumerate().filter(|(_, n)| *n % 2 == 0).for_each(|(i, _)| validity[i / 8] |= 1 << (i % 8));
        let data = entries.iter().flat_map(|n| (n * 2).to_le_bytes()).collect();
        Ok(Column { validity, data, offsets: Vec::new() })
    }

    fn scan(&mut self, _: u16, _: &[u8], _: Option<&Column>, _: u32) -> std::result::Result<Entries, String> {
        Err("nobody asks for all".into())
    }
}

#[test]
fn entries_that_were_said_before_are_read_together() {
    let mut adder = Entry::of::<Adder>().open(&OpenContext::default()).unwrap();
    let wishes: Vec<i64> = (0..3000).chain(0..10).collect();
    let data: Vec<u8> = wishes.iter().flat_map(|n| n.to_le_bytes()).collect();
    // The last key has no entries, as its column says: nobody asks for them.
    let key_index: Vec<u8> = wishes.iter().flat_map(|n| (u32::from(*n == 77)).to_le_bytes()).collect();
    for round in 0..2 {
        let mut host = Doubles::default();
        let present = Column { data: vec![0b01], ..Column::default() };
        let batch = KeyedBatch {
            input: 0,
            rows: BatchRef {
                rows: wishes.len() as u32,
                times: &[],
                kinds: &[],
                columns: vec![ColumnRef { validity: &[], offsets: &[], data: &data }],
            },
            key_index: &key_index,
            keys: Keys { count: 2, columns: Vec::new(), states: vec![present] },
            now: Now { watermark: 0, processing: 0 },
        };
        let effects = with_entries(&mut host, || adder.process_keyed(batch)).unwrap();
        let said = 3000 - 300 - 1;
        let (together, alone): (Vec<usize>, Vec<usize>) = host.0.iter().partition(|count| **count > 1);
        assert_eq!((together.iter().sum::<usize>(), alone.len()), (said, 300), "round {round}");
        assert_eq!(together.len(), 3, "in lots of a bounded size");
        let emitted = &effects.outputs[0].rows.columns[0].data;
        let emitted: Vec<i64> = emitted.as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect();
        let first = |n: i64| if n % 2 == 0 { n * 2 + 1 } else { 0 };
        let expected: Vec<i64> = (0..3000).map(first).chain((0..10).map(|n| first(n) + 1)).collect();
        assert_eq!(emitted, expected, "round {round}");
    }
}

#[test]
fn the_descriptor_says_the_kinds() {
    let states = tidemill_sdk::native::Entry::of::<Script>().describe().states;
    let kinds: Vec<_> = states
        .iter()
        .map(|s| (s.name.as_str(), s.kind, s.entry_key.first().map(|k| k.type_name.as_str()), s.ttl))
        .collect();
    let expected = [
        ("map", "map", Some("utf8"), 0),
        ("trail", "list", None, 1000),
        ("numbers", "map", Some("int16"), 0),
        ("most", "value", None, 0),
        ("mean", "value", None, 0),
    ];
    assert_eq!(kinds, expected);
}
