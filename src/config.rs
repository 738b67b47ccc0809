//! The settings of all parts, from the layers: built-in defaults < `--config` file < environment < flags.
//!
//! Each part reads its own settings ([`crate::base::settings`]); this module puts them together, and refuses what
//! contradicts the settings of another part.

mod exposure;
mod layers;
mod process;
mod settings;

use std::path::Path;
use std::sync::LazyLock;

use figment::Figment;
use figment::providers::{Format, Toml};

use crate::base::settings::{self as values, InvalidSetting, Reader, Setting, Shown};
pub use crate::base::settings::{ConfigError, DEFAULTS};
pub use exposure::Exposure;
use layers::{FileLayer, TextLayer};
pub use process::{LogFormat, LogLevel, ProcessSettings};
pub use settings::Config;

/// The names of all settings, in lower case.
pub static NAMES: LazyLock<Vec<&str>> = LazyLock::new(|| {
    values::defaults(|from| {
        Config::read(from);
        from.names()
    })
});

/// Unsupported names, with what to set instead: a value that would be silently ignored is refused. A name that ends
/// with `_` is a prefix. A flag that turns the feature off is accepted, and while `..._ENABLED` is off, so are the
/// other settings of that feature.
const UNSUPPORTED: &[(&str, &str)] = &[("HTTP_TLS_", "TLS_CERT_FILE and TLS_KEY_FILE in its place")];

/// What to set instead of an unsupported name; `None` when the name is supported or has no effect.
fn unsupported(name: &str, value: &str, environment: &[(String, String)]) -> Option<&'static str> {
    // Kubernetes passes the address of every service to every pod: a service called http-tls-proxy is not a setting.
    let of_service = name.contains("_SERVICE_") || name.contains("_PORT");
    let matches = |unsupported: &str| {
        name == unsupported || (unsupported.ends_with('_') && name.starts_with(unsupported) && !of_service)
    };
    let (unsupported, instead) = UNSUPPORTED.iter().find(|(unsupported, _)| matches(unsupported))?;
    let off = |value: &str| bool::parse(value) == Ok(false);
    let is_flag = name.ends_with("_ENABLED");
    let switch = format!("{unsupported}ENABLED");
    let feature_off = environment.iter().any(|(name, value)| *name == switch && off(value));
    if is_flag && off(value) || feature_off && !is_flag { None } else { Some(instead) }
}

/// The configuration, and each setting for display.
#[derive(Debug)]
pub struct Loaded {
    pub config: Config,
    pub shown: Vec<Shown>,
}

impl Loaded {
    pub fn shown(&self, name: &str) -> Option<&Shown> {
        self.shown.iter().find(|shown| shown.name == name)
    }

    /// The source of the value of `name`, for display.
    pub fn source(&self, name: &str) -> &str {
        self.shown(name).map_or("default", |shown| &shown.source)
    }
}

/// Loads all layers. `flags` are names and values from the command line.
pub fn load(file: Option<&Path>, flags: &[(&'static str, String)]) -> Result<Loaded, ConfigError> {
    load_from(
        file,
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))),
        flags,
    )
}

fn load_from(
    file: Option<&Path>,
    environment: impl Iterator<Item = (String, String)>,
    flags: &[(&'static str, String)],
) -> Result<Loaded, ConfigError> {
    let mut invalid = Vec::new();
    let mut layers = Figment::from(Toml::string(DEFAULTS));
    if let Some(path) = file {
        layers = layers.merge(FileLayer::read(path, &NAMES, &mut invalid)?);
    }
    let mut known = Vec::new();
    // An empty variable, as a compose file passes an unset one, counts as unset.
    let environment: Vec<(String, String)> = environment.filter(|(_, value)| !value.is_empty()).collect();
    for (name, value) in environment.clone() {
        if let Some(instead) = unsupported(&name, &value, &environment) {
            let allowed = format!("{instead}; unset it");
            invalid.push(InvalidSetting { key: name, value: None, source: "environment".into(), allowed });
        } else if let Some(known_name) = NAMES
            .iter()
            .find(|known| known.eq_ignore_ascii_case(&name) && name.chars().all(|c| !c.is_ascii_lowercase()))
        {
            known.push((*known_name, value));
        }
    }
    layers = layers.merge(TextLayer { name: "environment", values: known });
    layers = layers.merge(TextLayer { name: "flag", values: flags.to_vec() });
    let mut reader = Reader::new(&layers);
    let config = Config::read(&mut reader);
    if invalid.is_empty() && reader.is_valid() {
        config.check(&mut reader);
    }
    let (shown, refused) = reader.finish();
    invalid.extend(refused);
    if invalid.is_empty() { Ok(Loaded { config, shown }) } else { Err(ConfigError::Invalid(invalid)) }
}

#[cfg(test)]
mod tests {
    use figment::value::Dict;

    use super::*;
    use crate::base::settings::text_of;

    pub(super) fn load_env(environment: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
        load_from(None, environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())), &[])
    }

    #[test]
    fn the_defaults_file_lists_exactly_the_settings() {
        let values: Dict = toml::from_str(DEFAULTS).unwrap();
        for key in values.keys() {
            assert!(NAMES.contains(&key.as_str()), "{key} is in causality.toml and not in the code");
        }
        for name in NAMES.iter() {
            assert!(
                DEFAULTS
                    .lines()
                    .any(|line| line.starts_with(&format!("{name} = ")) || line.starts_with(&format!("#= {name} = "))),
                "{name} is not in causality.toml"
            );
        }
    }

    #[test]
    fn the_documentation_has_a_row_for_every_setting_with_its_default() {
        let table = include_str!("../docs/configuration.md");
        let values: Dict = toml::from_str(DEFAULTS).unwrap();
        for name in NAMES.iter() {
            let start = format!("| `{}` | ", name.to_ascii_uppercase());
            let row = table.lines().find(|line| line.starts_with(&start)).unwrap_or_else(|| panic!("no row of {name}"));
            let default = values.get(*name).map_or(String::new(), |value| format!("`{}`", text_of(value).unwrap()));
            assert!(row.ends_with(&format!("| {default} |")), "{row}: the default is {default}");
        }
        let rows = table.lines().filter(|line| line.starts_with("| `") && !line.starts_with("| `HTTP_TLS")).count();
        assert_eq!(rows, NAMES.len());
    }

    #[test]
    fn later_layers_win_and_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.toml");
        std::fs::write(&file, "http_addr = \":1\"\nmax_body_size = 1000\nmax_batch_events = 10\n").unwrap();
        let environment = [("MAX_BODY_SIZE".to_owned(), "2KiB".to_owned()), ("UNRELATED".to_owned(), "x".to_owned())];
        let loaded = load_from(Some(&file), environment.into_iter(), &[("data_dir", "/d".into())]).unwrap();
        assert_eq!(loaded.config.http.addr.show(), ":1");
        assert_eq!(loaded.config.gateway.body_bytes_max, 2048);
        assert_eq!(loaded.config.gateway.batch_events_max, 10);
        assert_eq!(loaded.config.process.data_dir, Path::new("/d"));
        assert_eq!(loaded.source("http_addr"), file.display().to_string());
        assert_eq!(loaded.source("max_body_size"), "environment MAX_BODY_SIZE");
        assert_eq!(loaded.source("data_dir"), "flag --data-dir");
        assert_eq!(loaded.source("log_level"), "default");
    }

    #[test]
    fn every_invalid_value_is_reported_with_the_allowed_ones() {
        let error = load_env(&[("HTTP_ADDR", "nowhere"), ("DEDUP_WINDOW", "10"), ("LOG_FORMAT", "xml")])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(r#"http_addr = "nowhere" (from environment HTTP_ADDR) is not allowed; allowed: host:port"#),
            "{error}"
        );
        assert!(
            error.contains("dedup_window = \"10\"")
                && error.contains("log_format = \"xml\"")
                && error.contains("one of auto, text, json"),
            "{error}"
        );
    }

    #[test]
    fn unknown_keys_of_a_file_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.toml");
        std::fs::write(&file, "http_adr = \":1\"\nbody_size = 3\n").unwrap();
        let error = load_from(Some(&file), std::iter::empty(), &[]).unwrap_err().to_string();
        assert!(error.contains("http_adr") && error.contains("did you mean max_body_size?"), "{error}");
    }

    #[test]
    fn unsupported_names_are_refused_not_ignored() {
        let of_prefixes = ["HTTP_TLS_KEY_FILE"];
        let whole = UNSUPPORTED.iter().map(|(name, _)| *name).filter(|name| !name.ends_with('_'));
        for name in whole.chain(of_prefixes) {
            let error = load_env(&[(name, "7")]).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("unset it"), "{error}");
            load_env(&[(name, "")]).unwrap();
        }
        for off in ["false", "False", "0", "no", "off"] {
            load_env(&[("HTTP_TLS_ENABLED", off)]).unwrap();
        }
        for on in ["true", "1", "maybe"] {
            load_env(&[("HTTP_TLS_ENABLED", on)]).unwrap_err();
        }
        load_env(&[("HTTP_TLS_ENABLED", "no"), ("HTTP_TLS_PORT", "5")]).unwrap();
        load_env(&[("HTTP_TLS_ENABLED", "yes"), ("HTTP_TLS_KEY_FILE", "5")]).unwrap_err();
        load_env(&[("HTTP_TLSX", "5"), ("MY_HTTP_TLS_KEY_FILE", "5")]).unwrap();
        load_env(&[("HTTP_TLS_UI_SERVICE_HOST", "10.0.0.1"), ("HTTP_TLS_UI_PORT_80_TCP", "tcp://10.0.0.1:80")])
            .unwrap();
        let error = load_env(&[("S3_ACCESS_KEY_ID", "a")]).unwrap_err().to_string();
        assert!(error.contains("s3_secret_access_key"), "{error}");
    }

    #[test]
    fn max_event_bytes_is_bounded() {
        for invalid in ["0", "999", "8000001", "1GiB"] {
            let error = load_env(&[("MAX_EVENT_BYTES", invalid)]).unwrap_err().to_string();
            assert!(error.contains("max_event_bytes") && error.contains("1KB to 8MB"), "{error}");
        }
        for (right, bytes) in [("1KB", 1_000), ("4MiB", 4 << 20), ("8MB", 8_000_000)] {
            assert_eq!(load_env(&[("MAX_EVENT_BYTES", right)]).unwrap().config.gateway.event_bytes_max, bytes);
        }
        assert_eq!(load_env(&[]).unwrap().config.gateway.event_bytes_max, 1_000_000);
    }

    #[test]
    fn the_memory_for_requests_holds_the_largest_body() {
        assert!(load_env(&[("HTTP_MEMORY_MAX", "10MiB")]).is_ok());
        for invalid in
            [[("HTTP_MEMORY_MAX", "9MiB"), ("X", "")], [("HTTP_MEMORY_MAX", "3MiB"), ("MAX_BODY_SIZE", "1MiB")]]
        {
            let error = load_env(&invalid).unwrap_err().to_string();
            assert!(error.contains("http_memory_max") && error.contains("twice max_body_size"), "{error}");
        }
        assert!(load_env(&[("MAX_BODY_SIZE", "40MiB")]).is_err());
    }

    #[test]
    fn secrets_are_not_shown() {
        let key = "0f".repeat(32);
        let loaded = load_env(&[("SECRETS_KEY", &key)]).unwrap();
        assert!(!format!("{:?} {:?}", loaded.config, loaded.shown).contains(&key));
        let error = load_env(&[("SECRETS_KEY", "hunter2")]).unwrap_err().to_string();
        assert!(error.contains("secrets_key") && !error.contains("hunter2"), "{error}");
        for url in ["az://c/p?sig=hunter2", "az://c/p?sv=1&st=hunter2", "s3://b/p#hunter2", "az://c?a,sig=hunter2"] {
            let error = load_env(&[("WAREHOUSE_URL", url)]).unwrap_err().to_string();
            assert!(error.contains("warehouse_url") && !error.contains("hunter2"), "{error}");
        }
        for (name, url) in [
            ("S3_ENDPOINT", "http://u:hunt/hunter2@h:9000"),
            ("S3_ENDPOINT", "http://h:9000/?token=hunter2"),
            ("WAREHOUSE_URL", "s3://AKIA:hunter2?hunter2@bucket"),
        ] {
            let error = load_env(&[(name, url)]).unwrap_err().to_string();
            assert!(error.contains(&name.to_ascii_lowercase()) && !error.contains("hunter2"), "{error}");
        }
        let slashed = load_env(&[("DATABASE_URL", "postgres://u:hunt/er?2hunter2@h/db")]).unwrap();
        assert!(!format!("{:?} {:?}", slashed.config, slashed.shown).contains("hunt"));
        for url in ["postgres//u:hunter2@h/db", "postgres:hunter2", "hunter2", "host=h password=hunter2"] {
            for name in ["DATABASE_URL", "NATS_URL", "WAREHOUSE_URL", "S3_ENDPOINT"] {
                let error = load_env(&[(name, url)]).unwrap_err().to_string();
                assert!(error.contains(&name.to_ascii_lowercase()) && !error.contains("hunter2"), "{error}");
            }
        }
        // A URL in the wrong setting still contains its password.
        for text in
            ["http://u:hunter2@h:80", "u:hunter2@h:80", "http://u:hunter2", "http://h?token=hunter2", "h#hunter2"]
        {
            for name in ["HTTP_ADDR", "RATE_LIMIT_PER_KEY_RPS", "CORS_ALLOWED_ORIGINS"] {
                let error = load_env(&[(name, text)]).unwrap_err().to_string();
                assert!(error.contains(&name.to_ascii_lowercase()) && !error.contains("hunter2"), "{error}");
            }
        }
        for name in ["SECRETS_KEY_REPLACED", "ADMIN_TOKEN", "METRICS_TOKEN"] {
            let error = load_env(&[(name, "hunter2")]).unwrap_err().to_string();
            assert!(error.contains(&name.to_ascii_lowercase()) && !error.contains("hunter2"), "{error}");
        }
        let misplaced = load_env(&[("DATABASE_HOST", "postgres://u:hunter2@h/db")]).unwrap();
        assert!(!format!("{:?}", misplaced.shown).contains("hunter2"));
    }

    #[test]
    fn invalid_values_that_are_not_secret_are_shown() {
        for (name, value) in [
            ("RATE_LIMIT_PER_KEY_RPS", "abc"),
            ("RATE_LIMIT_PER_KEY_BURST", "-1"),
            ("CORS_ALLOWED_ORIGINS", "https://*"),
            ("CORS_ALLOWED_ORIGINS", "https://app.example.com:8443,https://*.com"),
            ("CORS_ALLOWED_ORIGINS", "https://example.com/path"),
            ("HTTP_ADDR", "http://localhost:8080"),
            ("TRUSTED_PROXIES", "http://10.0.0.1"),
        ] {
            let error = load_env(&[(name, value)]).unwrap_err().to_string();
            assert!(error.contains(&format!("= {value:?} ")), "{error}");
        }
    }

    #[test]
    fn invalid_values_are_hidden_where_valid_ones_are() {
        // Either all values of a setting are hidden or none: `show` and the errors use the same list.
        let token = "a1".repeat(16);
        let right = [("ADMIN_TOKEN", &*token), ("DATABASE_PASSWORD", "hunter2"), ("RATE_LIMIT_PER_KEY_RPS", "7")];
        let loaded = load_env(&right).unwrap();
        for (name, value) in right {
            let told = &loaded.shown(&name.to_ascii_lowercase()).unwrap().value;
            let is_hidden = told.as_deref() == Some("***");
            assert!(is_hidden || told.as_deref() == Some(value), "{name}: {told:?}");
            if let Err(error) = load_env(&[(name, "x")]) {
                assert_eq!(error.to_string().contains("***"), is_hidden, "{error}");
            }
        }
    }

    #[test]
    fn errors_do_not_quote_an_invalid_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.toml");
        std::fs::write(&file, "data_dir = \"x\"\ndatabase_password = hunter2\n").unwrap();
        let error = load_from(Some(&file), std::iter::empty(), &[]).unwrap_err().to_string();
        assert!(error.contains("line 2") && !error.contains("hunter2"), "{error}");
    }
}
