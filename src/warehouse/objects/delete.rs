//! Deleting single objects from S3.
//!
//! The client deletes by the bulk request only, which some servers do not have and some policies do not allow,
//! while every one has the plain `DELETE`. So that is made here, with an address that the client signs.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use object_store::aws::AmazonS3;
use object_store::client::{HttpClient, HttpConnector, HttpRequestBody};
use object_store::path::Path;
use object_store::signer::Signer;
use object_store::{ClientOptions, Error};

use super::requests::Connector;

/// How long a signed address is good for: longer than two clocks may be apart.
const SIGNED_FOR: Duration = Duration::from_secs(3_600);
/// Of an answer that says no, what is told.
const ANSWER_BYTES_MAX: usize = 1_024;

#[derive(Debug)]
pub(super) struct Deleter {
    store: Arc<AmazonS3>,
    client: HttpClient,
}

impl Deleter {
    /// `plain` allows `http://`.
    pub(super) fn new(store: Arc<AmazonS3>, connector: Connector, plain: bool) -> Result<Self, Error> {
        let client = connector.connect(&ClientOptions::new().with_allow_http(plain))?;
        Ok(Self { store, client })
    }

    /// An object that is not there is deleted already.
    pub(super) async fn delete(&self, path: &Path) -> Result<(), Error> {
        let url = self.store.signed_url(Method::DELETE, path, SIGNED_FOR).await?;
        // The address is as good as a key, and is not told.
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| Error::Generic { store: "S3", source };
        let request = http::Request::delete(url.as_str()).body(HttpRequestBody::empty());
        let request = request.map_err(|error| failed(error.into()))?;
        let answer = self.client.execute(request).await.map_err(|error| failed(error.into()))?;
        let status = answer.status();
        if status.is_success() || status == StatusCode::NOT_FOUND {
            return Ok(());
        }
        let body = answer.into_body().bytes().await.unwrap_or_default();
        let text = String::from_utf8_lossy(&body[..body.len().min(ANSWER_BYTES_MAX)]);
        let source = format!("{status}: {text}").into();
        let path = path.to_string();
        Err(match status {
            StatusCode::FORBIDDEN => Error::PermissionDenied { path, source },
            StatusCode::UNAUTHORIZED => Error::Unauthenticated { path, source },
            _ => failed(source),
        })
    }
}
