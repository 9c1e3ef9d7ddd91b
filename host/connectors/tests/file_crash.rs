//! A writer dies at any moment: what is visible then, and after the next start, are the rows of published checkpoints, each
//! once.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use common::{files, sink};
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};
use tidemill_model::Batch;
use tidemill_model::sink::{Committable, Sink, SinkWriter};

const OWNER: &str = "pipeline\nout\nstore";

fn schema() -> SchemaRef {
    let column = |name: &str| Field::new(name, DataType::Int64, false);
    Arc::new(Schema::new(vec![column("id"), column("kind")]))
}

fn batch(ids: std::ops::Range<i64>) -> Batch {
    let kinds = ids.clone().map(|id| id % 3);
    let columns =
        [Int64Array::from_iter_values(ids), Int64Array::from_iter_values(kinds)].map(|column| Arc::new(column) as _);
    Batch::new(RecordBatch::try_new(schema(), columns.into()).unwrap())
}

/// A checkpoint as the store has it.
#[derive(Clone, Default)]
struct Manifest {
    rows: i64,
    committables: Vec<Committable>,
}

/// How far a checkpoint comes before the process dies.
#[derive(Clone, Debug)]
enum Until {
    /// So many writers have prepared.
    Prepared(Index),
    Published,
    /// So many files have their names.
    Committed(Index),
    End,
}

#[derive(Clone, Debug)]
enum Step {
    Write {
        worker: Index,
        rows: i64,
    },
    /// A checkpoint that ends well.
    Checkpoint,
    /// One whose manifest is not published: what was prepared goes into the next one.
    Failed,
    /// A savepoint, of which nothing is committed.
    Savepoint,
    /// The process dies. What was not synced may be lost.
    Crash {
        until: Until,
        lost: Vec<Index>,
        workers: usize,
    },
    /// Another run starts, while this one goes on for a while.
    Overtaken {
        rows: i64,
        workers: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<Index>;
    let until = prop_oneof![
        index().prop_map(Until::Prepared),
        Just(Until::Published),
        index().prop_map(Until::Committed),
        Just(Until::End),
    ];
    let lost = proptest::collection::vec(index(), 0..3);
    prop_oneof![
        6 => (index(), 1..40i64).prop_map(|(worker, rows)| Step::Write { worker, rows }),
        2 => Just(Step::Checkpoint),
        1 => Just(Step::Failed),
        1 => Just(Step::Savepoint),
        3 => (until, lost, 1..4usize).prop_map(|(until, lost, workers)| Step::Crash { until, lost, workers }),
        1 => (0..40i64, 1..4usize).prop_map(|(rows, workers)| Step::Overtaken { rows, workers }),
    ]
}

/// A process that runs the job.
struct Process {
    sink: Arc<dyn Sink>,
    writers: Vec<Box<dyn SinkWriter>>,
    /// Rows given to writers.
    rows: i64,
    /// Prepared, and in no manifest.
    rest: Vec<Committable>,
    checkpoint: u64,
}

struct World<'a> {
    base: &'a Path,
    settings: Value,
    manifest: Manifest,
    savepoints: Vec<Manifest>,
    /// Runs that do not know yet that they are none any more.
    zombies: Vec<Process>,
}

impl World<'_> {
    fn start(&self, workers: usize) -> Process {
        let sink = sink("file", self.settings.clone(), self.base);
        sink.commit(&self.manifest.committables).unwrap();
        let manifests = self.savepoints.iter().chain([&self.manifest]);
        let named: Vec<Committable> = manifests.flat_map(|m| m.committables.clone()).collect();
        sink.recover(OWNER, Some(&named)).unwrap();
        let writers = (0..workers).map(|w| sink.open(w, workers, schema()).unwrap()).collect();
        Process { sink, writers, rows: self.manifest.rows, rest: Vec::new(), checkpoint: 0 }
    }

    fn publish(&mut self, process: &mut Process) {
        self.manifest = Manifest { rows: process.rows, committables: std::mem::take(&mut process.rest) };
    }

    fn checkpoint(&mut self, process: &mut Process) {
        process.prepare(usize::MAX);
        self.publish(process);
        process.sink.commit(&self.manifest.committables).unwrap();
    }

    /// Dies, and leaves the disk as it is at that moment.
    fn crash(&mut self, mut process: Process, until: &Until, lost: &[Index]) {
        match until {
            Until::Prepared(count) => process.prepare(count.index(process.writers.len() + 1)),
            Until::Published | Until::Committed(_) => {
                process.prepare(usize::MAX);
                self.publish(&mut process);
                if let Until::Committed(count) = until {
                    let done = count.index(self.manifest.committables.len() + 1);
                    process.sink.commit(&self.manifest.committables[..done]).unwrap();
                }
            }
            Until::End => self.checkpoint(&mut process),
        }
        let out = self.base.join("out");
        let mut disk = contents(&out);
        drop(process);
        if out.exists() {
            fs::remove_dir_all(&out).unwrap();
        }
        self.lose(&mut disk, lost);
        for (name, bytes) in disk {
            let path = out.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
    }

    /// Files that no manifest names need not have come to the disk.
    fn lose(&self, disk: &mut BTreeMap<String, Vec<u8>>, lost: &[Index]) {
        let manifests = self.savepoints.iter().chain([&self.manifest]);
        let named: Vec<String> =
            manifests.flat_map(|m| &m.committables).map(|c| String::from_utf8_lossy(&c.0).into_owned()).collect();
        for index in lost {
            let unsure = disk.keys().filter(|name| name.ends_with(".inprogress"));
            let unsure: Vec<String> =
                unsure.filter(|name| !named.iter().any(|text| text.contains(*name))).cloned().collect();
            let Some(name) = (!unsure.is_empty()).then(|| &unsure[index.index(unsure.len())]) else { return };
            let bytes = disk.get_mut(name).unwrap();
            match bytes.len() {
                0 => drop(disk.remove(name)),
                len => bytes.truncate(index.index(len)),
            }
        }
    }

    fn visible(&self) -> Vec<i64> {
        let mut ids = Vec::new();
        for (name, bytes) in contents(&self.base.join("out")) {
            if !name.rsplit('/').next().unwrap().starts_with('.') {
                let text = String::from_utf8(bytes).unwrap();
                ids.extend(text.lines().map(|line| line.split(',').next().unwrap().parse::<i64>().unwrap()));
            }
        }
        ids.sort_unstable();
        ids
    }
}

impl Process {
    fn write(&mut self, worker: usize, rows: i64) {
        let from = self.rows;
        self.rows += rows;
        self.writers[worker].write(&batch(from..self.rows)).unwrap();
    }

    fn prepare(&mut self, writers: usize) {
        self.checkpoint += 1;
        for writer in self.writers.iter_mut().take(writers) {
            self.rest.extend(writer.prepare(self.checkpoint).unwrap());
        }
    }
}

fn contents(out: &Path) -> BTreeMap<String, Vec<u8>> {
    if !out.exists() {
        return BTreeMap::new();
    }
    files(out).into_iter().map(|name| (name.clone(), fs::read(out.join(name)).unwrap())).collect()
}

fn settings() -> impl Strategy<Value = Value> {
    let bucket = prop_oneof![Just(None), Just(Some(json!({"columns": ["kind"]})))];
    (bucket, 1..3usize, prop_oneof![Just(10u64), Just(1000)]).prop_map(|(bucket, open_files, roll_rows)| {
        let mut settings = json!({
            "path": "out", "format": "csv", "header": false, "open_files": open_files, "roll_rows": roll_rows
        });
        if let Some(bucket) = bucket {
            settings["bucket"] = bucket;
        }
        settings
    })
}

fn run(settings: Value, steps: &[Step]) {
    // In memory, where that is possible: each part is synced.
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let mut world = World {
        base: folder.path(),
        settings,
        manifest: Manifest::default(),
        savepoints: Vec::new(),
        zombies: Vec::new(),
    };
    let mut process = world.start(2);
    for step in steps {
        match step {
            Step::Write { worker, rows } => process.write(worker.index(process.writers.len()), *rows),
            Step::Checkpoint => world.checkpoint(&mut process),
            Step::Failed => process.prepare(usize::MAX),
            Step::Savepoint => {
                process.prepare(usize::MAX);
                world.savepoints.push(Manifest { rows: process.rows, committables: process.rest.clone() });
            }
            Step::Crash { until, lost, workers } => {
                world.crash(process, until, lost);
                process = world.start(*workers);
            }
            Step::Overtaken { rows, workers } => {
                let next = world.start(*workers);
                process.write(0, *rows);
                world.zombies.push(std::mem::replace(&mut process, next));
            }
        }
        // What a crash has left uncommitted is committed by the start behind it.
        assert_eq!(world.visible(), (0..world.manifest.rows).collect::<Vec<_>>());
    }
    // The others learn that they are dead: they throw their rows away.
    world.zombies.clear();
    process.prepare(usize::MAX);
    world.publish(&mut process);
    for _ in 0..2 {
        process.sink.commit(&world.manifest.committables).unwrap();
        assert_eq!(world.visible(), (0..process.rows).collect::<Vec<_>>());
    }
    // Whoever wants to go back to a savepoint still can.
    world.savepoints.iter().for_each(|savepoint| process.sink.commit(&savepoint.committables).unwrap());
    drop(process);
    let savepoints = std::mem::take(&mut world.savepoints);
    drop(world.start(1));
    let left: Vec<String> =
        files(folder.path()).into_iter().filter(|name| name.rsplit('/').next().unwrap().starts_with('.')).collect();
    assert_eq!(left, Vec::<String>::new(), "hidden files of dead runs, {} savepoints", savepoints.len());
}

proptest! {
    #[test]
    fn visible_are_the_rows_of_published_checkpoints(
        settings in settings(),
        steps in proptest::collection::vec(step(), 1..12),
    ) {
        run(settings, &steps);
    }
}
