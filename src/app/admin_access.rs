//! Who may ask the gateway's port for readiness during the start, and the retention of the audit log.

use std::time::Duration;

use tracing::warn;

use crate::admin::AccessSettings;
use crate::base::errors::chain;
use crate::base::supervisor::Stage;
use crate::config::Config;
use crate::store::Store;

/// How often expired records are deleted.
const FORGET_INTERVAL: Duration = Duration::from_secs(600);

/// The gateway's port answers readiness probes during the start under the same rules as later.
pub(super) fn of_gateway(config: &Config) -> AccessSettings {
    AccessSettings { required: config.exposure.is_public(), ..AccessSettings::default() }
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
