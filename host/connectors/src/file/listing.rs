//! Which files a path names.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use tidemill_model::Fault;

/// A path from the pipeline file.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    /// As written, for messages.
    text: String,
    base: PathBuf,
}

impl Pattern {
    pub(super) fn new(text: &str, base: &Path) -> Self {
        Self { text: text.to_owned(), base: base.to_owned() }
    }

    /// Name of a file in split ids and messages: relative to the pipeline file if it lies below it.
    pub(super) fn show<'a>(&self, file: &'a Path) -> std::borrow::Cow<'a, str> {
        file.strip_prefix(&self.base).unwrap_or(file).to_string_lossy()
    }

    /// All files, sorted by name; an error if there is none.
    pub(super) fn files(&self) -> Result<Vec<PathBuf>, Fault> {
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
