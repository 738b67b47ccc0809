//! The settings of the engine.

use std::time::Duration;

use crate::store::BacklogLimits;

/// How events are evaluated.
#[derive(Clone, Debug)]
pub struct EngineSettings {
    /// The durable consumer.
    pub consumer_name: String,
    /// Rules are reloaded at least this often. Changes made in this process are seen immediately.
    pub refresh_interval: Duration,
    pub fetch_messages_max: usize,
    pub fetch_bytes_max: usize,
    /// Redelivery timeout of a batch.
    pub ack_wait: Duration,
    /// Deliveries after which an event is dead-lettered.
    pub max_deliver: u32,
    /// How often the engine asks the bus for its ack floor while effects are committed. The next commit lets the store
    /// compact its records up to that floor.
    pub floor_interval: Duration,
    /// Attempts allowed for a new delivery.
    pub max_attempts: u32,
    /// Bounds on the pending deliveries of each disabled webhook.
    pub disabled_backlog: BacklogLimits,
    /// Threads that match rules against one batch.
    pub match_threads_max: usize,
    /// Groups kept for one anomaly config; the least recently touched are evicted first.
    pub groups_max: usize,
    /// How often stale anomaly state is deleted.
    pub state_cleanup_interval: Duration,
    /// How long untouched anomaly state is kept.
    pub state_retention: Duration,
}

impl Default for EngineSettings {
    fn default() -> Self {
        Self {
            consumer_name: "analysis-engine".to_owned(),
            refresh_interval: Duration::from_secs(30),
            fetch_messages_max: 4_096,
            fetch_bytes_max: 4 << 20,
            ack_wait: Duration::from_secs(60),
            max_deliver: 10,
            floor_interval: Duration::from_secs(5),
            max_attempts: 100,
            disabled_backlog: BacklogLimits { deliveries_max: 10_000, age_max: Duration::from_secs(7 * 24 * 3_600) },
            match_threads_max: 1,
            groups_max: 10_000,
            state_cleanup_interval: Duration::from_secs(60),
            state_retention: Duration::from_secs(24 * 3_600),
        }
    }
}
