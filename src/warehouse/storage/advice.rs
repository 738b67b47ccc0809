//! What a failure of an object store means: whether waiting helps, and which setting to look at.

use object_store::Error;

use crate::base::errors::append_new;

/// The protocols; each takes its credentials from names of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    S3,
    Google,
    Azure,
}

impl Protocol {
    /// The names that say who asks.
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

/// Where requests go, for people.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) protocol: Protocol,
    pub(super) bucket: String,
    /// None: the cloud's own.
    pub(super) endpoint: Option<String>,
    /// Only S3 has one.
    pub(super) region: Option<String>,
}

/// What to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    Bucket,
    Region,
    /// The time of a request is too far from the store's.
    Clock,
    Credentials,
    /// No setting has credentials, and the machine was asked in vain.
    Instance,
    /// An `http://` address that nobody allowed.
    Plain,
    Answer,
}

/// Answers and messages of the client that say more than the kind of the error.
const SIGNS: [(Trouble, &[&str]); 7] = [
    (Trouble::Bucket, &["NoSuchBucket", "InvalidBucketName", "ContainerNotFound", "InvalidResourceName"]),
    (
        Trouble::Region,
        &[
            "AuthorizationHeaderMalformed",
            "PermanentRedirect",
            // AWS answers so in a region that the bucket is not in, and the client drops what the answer says.
            "redirect without LOCATION",
        ],
    ),
    // Before the credentials: the status is theirs.
    (
        Trouble::Clock,
        &[
            "RequestTimeTooSkewed",
            "RequestExpired",
            "Signature expired",
            "Signature not yet current",
            // Azure.
            "Request date header",
            // Google, of the token that is asked for.
            "in a reasonable timeframe",
        ],
    ),
    (Trouble::Instance, &["/latest/api/token", "/latest/meta-data/", "/computeMetadata/", "/metadata/identity/"]),
    (
        Trouble::Credentials,
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
    (Trouble::Plain, &["URL scheme is not allowed"]),
    // Of a list, where the client does not make it a kind of its own.
    (Trouble::Bucket, &["404 Not Found"]),
];

impl Trouble {
    fn of(error: &Error) -> Self {
        let text = chain(error);
        let signs = |signs: &[&str]| signs.iter().any(|sign| text.contains(sign));
        match SIGNS.iter().find(|(_, texts)| signs(texts)) {
            Some((trouble, _)) => *trouble,
            None => match error {
                Error::NotFound { .. } => Self::Bucket,
                Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => Self::Credentials,
                _ => Self::Answer,
            },
        }
    }
}

/// Whether the same request fails until a setting is changed.
pub(super) fn is_final(error: &Error) -> bool {
    match Trouble::of(error) {
        Trouble::Bucket | Trouble::Region | Trouble::Credentials | Trouble::Plain => true,
        // An instance that starts may give credentials out, or get the time, only a moment later.
        Trouble::Instance | Trouble::Clock | Trouble::Answer => false,
    }
}

/// Which setting to look at.
pub(super) fn advice(error: &Error, place: &Place) -> String {
    let Place { protocol, bucket, endpoint, region } = place;
    let names = protocol.names();
    match Trouble::of(error) {
        Trouble::Bucket => match protocol {
            Protocol::S3 => format!("is there a bucket {bucket:?}? (s3_bucket, warehouse_url)"),
            Protocol::Google => format!("is there a bucket {bucket:?}? (warehouse_url)"),
            Protocol::Azure => {
                format!("is there a container {bucket:?} in the account? (warehouse_url, AZURE_STORAGE_ACCOUNT_NAME)")
            }
        },
        Trouble::Region => {
            format!("is the bucket in the region {:?}? (s3_region)", region.as_deref().unwrap_or_default())
        }
        Trouble::Clock => {
            "this machine's clock and the object store's are too far apart: is the clock right? (NTP)".to_owned()
        }
        Trouble::Credentials => format!("are the credentials right, and may they list and write? ({names})"),
        Trouble::Instance => format!("no credentials are set, and this machine gives none out ({names})"),
        Trouble::Plain => match protocol {
            Protocol::S3 => "http:// is not allowed (AWS_ALLOW_HTTP)".to_owned(),
            Protocol::Google => "http:// is not allowed (GOOGLE_ALLOW_HTTP)".to_owned(),
            Protocol::Azure => "http:// is not allowed (AZURE_ALLOW_HTTP)".to_owned(),
        },
        Trouble::Answer => {
            // From the environment it may come with a user; what follows the last `@` is the host.
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

/// The error with its causes, which the client keeps apart.
pub(super) fn chain(error: &Error) -> String {
    append_new(error.to_string(), error)
}
