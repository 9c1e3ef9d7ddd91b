//! One worker's part files: which are open, when they are full, and what was finished.
//!
//! Laws: rows of a bucket keep their order over its files; no more files are open than `open_files`, and a file that makes
//! room for another is finished, so that none of its rows is lost; what `prepare` returns is durable, names included.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use tidemill_model::format::{FormatRef, RowWriter};
use tidemill_model::sink::{Committable, SinkWriter};
use tidemill_model::{Batch, Fault};

use super::bucket::Buckets;
use super::disk::{ByteCount, OutputFile, make_directory, parent, sync_directory};
use super::part::{Part, directory_fault, next_number};
use super::run::Run;

/// Buckets whose numbers are known; with more, directories are read again.
const BUCKETS_KNOWN_MAX: usize = 10_000;

/// What all writers of a sink share.
pub(super) struct Target {
    pub directory: PathBuf,
    pub format: FormatRef,
    pub rolling: Rolling,
    pub open_files: usize,
    pub run: Run,
    /// For the age of files.
    pub clock: fn() -> Instant,
}

/// When a new file is begun.
#[derive(Clone, Copy)]
pub(super) struct Rolling {
    pub rows: u64,
    pub bytes: u64,
    pub age: Duration,
}

pub(super) struct PartWriter {
    target: Arc<Target>,
    /// Of the rows in the files.
    schema: SchemaRef,
    buckets: Option<Buckets>,
    worker: usize,
    /// Number of the next file: larger than that of any file in a bucket that is known.
    next: u64,
    known: HashSet<String>,
    /// By bucket; the sink's own directory is the empty one.
    open: HashMap<String, OpenPart>,
    /// Counts the writes to files.
    uses: u64,
    /// Complete, durable but for their names, not yet prepared.
    finished: Vec<Part>,
}

struct OpenPart {
    part: Part,
    writer: Box<dyn RowWriter>,
    /// The same file as the writer's, to make it durable.
    file: File,
    rows: u64,
    bytes: ByteCount,
    opened: Instant,
    /// The larger, the later it was written to.
    used: u64,
}

impl SinkWriter for PartWriter {
    fn write(&mut self, batch: &Batch) -> Result<(), Fault> {
        if batch.is_empty() {
            return Ok(());
        }
        self.finish_old()?;
        let Some(buckets) = &mut self.buckets else { return self.write_rows("", batch.rows()) };
        for (bucket, rows) in buckets.split(batch)? {
            self.write_rows(&bucket, &rows)?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Fault> {
        self.finish_old()
    }

    fn prepare(&mut self, _checkpoint: u64) -> Result<Vec<Committable>, Fault> {
        let mut open: Vec<(u64, String)> =
            self.open.iter().map(|(bucket, open)| (open.part.number().unwrap_or_default(), bucket.clone())).collect();
        open.sort_unstable();
        open.iter().try_for_each(|(_, bucket)| self.finish(bucket))?;
        let directories: BTreeSet<&Path> = self.finished.iter().map(|part| parent(&part.hidden)).collect();
        directories.into_iter().try_for_each(|d| sync_directory(d).map_err(|e| directory_fault(d, &e)))?;
        let committables = self.finished.iter().map(Part::encode).collect::<Result<_, _>>()?;
        self.finished.clear();
        Ok(committables)
    }

    fn abort(&mut self) {
        let open = self.open.drain().map(|(_, open)| open.part);
        for part in self.finished.drain(..).chain(open) {
            // What cannot be removed stays hidden.
            let _ = fs::remove_file(&part.hidden);
            self.target.run.leave(&part);
        }
    }
}

impl Drop for PartWriter {
    fn drop(&mut self) {
        self.abort();
    }
}

impl PartWriter {
    /// `first`: no file gets a smaller number.
    pub(super) fn new(
        target: Arc<Target>,
        schema: SchemaRef,
        buckets: Option<Buckets>,
        worker: usize,
        first: u64,
    ) -> Result<Self, Fault> {
        make_directory(&target.directory).map_err(|e| directory_fault(&target.directory, &e))?;
        Ok(Self {
            target,
            schema,
            buckets,
            worker,
            next: first,
            known: HashSet::new(),
            open: HashMap::new(),
            uses: 0,
            finished: Vec::new(),
        })
    }

    fn write_rows(&mut self, bucket: &str, rows: &RecordBatch) -> Result<(), Fault> {
        let Rolling { rows: rows_max, bytes: bytes_max, .. } = self.target.rolling;
        let mut from = 0;
        while from < rows.num_rows() {
            let open = self.open(bucket)?;
            let room = usize::try_from(rows_max - open.rows).unwrap_or(usize::MAX);
            let count = room.min(rows.num_rows() - from);
            open.writer.write(&rows.slice(from, count))?;
            open.rows += count as u64;
            from += count;
            if open.rows >= rows_max || open.bytes.get() >= bytes_max {
                self.finish(bucket)?;
            }
        }
        Ok(())
    }

    /// The open file of a bucket.
    fn open(&mut self, bucket: &str) -> Result<&mut OpenPart, Fault> {
        if !self.open.contains_key(bucket) {
            if self.open.len() >= self.target.open_files {
                let oldest = self.open.iter().min_by_key(|(_, open)| open.used).map(|(bucket, _)| bucket.clone());
                oldest.iter().try_for_each(|bucket| self.finish(bucket))?;
            }
            let part = self.begin(bucket)?;
            self.open.insert(bucket.to_owned(), part);
        }
        self.uses += 1;
        let open = self.open.get_mut(bucket).expect("it was there, or was put there");
        open.used = self.uses;
        Ok(open)
    }

    fn begin(&mut self, bucket: &str) -> Result<OpenPart, Fault> {
        let directory =
            if bucket.is_empty() { self.target.directory.clone() } else { self.target.directory.join(bucket) };
        let fault = |e: &io::Error| directory_fault(&directory, e);
        // Another process that has the same spool removes it when it is empty.
        if !self.known.contains(bucket) || !directory.exists() {
            make_directory(&directory).map_err(|e| fault(&e))?;
            self.next = self.next.max(next_number(&directory, self.worker)?);
            if self.known.len() >= BUCKETS_KNOWN_MAX {
                self.known.clear();
            }
            self.known.insert(bucket.to_owned());
        }
        let tag = self.target.run.enter().map_err(|e| directory_fault(&self.target.directory, &e))?;
        let made = self.make(&directory, &tag);
        self.target.run.made(made.as_ref().ok().map(|open| &open.part));
        made
    }

    fn make(&mut self, directory: &Path, tag: &str) -> Result<OpenPart, Fault> {
        let fault = |e: io::Error| directory_fault(directory, &e);
        let format = &self.target.format;
        let (part, file) = loop {
            let part = Part::new(directory, self.worker, self.next, &format.ending(), tag);
            self.next += 1;
            match OpenOptions::new().write(true).create_new(true).open(&part.hidden) {
                Ok(file) => break (part, file),
                // By a writer of an earlier start in this process that is not yet gone.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(fault(e)),
            }
        };
        let bytes = ByteCount::default();
        let opened = file.try_clone().map_err(fault).and_then(|clone| {
            format.writer(Box::new(OutputFile::new(clone, &part.visible, bytes.clone())), self.schema.clone())
        });
        match opened {
            Ok(writer) => Ok(OpenPart { part, writer, file, rows: 0, bytes, opened: (self.target.clock)(), used: 0 }),
            Err(fault) => {
                let _ = fs::remove_file(&part.hidden);
                Err(fault)
            }
        }
    }

    /// Finishes files that have been open for too long.
    fn finish_old(&mut self) -> Result<(), Fault> {
        if self.target.rolling.age == Duration::MAX || self.open.is_empty() {
            return Ok(());
        }
        let now = (self.target.clock)();
        let is_old = |open: &OpenPart| now.saturating_duration_since(open.opened) >= self.target.rolling.age;
        let old: Vec<String> =
            self.open.iter().filter(|(_, open)| is_old(open)).map(|(bucket, _)| bucket.clone()).collect();
        old.iter().try_for_each(|bucket| self.finish(bucket))
    }

    /// It stays open if that fails, to be thrown away.
    fn finish(&mut self, bucket: &str) -> Result<(), Fault> {
        let Some(open) = self.open.get_mut(bucket) else { return Ok(()) };
        open.writer.finish()?;
        open.file.sync_all().map_err(|e| Fault::io(format!("cannot write `{}`: {e}", open.part.hidden.display())))?;
        open.part.bytes = open.bytes.get();
        self.finished.extend(self.open.remove(bucket).map(|open| open.part));
        Ok(())
    }
}
