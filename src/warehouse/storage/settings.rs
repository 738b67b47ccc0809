//! Where the lake is and how to reach it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::file_url::directory_of;
use crate::base::settings::{self, Reader, Secret, Setting as _, Url};
#[cfg(test)]
use crate::services::s3::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY};

/// The location of a lake in an object store, or of its directory, and how to reach it.
#[derive(Clone, Debug)]
pub struct ObjectSettings {
    /// `s3://bucket/prefix`, `gs://`, `az://` or `file://`. None: S3, by the fields below.
    pub url: Option<Url>,
    /// The address of an S3-compatible server, such as MinIO. None: AWS.
    pub endpoint: Option<Url>,
    /// None: from the environment, else from the profile, else us-east-1.
    pub region: Option<String>,
    pub bucket: Option<String>,
    /// None: credentials come from the environment, the profile or the instance.
    pub access_key_id: Option<String>,
    pub secret_access_key: Option<Secret>,
    /// Whether to use `endpoint/bucket/key` instead of `bucket.endpoint/key`. None: yes if an endpoint is set.
    pub path_style: Option<bool>,
    /// Prepended to every key.
    pub prefix: Option<String>,
    /// A request without progress in either direction for this long is aborted and retried.
    pub silence_max: Duration,
}

impl ObjectSettings {
    pub fn read(from: &mut Reader<'_>) -> Self {
        let url = from.optional::<Url>("warehouse_url");
        if let Some(end) = url.as_ref().and_then(|url| url.find(['?', '#'])) {
            let url = url.as_deref().unwrap_or_default();
            // The rest may be a signature.
            let shown = format!("{}{}***", Url::from(&url[..end]).show(), &url[end..=end]);
            let allowed =
                "a URL without ? and #: what gives access has names of its own, such as AZURE_STORAGE_SAS_TOKEN";
            from.refuse_shown("warehouse_url", shown, allowed);
        } else if let Some(Err(allowed)) = url.as_ref().and_then(|url| directory_of(url)) {
            from.refuse("warehouse_url", allowed);
        }
        let bucket = from.optional("s3_bucket");
        let prefix = from.optional("s3_prefix");
        if url.is_some() && (bucket.is_some() || prefix.is_some()) {
            let allowed = "unset when s3_bucket or s3_prefix is set: it names bucket and prefix itself";
            from.refuse("warehouse_url", allowed);
        }
        let access_key_id = from.optional("s3_access_key_id");
        let secret_access_key = from.optional("s3_secret_access_key");
        if access_key_id.is_some() != secret_access_key.is_some() {
            let missing = if access_key_id.is_some() { "s3_secret_access_key" } else { "s3_access_key_id" };
            from.refuse(missing, "set together with the other half of the credentials, or neither");
        }
        let host_alone = "a URL of a host alone: what gives access is s3_access_key_id and s3_secret_access_key";
        Self {
            url,
            endpoint: from.optional_if("s3_endpoint", host_alone, |url: &Url| !url.contains(['@', '?', '#'])),
            region: from.optional("s3_region"),
            bucket,
            access_key_id,
            secret_access_key,
            path_style: from.optional("s3_use_path_style"),
            prefix,
            silence_max: from.duration_from("warehouse_timeout", Duration::from_secs(1)),
        }
    }

    /// The directory that the URL names, if it names one.
    pub fn directory(&self) -> Option<PathBuf> {
        directory_of(self.url.as_ref()?)?.ok()
    }

    /// The directory of a lake that is not in an object store.
    pub fn directory_in(&self, data_dir: &Path) -> PathBuf {
        self.directory().unwrap_or_else(|| data_dir.join("warehouse"))
    }

    /// Whether the lake is in an object store rather than a directory.
    pub fn is_remote(&self) -> bool {
        self.directory().is_none() && (self.url.is_some() || self.bucket.is_some() || self.endpoint.is_some())
    }

    /// The location for readers of a lake in an object store; `None` for a directory. The error says what to set
    /// `hive_location` to.
    pub fn lake_location(&self) -> Result<Option<String>, &'static str> {
        let location = match (&self.url, &self.bucket) {
            (Some(url), _) => match url.split_once("://") {
                // Hadoop's scheme for S3, which Trino accepts, too.
                Some(("s3" | "s3a", place)) => format!("s3a://{place}"),
                Some(("gs" | "abfss", _)) => url.to_string(),
                Some(("file", _)) => return Ok(None),
                _ => {
                    return Err(
                        "set to where readers find the lake, such as abfss://container@account.dfs.core.windows.net",
                    );
                }
            },
            (None, Some(bucket)) => {
                format!("s3a://{bucket}/{}", self.prefix.as_deref().unwrap_or_default().trim_start_matches('/'))
            }
            (None, None) => return Ok(None),
        };
        Ok(Some(location.trim_end_matches('/').to_owned()))
    }
}

impl Default for ObjectSettings {
    fn default() -> Self {
        settings::defaults(Self::read)
    }
}

#[cfg(test)]
impl ObjectSettings {
    /// The settings for a server that a test runs.
    pub(crate) fn of_test(server: &S3Server) -> Self {
        Self {
            endpoint: Some(server.url().into()),
            region: Some("us-east-1".to_owned()),
            bucket: Some(BUCKET.to_owned()),
            access_key_id: Some(ACCESS_KEY.to_owned()),
            secret_access_key: Some(SECRET_KEY.into()),
            path_style: Some(true),
            silence_max: Duration::from_secs(1),
            ..Self::default()
        }
    }
}
