//! Where an object store is and how to reach it.

use std::time::Duration;

#[cfg(test)]
use crate::services::s3::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY};

/// The location of an object store and how to reach it.
#[derive(Clone, Debug)]
pub struct ObjectSettings {
    /// `s3://bucket/prefix`, `gs://` or `az://`. None: S3, by the fields below.
    pub url: Option<String>,
    /// The address of an S3-compatible server, such as MinIO. None: AWS.
    pub endpoint: Option<String>,
    /// None: from the environment, else from the profile, else us-east-1.
    pub region: Option<String>,
    pub bucket: Option<String>,
    /// None: credentials come from the environment, the profile or the instance.
    pub access_key_id: Option<String>,
    pub secret_access_key: Option<String>,
    /// Whether to use `endpoint/bucket/key` instead of `bucket.endpoint/key`. None: yes if an endpoint is set.
    pub path_style: Option<bool>,
    /// Prepended to every key.
    pub prefix: Option<String>,
    /// A request without progress in either direction for this long is aborted and retried.
    pub silence_max: Duration,
}

impl Default for ObjectSettings {
    fn default() -> Self {
        Self {
            url: None,
            endpoint: None,
            region: None,
            bucket: None,
            access_key_id: None,
            secret_access_key: None,
            path_style: None,
            prefix: None,
            silence_max: Duration::from_secs(5),
        }
    }
}

#[cfg(test)]
impl ObjectSettings {
    /// The settings for a server that a test runs.
    pub(crate) fn of_test(server: &S3Server) -> Self {
        Self {
            endpoint: Some(server.url()),
            region: Some("us-east-1".to_owned()),
            bucket: Some(BUCKET.to_owned()),
            access_key_id: Some(ACCESS_KEY.to_owned()),
            secret_access_key: Some(SECRET_KEY.to_owned()),
            path_style: Some(true),
            silence_max: Duration::from_secs(1),
            ..Self::default()
        }
    }
}
