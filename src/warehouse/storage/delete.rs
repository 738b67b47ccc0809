//! Deleting single objects from S3.
//!
//! The client only supports bulk deletion, which some servers lack and some policies forbid.
//! Every server supports a plain `DELETE`, so it is implemented here.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use object_store::aws::{AmazonS3, AwsAuthorizer};
use object_store::client::{HttpClient, HttpConnector, HttpRequestBody};
use object_store::path::Path;
use object_store::signer::Signer;
use object_store::{ClientOptions, Error};

use super::requests::Connector;

/// How much of an error response is reported.
const ANSWER_BYTES_MAX: usize = 1_024;

#[derive(Debug)]
pub(super) struct Deleter {
    store: Arc<AmazonS3>,
    region: String,
    client: HttpClient,
}

impl Deleter {
    /// `plain` allows `http://`.
    pub(super) fn new(store: Arc<AmazonS3>, region: String, connector: Connector, plain: bool) -> Result<Self, Error> {
        let client = connector.connect(&ClientOptions::new().with_allow_http(plain))?;
        Ok(Self { store, region, client })
    }

    /// Deletes an object. Succeeds if it does not exist.
    pub(super) async fn delete(&self, path: &Path) -> Result<(), Error> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| Error::Generic { store: "S3", source };
        // Only the client knows the URL. Drop its signed query and sign in headers, as for other requests.
        let mut url = self.store.signed_url(Method::DELETE, path, Duration::from_secs(1)).await?;
        url.set_query(None);
        let request = http::Request::delete(url.as_str()).body(HttpRequestBody::empty());
        let mut request = request.map_err(|error| failed(error.into()))?;
        let credential = self.store.credentials().get_credential().await?;
        AwsAuthorizer::new(&credential, "s3", &self.region).authorize(&mut request, None);
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
