//! Which files a path names.

use std::fs::{self, File};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tidemill_model::config::ConfigContext;
use tidemill_model::remote::{RemoteFolder, RemotePlace, Remotes};
use tidemill_model::{ConfigError, Fault};

use super::remote;
use super::source::open_fault;

/// A path from the pipeline file.
#[derive(Clone)]
pub(super) struct Pattern {
    /// As written, for messages.
    text: String,
    base: PathBuf,
    remote: Option<Objects>,
}

/// Objects of a bucket.
#[derive(Clone)]
struct Objects {
    folder: Arc<dyn RemoteFolder>,
    remotes: Arc<dyn Remotes>,
    /// `s3://BUCKET/FOLDER/`: what stands before the names of the folder.
    prefix: String,
    /// What is behind it in the path.
    below: String,
}

impl Pattern {
    pub(super) fn new(text: &str, context: &ConfigContext, place: &RemotePlace) -> Result<Self, ConfigError> {
        let remote = remote::is_remote(text).then(|| objects(text, context, place)).transpose()?;
        Ok(Self { text: text.to_owned(), base: context.base.clone(), remote })
    }

    /// Whether it is a regular file or an object, and its length.
    pub(super) fn about(&self, file: &Path) -> Result<(bool, u64), Fault> {
        let gone = |e: io::Error| Fault::io(format!("cannot open `{}`: {e}", self.show(file)));
        let Some((objects, name)) = self.object(file) else {
            let about = fs::metadata(file).map_err(gone)?;
            return Ok((about.is_file(), about.len()));
        };
        match objects.folder.size(name)? {
            Some(bytes) => Ok((true, bytes)),
            None => Err(gone(io::ErrorKind::NotFound.into())),
        }
    }

    /// Whether files have to be fetched before they can be read.
    pub(super) fn is_remote(&self) -> bool {
        self.remote.is_some()
    }

    /// Opens a file; an object is fetched, to a file that has no name any more.
    pub(super) fn open(&self, file: &Path) -> Result<File, Fault> {
        let failed = |e: io::Error| open_fault(&self.show(file), &e);
        let Some((objects, name)) = self.object(file) else { return File::open(file).map_err(failed) };
        let folder = objects.remotes.temporary()?;
        let number = FETCHED.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!("fetched-{}-{number}", std::process::id()));
        let fetched = objects.folder.get_file(name, &path);
        let opened = File::open(&path);
        let _ = fs::remove_file(&path);
        if !fetched? {
            return Err(failed(io::ErrorKind::NotFound.into()));
        }
        opened.map_err(failed)
    }

    fn object<'a>(&'a self, file: &'a Path) -> Option<(&'a Objects, &'a str)> {
        let objects = self.remote.as_ref()?;
        Some((objects, file.to_str()?.strip_prefix(&objects.prefix)?))
    }

    /// Name of a file in split ids and messages: relative to the pipeline file if it lies below it.
    pub(super) fn show<'a>(&self, file: &'a Path) -> std::borrow::Cow<'a, str> {
        file.strip_prefix(&self.base).unwrap_or(file).to_string_lossy()
    }

    /// All files, sorted by name; an error if there is none.
    pub(super) fn files(&self) -> Result<Vec<PathBuf>, Fault> {
        if let Some(objects) = &self.remote {
            return objects.files(&self.text);
        }
        let path = self.base.join(&self.text);
        let mut files = Vec::new();
        match fs::metadata(&path) {
            Ok(found) if found.is_dir() => walk(&path, &mut files)?,
            Ok(_) => files.push(path),
            Err(e) if e.kind() == io::ErrorKind::NotFound && self.is_glob() => self.matches(&mut files)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(Fault::config(format!("there is no file or directory `{}`", self.text)).with_help(
                    format!("it was looked for at {}", std::path::absolute(&path).unwrap_or(path).display()),
                ));
            }
            Err(e) => return Err(unreadable(&path, &e)),
        }
        if files.is_empty() {
            return Err(Fault::config(format!("no file matches `{}`", self.text))
                .with_help("names that begin with `.` or `_` do not count"));
        }
        files.sort();
        Ok(files)
    }

    fn is_glob(&self) -> bool {
        self.text.contains(['*', '?', '['])
    }

    fn matches(&self, files: &mut Vec<PathBuf>) -> Result<(), Fault> {
        let base = glob::Pattern::escape(&self.base.to_string_lossy());
        let full = Path::new(&base).join(&self.text);
        let found = glob::glob(&full.to_string_lossy())
            .map_err(|e| Fault::config(format!("`{}` is not a valid glob: {}", self.text, e.msg)))?;
        for path in found {
            let path = path.map_err(|e| unreadable(e.path(), e.error()))?;
            if path.is_file() && !self.is_passed_over(&path) {
                files.push(path);
            }
        }
        Ok(())
    }

    /// Whether a part of the path that is not named literally is hidden.
    fn is_passed_over(&self, path: &Path) -> bool {
        let literal = |name: &str| Path::new(&self.text).components().any(|c| c.as_os_str() == name);
        let below = path.strip_prefix(&self.base).unwrap_or(path);
        below.components().any(|c| match c {
            Component::Normal(name) => name.to_str().is_some_and(|name| is_hidden(name) && !literal(name)),
            _ => false,
        })
    }
}

static FETCHED: AtomicU64 = AtomicU64::new(0);

/// Where the first wildcard stands, the listing begins above it.
fn objects(text: &str, context: &ConfigContext, place: &RemotePlace) -> Result<Objects, ConfigError> {
    let (bucket, rest) = remote::take_apart(text)?;
    let literal = rest.find(['*', '?', '[']).map_or(rest, |wild| &rest[..wild]);
    let folder = literal.rsplit_once('/').map_or("", |(folder, _)| folder);
    let below = rest[folder.len()..].trim_start_matches('/').to_owned();
    let prefix = match folder {
        "" => format!("s3://{bucket}/"),
        folder => format!("s3://{bucket}/{folder}/"),
    };
    let remotes = remote::remotes(context)?.clone();
    Ok(Objects { folder: remote::open(context, bucket, folder, place)?, remotes, prefix, below })
}

impl Objects {
    fn files(&self, text: &str) -> Result<Vec<PathBuf>, Fault> {
        let literal = |name: &str| self.below.split('/').any(|part| part == name);
        let passed_over = |name: &str| name.split('/').any(|part| is_hidden(part) && !literal(part));
        let glob = glob::Pattern::new(&self.below)
            .map_err(|e| Fault::config(format!("`{text}` is not a valid glob: {}", e.msg)))?;
        let options = glob::MatchOptions { require_literal_separator: true, ..glob::MatchOptions::default() };
        let folder = if self.below.is_empty() { String::new() } else { format!("{}/", self.below) };
        let matches = |name: &str| name == self.below || name.starts_with(&folder) || glob.matches_with(name, options);
        let literal_part = self.below.find(['*', '?', '[']).map_or(self.below.as_str(), |wild| &self.below[..wild]);
        let listed = self.folder.list(literal_part)?;
        // What ends in a slash is what some tools make to show a folder.
        let names = listed.iter().map(|(name, _)| name).filter(|n| !n.ends_with('/') && matches(n) && !passed_over(n));
        let files: Vec<PathBuf> = names.map(|name| PathBuf::from(format!("{}{name}", self.prefix))).collect();
        if files.is_empty() {
            return Err(Fault::config(format!("no object matches `{text}`"))
                .with_help("names that begin with `.` or `_` do not count"));
        }
        Ok(files)
    }
}

/// Temporary files and files in the making: by convention readers pass them over.
fn is_hidden(name: &str) -> bool {
    name.starts_with(['.', '_'])
}

fn walk(directory: &Path, files: &mut Vec<PathBuf>) -> Result<(), Fault> {
    for entry in fs::read_dir(directory).map_err(|e| unreadable(directory, &e))? {
        let entry = entry.map_err(|e| unreadable(directory, &e))?;
        if entry.file_name().to_str().is_some_and(is_hidden) {
            continue;
        }
        let path = entry.path();
        match fs::metadata(&path) {
            Ok(found) if found.is_dir() => walk(&path, files)?,
            Ok(found) if found.is_file() => files.push(path),
            Ok(_) => {}
            // Removed since the directory was read.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(unreadable(&path, &e)),
        }
    }
    Ok(())
}

fn unreadable(path: &Path, error: &io::Error) -> Fault {
    Fault::io(format!("cannot read `{}`: {error}", path.display()))
}
