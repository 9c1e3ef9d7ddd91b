//! Files whose errors say which file it was, how much has been read or written, and directories that outlive a power cut.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes that went through a file so far.
#[derive(Clone, Debug, Default)]
pub(super) struct ByteCount(Arc<AtomicU64>);

impl ByteCount {
    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

pub(super) struct InputFile {
    file: Arc<File>,
    count: ByteCount,
}

impl InputFile {
    pub(super) fn new(file: File, count: ByteCount) -> Self {
        Self { file: Arc::new(file), count }
    }

    /// The same open file, whatever its name has become.
    pub(super) fn handle(&self) -> Arc<File> {
        self.file.clone()
    }
}

impl Read for InputFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = (&*self.file).read(buffer)?;
        self.count.add(got);
        Ok(got)
    }
}

impl Seek for InputFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        (&*self.file).seek(to)
    }
}

pub(super) struct OutputFile {
    file: File,
    path: PathBuf,
    count: ByteCount,
}

impl OutputFile {
    pub(super) fn new(file: File, path: &Path, count: ByteCount) -> Self {
        Self { file, path: path.to_owned(), count }
    }

    fn name<T>(&self, result: io::Result<T>) -> io::Result<T> {
        result.map_err(|e| io::Error::new(e.kind(), format!("`{}`: {e}", self.path.display())))
    }
}

impl Write for OutputFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let result = self.file.write(bytes);
        let written = self.name(result)?;
        self.count.add(written);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        let result = self.file.flush();
        self.name(result)
    }
}

/// Makes a directory and those above it that are missing. Each is durable: its name is synced where it stands.
pub(super) fn make_directory(path: &Path) -> io::Result<()> {
    match make_one(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            make_directory(parent(path))?;
            make_one(path)
        }
        made => made,
    }
}

fn make_one(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Ok(()) => sync_directory(parent(path)),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(e) => Err(e),
    }
}

/// Makes names in a directory durable: new ones, and those that were changed.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// The directory that a file or directory stands in.
pub(super) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    }
}
