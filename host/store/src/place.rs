//! Where a store is, as people write it: `s3://bucket/prefix` or the path of a directory.

use std::path::Path;
use std::sync::Arc;

use tidemill_model::Fault;
use tidemill_model::checkpoint::ObjectStore;

use crate::Directory;

/// How to reach a bucket, where it is not on AWS or not where the environment says.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct StoreOptions {
    /// URL of a server that speaks S3. Buckets are then part of the path, not of the host's name.
    pub endpoint: Option<String>,
    pub region: Option<String>,
    /// Id and secret of an access key, where they don't come from the environment.
    pub keys: Option<(String, String)>,
}

impl std::fmt::Debug for StoreOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let id = self.keys.as_ref().map(|(id, _)| id);
        f.debug_struct("StoreOptions")
            .field("endpoint", &self.endpoint)
            .field("region", &self.region)
            .field("id", &id)
            .finish()
    }
}

/// Opens the store at `url`; a relative path begins at `base`.
pub fn open(url: &str, base: &Path, options: &StoreOptions) -> Result<Arc<dyn ObjectStore>, Fault> {
    match url.split_once("://") {
        Some(("s3", rest)) => {
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            if bucket.is_empty() {
                return Err(Fault::config(format!("`{url}` names no bucket")).with_help("write `s3://bucket/prefix`"));
            }
            bucket_store(bucket, prefix.trim_end_matches('/'), options)
        }
        Some((scheme, _)) => Err(Fault::config(format!("there is no store for `{scheme}://`, as in `{url}`"))
            .with_help("write the path of a directory, or `s3://bucket/prefix`")),
        None if url.is_empty() => {
            Err(Fault::config("a store has no place")
                .with_help("write the path of a directory, or `s3://bucket/prefix`"))
        }
        None => Ok(Arc::new(Directory::open(&base.join(url))?)),
    }
}

#[cfg(feature = "s3")]
use crate::s3::open as bucket_store;

#[cfg(not(feature = "s3"))]
fn bucket_store(bucket: &str, _: &str, _: &StoreOptions) -> Result<Arc<dyn ObjectStore>, Fault> {
    Err(Fault::config(format!("this build of Tidemill can't reach `s3://{bucket}`"))
        .with_help("build it with the feature `s3`, which is on by default, or use a directory"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_relative_to_the_base() {
        let base = tempfile::tempdir().unwrap();
        let options = StoreOptions::default();
        open("a/b", base.path(), &options).unwrap().put("x", b"1").unwrap();
        assert!(base.path().join("a/b/x").is_file());
        let absolute = base.path().join("c");
        open(&absolute.to_string_lossy(), Path::new("elsewhere"), &options).unwrap();
        assert!(absolute.is_dir());
    }

    #[test]
    fn what_is_no_place_is_refused_with_help() {
        for url in ["", "gs://bucket", "s3://", "s3:///prefix", "https://bucket"] {
            let Err(fault) = open(url, Path::new("."), &StoreOptions::default()) else { panic!("{url} was opened") };
            assert!(fault.help.is_some(), "{fault}");
        }
    }
}
