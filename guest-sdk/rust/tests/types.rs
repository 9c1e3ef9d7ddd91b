//! Every column type: described, written, read back, null and not null, nested.

use tidemill_sdk::native::{Field, Instance, OpenContext};
use tidemill_sdk::prelude::*;
use tidemill_sdk::testing::TestDriver;

#[derive(Row, Clone, Debug, PartialEq)]
struct Point {
    x: i32,
    #[row(name = "y")]
    why: Option<f64>,
}

#[derive(Row, Clone, Debug, PartialEq)]
struct All<'a> {
    bool: bool,
    i8: i8,
    i16: i16,
    i32: i32,
    i64: i64,
    u8: u8,
    u16: u16,
    u32: u32,
    u64: u64,
    f32: f32,
    f64: f64,
    text: &'a str,
    string: String,
    bytes: &'a [u8],
    buffer: Vec<u8>,
    at: Timestamp,
    at_s: TimestampS,
    at_us: TimestampUs,
    at_ns: TimestampNs,
    day: Date,
    price: Decimal128<10, 2>,
    maybe: Option<i64>,
    maybe_text: Option<&'a str>,
    maybe_bool: Option<bool>,
    numbers: Vec<i64>,
    names: Vec<Option<String>>,
    point: Point,
    maybe_point: Option<Point>,
    path: Vec<Point>,
    table: Option<Vec<Vec<u16>>>,
    maybe_bytes: Option<Vec<u8>>,
}

fn sample(seed: i64, text: &str) -> All<'_> {
    let odd = seed % 2 == 1;
    let point = Point { x: seed as i32, why: odd.then_some(seed as f64 / 2.0) };
    All {
        bool: odd,
        i8: seed as i8,
        i16: -seed as i16,
        i32: seed as i32 * 1000,
        i64: i64::MIN + seed,
        u8: 255 - seed as u8,
        u16: seed as u16,
        u32: u32::MAX - seed as u32,
        u64: u64::MAX - seed as u64,
        f32: seed as f32 * 0.5,
        f64: -seed as f64 * 0.25,
        text,
        string: format!("{text}{seed}"),
        bytes: &text.as_bytes()[..seed as usize % (text.len() + 1)],
        buffer: vec![seed as u8; seed as usize],
        at: Timestamp(seed),
        at_s: TimestampS(seed * 2),
        at_us: TimestampUs(seed * 3),
        at_ns: TimestampNs(-seed),
        day: Date(seed as i32 - 3),
        price: Decimal128(i128::from(seed) << 70),
        maybe: odd.then_some(seed),
        maybe_text: (!odd).then_some(text),
        maybe_bool: (seed % 3 > 0).then_some(odd),
        numbers: (0..seed).collect(),
        names: (0..seed).map(|n| (n % 2 == 0).then(|| format!("n{n}"))).collect(),
        point: point.clone(),
        maybe_point: odd.then(|| point.clone()),
        path: vec![point; seed as usize % 4],
        table: (seed % 3 > 0).then(|| vec![vec![1, 2, seed as u16]; seed as usize % 3]),
        maybe_bytes: odd.then(|| vec![7; 2]),
    }
}

/// Sends every row on as it is; fails rows whose `i32` is the configured one.
#[derive(Map)]
struct Echo {
    refused: i32,
}

impl MapOperator for Echo {
    type In<'a> = All<'a>;
    type Out<'a> = All<'a>;

    fn open(&mut self, config: &Config<'_>) -> Result<()> {
        self.refused = config.get_or("refused", -1)?;
        Ok(())
    }

    fn process(&mut self, row: All<'_>, ctx: &mut Context<Self>) -> Result<()> {
        let refused = row.i32 == self.refused;
        ctx.emit(row);
        ensure!(!refused, "refused");
        Ok(())
    }
}

#[test]
fn all_types_survive_the_crossing() {
    let mut driver = TestDriver::<Echo>::new().open().unwrap();
    let rows: Vec<All<'_>> = (0..20).map(|seed| sample(seed, "zwölf")).collect();
    driver.push_all(rows.iter().cloned().map(|row| (None, row)));
    assert_eq!(driver.rows(), rows);
}

#[test]
fn what_a_failed_row_has_emitted_is_taken_back_in_every_type() {
    for refused in 0..20 {
        let mut driver = TestDriver::<Echo>::new().config("refused", refused * 1000).open().unwrap();
        driver.push_all((0..20).map(|seed| (None, sample(seed, "é"))));
        let expected: Vec<All<'_>> = (0..20).filter(|s| *s != refused).map(|seed| sample(seed, "é")).collect();
        assert_eq!(driver.rows(), expected, "without row {refused}");
        assert_eq!(driver.errors().len(), 1);
        assert_eq!((driver.errors()[0].row, driver.errors()[0].message.as_str()), (Some(refused as usize), "refused"));
    }
}

fn shown(fields: &[Field]) -> String {
    let show = |f: &Field| {
        let mark = if f.nullable { "?" } else { "" };
        let children = if f.children > 0 { format!("/{}", f.children) } else { String::new() };
        format!("{}:{}{mark}{children}", f.name, f.type_name)
    };
    fields.iter().map(show).collect::<Vec<_>>().join(" ")
}

#[test]
fn fields_are_described_in_pre_order() {
    assert_eq!(
        shown(&All::fields()),
        "bool:bool i8:int8 i16:int16 i32:int32 i64:int64 u8:uint8 u16:uint16 u32:uint32 u64:uint64 f32:float32 \
         f64:float64 text:utf8 string:utf8 bytes:binary buffer:binary at:timestamp(ms) at_s:timestamp(s) \
         at_us:timestamp(us) at_ns:timestamp(ns) day:date price:decimal128(10,2) maybe:int64? maybe_text:utf8? \
         maybe_bool:bool? numbers:list/1 item:int64 names:list/1 item:utf8? point:struct/2 x:int32 y:float64? \
         maybe_point:struct?/2 x:int32 y:float64? path:list/1 item:struct/2 x:int32 y:float64? \
         table:list?/1 item:list/1 item:uint16 maybe_bytes:binary?"
    );
}

#[derive(Row)]
struct Borrowed<'a> {
    points: List<'a, Point>,
    names: List<'a, &'a str>,
}

#[derive(Row, Debug, PartialEq)]
struct Sums {
    points: i64,
    letters: u64,
    first: Option<i32>,
}

#[derive(Map)]
struct Sum;

impl MapOperator for Sum {
    type In<'a> = Borrowed<'a>;
    type Out<'a> = Sums;

    fn process(&mut self, row: Borrowed<'_>, ctx: &mut Context<Self>) -> Result<()> {
        let points = row.points.iter().map(|p| i64::from(p.x)).sum();
        let letters = row.names.iter().map(|n| n.len() as u64).sum();
        ctx.emit(Sums { points, letters, first: row.points.get(0).map(|p| p.x) });
        Ok(())
    }
}

/// Hand-made columns, also unaligned ones: what the host may send.
#[test]
fn lists_are_read_in_place_and_buffers_need_no_alignment() {
    use tidemill_sdk::native::{BatchRef, ColumnRef, Entry, Now};
    let ints = |values: &[i32]| -> Vec<u8> {
        // One byte in front makes the buffer unaligned for every width.
        [vec![0], values.iter().flat_map(|v| v.to_le_bytes()).collect()].concat()
    };
    let (list, x, names, text) = (ints(&[0, 2, 2]), ints(&[5, 6]), ints(&[0, 1, 3]), ints(&[0, 2, 2, 5]));
    let y: Vec<u8> = vec![0; 16];
    let columns = vec![
        ColumnRef { offsets: &list[1..], ..ColumnRef::default() },
        ColumnRef::default(),
        ColumnRef { data: &x[1..], ..ColumnRef::default() },
        ColumnRef { validity: &[0], data: &y, ..ColumnRef::default() },
        ColumnRef { offsets: &names[1..], ..ColumnRef::default() },
        ColumnRef { offsets: &text[1..], data: b"abcde", ..ColumnRef::default() },
    ];
    let context = OpenContext { operator: "sum".into(), ..OpenContext::default() };
    let mut operator: Box<dyn Instance> = Entry::of::<Sum>().open(&context).unwrap();
    let batch = BatchRef { rows: 2, columns: columns.clone(), ..BatchRef::default() };
    let effects = operator.process(0, &batch, Now { watermark: 0, processing: 0 }).unwrap();
    let out = &effects.outputs[0].rows;
    assert_eq!(out.columns[0].data, [11i64.to_le_bytes(), 0i64.to_le_bytes()].concat());
    assert_eq!(out.columns[1].data, [2u64.to_le_bytes(), 3u64.to_le_bytes()].concat());
    assert_eq!((out.columns[2].validity.as_slice(), effects.outputs[0].parents.as_slice()), (&[1][..], &[][..]));

    let short = BatchRef { rows: 2, columns: columns[..5].to_vec(), ..BatchRef::default() };
    let error = operator.process(0, &short, Now { watermark: 0, processing: 0 }).unwrap_err();
    assert_eq!(error.to_string(), "the host sent a malformed call: columns are missing");
    let long = BatchRef { rows: 3, columns, ..BatchRef::default() };
    let error = operator.process(0, &long, Now { watermark: 0, processing: 0 }).unwrap_err();
    assert!(error.to_string().starts_with("the host sent a malformed call: a buffer has"), "{error}");
}
