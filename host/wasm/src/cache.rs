//! Compiled components on disk, so that a start costs milliseconds.
//!
//! Laws: machine code is loaded from this folder only, which no other user may write to; a file appears
//! whole or not at all (rename); a file that does not match its checksum is not loaded, but made anew.
//! The key is the component's digest and the engine's compatibility hash, so nothing is ever stale.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;
use std::{fs, process};

use wasmtime::Engine;
use wasmtime::component::Component;
use xxhash_rust::xxh3::xxh3_64;

/// Marks the format of the files: this, the checksum of the rest (u64, little-endian), the rest.
const MAGIC: &[u8; 8] = b"TMWASM01";
const HEADER: usize = 16;
/// Compiled components kept; the oldest go first. Some tens of MB for Rust, the odd 100 MB for Python.
const FILES_MAX: usize = 64;
const SUFFIX: &str = "cwasm";

/// A folder of compiled components for one engine.
#[derive(Debug)]
pub(crate) struct Cache {
    folder: PathBuf,
    compatibility: u64,
}

impl Cache {
    /// The cache below `folder`. `Err`: it can't be made or trusted, and things go on without.
    pub(crate) fn open(folder: &Path, engine: &Engine) -> io::Result<Self> {
        let folder = folder.join("components");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        let about = fs::metadata(&folder)?;
        if about.uid() != rustix::process::geteuid().as_raw() || about.mode() & 0o022 != 0 {
            let text = format!("{} can be written to by other users, so code in it is not trusted", folder.display());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        Ok(Self { folder, compatibility: hasher.finish() })
    }

    /// The compiled component with this digest, if it is here and whole.
    pub(crate) fn load(&self, engine: &Engine, digest: &str) -> Option<Component> {
        let path = self.path(digest);
        let bytes = fs::read(&path).ok()?;
        let loaded = match checked(&bytes) {
            // SAFETY: the bytes were written by `store` of this process's user into a folder that only this
            // user can write to, and are whole; the runtime itself refuses those of another version.
            Some(code) => unsafe { Component::deserialize(engine, code) }.map_err(|error| error.to_string()),
            None => Err("it is damaged".to_owned()),
        };
        loaded.map_err(|error| tracing::warn!("compiling anew: {} is not used: {error}", path.display())).ok()
    }

    /// Keeps a compiled component. Never fails: without a cache the next start is slower, nothing else.
    pub(crate) fn store(&self, digest: &str, component: &Component) {
        let stored = component.serialize().map_err(io::Error::other).and_then(|code| self.write(digest, &code));
        if let Err(error) = stored {
            tracing::warn!("no compiled component kept in {}: {error}", self.folder.display());
        }
        self.prune();
    }

    fn write(&self, digest: &str, code: &[u8]) -> io::Result<()> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let unique = format!("{}-{}.tmp", process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let temporary = self.folder.join(unique);
        let mut bytes = Vec::with_capacity(HEADER + code.len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&xxh3_64(code).to_le_bytes());
        bytes.extend_from_slice(code);
        let written = fs::write(&temporary, bytes).and_then(|()| fs::rename(&temporary, self.path(digest)));
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written
    }

    fn path(&self, digest: &str) -> PathBuf {
        self.folder.join(format!("{digest}-{:016x}.{SUFFIX}", self.compatibility))
    }

    fn prune(&self) {
        let Ok(entries) = fs::read_dir(&self.folder) else { return };
        let mut files: Vec<(SystemTime, PathBuf)> = entries
            .flatten()
            .filter(|e| e.path().extension().is_some_and(|x| x == SUFFIX))
            .filter_map(|e| Some((e.metadata().ok()?.modified().ok()?, e.path())))
            .collect();
        files.sort();
        for (_, path) in files.iter().take(files.len().saturating_sub(FILES_MAX)) {
            let _ = fs::remove_file(path);
        }
    }
}

/// The code behind an intact header.
fn checked(bytes: &[u8]) -> Option<&[u8]> {
    let (header, code) = bytes.split_at_checked(HEADER)?;
    let checksum = u64::from_le_bytes(header[8..].try_into().ok()?);
    (header.starts_with(MAGIC) && xxh3_64(code) == checksum).then_some(code)
}
