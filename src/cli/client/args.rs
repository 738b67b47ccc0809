//! The address of the admin API, from flags, the environment and the settings.

use std::path::PathBuf;

use http::Uri;

use super::tls::TlsArgs;
use crate::base::settings::Address;
use crate::cli::failure::Failure;
use crate::config;

const DEFAULT_ADDRESS: &str = "127.0.0.1:9090";
/// Settings of the listener, by their names in the environment.
const ADMIN_ADDR: &str = "ADMIN_ADDR";
const ADMIN_TLS_CERT_FILE: &str = "ADMIN_TLS_CERT_FILE";

/// Where the admin API is, and how its answers are shown.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct AdminArgs {
    /// Where the admin API listens; without it ADMIN_ADDR says, in the environment or in --config
    #[arg(long, global = true, env = "CAUSALITY_ADMIN_URL", value_name = "URL", value_parser = http_url,
          help_heading = "Admin API")]
    pub(crate) admin_url: Option<String>,
    /// The settings of the process that is asked, for its admin_addr
    #[arg(long, global = true, value_name = "FILE", help_heading = "Admin API")]
    pub(crate) config: Option<PathBuf>,
    /// A file with the token that the admin API asks for; without it CAUSALITY_ADMIN_TOKEN says, or
    /// CAUSALITY_ADMIN_TOKEN_FILE, or for a process that the settings name their ADMIN_TOKEN
    #[arg(long, global = true, value_name = "FILE", help_heading = "Admin API")]
    pub(crate) admin_token_file: Option<PathBuf>,
    /// The token itself, which every user of this machine can then see in its list of processes
    #[arg(long, global = true, value_name = "TOKEN", conflicts_with = "admin_token_file", help_heading = "Admin API")]
    pub(crate) admin_token: Option<String>,
    /// Print JSON, for scripts
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) tls: TlsArgs,
}

impl AdminArgs {
    /// The base URL: from the command line, else the environment, else the settings file, else the default.
    pub(super) fn base_url(&self) -> Result<String, Failure> {
        if let Some(url) = &self.admin_url {
            // Not checked by the flag's value parser, whose error would repeat the value.
            if url.contains('@') {
                let advice = "--admin-url must not hold a user or password: CAUSALITY_ADMIN_TOKEN gives access";
                return Err(Failure::usage(advice));
            }
            return Ok(url.clone());
        }
        let encrypted = from_environment(ADMIN_TLS_CERT_FILE).is_some();
        self.url_of_settings(from_environment(ADMIN_ADDR).as_deref(), encrypted)
    }

    fn url_of_settings(&self, from_environment: Option<&str>, encrypted: bool) -> Result<String, Failure> {
        let file = match &self.config {
            Some(file) => {
                let loaded = config::load(Some(file), &[]).map_err(|error| Failure::usage(error.to_string()))?;
                Some(loaded.config)
            }
            None => None,
        };
        let encrypted = encrypted || file.as_ref().is_some_and(|config| config.admin.tls_certificate.is_some());
        let scheme = if encrypted { "https" } else { "http" };
        let address: Address = match (from_environment, file) {
            (Some(text), _) => text
                .parse()
                .map_err(|allowed| Failure::usage(format!("{ADMIN_ADDR} is {text:?}: it must be {allowed}")))?,
            (None, Some(config)) => config.admin.addr,
            (None, None) => return Ok(format!("{scheme}://{DEFAULT_ADDRESS}")),
        };
        if address.port == 0 {
            let advice = "port 0 is any free one: --admin-url says where the process listens, as it says at its start";
            return Err(Failure::usage(format!("{ADMIN_ADDR}: {advice}")));
        }
        Ok(format!("{scheme}://{}", address.to_connect()))
    }
}

/// Empty counts as unset.
pub(super) fn from_environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.trim().is_empty())
}

/// Parses the number of items to list. Zero is a mistake.
pub(crate) fn limit(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|limit| *limit > 0).ok_or_else(|| "must be a whole number from 1".to_owned())
}

/// Parses an `http` or `https` URL with a host and no query, and removes trailing slashes.
fn http_url(text: &str) -> Result<String, String> {
    let uri: Uri = text.parse().map_err(|e| format!("not a URL: {e}"))?;
    match (uri.scheme_str(), uri.host(), uri.query()) {
        (Some("http" | "https"), Some(host), None) if !host.is_empty() => Ok(text.trim_end_matches('/').to_owned()),
        _ => Err("must be http://HOST[:PORT] or https://HOST[:PORT]".to_owned()),
    }
}

#[cfg(test)]
impl AdminArgs {
    /// For a server at this URL.
    pub(crate) fn at(url: &str) -> Self {
        Self {
            admin_url: Some(url.to_owned()),
            config: None,
            admin_token: None,
            admin_token_file: None,
            json: false,
            tls: TlsArgs::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::ExitStatus;

    #[test]
    fn the_url_comes_from_the_command_line_or_the_settings() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("causality.toml");
        std::fs::write(&file, "admin_addr = \"10.1.2.3:7001\"\n").unwrap();
        let args = |config: bool| AdminArgs {
            admin_url: None,
            config: config.then(|| file.clone()),
            admin_token: None,
            admin_token_file: None,
            json: false,
            tls: TlsArgs::default(),
        };
        let url =
            |args: AdminArgs, environment| args.url_of_settings(environment, false).map_err(|error| error.to_string());
        for (environment, config, expected) in [
            (None, false, "http://127.0.0.1:9090"),
            (None, true, "http://10.1.2.3:7001"),
            (Some("localhost:7002"), true, "http://localhost:7002"),
            (Some(":7003"), false, "http://127.0.0.1:7003"),
            (Some("0.0.0.0:7003"), false, "http://127.0.0.1:7003"),
            (Some("[::]:7003"), false, "http://[::1]:7003"),
            (Some("[2001:db8::1]:7003"), false, "http://[2001:db8::1]:7003"),
        ] {
            assert_eq!(url(args(config), environment).as_deref(), Ok(expected));
        }
        assert_eq!(args(false).url_of_settings(None, true).unwrap(), "https://127.0.0.1:9090");
        let (certificate, key) = ("admin_tls_cert_file = \"c\"", "admin_tls_key_file = \"k\"");
        std::fs::write(&file, format!("admin_addr = \"10.1.2.3:7001\"\n{certificate}\n{key}\n")).unwrap();
        assert_eq!(url(args(true), None).as_deref(), Ok("https://10.1.2.3:7001"));
        assert!(url(args(false), Some("7003")).unwrap_err().contains("ADMIN_ADDR is \"7003\": it must be host:port"));
        assert!(url(args(false), Some(":0")).unwrap_err().contains("--admin-url"));
        std::fs::write(&file, "admin_adr = \"10.1.2.3:7001\"\n").unwrap();
        assert_eq!(args(true).url_of_settings(None, false).unwrap_err().status, ExitStatus::Usage);
        assert_eq!(AdminArgs::at("http://a:1").base_url().unwrap(), "http://a:1");
        let refused = AdminArgs::at("http://u:hunter2@a:1").base_url().unwrap_err();
        assert!(refused.status == ExitStatus::Usage && !refused.to_string().contains("hunter2"), "{refused}");
    }

    #[test]
    fn urls_are_checked_before_use() {
        assert_eq!(http_url("http://127.0.0.1:9090/"), Ok("http://127.0.0.1:9090".to_owned()));
        assert_eq!(http_url("https://ops.example.com/x"), Ok("https://ops.example.com/x".to_owned()));
        for wrong in ["", "nonsense", "127.0.0.1:9090", "ftp://a", "http://", "/path", "http://a/?q=1"] {
            assert!(http_url(wrong).is_err(), "{wrong}");
        }
    }
}
