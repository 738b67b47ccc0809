//! The effects of a batch of messages, and the identity of each message.

use uuid::Uuid;

use super::delivery::NewDelivery;
use super::documents::{AnomalyEvent, AnomalyState};

/// A message of the bus. Its sequence alone does not identify it: a stream that lost its last messages, after a power
/// failure or a restored backup, reuses their sequences.
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

/// The effects of one batch of events, written in one transaction with the record that its messages are consumed.
#[derive(Clone, Debug, Default)]
pub struct Effects {
    pub consumer: String,
    /// The messages of the batch that had effects, in stream order.
    pub causes: Vec<Cause>,
    pub deliveries: Vec<NewDelivery>,
    pub anomaly_events: Vec<AnomalyEvent>,
    /// The new state of each window that the batch changed, with the version that was read.
    pub anomaly_states: Vec<AnomalyState>,
    /// Bus messages to publish after the commit.
    pub outbox: Vec<OutboxMessage>,
    /// The bus had acknowledged every message up to this sequence when no message stored after this time was known.
    /// Their consumed records are merged into one. The time matters if the stream loses its last messages in between,
    /// because new messages reuse their sequences.
    pub acknowledged: Option<Cause>,
    /// The largest backlog of a disabled webhook: older deliveries are abandoned. `None`: unlimited.
    pub backlog_max: Option<u64>,
}

/// The outcome of recording [`Effects`].
#[derive(Clone, Debug, PartialEq)]
pub enum RecordOutcome {
    Committed,
    /// Another process was first, and nothing was written.
    Conflict {
        /// The causes whose effects are already committed.
        consumed: Vec<Cause>,
        /// The current states of the windows that the effects change; missing ones do not exist.
        states: Vec<AnomalyState>,
    },
}

/// A bus message to publish after the commit, then deleted. Its id is the bus's message id.
#[derive(Clone, Debug)]
pub struct OutboxMessage {
    pub id: Uuid,
    pub subject: String,
    pub payload: Vec<u8>,
}
