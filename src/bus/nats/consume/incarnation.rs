//! The incarnation of a consumer that a subscription has seen last.
//!
//! A consumer that was deleted and created again under the same name delivers everything again, as if for the first
//! time. Invariant: a subscription hands out only messages from the incarnation for which it determined its redelivery
//! horizon, and which it or the reconciler has seen within [`SEEN_TTL`].

use std::time::Instant;

use tracing::debug;

use super::acker::Acker;
use super::pull::REFUSED_PAUSE;
use crate::bus::BusError;
use crate::bus::nats::failed::failed;
use crate::bus::nats::topology::consumers;
use crate::bus::nats::topology::state::SEEN_TTL;

pub(crate) struct Incarnation {
    /// Distinguishes incarnations with the same name.
    created: i128,
    at: Instant,
    /// The last request, answered or not.
    requested_at: Option<Instant>,
    /// The last consumer sequence; a new incarnation counts from the start.
    sequence: u64,
    /// Its position in the stream.
    pub(crate) delivered: u64,
}

impl Incarnation {
    /// Fails also when the consumer does not exist.
    pub(crate) async fn observe(Acker { shared, consumer, .. }: &Acker) -> Result<Self, BusError> {
        let at = Instant::now();
        match consumers::find(consumer.stream_in(shared), &consumer.name).await? {
            Some(info) => Ok(Self {
                created: info.created.unix_timestamp_nanos(),
                at,
                requested_at: None,
                sequence: 0,
                delivered: info.delivered.stream_sequence,
            }),
            None => {
                shared.topology.request_check();
                Err(failed("read consumer", format!("consumer {} is gone from NATS", consumer.name)))
            }
        }
    }

    /// Whether it is still the same incarnation; `None` when that is unknown at the moment.
    pub(crate) async fn is_current(&mut self, acker: &Acker) -> Option<bool> {
        let (topology, name) = (&acker.shared.topology, &acker.consumer.name);
        if let Some((_, at)) = topology.seen(name).filter(|(created, _)| *created == self.created) {
            self.at = self.at.max(at);
        }
        if self.at.elapsed() < SEEN_TTL {
            return Some(true);
        }
        // Fetches may be cancelled and restarted at any rate; this bounds the rate of requests.
        if let Some(requested_at) = self.requested_at.filter(|at| at.elapsed() < REFUSED_PAUSE) {
            tokio::time::sleep_until((requested_at + REFUSED_PAUSE).into()).await;
            return None;
        }
        self.requested_at = Some(Instant::now());
        let found = Self::observe(acker).await;
        match found {
            Ok(seen) if seen.is_same(self) => {
                self.at = seen.at;
                Some(true)
            }
            Ok(_) => Some(false),
            Err(error) => {
                debug!(%error, consumer = name, "waiting for NATS");
                // The reconciler distinguishes a missing consumer from a server that does not answer.
                tokio::time::sleep(REFUSED_PAUSE).await;
                None
            }
        }
    }

    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.created == other.created
    }

    /// Returns `false` when the sequence does not follow the previous one: a consumer never counts backwards.
    pub(crate) fn follows(&mut self, consumer_sequence: u64) -> bool {
        std::mem::replace(&mut self.sequence, consumer_sequence) < consumer_sequence
    }
}
