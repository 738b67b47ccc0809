//! Which credentials the admin port requires, and the retention of its audit log.

use std::time::Duration;

use tracing::warn;

use crate::admin::AccessSettings;
use crate::base::errors::chain;
use crate::base::supervisor::Stage;
use crate::config::Config;
use crate::store::{Store, hash_token};

/// How often expired records are deleted.
const FORGET_INTERVAL: Duration = Duration::from_secs(600);

/// No token is required on loopback only, where no other machine can reach the port.
pub(super) fn settings(config: &Config) -> AccessSettings {
    AccessSettings {
        required: is_required(config),
        admin_token: config.admin_token.as_ref().map(|token| hash_token(&token.0)),
        metrics_token: config.metrics_token.as_ref().map(|token| hash_token(&token.0)),
        metrics_open: config.metrics_open.0,
        ..AccessSettings::default()
    }
}

/// The gateway's port answers readiness probes during the start under the same rules as later.
pub(super) fn of_gateway(config: &Config) -> AccessSettings {
    AccessSettings { required: config.exposure().is_public(), ..AccessSettings::default() }
}

pub(super) fn is_required(config: &Config) -> bool {
    config.admin_token.is_some() || !config.admin_addr.is_loopback()
}

/// Deletes expired audit records until the stop.
pub(super) fn forget_old_records(stage: &Stage, store: &Store, retention: Duration) {
    let store = store.clone();
    stage.supervise("audit log", move |stop| {
        let store = store.clone();
        async move {
            loop {
                if let Err(error) = store.prune_audit(retention).await {
                    warn!(error = %chain(&error), "cannot forget old records of the audit log");
                }
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    () = tokio::time::sleep(FORGET_INTERVAL) => {}
                }
            }
        }
    });
}
