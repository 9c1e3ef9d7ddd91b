//! Filters and maps under the test driver: side outputs, event times, row kinds, fatal errors.

use tidemill_sdk::native::{BatchRef, ColumnRef, Entry, Now, OpError, OpenContext};
use tidemill_sdk::prelude::*;
use tidemill_sdk::testing::TestDriver;

const NOW: Now = Now { watermark: 7, processing: 9 };

#[derive(Row, Debug, PartialEq, Clone, Copy)]
struct Number {
    n: i64,
}

#[derive(Filter)]
struct Even {
    above: i64,
    judged: Counter,
}

impl FilterOperator for Even {
    type In<'a> = Number;

    fn open(&mut self, config: &Config<'_>) -> Result<()> {
        self.above = config.get("above")?;
        Ok(())
    }

    fn keep(&mut self, row: Number) -> Result<bool> {
        self.judged.add(1);
        ensure!(row.n != 13, "13 brings bad luck");
        Ok(row.n % 2 == 0 && row.n > self.above)
    }
}

#[test]
fn a_filter_keeps_and_refuses() {
    let mut driver = TestDriver::<Even>::new().config("above", 4).open().unwrap();
    driver.push_all((0..20).map(|n| (None, Number { n })));
    driver.push(Number { n: 100 });
    let kept: Vec<i64> = driver.rows().iter().map(|row| row.n).collect();
    assert_eq!(kept, [6, 8, 10, 12, 14, 16, 18, 100]);
    assert_eq!((driver.errors().len(), driver.errors()[0].row), (1, Some(13)));
    assert_eq!(driver.counter("judged"), 21);
    let missing = TestDriver::<Even>::new().open().err();
    assert_eq!(missing, Some(OpError::Config("setting `above` is missing: it must be a whole number".into())));
}

#[derive(Row, Debug, PartialEq)]
#[row(carry)]
struct Same {}

#[derive(Ports, Debug, PartialEq)]
enum Routed {
    Doubled(Number),
    Odd(Same),
}

/// Emits `n` rows for n, marks odd numbers, stops at 99.
#[derive(Map)]
#[operator(time, changes)]
struct Route;

impl MapOperator for Route {
    type In<'a> = Number;
    type Out<'a> = Routed;

    fn process(&mut self, row: Number, ctx: &mut Context<Self>) -> Result<()> {
        if row.n == 99 {
            return Err(Error::fatal("99 is the end"));
        }
        assert_eq!((ctx.watermark(), ctx.processing_time()), (7, 9));
        if row.n % 2 == 1 {
            ctx.emit(Routed::Odd(Same {}));
        }
        for i in 0..row.n {
            match ctx.kind() {
                RowKind::Insert => ctx.emit(Routed::Doubled(Number { n: i * 2 })),
                kind => ctx.emit_as(kind, Routed::Doubled(Number { n: i })),
            }
        }
        if row.n == 5 {
            let time = ctx.timestamp().unwrap_or(0) + 1000;
            ctx.emit_at(Routed::Doubled(Number { n: 10 }), time);
        }
        ensure!(row.n != 4, "four");
        Ok(())
    }
}

fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn longs(values: &[i64]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn route(numbers: &[i64], kinds: &[u8]) -> Result<tidemill_sdk::native::Effects, OpError> {
    let data = longs(numbers);
    let times: Vec<u8> = longs(&(0..numbers.len() as i64).map(|i| i * 10).collect::<Vec<_>>());
    let column = ColumnRef { data: &data, ..ColumnRef::default() };
    let batch = BatchRef { rows: numbers.len() as u32, times: &times, kinds, columns: vec![column] };
    Entry::of::<Route>().open(&OpenContext::default())?.process(0, &batch, NOW)
}

#[test]
fn parents_times_and_kinds_are_given_only_where_they_differ() {
    let effects = route(&[1, 1, 1], &[]).unwrap();
    let shown: Vec<_> = effects.outputs.iter().map(|o| (o.port, o.rows.rows, o.parents.len())).collect();
    assert_eq!(shown, [(0, 3, 0), (1, 3, 0)], "row i comes from row i");
    assert!(effects.outputs[1].rows.columns.is_empty(), "a row without columns of its own");

    let effects = route(&[2, 4, 3, 0, 5], &[0, 0, 3, 0, 0]).unwrap();
    let main = &effects.outputs[0];
    assert_eq!(main.parents, words(&[0, 0, 2, 2, 2, 4, 4, 4, 4, 4, 4]));
    assert_eq!(main.rows.kinds, [0, 0, 3, 3, 3, 0, 0, 0, 0, 0, 0]);
    assert_eq!(main.rows.times, longs(&[0, 0, 20, 20, 20, 40, 40, 40, 40, 40, 1040]));
    assert_eq!(main.rows.columns[0].data, longs(&[0, 2, 0, 1, 2, 0, 2, 4, 6, 8, 10]));
    assert_eq!(effects.outputs[1].parents, words(&[2, 4]));
    assert_eq!((effects.errors.len(), effects.errors[0].row), (1, 1));
}

#[test]
fn a_failed_last_row_leaves_parents_and_kinds_of_the_others() {
    let effects = route(&[1, 1, 4], &[3, 0, 3]).unwrap();
    let main = &effects.outputs[0];
    assert_eq!((main.rows.rows, main.rows.kinds.as_slice()), (2, &[3, 0][..]));
    assert_eq!(main.parents, words(&[0, 1]), "three rows came in: parents must be said");
    assert_eq!(effects.errors[0].row, 2);
    let effects = route(&[1, 1, 0], &[]).unwrap();
    assert_eq!(effects.outputs[0].parents, words(&[0, 1]), "the last row gave none");
}

#[test]
fn a_fatal_error_ends_the_call_and_leaves_no_trace_in_the_next() {
    let mut operator = Entry::of::<Route>().open(&OpenContext::default()).unwrap();
    let mut call = |numbers: &[i64]| {
        let data = longs(numbers);
        let column = ColumnRef { data: &data, ..ColumnRef::default() };
        operator.process(0, &BatchRef { rows: numbers.len() as u32, columns: vec![column], ..BatchRef::default() }, NOW)
    };
    assert_eq!(call(&[3, 99]), Err(OpError::Fatal("99 is the end".into())));
    let effects = call(&[1]).unwrap();
    assert_eq!((effects.outputs[0].rows.rows, effects.errors.len()), (1, 0));
    let no_port = OpError::Fatal("the host sent a malformed call: there is no port 1".into());
    let mut operator = Entry::of::<Route>().open(&OpenContext::default()).unwrap();
    assert_eq!(operator.process(1, &BatchRef::default(), NOW), Err(no_port));
    assert!(operator.keep(0, &BatchRef::default(), NOW).is_err(), "a map is no filter");
}

tidemill_sdk::export!(Even, Route);

#[test]
fn operators_are_found_by_name() {
    let names: Vec<String> = tidemill_sdk::native::describe(OPERATORS).into_iter().map(|d| d.name).collect();
    assert_eq!(names, ["even", "route"]);
    let context = OpenContext { operator: "odd".into(), ..OpenContext::default() };
    let error = tidemill_sdk::native::open(OPERATORS, &context).err();
    assert_eq!(error, Some(OpError::Config("the component has no operator `odd`; it has: even, route".into())));
}
