//! What the pipeline file says about files.

use serde::Deserialize;
use serde_json::{Map, Value};
use tidemill_model::ConfigError;
use tidemill_model::config::{ByteSize, ConfigContext, DurationMs};
use tidemill_model::format::FormatRef;

use crate::columns::Columns;

/// Settings of a `file` source. Settings of the format may stand beside them or under `options`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileSourceSettings {
    /// A file, a glob (`data/*.csv`, `data/**/*.parquet`) or a directory, which is read with all below it.
    /// Relative to the pipeline file. Files and directories whose names begin with `.` or `_` are passed over
    /// unless they are named literally. `.gz` and `.zst` files of text formats are decompressed. `s3://BUCKET/...`: objects, with
    /// the same globs; each is fetched to this machine when its turn comes.
    pub path: String,
    /// Of a server that speaks S3; by default what the environment says, or AWS.
    pub endpoint: Option<String>,
    /// Of the bucket; by default what the environment says.
    pub region: Option<String>,
    /// `csv`, `ndjson` or `parquet`. By default what the ending of `path` says.
    pub format: Option<String>,
    /// Settings of the format.
    pub options: Option<Map<String, Value>>,
    /// The columns to read, by name: `{id: int64, name: utf8?}` (`?`: may be null), or a list of such maps.
    /// By default what the first file shows.
    pub columns: Option<Columns>,
    /// Cuts large files into parts of about this size that several workers read at once: `64MiB`. By default a file is
    /// read by one worker, in order. Compressed files, and CSV files with `multiline`, are never cut.
    pub split_size: Option<ByteSize>,
}

/// Settings of a `file` sink. Settings of the format may stand beside them or under `options`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileSinkSettings {
    /// The directory that `part-WORKER-NUMBER.ENDING` files are written to; made if it is missing. Relative to the
    /// pipeline file. Files that are there already are kept. A file is hidden until it is complete. `s3://BUCKET/FOLDER`: objects,
    /// which appear when their upload is completed.
    pub path: String,
    /// Of a server that speaks S3; by default what the environment says, or AWS.
    pub endpoint: Option<String>,
    /// Of the bucket; by default what the environment says.
    pub region: Option<String>,
    /// `csv`, `ndjson` or `parquet`.
    pub format: String,
    /// Settings of the format.
    pub options: Option<Map<String, Value>>,
    /// Begins a new file after this many rows.
    pub roll_rows: Option<u64>,
    /// Begins a new file after this many bytes: `128MiB`.
    pub roll_bytes: Option<ByteSize>,
    /// Finishes a file when it has been open for this long: `15m`. Looked at when rows come or a tick has none.
    pub roll_interval: Option<DurationMs>,
    /// Directories by event time and columns.
    pub bucket: Option<BucketSettings>,
    /// Files that a worker has open at once; 64 by default. One more, and the file that was written to least recently is
    /// finished.
    pub open_files: Option<usize>,
    /// What a file means that was to be committed before the job was restarted, and is there neither hidden nor visible.
    #[serde(default)]
    pub missing_files: MissingFiles,
}

/// Directories below `path`: first those by time, then one per column.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BucketSettings {
    /// `dt=%Y-%m-%d/hour=%H`: of the row's event time, in UTC.
    pub time: Option<String>,
    /// `[country]` makes `country=DE`.
    #[serde(default)]
    pub columns: Vec<String>,
    /// Whether the columns are in the files as well.
    #[serde(default = "yes")]
    pub keep_columns: bool,
}

fn yes() -> bool {
    true
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MissingFiles {
    /// Its rows are lost: the job fails.
    #[default]
    Fail,
    /// It was committed, and a reader has taken it away since.
    Ignore,
}

/// Endings of file names and the formats that they stand for.
const ENDINGS: &[(&str, &str)] =
    &[("csv", "csv"), ("ndjson", "ndjson"), ("jsonl", "ndjson"), ("json", "ndjson"), ("parquet", "parquet")];

/// Takes settings apart: those in `own`, and the rest, which is for the format.
pub(super) fn divide(settings: &Value, own: &[&str]) -> Result<(Value, Map<String, Value>), ConfigError> {
    let Value::Object(all) = settings else {
        return Err(ConfigError::new(&[], "expected a map of settings, such as `{ path: data.csv, format: csv }`"));
    };
    let (mine, rest): (Vec<_>, Vec<_>) = all.clone().into_iter().partition(|(key, _)| own.contains(&key.as_str()));
    Ok((Value::Object(mine.into_iter().collect()), rest.into_iter().collect()))
}

/// The format with its settings, wherever they stand.
pub(super) fn format(
    name: &str,
    beside: Map<String, Value>,
    under: Option<&Map<String, Value>>,
    own: &[&str],
    context: &ConfigContext,
) -> Result<FormatRef, ConfigError> {
    let mut options = beside;
    for (key, value) in under.into_iter().flatten() {
        if options.insert(key.clone(), value.clone()).is_some() {
            return Err(ConfigError::new(
                &["options", key],
                format!("`{key}` is set twice: here and beside `options`"),
            ));
        }
    }
    context.formats.make(name, &Value::Object(options)).map_err(|mut error| {
        let key = error.path.first().or(error.name.as_ref());
        if under.zip(key).is_some_and(|(under, key)| under.contains_key(key)) {
            return error.inside("options");
        }
        // Where the name of a setting is wrong, those of the connector, which stand beside it, would be right, too.
        if error.name.is_some() && error.path.first().is_none_or(|key| Some(key) == error.name.as_ref()) {
            error.candidates.extend(own.iter().map(|&name| name.to_owned()));
        }
        error
    })
}

/// The format that the ending of a path stands for.
pub(super) fn format_by_ending(path: &str, context: &ConfigContext) -> Result<String, ConfigError> {
    let lower = path.to_ascii_lowercase();
    let plain = lower.strip_suffix(".gz").or(lower.strip_suffix(".zst")).unwrap_or(&lower);
    let found = ENDINGS.iter().find(|(ending, _)| plain.strip_suffix(ending).is_some_and(|p| p.ends_with('.')));
    found.map(|(_, format)| (*format).to_owned()).ok_or_else(|| {
        let names = context.formats.names().join(", ");
        ConfigError::new(&["path"], format!("`{path}` does not end in the name of a format"))
            .with_help(format!("add `format`: {names}"))
    })
}
