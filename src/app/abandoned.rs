//! Warns, through readiness, of deliveries to disabled webhooks that were abandoned.

use std::time::Duration;

use crate::base::supervisor::Stage;
use crate::http::Readiness;
use crate::store::{AbandonedDeliveries, Store};

const INTERVAL: Duration = Duration::from_secs(5);

/// Checks for abandoned deliveries until the stop.
pub(super) fn watch(stage: &Stage, store: &Store, readiness: &Readiness) {
    let (store, readiness) = (store.clone(), readiness.clone());
    stage.supervise("given up deliveries", move |stop| {
        let (store, readiness) = (store.clone(), readiness.clone());
        async move {
            loop {
                // `readiness` reports a store that does not answer.
                if let Ok(given_up) = store.abandoned_deliveries().await {
                    readiness.set_warning("webhooks", warning(&given_up));
                }
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    () = tokio::time::sleep(INTERVAL) => {}
                }
            }
        }
    });
}

fn warning(given_up: &[AbandonedDeliveries]) -> Option<String> {
    let webhooks: Vec<String> = given_up.iter().map(|lost| format!("{} ({})", lost.webhook, lost.deliveries)).collect();
    (!webhooks.is_empty()).then(|| {
        format!(
            "deliveries of disabled webhooks were given up (webhook_disabled_max_pending, webhook_disabled_max_age): {}",
            webhooks.join(", ")
        )
    })
}
