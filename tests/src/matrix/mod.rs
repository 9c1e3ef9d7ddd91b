//! The case matrix: every pipeline in `tests/cases/pipelines` runs in every cell, and has one golden for all.
//!
//! A case is a folder with `pipeline.yaml`, as `tidemill run` takes it, its input files, and `expected/SINK.ndjson` for
//! each sink (the dead-letter sink is one), or `expected/error.txt`. Sinks write to `out/SINK`. Lines that begin with `#:`
//! in front of the pipeline are directives, see [`case::Directives`].
//!
//! Law: a case gives the same rows in each cell, whatever the batches, the threads, the kind of logic and the order of
//! events; a case that can't says so, with the reason.

mod case;
mod catalog;
mod crash;
mod golden;
mod run;
mod written;

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

pub use tidemill_model::plan::Backend;

pub use case::{Case, Directives};
pub use golden::{Outcome, compare};
pub use run::Lab;
pub(crate) use run::{Text, scratch};

/// One way to run a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    pub workers: usize,
    pub batch_rows: usize,
    pub logic: LogicKind,
    pub executor: Executor,
    pub crash: Crash,
    pub backend: Backend,
}

/// What an operator of a component runs as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogicKind {
    /// Compiled into this program, behind the same port.
    Native,
    Wasm,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Executor {
    /// `tidemill-runtime`: threads, timely, the wall clock.
    Runtime,
    /// `tidemill_engine::driver`: one thread, virtual time, an order of events that the seed decides.
    Driver { seed: u64 },
}

/// Whether the run is killed on its way. Only the driver can be, at any moment that a seed decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    Never,
    /// Checkpoints every few ticks; crashes before the first one, directly after one, before and after its commit, and
    /// between two. The run goes on with this many workers, after the next crash with those of the cell again, and so on.
    Restore {
        workers: usize,
    },
}

/// The axes, all of them: a new one is a field of [`Cell`] and a line here.
const WORKERS: &[usize] = &[1, 3];
const BATCH_ROWS: &[usize] = &[1, 1000];
const LOGIC: &[LogicKind] = &[LogicKind::Native, LogicKind::Wasm];
const EXECUTORS: &[(Executor, Crash, Backend)] = &[
    (Executor::Runtime, Crash::Never, Backend::Heap),
    (Executor::Driver { seed: 1 }, Crash::Never, Backend::Heap),
    (Executor::Driver { seed: 2 }, Crash::Never, Backend::Heap),
    (Executor::Driver { seed: 3 }, Crash::Restore { workers: 1 }, Backend::Heap),
    (Executor::Driver { seed: 4 }, Crash::Restore { workers: 3 }, Backend::Heap),
    // For cases with keyed state only.
    (Executor::Driver { seed: 5 }, Crash::Restore { workers: 1 }, Backend::RocksDb),
    (Executor::Driver { seed: 6 }, Crash::Restore { workers: 3 }, Backend::RocksDb),
];

/// All cells that a case runs in.
pub fn cells(case: &Case) -> Vec<Cell> {
    let Case { directives, has_components, has_state, .. } = case;
    let mut cells = Vec::new();
    for &workers in WORKERS {
        for &batch_rows in BATCH_ROWS {
            // Without a component there is no logic to choose.
            for &logic in LOGIC.iter().filter(|&&l| *has_components || l == LogicKind::Wasm) {
                for &(executor, crash, backend) in EXECUTORS {
                    cells.push(Cell { workers, batch_rows, logic, executor, crash, backend });
                }
            }
        }
    }
    cells.retain(|cell| directives.admit(cell) && (*has_state || cell.backend == Backend::Heap));
    cells
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let logic = match self.logic {
            LogicKind::Native => "native",
            LogicKind::Wasm => "wasm",
        };
        write!(f, "workers {}, batch_rows {}, {logic}, ", self.workers, self.batch_rows)?;
        match self.executor {
            Executor::Runtime => write!(f, "runtime"),
            Executor::Driver { seed } => write!(f, "driver with seed {seed}"),
        }?;
        if self.backend == Backend::RocksDb {
            write!(f, ", rocksdb")?;
        }
        match self.crash {
            Crash::Never => Ok(()),
            Crash::Restore { workers } => write!(f, ", crashes and goes on with workers {workers}"),
        }
    }
}

/// What to do with goldens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Compare,
    /// The first cell's result becomes the golden; the others are compared with it. Goldens of an oracle stay.
    Update,
}

/// The folders of `root`, sorted, whose names contain `filter`.
pub fn find(root: &Path, filter: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root).unwrap_or_else(|e| panic!("{}: {e}", root.display()));
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let named = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().contains(filter));
    let sorted: BTreeSet<PathBuf> = paths.filter(|path| path.is_dir() && named(path)).collect();
    sorted.into_iter().collect()
}

/// Runs the cases in all their cells on several threads. What failed, one text per case; and the number of runs.
pub fn run_all(lab: &Lab, paths: &[PathBuf], mode: Mode) -> (Vec<String>, usize) {
    let mut failures = Vec::new();
    let mut cases = Vec::new();
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match Planned::new(path) {
            Ok(planned) => cases.push(planned),
            Err(error) => failures.push(format!("case {name}: {error}\n")),
        }
    }
    if mode == Mode::Update {
        let ours: Vec<&Planned> = cases.iter().filter(|c| c.case.directives.oracle.is_none()).collect();
        let written =
            on_threads(&ours, |planned| golden::write(&planned.case, &lab.run(&planned.case, &planned.cells[0])));
        failures.extend(written.into_iter().filter_map(Result::err));
    }
    let runs: Vec<(&Planned, &Cell)> = cases.iter().flat_map(|p| p.cells.iter().map(move |cell| (p, cell))).collect();
    let differences = on_threads(&runs, |(planned, cell)| match golden::read(&planned.case) {
        Ok(expected) => compare(&expected, &lab.run(&planned.case, cell), &planned.case.directives),
        Err(error) => Some(error),
    });
    let mut differences = differences.into_iter();
    for planned in &cases {
        let own: Vec<Option<String>> = differences.by_ref().take(planned.cells.len()).collect();
        failures.extend(planned.report(own));
    }
    (failures, runs.len())
}

/// A case with the cells that it runs in.
struct Planned {
    name: String,
    case: Case,
    cells: Vec<Cell>,
}

impl Planned {
    fn new(path: &Path) -> Result<Self, String> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let case = Case::read(path)?;
        let cells = cells(&case);
        if cells.is_empty() {
            return Err("its directives leave no cell".into());
        }
        Ok(Self { name, case, cells })
    }

    /// The first difference in full, and in which cells there are more.
    fn report(&self, differences: Vec<Option<String>>) -> Option<String> {
        let wrong: Vec<(&Cell, String)> =
            self.cells.iter().zip(differences).filter_map(|(cell, text)| Some((cell, text?))).collect();
        let (first, difference) = wrong.first()?;
        let mut text = format!("case {}, {first}\n{difference}", self.name);
        text.push_str(&format!("  wrong in {} of {} cells\n", wrong.len(), self.cells.len()));
        for (cell, _) in wrong.iter().skip(1).filter(|_| wrong.len() < self.cells.len()) {
            text.push_str(&format!("    also {cell}\n"));
        }
        Some(text)
    }
}

/// Does all items, several at a time; results in the order of the items.
fn on_threads<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    // A run waits for ticks for most of its time.
    let threads = 4 * std::thread::available_parallelism().map_or(1, usize::from);
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(index) else { break };
                    let result = work(item);
                    done.lock().expect("no panic while held").push((index, result));
                }
            });
        }
    });
    let mut done = done.into_inner().expect("no panic while held");
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
}
