//! TLS handshakes: from an accepted connection to an encrypted one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use super::reload::Tls;
use crate::http::connection::socket::{Socket, UNSENT_BYTES_MAX, Wire};
use crate::http::connection::stream::close_with;
use crate::http::connection::watch::Watch;
use crate::http::reply::problem::Problem;
use crate::http::reply::raw_reply;
use crate::metrics;

/// Concurrent handshakes of one listener. Others wait for a slot, which is cheap.
const HANDSHAKES_MAX: usize = 512;
/// When all slots are taken, a handshake that has lasted this long is cut: enough for a round trip over any distance.
const SLOW_AFTER: Duration = Duration::from_secs(1);
/// The same for a handshake whose first message is incomplete; it usually fits into one packet.
const INCOMPLETE_AFTER: Duration = Duration::from_millis(100);
/// How often a waiting handshake tries to get a slot.
const SLOT_PAUSE: Duration = Duration::from_millis(20);
/// The type of the record that every client starts with (RFC 8446, 5.1).
const HANDSHAKE_RECORD: u8 = 22;

/// The handshakes in progress, oldest first.
#[derive(Default)]
pub(crate) struct Handshakes(Mutex<InProgress>);

#[derive(Default)]
struct InProgress {
    next: u64,
    watches: BTreeMap<u64, Arc<Watch>>,
}

fn is_slow(watch: &Watch) -> bool {
    let allowed = if watch.is_handshake_answered() { SLOW_AFTER } else { INCOMPLETE_AFTER };
    watch.handshake_since().is_some_and(|since| Instant::now() >= since + allowed)
}

/// A slot among them, released on drop.
struct Slot<'a> {
    handshakes: &'a Handshakes,
    id: u64,
}

impl Handshakes {
    /// Performs the handshake of a new connection. `None` if it failed: failures are the client's problem and are only
    /// counted.
    pub(crate) async fn accept(&self, tls: &Tls, tcp: TcpStream, watch: &Arc<Watch>) -> Option<Socket> {
        // A silent client waits here and holds nothing but its connection.
        let mut first = [0];
        if !matches!(tcp.peek(&mut first).await, Ok(1)) {
            return None;
        }
        if first[0] != HANDSHAKE_RECORD {
            metrics::http_tls_handshake("not_tls");
            if first[0].is_ascii_uppercase() {
                let problem = Problem::new(StatusCode::BAD_REQUEST, "This port speaks HTTPS, not HTTP.");
                close_with(tcp, &raw_reply::http1(problem)).await;
            }
            return None;
        }
        let _slot = self.acquire(watch).await;
        if let Err(exhausted) = watch.handshake_began() {
            watch.memory().count_refusal(exhausted.reason());
            return None;
        }
        let config = tls.config();
        let wire = Wire::new(tcp, Arc::clone(watch));
        let accepting = TlsAcceptor::from(config)
            // HTTP buffers and counts replies that the client does not read.
            .accept_with(wire, |session| session.set_buffer_limit(Some(UNSENT_BYTES_MAX)))
            .into_fallible();
        match accepting.await {
            Ok(mut stream) => {
                metrics::http_tls_handshake("completed");
                stream.get_mut().0.delivered();
                watch.handshake_ended();
                Some(Socket::Tls(Box::new(stream)))
            }
            Err((_, wire)) => {
                metrics::http_tls_handshake("failed");
                // The alert with the reason has been written.
                close_with(wire.into_tcp(), &[]).await;
                None
            }
        }
    }

    async fn acquire(&self, watch: &Arc<Watch>) -> Slot<'_> {
        loop {
            if let Some(slot) = self.try_acquire(watch) {
                return slot;
            }
            tokio::time::sleep(SLOT_PAUSE).await;
        }
    }

    fn try_acquire(&self, watch: &Arc<Watch>) -> Option<Slot<'_>> {
        let mut in_progress = self.0.lock();
        if in_progress.watches.len() >= HANDSHAKES_MAX {
            let slow = *in_progress.watches.iter().find(|(_, watch)| is_slow(watch))?.0;
            if let Some(slow) = in_progress.watches.remove(&slow) {
                metrics::http_tls_handshake("too_slow");
                slow.cut();
            }
        }
        let id = in_progress.next;
        in_progress.next += 1;
        in_progress.watches.insert(id, Arc::clone(watch));
        Some(Slot { handshakes: self, id })
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.handshakes.0.lock().watches.remove(&self.id);
    }
}
