//! What S3 answers when it refuses, in words, with what to do.

use std::error::Error;

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use tidemill_model::Fault;

/// Knows where the store is.
pub struct Faults {
    /// `s3://bucket/prefix/`
    pub place: String,
    pub bucket: String,
}

impl Faults {
    pub fn of<E: ProvideErrorMetadata + std::error::Error + 'static>(
        &self,
        action: &str,
        name: &str,
        error: SdkError<E>,
    ) -> Fault {
        let status = error.raw_response().map(|answer| answer.status().as_u16());
        let code = error.code().map(str::to_owned).unwrap_or_else(|| match (&error, status) {
            // An answer to HEAD has no body, so no code.
            (_, Some(403)) => "AccessDenied".into(),
            (_, Some(404)) => "NoSuchBucket".into(),
            (_, Some(301 | 307 | 400)) => "PermanentRedirect".into(),
            (SdkError::TimeoutError(_), _) => "Timeout".into(),
            _ => String::new(),
        });
        let text = match error.message() {
            Some(message) => message.to_owned(),
            None => with_causes(&error),
        };
        // Which of its many sources was asked last says nothing.
        let text = if text.contains("credential provider") { "there are no credentials".to_owned() } else { text };
        self.coded(action, name, &code, &text)
    }

    /// `code` is the protocol's.
    pub fn coded(&self, action: &str, name: &str, code: &str, text: &str) -> Fault {
        let label = if code.is_empty() { String::new() } else { format!(" ({code})") };
        Fault::io(format!("cannot {action} `{}{name}`: {}{label}", self.place, first_line(text)))
            .with_help(self.help(code, text))
    }

    fn help(&self, code: &str, text: &str) -> String {
        let bucket = &self.bucket;
        match code {
            "NoSuchBucket" => format!("create the bucket `{bucket}`, or correct its name"),
            "AccessDenied" | "AllAccessDisabled" => format!(
                "give the credentials s3:ListBucket on `{bucket}`, and s3:GetObject, s3:PutObject, s3:DeleteObject and \
                 s3:AbortMultipartUpload on what is in it"
            ),
            "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "InvalidToken" => {
                "the credentials are not those of this server: check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_PROFILE"
                    .into()
            }
            "ExpiredToken" | "RequestExpired" | "RequestTimeTooSkewed" => {
                "get new credentials, and see that this machine's clock is right".into()
            }
            "PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException" => {
                format!("`{bucket}` may be in another region: set AWS_REGION, or the option of the store")
            }
            "NotImplemented" => "use a server that has conditional writes, as S3 and MinIO do, or a directory".into(),
            "SlowDown" | "ServiceUnavailable" | "InternalError" => "the server is overloaded: try again later".into(),
            _ if text.contains("redentials") => {
                "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or run where there is a role".into()
            }
            _ => "see whether the server can be reached from here: its address is `endpoint`, AWS_ENDPOINT_URL, or that of AWS".into(),
        }
    }
}

/// Reports of the SDK have debug output behind.
fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default().split(" (SdkError").next().unwrap_or_default().trim_end()
}

/// The error and what caused it: by itself it says "dispatch failure".
fn with_causes(error: &dyn Error) -> String {
    let (mut text, mut cause) = (error.to_string(), error.source());
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
