//! Large objects in parts. Law: the object appears when all parts are there, or not at all; what a failed upload has
//! brought is removed, as far as the server can be reached.

use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::operation::complete_multipart_upload::CompleteMultipartUploadError;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use tidemill_model::Fault;
use tidemill_model::remote::{Upload, UploadedPart};
use tokio::task::JoinSet;

use super::{Bucket, PART_BYTES};

/// The protocol allows 10,000.
const PARTS_MAX: usize = 9000;
/// At once; each is in memory.
const PARTS_IN_FLIGHT: usize = 4;

/// Uploads `bytes` bytes; `part` gives those at an offset.
pub async fn parts(
    bucket: &Bucket,
    name: &str,
    key: String,
    bytes: usize,
    part: impl Fn(usize, usize) -> Result<Vec<u8>, Fault>,
) -> Result<(), Fault> {
    let begun = begin(bucket, name, key.clone(), bytes, part).await?;
    let completed = complete(bucket, &key, &begun.id, parts_of(&begun.parts)).await;
    let completed = completed.map_err(|e| bucket.faults.of("write", name, e));
    if completed.is_err() {
        give_up(bucket, name, &key, &begun.id).await;
    }
    completed
}

/// The same without the end: nobody sees the object yet.
pub async fn begin(
    bucket: &Bucket,
    name: &str,
    key: String,
    bytes: usize,
    part: impl Fn(usize, usize) -> Result<Vec<u8>, Fault>,
) -> Result<Upload, Fault> {
    let begun = bucket.client.create_multipart_upload().bucket(&bucket.bucket).key(&key).send().await;
    let begun = begun.map_err(|e| bucket.faults.of("write", name, e))?;
    let id = begun.upload_id().unwrap_or_default().to_owned();
    match send(bucket, name, &key, &id, bytes, part).await {
        Ok(parts) => Ok(Upload { name: name.to_owned(), id, bytes: bytes as u64, parts }),
        Err(fault) => {
            give_up(bucket, name, &key, &id).await;
            Err(fault)
        }
    }
}

/// Sends the parts of an upload that was begun: for the first time, or once more.
pub async fn send(
    bucket: &Bucket,
    name: &str,
    key: &str,
    id: &str,
    bytes: usize,
    part: impl Fn(usize, usize) -> Result<Vec<u8>, Fault>,
) -> Result<Vec<UploadedPart>, Fault> {
    let sent = Sending { bucket, name, key, id }.send(bytes, part).await?;
    let part = |part: &CompletedPart| UploadedPart {
        etag: part.e_tag().unwrap_or_default().to_owned(),
        crc32: part.checksum_crc32().map(str::to_owned),
    };
    Ok(sent.iter().map(part).collect())
}

async fn give_up(bucket: &Bucket, name: &str, key: &str, id: &str) {
    let request = bucket.client.abort_multipart_upload().bucket(&bucket.bucket).key(key).upload_id(id);
    if let Err(error) = request.send().await {
        let place = format!("{}{name}", bucket.faults.place);
        tracing::warn!("parts of `{place}` stay until the bucket's rules remove them: {error}");
    }
}

/// The parts as the protocol names them.
pub fn parts_of(parts: &[UploadedPart]) -> Vec<CompletedPart> {
    let part = |(number, part): (i32, &UploadedPart)| {
        let completed = CompletedPart::builder().part_number(number).e_tag(&part.etag);
        completed.set_checksum_crc32(part.crc32.clone()).build()
    };
    (1..).zip(parts).map(part).collect()
}

/// Shows the object.
pub async fn complete(
    bucket: &Bucket,
    key: &str,
    id: &str,
    parts: Vec<CompletedPart>,
) -> Result<(), SdkError<CompleteMultipartUploadError>> {
    let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
    let request = bucket.client.complete_multipart_upload().bucket(&bucket.bucket).key(key);
    request.upload_id(id).multipart_upload(parts).send().await.map(drop)
}

struct Sending<'a> {
    bucket: &'a Bucket,
    name: &'a str,
    key: &'a str,
    id: &'a str,
}

impl Sending<'_> {
    async fn send(
        &self,
        bytes: usize,
        part: impl Fn(usize, usize) -> Result<Vec<u8>, Fault>,
    ) -> Result<Vec<CompletedPart>, Fault> {
        let size = PART_BYTES.max(bytes.div_ceil(PARTS_MAX));
        let (mut running, mut done) = (JoinSet::new(), Vec::new());
        for (number, start) in (1..).zip((0..bytes).step_by(size)) {
            if running.len() == PARTS_IN_FLIGHT {
                self.take(running.join_next().await, &mut done)?;
            }
            let request = self.bucket.client.upload_part().bucket(&self.bucket.bucket).key(self.key);
            let body = ByteStream::from(part(start, size.min(bytes - start))?);
            let request = request.upload_id(self.id).part_number(number).body(body);
            running.spawn(async move {
                let answer = request.send().await?;
                let completed = CompletedPart::builder().part_number(number).set_e_tag(answer.e_tag);
                Ok(completed.set_checksum_crc32(answer.checksum_crc32).build())
            });
        }
        while let Some(joined) = running.join_next().await {
            self.take(Some(joined), &mut done)?;
        }
        done.sort_by_key(CompletedPart::part_number);
        Ok(done)
    }

    fn take(&self, joined: Option<Joined>, done: &mut Vec<CompletedPart>) -> Result<(), Fault> {
        match joined {
            Some(Ok(Ok(part))) => done.push(part),
            Some(Ok(Err(e))) => return Err(self.bucket.faults.of("write", self.name, e)),
            Some(Err(e)) => return Err(Fault::internal(format!("an upload to S3 ended: {e}"))),
            None => {}
        }
        Ok(())
    }
}

type Sent = Result<CompletedPart, SdkError<aws_sdk_s3::operation::upload_part::UploadPartError>>;
type Joined = Result<Sent, tokio::task::JoinError>;
