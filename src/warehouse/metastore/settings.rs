//! The settings of the Hive Metastore.

use crate::base::settings::{Reader, Setting, Url};
use crate::warehouse::ObjectSettings;

/// The default port.
const PORT: u16 = 9083;
/// Characters of a name; `{name}_delta` must fit, too.
const NAME_CHARS_MAX: usize = 120;

/// Where the metastore is, and what is registered in it.
#[derive(Clone, Debug)]
pub struct MetastoreSettings {
    /// `host:port` of interchangeable metastores.
    pub addresses: Vec<String>,
    pub database: String,
    pub table: String,
    /// The URI under which readers find the lake. Empty until the lake's directory exists.
    pub location: String,
}

impl MetastoreSettings {
    /// `None` without a metastore.
    pub fn read(from: &mut Reader<'_>, objects: &ObjectSettings) -> Option<Self> {
        let metastores = from.optional::<Metastores>("hive_metastore_uri");
        let (HiveName(database), HiveName(table)) = (from.get("hive_database"), from.get("hive_table"));
        let location = from.optional::<Url>("hive_location");
        let Metastores(addresses) = metastores?;
        let location = match location {
            Some(location) => Ok(Some(location.trim_end_matches('/').to_owned())),
            None => objects.lake_location(),
        };
        let location = location.unwrap_or_else(|allowed| {
            from.refuse("hive_location", allowed);
            None
        });
        let location = location.unwrap_or_default();
        Some(Self { addresses, database, table, location })
    }
}

/// `host:port` of one or more equivalent metastores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Metastores(pub Vec<String>);

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

/// The name of a database or a table. Hive names are lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HiveName(pub String);

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::settings::read_with;

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
        for invalid in [
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
            assert!(Metastores::parse(invalid).is_err(), "{invalid}");
        }
    }

    #[test]
    fn names_are_valid_in_hive() {
        for name in ["events", "_1", "lake_2026"] {
            assert!(HiveName::parse(name).is_ok(), "{name}");
        }
        let long = "a".repeat(121);
        for name in ["", "Events", "a-b", "a.b", "ä", long.as_str()] {
            assert!(HiveName::parse(name).is_err(), "{name}");
        }
    }

    #[test]
    fn the_lake_location_follows_the_warehouse() {
        let read = |environment: &[(&str, &str)]| {
            let environment = [environment, &[("HIVE_METASTORE_URI", "thrift://hms")]].concat();
            read_with(&environment, |from| {
                let objects = ObjectSettings::read(from);
                MetastoreSettings::read(from, &objects).unwrap()
            })
        };
        let location = |environment: &[(&str, &str)]| read(environment).unwrap().location;
        assert_eq!(location(&[]), "");
        assert_eq!(location(&[("WAREHOUSE_URL", "file:///srv/lake")]), "");
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
            assert_eq!(location(&environment), place, "{environment:?}");
        }
        assert!(read(&[("WAREHOUSE_URL", "az://c/p")]).unwrap_err().contains("hive_location"));
    }
}
