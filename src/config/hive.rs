//! Where the Hive Metastore is, and what it is told of the lake.

use super::Config;
use super::value::Setting;

/// The port of a URI that names none.
const PORT: u16 = 9083;
/// `{name}_delta` must fit too.
const NAME_CHARS_MAX: usize = 120;

/// `host:port` of metastores of which any will do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metastores(pub Vec<String>);

impl Setting for Metastores {
    fn parse(text: &str) -> Result<Self, String> {
        let address = |uri: &str| {
            let place = uri.trim().strip_prefix("thrift://")?;
            let place = place.strip_suffix('/').unwrap_or(place);
            let (host, port) = match place.rsplit_once(':') {
                Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok().filter(|port| *port > 0)?),
                _ => (place, PORT),
            };
            let plain = !host.is_empty() && !host.contains(['/', '@', '?', '#', ' ']);
            let bracketed = host.starts_with('[') && host.ends_with(']');
            (plain && (bracketed || !host.contains(':'))).then(|| format!("{host}:{port}"))
        };
        let addresses: Option<Vec<String>> = text.split(',').map(address).collect();
        addresses.map(Self).ok_or_else(|| "thrift://host:port, or several with commas between them".to_owned())
    }

    fn show(&self) -> String {
        self.0.iter().map(|address| format!("thrift://{address}")).collect::<Vec<_>>().join(",")
    }
}

/// The name of a database or of a table: Hive knows no capitals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HiveName(pub String);

impl Setting for HiveName {
    fn parse(text: &str) -> Result<Self, String> {
        let plain = text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
        if plain && !text.is_empty() && text.len() <= NAME_CHARS_MAX {
            Ok(Self(text.to_owned()))
        } else {
            Err("a name of up to 120 small letters, digits and _".to_owned())
        }
    }

    fn show(&self) -> String {
        self.0.clone()
    }
}

impl Config {
    /// Where readers find the lake when it is in an object store; none when it is a directory. The error says what to set.
    pub fn lake_location(&self) -> Result<Option<String>, &'static str> {
        let location = match (&self.hive_location, &self.warehouse_url, &self.s3_bucket) {
            (Some(location), _, _) => location.0.clone(),
            (None, Some(url), _) => match url.0.split_once("://") {
                // By the name that Hadoop has for S3; Trino knows it too.
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
    use super::*;
    use crate::config::tests::load_env;

    #[test]
    fn metastores_have_addresses() {
        for (text, addresses) in [
            ("thrift://hms:9083", vec!["hms:9083"]),
            ("thrift://hms/", vec!["hms:9083"]),
            ("thrift://a:1, thrift://[::1]:2,thrift://[::1]", vec!["a:1", "[::1]:2", "[::1]:9083"]),
        ] {
            assert_eq!(Metastores::parse(text).unwrap().0, addresses, "{text}");
        }
        assert_eq!(Metastores::parse("thrift://hms").unwrap().show(), "thrift://hms:9083");
        for wrong in [
            "",
            "hms:9083",
            "http://hms:9083",
            "thrift://",
            "thrift://hms:0",
            "thrift://hms:x",
            "thrift://u@hms:1",
            "thrift://hms:1/db",
            "thrift://::1:9083",
        ] {
            assert!(Metastores::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_are_those_that_hive_keeps() {
        for name in ["events", "_1", "lake_2026"] {
            assert!(HiveName::parse(name).is_ok(), "{name}");
        }
        let long = "a".repeat(121);
        for name in ["", "Events", "a-b", "a.b", "ä", long.as_str()] {
            assert!(HiveName::parse(name).is_err(), "{name}");
        }
    }

    #[test]
    fn readers_find_the_lake_where_it_is() {
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
