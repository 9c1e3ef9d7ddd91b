//! Large objects in parts. Law: the object appears when all parts are there, or not at all; what a failed upload has
//! brought is removed, as far as the server can be reached.

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use tidemill_model::Fault;
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
    let Bucket { client, bucket: of, faults, .. } = bucket;
    let begun = client.create_multipart_upload().bucket(of).key(&key).send().await;
    let begun = begun.map_err(|e| faults.of("write", name, e))?;
    let id = begun.upload_id().unwrap_or_default().to_owned();
    let upload = Upload { bucket, name, key: &key, id: &id };
    let done = async { upload.complete(upload.send(bytes, part).await?).await }.await;
    if done.is_err()
        && let Err(error) = client.abort_multipart_upload().bucket(of).key(&key).upload_id(&id).send().await
    {
        let place = format!("{}{name}", faults.place);
        tracing::warn!("parts of `{place}` stay until the bucket's rules remove them: {error}");
    }
    done
}

struct Upload<'a> {
    bucket: &'a Bucket,
    name: &'a str,
    key: &'a str,
    id: &'a str,
}

impl Upload<'_> {
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

    async fn complete(&self, parts: Vec<CompletedPart>) -> Result<(), Fault> {
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let request = self.bucket.client.complete_multipart_upload().bucket(&self.bucket.bucket).key(self.key);
        let completed = request.upload_id(self.id).multipart_upload(parts).send().await;
        completed.map(drop).map_err(|e| self.bucket.faults.of("write", self.name, e))
    }
}

type Sent = Result<CompletedPart, aws_sdk_s3::error::SdkError<aws_sdk_s3::operation::upload_part::UploadPartError>>;
type Joined = Result<Sent, tokio::task::JoinError>;
