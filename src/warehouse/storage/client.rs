//! Builds the object-store client from settings and environment: which store, where, with which credentials.
//!
//! Invariant: settings take precedence over the environment, and the environment over the AWS profile.
//! Credentials are never combined from two of them. An empty variable counts as unset.

use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, AwsCredential};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::{BackoffConfig, ClientConfigKey, Error, ObjectStore, RetryConfig, StaticCredentialProvider};
use tracing::warn;

use super::advice::{Protocol, StoreLocation, chain};
use super::delete::Deleter;
use super::profile::{self, Profile};
use super::requests::{self, Connector};
use super::settings::ObjectSettings;
use crate::warehouse::error::{WarehouseError, WarehouseErrorKind};

/// Retries within one request, for short faults. The sink retries longer ones.
const RETRIES_MAX: usize = 2;
const RETRY_TIMEOUT: Duration = Duration::from_secs(3);
/// The region if none is configured.
const REGION: &str = "us-east-1";

/// A client that has not been probed yet.
pub(super) struct Client {
    pub(super) store: Arc<dyn ObjectStore>,
    /// Only for S3.
    pub(super) deleter: Option<Deleter>,
    /// The URL's path after the bucket.
    pub(super) prefix: String,
    pub(super) location: StoreLocation,
}

/// Builds the client. Errors name the setting at fault.
pub(super) fn client(settings: &ObjectSettings) -> Result<Client, WarehouseError> {
    made(settings).map_err(|error| WarehouseError::caused(WarehouseErrorKind::Refused, "set object store up", error))
}

fn made(settings: &ObjectSettings) -> Result<Client, String> {
    let address = Address::of(settings)?;
    let mut location =
        StoreLocation { protocol: address.protocol, bucket: address.bucket, endpoint: None, region: None };
    let connector = Connector { silence_max: settings.silence_max };
    let mut deleter = None;
    let store: Result<Arc<dyn ObjectStore>, Error> = match location.protocol {
        Protocol::S3 => {
            let builder = s3(settings, &mut location)?.with_http_connector(connector).with_retry(retries());
            let plain = builder.get_config_value(&AmazonS3ConfigKey::Client(ClientConfigKey::AllowHttp));
            builder.build().and_then(|store| {
                let store = Arc::new(store);
                let (region, plain) = (location.region.clone(), plain.is_some_and(|on| requests::is_on(&on)));
                deleter = Some(Deleter::new(store.clone(), region.unwrap_or_default(), connector, plain)?);
                Ok(store as _)
            })
        }
        Protocol::Google => {
            let builder = google(&mut location).with_http_connector(connector).with_retry(retries());
            builder.build().map(|store| Arc::new(store) as _)
        }
        Protocol::Azure => {
            let url = settings.url.as_deref().unwrap_or_default();
            let builder = azure(url, &mut location)?.with_http_connector(connector).with_retry(retries());
            builder.build().map(|store| Arc::new(store) as _)
        }
    };
    let store = store.map_err(|error| format!("{} ({})", chain(&error), location.protocol.names()))?;
    Ok(Client { store, deleter, prefix: address.prefix, location })
}

fn retries() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(2),
            base: 2.0,
        },
        max_retries: RETRIES_MAX,
        retry_timeout: RETRY_TIMEOUT,
    }
}

/// The parsed URL, or the bucket setting.
#[derive(Debug, PartialEq, Eq)]
struct Address {
    protocol: Protocol,
    bucket: String,
    prefix: String,
}

impl Address {
    /// Error messages show only the scheme of the URL: it may contain a secret by mistake.
    fn of(settings: &ObjectSettings) -> Result<Self, String> {
        let Some(url) = &settings.url else {
            let bucket = settings.bucket.clone().ok_or("s3_endpoint is set and s3_bucket is not")?;
            return Ok(Self { protocol: Protocol::S3, bucket, prefix: String::new() });
        };
        let (scheme, rest) = url.split_once("://").ok_or("warehouse_url has no scheme")?;
        let protocol = match scheme {
            "s3" | "s3a" => Protocol::S3,
            "gs" => Protocol::Google,
            "az" | "azure" | "abfs" | "abfss" => Protocol::Azure,
            _ => return Err(format!("warehouse_url must begin with s3://, gs://, az:// or file://, not {scheme}://")),
        };
        let (authority, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let bucket = match (protocol, authority.split_once('@')) {
            (_, None) => authority,
            // abfss://container@account.dfs.core.windows.net
            (Protocol::Azure, Some((container, _))) => container,
            _ => return Err("warehouse_url has an @ before the bucket: credentials have settings of their own".into()),
        };
        if bucket.is_empty() {
            return Err("warehouse_url names no bucket".to_owned());
        }
        Ok(Self { protocol, bucket: bucket.to_owned(), prefix: prefix.to_owned() })
    }
}

/// The environment variables that start with `prefix` and are known to a builder.
fn environment<K: FromStr>(prefix: &str) -> Vec<(K, String)> {
    let known = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        let (name, value) = (name.into_string().ok()?, value.into_string().ok()?);
        let key = name.starts_with(prefix).then(|| name.to_ascii_lowercase().parse().ok())??;
        (!value.is_empty()).then_some((key, value))
    };
    std::env::vars_os().filter_map(known).collect()
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn s3(settings: &ObjectSettings, location: &mut StoreLocation) -> Result<AmazonS3Builder, String> {
    let mut builder = AmazonS3Builder::new();
    for (key, value) in environment("AWS_") {
        builder = builder.with_config(key, value);
    }
    let profile = profile::read();
    let region = settings.region.clone().or_else(|| builder.get_config_value(&AmazonS3ConfigKey::Region));
    let region = region.or_else(|| profile.region.clone()).unwrap_or_else(|| REGION.to_owned());
    let endpoint = [AmazonS3ConfigKey::S3Endpoint, AmazonS3ConfigKey::Endpoint];
    let mut endpoint = endpoint.iter().filter_map(|key| builder.get_config_value(key));
    let endpoint = settings.endpoint.as_deref().map(str::to_owned).or_else(|| endpoint.next());
    let path_style = settings.path_style.unwrap_or(endpoint.is_some());
    if let Some(credentials) = credentials(settings, &builder, profile)? {
        builder = builder.with_credentials(Arc::new(StaticCredentialProvider::new(credentials)));
    }
    if let Some(endpoint) = &endpoint {
        let endpoint = endpoint.trim_end_matches('/');
        let url = if path_style { endpoint.to_owned() } else { virtual_host(endpoint, &location.bucket)? };
        // Takes precedence over the other endpoint variables.
        builder = builder.with_config(AmazonS3ConfigKey::S3Endpoint, url);
        if endpoint.starts_with("http://") {
            builder = builder.with_allow_http(true);
        }
    }
    location.endpoint = endpoint;
    location.region = Some(region.clone());
    Ok(builder.with_bucket_name(&location.bucket).with_region(region).with_virtual_hosted_style_request(!path_style))
}

/// The credentials of the settings, or of the profile if neither settings nor environment have any. Otherwise the client
/// uses the environment or asks the instance.
fn credentials(
    settings: &ObjectSettings,
    builder: &AmazonS3Builder,
    profile: Profile,
) -> Result<Option<AwsCredential>, String> {
    if let (Some(key_id), Some(secret_key)) = (&settings.access_key_id, &settings.secret_access_key) {
        return Ok(Some(AwsCredential { key_id: key_id.clone(), secret_key: secret_key.to_string(), token: None }));
    }
    let has = |keys: &[AmazonS3ConfigKey]| keys.iter().any(|key| builder.get_config_value(key).is_some());
    if has(&[AmazonS3ConfigKey::AccessKeyId, AmazonS3ConfigKey::SecretAccessKey]) {
        return Ok(None);
    }
    if let (Some(key_id), Some(secret_key)) = (&profile.access_key_id, &profile.secret_access_key) {
        let token = profile.session_token.clone();
        return Ok(Some(AwsCredential { key_id: key_id.clone(), secret_key: secret_key.clone(), token }));
    }
    if has(&[
        AmazonS3ConfigKey::WebIdentityTokenFile,
        AmazonS3ConfigKey::ContainerCredentialsRelativeUri,
        AmazonS3ConfigKey::ContainerCredentialsFullUri,
    ]) {
        return Ok(None);
    }
    match profile.without_keys() {
        // An explicitly chosen profile must not be replaced by other credentials.
        Some(why) if profile.chosen => Err(format!("{why} (AWS_PROFILE)")),
        Some(why) => {
            warn!(reason = why, "asking the instance for credentials");
            Ok(None)
        }
        None => Ok(None),
    }
}

/// The endpoint with the bucket prepended to its host.
fn virtual_host(endpoint: &str, bucket: &str) -> Result<String, String> {
    let (scheme, rest) = endpoint.split_once("://").ok_or("s3_endpoint has no scheme")?;
    let authority = rest.split_once('/').map_or(rest, |(authority, _)| authority);
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    if host.starts_with('[') || host.parse::<IpAddr>().is_ok() {
        return Err(format!("s3_use_path_style is false, and no bucket's name can stand before the address {host}"));
    }
    Ok(format!("{scheme}://{bucket}.{rest}"))
}

fn google(location: &mut StoreLocation) -> GoogleCloudStorageBuilder {
    let mut builder = GoogleCloudStorageBuilder::new();
    if let Some(path) = variable("SERVICE_ACCOUNT") {
        builder = builder.with_service_account_path(path);
    }
    for (key, value) in environment("GOOGLE_") {
        builder = builder.with_config(key, value);
    }
    location.endpoint = builder.get_config_value(&GoogleConfigKey::BaseUrl);
    builder.with_bucket_name(&location.bucket)
}

fn azure(url: &str, location: &mut StoreLocation) -> Result<MicrosoftAzureBuilder, String> {
    let mut builder = MicrosoftAzureBuilder::new();
    for (key, value) in environment("AZURE_") {
        builder = builder.with_config(key, value);
    }
    if let Some(endpoint) = variable("IDENTITY_ENDPOINT") {
        builder = builder.with_msi_endpoint(endpoint);
    }
    let value = |key| builder.get_config_value(&key);
    let emulated = value(AzureConfigKey::UseEmulator).is_some_and(|on| requests::is_on(&on));
    let account = value(AzureConfigKey::AccountName);
    if account.is_none() && !emulated && !url.contains('@') {
        return Err(
            "warehouse_url is on Azure and does not say of which account: set AZURE_STORAGE_ACCOUNT_NAME".into()
        );
    }
    location.endpoint = value(AzureConfigKey::Endpoint);
    Ok(builder.with_url(url))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(url: &str) -> Result<Address, String> {
        Address::of(&ObjectSettings { url: Some(url.into()), ..ObjectSettings::default() })
    }

    #[test]
    fn a_url_names_protocol_bucket_and_prefix() {
        for (url, protocol, bucket, prefix) in [
            ("s3://events", Protocol::S3, "events", ""),
            ("s3a://events/raw/in/", Protocol::S3, "events", "raw/in/"),
            ("gs://events/raw", Protocol::Google, "events", "raw"),
            ("az://events/raw", Protocol::Azure, "events", "raw"),
            ("abfss://events@shop.dfs.core.windows.net/raw", Protocol::Azure, "events", "raw"),
        ] {
            let expected = Address { protocol, bucket: bucket.to_owned(), prefix: prefix.to_owned() };
            assert_eq!(address(url), Ok(expected), "{url}");
        }
        for url in ["ftp://hunter2/x", "s3:///hunter2", "s3://key:hunter2@events", "gs://"] {
            let error = address(url).unwrap_err();
            assert!(error.contains("warehouse_url") && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn the_bucket_is_prepended_to_the_host() {
        for (endpoint, url) in [
            ("https://minio.example.com", "https://events.minio.example.com"),
            ("http://minio:9000", "http://events.minio:9000"),
            ("http://minio:9000/store", "http://events.minio:9000/store"),
        ] {
            assert_eq!(virtual_host(endpoint, "events").as_deref(), Ok(url));
        }
        for endpoint in ["http://127.0.0.1:9000", "http://10.0.0.7", "http://[::1]:9000", "http://[::1]"] {
            let error = virtual_host(endpoint, "events").unwrap_err();
            assert!(error.contains("s3_use_path_style"), "{error}");
        }
    }
}
