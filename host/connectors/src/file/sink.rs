//! The sink end of `file`: part files, hidden until they are committed.
//!
//! Laws: nothing is visible before `commit`, which can be repeated, also by a later run; hidden files that nobody will
//! commit any more are removed when the job starts the next time.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arrow::datatypes::SchemaRef;
use serde_json::Value;
use tidemill_model::config::{ConfigContext, read};
use tidemill_model::remote::RemotePlace;
use tidemill_model::sink::{Committable, Sink, SinkWriter};
use tidemill_model::{ConfigError, Fault};

use super::bucket::{Bucketing, Buckets};
use super::part::{Part, Shown, show_all};
use super::remote::{self, RemoteSink, SharedRemoteSink};
use super::run::Run;
use super::settings::{self, BucketSettings, FileSinkSettings, MissingFiles};
use super::time_pattern::TimePattern;
use super::writer::{PartWriter, Rolling, Target};

const OWN: &[&str] = &[
    "path",
    "format",
    "options",
    "roll_rows",
    "roll_bytes",
    "roll_interval",
    "bucket",
    "open_files",
    "missing_files",
    "endpoint",
    "region",
];
/// Files that a writer has open at once, if nothing else is said: of a process's 1024, a dozen writers take most.
const OPEN_FILES: usize = 64;

/// See [`FileSinkSettings`].
pub fn sink(settings: &Value, context: &ConfigContext) -> Result<Arc<dyn Sink>, ConfigError> {
    build(settings, context, Instant::now)
}

fn build(settings: &Value, context: &ConfigContext, clock: fn() -> Instant) -> Result<Arc<dyn Sink>, ConfigError> {
    let (own, beside) = settings::divide(settings, OWN)?;
    let own: FileSinkSettings = read(&own)?;
    let format = settings::format(&own.format, beside, own.options.as_ref(), OWN, context)?;
    for (key, limit) in [("roll_rows", own.roll_rows), ("roll_bytes", own.roll_bytes.map(|b| b.0))] {
        if limit == Some(0) {
            return Err(ConfigError::new(&[key], "a file must hold at least one row"));
        }
    }
    let age = own.roll_interval.map(|age| u64::try_from(age.0).ok().filter(|&ms| ms > 0));
    let Some(age_ms) = age.unwrap_or(Some(u64::MAX)) else {
        return Err(ConfigError::new(&["roll_interval"], "must be 1ms or more"));
    };
    if own.open_files == Some(0) {
        return Err(ConfigError::new(&["open_files"], "at least one file must be open"));
    }
    let place = RemotePlace { endpoint: own.endpoint, region: own.region };
    let is_remote = remote::is_remote(&own.path);
    if !is_remote && place != RemotePlace::default() {
        let key = if place.endpoint.is_some() { "endpoint" } else { "region" };
        return Err(ConfigError::new(&[key], format!("`{key}` is for paths that begin with s3://")));
    }
    let directory = if is_remote { remote::spool(&own.path, context)? } else { context.base.join(&own.path) };
    let rolling = Rolling {
        rows: own.roll_rows.unwrap_or(u64::MAX),
        bytes: own.roll_bytes.map_or(u64::MAX, |b| b.0),
        age: if age_ms == u64::MAX { Duration::MAX } else { Duration::from_millis(age_ms) },
    };
    let open_files = own.open_files.unwrap_or(OPEN_FILES);
    let target = Target { run: Run::new(&directory), directory: directory.clone(), format, rolling, open_files, clock };
    let local = FileSink {
        target: Arc::new(target),
        bucketing: own.bucket.map(bucketing).transpose()?,
        missing_files: own.missing_files,
        first_number: AtomicU64::new(0),
    };
    if !is_remote {
        return Ok(Arc::new(local));
    }
    let (bucket, folder) = remote::take_apart(&own.path)?;
    let folder = remote::open(context, bucket, folder, &place)?;
    let (missing_files, state) = (own.missing_files, Mutex::default());
    Ok(Arc::new(SharedRemoteSink(Arc::new(RemoteSink { folder, local, spool: directory, missing_files, state }))))
}

fn bucketing(settings: BucketSettings) -> Result<Bucketing, ConfigError> {
    let BucketSettings { time, columns, keep_columns } = settings;
    if time.is_none() && columns.is_empty() {
        return Err(ConfigError::new(&["bucket"], "`bucket` needs `time`, `columns` or both"));
    }
    if let Some(again) = columns.iter().enumerate().find(|(i, name)| columns[..*i].contains(name)) {
        let path = ["bucket", "columns", &again.0.to_string()];
        return Err(ConfigError::new(&path, format!("column `{}` is named twice", again.1)));
    }
    let parse = |text: String| TimePattern::parse(&text).map_err(|e| ConfigError::new(&["bucket", "time"], e));
    Ok(Bucketing { time: time.map(parse).transpose()?, columns, keep_columns })
}

pub(super) struct FileSink {
    target: Arc<Target>,
    bucketing: Option<Bucketing>,
    missing_files: MissingFiles,
    /// Behind those of all files that were ever committed, as far as that is known.
    first_number: AtomicU64,
}

impl FileSink {
    fn buckets(&self, schema: &SchemaRef) -> Result<Option<Buckets>, Fault> {
        self.bucketing.as_ref().map(|bucketing| Buckets::new(bucketing, schema)).transpose()
    }

    /// The buckets, and the schema of the files.
    fn check(&self, schema: &SchemaRef) -> Result<(Option<Buckets>, SchemaRef), Fault> {
        let buckets = self.buckets(schema)?;
        let written = buckets.as_ref().map_or(schema, |buckets| &buckets.schema).clone();
        self.target.format.writer(Box::new(io::sink()), written.clone())?;
        Ok((buckets, written))
    }

    fn committed(&self, part: &Part, shown: Shown) -> Result<(), Fault> {
        match shown {
            Shown::Now | Shown::Before => self.target.run.leave(part),
            // It can't have been committed before if this run has not done it.
            Shown::Gone if self.missing_files == MissingFiles::Ignore && !self.target.run.has(part) => {}
            Shown::Gone => {
                return Err(part.fault("its data is gone").with_help(format!(
                    "neither it nor `{}` is there. If readers move or remove files that they have read, set \
                     `missing_files: ignore`; if not, somebody has removed rows that are not committed",
                    part.hidden.display()
                )));
            }
        }
        Ok(())
    }
}

impl Sink for FileSink {
    fn blocks(&self) -> bool {
        true
    }

    fn needs_times(&self) -> bool {
        self.bucketing.as_ref().is_some_and(|bucketing| bucketing.time.is_some())
    }

    fn accepts(&self, schema: &SchemaRef) -> Result<(), Fault> {
        self.check(schema).map(drop)
    }

    fn open(&self, worker: usize, _workers: usize, schema: SchemaRef) -> Result<Box<dyn SinkWriter>, Fault> {
        let (buckets, schema) = self.check(&schema)?;
        let first = self.first_number.load(Ordering::Relaxed);
        Ok(Box::new(PartWriter::new(self.target.clone(), schema, buckets, worker, first)?))
    }

    fn commit(&self, committables: &[Committable]) -> Result<(), Fault> {
        let parts = committables.iter().map(Part::decode).collect::<Result<Vec<_>, _>>()?;
        show_all(&parts, |part, shown| self.committed(part, shown))
    }

    fn discard(&self, committables: &[Committable]) {
        for part in committables.iter().filter_map(|c| Part::decode(c).ok()) {
            // What cannot be removed stays hidden.
            if std::fs::remove_file(&part.hidden).is_ok() {
                self.target.run.leave(&part);
            }
        }
    }

    fn recover(&self, owner: &str, named: Option<&[Committable]>) -> Result<(), Fault> {
        let Some(named) = named else {
            self.target.run.begin(owner);
            return Ok(());
        };
        let parts = named.iter().map(Part::decode).collect::<Result<Vec<_>, _>>()?;
        let behind = parts.iter().filter_map(|part| Some(part.number()? + 1)).max();
        self.first_number.store(behind.unwrap_or_default(), Ordering::Relaxed);
        let hidden = parts.iter().filter_map(|part| Some(part.hidden.file_name()?.to_owned())).collect();
        self.target.run.recover(owner, &hidden);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::LazyLock;

    use arrow::array::{ArrayRef, Int64Array, RecordBatch};
    use serde_json::json;
    use tidemill_model::Batch;

    use super::*;

    thread_local! {
        static NOW_MS: Cell<u64> = const { Cell::new(0) };
    }
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);

    fn clock() -> Instant {
        *START + Duration::from_millis(NOW_MS.get())
    }

    #[test]
    fn files_roll_by_their_age() {
        let folder = tempfile::tempdir().unwrap();
        let context = ConfigContext::new(folder.path(), Arc::new(tidemill_formats::BuiltIn));
        let settings = json!({"path": "", "format": "csv", "header": false, "roll_interval": "15m"});
        let sink = build(&settings, &context, clock).unwrap();
        let rows = |id: i64| {
            let column = Arc::new(Int64Array::from(vec![id])) as ArrayRef;
            Batch::new(RecordBatch::try_from_iter([("id", column)]).unwrap())
        };
        let mut writer = sink.open(0, 1, rows(0).schema()).unwrap();
        let minutes = |minutes: u64| NOW_MS.set(minutes * 60_000);
        for (at, id) in [(1, 1), (15, 2), (16, 3), (30, 4), (40, 5)] {
            minutes(at);
            writer.write(&rows(id)).unwrap();
        }
        // Old enough while no row comes.
        minutes(55);
        writer.flush().unwrap();
        writer.write(&rows(6)).unwrap();
        sink.commit(&writer.prepare(1).unwrap()).unwrap();
        let text = |n: u32| std::fs::read_to_string(folder.path().join(format!("part-0-{n}.csv"))).unwrap();
        assert_eq!([0, 1, 2, 3].map(text), ["1\n2\n", "3\n4\n", "5\n", "6\n"]);
    }
}
