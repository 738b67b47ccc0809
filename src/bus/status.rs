//! The status of the bus and of its consumers.

use schemars::JsonSchema;
use serde::Serialize;

/// The status of the bus, for readiness, the status API and metrics.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct BusStatus {
    pub engine: &'static str,
    pub messages: u64,
    pub bytes: u64,
    pub bytes_max: u64,
    pub last_sequence: u64,
    /// Set while publishing is refused for lack of room: the reason.
    pub full: Option<String>,
    pub dead_letters: u64,
    /// Set while publishing is refused for any reason: the last one.
    #[serde(skip)]
    pub refused: Option<String>,
    pub consumers: Vec<ConsumerStatus>,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ConsumerStatus {
    pub name: String,
    /// Messages not yet acknowledged.
    pub backlog: u64,
    /// Messages in flight: delivered, not yet acknowledged.
    pub pending: u64,
    /// Age of the oldest message not yet acknowledged.
    pub oldest_age_ms: Option<u64>,
    pub ack_floor: u64,
}

/// Whether every durable consumer has acknowledged all messages up to this sequence.
pub fn acked_through(status: &BusStatus, sequence: u64) -> bool {
    status.consumers.iter().all(|consumer| consumer.backlog == 0 || consumer.ack_floor >= sequence)
}
