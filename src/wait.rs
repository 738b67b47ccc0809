//! Waiting for what may be set or not, as one arm of a `select!`.

use std::time::Instant;

/// Pending for ever while there is no moment.
pub async fn sleep_until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}
