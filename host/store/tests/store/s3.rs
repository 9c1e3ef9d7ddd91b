//! The store in a bucket, against a real server: the conformance suite, checkpoints, and what it says when it may not.

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;

use crate::common::{collect, rows, write};
use tidemill_model::checkpoint::{CheckpointStore, ObjectStore};
use tidemill_model::remote::{Completed, RemoteFolder};
use tidemill_store::conformance::conformance;
use tidemill_store::s3::Bucket;
use tidemill_store::testing::S3Server;
use tidemill_store::{Snapshots, StoreOptions, open};

/// A bucket on a server of its own, which is started and ended with the test.
fn bucket(server: &S3Server, name: &str) -> Arc<dyn ObjectStore> {
    Bucket::open(name, "", &server.options()).unwrap().create_bucket().unwrap();
    open(&format!("s3://{name}/some/prefix"), Path::new("."), &server.options()).unwrap()
}

#[test]
fn a_bucket_conforms() {
    let server = S3Server::start();
    let scratch = tempfile::tempdir().unwrap();
    let store = bucket(&server, "conformance");
    conformance(&*store, scratch.path());
    assert_eq!(store.location("a"), "s3://conformance/some/prefix/a");
}

#[test]
fn checkpoints_live_in_a_bucket() {
    let server = S3Server::start();
    let store = bucket(&server, "checkpoints");
    let old = Snapshots::new(store.clone(), "job");
    let first = old.begin_generation().unwrap();
    write(&old, 1, first, 400_000, 1).unwrap();
    let kept = write(&old, 2, first, 400_000, 2).unwrap();
    old.retain(1).unwrap();
    let objects = store.list("job/objects/").unwrap().len();
    let new = Snapshots::new(store.clone(), "job");
    new.begin_generation().unwrap();
    assert!(write(&old, 3, first, 10, 3).is_err());
    let listed = new.list().unwrap();
    let loaded = new.load(listed.last().unwrap()).unwrap();
    assert_eq!((listed.len(), &loaded), (1, &kept));
    new.verify(&loaded).unwrap();
    let found = collect(new.read_table(&loaded.parts[0].tables[0], 0..1024).unwrap()).unwrap();
    assert_eq!(found, rows(400_000, 2));
    let segments = loaded.parts[0].tables[0].segments.len();
    assert_eq!(objects, segments + 1, "the segments and the manifest");
}

#[test]
fn refusals_say_what_to_do() {
    let server = S3Server::start();
    let _ = bucket(&server, "exists");
    let there = server.options();
    let wrong_id = StoreOptions { keys: Some(("nobody".into(), "secret".into())), ..there.clone() };
    let wrong_secret = StoreOptions { keys: Some(("tidemill-test".into(), "secret".into())), ..there.clone() };
    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody = StoreOptions { endpoint: Some(format!("http://{unused}")), ..there.clone() };
    for (bucket, options, message, help) in [
        ("missing", &there, "NoSuchBucket", "create the bucket `missing`"),
        ("exists", &wrong_id, "InvalidAccessKeyId", "AWS_ACCESS_KEY_ID"),
        ("exists", &wrong_secret, "SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY"),
        ("exists", &nobody, "dispatch failure", "AWS_ENDPOINT_URL"),
    ] {
        let store = open(&format!("s3://{bucket}/p"), Path::new("."), options).unwrap();
        for fault in [store.put("a", b"x").unwrap_err(), store.list("").unwrap_err(), store.get("a").unwrap_err()] {
            let place = format!("s3://{bucket}/p/");
            assert!(fault.message.contains(&place) && fault.message.contains(message), "{fault}");
            assert!(fault.help.as_ref().is_some_and(|text| text.contains(help)), "{fault}");
            assert!(!fault.to_string().contains("secret\""), "{fault}");
        }
    }
}

#[test]
fn what_a_server_has_lost_of_an_upload_is_sent_again() {
    let server = S3Server::start();
    let bucket = Bucket::open("losses", "", &server.options()).unwrap();
    bucket.create_bucket().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    for bytes in [5, 40 << 20] {
        std::fs::write(&path, vec![7; bytes]).unwrap();
        let upload = bucket.upload("name", &path).unwrap();
        assert_eq!(server.lose_parts(), upload.parts.len());
        assert_eq!(bucket.complete(&upload, Some(&path)).unwrap(), Completed::Now);
        assert_eq!(bucket.get("name").unwrap(), Some(vec![7; bytes]));
        bucket.delete(&["name".to_owned()]).unwrap();
    }
    let upload = bucket.upload("name", &path).unwrap();
    server.lose_parts();
    std::fs::write(&path, b"another file").unwrap();
    let fault = bucket.complete(&upload, Some(&path)).unwrap_err();
    assert!(fault.message.contains("InvalidPart"), "{fault}");
    assert!(fault.help.as_ref().is_some_and(|help| help.contains("earlier checkpoint")), "{fault}");
}

#[test]
fn an_upload_shows_nothing_until_it_is_completed() {
    let server = S3Server::start();
    let bucket = Bucket::open("uploads", "folder", &server.options()).unwrap();
    let elsewhere = Bucket::open("uploads", "other", &server.options()).unwrap();
    bucket.create_bucket().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    // Of several parts, and of one.
    for (name, bytes) in [("dt=1/k=%41/large", 40 << 20), ("small", 5)] {
        std::fs::write(&path, vec![7; bytes]).unwrap();
        let upload = bucket.upload(name, &path).unwrap();
        assert_eq!(bucket.size(name).unwrap(), None, "{name} is not visible");
        assert_eq!(bucket.uploads().unwrap(), [(name.to_owned(), upload.id.clone())]);
        assert_eq!(elsewhere.uploads().unwrap(), [], "only those of the folder");
        let again = serde_json::from_str(&serde_json::to_string(&upload).unwrap()).unwrap();
        assert_eq!(bucket.complete(&again, None).unwrap(), Completed::Now);
        assert_eq!(bucket.complete(&upload, None).unwrap(), Completed::Before, "it can be repeated");
        assert_eq!(bucket.get(name).unwrap(), Some(vec![7; bytes]));
        bucket.delete(&[name.to_owned()]).unwrap();
        assert_eq!(bucket.complete(&upload, None).unwrap(), Completed::Gone);
    }
    let upload = bucket.upload("given-up", &path).unwrap();
    assert_eq!(bucket.uploads().unwrap(), [("given-up".to_owned(), upload.id.clone())]);
    for _ in 0..2 {
        bucket.abandon("given-up", &upload.id).unwrap();
    }
    assert_eq!(bucket.uploads().unwrap(), []);
    assert_eq!(bucket.complete(&upload, None).unwrap(), Completed::Gone);
    let gone = bucket.upload("x", &folder.path().join("nothing")).unwrap_err();
    assert!(gone.message.contains("nothing") && gone.help.is_some(), "{gone}");
}
