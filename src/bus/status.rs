//! What the bus reports of itself and of its consumers.

use schemars::JsonSchema;
use serde::Serialize;

/// What the bus holds, for readiness, status and metrics.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct BusStatus {
    pub engine: &'static str,
    pub messages: u64,
    pub bytes: u64,
    pub bytes_max: u64,
    pub last_sequence: u64,
    /// Publishing is refused for want of room; why.
    pub full: Option<String>,
    pub dead_letters: u64,
    /// Publishing was refused last, for whatever reason.
    #[serde(skip)]
    pub refused: Option<String>,
    pub consumers: Vec<ConsumerStatus>,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ConsumerStatus {
    pub name: String,
    /// Messages not yet acknowledged.
    pub backlog: u64,
    /// Delivered, not yet acknowledged.
    pub pending: u64,
    /// Age of the oldest message not yet acknowledged.
    pub oldest_age_ms: Option<u64>,
    pub ack_floor: u64,
}

/// Whether every durable consumer has acknowledged all that there is up to this sequence.
pub fn acked_through(status: &BusStatus, sequence: u64) -> bool {
    status.consumers.iter().all(|consumer| consumer.backlog == 0 || consumer.ack_floor >= sequence)
}
