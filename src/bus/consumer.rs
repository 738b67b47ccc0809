//! The specification of a durable consumer.

use std::time::Duration;

/// A durable consumer. Its position is stored under its name and survives restarts.
#[derive(Clone, Debug)]
pub struct ConsumerSpec {
    pub name: String,
    /// A subject filter: tokens, `*` for one, a closing `>` for one or more.
    pub filter: String,
    /// Nearly every message in the stream passes the filter.
    pub matches_most: bool,
    /// Acknowledged messages may be redelivered, flagged as possibly redelivered, along with neighbours that were not
    /// acknowledged. For consumers that recognize messages they have handled. Leases and acknowledgements are then
    /// cheaper on a server.
    pub coarse_acks: bool,
    /// A delivered message is redelivered when it is neither acknowledged nor renewed for this long.
    pub ack_wait: Duration,
    /// A message that failed this many times (see [`Acker::nak`](super::Acker::nak)) is dead-lettered. A delivery that
    /// ended without an answer does not count as a failure.
    pub max_deliver: u32,
    /// The number of messages in flight at which `fetch` waits.
    pub pending_max: usize,
}

/// Whether a consumer wants messages at all. Evaluated before new messages are delivered, once it is known which ones
/// they are.
pub trait Interest: Send + Sync {
    /// `false` skips every message that is on the bus and has not been delivered yet.
    fn has_interest(&self) -> bool;

    /// Reports how many messages were skipped.
    fn skipped(&self, messages: u64);
}
