//! Objects in a bucket, on S3 or whatever speaks its protocol.
//!
//! Laws: those of [`ObjectStore`]; S3 shows an object when it is whole, and lists and reads what was written before.
//! `create` is a conditional request (`If-None-Match: *`); a server that ignores the condition is found out with the
//! first call, before anything relies on it. Calls block; the requests run on a small runtime of their own.

mod client;
mod faults;
mod upload;

use std::fs::{self, File};
use std::future::Future;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{Delete, ObjectIdentifier};
use tidemill_model::Fault;
use tidemill_model::checkpoint::ObjectStore;
use tidemill_model::remote::{Completed, RemoteFolder, RemotePlace, Remotes, Upload, UploadedPart};
use tokio::runtime::Runtime;

use crate::{StoreOptions, names};
use faults::Faults;

/// Larger contents are uploaded in parts.
const PART_BYTES: usize = 16 << 20;
/// Of a removal, by the protocol.
const REMOVED_MAX: usize = 1000;
/// The SDK repeats requests; a connection that breaks within an answer is ours to repeat.
const READS_MAX: usize = 4;
/// Writers that want the same name at once.
const CONFLICTS_MAX: usize = 20;
/// Attempts to complete an upload that somebody else is completing, and the pause between two. From one of them on nobody is
/// expected any more, and the parts are sent again.
const COMPLETIONS_MAX: usize = 30;
const COMPLETION_PAUSE: Duration = Duration::from_millis(100);
const REPAIR_FROM: usize = 5;
/// Requests are waited for, not computed.
const RUNTIME_THREADS: usize = 2;

pub struct Bucket {
    runtime: Runtime,
    client: Client,
    bucket: String,
    /// Empty, or ends with `/`.
    prefix: String,
    faults: Faults,
    /// Whether the server was seen to refuse a second creation.
    conditional: Mutex<bool>,
}

impl Bucket {
    /// Does not ask the server for anything yet.
    pub fn open(bucket: &str, prefix: &str, options: &StoreOptions) -> Result<Self, Fault> {
        if !prefix.is_empty() {
            names::check(prefix)?;
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(RUNTIME_THREADS)
            .thread_name("s3")
            .enable_all()
            .build()
            .map_err(|e| Fault::io(format!("cannot start threads for requests to S3: {e}")))?;
        let client = runtime.block_on(client::connect(options));
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        let faults = Faults { place: format!("s3://{bucket}/{prefix}"), bucket: bucket.to_owned() };
        Ok(Self { runtime, client, bucket: bucket.to_owned(), prefix, faults, conditional: Mutex::new(false) })
    }

    /// Creates the bucket, for tests: a job never does.
    pub fn create_bucket(&self) -> Result<(), Fault> {
        let request = self.client.create_bucket().bucket(&self.bucket).send();
        self.wait(request).map(drop).map_err(|e| self.faults.of("create the bucket of", "", e))
    }

    fn key(&self, name: &str) -> Result<String, Fault> {
        names::check(name)?;
        Ok(format!("{}{name}", self.prefix))
    }

    fn wait<T>(&self, request: impl Future<Output = T>) -> T {
        self.runtime.block_on(request)
    }

    /// One conditional creation: true if it wrote, false if something was there.
    fn create_once(&self, name: &str, content: &[u8]) -> Result<bool, Fault> {
        let key = self.key(name)?;
        for _ in 0..CONFLICTS_MAX {
            let request = self.client.put_object().bucket(&self.bucket).key(&key).if_none_match("*");
            match self.wait(request.body(ByteStream::from(content.to_vec())).send()) {
                Ok(_) => return Ok(true),
                Err(e) if status(&e) == Some(412) => return Ok(false),
                // Others are at the same name this moment: the answer is to ask again.
                Err(e) if status(&e) == Some(409) => {}
                Err(e) => return Err(self.faults.of("create", name, e)),
            }
        }
        Err(Fault::io(format!("cannot create `{}`: others try the same all the time", self.location(name)))
            .with_help("see that not many copies of this job are being started"))
    }

    /// Fault if this server takes a second creation of the same object: nothing would be safe on it.
    fn check_conditional(&self) -> Result<(), Fault> {
        let mut seen = self.conditional.lock().unwrap_or_else(PoisonError::into_inner);
        if !*seen {
            let name = format!("probe-{}", crate::unique());
            let twice = self.create_once(&name, b"1")? && self.create_once(&name, b"2")?;
            self.delete(std::slice::from_ref(&name))?;
            if twice {
                return Err(Fault::io(format!(
                    "the server of `{}` ignores the condition `If-None-Match: *`",
                    self.faults.place
                ))
                .with_help("use a server that has conditional writes, as S3 and MinIO do, or a directory"));
            }
            *seen = true;
        }
        Ok(())
    }

    /// Reads an object into `to`; what it returns is called anew if the connection breaks. False if there is no object.
    fn read<W: Write>(&self, name: &str, mut to: impl FnMut() -> Result<W, Fault>) -> Result<Option<W>, Fault> {
        let key = self.key(name)?;
        let mut broken = None;
        for _ in 0..READS_MAX {
            let request = self.client.get_object().bucket(&self.bucket).key(&key).send();
            let mut answer = match self.wait(request) {
                Ok(answer) => answer,
                Err(e) if e.code() == Some("NoSuchKey") => return Ok(None),
                Err(e) => return Err(self.faults.of("read", name, e)),
            };
            let mut to = to()?;
            let copied = self.wait(async {
                while let Some(piece) = answer.body.next().await {
                    to.write_all(&piece?)?;
                }
                to.flush()
            });
            match copied {
                Ok(()) => return Ok(Some(to)),
                Err(e) => broken = Some(e),
            }
        }
        let broken = broken.map(|e| e.to_string()).unwrap_or_default();
        Err(Fault::io(format!("cannot read `{}`: {broken}", self.location(name)))
            .with_help("see whether the connection to the server is stable and the disk has space"))
    }

    /// The parts of an upload once more. None: the file is not there, or another one; or the upload is gone by now.
    fn send_again(&self, upload: &Upload, key: &str, path: &Path) -> Result<Option<Vec<UploadedPart>>, Fault> {
        let Some((file, bytes)) = opened(path).ok().filter(|(_, bytes)| *bytes as u64 == upload.bytes) else {
            return Ok(None);
        };
        let part = |start, bytes| read_at(&file, path, start, bytes);
        let sent = self.wait(upload::send(self, &upload.name, key, &upload.id, bytes, part));
        match sent {
            Ok(parts) => Ok(Some(parts)),
            // The next attempt says what has become of it.
            Err(fault) if fault.message.contains("NoSuchUpload") => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    fn list_keys(&self, prefix: &str) -> Result<Vec<(String, u64)>, Fault> {
        self.wait(async {
            let request = self.client.list_objects_v2().bucket(&self.bucket).prefix(format!("{}{prefix}", self.prefix));
            let (mut pages, mut names) = (request.into_paginator().send(), Vec::new());
            while let Some(page) = pages.next().await {
                for object in page.map_err(|e| self.faults.of("list", prefix, e))?.contents() {
                    let name = object.key().and_then(|key| key.strip_prefix(&self.prefix));
                    let bytes = object.size().and_then(|size| u64::try_from(size).ok());
                    names.extend(name.map(|name| (name.to_owned(), bytes.unwrap_or(0))));
                }
            }
            Ok(names)
        })
    }
}

impl ObjectStore for Bucket {
    fn location(&self, name: &str) -> String {
        format!("{}{name}", self.faults.place)
    }

    fn put(&self, name: &str, content: &[u8]) -> Result<(), Fault> {
        let key = self.key(name)?;
        if content.len() > PART_BYTES {
            let part = |start: usize, bytes: usize| Ok(content[start..start + bytes].to_vec());
            return self.wait(upload::parts(self, name, key, content.len(), part));
        }
        let request = self.client.put_object().bucket(&self.bucket).key(key).body(ByteStream::from(content.to_vec()));
        self.wait(request.send()).map(drop).map_err(|e| self.faults.of("write", name, e))
    }

    fn put_file(&self, name: &str, path: &Path) -> Result<(), Fault> {
        let (file, bytes) = opened(path)?;
        if bytes <= PART_BYTES {
            return self.put(name, &read_at(&file, path, 0, bytes)?);
        }
        let part = |start: usize, bytes: usize| read_at(&file, path, start, bytes);
        self.wait(upload::parts(self, name, self.key(name)?, bytes, part))
    }

    fn create(&self, name: &str, content: &[u8]) -> Result<bool, Fault> {
        names::check(name)?;
        self.check_conditional()?;
        self.create_once(name, content)
    }

    fn get(&self, name: &str) -> Result<Option<Vec<u8>>, Fault> {
        self.read(name, || Ok(Vec::new()))
    }

    fn get_file(&self, name: &str, path: &Path) -> Result<bool, Fault> {
        let create = || {
            File::create(path).map_err(|e| {
                Fault::io(format!("cannot write `{}`: {e}", path.display())).with_help("see whether the disk is full")
            })
        };
        let written = self.read(name, create)?;
        if written.is_none() && path.exists() {
            fs::remove_file(path).map_err(|e| Fault::io(format!("cannot remove `{}`: {e}", path.display())))?;
        }
        Ok(written.is_some())
    }

    fn size(&self, name: &str) -> Result<Option<u64>, Fault> {
        let request = self.client.head_object().bucket(&self.bucket).key(self.key(name)?).send();
        match self.wait(request) {
            Ok(answer) => Ok(answer.content_length().and_then(|bytes| u64::try_from(bytes).ok())),
            Err(e) if status(&e) == Some(404) => Ok(None),
            Err(e) => Err(self.faults.of("look at", name, e)),
        }
    }

    fn list(&self, prefix: &str) -> Result<Vec<(String, u64)>, Fault> {
        let mut names = self.list_keys(prefix)?;
        names.sort();
        Ok(names)
    }

    fn delete(&self, names: &[String]) -> Result<(), Fault> {
        for names in names.chunks(REMOVED_MAX) {
            let keys: Vec<String> = names.iter().map(|name| self.key(name)).collect::<Result<_, _>>()?;
            let objects = keys.into_iter().map(|key| ObjectIdentifier::builder().key(key).build());
            let objects = objects.collect::<Result<Vec<_>, _>>().map_err(|e| Fault::internal(e.to_string()))?;
            let delete = Delete::builder().set_objects(Some(objects)).quiet(true).build();
            let delete = delete.map_err(|e| Fault::internal(e.to_string()))?;
            let request = self.client.delete_objects().bucket(&self.bucket).delete(delete).send();
            let answer = self.wait(request).map_err(|e| self.faults.of("remove objects of", "", e))?;
            if let Some(error) = answer.errors().iter().find(|error| error.code() != Some("NoSuchKey")) {
                let text = error.message().or(error.code()).unwrap_or("no reason given");
                let name = error.key().unwrap_or_default();
                return Err(self.faults.coded("remove", name, error.code().unwrap_or_default(), text));
            }
        }
        Ok(())
    }
}

impl RemoteFolder for Bucket {
    fn upload(&self, name: &str, path: &Path) -> Result<Upload, Fault> {
        let (file, bytes) = opened(path)?;
        self.wait(upload::begin(self, name, self.key(name)?, bytes, |start, bytes| read_at(&file, path, start, bytes)))
    }

    fn complete(&self, upload: &Upload, file: Option<&Path>) -> Result<Completed, Fault> {
        let key = self.key(&upload.name)?;
        let mut parts = upload::parts_of(&upload.parts);
        let mut attempts = 0;
        loop {
            let refused = match self.wait(upload::complete(self, &key, &upload.id, parts.clone())) {
                Ok(()) => return Ok(Completed::Now),
                Err(e) if e.code() == Some("NoSuchUpload") => None,
                // Parts are gone while somebody else completes the same upload: MinIO says so for a moment. It says so for
                // ever if that somebody was killed meanwhile.
                Err(e) if e.code() == Some("InvalidPart") => Some(e),
                Err(e) => return Err(self.faults.of("write", &upload.name, e)),
            };
            attempts += 1;
            match (self.size(&upload.name)?, refused) {
                (Some(bytes), _) if bytes == upload.bytes => return Ok(Completed::Before),
                (_, None) => return Ok(Completed::Gone),
                (_, Some(e)) if attempts >= COMPLETIONS_MAX => {
                    let help = "the server has lost what was uploaded, and the file that it came from is not on this machine: its \
                                rows can only be had from an earlier checkpoint";
                    let fault = self.faults.of("write", &upload.name, e);
                    return Err(Fault { help: Some(help.into()), ..fault });
                }
                (_, Some(_)) => std::thread::sleep(COMPLETION_PAUSE),
            }
            if attempts >= REPAIR_FROM
                && let Some(again) = file.map(|file| self.send_again(upload, &key, file)).transpose()?.flatten()
            {
                parts = upload::parts_of(&again);
            }
        }
    }

    fn abandon(&self, name: &str, id: &str) -> Result<(), Fault> {
        let key = self.key(name)?;
        let request = self.client.abort_multipart_upload().bucket(&self.bucket).key(key).upload_id(id).send();
        match self.wait(request) {
            Ok(_) => Ok(()),
            Err(e) if e.code() == Some("NoSuchUpload") => Ok(()),
            Err(e) => Err(self.faults.of("give up the upload of", name, e)),
        }
    }

    fn uploads(&self) -> Result<Vec<(String, String)>, Fault> {
        let (mut found, mut after) = (Vec::new(), None::<(String, String)>);
        loop {
            // Of the whole bucket: to MinIO a prefix is the whole name, and what was left behind would never be found.
            let mut request = self.client.list_multipart_uploads().bucket(&self.bucket);
            if let Some((key, id)) = &after {
                request = request.key_marker(key).upload_id_marker(id);
            }
            let page = self.wait(request.send()).map_err(|e| self.faults.of("list uploads of", "", e))?;
            for upload in page.uploads() {
                let name = upload.key().and_then(|key| key.strip_prefix(&self.prefix));
                found.extend(name.zip(upload.upload_id()).map(|(name, id)| (name.to_owned(), id.to_owned())));
            }
            match (page.is_truncated(), page.next_key_marker(), page.next_upload_id_marker()) {
                (Some(true), Some(key), Some(id)) => after = Some((key.to_owned(), id.to_owned())),
                _ => return Ok(found),
            }
        }
    }
}

/// Opens buckets for connectors.
pub struct Buckets;

impl Remotes for Buckets {
    fn open(&self, bucket: &str, folder: &str, place: &RemotePlace) -> Result<Arc<dyn RemoteFolder>, Fault> {
        let RemotePlace { endpoint, region } = place.clone();
        Ok(Arc::new(Bucket::open(bucket, folder, &StoreOptions { endpoint, region, ..StoreOptions::default() })?))
    }

    fn temporary(&self) -> Result<PathBuf, Fault> {
        crate::temporary_folder()
    }
}

/// A file and its length.
fn opened(path: &Path) -> Result<(File, usize), Fault> {
    let opened = File::open(path).and_then(|file| file.metadata().map(|about| (file, about.len() as usize)));
    opened.map_err(|e| unreadable(path, &e))
}

fn read_at(file: &File, path: &Path, start: usize, bytes: usize) -> Result<Vec<u8>, Fault> {
    let mut content = vec![0; bytes];
    let read = std::os::unix::fs::FileExt::read_exact_at(file, &mut content, start as u64);
    read.map(|()| content).map_err(|e| unreadable(path, &e))
}

fn unreadable(path: &Path, error: &std::io::Error) -> Fault {
    Fault::io(format!("cannot read `{}`: {error}", path.display())).with_help("see whether somebody removed it")
}

/// HTTP status of the answer, if there was one.
fn status<E>(error: &SdkError<E>) -> Option<u16> {
    error.raw_response().map(|answer| answer.status().as_u16())
}

/// The store of a bucket, as `s3://bucket/prefix` names it.
pub fn open(bucket: &str, prefix: &str, options: &StoreOptions) -> Result<Arc<dyn ObjectStore>, Fault> {
    Ok(Arc::new(Bucket::open(bucket, prefix, options)?))
}
