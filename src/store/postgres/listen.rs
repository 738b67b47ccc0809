//! Listens for notifications of other processes on a dedicated connection.
//!
//! Invariant: watchers are woken by every notification, and once after each reconnection, because some may have been
//! missed.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::watch;
use tokio_postgres::AsyncMessage;
use tracing::{debug, warn};

use super::connect::Connector;
use super::error::failed;
use super::wake::bump;
use crate::base::backoff::{Backoff, random_unit};
use crate::store::error::{StoreError, StoreErrorKind};

const RECONNECT: Backoff =
    Backoff { initial: Duration::from_millis(100), multiplier: 2.0, max: Duration::from_secs(1) };
/// A silent connection is probed this often.
const PROBE_INTERVAL: Duration = Duration::from_secs(3);
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);

/// Never returns.
pub(super) async fn listen(connector: Connector, changes: Arc<watch::Sender<u64>>, work: Arc<watch::Sender<u64>>) {
    let mut failures = 0;
    loop {
        let ended = connected(&connector, &changes, &work, &mut failures).await;
        failures += 1;
        if failures == 1 {
            warn!(error = %ended, "PostgreSQL's notifications are interrupted, polling until they are back");
        } else {
            debug!(error = %ended, failures, "no notifications from PostgreSQL");
        }
        tokio::time::sleep(RECONNECT.delay(failures, random_unit())).await;
    }
}

async fn connected(
    connector: &Connector,
    changes: &watch::Sender<u64>,
    work: &watch::Sender<u64>,
    failures: &mut u32,
) -> StoreError {
    let (client, mut connection) = match connector.connect().await {
        Ok(connected) => connected,
        Err(error) => return error,
    };
    let messages = std::future::poll_fn(|context| {
        loop {
            match connection.poll_message(context) {
                Poll::Ready(Some(Ok(AsyncMessage::Notification(notification)))) => match notification.channel() {
                    "causality_changes" => bump(changes),
                    "causality_work" => bump(work),
                    _ => {}
                },
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(error))) => return Poll::Ready(failed("listen")(error)),
                Poll::Ready(None) => {
                    let kind = StoreErrorKind::Unavailable;
                    return Poll::Ready(StoreError::new(kind, "listen"));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    });
    let ask = async |sql| {
        let silent = |_| StoreError::new(StoreErrorKind::Unavailable, "probe PostgreSQL");
        tokio::time::timeout(PROBE_TIMEOUT, client.batch_execute(sql)).await.map_err(silent)?.map_err(failed("listen"))
    };
    let probing = async {
        if let Err(error) = ask("LISTEN causality_changes; LISTEN causality_work").await {
            return error;
        }
        *failures = 0;
        bump(changes);
        bump(work);
        loop {
            tokio::time::sleep(PROBE_INTERVAL).await;
            if let Err(error) = ask("").await {
                return error;
            }
        }
    };
    tokio::select! {
        error = messages => error,
        error = probing => error,
    }
}
