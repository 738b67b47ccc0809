//! The settings of the Hive Metastore.

use super::value::Setting;

/// The default port.
const PORT: u16 = 9083;
/// Characters of a name; `{name}_delta` must fit, too.
const NAME_CHARS_MAX: usize = 120;

/// `host:port` of one or more equivalent metastores.
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

/// The name of a database or a table. Hive names are lower case.
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
