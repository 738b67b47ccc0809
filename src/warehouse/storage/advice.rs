//! Classifies failures of an object store: whether a retry can help, and which setting to check.

use object_store::Error;

use crate::base::errors::append_new;

/// The supported protocols, each with its own names for credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    S3,
    Google,
    Azure,
}

impl Protocol {
    /// The names of settings and variables for credentials.
    pub(super) fn names(self) -> &'static str {
        match self {
            Self::S3 => {
                "s3_access_key_id, s3_secret_access_key, or AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_PROFILE"
            }
            Self::Google => "GOOGLE_SERVICE_ACCOUNT, GOOGLE_SERVICE_ACCOUNT_KEY, GOOGLE_APPLICATION_CREDENTIALS",
            Self::Azure => {
                "AZURE_STORAGE_ACCOUNT_NAME, AZURE_STORAGE_ACCOUNT_KEY, or AZURE_STORAGE_SAS_TOKEN, AZURE_CLIENT_ID, \
                 AZURE_CLIENT_SECRET, AZURE_TENANT_ID"
            }
        }
    }
}

/// Where requests go, for error messages.
#[derive(Clone, Debug)]
pub(super) struct StoreLocation {
    pub(super) protocol: Protocol,
    pub(super) bucket: String,
    /// None: the default of the cloud.
    pub(super) endpoint: Option<String>,
    /// Only for S3.
    pub(super) region: Option<String>,
}

/// What to check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Bucket,
    Region,
    /// The clocks of this machine and the store are too far apart.
    Clock,
    Credentials,
    /// No credentials are configured, and the instance metadata has none.
    Instance,
    /// An `http://` address that is not allowed.
    Plain,
    Answer,
}

/// Responses and messages that are more specific than the kind of the error.
const SIGNS: [(Cause, &[&str]); 7] = [
    (Cause::Bucket, &["NoSuchBucket", "InvalidBucketName", "ContainerNotFound", "InvalidResourceName"]),
    (
        Cause::Region,
        &[
            "AuthorizationHeaderMalformed",
            "PermanentRedirect",
            // AWS redirects requests to the wrong region, and the client discards the body.
            "redirect without LOCATION",
        ],
    ),
    // Before the credentials, because the status is the same.
    (
        Cause::Clock,
        &[
            "RequestTimeTooSkewed",
            "RequestExpired",
            "Signature expired",
            "Signature not yet current",
            // Azure.
            "Request date header",
            // Google, when a token is requested.
            "in a reasonable timeframe",
        ],
    ),
    (Cause::Instance, &["/latest/api/token", "/latest/meta-data/", "/computeMetadata/", "/metadata/identity/"]),
    (
        Cause::Credentials,
        &[
            "403 Forbidden",
            "401 Unauthorized",
            "InvalidAccessKeyId",
            "SignatureDoesNotMatch",
            "ExpiredToken",
            "InvalidToken",
            "invalid_grant",
            "invalid_client",
        ],
    ),
    (Cause::Plain, &["URL scheme is not allowed"]),
    // For list requests the client has no separate kind of error.
    (Cause::Bucket, &["404 Not Found"]),
];

impl Cause {
    fn of(error: &Error) -> Self {
        let text = chain(error);
        let signs = |signs: &[&str]| signs.iter().any(|sign| text.contains(sign));
        match SIGNS.iter().find(|(_, texts)| signs(texts)) {
            Some((cause, _)) => *cause,
            None => match error {
                Error::NotFound { .. } => Self::Bucket,
                Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => Self::Credentials,
                _ => Self::Answer,
            },
        }
    }
}

/// Whether the request will fail until a setting is changed.
pub(super) fn is_final(error: &Error) -> bool {
    match Cause::of(error) {
        Cause::Bucket | Cause::Region | Cause::Credentials | Cause::Plain => true,
        // A booting instance may provide credentials, or synchronize its clock, a moment later.
        Cause::Instance | Cause::Clock | Cause::Answer => false,
    }
}

/// Which setting to check.
pub(super) fn advice(error: &Error, location: &StoreLocation) -> String {
    let StoreLocation { protocol, bucket, endpoint, region } = location;
    let names = protocol.names();
    match Cause::of(error) {
        Cause::Bucket => match protocol {
            Protocol::S3 => format!("is there a bucket {bucket:?}? (s3_bucket, warehouse_url)"),
            Protocol::Google => format!("is there a bucket {bucket:?}? (warehouse_url)"),
            Protocol::Azure => {
                format!("is there a container {bucket:?} in the account? (warehouse_url, AZURE_STORAGE_ACCOUNT_NAME)")
            }
        },
        Cause::Region => {
            format!("is the bucket in the region {:?}? (s3_region)", region.as_deref().unwrap_or_default())
        }
        Cause::Clock => {
            "this machine's clock and the object store's are too far apart: is the clock right? (NTP)".to_owned()
        }
        Cause::Credentials => format!("are the credentials right, and may they list and write? ({names})"),
        Cause::Instance => format!("no credentials are set, and this machine gives none out ({names})"),
        Cause::Plain => match protocol {
            Protocol::S3 => "http:// is not allowed (AWS_ALLOW_HTTP)".to_owned(),
            Protocol::Google => "http:// is not allowed (GOOGLE_ALLOW_HTTP)".to_owned(),
            Protocol::Azure => "http:// is not allowed (AZURE_ALLOW_HTTP)".to_owned(),
        },
        Cause::Answer => {
            // An endpoint from the environment may contain a user; the host follows the last `@`.
            let host = endpoint.as_deref().map(|endpoint| endpoint.rsplit('@').next().unwrap_or_default());
            let endpoint = host.unwrap_or("the object store");
            let names = match protocol {
                Protocol::S3 => "s3_endpoint, warehouse_url",
                Protocol::Google => "GOOGLE_BASE_URL, warehouse_url",
                Protocol::Azure => "AZURE_STORAGE_ACCOUNT_NAME, AZURE_STORAGE_ENDPOINT, warehouse_url",
            };
            format!("does {endpoint} answer? ({names})")
        }
    }
}

/// The error with its sources, which the client does not print.
pub(super) fn chain(error: &Error) -> String {
    append_new(error.to_string(), error)
}
