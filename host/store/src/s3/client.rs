//! The client: credentials, region and endpoint from where AWS tools take them, rustls with ring, time limits.

use std::time::Duration;

use aws_config::meta::region::RegionProviderChain;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::Credentials;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;

use crate::StoreOptions;

/// Where nobody says otherwise. Servers other than AWS take any.
const REGION: &str = "us-east-1";
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// For the first byte of an answer, and between two.
const READ_TIME: Duration = Duration::from_secs(30);
/// A part of 16 MiB at 0.3 MB/s.
const ATTEMPT_TIME: Duration = Duration::from_secs(60);
/// Throttling and restarts of servers pass within seconds.
const ATTEMPTS_MAX: u32 = 5;

pub async fn connect(options: &StoreOptions) -> Client {
    let http = aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
    let region = RegionProviderChain::first_try(options.region.clone().map(Region::new));
    let times = TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIME)
        .read_timeout(READ_TIME)
        .operation_attempt_timeout(ATTEMPT_TIME)
        .build();
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(http)
        .region(region.or_default_provider().or_else(REGION))
        .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS_MAX))
        .timeout_config(times);
    if let Some(endpoint) = &options.endpoint {
        loader = loader.endpoint_url(endpoint);
    }
    if let Some((id, secret)) = &options.keys {
        loader = loader.credentials_provider(Credentials::new(id, secret, None, None, "options"));
    }
    let shared = loader.load().await;
    // Only AWS gives each bucket a host name of its own.
    let foreign = shared.endpoint_url().is_some() || std::env::var_os("AWS_ENDPOINT_URL_S3").is_some();
    Client::from_conf(aws_sdk_s3::config::Builder::from(&shared).force_path_style(foreign).build())
}
