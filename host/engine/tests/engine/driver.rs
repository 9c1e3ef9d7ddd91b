//! The driver itself: sources, time, exchange, repeatability.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use proptest::prelude::*;
use tidemill_engine::driver::{Checkpoint, Driver, Input, one_operator};
use tidemill_engine::process::{ProcessSpec, node};
use tidemill_engine::windows::window;
use tidemill_model::Fault;
use tidemill_model::dead::DeadRow;
use tidemill_model::fault::OnError;
use tidemill_model::plan::{Built, EventTimeSpec, NodeKind, Plan, TickMode};
use tidemill_model::source::{Polled, Position, ReadBudget, Source, Split, SplitReader};
use tidemill_model::time::WatermarkStrategy;
use tidemill_model::window::{WindowSpec, Windows};
use tidemill_state::HeapFactory;

use crate::logic::counter;
use crate::support::{ints, lines, rows, schema, sorted};

/// Numbers `0..rows` in splits of equal length; `k = i % 7`, `t = i`, `v = 1`; every 100th row is rejected; after each
/// 50 rows a split waits 25 ms.
struct Numbers {
    rows: i64,
    splits: i64,
    /// The split with the highest numbers comes first.
    backwards: bool,
}

struct NumberReader {
    next: i64,
    end: i64,
    wait_until: Option<i64>,
}

fn numbers_schema() -> SchemaRef {
    schema(&[("k", DataType::Int64), ("t", DataType::Int64), ("v", DataType::Int64)])
}

impl Source for Numbers {
    fn schema(&self) -> SchemaRef {
        numbers_schema()
    }
    fn splits(&self, _workers: usize) -> Result<Vec<Split>, Fault> {
        let split = |i: i64| Split { id: i.to_string(), spec: vec![i as u8], size: None };
        Ok((0..self.splits).map(|i| split(if self.backwards { self.splits - 1 - i } else { i })).collect())
    }
    fn open(&self, split: &Split, position: &Position) -> Result<Box<dyn SplitReader>, Fault> {
        let (length, i) = (self.rows / self.splits, i64::from(split.spec[0]));
        let next = <[u8; 8]>::try_from(&position.0[..]).map_or(i * length, i64::from_le_bytes);
        Ok(Box::new(NumberReader { next, end: (i + 1) * length, wait_until: None }))
    }
    fn bounded(&self) -> bool {
        true
    }
}

impl SplitReader for NumberReader {
    fn poll(&mut self, budget: ReadBudget) -> Result<Polled, Fault> {
        if let Some(until) = self.wait_until.filter(|&u| budget.now_ms < u) {
            return Ok(Polled::Pending { until_ms: until });
        }
        if self.next == self.end {
            return Ok(Polled::End);
        }
        let stop = self.end.min(self.next + budget.rows.min(50) as i64);
        let (bad, good): (Vec<i64>, Vec<i64>) = (self.next..stop).partition(|i| i % 100 == 99);
        self.next = stop;
        self.wait_until = Some(budget.now_ms + 25);
        let rejected =
            bad.iter().map(|i| DeadRow { error: "rejected".into(), row: i.to_string(), ..DeadRow::default() });
        let columns =
            [("k", ints(good.iter().map(|i| i % 7))), ("t", ints(good.clone())), ("v", ints(good.iter().map(|_| 1)))];
        Ok(Polled::Rows { rows: rows(&columns), rejected: rejected.collect() })
    }
    fn position(&self) -> Position {
        Position(self.next.to_le_bytes().to_vec())
    }
}

fn count_node(input: &SchemaRef) -> Built {
    let state = Arc::new(HeapFactory);
    let logic = Arc::new(counter(input));
    let (inputs, keys) = (vec![input.clone()], vec![vec![0]]);
    let (config, on_error, shared) = (Vec::new(), OnError::Fail, Arc::new(HeapFactory));
    node(ProcessSpec { logic, inputs, keys, config, on_error, state, shared }).unwrap()
}

fn window_node(input: &SchemaRef, lateness: i64) -> Built {
    let aggregates = vec![("n".to_owned(), "count(*)".to_owned())];
    let spec = WindowSpec::new(Windows::Tumbling { size_ms: 100 }, vec![0], aggregates);
    window(WindowSpec { allowed_lateness_ms: lateness, ..spec }, input).unwrap()
}

fn plan(built: &Built, splits: i64, delay_ms: i64) -> Plan {
    let mut input = Input::new("in", &numbers_schema());
    input.key = vec![0];
    let mut plan = one_operator("op", built, &[input]);
    let strategy = WatermarkStrategy { delay_ms, idle_after_ms: None };
    plan.nodes[0].kind = NodeKind::Source {
        source: Arc::new(Numbers { rows: 1200, splits, backwards: false }),
        event_time: Some(EventTimeSpec { column: 1, strategy }),
        on_error: OnError::DeadLetter,
    };
    plan.options.batch_rows = 64;
    plan
}

fn run(plan: &Plan, workers: usize, seed: u64) -> Driver {
    let mut driver = Driver::new(plan, workers, seed).unwrap();
    driver.run().unwrap();
    driver
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let plan = plan(&window_node(&numbers_schema(), 0), 5, 0);
    let text = |d: &Driver| (lines(d.output("out")), lines(d.output("late")), d.counters().clone(), d.dead().to_vec());
    let first = text(&run(&plan, 3, 42));
    assert_eq!(text(&run(&plan, 3, 42)), first);
    assert!((0..20).any(|seed| text(&run(&plan, 3, seed)).0 != first.0), "other seeds give other orders");
}

#[test]
fn rejected_rows_are_dead_or_fail_the_job() {
    let mut plan = plan(&count_node(&numbers_schema()), 4, 0);
    let driver = run(&plan, 2, 1);
    assert_eq!(driver.dead().len(), 12);
    assert!(driver.dead().iter().all(|d| d.operator == "in" && d.error == "rejected"));
    assert_eq!(driver.output("out").iter().map(|b| b.num_rows()).sum::<usize>(), 1188);
    if let NodeKind::Source { on_error, .. } = &mut plan.nodes[0].kind {
        *on_error = OnError::Fail;
    }
    let fault = Driver::new(&plan, 2, 1).unwrap().run().unwrap_err();
    assert_eq!(fault.operator, "in");
    assert!(fault.message.ends_with(": rejected"), "{}: the split is the file of a row that names none", fault.message);
}

#[test]
fn ticks_by_batch_make_lateness_repeatable() {
    // One split, so that the input's order is fixed; no delay, and rows out of order by construction of the windows.
    let mut plan = plan(&window_node(&numbers_schema(), 0), 1, -60);
    plan.options.ticks = TickMode::Batch;
    let late = |seed, workers| sorted(lines(run(&plan, workers, seed).output("late")));
    let first = late(0, 1);
    assert!(!first.is_empty(), "the watermark runs ahead of the rows, so that some are late");
    for seed in 1..8 {
        for workers in 1..4 {
            assert_eq!(late(seed, workers), first, "seed {seed}, {workers} workers");
        }
    }
}

#[test]
fn clocks_and_splits_go_on_from_a_checkpoint() {
    let plan = plan(&window_node(&numbers_schema(), 0), 5, 2000);
    for seed in 0..10 {
        let mut driver = Driver::new(&plan, 2, seed).unwrap();
        driver.run_steps(seed as usize * 40).unwrap();
        let first = driver.checkpoint().unwrap();
        let ids: Vec<&str> = first.splits["in"].iter().map(|split| split.id.as_str()).collect();
        assert!(ids.is_sorted(), "splits in the order of the source: {ids:?}");
        for (workers, steps) in [(1, 0), (3, 0), (1, 40), (3, 40)] {
            let mut driver = Driver::restore(&plan, workers, seed, &first).unwrap();
            driver.run_steps(steps).unwrap();
            let second = driver.checkpoint().unwrap();
            let watermark = |checkpoint: &Checkpoint| checkpoint.operators["op"].now.watermark;
            assert!(watermark(&second) >= watermark(&first), "seed {seed}: time does not go back");
            assert!(second.now_ms >= first.now_ms && second.id == first.id + 1);
            for split in &second.splits["in"] {
                let before = first.splits["in"].iter().find(|s| s.id == split.id).unwrap();
                assert!(split.max_time >= before.max_time, "seed {seed}: what a split has seen is kept");
            }
        }
    }
}

#[test]
fn splits_that_were_read_side_by_side_do_not_overtake_each_other() {
    let mut plan = plan(&window_node(&numbers_schema(), 0), 2, 0);
    if let NodeKind::Source { source, .. } = &mut plan.nodes[0].kind {
        *source = Arc::new(Numbers { rows: 1200, splits: 2, backwards: true });
    }
    for seed in 0..10 {
        let mut driver = Driver::new(&plan, 2, seed).unwrap();
        driver.run_steps(100).unwrap();
        let checkpoint = driver.checkpoint().unwrap();
        assert!(checkpoint.splits["in"].iter().all(|split| split.max_time.is_some()), "both are begun");
        let mut one = Driver::restore(&plan, 1, seed, &checkpoint).unwrap();
        one.run().unwrap();
        assert!(one.output("late").is_empty(), "seed {seed}: the lower half waits while the upper one is read");
    }
}

#[test]
fn unbounded_sources_run_for_a_time() {
    struct Endless;
    impl Source for Endless {
        fn schema(&self) -> SchemaRef {
            numbers_schema()
        }
        fn splits(&self, _workers: usize) -> Result<Vec<Split>, Fault> {
            Ok(vec![Split { id: "0".into(), spec: vec![], size: None }])
        }
        fn open(&self, _split: &Split, _position: &Position) -> Result<Box<dyn SplitReader>, Fault> {
            Ok(Box::new(NumberReader { next: 0, end: i64::MAX, wait_until: None }))
        }
        fn bounded(&self) -> bool {
            false
        }
    }
    let mut plan = plan(&count_node(&numbers_schema()), 1, 0);
    if let NodeKind::Source { source, .. } = &mut plan.nodes[0].kind {
        *source = Arc::new(Endless);
    }
    let mut driver = Driver::new(&plan, 2, 3).unwrap();
    assert!(driver.run().unwrap_err().message.contains("never ends"));
    driver.run_for(1000).unwrap();
    assert_eq!(driver.now_ms(), 1000);
    let rows: usize = driver.output("out").iter().map(|b| b.num_rows()).sum();
    assert!((1000..3000).contains(&rows), "50 rows every 25 ms, some of them on their way: {rows}");
    driver.finish().unwrap();
}

#[test]
fn pushing_to_what_is_no_source_is_an_error() {
    let input = numbers_schema();
    let mut driver =
        Driver::by_hand(&one_operator("op", &count_node(&input), &[Input::new("in", &input)]), 1, 0).unwrap();
    let fault = driver.push("op", RecordBatch::new_empty(input)).unwrap_err();
    assert_eq!(fault.message, "there is no source `op`");
}

proptest! {
    // A case is a whole job: an eighth of the cases that are asked for.
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 8, ..ProptestConfig::default() })]

    #[test]
    fn counts_do_not_depend_on_splits_workers_or_seed(
        splits in 1i64..7, workers in 1usize..5, seed in any::<u64>(), by_batch in any::<bool>(),
    ) {
        // 1200 rows divide by all numbers of splits but 5; the rest of the last split is cut off there.
        let total = 1200 / splits * splits;
        let mut plan = plan(&count_node(&numbers_schema()), splits, 0);
        if by_batch {
            plan.options.ticks = TickMode::Batch;
        }
        let driver = run(&plan, workers, seed);
        let mut highest = std::collections::BTreeMap::new();
        for line in lines(driver.output("out")) {
            let parts: Vec<i64> = line.split('|').map(|p| p.parse().unwrap()).collect();
            highest.entry(parts[0]).and_modify(|n: &mut i64| *n = (*n).max(parts[3])).or_insert(parts[3]);
        }
        let expected = (0..7).map(|k| (k, (0..total).filter(|i| i % 7 == k && i % 100 != 99).count() as i64));
        prop_assert_eq!(highest, expected.collect());
    }

    /// The rows before each checkpoint, and those behind the last one, are those of a run without a crash.
    #[test]
    fn a_restored_run_goes_on_where_the_checkpoint_was(
        splits in 1i64..7, seed in any::<u64>(), by_batch in any::<bool>(), windows in any::<bool>(),
        lives in prop::collection::vec((1usize..5, 0usize..300, 0usize..50), 1..5),
    ) {
        let built = if windows { window_node(&numbers_schema(), 0) } else { count_node(&numbers_schema()) };
        let mut plan = plan(&built, splits, 2000);
        if by_batch {
            plan.options.ticks = TickMode::Batch;
        }
        let expected = run(&plan, 2, seed);
        let (mut seen, mut dead) = (Vec::new(), 0);
        let mut driver = Driver::new(&plan, 2, seed).unwrap();
        for (workers, before, lost) in lives {
            driver.run_steps(before).unwrap();
            let checkpoint = driver.checkpoint().unwrap();
            seen.extend(lines(driver.output("out")));
            dead += driver.dead().len();
            driver.run_steps(lost).unwrap();
            driver.abort();
            driver = Driver::restore(&plan, workers, seed, &checkpoint).unwrap();
        }
        driver.run().unwrap();
        seen.extend(lines(driver.output("out")));
        prop_assert_eq!(dead + driver.dead().len(), expected.dead().len());
        // Which row of a key came first may differ between two runs, but not how many there were.
        let essence = |lines: Vec<String>| sorted(lines.iter().map(|line| {
            let cells: Vec<&str> = line.split('|').collect();
            [cells[0], cells[cells.len() - 1], if windows { cells[1] } else { "" }].join("|")
        }).collect());
        prop_assert_eq!(essence(seen), essence(lines(expected.output("out"))));
    }

    /// With a delay that covers all disorder between splits, nothing is late and windows are complete.
    #[test]
    fn windows_do_not_depend_on_splits_workers_or_seed(
        splits in 1i64..7, workers in 1usize..5, seed in any::<u64>(), by_batch in any::<bool>(),
    ) {
        let total = 1200 / splits * splits;
        let mut plan = plan(&window_node(&numbers_schema(), 0), splits, 2000);
        if by_batch {
            plan.options.ticks = TickMode::Batch;
        }
        let driver = run(&plan, workers, seed);
        prop_assert!(driver.output("late").is_empty());
        let mut expected = std::collections::BTreeMap::<(i64, i64), i64>::new();
        for i in (0..total).filter(|i| i % 100 != 99) {
            *expected.entry((i % 7, i / 100)).or_default() += 1;
        }
        let seen: i64 = lines(driver.output("out")).iter().map(|l| l.rsplit('|').next().unwrap().parse::<i64>().unwrap()).sum();
        prop_assert_eq!(lines(driver.output("out")).len(), expected.len());
        prop_assert_eq!(seen, expected.values().sum::<i64>());
    }
}
