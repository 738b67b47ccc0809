//! What a batch of messages caused, and what names each of them.

use uuid::Uuid;

use super::delivery::NewDelivery;
use super::documents::{AnomalyEvent, AnomalyState};

/// A message of the bus. Its sequence alone does not name it: a stream that lost its last messages, in a power cut or
/// with a copy that was put back, gives their sequences to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cause {
    pub sequence: u64,
    /// When the bus stored it; not negative.
    pub published_at_ms: i64,
}

impl Cause {
    pub fn new(sequence: u64, published_at_ms: i64) -> Self {
        Self { sequence, published_at_ms: published_at_ms.max(0) }
    }
}

/// What one batch of events caused: written in one transaction with the messages that it consumed.
#[derive(Clone, Debug, Default)]
pub struct Effects {
    pub consumer: String,
    /// The messages of the batch that had effects, in the order of the stream.
    pub causes: Vec<Cause>,
    pub deliveries: Vec<NewDelivery>,
    pub anomaly_events: Vec<AnomalyEvent>,
    /// The whole new state of each window that the batch changed, with the version that it was read at.
    pub anomaly_states: Vec<AnomalyState>,
    /// Bus messages to publish after the commit.
    pub outbox: Vec<OutboxMessage>,
    /// The bus had acknowledged every message up to this sequence when none stored later than this time was known: what
    /// of them is recorded as consumed becomes one record. The time matters when the stream loses its last messages
    /// between the two, since later ones get their sequences.
    pub acknowledged: Option<Cause>,
    /// Deliveries that a disabled webhook is owed at most: the oldest beyond them are given up. None: no bound.
    pub backlog_max: Option<u64>,
}

/// What became of [`Effects`].
#[derive(Clone, Debug, PartialEq)]
pub enum RecordOutcome {
    Committed,
    /// Another process was there first, and nothing was written.
    Refused {
        /// Those of the causes whose effects are committed already.
        consumed: Vec<Cause>,
        /// The windows as they are now, of all that the effects change; those that are missing do not exist.
        states: Vec<AnomalyState>,
    },
}

/// A bus message that is owed: published after the commit, then forgotten. Its id is the bus's message id.
#[derive(Clone, Debug)]
pub struct OutboxMessage {
    pub id: Uuid,
    pub subject: String,
    pub payload: Vec<u8>,
}
