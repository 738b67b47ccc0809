//! The location of the warehouse, for this process and for readers of the lake.

use std::path::PathBuf;

use super::file_url::directory_of;
use super::settings::Config;

impl Config {
    /// The directory that `warehouse_url` names, if it names one.
    pub fn warehouse_directory(&self) -> Option<PathBuf> {
        directory_of(&self.warehouse_url.as_ref()?.0)?.ok()
    }

    /// The location for readers of the lake in an object store; `None` for a directory. The error says what to set.
    pub fn lake_location(&self) -> Result<Option<String>, &'static str> {
        let location = match (&self.hive_location, &self.warehouse_url, &self.s3_bucket) {
            (Some(location), _, _) => location.0.clone(),
            (None, Some(url), _) => match url.0.split_once("://") {
                // Hadoop's scheme for S3, which Trino accepts, too.
                Some(("s3" | "s3a", place)) => format!("s3a://{place}"),
                Some(("gs" | "abfss", _)) => url.0.clone(),
                Some(("file", _)) => return Ok(None),
                _ => {
                    return Err(
                        "set to where readers find the lake, such as abfss://container@account.dfs.core.windows.net",
                    );
                }
            },
            (None, None, Some(bucket)) => {
                format!("s3a://{bucket}/{}", self.s3_prefix.as_deref().unwrap_or_default().trim_start_matches('/'))
            }
            (None, None, None) => return Ok(None),
        };
        Ok(Some(location.trim_end_matches('/').to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::load_env;

    #[test]
    fn the_lake_location_follows_the_warehouse() {
        let location = |environment: &[(&str, &str)]| load_env(environment).unwrap().config.lake_location();
        assert_eq!(location(&[]), Ok(None));
        assert_eq!(location(&[("WAREHOUSE_URL", "file:///srv/lake")]), Ok(None));
        for (environment, place) in [
            (vec![("WAREHOUSE_URL", "s3://events/raw/")], "s3a://events/raw"),
            (vec![("S3_BUCKET", "events")], "s3a://events"),
            (vec![("S3_BUCKET", "events"), ("S3_PREFIX", "/raw/x/")], "s3a://events/raw/x"),
            (vec![("WAREHOUSE_URL", "gs://events")], "gs://events"),
            (
                vec![("WAREHOUSE_URL", "az://c/p"), ("HIVE_LOCATION", "abfss://c@a.dfs.core.windows.net/p")],
                "abfss://c@a.dfs.core.windows.net/p",
            ),
        ] {
            assert_eq!(location(&environment), Ok(Some(place.to_owned())), "{environment:?}");
        }
        let unknown = [("WAREHOUSE_URL", "az://c/p"), ("HIVE_METASTORE_URI", "thrift://hms")];
        assert!(load_env(&unknown).unwrap_err().to_string().contains("hive_location"));
    }
}
