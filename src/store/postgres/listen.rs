//! Notifications of other processes, on a connection of their own.
//!
//! Invariant: whoever watches is woken by every notification, and once after each reconnection,
//! since some may have been missed. This connection is also the one that notices a server that
//! stands still: it tells those who wait for an answer.

use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_postgres::AsyncMessage;
use tracing::{debug, warn};

use super::connect::Reach;
use super::failed;
use crate::backoff::{Backoff, random_unit};
use crate::store::StoreError;

const RECONNECT: Backoff =
    Backoff { initial: Duration::from_millis(100), multiplier: 2.0, max: Duration::from_secs(3) };
/// A connection without traffic is asked for a sign of life after so many times what connecting may take.
const PROBE_INTERVAL_FACTOR: u32 = 2;

/// Whom it tells what.
pub(super) struct Listeners {
    pub(super) changes: Arc<watch::Sender<u64>>,
    pub(super) work: Arc<watch::Sender<u64>>,
    /// The server did not answer a probe, or an attempt to connect, for `database_connect_timeout`.
    pub(super) silence: Arc<watch::Sender<u64>>,
}

/// Never returns.
pub(super) async fn listen(reach: Reach, listeners: Listeners) {
    let mut failures = 0;
    loop {
        let ended = connected(&reach, &listeners, &mut failures).await;
        failures += 1;
        if failures == 1 {
            warn!(error = %ended, "PostgreSQL's notifications are interrupted, polling until they are back");
        } else {
            debug!(error = %ended, failures, "no notifications from PostgreSQL");
        }
        tokio::time::sleep(RECONNECT.delay(failures, random_unit())).await;
    }
}

async fn connected(reach: &Reach, listeners: &Listeners, failures: &mut u32) -> StoreError {
    let Listeners { changes, work, silence } = listeners;
    let wake = |channel: &watch::Sender<u64>| channel.send_modify(|count| *count += 1);
    let asked = Instant::now();
    let (client, mut connection) = match reach.connect().await {
        Ok(connected) => connected,
        Err(error) => {
            if asked.elapsed() >= reach.timeout {
                wake(silence);
            }
            return error;
        }
    };
    let messages = std::future::poll_fn(|context| {
        loop {
            match connection.poll_message(context) {
                Poll::Ready(Some(Ok(AsyncMessage::Notification(told)))) => match told.channel() {
                    "causality_changes" => wake(changes),
                    "causality_work" => wake(work),
                    _ => {}
                },
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(error))) => return Poll::Ready(failed("listen")(error)),
                Poll::Ready(None) => {
                    let kind = crate::store::StoreErrorKind::Unavailable;
                    return Poll::Ready(StoreError::new(kind, "listen"));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    });
    let probing = async {
        if let Err(error) = client.batch_execute("LISTEN causality_changes; LISTEN causality_work").await {
            return failed("listen")(error);
        }
        *failures = 0;
        wake(changes);
        wake(work);
        loop {
            tokio::time::sleep(reach.timeout * PROBE_INTERVAL_FACTOR).await;
            let silent = |_| StoreError::new(crate::store::StoreErrorKind::Unavailable, "probe PostgreSQL");
            match tokio::time::timeout(reach.timeout, client.batch_execute("")).await.map_err(silent) {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return failed("probe PostgreSQL")(error),
                Err(error) => {
                    wake(silence);
                    return error;
                }
            }
        }
    };
    tokio::select! {
        error = messages => error,
        error = probing => error,
    }
}
