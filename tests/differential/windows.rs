//! Windows of all kinds with triggers, lateness and late rows. A case is a line: settings, `|`, rows `KEY@TIME=VALUE` and watermarks `w@TIME`.
//!
//! `TIDEMILL_WINDOW_CASES` is the number of cases (default: 300), `TIDEMILL_WINDOW_SEED` what is random.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimestampMillisecondType};
use tidemill_engine::driver::{Driver, Input, one_operator};
use tidemill_engine::windows::window;
use tidemill_model::logic::TimeDomain;
use tidemill_model::plan::EventTimeSpec;
use tidemill_model::time::WatermarkStrategy;
use tidemill_model::window::{Fires, Gap, Trigger, WindowSpec, Windows};

use crate::flink::Flink;

/// Cases of one job of Flink's.
const TOGETHER: usize = 50;

#[test]
fn windows_give_what_flinks_give() {
    let mut flink = match Flink::start("Windows", &["flink-dist-", "log4j-"]) {
        Ok(flink) => flink,
        // Not by `eprintln!`, which is kept from view when the test passes.
        Err(why) => {
            let _ = writeln!(std::io::stderr(), "windows are not compared with Flink: {why}");
            return;
        }
    };
    let number = |name: &str, default| std::env::var(name).map_or(default, |text| text.parse().expect("a number"));
    let (cases, seed) = (number("TIDEMILL_WINDOW_CASES", 300), number("TIDEMILL_WINDOW_SEED", 1));
    let mut chance = Chance(seed);
    let (mut compared, mut rows) = (0, 0);
    while compared < cases {
        let mut lines: Vec<String> = (0..TOGETHER.min((cases - compared) as usize)).map(|_| chance.case()).collect();
        lines.retain(|line| !flink_forgets(line));
        for (line, theirs) in lines.iter().zip(asked(&mut flink, &lines)) {
            compared += 1;
            rows += theirs.split(' ').count();
            // What fires again fires once per batch: only rows that come one by one do as Flink's.
            let sizes: &[usize] = if line.contains("lateness") { &[1] } else { &[1, 1000] };
            for &size in sizes {
                if ours(line, size) != theirs {
                    let small = shrunk(line, size, &mut flink);
                    let theirs = asked(&mut flink, std::slice::from_ref(&small)).remove(0);
                    let ours = ours(&small, size);
                    panic!(
                        "{small}\n  Flink:    {theirs}\n  Tidemill: {ours}\n  (batches of {size} rows, from: {line})"
                    );
                }
            }
        }
    }
    let _ = writeln!(std::io::stderr(), "{compared} cases of windows compared with Flink (seed {seed}): {rows} rows");
}

fn asked(flink: &mut Flink, cases: &[String]) -> Vec<String> {
    flink.run(cases).iter().map(|answer| in_order(answer)).collect()
}

/// The rows of each key by window: which of several that are due at one time comes first is nobody's promise.
fn in_order(answer: &str) -> String {
    let of_key = |text: &str| {
        let mut words: Vec<&str> = text.split(' ').collect();
        if !words[0].ends_with("_late") {
            words[1..].sort_by_key(|word| word.split_once(')').map(|(window, _)| window));
        }
        words.join(" ")
    };
    answer.split("; ").map(of_key).collect::<Vec<_>>().join("; ")
}

/// The same case with fewer rows, as long as it differs.
fn shrunk(line: &str, size: usize, flink: &mut Flink) -> String {
    let mut small = line.to_owned();
    loop {
        let (settings, rows) = small.split_once('|').expect("a case");
        let rows: Vec<&str> = rows.split_whitespace().collect();
        let without = |skip: usize| {
            let rest: Vec<&str> = rows.iter().enumerate().filter(|row| row.0 != skip).map(|row| *row.1).collect();
            format!("{settings}| {}", rest.join(" "))
        };
        if rows.len() < 2 {
            return small;
        }
        let fewer: Vec<String> = (0..rows.len()).map(without).filter(|line| !flink_forgets(line)).collect();
        let answers = asked(flink, &fewer);
        match fewer.iter().zip(answers).find(|(case, theirs)| ours(case, size) != *theirs) {
            Some((case, _)) => small = case.clone(),
            None => return small,
        }
    }
}

/// Whether Flink loses rows (`MergingWindowSet.addWindow`): where gaps differ, the window of a row alone may be the same as that of a session
/// that several windows have become. Then it forgets where the state of the session is, and begins with nothing.
fn flink_forgets(line: &str) -> bool {
    let (settings, rows) = line.split_once('|').expect("a case");
    if !settings.contains("dynamic") {
        return false;
    }
    let lateness = spec(settings).allowed_lateness_ms;
    let mut watermark = i64::MIN;
    // By key: start and end of each session, and of the window that its state is kept under.
    let mut sessions = BTreeMap::<&str, Vec<((i64, i64), (i64, i64))>>::new();
    for word in rows.split_whitespace() {
        let (key, rest) = word.split_once('@').expect("a row");
        if key == "w" {
            watermark = watermark.max(rest.parse().expect("a time"));
            for sessions in sessions.values_mut() {
                sessions.retain(|(window, _)| window.1 - 1 + lateness > watermark);
            }
            continue;
        }
        let (time, value) = rest.split_once('=').expect("a value");
        let time: i64 = time.parse().expect("a time");
        let own = (time, time + value.parse::<i64>().expect("a value") + 1);
        let sessions = sessions.entry(key).or_default();
        if sessions.iter().any(|(window, state)| *window == own && *state != own) {
            return true;
        }
        let (touched, mut rest): (Vec<_>, Vec<_>) =
            sessions.iter().copied().partition(|(window, _)| window.0 <= own.1 && window.1 >= own.0);
        let merged = touched.iter().fold(own, |all, (window, _)| (all.0.min(window.0), all.1.max(window.1)));
        if merged.1 - 1 + lateness > watermark {
            // Which of several states stays is open: if they differ, this one may be the other.
            let state = touched.iter().map(|(_, state)| *state).find(|state| *state != merged);
            rest.push((merged, state.unwrap_or(merged)));
        }
        *sessions = rest;
    }
    false
}

/// What Tidemill gives for a case, with batches of `size` rows at most.
fn ours(line: &str, size: usize) -> String {
    let (settings, rows) = line.split_once('|').expect("a case");
    let spec = spec(settings);
    let bounded = spec.windows.bounded();
    let schema: SchemaRef = Arc::new(Schema::new(vec![
        Field::new("k", DataType::Utf8, false),
        Field::new("t", DataType::Int64, false),
        Field::new("v", DataType::Int64, false),
    ]));
    let built = window(spec, &schema).expect("the settings are valid");
    // Watermarks come by hand.
    let strategy = WatermarkStrategy { delay_ms: i64::MAX / 4, idle_after_ms: None };
    let event_time = Some(EventTimeSpec { column: 1, strategy });
    let input = Input { key: vec![0], event_time, ..Input::new("in", &schema) };
    let mut driver = Driver::by_hand(&one_operator("op", &built, &[input]), 1, 1).expect("a plan");
    let mut out = BTreeMap::<String, String>::new();
    let mut batch: Vec<(&str, i64, i64)> = Vec::new();
    for word in rows.split_whitespace() {
        let (key, rest) = word.split_once('@').expect("a row");
        if key == "w" {
            push(&mut driver, &schema, &mut batch);
            driver.advance_event_time("in", rest.parse().expect("a time")).expect("it runs");
        } else {
            let (time, value) = rest.split_once('=').expect("a value");
            batch.push((key, time.parse().expect("a time"), value.parse().expect("a value")));
        }
        if batch.len() == size {
            push(&mut driver, &schema, &mut batch);
        }
        collect(&mut driver, bounded, &mut out);
    }
    push(&mut driver, &schema, &mut batch);
    collect(&mut driver, bounded, &mut out);
    driver.finish().expect("it ends");
    collect(&mut driver, bounded, &mut out);
    in_order(&out.iter().map(|(key, rows)| format!("{key}{rows}")).collect::<Vec<_>>().join("; "))
}

fn push(driver: &mut Driver, schema: &SchemaRef, batch: &mut Vec<(&str, i64, i64)>) {
    if batch.is_empty() {
        return;
    }
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(batch.iter().map(|row| row.0))),
        Arc::new(Int64Array::from_iter_values(batch.iter().map(|row| row.1))),
        Arc::new(Int64Array::from_iter_values(batch.iter().map(|row| row.2))),
    ];
    driver.push("in", RecordBatch::try_new(schema.clone(), columns).expect("columns")).expect("it runs");
    driver.tick().expect("it runs");
    batch.clear();
}

fn collect(driver: &mut Driver, bounded: bool, out: &mut BTreeMap<String, String>) {
    for batch in driver.take_output("out") {
        let ints = |column: usize| batch.column(column).as_primitive::<Int64Type>();
        let first = if bounded { 3 } else { 1 };
        for row in 0..batch.num_rows() {
            let line = out.entry(batch.column(0).as_string::<i32>().value(row).to_owned()).or_default();
            line.push(' ');
            if bounded {
                let time = |column: usize| batch.column(column).as_primitive::<TimestampMillisecondType>().value(row);
                let _ = write!(line, "[{},{})", time(1), time(2));
                assert_eq!(batch.times.as_ref().map(|times| times[row]), Some(time(2) - 1));
            }
            let values: Vec<String> = (first..first + 4).map(|column| ints(column).value(row).to_string()).collect();
            *line += &values.join(":");
        }
    }
    for batch in driver.take_output("late") {
        let ints = |column: usize| batch.column(column).as_primitive::<Int64Type>();
        for row in 0..batch.num_rows() {
            let key = format!("{}_late", batch.column(0).as_string::<i32>().value(row));
            let line = out.entry(key).or_default();
            let _ = write!(line, " {}={}", ints(1).value(row), ints(2).value(row));
        }
    }
}

fn spec(settings: &str) -> WindowSpec {
    let words: BTreeMap<&str, Vec<i64>> = settings
        .split_whitespace()
        .map(|word| {
            let mut parts = word.split(':');
            (parts.next().expect("a word"), parts.map(|n| n.parse().expect("a number")).collect())
        })
        .collect();
    let (mut offset_ms, mut lateness) = (0, 0);
    let mut windows = Windows::Global;
    let mut fires = None;
    for (word, numbers) in &words {
        match (*word, numbers.as_slice()) {
            ("tumbling", &[size_ms, offset]) => (windows, offset_ms) = (Windows::Tumbling { size_ms }, offset),
            ("sliding", &[size_ms, slide_ms, offset]) => {
                (windows, offset_ms) = (Windows::Sliding { size_ms, slide_ms }, offset);
            }
            ("session", &[gap]) => windows = Windows::Session(Gap::Ms(gap)),
            ("dynamic", _) => windows = Windows::Session(Gap::Of("v + 1".to_owned())),
            ("lateness", &[ms]) => lateness = ms,
            ("count", &[rows]) => fires = Some(Fires::Count(rows as u64)),
            ("every", &[ms]) => fires = Some(Fires::Every(TimeDomain::Event, ms)),
            ("delta", &[threshold]) => {
                fires = Some(Fires::Delta { value: "v".to_owned(), threshold: threshold as f64 });
            }
            ("end", _) => fires = Some(Fires::AtEnd),
            _ => {}
        }
    }
    let fires = fires.or_else(|| (windows == Windows::Global).then_some(Fires::AtEnd));
    let trigger = fires.map(|fires| Trigger { fires, purge: words.contains_key("purge") });
    let calls = [("n", "count(*)"), ("sum", "sum(v)"), ("low", "min(v)"), ("high", "max(v)")];
    let calls = calls.iter().map(|(name, call)| ((*name).to_owned(), (*call).to_owned())).collect();
    WindowSpec { offset_ms, allowed_lateness_ms: lateness, trigger, ..WindowSpec::new(windows, vec![0], calls) }
}

/// A generator of cases (splitmix64).
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: u64) -> i64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % n) as i64
    }

    fn case(&mut self) -> String {
        let mut case = match self.below(8) {
            0 | 1 => {
                let size = 1 + self.below(12);
                let offset = self.below(2 * size as u64 - 1) - size + 1;
                format!("tumbling:{size}:{offset}")
            }
            2 | 3 => {
                let slide = 1 + self.below(8);
                let offset = self.below(2 * slide as u64 - 1) - slide + 1;
                format!("sliding:{}:{slide}:{offset}", 1 + self.below(20))
            }
            4 | 5 => format!("session:{}", 1 + self.below(8)),
            6 => "dynamic".to_owned(),
            _ => "global".to_owned(),
        };
        let is_session = case.starts_with("session") || case == "dynamic";
        let is_global = case == "global";
        if !is_global && self.below(2) == 0 {
            let _ = write!(case, " lateness:{}", 1 + self.below(15));
        }
        match self.below(8) {
            0 | 1 => {
                let _ = write!(case, " count:{}", 1 + self.below(4));
            }
            2 if !is_global => {
                let _ = write!(case, " every:{}", 1 + self.below(7));
            }
            3 if !is_session => {
                let _ = write!(case, " delta:{}", self.below(5));
            }
            4 if !is_global => case += " end",
            _ => {}
        }
        // Flink's trigger at the end of a stream can't be wrapped.
        if (case.contains("count") || case.contains("every") || case.contains("delta") || case.contains(" end"))
            && self.below(3) == 0
        {
            case += " purge";
        }
        case += " |";
        let (keys, step, back) = (1 + self.below(3), 1 + self.below(4), 1 + self.below(25));
        let (mut time, mut watermark) = (self.below(40) - 20, i64::MIN);
        for _ in 0..5 + self.below(40) {
            time += self.below(1 + step as u64);
            if self.below(12) == 0 {
                time += self.below(30);
            }
            if self.below(4) == 0 {
                // Sometimes ahead of the rows, as when others are idle, and never back.
                watermark = watermark.max(time - self.below(15) + self.below(6));
                let _ = write!(case, " w@{watermark}");
            } else {
                let at = if self.below(2) == 0 { time } else { time - self.below(back as u64) };
                let _ = write!(case, " {}@{at}={}", ['a', 'b', 'c'][self.below(keys as u64) as usize], self.below(9));
            }
        }
        case
    }
}
