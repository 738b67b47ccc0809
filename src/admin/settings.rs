//! The settings of the admin listener, and who may use its API.

use std::path::PathBuf;
use std::time::Duration;

use super::access::AccessSettings;
use crate::base::settings::{Address, Reader, Token};
use crate::store::hash_token;

/// Where the admin API listens, and what it requires of its callers.
#[derive(Clone, Debug)]
pub struct AdminSettings {
    pub addr: Address,
    /// The token of the first admin.
    pub token: Option<Token>,
    /// Grants access to the metrics and to nothing else.
    pub metrics_token: Option<Token>,
    /// Metrics need no token.
    pub metrics_open: bool,
    pub tls_certificate: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
    pub tls_client_ca: Option<PathBuf>,
    /// How long the audit log keeps a record.
    pub audit_retention: Duration,
}

impl AdminSettings {
    pub fn read(from: &mut Reader<'_>) -> Self {
        let token = from.optional::<Token>("admin_token");
        let another = "another token than admin_token: it is given to a scraper";
        Self {
            addr: from.get("admin_addr"),
            metrics_token: from.optional_if("metrics_token", another, |metrics| Some(metrics) != token.as_ref()),
            token,
            metrics_open: from.get("metrics_open"),
            audit_retention: from.positive("audit_retention"),
            tls_certificate: from.optional("admin_tls_cert_file"),
            tls_key: from.optional("admin_tls_key_file"),
            tls_client_ca: from.optional("admin_tls_client_ca_file"),
        }
    }

    /// No token is required on loopback only, where no other machine can reach the port.
    pub fn requires_token(&self) -> bool {
        self.token.is_some() || !self.addr.is_loopback()
    }

    pub fn access(&self) -> AccessSettings {
        AccessSettings {
            required: self.requires_token(),
            admin_token: self.token.as_deref().map(hash_token),
            metrics_token: self.metrics_token.as_deref().map(hash_token),
            metrics_open: self.metrics_open,
            ..AccessSettings::default()
        }
    }
}
