//! What a durable consumer asks of the bus.

use std::time::Duration;

/// A durable consumer: its position survives restarts under its name.
#[derive(Clone, Debug)]
pub struct ConsumerSpec {
    pub name: String,
    /// A subject filter: tokens, `*` for one, a closing `>` for one or more.
    pub filter: String,
    /// Nearly every message in the stream passes the filter.
    pub matches_most: bool,
    /// What is acknowledged may come again, as suspect, together with neighbours that are not: for a consumer that
    /// recognizes what it has handled. Its leases and acknowledgements are cheaper where the bus is a server.
    pub coarse_acks: bool,
    /// A delivered message that is neither acknowledged nor renewed for this long is delivered again.
    pub ack_wait: Duration,
    /// A message that failed (see [`Acker::nak`](super::Acker::nak)) this many times goes to the dead letters. A delivery that ended without
    /// an answer is no failure.
    pub max_deliver: u32,
    /// Delivered and unacknowledged messages at which `fetch` waits.
    pub pending_max: usize,
}

/// Whether a consumer wants messages at all. Asked before new ones are delivered, after it is known which they are.
pub trait Interest: Send + Sync {
    /// False: nothing that is on the bus by now and was not delivered yet is wanted. It is passed over.
    fn has_interest(&self) -> bool;

    /// So many messages were passed over.
    fn skipped(&self, messages: u64);
}
