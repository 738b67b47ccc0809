//! From an accepted connection to one that is encrypted.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::StatusCode;
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

/// Handshakes of one listener at the same time; others wait for their turn, which costs next to nothing.
const HANDSHAKES_MAX: usize = 512;
/// When there are as many, one makes room that has lasted for this long: for a way there and back, however far.
const SLOW_AFTER: Duration = Duration::from_secs(1);
/// The same of one whose first message is not complete, which usually comes in one packet.
const INCOMPLETE_AFTER: Duration = Duration::from_millis(100);
/// How often a turn is looked for.
const TURN_PAUSE: Duration = Duration::from_millis(20);
/// The type of the record that every client begins with (RFC 8446, 5.1).
const HANDSHAKE_RECORD: u8 = 22;

/// Those that are under way, the oldest first.
#[derive(Default)]
pub(crate) struct Handshakes(Mutex<Open>);

#[derive(Default)]
struct Open {
    next: u64,
    watches: BTreeMap<u64, Arc<Watch>>,
}

fn is_slow(watch: &Watch) -> bool {
    let allowed = if watch.is_handshake_answered() { SLOW_AFTER } else { INCOMPLETE_AFTER };
    watch.handshake_since().is_some_and(|since| Instant::now() >= since + allowed)
}

/// A place among them, given back when it is dropped.
struct Turn<'a> {
    handshakes: &'a Handshakes,
    id: u64,
}

impl Handshakes {
    /// Encrypts a new connection. `None` when it has ended: clients that fail are their own affair, and are counted.
    pub(crate) async fn accept(&self, tls: &Tls, tcp: TcpStream, watch: &Arc<Watch>) -> Option<Socket> {
        // A client that says nothing waits here, and holds nothing but its connection.
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
        let _turn = self.turn(watch).await;
        if let Err(exhausted) = watch.handshake_began() {
            watch.memory().count_refusal(exhausted.reason());
            return None;
        }
        let config = tls.config();
        let wire = Wire::new(tcp, Arc::clone(watch));
        let accepting = TlsAcceptor::from(config)
            // A reply that nobody reads is held by HTTP, which counts it.
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
                // The alert that says why has been written.
                close_with(wire.into_tcp(), &[]).await;
                None
            }
        }
    }

    async fn turn(&self, watch: &Arc<Watch>) -> Turn<'_> {
        loop {
            if let Some(turn) = self.try_turn(watch) {
                return turn;
            }
            tokio::time::sleep(TURN_PAUSE).await;
        }
    }

    fn try_turn(&self, watch: &Arc<Watch>) -> Option<Turn<'_>> {
        let mut open = self.open();
        if open.watches.len() >= HANDSHAKES_MAX {
            let slow = *open.watches.iter().find(|(_, watch)| is_slow(watch))?.0;
            if let Some(slow) = open.watches.remove(&slow) {
                metrics::http_tls_handshake("too_slow");
                slow.cut();
            }
        }
        let id = open.next;
        open.next += 1;
        open.watches.insert(id, Arc::clone(watch));
        Some(Turn { handshakes: self, id })
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.handshakes.open().watches.remove(&self.id);
    }
}
