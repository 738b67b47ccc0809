//! Where an object store is and how it is reached.

use std::time::Duration;

#[cfg(test)]
use crate::services::s3::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY};

/// Where an object store is and how it is reached.
#[derive(Clone, Debug)]
pub struct ObjectSettings {
    /// `s3://bucket/prefix`, `gs://`, `az://`; none: S3 by the fields below.
    pub url: Option<String>,
    /// Of an S3-compatible server, such as MinIO; none: AWS.
    pub endpoint: Option<String>,
    /// None: the environment's, the profile's, or us-east-1.
    pub region: Option<String>,
    pub bucket: Option<String>,
    /// None: the environment, the profile or the instance has credentials.
    pub access_key_id: Option<String>,
    pub secret_access_key: Option<String>,
    /// `endpoint/bucket/key` instead of `bucket.endpoint/key`. None: when there is an endpoint.
    pub path_style: Option<bool>,
    /// Put before every key.
    pub prefix: Option<String>,
    /// A request on which nothing has moved for this long, in either direction, is given up and made again.
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
    /// Of a server that the test runs.
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
