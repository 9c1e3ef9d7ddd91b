//! The source end of `file`: a split is a file or a byte range of one.

use std::cell::OnceCell;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use serde_json::Value;
use tidemill_model::config::{ConfigContext, read};
use tidemill_model::format::{Compression, FormatRef, RowReader, Section};
use tidemill_model::remote::RemotePlace;
use tidemill_model::source::{Polled, Position, ReadBudget, Source, Split, SplitReader};
use tidemill_model::{Batch, ConfigError, Fault, FaultKind};

use super::disk::{ByteCount, InputFile};
use super::identity::{FilePosition, Identity, length, sample};
use super::listing::Pattern;
use super::remote;
use super::settings::{self, FileSourceSettings};

const OWN: &[&str] = &["path", "format", "options", "columns", "split_size", "endpoint", "region"];
/// Smaller splits would cost more to open than to read.
const SPLIT_BYTES_MIN: u64 = 4096;
/// Rows of the first read, which shows how large rows are.
const FIRST_READ_ROWS: usize = 1024;

/// See [`FileSourceSettings`].
pub fn source(settings: &Value, context: &ConfigContext) -> Result<Arc<dyn Source>, ConfigError> {
    let (own, beside) = settings::divide(settings, OWN)?;
    let own: FileSourceSettings = read(&own)?;
    let format_name = match &own.format {
        Some(name) => name.clone(),
        None => settings::format_by_ending(&own.path, context)?,
    };
    let format = settings::format(&format_name, beside, own.options.as_ref(), OWN, context)?;
    let place = RemotePlace { endpoint: own.endpoint, region: own.region };
    if !remote::is_remote(&own.path) && place != RemotePlace::default() {
        let key = if place.endpoint.is_some() { "endpoint" } else { "region" };
        return Err(ConfigError::new(&[key], format!("`{key}` is for paths that begin with s3://")));
    }
    let pattern = Pattern::new(&own.path, context, &place)?;
    let schema = match &own.columns {
        Some(columns) => columns.schema()?,
        None => infer(&pattern, &format).map_err(as_config)?,
    };
    let split_bytes = own.split_size.map(|size| size.0.max(SPLIT_BYTES_MIN));
    Ok(Arc::new(FileSource { pattern, format, schema, split_bytes }))
}

fn as_config(fault: Fault) -> ConfigError {
    ConfigError { help: fault.help, ..ConfigError::new(&["path"], fault.message) }
}

/// The schema of the first file that has one; empty files show none.
fn infer(pattern: &Pattern, format: &FormatRef) -> Result<SchemaRef, Fault> {
    let mut last = Fault::config("no file to tell the columns from");
    for path in pattern.files()? {
        if pattern.about(&path).is_ok_and(|(is_file, _)| !is_file) {
            let name = pattern.show(&path);
            return Err(Fault::config(format!("`{name}` can be read only once, so that its columns cannot be told"))
                .with_help("declare its `columns:`"));
        }
        let part = Part { path, start: 0, end: u64::MAX };
        let input = part.open(pattern, ByteCount::default())?;
        match format.infer(part.section(pattern, input)) {
            Err(fault) if fault.kind == FaultKind::Config => last = fault,
            other => return other,
        }
    }
    Err(last)
}

struct FileSource {
    pattern: Pattern,
    format: FormatRef,
    schema: SchemaRef,
    split_bytes: Option<u64>,
}

impl Source for FileSource {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn splits(&self, _workers: usize) -> Result<Vec<Split>, Fault> {
        let mut splits = Vec::new();
        for path in self.pattern.files()? {
            let (is_file, bytes) = self.pattern.about(&path)?;
            // A pipe or a device is read to its end.
            let length = if is_file { bytes } else { u64::MAX };
            let name = self.pattern.show(&path).into_owned();
            // An object would be fetched for each of its parts.
            let whole = !is_file
                || self.pattern.is_remote()
                || Compression::of(&name) != Compression::None
                || !self.format.splittable();
            match self.split_bytes.filter(|&bytes| !whole && length > bytes) {
                None => splits.push(Part { path, start: 0, end: length }.split(name)?),
                Some(bytes) => {
                    for start in (0..length).step_by(usize::try_from(bytes).unwrap_or(usize::MAX)) {
                        let end = start.saturating_add(bytes).min(length);
                        splits.push(Part { path: path.clone(), start, end }.split(format!("{name}@{start}-{end}"))?);
                    }
                }
            }
        }
        Ok(splits)
    }

    fn open(&self, split: &Split, position: &Position) -> Result<Box<dyn SplitReader>, Fault> {
        let part = Part::decode(&split.spec)?;
        let position = FilePosition::decode(position)
            .ok_or_else(|| Fault::internal(format!("split {}: the stored position is damaged", split.id)))?;
        Ok(Box::new(FileReader {
            pattern: self.pattern.clone(),
            format: self.format.clone(),
            schema: self.schema.clone(),
            part,
            state: State::Closed,
            file: None,
            sampled: OnceCell::new(),
            position,
            count: ByteCount::default(),
            row_bytes: None,
        }))
    }

    fn bounded(&self) -> bool {
        true
    }
}

/// Rows that begin in a range of bytes of a file; `end` is `u64::MAX` where nobody knows the length.
#[derive(Clone, Debug, PartialEq)]
struct Part {
    path: PathBuf,
    start: u64,
    end: u64,
}

impl Part {
    fn split(&self, id: String) -> Result<Split, Fault> {
        let path = self.path.to_str().ok_or_else(|| {
            Fault::config(format!("the path `{}` is not UTF-8", self.path.display())).with_help("rename the file")
        })?;
        let mut spec = Vec::with_capacity(16 + path.len());
        spec.extend_from_slice(&self.start.to_le_bytes());
        spec.extend_from_slice(&self.end.to_le_bytes());
        spec.extend_from_slice(path.as_bytes());
        Ok(Split { id, spec, size: self.size() })
    }

    fn decode(spec: &[u8]) -> Result<Self, Fault> {
        let decoded = || {
            let (start, rest) = spec.split_first_chunk::<8>()?;
            let (end, path) = rest.split_first_chunk::<8>()?;
            let path = PathBuf::from(std::str::from_utf8(path).ok()?);
            Some(Self { path, start: u64::from_le_bytes(*start), end: u64::from_le_bytes(*end) })
        };
        decoded().ok_or_else(|| Fault::internal("the description of a file split is damaged"))
    }

    fn size(&self) -> Option<u64> {
        (self.end != u64::MAX).then(|| self.end - self.start)
    }

    fn open(&self, pattern: &Pattern, count: ByteCount) -> Result<InputFile, Fault> {
        Ok(InputFile::new(pattern.open(&self.path)?, count))
    }

    fn section(&self, pattern: &Pattern, input: InputFile) -> Section {
        let name = pattern.show(&self.path).into_owned();
        let compression = Compression::of(&name);
        Section { name, input: Box::new(input), start: self.start, end: self.end, compression }
    }
}

/// Rows that were cut off behind our back may be half rows, and those behind them are lost.
fn check_length(name: &str, part: &Part, file: &File) -> Result<(), Fault> {
    match length(file) {
        Some(length) if part.end != u64::MAX && length < part.end => {
            let message = format!("`{name}` has shrunk while it was read, from {} bytes or more to {length}", part.end);
            Err(Fault::io(message).with_help("let files be complete before a job reads them, and leave them alone"))
        }
        _ => Ok(()),
    }
}

pub(super) fn open_fault(name: &str, error: &io::Error) -> Fault {
    let fault = Fault::io(format!("cannot open `{name}`: {error}"));
    match error.kind() {
        io::ErrorKind::NotFound => fault.with_help("the file was there when the source was listed, and is gone now"),
        io::ErrorKind::PermissionDenied => fault.with_help("the user that runs the job may not read it"),
        _ => fault,
    }
}

enum State {
    /// Files are opened at the first poll, so that thousands of splits do not hold thousands of files open.
    Closed,
    Open(Box<dyn RowReader>),
    Ended,
}

struct FileReader {
    pattern: Pattern,
    format: FormatRef,
    schema: SchemaRef,
    part: Part,
    state: State,
    /// The file that the reader reads.
    file: Option<Arc<File>>,
    /// What the file looks like, for positions: found out when the first is asked for.
    sampled: OnceCell<u64>,
    position: FilePosition,
    count: ByteCount,
    /// Of the last rows, in memory.
    row_bytes: Option<usize>,
}

impl SplitReader for FileReader {
    fn poll(&mut self, budget: ReadBudget) -> Result<Polled, Fault> {
        if let State::Closed = self.state {
            let input = self.part.open(&self.pattern, self.count.clone())?;
            self.check_position(&input.handle())?;
            self.file = Some(input.handle());
            let section = self.part.section(&self.pattern, input);
            self.state = State::Open(self.format.reader(section, self.schema.clone(), self.position.offset)?);
        }
        let State::Open(reader) = &mut self.state else { return Ok(Polled::End) };
        let fitting = self.row_bytes.map_or(FIRST_READ_ROWS, |bytes| budget.bytes / bytes.max(1));
        let Some(decoded) = reader.read(fitting.clamp(1, budget.rows.max(1)))? else {
            self.state = State::Ended;
            if let Some(file) = &self.file {
                check_length(&self.pattern.show(&self.part.path), &self.part, file)?;
            }
            return Ok(Polled::End);
        };
        self.position = FilePosition { offset: reader.position(), identity: None };
        if decoded.rows.num_rows() > 0 {
            self.row_bytes = Some(Batch::new(decoded.rows.clone()).bytes() / decoded.rows.num_rows());
        }
        Ok(Polled::Rows { rows: decoded.rows, rejected: decoded.rejected })
    }

    fn position(&self) -> Position {
        let identity = self.position.identity.or_else(|| self.identity());
        FilePosition { identity, ..self.position }.encode()
    }

    /// In bytes.
    fn progress(&self) -> u64 {
        let read = self.count.get();
        match (self.part.size(), &self.state) {
            (Some(size), State::Ended) => size,
            (size, _) => read.min(size.unwrap_or(read)),
        }
    }
}

impl FileReader {
    /// Whether the file is the one that the position speaks of.
    fn check_position(&self, file: &File) -> Result<(), Fault> {
        let (name, Part { start, end, .. }) = (self.pattern.show(&self.part.path), &self.part);
        match self.position {
            FilePosition { offset: 0, .. } => Ok(()),
            FilePosition { offset, identity: Some(identity) } => identity.check(&name, file, *start, *end, offset),
            FilePosition { identity: None, .. } if length(file).is_some() => Ok(()),
            FilePosition { identity: None, .. } => Err(Fault::config(format!(
                "`{name}` can be read only once, and some of it was read before the checkpoint"
            ))
            .with_help("start from the beginning with `--from none`, and take a file if a job shall go on")),
        }
    }

    /// None for what can be read only once, and for a file that cannot be read any more, as the next poll will tell.
    fn identity(&self) -> Option<Identity> {
        let file = self.file.as_deref()?;
        let end = self.part.end.min(length(file)?);
        let sampled = match self.sampled.get() {
            Some(&sampled) => sampled,
            None => {
                let sampled = sample(file, self.part.start, end).ok()?;
                *self.sampled.get_or_init(|| sampled)
            }
        };
        Identity::new(file, sampled, self.position.offset).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_specs_round_trip() {
        let part = Part { path: PathBuf::from("/a/ä b.csv"), start: 7, end: u64::MAX };
        let split = part.split("id".into()).unwrap();
        assert_eq!(Part::decode(&split.spec).unwrap(), part);
        assert!(Part::decode(b"short").is_err());
    }
}
