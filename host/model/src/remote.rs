//! Folders of objects as connectors use them: files on S3.
//!
//! Laws: an upload shows nothing until it is completed, and completing it can be repeated, also by another process; what is
//! neither completed nor abandoned stays under way and can be found.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::checkpoint::ObjectStore;
use crate::fault::Fault;

/// An object whose bytes the server has, and that nobody sees yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upload {
    pub name: String,
    /// The server's.
    pub id: String,
    pub bytes: u64,
    /// In order: what the server said of each part.
    pub parts: Vec<UploadedPart>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadedPart {
    pub etag: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crc32: Option<String>,
}

/// What completing an upload came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completed {
    Now,
    /// By an earlier call.
    Before,
    /// Neither the upload nor the object is there.
    Gone,
}

/// A folder of a bucket. Calls block.
pub trait RemoteFolder: ObjectStore {
    /// Brings a file to the server without showing it.
    fn upload(&self, name: &str, path: &Path) -> Result<Upload, Fault>;
    /// Makes it visible. A server may have lost the parts of an upload whose completion was cut off: they come from the `file` again, if
    /// it is still there.
    fn complete(&self, upload: &Upload, file: Option<&Path>) -> Result<Completed, Fault>;
    /// Gives it up: object name and id. One that is not there is no error.
    fn abandon(&self, name: &str, id: &str) -> Result<(), Fault>;
    /// Object names and ids of uploads under way in this folder, as far as the server tells: MinIO does not, and ends old ones
    /// itself.
    fn uploads(&self) -> Result<Vec<(String, String)>, Fault>;
}

/// Which server, where that is not what the environment says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RemotePlace {
    pub endpoint: Option<String>,
    pub region: Option<String>,
}

/// Opens folders.
pub trait Remotes: Send + Sync {
    /// A folder of a bucket; an empty one is the bucket itself. Asks the server nothing yet.
    fn open(&self, bucket: &str, folder: &str, place: &RemotePlace) -> Result<Arc<dyn RemoteFolder>, Fault>;
    /// A directory of this machine, of this user alone, for files on their way there and back.
    fn temporary(&self) -> Result<PathBuf, Fault>;
}
