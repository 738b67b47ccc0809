//! A consumer as a subscription saw it last.
//!
//! One that was deleted and created anew under its name brings everything again, to whoever asks it, as if for the
//! first time. Invariant: a subscription hands out only what came from the consumer that it learnt its suspects for,
//! and that it, or the keeper, has seen within [`SEEN_FOR`].

use std::time::Instant;

use tracing::debug;

use super::acker::Acker;
use super::pull::REFUSED_PAUSE;
use crate::bus::BusError;
use crate::bus::nats::failed::failed;
use crate::bus::nats::topology::consumers;
use crate::bus::nats::topology::state::SEEN_FOR;

pub(crate) struct Seen {
    /// Another one of the same name was created at another time.
    created: i128,
    at: Instant,
    /// When it was asked for last, answered or not.
    asked_at: Option<Instant>,
    /// What it counted last: another one counts anew.
    sequence: u64,
    /// How far in the stream it is.
    pub(crate) delivered: u64,
}

impl Seen {
    /// Fails when it is gone, too.
    pub(crate) async fn look(Acker { shared, consumer, .. }: &Acker) -> Result<Self, BusError> {
        let at = Instant::now();
        match consumers::find(consumer.stream_in(shared), &consumer.name).await? {
            Some(info) => Ok(Self {
                created: info.created.unix_timestamp_nanos(),
                at,
                asked_at: None,
                sequence: 0,
                delivered: info.delivered.stream_sequence,
            }),
            None => {
                shared.keeper.doubt();
                Err(failed("read consumer", format!("consumer {} is gone from NATS", consumer.name)))
            }
        }
    }

    /// Whether it is still the same one; none when that cannot be told now.
    pub(crate) async fn is_current(&mut self, acker: &Acker) -> Option<bool> {
        let (keeper, name) = (&acker.shared.keeper, &acker.consumer.name);
        if let Some((_, at)) = keeper.seen(name).filter(|(created, _)| *created == self.created) {
            self.at = self.at.max(at);
        }
        if self.at.elapsed() < SEEN_FOR {
            return Some(true);
        }
        // A fetch is cancelled and begun again at any rate: it asks no more often than this.
        if let Some(asked_at) = self.asked_at.filter(|at| at.elapsed() < REFUSED_PAUSE) {
            tokio::time::sleep_until((asked_at + REFUSED_PAUSE).into()).await;
            return None;
        }
        self.asked_at = Some(Instant::now());
        let found = Self::look(acker).await;
        match found {
            Ok(seen) if seen.created == self.created => {
                self.at = seen.at;
                Some(true)
            }
            Ok(_) => Some(false),
            Err(error) => {
                debug!(%error, consumer = name, "waiting for NATS");
                // The keeper tells one that is gone from a server that does not answer.
                tokio::time::sleep(REFUSED_PAUSE).await;
                None
            }
        }
    }

    /// False when this count cannot come behind the ones before: one consumer never counts backwards.
    pub(crate) fn counts(&mut self, consumer_sequence: u64) -> bool {
        std::mem::replace(&mut self.sequence, consumer_sequence) < consumer_sequence
    }
}
