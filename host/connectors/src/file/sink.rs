//! The sink end of `file`: part files, hidden until they are committed.
//!
//! Laws: a visible file is complete and never changes; a file that exists is never overwritten;
//! `commit` can be repeated.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tidemill_model::config::{ConfigContext, read};
use tidemill_model::format::{FormatRef, RowWriter};
use tidemill_model::sink::{Committable, Sink, SinkWriter};
use tidemill_model::{Batch, ConfigError, Fault};

use super::disk::{ByteCount, OutputFile};
use super::settings::{self, FileSinkSettings};

const OWN: &[&str] = &["path", "format", "options", "roll_rows", "roll_bytes"];
/// Of files that are being written or wait for their commit.
const HIDDEN_ENDING: &str = ".inprogress";

/// See [`FileSinkSettings`].
pub fn sink(settings: &Value, context: &ConfigContext) -> Result<Arc<dyn Sink>, ConfigError> {
    let (own, beside) = settings::divide(settings, OWN)?;
    let own: FileSinkSettings = read(&own)?;
    let format = settings::format(&own.format, beside, own.options.as_ref(), OWN, context)?;
    for (key, limit) in [("roll_rows", own.roll_rows), ("roll_bytes", own.roll_bytes.map(|b| b.0))] {
        if limit == Some(0) {
            return Err(ConfigError::new(&[key], "a file must hold at least one row"));
        }
    }
    let directory = context.base.join(&own.path);
    let rolling = Rolling { rows: own.roll_rows.unwrap_or(u64::MAX), bytes: own.roll_bytes.map_or(u64::MAX, |b| b.0) };
    Ok(Arc::new(FileSink { directory, format, rolling }))
}

/// When a new file is begun.
#[derive(Clone, Copy)]
struct Rolling {
    rows: u64,
    bytes: u64,
}

struct FileSink {
    directory: PathBuf,
    format: FormatRef,
    rolling: Rolling,
}

impl Sink for FileSink {
    fn blocks(&self) -> bool {
        true
    }

    fn accepts(&self, schema: &SchemaRef) -> Result<(), Fault> {
        self.format.writer(Box::new(io::sink()), schema.clone()).map(drop)
    }

    fn open(&self, worker: usize, _workers: usize, schema: SchemaRef) -> Result<Box<dyn SinkWriter>, Fault> {
        self.accepts(&schema)?;
        fs::create_dir_all(&self.directory).map_err(|e| directory_fault(&self.directory, &e))?;
        Ok(Box::new(PartWriter {
            directory: self.directory.clone(),
            format: self.format.clone(),
            rolling: self.rolling,
            schema,
            worker,
            next: next_number(&self.directory, worker)?,
            current: None,
            finished: Vec::new(),
        }))
    }

    fn commit(&self, committables: &[Committable]) -> Result<(), Fault> {
        let mut directories = BTreeSet::new();
        for committable in committables {
            let part: Part = serde_json::from_slice(&committable.0)
                .map_err(|e| Fault::internal(format!("a stored file name is damaged: {e}")))?;
            part.show()?;
            directories.extend(part.visible.parent().map(Path::to_owned));
        }
        // Only now the names themselves are durable.
        let sync = |directory: &PathBuf| File::open(directory).and_then(|d| d.sync_all());
        directories.iter().try_for_each(|d| sync(d).map_err(|e| directory_fault(d, &e)))
    }

    fn discard(&self, committables: &[Committable]) {
        for part in committables.iter().filter_map(|c| serde_json::from_slice::<Part>(&c.0).ok()) {
            // What cannot be removed stays hidden.
            let _ = fs::remove_file(part.hidden);
        }
    }
}

/// A file under its hidden and under its final name.
#[derive(Debug, Serialize, Deserialize)]
struct Part {
    hidden: PathBuf,
    visible: PathBuf,
}

impl Part {
    fn new(directory: &Path, worker: usize, number: u64, ending: &str) -> Self {
        let name = format!("part-{worker}-{number}.{ending}");
        Self { hidden: directory.join(format!(".{name}{HIDDEN_ENDING}")), visible: directory.join(name) }
    }

    /// Makes the file visible, unless that was done before.
    fn show(&self) -> Result<(), Fault> {
        match (self.hidden.try_exists(), self.visible.try_exists()) {
            (Ok(false), Ok(true)) => return Ok(()),
            (Ok(true), Ok(true)) => {
                return Err(Fault::io(format!(
                    "cannot commit `{}`: a file of that name is there",
                    self.visible.display()
                ))
                .with_help("another job may be writing to the same directory"));
            }
            (Ok(false), Ok(false)) => {
                return Err(Fault::io(format!("cannot commit `{}`: its data is gone", self.visible.display()))
                    .with_help(format!("`{}` was removed by somebody else", self.hidden.display())));
            }
            _ => {}
        }
        fs::rename(&self.hidden, &self.visible)
            .map_err(|e| Fault::io(format!("cannot commit `{}`: {e}", self.visible.display())))
    }
}

/// Larger than the number of any file that this worker has ever written to the directory.
fn next_number(directory: &Path, worker: usize) -> Result<u64, Fault> {
    let prefix = format!("part-{worker}-");
    let mut next = 0;
    for entry in fs::read_dir(directory).map_err(|e| directory_fault(directory, &e))? {
        let name = entry.map_err(|e| directory_fault(directory, &e))?.file_name();
        let name = name.to_string_lossy();
        let number = name.trim_start_matches('.').strip_prefix(&prefix).and_then(|rest| rest.split('.').next());
        if let Some(number) = number.and_then(|n| n.parse::<u64>().ok()) {
            next = next.max(number + 1);
        }
    }
    Ok(next)
}

fn directory_fault(directory: &Path, error: &io::Error) -> Fault {
    let fault = Fault::io(format!("cannot write to the directory `{}`: {error}", directory.display()));
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            fault.with_help("the user that runs the job may not write there")
        }
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            fault.with_help("the `path` of a file sink names a directory, not a file")
        }
        _ => fault,
    }
}

struct PartWriter {
    directory: PathBuf,
    format: FormatRef,
    rolling: Rolling,
    schema: SchemaRef,
    worker: usize,
    next: u64,
    current: Option<OpenPart>,
    /// Complete, durable, not yet prepared.
    finished: Vec<Part>,
}

struct OpenPart {
    part: Part,
    writer: Box<dyn RowWriter>,
    /// The same file as the writer's, to make it durable.
    file: File,
    rows: u64,
    bytes: ByteCount,
}

impl SinkWriter for PartWriter {
    fn write(&mut self, batch: &Batch) -> Result<(), Fault> {
        let mut from = 0;
        while from < batch.num_rows() {
            let open = match &mut self.current {
                Some(open) => open,
                None => self.current.insert(open_part(
                    &self.directory,
                    self.worker,
                    &mut self.next,
                    &self.format,
                    &self.schema,
                )?),
            };
            let room = usize::try_from(self.rolling.rows - open.rows).unwrap_or(usize::MAX);
            let count = room.min(batch.num_rows() - from);
            open.writer.write(&batch.rows().slice(from, count))?;
            open.rows += count as u64;
            from += count;
            if open.rows >= self.rolling.rows || open.bytes.get() >= self.rolling.bytes {
                self.finish_part()?;
            }
        }
        Ok(())
    }

    fn prepare(&mut self, _checkpoint: u64) -> Result<Vec<Committable>, Fault> {
        self.finish_part()?;
        let encode = |part: &Part| {
            serde_json::to_vec(part).map(Committable).map_err(|_| {
                Fault::config(format!("the path `{}` is not UTF-8", part.visible.display()))
                    .with_help("rename the directory")
            })
        };
        let committables = self.finished.iter().map(encode).collect::<Result<_, _>>()?;
        self.finished.clear();
        Ok(committables)
    }

    fn abort(&mut self) {
        let current = self.current.take().map(|open| open.part);
        for part in self.finished.drain(..).chain(current) {
            // What cannot be removed stays hidden.
            let _ = fs::remove_file(part.hidden);
        }
    }
}

impl Drop for PartWriter {
    fn drop(&mut self) {
        self.abort();
    }
}

impl PartWriter {
    fn finish_part(&mut self) -> Result<(), Fault> {
        let Some(open) = &mut self.current else { return Ok(()) };
        open.writer.finish()?;
        open.file.sync_all().map_err(|e| Fault::io(format!("cannot write `{}`: {e}", open.part.hidden.display())))?;
        self.finished.extend(self.current.take().map(|open| open.part));
        Ok(())
    }
}

fn open_part(
    directory: &Path,
    worker: usize,
    next: &mut u64,
    format: &FormatRef,
    schema: &SchemaRef,
) -> Result<OpenPart, Fault> {
    let (part, file) = loop {
        let part = Part::new(directory, worker, *next, &format.ending());
        *next += 1;
        match OpenOptions::new().write(true).create_new(true).open(&part.hidden) {
            Ok(file) => break (part, file),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(directory_fault(directory, &e)),
        }
    };
    let bytes = ByteCount::default();
    let clone = file.try_clone().map_err(|e| directory_fault(directory, &e))?;
    let output = OutputFile::new(clone, &part.visible, bytes.clone());
    Ok(OpenPart { writer: format.writer(Box::new(output), schema.clone())?, part, file, rows: 0, bytes })
}
